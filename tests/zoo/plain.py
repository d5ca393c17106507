"""Models written by hand, of jax alone."""

from functools import partial

import jax
import jax.numpy as jnp

from tests.zoo.base import (
    BIAS,
    BY_HAND,
    CHANNELS,
    CONVOLUTIONS,
    EMBEDDING,
    FIELD,
    NAMED,
    NONE_ALONE,
    OF_JAX,
    ROWS,
    SCALE,
    TIME,
    UP,
    VOCABULARY,
    Built,
    Is,
    causal,
    cell_is,
    cnn_is,
    drawn,
    entry,
    experts_is,
    halved,
    image,
    lenient,
    mlp_is,
    normal,
    resnet_is,
    rotary,
    sequences,
    some_tokens,
    weight,
)

# --- MLPs: 7 -> 11 -> 13 -> 3 -------------------------------------------------------------------


JAX_MLP = [("0/w", "0/b"), ("1/w", "1/b"), ("2/w", "2/b")]


def plain_layers(params, x, key=None, activations=NAMED, rate=0.0):
    for i, (layer, phi) in enumerate(zip(params, (*activations, lambda x: x), strict=True)):
        x = phi(x @ layer["w"] + layer["b"])
        if rate and i < 2:
            kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - rate, x.shape)
            x = jnp.where(kept, x / (1 - rate), 0)
    return x


@entry("jax", "mlp", mlp_is(JAX_MLP))
@entry("jax", "gelu-silu", mlp_is(JAX_MLP, "gelu_tanh", "silu"), activations=OF_JAX)
@entry("jax", "by-hand", mlp_is(JAX_MLP, "gelu_tanh", "silu"), activations=BY_HAND)
@entry("jax", "dropout", mlp_is(JAX_MLP), rate=0.4)
@entry("jax", "mixed-precision", mlp_is(JAX_MLP), half=True)
def jax_mlp(key, *, half=False, rate=0.0, **options):
    keys = jax.random.split(key, 3)
    pairs = [(7, 11), (11, 13), (13, 3)]
    params = [drawn(k, w=(m, n), b=(n,)) for k, (m, n) in zip(keys, pairs, strict=True)]
    run = partial(plain_layers, rate=rate, **options)
    x = normal(key, ROWS, 7)
    if half:
        return Built(lenient(lambda v, x: run(halved(v), halved(x))), params, (x,))
    return Built(lenient(run), params, (x, key) if rate else (x,))


# --- single layers: convolutions of 3 x 5, and products over several axes -------------------------


def jax_convolution(layer, x, kind):
    """Kernels (height, width, in, out), written out in lax."""
    numbers = ("NHWC", "HWIO", "NHWC")
    if kind == "transposed":
        y = jax.lax.conv_transpose(x, layer["w"], (2, 2), "SAME", dimension_numbers=numbers)
    else:
        options = CHANNELS[kind][2]
        y = jax.lax.conv_general_dilated(
            x, layer["w"], (1, 1), "SAME", dimension_numbers=numbers,
            rhs_dilation=(options.get("dilation", 1),) * 2,
            feature_group_count=options.get("groups", 1),
        )  # fmt: skip
    return y + layer["b"]


