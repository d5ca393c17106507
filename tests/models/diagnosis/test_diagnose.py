"""Measured signals are those of jax's own gradients; twelve planted faults are named."""

import json
import math
import re
from functools import cache, partial

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn.initializers import constant, normal, orthogonal, variance_scaling, zeros

from jinit.models import FAULTS, Fault, diagnose
from jinit.models.diagnosis.findings import find
from tests.zoo import entries as zoo

KEY = jax.random.key(0)
HE = variance_scaling(2.0, "fan_in", "normal")
X = jax.random.normal(jax.random.key(1), (64, 64))
SEQUENCES = jax.random.normal(jax.random.key(2), (16, 20, 32))


def of_linen(model, x=X, **options):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # Flax mixes
        variables = model.init(KEY, x)

        def apply(variables, x):
            if "batch_stats" in variables:
                return model.apply(variables, x, mutable=["batch_stats"])[0]
            return model.apply(variables, x)

        return diagnose(apply, variables, x, **options)


class MLP(nn.Module):
    kernel: object = HE
    activation: object = nn.relu
    depth: int = 12
    width: int = 64
    head: object = HE
    dead: int = -1
    odd: int = -1
    zero: int = -1
    norm: bool = False

    @nn.compact
    def __call__(self, x):
        for i in range(self.depth):
            kernel = (lambda *a: 10 * self.kernel(*a)) if i == self.odd else self.kernel
            kernel = zeros if i == self.zero else kernel
            bias = constant(-30.0) if i == self.dead else zeros
            x = nn.Dense(self.width, kernel_init=kernel, bias_init=bias)(x)
            if self.norm:
                x = nn.BatchNorm(use_running_average=False)(x)
            x = self.activation(x)
        return nn.Dense(10, kernel_init=self.head)(x)


class Residual(nn.Module):
    blocks: int
    scale: float
    stopped: int = -1

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(64, kernel_init=HE)(x)
        for i in range(self.blocks):
            h = nn.Dense(64, kernel_init=HE)(nn.relu(x))
            h = nn.Dense(64, kernel_init=HE, name=f"end_{i}")(nn.relu(h))
            if i == self.stopped:
                h = jax.lax.stop_gradient(h)
            x = x + self.scale * h
        return nn.Dense(10)(x)


# --- what is measured ---------------------------------------------------------------------------


def plain(params, x, shifts):
    """Two layers, with a shift by zero wherever a gradient is asked for."""
    z1 = x @ params["w1"] + params["b"][None] + shifts[0]
    h = jnp.tanh(z1)
    z2 = h @ params["w2"] + shifts[1]
    return z1, h, z2


