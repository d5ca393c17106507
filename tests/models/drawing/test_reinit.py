"""Redrawn models of real frameworks: the entries' std, the applied matrices, and the signal.

What is expected of a leaf, its fan-in and the matrices that are applied, is written by hand from
the mathematics of its layer.
"""

import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn.initializers import constant

import jinit
from jinit.models import RoleError
from jinit.models.drawing.reinit import reinit

KEY = jax.random.key(0)


def leaves_of(tree):
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def linen(name, leaf="kernel"):
    return "['params']" + "".join(f"['{part}']" for part in name.split("/")) + f"['{leaf}']"


# --- models, with what is expected of their weights ---------------------------------------------


class Weight(NamedTuple):
    fan_in: int
    matrices: Callable[[np.ndarray], list[np.ndarray]]
    """applied, each [fan_in, outputs], from the leaf as it is stored"""


class Case(NamedTuple):
    apply: Callable[..., Any]
    variables: Any
    inputs: tuple[Any, ...]
    weights: dict[str, Weight]


def last_axis_out(leaf):
    return [leaf.reshape(-1, leaf.shape[-1])]


def in_groups(groups):
    """Of a kernel [*field, in / groups, out], whose outputs lie group by group."""
    return lambda leaf: np.split(leaf.reshape(-1, leaf.shape[-1]), groups, axis=1)


def of_linen(model, *inputs, weights):
    return Case(model.apply, jax.eval_shape(model.init, KEY, *inputs), inputs, weights)


def linen_conv(layer, fan_in, groups=1):
    kernel = {"['params']['kernel']": Weight(fan_in, in_groups(groups))}
    return lambda: of_linen(layer(), jnp.ones((2, 8, 8, 16)), weights=kernel)


def linen_transposed():
    """Of stride 2: every output meets one of the 2 x 2 taps, each a matrix of its own."""
    weights = {"['params']['kernel']": Weight(16, lambda leaf: [*leaf.reshape(4, 16, 8)])}
    model = nn.ConvTranspose(8, (2, 2), strides=(2, 2))
    return of_linen(model, jnp.ones((2, 8, 8, 16)), weights=weights)


def linen_attention():
    projection = Weight(24, lambda leaf: [leaf.reshape(24, 32)])
    weights = {linen(name): projection for name in ("query", "key", "value")}
    weights[linen("out")] = Weight(32, lambda leaf: [leaf.reshape(32, 24)])
    model = nn.MultiHeadDotProductAttention(num_heads=8, qkv_features=32)
    return of_linen(model, jnp.ones((2, 5, 24)), jnp.ones((2, 5, 24)), weights=weights)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.relu(nn.Dense(16)(x)), None


class Stacked(nn.Module):
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        block = nn.scan(
            Block, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=6
        )
        return block()(x, None)[0]


def linen_scan(axis=0):
    def matrices(leaf):
        return [leaf.take(i, axis) for i in range(6)]

    path = "['params']['ScanBlock_0']['Dense_0']['kernel']"
    return of_linen(Stacked(axis), jnp.ones((2, 16)), weights={path: Weight(16, matrices)})


def of_equinox(model, *inputs, weights):
    params, static = eqx.partition(model, eqx.is_inexact_array)
    apply = lambda params, *x: jax.vmap(eqx.combine(params, static))(*x)  # noqa: E731
    return Case(apply, params, inputs, weights)


def equinox_mlp():
    weight = lambda fan_in: Weight(fan_in, lambda leaf: [leaf.T])  # noqa: E731
    weights = {f".layers[{i}].weight": weight(fan_in) for i, fan_in in enumerate([8, 32, 32])}
    return of_equinox(eqx.nn.MLP(8, 12, 32, 2, key=KEY), jnp.ones((4, 8)), weights=weights)