def jax_kernel(key, kind):
    if kind == "transposed":
        return drawn(key, w=(*UP, 17, 19), b=(19,))
    m, n, options = CHANNELS[kind]
    return drawn(key, w=(*FIELD, m // options.get("groups", 1), n), b=(n,))


@entry("jax", "einsum", {"w": weight(3 * 8, 14), "b": BIAS})
def jax_einsum(key):
    run = lambda p, x: jnp.einsum("bhk,dkh->bd", x, p["w"]) + p["b"]  # noqa: E731
    return Built(lenient(run), drawn(key, w=(14, 8, 3), b=(14,)), (normal(key, ROWS, 3, 8),))


@entry("jax", "vector", {"w": weight(14, 1), "b": BIAS})
def jax_vector(key):
    """One output without an axis of its own."""
    run = lambda p, x: x @ p["w"] + p["b"]  # noqa: E731
    params = {"w": normal(key, 14), "b": jnp.zeros(())}
    return Built(lenient(run), params, (normal(key, ROWS, 14),))


# --- CNNs ---------------------------------------------------------------------------------------


JAX_CNN = [*CONVOLUTIONS, "head"]


@entry("jax", "cnn", cnn_is([f"{n}/w" for n in JAX_CNN], [f"{n}/b" for n in JAX_CNN]))
def jax_cnn(key):
    def run(params, x):
        for kind in CONVOLUTIONS:
            x = jax.nn.relu(jax_convolution(params[kind], x, kind))
        return x.mean((1, 2)) @ params["head"]["w"] + params["head"]["b"]

    keys = jax.random.split(key, 6)
    params = {k: jax_kernel(own, k) for k, own in zip(CONVOLUTIONS, keys, strict=False)}
    params["depthwise"] = drawn(keys[2], w=(*FIELD, 1, 26), b=(26,))
    params["head"] = drawn(keys[5], w=(19, 9), b=(9,))
    return Built(lenient(run), params, (image(key, 7),))


# --- pre-activation ResNets with batch norm -----------------------------------------------------


JAX_NORMS = ["norms/0", "norms/1", "norms/2", "norms/3", "norms/4"]


JAX_RESNET = resnet_is(
    "params/stem",
    [["params/convs/0", "params/convs/1"], ["params/convs/2", "params/convs/3"]],
    "params/shortcut",
    ("params/head/w", "params/head/b"),
    [(f"params/{n}/gamma", f"params/{n}/beta") for n in JAX_NORMS],
    [f"stats/{n}/{which}" for n in JAX_NORMS for which in ("mean", "var")],
)


@entry("jax", "resnet-train", JAX_RESNET, train=True)
@entry("jax", "resnet-eval", JAX_RESNET, train=False)
def jax_resnet(key, *, train):
    def norm(x, own, stats):
        if train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            stats = {
                "mean": 0.9 * stats["mean"] + 0.1 * mean,
                "var": 0.9 * stats["var"] + 0.1 * var,
            }
        else:
            mean, var = stats["mean"], stats["var"]
        normed = (x - mean) * jax.lax.rsqrt(var + 1e-5)
        return jax.nn.relu(normed * own["gamma"] + own["beta"]), stats

    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def run(variables, x):
        params, found = variables["params"], []
        own, old, convs = params["norms"], variables["stats"]["norms"], params["convs"]
        x = conv(x, params["stem"])
        for i in (0, 2):
            h, stats = norm(x, own[i], old[i])
            found.append(stats)
            x = conv(h, params["shortcut"]) if i == 2 else x
            h, stats = norm(conv(h, convs[i]), own[i + 1], old[i + 1])
            found.append(stats)
            x = x + conv(h, convs[i + 1])
        h, stats = norm(x, own[4], old[4])
        out = h.mean((1, 2)) @ params["head"]["w"] + params["head"]["b"]
        return (out, {"norms": [*found, stats]}) if train else out

    kernels = [(11, 13), (13, 11), (11, 13), (13, 17)]
    keys = jax.random.split(key, 7)
    widths = (11, 13, 11, 13, 17)
    params = {
        "stem": drawn(keys[0], w=(*FIELD, 7, 11))["w"],
        "convs": [drawn(k, w=(*FIELD, *mn))["w"] for k, mn in zip(keys[1:5], kernels, strict=True)],
        "shortcut": drawn(keys[5], w=(1, 1, 11, 17))["w"],
        "head": drawn(keys[6], w=(17, 9), b=(9,)),
        "norms": [{"gamma": jnp.ones(n), "beta": jnp.zeros(n)} for n in widths],
    }
    stats = {"norms": [{"mean": jnp.zeros(n), "var": jnp.ones(n)} for n in widths]}
    return Built(lenient(run), {"params": params, "stats": stats}, (image(key, 7),))


# --- transformers: model width 14, three heads of 8, hidden 22 ------------------------------------


def plain_norm(x, scale):
    return scale * x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def plain_layer(x, own):
    """Query, key and value in one array [in, 3, heads, size], rotary positions, a gated GELU."""
    h = plain_norm(x, own["norm"])
    query, key, value = jnp.einsum("btd,dnhk->nbthk", h, own["qkv"])
    scores = jnp.einsum("bthk,bshk->bhts", rotary(query), rotary(key)) / 8**0.5
    scores = jnp.where(causal(x.shape[1]), scores, -jnp.inf)
    mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), value)
    x = x + jnp.einsum("bthk,hkd->btd", mixed, own["out"])
    h = plain_norm(x, own["norm2"])
    return x + (jax.nn.gelu(h @ own["gate"]) * (h @ own["up"])) @ own["down"]


