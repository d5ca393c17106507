"""Small models written by hand, each of the kind that some starts are for.

Every one is `(apply, variables, *inputs)`. Sizes that could be mixed up differ.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

KEY = 0
RNG = np.random.default_rng(1)


def weights(key, **shapes):
    """Whatever numbers: what is tested draws its own."""
    rng = np.random.default_rng(key)
    return {name: rng.normal(size=s).astype(np.float32) / np.float32(s[-2] ** 0.5)
            for name, s in shapes.items()}  # fmt: skip


def stacked(layers, one):
    """The layers of a stack in one tree, with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(one, range(layers)))


def norm(x, scale=None, bias=None):
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
    rank = (1,) * (x.ndim - 1)
    x = x if scale is None else x * scale.reshape(*rank, -1)
    return x if bias is None else x + bias.reshape(*rank, -1)


def attend(q, k, v, heads, *, causal=True):
    """Heads side by side: `[batch, time, heads * size]`."""

    def split(x):
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    q, k, v = map(split, (q, k, v))
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None], scores, -1e9)
    mixed = jax.nn.softmax(scores) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(mixed.shape[0], mixed.shape[2], -1)


TOKENS = RNG.integers(0, 512, (2, 7)).astype(np.int32)
ones = functools.partial(np.ones, dtype=np.float32)
zeros = functools.partial(np.zeros, dtype=np.float32)
HEADS, WIDTH, HIDDEN, VOCABULARY = 4, 64, 160, 512


def gpt_block(x, p, *, gated=False):
    h = norm(x, p["norm"], p["norm_b"])
    q, k, v = jnp.split(h @ p["qkv"] + p["qkv_b"][None, None], 3, -1)
    x = x + attend(q, k, v, HEADS) @ p["out"] + p["out_b"][None, None]
    h = norm(x, p["norm2"])
    if gated:
        return x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    return x + jax.nn.gelu(h @ p["up"] + p["up_b"][None, None]) @ p["down"]


def gpt(layers=6, *, scanned=True, gated=False, tied=True, width=WIDTH, hidden=HIDDEN):
    """Fused queries, keys and values, learned positions."""
    block = functools.partial(gpt_block, gated=gated)

    def apply(p, tokens):
        x = p["embed"][tokens] + p["positions"][None, : tokens.shape[1]]
        if scanned:
            x = jax.lax.scan(lambda x, own: (block(x, own), None), x, p["blocks"])[0]
        else:
            for own in p["blocks"]:
                x = block(x, own)
        x = norm(x, p["norm"])
        return x @ (p["embed"].T if tied else p["head"])

    def one(key):
        shapes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, hidden)}
        shapes |= {"down": (hidden, width), **({"gate": (width, hidden)} if gated else {})}
        return weights(key, **shapes) | {
            "norm": ones(width), "norm_b": zeros(width), "norm2": ones(width),
            "qkv_b": zeros(3 * width), "out_b": zeros(width),
            **({} if gated else {"up_b": zeros(hidden)}),
        }  # fmt: skip

    blocks = stacked(layers, one) if scanned else [one(key) for key in range(layers)]
    variables = {
        "embed": weights(KEY, w=(VOCABULARY, width))["w"],
        "positions": weights(KEY, w=(32, width))["w"], "blocks": blocks,
        "norm": ones(width),
    }  # fmt: skip
    if not tied:
        variables["head"] = weights(KEY, head=(width, VOCABULARY))["head"]
    return apply, variables, TOKENS


def self_attention(h, p, *, causal=False):
    return attend(h @ p["q"], h @ p["k"], h @ p["v"], HEADS, causal=causal) @ p["o"]


def post_norm(x, p, alpha, *, memory=None):
    """norm(alpha x + branch(x)), as DeepNet has it."""
    x = norm(alpha * x + self_attention(x, p), p["n1"])
    if memory is not None:
        q, k, v = x @ p["cq"], memory @ p["ck"], memory @ p["cv"]
        x = norm(alpha * x + attend(q, k, v, HEADS, causal=False) @ p["co"], p["n2"])
    return norm(alpha * x + jax.nn.relu(x @ p["up"]) @ p["down"], p["n3"])


def stack_of(layers, shapes, scales):
    def one(key):
        return weights(key, **shapes) | {name: ones(WIDTH) for name in scales}

    return stacked(layers, one)