def equinox_conv():
    def matrices(leaf):
        """Of a kernel [out, in / groups, *field]."""
        return [group.reshape(len(group), -1).T for group in np.split(leaf, 4)]

    model = eqx.nn.Conv2d(16, 32, 3, groups=4, key=KEY)
    weights = {".weight": Weight(4 * 9, matrices)}
    return of_equinox(model, jnp.ones((2, 16, 8, 8)), weights=weights)


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(4, 16, (3, 3), feature_group_count=2, rngs=rngs)
        self.dense = nnx.Linear(16, 12, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.relu(self.conv(x)))


def of_nnx():
    graph, state = nnx.split(NNX(nnx.Rngs(0)))
    conv, dense = (
        next(path for path in leaves_of(state) if name in path and "kernel" in path)
        for name in ("conv", "dense")
    )
    weights = {conv: Weight(9 * 2, in_groups(2)), dense: Weight(16, last_axis_out)}
    inputs = (jnp.ones((2, 6, 6, 4)),)
    return Case(lambda state, x: nnx.merge(graph, state)(x), state, inputs, weights)


def of_haiku(function, *inputs, weights):
    model = hk.without_apply_rng(hk.transform(function))
    return Case(model.apply, jax.eval_shape(model.init, KEY, *inputs), inputs, weights)


def haiku_gru():
    """Two gates in one product, and the candidate in another."""

    def two_steps(x, h):
        gru = hk.GRU(16)
        return gru(x, gru(x, h)[1])[0]

    together = Weight(8, lambda leaf: [leaf])
    split = Weight(16, lambda leaf: [leaf[:, :32], leaf[:, 32:]])
    weights = {"['gru']['w_i']": together, "['gru']['w_h']": split}
    return of_haiku(two_steps, jnp.ones((2, 8)), jnp.ones((2, 16)), weights=weights)


def haiku_convolutions():
    def function(x):
        x = hk.Conv2D(32, 3, name="plain")(x)
        return hk.DepthwiseConv2D(1, 3, name="depthwise")(x)

    weights = {
        "['plain']['w']": Weight(9 * 4, last_axis_out),
        "['depthwise']['w']": Weight(9, in_groups(32)),
    }
    return of_haiku(function, jnp.ones((2, 6, 6, 4)), weights=weights)


def plain_experts():
    params = {"experts": jnp.ones((4, 8, 6)), "layers": jnp.ones((3, 8, 8))}

    def apply(params, x):
        for i in range(3):
            x = jnp.tanh(x @ params["layers"][i])
        return jax.vmap(jnp.matmul)(jnp.stack([x] * 4), params["experts"])

    each = Weight(8, list)
    return Case(apply, params, (jnp.ones((2, 8)),), {"['experts']": each, "['layers']": each})


def jinits_own():
    net = jinit.MLP((8, *(16,) * 5, 4), norm="batch")
    params, state = jinit.init(KEY, net)
    apply = lambda params, x: jinit.forward(net, params, state, x, train=True)[0]  # noqa: E731
    weights = {f".runs[{i}].w": Weight(n, list) for i, n in enumerate([8, 16, 16])}
    return Case(apply, params, (jnp.ones((32, 8)),), weights)