PLAIN_LAYER = {
    "qkv": weight(14, 3 * 24), "out": weight(24, 14), "gate": weight(14, 22, "gelu_tanh"),
    "up": weight(14, 22), "down": weight(22, 14), "norm": SCALE, "norm2": SCALE,
}  # fmt: skip


def plain_layer_drawn(key):
    params = drawn(
        key, qkv=(14, 3, 3, 8), out=(3, 8, 14), gate=(14, 22), up=(14, 22), down=(22, 14)
    )
    return params | {"norm": jnp.ones(14), "norm2": jnp.ones(14)}


@entry(
    "jax", "transformer",
    {
        "embed": Is("tied", 14, VOCABULARY),
        "norm": SCALE,
        **{f"layers/{i}/{name}": what for i in (0, 1) for name, what in PLAIN_LAYER.items()},
    },
)  # fmt: skip
def jax_transformer(key):
    def run(params, tokens):
        x = params["embed"][tokens]
        for own in params["layers"]:
            x = plain_layer(x, own)
        return jnp.einsum("btd,vd->btv", plain_norm(x, params["norm"]), params["embed"])

    keys = jax.random.split(key, 3)
    params = {
        "embed": normal(key, VOCABULARY, 14),
        "norm": jnp.ones(14),
        "layers": [plain_layer_drawn(keys[0]), plain_layer_drawn(keys[1])],
    }
    return Built(lenient(run), params, (some_tokens(key),))


@entry(
    "jax", "scanned-transformer",
    {
        "embed": EMBEDDING,
        **{
            f"layers/{n}": what._replace(layers=5) if what.role == "weight" else what
            for n, what in PLAIN_LAYER.items()
        },
        "head": weight(14, VOCABULARY),
    },
)  # fmt: skip
def jax_scanned_transformer(key):
    def run(params, tokens):
        step = jax.checkpoint(lambda x, own: (plain_layer(x, own), None))
        x, _ = jax.lax.scan(step, params["embed"][tokens], params["layers"])
        return x @ params["head"]

    params = {
        "embed": normal(key, VOCABULARY, 14),
        "layers": jax.vmap(plain_layer_drawn)(jax.random.split(key, 5)),
        "head": drawn(key, w=(14, VOCABULARY))["w"],
    }
    return Built(lenient(run), params, (some_tokens(key),))


# --- recurrent networks: 5 -> 7 over six steps, readout 7 -> 3 ------------------------------------