SQUARES = dict.fromkeys(("q", "k", "v", "o"), (WIDTH, WIDTH))
FEED = {"up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}


def without_norm(x, p):
    """As T-Fixup has it."""
    x = x + self_attention(x, p)
    return x + jax.nn.relu(x @ p["up"]) @ p["down"]


def encoder(layers=6, *, alpha=None):
    """Scanned blocks on signals of unit size: post-norm ones with that alpha, or without norm."""

    def apply(p, x):
        def step(x, own):
            return without_norm(x, own) if alpha is None else post_norm(x, own, alpha), None

        return jax.lax.scan(step, x @ p["in"], p["blocks"])[0]

    blocks = stack_of(layers, SQUARES | FEED, () if alpha is None else ("n1", "n3"))
    inputs = RNG.normal(size=(4, 7, 24)).astype(np.float32)
    return apply, {"in": weights(KEY, w=(24, WIDTH))["w"], "blocks": blocks}, inputs


def encoder_decoder(encoding=4, decoding=3):
    def apply(p, source, target):
        memory, x = p["embed"][source], p["embed"][target]
        step = lambda x, own: (post_norm(x, own, 1.0), None)  # noqa: E731
        memory = jax.lax.scan(step, memory, p["encoder"])[0]
        step = lambda x, own: (post_norm(x, own, 1.0, memory=memory), None)  # noqa: E731
        x = jax.lax.scan(step, x, p["decoder"])[0]
        return x @ p["head"]

    crossed = {f"c{name}": shape for name, shape in SQUARES.items()}
    return apply, {
        "embed": weights(KEY, w=(VOCABULARY, WIDTH))["w"],
        "encoder": stack_of(encoding, SQUARES | FEED, ("n1", "n3")),
        "decoder": stack_of(decoding, SQUARES | crossed | FEED, ("n1", "n2", "n3")),
        "head": weights(KEY, w=(WIDTH, VOCABULARY))["w"],
    }, TOKENS, TOKENS[:, :5]  # fmt: skip


def resnet(blocks=9, *, learned=False, width=48):
    """Branches of three weights without norms; an embedding of unit size, a readout."""

    def apply(p, x):
        def block(x, own):
            h = jax.nn.relu(jax.nn.relu(x) @ own["a"] + own["c"][None])
            h = jax.nn.relu(h @ own["m"]) @ own["b"]
            return x + (h * own["alpha"] if learned else h), None

        x = jax.lax.scan(block, x @ p["in"], p["blocks"])[0]
        return x @ p["head"]

    shapes = {"a": (width, 64), "m": (64, 56), "b": (56, width)}

    def one(key):
        own = weights(key, **shapes) | {"c": zeros(64)}
        return own | ({"alpha": np.float32(0.5)} if learned else {})

    made = stacked(blocks, one)
    first = weights(KEY, w=(32, width))["w"]
    variables = {"in": first, "blocks": made, "head": weights(KEY, h=(width, 40))["h"]}
    return apply, variables, RNG.normal(size=(16, 32)).astype(np.float32)


def siren():
    def apply(p, x):
        x = jnp.sin(30 * (x @ p["w0"] + p["b0"][None]))
        x = jnp.sin(30 * (x @ p["w1"] + p["b1"][None]))
        return x @ p["w2"]

    variables = weights(KEY, w0=(2, 400), w1=(400, 300), w2=(300, 3))
    variables |= {"b0": zeros(400), "b1": zeros(300)}
    return apply, variables, RNG.uniform(size=(8, 2)).astype(np.float32)


def lstm(hidden=80):
    """As torch stores it: [4 hidden, in], gates i, f, g, o, two biases."""

    def apply(p, x):
        def step(carry, x):
            h, c = carry
            z = x @ p["ih"].T + h @ p["hh"].T + p["b_ih"][None] + p["b_hh"][None]
            i, f, g, o = jnp.split(z, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[0], hidden))
        out = jax.lax.scan(step, (zero, zero), x.swapaxes(0, 1))[1]
        return out @ p["head"] + p["head_b"][None, None]

    variables = {
        "ih": ones((4 * hidden, 24)), "hh": ones((4 * hidden, hidden)),
        "b_ih": ones(4 * hidden), "b_hh": ones(4 * hidden),
        "head": ones((hidden, 60)), "head_b": ones(60),
    }  # fmt: skip
    return apply, variables, RNG.normal(size=(2, 12, 24)).astype(np.float32)