CASES = {
    "linen grouped": linen_conv(lambda: nn.Conv(32, (3, 3), feature_group_count=4), 36, 4),
    "linen depthwise": linen_conv(lambda: nn.Conv(16, (5, 5), feature_group_count=16), 25, 16),
    "linen dilated": linen_conv(lambda: nn.Conv(8, (3, 3), kernel_dilation=2), 9 * 16),
    "linen transposed": linen_transposed,
    "linen attention": linen_attention,
    "linen scan": linen_scan,
    "linen scan on axis 1": lambda: linen_scan(1),
    "equinox mlp": equinox_mlp,
    "equinox grouped": equinox_conv,
    "nnx": of_nnx,
    "haiku gru": haiku_gru,
    "haiku convolutions": haiku_convolutions,
    "plain experts": plain_experts,
    "jinit": jinits_own,
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return CASES[request.param]()


def redrawn(case, key=KEY, **options):
    return reinit(key, case.apply, case.variables, *case.inputs, **options)


def test_every_weight_has_the_std_of_its_true_fan_in(case):
    fresh = redrawn(case)
    was, now = leaves_of(case.variables), leaves_of(fresh)
    assert jax.tree.structure(fresh) == jax.tree.structure(case.variables)
    assert {p: (x.shape, x.dtype) for p, x in now.items()} == {
        p: (x.shape, x.dtype) for p, x in was.items()
    }
    for path, weight in case.weights.items():
        entries = np.asarray(now[path], np.float64)
        std = math.sqrt(2 / weight.fan_in)
        # The standard errors of the std and of the mean of normal numbers.
        assert abs(entries.std() / std - 1) < 5 / math.sqrt(2 * entries.size), path
        assert abs(entries.mean() / std) < 5 / math.sqrt(entries.size), path
        assert len(np.unique(entries)) > 0.99 * entries.size, path  # no draw is used twice


def test_orthogonal_is_orthogonal_in_every_matrix_that_is_applied(case):
    now = leaves_of(redrawn(case, scheme="orthogonal", gain=2.0))
    for path, weight in case.weights.items():
        for matrix in weight.matrices(np.asarray(now[path], np.float64)):
            tall = matrix.shape[0] >= matrix.shape[1]
            product = matrix.T @ matrix if tall else matrix @ matrix.T
            np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5, err_msg=path)


@pytest.mark.parametrize("name", ["linen scan on axis 1", "equinox grouped", "haiku gru", "jinit"])
def test_mapped_over_keys_is_a_loop(name):
    """With orthogonal ones, whose decompositions are batched."""
    case = CASES[name]()
    keys = jax.random.split(KEY, 3)
    one = jax.jit(lambda key: redrawn(case, key, scheme="orthogonal"))
    mapped = jax.jit(jax.vmap(one))(keys)
    looped = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(one, keys))
    for path, leaf in leaves_of(mapped).items():
        np.testing.assert_array_equal(leaf, leaves_of(looped)[path], err_msg=path)


# --- the signal ---------------------------------------------------------------------------------

DEPTH, WIDTH, SEEDS = 30, 256, 16


class ReluMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        moments = []
        for _ in range(DEPTH + 1):
            z = nn.Dense(WIDTH)(x)
            moments.append(jnp.mean(jnp.square(z)))
            x = nn.relu(z)
        return jnp.stack(moments)