@entry("jax", "lstm", cell_is("w", "u", ["b"], ("v", "c"), 4))
def jax_lstm(key):
    def run(p, x):
        def step(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(x @ p["w"] + h @ p["u"] + p["b"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((len(x), 7))
        _, out = jax.lax.scan(step, (zero, zero), x.swapaxes(0, 1))
        return out.swapaxes(0, 1) @ p["v"] + p["c"]

    params = drawn(key, w=(5, 28), u=(7, 28), b=(28,), v=(7, 3), c=(3,))
    return Built(lenient(run), params, (sequences(key),))


@entry(
    "jax", "gru",
    {  # gates along an axis of their own, (3, in, out), which the product does not sum over
        "w": weight(5, 3 * 7, NONE_ALONE, times=TIME),
        "u": weight(7, 3 * 7, NONE_ALONE, times=TIME),
        "b": BIAS,
        "v": weight(7, 3), "c": BIAS,
    },
)  # fmt: skip
def jax_gru(key):
    def run(p, x):
        def step(h, x):
            r, z, n = jnp.einsum("bi,gio->gbo", x, p["w"]) + p["b"][:, None]
            hr, hz, hn = jnp.einsum("bi,gio->gbo", h, p["u"])
            r, z = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(z + hz)
            h = (1 - z) * jnp.tanh(n + r * hn) + z * h
            return h, h

        _, out = jax.lax.scan(step, jnp.zeros((len(x), 7)), x.swapaxes(0, 1))
        return out.swapaxes(0, 1) @ p["v"] + p["c"]

    params = drawn(key, w=(3, 5, 7), u=(3, 7, 7), b=(3, 7), v=(7, 3), c=(3,))
    return Built(lenient(run), params, (sequences(key),))


# --- five layers stacked and scanned, recomputed in the backward pass: 11 -> 13 -> 11 -------------


PLAIN_STACK = {
    "layers/gamma": SCALE, "layers/beta": BIAS,
    "layers/up": weight(11, 13, "relu", layers=5, times=1), "layers/b": BIAS,
    "layers/down": weight(13, 11, layers=5, times=1), "layers/c": BIAS,
    "head": weight(11, 3),
}  # fmt: skip


@entry("jax", "scan", PLAIN_STACK)
@entry("jax", "indexed-stack", PLAIN_STACK, scanned=False)
def jax_stack(key, *, scanned=True):
    """The same layers by a scan, or one by one in a loop of Python."""

    def run(params, x):
        @jax.checkpoint
        def step(x, p):
            centred = x - x.mean(-1, keepdims=True)
            h = centred / jnp.sqrt(jnp.var(x, -1, keepdims=True) + 1e-5) * p["gamma"] + p["beta"]
            return x + jax.nn.relu(h @ p["up"] + p["b"]) @ p["down"] + p["c"], None

        if scanned:
            return jax.lax.scan(step, x, params["layers"])[0] @ params["head"]
        for i in range(5):
            x, _ = step(x, {name: leaf[i] for name, leaf in params["layers"].items()})
        return x @ params["head"]

    def layer(key):
        own = drawn(key, up=(11, 13), down=(13, 11), b=(13,), c=(11,))
        return own | {"gamma": jnp.ones(11), "beta": jnp.zeros(11)}

    params = {"layers": jax.vmap(layer)(jax.random.split(key, 5))}
    params["head"] = drawn(key, w=(11, 3))["w"]
    return Built(lenient(run), params, (normal(key, ROWS, 11),))


# --- six experts side by side, mapped: 7 -> 11 -> 13, then 13 -> 3 --------------------------------


@entry("jax", "experts", experts_is("w", "b", "u", "c", ("v", "d")) | {"gate": weight(7, 6)})
def jax_experts(key):
    """Their outputs weighted by a gate."""

    def run(p, x):
        one = lambda w, b, u, c: jax.nn.relu(x @ w + b) @ u + c  # noqa: E731
        out = jax.vmap(one)(p["w"], p["b"], p["u"], p["c"])
        gate = jax.nn.softmax(x @ p["gate"])
        return jnp.einsum("be,ebo->bo", gate, out) @ p["v"] + p["d"]

    params = drawn(
        key, w=(6, 7, 11), b=(6, 11), u=(6, 11, 13), c=(6, 13), v=(13, 3), d=(3,), gate=(7, 6)
    )
    return Built(lenient(run), params, (normal(key, ROWS, 7),))