def gru(hidden=80):
    """As haiku has it: one matrix a side, and a reset gate within the state's."""

    def apply(p, x):
        def step(h, x):
            zr_x, a_x = jnp.split(x @ p["w_i"], [2 * hidden], -1)
            zr_h, a_h = jnp.split(p["w_h"], [2 * hidden], -1)
            zr_b, a_b = jnp.split(p["b"][None], [2 * hidden], -1)
            z, r = jnp.split(jax.nn.sigmoid(zr_x + h @ zr_h + zr_b), 2, -1)
            h = (1 - z) * h + z * jnp.tanh(a_x + (r * h) @ a_h + a_b)
            return h, h

        zero = jnp.zeros((x.shape[0], hidden))
        return jax.lax.scan(step, zero, x.swapaxes(0, 1))[1] @ p["head"]

    variables = weights(KEY, w_i=(24, 3 * hidden), w_h=(hidden, 3 * hidden), head=(hidden, 60))
    return (
        apply,
        variables | {"b": ones(3 * hidden)},
        RNG.normal(size=(2, 12, 24)).astype(np.float32),
    )


def cnn():
    """A convolution, a norm, a linear layer and an embedding."""

    def apply(p, x, tokens):
        x = jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ) + p["kernel_b"].reshape(1, 1, 1, -1)
        x = jax.nn.relu(norm(x, p["scale"], p["shift"])).mean((1, 2))
        return (x + p["embed"][tokens]) @ p["w"] + p["w_b"][None]

    variables = {
        "kernel": jnp.ones((3, 3, 16, 48)), "kernel_b": jnp.ones(48), "scale": jnp.ones(48),
        "shift": ones(48), "embed": ones((300, 48)), "w": ones((48, 70)),
        "w_b": ones(70),
    }  # fmt: skip
    return apply, variables, ones((2, 5, 5, 16)), jnp.asarray([1, 2])


def lru(states=700, width=40):
    """A diagonal recurrence in complex numbers."""

    def apply(p, x):
        radii = jnp.exp(-jnp.exp(p["nu_log"]))
        phases = jnp.exp(p["theta_log"])
        eigenvalues = jax.lax.complex(radii * jnp.cos(phases), radii * jnp.sin(phases))
        gamma = jnp.exp(p["gamma_log"])[:, None]
        b = jax.lax.complex(gamma * p["B_re"], gamma * p["B_im"])
        c = jax.lax.complex(p["C_re"], p["C_im"])

        def step(h, u):
            h = eigenvalues * h + b @ u.astype(jnp.complex64)
            return h, (c @ h).real + p["D"] * u

        return jax.lax.scan(step, jnp.zeros(states, jnp.complex64), x)[1] @ p["out"]

    variables = {name: ones(states) for name in ("nu_log", "theta_log", "gamma_log")}
    variables |= {name: ones((states, width)) for name in ("B_re", "B_im")}
    variables |= {name: ones((width, states)) for name in ("C_re", "C_im")}
    variables |= {"D": ones(width), "out": ones((width, 5))}
    return apply, variables, ones((6, width))


def mamba(inner=600, states=16, rank=9):
    """A selective scan."""

    def apply(p, x):
        x = jax.nn.silu(x @ p["in_proj"])
        dt, b, c = jnp.split(x @ p["x_proj"], [rank, rank + states], -1)
        dt = jax.nn.softplus(dt @ p["dt_proj"]["weight"].T + p["dt_proj"]["bias"][None])
        rates = -jnp.exp(p["A_log"])

        def step(h, now):
            x, dt, b, c = now
            h = jnp.exp(dt[:, None] * rates) * h + (dt * x)[:, None] * b[None]
            return h, h @ c

        y = jax.lax.scan(step, jnp.zeros((inner, states)), (x, dt, b, c))[1]
        return (y + p["D"][None] * x) @ p["out_proj"]

    variables = weights(
        KEY, in_proj=(20, inner), x_proj=(inner, rank + 2 * states), out_proj=(inner, 20)
    )
    dt = {"weight": ones((inner, rank)), "bias": ones(inner)}
    return apply, variables | {
        "dt_proj": dt, "A_log": jnp.ones((inner, states)), "D": jnp.zeros(inner),
    }, jnp.ones((6, 20))  # fmt: skip


def lora(rank=4):
    """Low ranks beside weights, under names of somebody's own."""

    def apply(p, x):
        for own in p["layers"]:
            x = jax.nn.relu(x @ own["w"] + (x @ own["down"]) @ own["up"] * 2.0)
        return x

    shapes = {"w": (300, 300), "down": (300, rank), "up": (rank, 300)}
    layers = [weights(key, **shapes) for key in range(2)]
    return apply, {"layers": layers}, jnp.ones((2, 300))