class ReluConv(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        z = nn.Conv(WIDTH, (3, 3), padding="CIRCULAR")(x)
        return nn.relu(z), jnp.mean(jnp.square(z))


class ReluCNN(nn.Module):
    """Its layers are stacked, and a loop goes through them."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            ReluConv, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH + 1
        )
        return layers()(x, None)[1]


class EquinoxMLP(eqx.Module):
    layers: list[eqx.nn.Linear]

    def __init__(self, key):
        keys = jax.random.split(key, DEPTH + 1)
        self.layers = [eqx.nn.Linear(WIDTH, WIDTH, use_bias=False, key=k) for k in keys]

    def __call__(self, x):
        moments = []
        for layer in self.layers:
            z = jax.vmap(layer)(x)
            moments.append(jnp.mean(jnp.square(z)))
            x = jax.nn.relu(z)
        return jnp.stack(moments)


def growth_per_layer(moments):
    """The geometric mean over layers and seeds.

    Its logarithm has, for a ReLU net of width n, about the mean -5/(2n) and the standard error
    sqrt(5 / (n depth seeds)): -0.010 and 0.0064 here.
    """
    logs = np.log(np.asarray(moments, np.float64))
    return math.exp(float(np.mean(logs[:, -1] - logs[:, 0])) / DEPTH)


def grown(apply, variables, x, keys):
    def one(key):
        return apply(reinit(key, apply, variables, x), x)

    return growth_per_layer(jax.jit(lambda keys: jax.lax.map(one, keys))(keys))


@pytest.mark.parametrize(
    ("model", "shape"),
    [(ReluMLP(), (32, WIDTH)), (ReluCNN(), (2, 4, 4, WIDTH))],
    ids=["mlp", "cnn"],
)
def test_he_keeps_the_signal_over_thirty_layers(model, shape):
    x = jax.random.normal(jax.random.key(1), shape)
    variables = jax.eval_shape(model.init, KEY, x)
    growth = grown(model.apply, variables, x, jax.random.split(jax.random.key(2), SEEDS))
    assert growth == pytest.approx(1, abs=0.03)


def test_he_keeps_the_signal_of_an_equinox_model_whose_own_start_loses_it():
    x = jax.random.normal(jax.random.key(1), (16, WIDTH))
    model = EquinoxMLP(KEY)
    # Its default is U(+-1/sqrt(in)), of variance 1/(3 in): each layer keeps a sixth.
    assert growth_per_layer(model(x)[None]) == pytest.approx(1 / 6, rel=0.1)
    params, static = eqx.partition(model, eqx.is_array)
    apply = lambda params, x: eqx.combine(params, static)(x)  # noqa: E731
    growth = grown(apply, params, x, jax.random.split(jax.random.key(2), SEEDS))
    assert growth == pytest.approx(1, abs=0.03)


# --- what is no weight --------------------------------------------------------------------------


class Language(nn.Module):
    tied: bool = False

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(400, 64)
        x = embed(tokens)
        x = x + self.param("position", nn.initializers.normal(), (7, 64))[None]
        x = nn.LayerNorm()(nn.relu(nn.Dense(64)(x)))
        return embed.attend(x) if self.tied else nn.Dense(400)(x)


@pytest.mark.parametrize("tied", [False, True])
def test_biases_scales_and_embeddings_by_the_stated_rules(tied):
    tokens = jnp.zeros((2, 7), jnp.int32)
    model = Language(tied)
    variables = jax.tree.map(lambda leaf: leaf + 3, model.init(KEY, tokens))
    now = leaves_of(reinit(KEY, model.apply, variables, tokens, gain=3.0))
    for path in (linen("Dense_0", "bias"), linen("LayerNorm_0", "bias"), "['params']['position']"):
        assert not now[path].any()
    assert (now[linen("LayerNorm_0", "scale")] == 1).all()
    table = np.asarray(now[linen("Embed_0", "embedding")])
    # A mean of 400 squared norms, each a mean of 64 squared normal numbers: std sqrt(2 / 64).
    squares = np.square(table).sum(axis=1)
    assert squares.mean() == pytest.approx(1, abs=5 * math.sqrt(2 / 64 / 400))
    rules = {"['params']['position']": "embedding"}
    now = leaves_of(reinit(KEY, model.apply, variables, tokens, rules=rules))
    squares = np.square(np.asarray(now["['params']['position']"])).sum(axis=1)
    assert squares.mean() == pytest.approx(1, abs=5 * math.sqrt(2 / 64 / 7))


def test_what_is_passed_on_as_it_was():
    def apply(p, x):
        return p["factor"][None] * (x @ p["w"][:8]) if p["on"] else x

    params = {
        "w": np.arange(30, dtype=np.float32).reshape(10, 3),
        "idle": jnp.arange(4.0),
        "count": jnp.arange(3),
        "factor": jnp.full((3,), 7.0),
        "on": True,
        "name": "linear",
    }
    given = {k: v for k, v in params.items() if k not in ("on", "name")}
    held = lambda p, x: apply({**p, "on": True}, x)  # noqa: E731
    with pytest.warns(UserWarning, match=r"does not depend on \['idle'\]: left as it was"):
        fresh = reinit(KEY, held, given, jnp.ones((2, 8)), rules={"['factor']": "other"})
    for name in ("idle", "count", "factor"):
        assert fresh[name] is given[name]
    np.testing.assert_array_equal(fresh["w"][8:], params["w"][8:])  # no product reads these rows
    assert (np.abs(fresh["w"][:8]) < 5).all()
    with pytest.warns(UserWarning, match="idle"):
        fresh = reinit(KEY, apply, params, jnp.ones((2, 8)), rules={"['factor']": "other"})
    assert (fresh["on"], fresh["name"]) == (True, "linear")


def test_variables_may_be_traced_too():
    apply = lambda p, x: p["factor"][None] * (x @ p["w"][:8])  # noqa: E731
    w = jnp.arange(30.0).reshape(10, 3)
    params = {"w": w, "factor": jnp.arange(3.0), "count": jnp.arange(3)}
    rules = {"['factor']": "other"}
    draw = lambda key, p: reinit(key, apply, p, jnp.ones((2, 8)), rules=rules)  # noqa: E731
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    found = jax.jit(jax.vmap(draw, (None, 0)))(KEY, both)
    np.testing.assert_array_equal(found["count"], both["count"])
    np.testing.assert_array_equal(found["factor"], both["factor"])
    np.testing.assert_array_equal(found["w"][:, 8:], both["w"][:, 8:])
    np.testing.assert_allclose(found["w"][1, :8], draw(KEY, params)["w"][:8], rtol=1e-6)


def test_batch_statistics_stay():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False)(nn.Dense(8)(x))
            return nn.Dense(3)(nn.relu(x))

    model, x = Model(), jax.random.normal(KEY, (4, 8))
    apply = lambda v, x: model.apply(v, x, mutable=["batch_stats"])  # noqa: E731
    variables = model.init(KEY, x)
    fresh = reinit(KEY, apply, variables, x)
    for was, now in zip(*map(jax.tree.leaves, (variables, fresh)), strict=True):
        assert was.shape == now.shape
    kept = (tree["batch_stats"]["BatchNorm_0"]["mean"] for tree in (fresh, variables))
    assert next(kept) is next(kept)


def test_half_precision_is_drawn_in_float32_and_rounded():
    apply = lambda p, x: x @ p["w"]  # noqa: E731
    wide = {"w": jnp.zeros((8, 6))}
    narrow = {"w": jnp.zeros((8, 6), jnp.bfloat16)}
    for options in ({"scheme": "he", "gain": 1.7}, {"scheme": "orthogonal"}):
        exact = reinit(KEY, apply, wide, jnp.ones((2, 8)), **options)["w"]
        rounded = reinit(KEY, apply, narrow, jnp.ones((2, 8), jnp.bfloat16), **options)["w"]
        assert rounded.dtype == jnp.bfloat16
        np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))


# --- schemes, gains, keys -----------------------------------------------------------------------


def dense(*widths, activation=jax.nn.relu):
    """A plain network, and its shapes."""
    params = {
        f"w{i}": jax.ShapeDtypeStruct(shape, jnp.float32)
        for i, shape in enumerate(itertools.pairwise(widths))
    }

    def apply(params, x):
        *hidden, last = params.values()
        for w in hidden:
            x = activation(x @ w)
        return x @ last

    return apply, params, jax.ShapeDtypeStruct((4, widths[0]), jnp.float32)


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
def test_the_automatic_gain_is_that_of_the_activation_that_follows(activation):
    apply, params, x = dense(8, 16, 16, 4, activation=jinit.ACTIVATIONS[activation])
    plain = reinit(KEY, apply, params, x, scheme="xavier")
    auto = reinit(KEY, apply, params, x, scheme="xavier", gain="auto")
    for name, gain in zip(plain, [jinit.gain(activation)] * 2 + [1.0], strict=True):
        np.testing.assert_allclose(auto[name], np.float32(gain) * plain[name], rtol=1e-6)


def test_the_automatic_gain_inside_a_jit():
    apply, params, x = dense(8, 16, 4, activation=jnp.tanh)
    draw = lambda key: reinit(key, apply, params, x, scheme="xavier", gain="auto")  # noqa: E731
    for eager, jitted in zip(*map(jax.tree.leaves, (draw(KEY), jax.jit(draw)(KEY))), strict=True):
        np.testing.assert_allclose(eager, jitted, rtol=1e-6)


def test_many_gains_are_one_trace_and_mapped_gains_a_loop():
    apply, params, x = dense(8, 16, 4)
    traces = []

    @jax.jit
    def draw(key, gain):
        traces.append(gain)
        return reinit(key, apply, params, x, gain=gain)

    keys, gains = jax.random.split(KEY, 4), jnp.linspace(0.5, 2, 4)
    looped = [draw(key, gain) for key, gain in zip(keys, gains, strict=True)]
    assert len(traces) == 1
    mapped = jax.jit(jax.vmap(draw))(keys, gains)
    of_one_key = jax.jit(jax.vmap(draw, (None, 0)))(keys[0], gains)
    for name in params:
        for i, one in enumerate(looped):
            np.testing.assert_array_equal(mapped[name][i], one[name])
            # Of one key XLA multiplies in another order: an ulp.
            expected = gains[i] / gains[0] * looped[0][name]
            np.testing.assert_allclose(of_one_key[name][i], expected, rtol=1e-6)


def test_a_layer_more_leaves_the_others_as_they_are_and_no_two_are_alike():
    shallow = reinit(KEY, *dense(8, 16, 16))
    deep = reinit(KEY, *dense(8, 16, 16, 16))
    for name in shallow:
        np.testing.assert_array_equal(shallow[name], deep[name])
    assert (np.asarray(deep["w1"]) != np.asarray(deep["w2"])).all()
    other = reinit(jax.random.key(1), *dense(8, 16, 16))
    assert (np.asarray(other["w1"]) != np.asarray(shallow["w1"])).all()


@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_every_scheme_draws_a_dense_and_a_convolutional_weight(name):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(16, use_bias=False)(nn.Conv(8, (2, 3), use_bias=False)(x))

    x = jnp.ones((1, 4, 4, 4))
    variables = jax.eval_shape(Model().init, KEY, x)
    fresh = reinit(KEY, Model().apply, variables, x, scheme=name)["params"]
    for path, kernel in leaves_of(fresh).items():
        own = jax.random.split(jax.random.key(3))[0]
        shape = kernel.shape if kernel.ndim > 2 else (1, *kernel.shape)
        other = np.asarray(jinit.scheme(name)(own, shape)).reshape(kernel.shape)
        kernel = np.asarray(kernel)
        # Another draw of the same scheme: the same zeros, as around the centre of a kernel.
        np.testing.assert_array_equal(kernel == 0, other == 0, err_msg=path)
        spread = np.linalg.norm(kernel) / max(np.linalg.norm(other), 1e-30)
        # |w|^2 of n normal numbers has a relative std of sqrt(2 / n), |w| half of it; here are two.
        assert not other.any() or abs(math.log(spread)) < 5 * math.sqrt(1 / kernel.size), path


def test_a_function_as_a_scheme_and_a_schemes_own_options():
    apply, params, x = dense(8, 16, 4)
    fresh = reinit(KEY, apply, params, x, scheme="normal", scale=0.02, gain=2.0)
    entries = np.asarray(fresh["w0"])
    assert entries.std() == pytest.approx(0.04, rel=5 / math.sqrt(2 * entries.size))
    shapes = []

    def own(key, shape, dtype):
        shapes.append(shape)
        return jnp.full(shape, 0.5, dtype)

    fresh = reinit(KEY, apply, params, x, scheme=own, gain=2.0)
    assert shapes == [(1, 8, 16), (1, 16, 4)]
    assert (fresh["w0"] == 1).all()


def test_a_sweep_over_the_gains_of_a_flax_model():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = nn.relu(nn.Dense(32)(x))
            return x

    model, x = Model(), jax.random.normal(KEY, (16, 8))
    variables = model.init(KEY, x)

    def run(key, *, gain):
        fresh = reinit(key, model.apply, variables, x, gain=gain)
        return {"moment": jnp.mean(jnp.square(model.apply(fresh, x)))}

    gains = [0.5, 1.0, 2.0]
    found = jinit.sweep(run, traced={"gain": gains}, seeds=2, progress=False)
    assert dict(found.sizes) == {"gain": 3, "seed": 2}
    moment = found.moment.transpose("gain", "seed").values
    # A ReLU net without biases is homogeneous: three gains of g make g^6 of the second moment.
    np.testing.assert_allclose(moment, np.power(gains, 6)[:, None] * moment[1:2], rtol=1e-4)


# --- what is not allowed ------------------------------------------------------------------------


@pytest.mark.bad_input
def test_keys_schemes_gains_and_options():
    apply, params, x = dense(8, 16, 4)
    with pytest.raises(ValueError, match="'rbg' kind"):
        reinit(jax.random.key(0, impl="rbg"), apply, params, x)
    with pytest.raises(ValueError, match="unknown scheme 'xavir'; did you mean 'xavier'"):
        reinit(KEY, apply, params, x, scheme="xavir")
    with pytest.raises(TypeError, match="scheme must be a name"):
        reinit(KEY, apply, params, x, scheme=3)
    with pytest.raises(TypeError, match="scheme 'he' has no option 'scale'"):
        reinit(KEY, apply, params, x, scale=0.1)
    with pytest.raises(TypeError, match="takes no options, got 'scale'"):
        reinit(KEY, apply, params, x, scheme=jax.nn.initializers.normal(), scale=0.1)
    with pytest.raises(ValueError, match="or 'auto', got 'relu'"):
        reinit(KEY, apply, params, x, gain="relu")
    with pytest.raises(ValueError, match=r"got an array of shape \(2,\)"):
        reinit(KEY, apply, params, x, gain=jnp.ones(2))
    with pytest.raises(ValueError, match=r"\[1, 8, 16\], got \[3\]"):
        reinit(KEY, apply, params, x, scheme=lambda key, shape, dtype: jnp.zeros(3, dtype))


def test_an_error_says_for_which_weight():
    apply, params, x = dense(8, 16, 4)
    with pytest.raises(ValueError, match="delta_orthogonal needs") as caught:
        reinit(KEY, apply, params, x, scheme="delta_orthogonal")
    assert "This was for ['w1']." in caught.value.__notes__


def test_a_weight_by_rule_that_no_product_reads():
    apply = lambda p, x: x * jnp.exp(p["w"])[None]  # noqa: E731
    for tool in (partial(reinit, KEY), jinit.audit):
        with pytest.raises(RoleError, match=r"no product .* reads it; leave .* 'other'"):
            tool(apply, {"w": jnp.ones(8)}, jnp.ones((2, 8)), rules={"['w']": "weight"})
        tool(apply, {"w": jnp.ones(8)}, jnp.ones((2, 8)), rules={"['w']": "other"})


def test_shapes_will_do_for_what_is_redrawn_and_not_for_what_stays():
    apply = lambda p, x: p["factor"][None] * (x @ p["w"])  # noqa: E731
    shapes = {"w": jnp.ones((8, 3)), "factor": jax.ShapeDtypeStruct((3,), jnp.float32)}
    fresh = reinit(KEY, apply, shapes, jnp.ones((2, 8)), rules={"['factor']": "scale"})
    assert (fresh["factor"] == 1).all()
    with pytest.raises(TypeError, match=r"\['factor'\] \(other\) stays as it is"):
        reinit(KEY, apply, shapes, jnp.ones((2, 8)), rules={"['factor']": "other"})


def test_nothing_is_said_of_a_model_that_uses_all():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reinit(KEY, *dense(8, 4))


# --- factors ------------------------------------------------------------------------------------


class Factors(nn.Module):
    """Norms of several kinds, and factors that are no norm's."""

    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm(name="ln")(nn.PReLU(name="prelu")(nn.Dense(16)(x)))
        h = nn.BatchNorm(use_running_average=True, name="bn")(nn.Dense(16)(h))
        layer_scale = self.param("layer_scale", constant(0.25), (16,))
        rezero = self.param("rezero", constant(0.25), ())
        h = h + layer_scale * nn.Dense(16)(nn.RMSNorm(name="rms")(h))
        return h + rezero * nn.Dense(16)(nn.GroupNorm(4, name="group")(h))


def quarters(tree):
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.25), tree)