@pytest.mark.parametrize("nested", ["open", "jit", "remat"])
def test_signals_and_gradients_are_those_of_jax(nested):
    keys = jax.random.split(KEY, 3)
    params = {
        "w1": jax.random.normal(keys[0], (64, 32)), "w2": jax.random.normal(keys[1], (32, 5)),
        "b": jax.random.normal(keys[2], (32,)),
    }  # fmt: skip
    loss = lambda out: jnp.mean(jnp.square(out - 1))  # noqa: E731
    shifts = (jnp.zeros((64, 32)), jnp.zeros((64, 5)))
    z1, h, z2 = plain(params, X, shifts)
    g1, g2 = jax.grad(lambda s: loss(plain(params, X, s)[2]))(shifts)
    wrap = {"open": lambda f: f, "jit": jax.jit, "remat": jax.checkpoint}[nested]
    apply = wrap(lambda params, x: plain(params, x, (0.0, 0.0))[2])
    d = diagnose(apply, params, X, loss=loss)
    log_rms = lambda x: math.log(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))  # noqa: E731
    for row, z, g in zip(d.layers, (z1, z2), (g1, g2), strict=True):
        np.testing.assert_allclose(
            [row.pre_mean, row.pre_std], [np.mean(z), np.std(z)], rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose([row.log_pre, row.log_grad], [log_rms(z), log_rms(g)], atol=1e-5)
        assert row.size == z.size
    (activation,) = d.activations
    assert activation.name == "tanh"
    assert activation.std == pytest.approx(float(np.std(h)), rel=1e-4)
    steep = 1 - np.square(np.asarray(h, np.float64))
    assert activation.saturated == pytest.approx(np.mean(steep < 0.05), abs=2e-3)
    assert d.layers[0].saturated == activation.saturated
    by_leaf = jax.grad(lambda p: loss(plain(p, X, shifts)[2]))(params)
    for p in d.parameters:
        assert p.log_grad == pytest.approx(log_rms(by_leaf[p.role.path[2:-2]]), abs=1e-5)
    assert d.loss == pytest.approx(float(loss(z2)), rel=1e-5)


def test_a_loop_over_layers_is_shown_layer_by_layer_and_gives_the_same_numbers():
    w = jax.random.normal(KEY, (6, 64, 64)) / 8

    def scanned(w, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]

    def backward(w, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w, reverse=True)[0]

    def unrolled(w, x):
        for own in w:
            x = jnp.tanh(x @ own)
        return x

    expected = diagnose(unrolled, [*w], X)
    for apply, names in (
        (scanned, [f"[{i}]" for i in range(6)]), (backward, [f"[{i}]" for i in range(5, -1, -1)])
    ):  # fmt: skip
        stacked = w if apply is scanned else w[::-1]
        d = diagnose(apply, stacked, X)
        assert [row.layer[-3:] for row in d.layers] == names
        for row, other in zip(d.layers, expected.layers, strict=True):
            assert row.log_pre == pytest.approx(other.log_pre, abs=1e-4)
            assert row.log_grad == pytest.approx(other.log_grad, abs=1e-4)
            assert row.saturated == pytest.approx(other.saturated, abs=1e-3)


def test_weights_shared_in_time_are_one_layer_with_a_history():
    def apply(w, x):
        return jax.lax.scan(lambda h, x: (jnp.tanh(h @ w["h"] + x @ w["x"]), None),
                            jnp.zeros((16, 8)), x)[0]  # fmt: skip

    w = {"h": jax.random.normal(KEY, (8, 8)) / 4, "x": jax.random.normal(KEY, (32, 8)) / 6}
    d = diagnose(apply, w, SEQUENCES.swapaxes(0, 1))
    assert len(d.layers) == 2
    row = next(row for row in d.layers if row.layer == "h")
    assert len(row.in_time) == 20
    assert row.in_time[0] < row.in_time[-1]  # what is long ago has less influence here
    assert row.size == 20 * 16 * 8
    total = 0.5 * math.log(np.mean([math.exp(2 * g) for g in row.in_time]))
    assert row.log_grad == pytest.approx(total, abs=1e-4)


def test_dead_units_and_custom_derivatives_at_zero():
    w = jnp.concatenate([jnp.ones((4, 3)), -jnp.ones((4, 5))], axis=1)
    d = diagnose(lambda w, x: jax.nn.relu(x @ w), w, jnp.ones((16, 4)))
    assert d.activations[0].dead == pytest.approx(5 / 8)
    d = diagnose(lambda w, x: jax.nn.relu(x @ w), 0 * w, jnp.ones((16, 4)))
    assert d.activations[0].dead == 1  # jax.nn.relu has slope 0 at 0, and the trace keeps that
    assert d.parameters[0].log_grad == -math.inf


def test_branches_show_the_one_that_was_taken():
    w = {"a": jnp.ones((64, 4)), "b": 2 * jnp.ones((64, 4))}

    def apply(w, x, which):
        return jax.lax.cond(which, lambda x: x @ w["a"], lambda x: x @ w["b"], x)

    rows = {r.layer: r for r in diagnose(apply, w, X, jnp.asarray(True)).layers}
    assert rows["a"].pre_std == pytest.approx(float(np.std(X @ w["a"])), rel=1e-4)
    assert rows["b"].log_pre == -math.inf


@jax.custom_vjp
def clipped(x, w):
    """A product with gradients of its own."""
    return x @ w


clipped.defvjp(
    lambda x, w: (x @ w, (x, w)), lambda kept, g: (10 * g @ kept[1].T, 0.1 * kept[0].T @ g)
)


def test_functions_keep_their_own_derivative():
    w = [jax.random.normal(key, (64, 64)) / 8 for key in jax.random.split(KEY)]
    apply = lambda w, x: jax.nn.relu(clipped(x, w[0])) @ w[1]  # noqa: E731
    loss = lambda out: jnp.sum(jnp.sin(out))  # noqa: E731
    d = diagnose(apply, w, X, loss=loss)
    expected = jax.grad(lambda w: loss(apply(w, X)))(w)
    for p, g in zip(d.parameters, expected, strict=True):
        assert p.log_grad == pytest.approx(float(0.5 * jnp.log(jnp.mean(g**2))), abs=1e-4)
    assert [row.layer for row in d.layers] == ["[0]", "[1]"]


def test_a_loop_in_time_and_one_over_layers_of_the_same_length_are_told_apart():
    def apply(p, x):
        h = jax.lax.scan(lambda h, x: (jnp.tanh(h @ p["u"] + x), None), jnp.zeros((16, 8)), x)[0]

        def layer(h, own):
            return jax.nn.relu(h @ own[0] + own[1][None]), None

        return jax.lax.scan(layer, h, (p["w"], p["b"]))[0]

    keys = jax.random.split(KEY, 3)
    p = {
        "u": jax.random.normal(keys[0], (8, 8)) / 3, "w": jax.random.normal(keys[1], (5, 8, 8)) / 2,
        "b": jnp.zeros((5, 8)).at[2].set(-99.0),
    }  # fmt: skip
    d = diagnose(apply, p, jax.random.normal(keys[2], (5, 16, 8)))
    assert d.findings[0].kind == "dead"
    assert d.findings[0].layers == ("w[2]",)


def test_gradients_far_below_the_range_of_their_squares_are_numbers():
    d = of_linen(MLP(normal(1e-4), nn.tanh))
    assert d.layers[0].log_grad < -30 * math.log(10)
    assert math.isfinite(d.layers[2].log_grad)


# --- planted faults -----------------------------------------------------------------------------


class Swapped(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = variance_scaling(2.0, "fan_out", "normal")
        for _ in range(4):
            x = nn.relu(nn.Dense(512, kernel_init=kernel)(x))
            x = nn.relu(nn.Dense(64, kernel_init=kernel)(x))
        return nn.Dense(10, kernel_init=HE)(x)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        cell = nn.SimpleCell(64, activation_fn=lambda z: z, recurrent_kernel_init=orthogonal(1.5))
        return nn.Dense(10)(nn.RNN(cell)(x)[:, -1])


class Tied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(100, 128, embedding_init=normal(1.0))
        x = nn.LayerNorm()(embed(tokens))
        x = x + nn.Dense(128)(nn.relu(nn.Dense(256)(x)))
        return embed.attend(nn.LayerNorm()(x))


def lora(v, x):
    return jax.nn.relu(x @ v["w"] + x @ v["A"] @ v["B"]) @ v["h"]


def attention(v, x):
    q, k = x @ v["q"], x @ v["k"]
    return jax.nn.softmax(q @ k.T / 8) @ (x @ v["v"])


def residual(w, x):
    h = x @ w[0]
    for branch in w[1:-1]:
        h = h + jnp.tanh(h + 1) @ branch
    return h @ w[-1]


def drawn(**shapes):
    keys = jax.random.split(jax.random.key(5), len(shapes))
    return {
        name: jax.random.normal(key, shape) / shape[0] ** 0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def upsampled(v, x):
    """Kernels [taps, out, in]."""
    for w in v.values():
        x = jax.lax.conv_transpose(jax.nn.relu(x), w, (2,), "SAME", transpose_kernel=True)
    return x


UP = {
    name: jax.random.normal(jax.random.key(i), (4, n, m)) * (2 / (4 * n)) ** 0.5
    for i, (name, m, n) in enumerate([("a", 64, 96), ("b", 96, 160), ("c", 160, 10)])
}
LORA = drawn(w=(64, 64), A=(64, 4), h=(64, 8)) | {"B": jnp.zeros((4, 64))}


def experts(v, x):
    return jax.nn.relu(jnp.einsum("ti,eio->teo", x, v["e"])).sum(1) @ v["h"].T


QKV = drawn(q=(64, 64), k=(64, 64), v=(64, 64))
TOKENS = jnp.arange(60).reshape(6, 10)

PLANTED = {
    "too small": (lambda: of_linen(MLP(normal(0.01), head=normal(0.01))), "vanish",
                  r"vanish: x0\.05\d per layer from Dense_12 to Dense_0.*relu with std 0.0099.*he"),
    "too large": (lambda: of_linen(MLP(normal(0.5), head=normal(0.5))), "explode",
                  r"explode: x2\.\d per layer from Dense_12 to Dense_0"),
    "zero layer": (lambda: of_linen(MLP(zero=6)), "zero",
                   r"Dense_6: all weights are zero, so that no gradient reaches"),
    "zero first layer": (lambda: diagnose(net, [0 * SQUARE, *orthogonals(64, 64, 64)], X), "zero",
                         r"\[0\]: all weights are zero, so that the first layer passes on nothing"),
    "zero stem of residual branches": (
        lambda: diagnose(residual, [0 * SQUARE, *orthogonals(64, 64, 64)], X), "zero",
        r"\[0\]: all weights are zero, so that the first layer passes on nothing"
    ),
    "LoRA of two zeros": (lambda: diagnose(lora, LORA | {"A": jnp.zeros((64, 4))}, X), "stuck",
                          r"A, B are 0 and multiply each other"),
    "one key for two layers": (lambda: diagnose(net, [SQUARE, 2 * SQUARE, *orthogonals(64, 64)], X),
                               "copies", r"\[1\] holds the same numbers as \[0\]"),
    "one key for stacked experts": (
        lambda: diagnose(experts, {"e": jnp.stack([SQUARE] * 4), "h": SQUARE}, X), "copies",
        r"e holds the same numbers as each other, 4 times: one key drew them"
    ),
    "sharp attention": (lambda: diagnose(attention, {k: 6 * w for k, w in QKV.items()}, X),
                        "attention", r"logits of q x k start with a std of \d+.* one of 64 keys"),
    "dead layer": (lambda: of_linen(MLP(dead=5)), "dead",
                   r"100% of the units of the relu after Dense_5 are dead"),
    "saturated tanh": (lambda: of_linen(MLP(normal(1.0), nn.tanh, head=normal(1.0))), "saturated",
                       r"tanh is saturated after Dense_0.* gain=1\.59"),
    "misread kernels": (
        lambda: diagnose(upsampled, UP, jax.random.normal(jax.random.key(9), (2, 3, 64))), "fans",
        r"weights of a, b, c are scaled by the wrong fan.* in_axis=-1, out_axis=-2, and 2 times "
        r"the variance, as strides skip the other taps, or redraw with"
    ),
    "swapped fans": (lambda: of_linen(Swapped()), "fans",
                     r"std is a usual one for a fan-in of 512, which is Dense_0's fan-out.* 64"),
    "one layer off by 10": (lambda: of_linen(MLP(odd=6)), "scale",
                            r"The weights of Dense_6 are (9\.\d|10\.\d) times as large"),
    "batch norm at depth 50": (lambda: of_linen(MLP(depth=50, norm=True)), "explode",
                               r"Gradients explode: x1\.2 .* a norm .* residual connections"),
    "unscaled residuals": (lambda: of_linen(Residual(20, 1.0)), "explode",
                           r"20 residual branches are added at full size; scale each by .* 0\.22"),
    "recurrent weights": (lambda: of_linen(Recurrent(), SEQUENCES), "explode",
                          r"Through time .* SimpleCell_0/h explodes: x1\.5 per step .* 20 steps"),
    "frozen branch": (lambda: of_linen(Residual(6, 0.4, stopped=3)), "frozen",
                      r"No gradient reaches .*end_3.* stop_gradient"),
    "tied weights": (lambda: of_linen(Tied(), TOKENS), "output",
                     r"Embed_0 is tied to an embedding.* std 1/sqrt\(128\) = 0\.0884"),
}  # fmt: skip


@cache
def planted(fault):
    return PLANTED[fault][0]()


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_named_first(fault):
    _, kind, words = PLANTED[fault]
    d = planted(fault)
    assert [f.kind for f in d.findings][:1] == [kind]
    assert re.search(words, d.verdict), d.verdict


EXAMPLES = {kind: partial(planted, fault) for fault, (_, kind, _) in PLANTED.items()} | {
    "symmetric": lambda: of_linen(MLP(constant(0.02))),
    "nonfinite": lambda: of_linen(MLP(), X.at[0, 0].set(jnp.nan)),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_row_of_the_table_tells_its_fault(kind):
    fault, d = FAULTS[kind], EXAMPLES[kind]()
    known = {row.layer for row in d.layers} | {p.label for p in d.parameters}
    for layers, sentence in fault.check(d):
        assert known.issuperset(layers)
        assert sentence.endswith(".")
    first, *others = d.findings
    assert first.kind == kind
    assert fault.meaning
    assert set(fault.explained_by) < set(FAULTS)
    for finding in others:
        assert list(FAULTS).index(finding.kind) >= list(FAULTS).index(kind)
        assert kind not in FAULTS[finding.kind].explained_by


def test_a_new_fault_is_one_row(monkeypatch):
    def deep(d):
        if len(d.layers) > 10:
            yield [d.layers[-1].layer], f"{len(d.layers)} layers are many."

    monkeypatch.setitem(FAULTS, "deep", Fault("many layers", deep, ("vanish",)))
    assert find(planted("too large"))[0][-1] == ("deep", ("Dense_12",), "13 layers are many.")
    assert [f.kind for f in find(planted("too small"))[0]] == ["vanish"]


@pytest.mark.parametrize("name", sorted(zoo.healthy()))
def test_a_healthy_model_is_called_healthy(name):
    apply, variables, inputs = zoo.healthy()[name](KEY)
    d = diagnose(apply, variables, *inputs)
    assert d.findings == (), d.verdict
    assert d.verdict.startswith("Healthy: over ")


def test_numbers_that_are_none():
    assert "from Dense_0 on" in EXAMPLES["nonfinite"]().verdict
    d = diagnose(lambda w, x: jnp.sqrt(jnp.square(x @ w)), jnp.zeros((64, 4)), X)
    assert d.findings[0].kind == "nonfinite"
    assert "gradient is no number" in d.verdict


def net(w, x):
    for own in w:
        x = jnp.tanh(x @ own)
    return x


def orthogonals(*dims):
    keys = jax.random.split(KEY, len(dims))
    pairs = zip(keys, dims, dims[1:], strict=False)
    return [orthogonal()(key, (a, b)) for key, a, b in pairs]


def modulated(p, x):
    return jnp.tanh((1 + x @ p["gamma"]) * (x @ p["w"]) + x @ p["beta"]) @ p["out"]


def unrolled(p, x):
    h = jnp.zeros((16, 64))
    for t in range(20):
        h = jnp.tanh(h @ p["u"] + x[:, t] @ p["w"])
    return h


SQUARE = jax.random.normal(KEY, (64, 64)) / 8
FALSE_ALARMS = {
    "a branch that was not taken": lambda: diagnose(
        lambda w, x: jax.lax.cond(x.sum() > 1e9, lambda h: h @ w[0], lambda h: h @ w[1], x),
        [SQUARE, SQUARE.T], X,
    ),
    "a zero head": lambda: of_linen(MLP(head=zeros)),
    "PReLU on one sample": lambda: diagnose(
        lambda p, x: jnp.where(x @ p["w"] >= 0, x @ p["w"], p["a"] * (x @ p["w"])) @ p["w"],
        {"w": SQUARE, "a": jnp.float32(0.25)}, X[:1],
    ),
    "unrolled in time": lambda: diagnose(
        unrolled, {"u": orthogonals(64, 64)[0], "w": SQUARE[:32] / 4}, SEQUENCES
    ),
    "queries that start at zero": lambda: diagnose(attention, QKV | {"q": 0 * SQUARE}, X),
    "a modulation that starts at zero": lambda: diagnose(
        modulated, {"gamma": 0 * SQUARE, "beta": 0 * SQUARE, "w": SQUARE, "out": SQUARE.T}, X
    ),
    "a small head on few layers": lambda: diagnose(
        net, [*orthogonals(64, 64, 64), 0.01 * SQUARE], X
    ),
    "orthogonal of changing width": lambda: diagnose(net, orthogonals(64, 256, 64, 256, 64), X),
}  # fmt: skip


@pytest.mark.parametrize("name", FALSE_ALARMS)
def test_no_false_alarm(name):
    d = FALSE_ALARMS[name]()
    assert d.findings == (), d.verdict


def test_what_cannot_be_read_is_not_called_healthy():
    made = lambda w, x, key: x @ (w * jax.random.normal(key, w.shape))  # noqa: E731
    d = diagnose(made, jnp.full((64, 4), 0.02), X, KEY)
    assert "could not be read" in d.verdict
    d = diagnose(made, jnp.full((64, 4), 9.0), X, KEY)
    assert d.findings[0].kind == "output"
    d = diagnose(net, [SQUARE], X, loss=lambda out: jnp.sum(out) + jnp.log(jnp.float32(-1)))
    assert d.findings[0].kind == "nonfinite"
    assert "the output or the loss" in d.verdict
    d = diagnose(net, [SQUARE.at[0, 0].set(jnp.inf)], X)
    assert "[0] holds numbers that are none" in d.verdict


def test_sigmoid_is_not_promised_a_cure_by_scale():
    layers = [jax.random.normal(key, (64, 64)) / 8 for key in jax.random.split(KEY, 20)]

    def apply(w, x):
        for own in w:
            x = jax.nn.sigmoid(x @ own)
        return x

    assert "no weights make up for that" in diagnose(apply, layers, X).verdict


def test_branches_that_start_at_zero_are_no_fault():
    class Opened(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(4):
                h = nn.relu(nn.Dense(64, kernel_init=HE)(x))
                x = x + nn.Dense(64, kernel_init=zeros)(h)
            return nn.Dense(10)(x)

    assert of_linen(Opened()).findings == ()


# --- other frameworks ---------------------------------------------------------------------------


def test_equinox_nnx_and_haiku_are_read_without_an_adapter():
    model = eqx.nn.MLP(64, 10, 64, 12, activation=jnp.tanh, key=KEY)
    small = jax.tree.map(lambda a: 0.05 * a if eqx.is_array(a) else a, model)
    apply = lambda model, x: jax.vmap(model)(x)  # noqa: E731
    assert diagnose(apply, small, X).findings[0].kind == "vanish"

    class Model(nnx.Module):
        def __init__(self, rngs):
            kernel = normal(0.5)
            self.layers = nnx.List([nnx.Linear(64, 64, kernel_init=kernel, rngs=rngs)
                                    for _ in range(12)])  # fmt: skip

        def __call__(self, x):
            for layer in self.layers:
                x = nnx.relu(layer(x))
            return x

    graph, state = nnx.split(Model(nnx.Rngs(0)))
    d = diagnose(lambda state, x: nnx.merge(graph, state)(x), state, X)
    assert d.findings[0].kind == "explode"

    def forward(x):
        for _ in range(12):
            x = jnp.tanh(hk.Linear(64, w_init=hk.initializers.RandomNormal(1.0))(x))
        return x

    haiku = hk.without_apply_rng(hk.transform(forward))
    assert diagnose(haiku.apply, haiku.init(KEY, X), X).findings[0].kind == "saturated"


# --- what is shown ------------------------------------------------------------------------------


def test_text_data_page_and_json(tmp_path):
    d = of_linen(MLP(normal(0.01), depth=4))
    text = str(d)
    assert text.splitlines()[0].split()[:2] == ["layer", "fans"]
    assert d.verdict in text
    frame = d.to_dataframe()
    assert list(frame["layer"]) == [f"Dense_{i}" for i in range(5)]
    ds = d.to_dataset()
    np.testing.assert_array_equal(ds["log_grad"], frame["log_grad"])
    np.testing.assert_array_equal(ds["log_grad"], d.signals.log_grad)  # natural, all of them
    assert ds.attrs["logarithms"] == "natural"
    assert f"{d.layers[0].log_grad / math.log(10):.2f}" in text.splitlines()[2].split()
    assert ds.attrs["verdict"] == d.verdict
    page = d.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert "Dense_3" in page
    assert "->" not in page.replace("-->", "")  # escaped
    held = json.loads(json.dumps(d.to_json(), allow_nan=False))
    assert held["findings"][0]["kind"] == "vanish"
    assert len(held["layers"]) == 5


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_outputs_and_losses_that_cannot_be_judged():
    w = jnp.ones((64, 4))
    with pytest.raises(TypeError, match=r"not one array; give loss="):
        diagnose(lambda w, x: {"a": x @ w, "b": x}, w, X)
    with pytest.raises(TypeError, match=r"loss must map .* scalar, got \(64,\)"):
        diagnose(lambda w, x: x @ w, w, X, loss=lambda out: out.sum(1))
    d = diagnose(lambda w, x: {"a": x @ w, "b": x}, w, X, loss=lambda out: out["a"].mean())
    assert len(d.layers) == 1
    with pytest.raises(TypeError, match="targets need a loss: give loss=lambda output, targets"):
        diagnose(lambda w, x: x @ w, w, X, targets=X)


def test_dead_units_of_a_turned_batch_are_units_and_not_samples():
    linear = eqx.nn.Linear(16, 16, key=KEY)
    shut = jnp.where(jnp.arange(16) < 12, -100.0, 0.0)
    linear = eqx.tree_at(lambda layer: layer.bias, linear, shut)
    found = diagnose(lambda m, x: jax.nn.relu(jax.vmap(m)(x)), linear, X[:16, :16])
    assert [a.dead for a in found.activations] == [12 / 16]
    one = lambda m, x: jax.nn.relu(m(x))  # noqa: E731
    found = diagnose(lambda m, x: jax.vmap(one, (None, 0))(m, x), linear, X[:16, :16])
    assert [a.dead for a in found.activations] == [12 / 16]
    bare = eqx.nn.Linear(16, 16, use_bias=False, key=KEY)
    bare = eqx.tree_at(lambda m: m.weight, bare, bare.weight.at[:12].set(-1.0))
    found = diagnose(lambda m, x: jax.vmap(one, (None, 0))(m, x), bare, jnp.abs(X[:16, :16]))
    assert [a.dead for a in found.activations] == [12 / 16]


def test_weights_that_are_applied_as_one_are_named_as_one():
    def apply(p, x):
        return jax.nn.relu(x @ jnp.concatenate([p["a"], p["b"]], axis=1) + p["d"][None]) @ p["c"]

    p = {"a": jnp.ones((64, 8)), "b": jnp.ones((64, 8)), "c": jnp.ones((16, 2))}
    p["d"] = jnp.full(16, -1000.0)
    found = diagnose(apply, p, X)
    assert [row.layer for row in found.layers] == ["a + b", "c"]
    assert found.layers[0].paths == ("['a']", "['b']")
    assert [a.after for a in found.activations] == ["a + b"]
    assert "dead" in {finding.kind for finding in found.findings}


@pytest.mark.bad_input
def test_inputs_without_numbers_and_outputs_without_a_gradient():
    linear = lambda w, x: x @ w  # noqa: E731
    empty = r"at least one sample, got .* shape \[0, 8\] at inputs\[0\]"
    with pytest.raises(ValueError, match=empty):
        diagnose(linear, jnp.ones((8, 2)), jnp.ones((0, 8)))
    with pytest.raises(TypeError, match=r"arrays with numbers, got only a shape, \[4, 8\]"):
        diagnose(linear, jnp.ones((8, 2)), jax.ShapeDtypeStruct((4, 8), jnp.float32))
    with pytest.raises(TypeError, match="output is of int32, which has no gradient"):
        diagnose(lambda w, x: jnp.argmax(x @ w, -1), jnp.ones((8, 2)), jnp.ones((4, 8)))