def test_scales_of_norms_become_one_and_other_factors_stay():
    model, x = Factors(), jax.random.normal(KEY, (4, 8))
    with jax.numpy_rank_promotion("allow"):
        variables = quarters(model.init(KEY, x))
        new = reinit(KEY, model.apply, variables, x)["params"]
    for name in ("ln", "bn", "rms", "group"):
        np.testing.assert_array_equal(new[name]["scale"], 1)
    assert float(new["prelu"]["negative_slope"]) == 0.25
    assert float(new["rezero"]) == 0.25
    np.testing.assert_array_equal(new["layer_scale"], 0.25)


@pytest.mark.parametrize("features", [1, 8])
def test_the_scale_of_a_norm_of_one_channel_becomes_one(features):
    norm, x = nn.BatchNorm(use_running_average=False), jnp.ones((4, 3, 3, features))
    apply = lambda v, x: norm.apply(v, x, mutable=["batch_stats"])[0]  # noqa: E731
    with jax.numpy_rank_promotion("allow"):
        new = reinit(KEY, apply, quarters(norm.init(KEY, x)), x)
    np.testing.assert_array_equal(new["params"]["scale"], 1)


def haiku_rms(x):
    return hk.RMSNorm(-1)(x)


def haiku_layer(x):
    return hk.LayerNorm(-1, True, False)(x)


@pytest.mark.parametrize("norm", [haiku_rms, haiku_layer])
def test_scales_of_haikus_norms_become_one(norm):
    model, x = hk.without_apply_rng(hk.transform(norm)), jnp.ones((4, 8))
    with jax.numpy_rank_promotion("allow"):
        new = reinit(KEY, model.apply, quarters(model.init(KEY, x)), x)
    np.testing.assert_array_equal(jax.tree.leaves(new)[0], 1)


@pytest.mark.parametrize("norm", [eqx.nn.LayerNorm(8), eqx.nn.RMSNorm(8, use_bias=False)])
def test_scales_of_equinoxs_norms_become_one(norm):
    new = reinit(KEY, lambda m, x: jax.vmap(m)(x), quarters(norm), jnp.ones((4, 8)))
    np.testing.assert_array_equal(new.weight, 1)


@pytest.mark.parametrize("norm", [nnx.LayerNorm, nnx.RMSNorm, nnx.BatchNorm])
def test_scales_of_nnxs_norms_become_one(norm):
    graph, state = nnx.split(norm(8, rngs=nnx.Rngs(0)))
    with jax.numpy_rank_promotion("allow"):
        new = reinit(
            KEY, lambda s, x: nnx.merge(graph, s)(x), quarters(state), jnp.ones((4, 8))
        )  # fmt: skip
    np.testing.assert_array_equal(new["scale"][...], 1)


def test_a_transposed_convolution_keeps_the_signal_where_its_stride_does_not_divide_the_kernel():
    layer = nn.ConvTranspose(64, (3, 3), strides=(2, 2), use_bias=False, padding="CIRCULAR")
    x = jax.random.normal(KEY, (4, 16, 16, 64))
    variables = layer.init(KEY, x)
    for scheme in ("xavier", "orthogonal"):  # both keep a second moment
        drawn = reinit(KEY, layer.apply, variables, x, scheme=scheme)
        out = layer.apply(drawn, x)
        # 36864 weights, each with a relative error of sqrt(2) in its square
        assert float(jnp.mean(jnp.square(out))) == pytest.approx(1, abs=5 * (2 / 36864) ** 0.5)


def test_numbers_that_are_not_finite_change_no_draw():
    w = jnp.ones((8, 8))

    @jax.jit
    def drawn_again(w):
        return reinit(KEY, lambda w, x: x @ w, w, jnp.ones((2, 8)), scheme="orthogonal")

    drawn = [drawn_again(v) for v in (w, w.at[0, 0].set(jnp.nan), w.at[0, 0].set(jnp.inf))]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
