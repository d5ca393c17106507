"""muP by hand for an MLP, a CNN and a transformer."""

import math
import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jinit.models.drawing.reinit import reinit
from jinit.models.scaling.mup import mup
from jinit.models.tracing.values import RoleError
from tests.models.scaling.widening import (
    KEY,
    TOKENS,
    VOCABULARY,
    LinenTransformer,
    X,
    apply,
    draw,
    lenient,
    loss,
    of_width,
)


def shapes_of(model, *inputs):
    return lenient(lambda: jax.eval_shape(model.init, KEY, *inputs))()


def linen(build, wide, narrow, *inputs, **options):
    target, base = build(wide), build(narrow)
    return mup(
        lenient(target.apply), shapes_of(target, *inputs), *inputs,
        base_variables=shapes_of(base, *inputs), base_apply=lenient(base.apply), **options,
    )  # fmt: skip


def multipliers(found):
    """path -> (class, init, SGD, Adam)"""
    return {row.path: (row.kind, row.init, row.sgd, row.adam) for row in found.rows}


def named(expected):
    """a/b -> ['params']['a']['b']"""
    return {
        "['params']" + "".join(f"[{part!r}]" for part in name.split("/")): what
        for name, what in expected.items()
    }


SCALAR = ("scalar", 1.0, 1.0, 1.0)


def vector(r, r_in=1.0):
    """A bias also undoes what its weight's fan_in has made of its start."""
    return ("input", math.sqrt(r_in), r, 1.0)


def last_bias(r_in):
    return ("scalar", math.sqrt(r_in), 1.0, 1.0)


# --- classes and multipliers ------------------------------------------------------------------


class LinenMLP(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(self.width)(x))
        x = nn.LayerNorm()(nn.tanh(nn.Dense(2 * self.width)(x)))
        return nn.Dense(3)(x)


MLP_INPUT = jax.ShapeDtypeStruct((5, 7), jnp.float32)
MLP_IS = {  # four times as wide
    "Dense_0/kernel": ("input", 1.0, 4.0, 1.0),
    "Dense_0/bias": vector(4.0),
    "Dense_1/kernel": ("hidden", 1.0, 1.0, 1 / 4),
    "Dense_1/bias": vector(4.0, 4.0),
    "LayerNorm_0/scale": vector(4.0),
    "LayerNorm_0/bias": vector(4.0),
    "Dense_2/kernel": ("output", 1 / 2, 1 / 4, 1 / 4),
    "Dense_2/bias": last_bias(4.0),
}


def test_an_mlp_is_table_3():
    assert multipliers(linen(LinenMLP, 32, 8, MLP_INPUT)) == named(MLP_IS)


class EquinoxMLP(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    last: eqx.nn.Linear
    activation: object

    def __init__(self, width, key=KEY):
        self.first = eqx.nn.Linear(7, width, key=key)
        self.second = eqx.nn.Linear(width, 2 * width, key=key)
        self.norm = eqx.nn.LayerNorm(2 * width)
        self.last = eqx.nn.Linear(2 * width, 3, key=key)
        self.activation = jax.nn.tanh

    def __call__(self, x):
        x = self.activation(self.first(x))
        return self.last(self.norm(self.activation(self.second(x))))


@lenient
def over_batch(model, x):
    return jax.vmap(model)(x)


def test_equinox_layout_gives_the_same_multipliers():
    model = EquinoxMLP(32)
    found = mup(over_batch, model, MLP_INPUT, base_variables=EquinoxMLP(8))
    paths = {
        "Dense_0/kernel": ".first.weight", "Dense_0/bias": ".first.bias",
        "Dense_1/kernel": ".second.weight", "Dense_1/bias": ".second.bias",
        "LayerNorm_0/scale": ".norm.weight", "LayerNorm_0/bias": ".norm.bias",
        "Dense_2/kernel": ".last.weight", "Dense_2/bias": ".last.bias",
    }  # fmt: skip
    assert multipliers(found) == {paths[name]: what for name, what in MLP_IS.items()}
    assert found.adam.second.weight == 1 / 4
    assert found.adam.activation == 1  # a function, which nothing trains


class LinenCNN(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        x = nn.relu(nn.Conv(self.width, (3, 3), feature_group_count=self.width)(x))
        x = nn.relu(nn.Conv(2 * self.width, (3, 3), feature_group_count=2)(x))
        x = nn.relu(nn.ConvTranspose(self.width, (2, 2), strides=(2, 2))(x))
        return nn.Dense(3)(x.mean((1, 2)))


def test_a_cnn_with_depthwise_grouped_and_transposed_convolutions():
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    found = linen(LinenCNN, 32, 8, images)
    convolutions = ("Conv_0", "Conv_1", "Conv_2", "ConvTranspose_0")
    assert multipliers(found) == named({
        "Conv_0/kernel": vector(4.0),
        "Conv_1/kernel": vector(4.0),  # 9 inputs to each of so many more channels
        "Conv_2/kernel": ("hidden", 1.0, 1.0, 1 / 4),
        "ConvTranspose_0/kernel": ("hidden", 1.0, 1.0, 1 / 4),
        "Dense_0/kernel": ("output", 1 / 2, 1 / 4, 1 / 4),
        **{f"{name}/bias": vector(4.0) for name in convolutions[:2]},
        **{f"{name}/bias": vector(4.0, 4.0) for name in convolutions[2:]},
        "Dense_0/bias": last_bias(4.0),
    })  # fmt: skip


def test_a_transformer_counts_all_heads():
    found = linen(LinenTransformer, 48, 12, TOKENS, embeddings="unit")
    hidden = ("hidden", 1.0, 1.0, 1 / 4)
    attention = "MultiHeadDotProductAttention_0"
    projections = [f"{attention}/{name}" for name in ("query", "key", "value", "out")]
    expected = {
        "Embed_0/embedding": vector(4.0),
        "positions": vector(4.0),
        **{f"LayerNorm_{i}/{name}": vector(4.0) for i in range(3) for name in ("scale", "bias")},
        **{f"{name}/kernel": hidden for name in (*projections, "Dense_0", "Dense_1")},
        **{f"{name}/bias": vector(4.0, 4.0) for name in (*projections, "Dense_0", "Dense_1")},
        "Dense_2/kernel": ("output", 1 / 2, 1 / 4, 1 / 4),
        "Dense_2/bias": last_bias(4.0),
    }
    assert multipliers(found) == named(expected)
    # More heads of the same size, or as many that are larger: nothing changes.
    more = lenient_pair(LinenTransformer(48, heads=8), LinenTransformer(12, heads=2))
    assert multipliers(more) == named(expected)


def lenient_pair(target, base):
    return mup(
        lenient(target.apply), shapes_of(target, TOKENS), TOKENS, embeddings="unit",
        base_variables=shapes_of(base, TOKENS), base_apply=lenient(base.apply),
    )  # fmt: skip


def test_an_embedding_comes_back_to_the_size_that_it_has_in_the_base():
    found = linen(LinenTransformer, 48, 12, TOKENS, embeddings="features")
    assert found.init["params"]["Embed_0"]["embedding"] == 2
    model = LinenTransformer(768)
    wide = linen(lambda n: LinenTransformer(n), 768, 12, TOKENS, embeddings="features")
    drawn = reinit(KEY, lenient(model.apply), shapes_of(model, TOKENS), TOKENS)
    start = wide.variables(drawn)["params"]["Embed_0"]["embedding"]
    entries = VOCABULARY * 768
    # std of a sample of normal entries, five standard errors
    assert float(start.std()) * math.sqrt(12) == pytest.approx(1, abs=5 / math.sqrt(2 * entries))


def test_a_tied_embedding_needs_a_factor_in_the_forward_pass():
    path = "['params']['Embed_0']['embedding']"

    def build(width):
        return LinenTransformer(width, tied=True, shrunk=width / 12)

    with pytest.raises(RoleError, match=re.escape(f"{path} is an embedding and a readout")):
        linen(build, 48, 12, TOKENS, embeddings="unit")
    with pytest.raises(RoleError, match="Divide the logits by 4,"):
        linen(build, 48, 12, TOKENS, embeddings="unit")
    found = linen(build, 48, 12, TOKENS, embeddings="unit", rules={path: "embedding"})
    assert multipliers(found)[path] == vector(4.0)
    # Nothing to say where it does not grow.
    assert multipliers(linen(build, 12, 12, TOKENS))[path] == SCALAR


def test_scanned_layers_are_like_layers_of_their_own():
    def apply(p, x):
        x = jnp.tanh(x @ p["in"])
        x = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["hidden"])[0]
        return x @ p["out"]

    def of(n, layers=3):
        shapes = {"in": (7, n), "hidden": (layers, n, n), "out": (n, 3)}
        return {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}

    found = mup(apply, of(32), MLP_INPUT, base_variables=of(8))
    assert found.adam == {"in": 1, "hidden": 1 / 4, "out": 1 / 4}
    assert found.sgd == {"in": 4, "hidden": 1, "out": 1 / 4}
    with pytest.raises(ValueError, match=r"\['hidden'\] with layers 2 in the base and 3 in the ta"):
        mup(apply, of(32), MLP_INPUT, base_variables=of(8, layers=2))


def test_unequal_ratios_and_narrower_targets():
    def apply(p, x):
        return jnp.tanh(jnp.tanh(x @ p["in"]) @ p["hidden"]) @ p["out"]

    def of(n, m):
        shapes = {"in": (7, n), "hidden": (n, m), "out": (m, 3)}
        return {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}

    found = mup(apply, of(32, 16), MLP_INPUT, base_variables=of(8, 8))
    assert (found.sgd["hidden"], found.adam["hidden"]) == (1 / 2, 1 / 4)
    assert found.init == {"in": 1, "hidden": 1, "out": 2**-0.5}
    back = mup(apply, of(8, 8), MLP_INPUT, base_variables=of(32, 16))
    for name in ("init", "sgd", "adam"):
        products = jax.tree.map(lambda a, b: a * b, getattr(found, name), getattr(back, name))
        assert products == pytest.approx({"in": 1, "hidden": 1, "out": 1})


def test_statistics_and_what_is_not_used_stay():
    def build(width):
        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                x = nn.BatchNorm(use_running_average=False)(nn.Dense(width)(x))
                return nn.Dense(3)(nn.relu(x))

        return Model()

    target, base = build(32), build(8)

    def run(model):
        return lenient(lambda v, x: model.apply(v, x, mutable=["batch_stats"]))

    found = mup(run(target), shapes_of(target, MLP_INPUT), MLP_INPUT,
                base_variables=shapes_of(base, MLP_INPUT), base_apply=run(base))  # fmt: skip
    kinds = {row.path: row.kind for row in found.rows}
    assert kinds["['batch_stats']['BatchNorm_0']['mean']"] == "untrained"
    assert found.sgd["batch_stats"]["BatchNorm_0"] == {"mean": 1.0, "var": 1.0}


# --- start and optimizer ------------------------------------------------------------------------


def test_the_start_is_the_drawn_one_times_its_multipliers():
    found, drawn = of_width(256), draw(KEY, 256)
    start = found.variables(drawn)
    np.testing.assert_array_equal(start["out"], drawn["out"] * np.float32(0.5))
    assert start["hidden"] is drawn["hidden"]
    zero = found.variables(drawn, zero_readout=True)
    assert not zero["out"].any()
    assert zero["in"] is drawn["in"]
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), drawn)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.variables(half))} == {np.dtype("bfloat16")}


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_updates_are_those_of_the_base_optimizer_times_its_multipliers(kind):
    found, params = of_width(256), draw(KEY, 256)
    base = {"sgd": optax.sgd(0.1, momentum=0.9), "adam": optax.adam(0.1)}[kind]
    gradient = jax.grad(lambda p: loss(apply(p, X)))(params)
    scaled = found.optimizer(base, kind=kind)
    with jax.numpy_dtype_promotion("standard"):
        plain, _ = base.update(gradient, base.init(params), params)
        own, _ = jax.jit(scaled.update)(gradient, scaled.init(params), params)
    factors = {"sgd": {"in": 4, "hidden": 1, "out": 0.25, "b": 4},
               "adam": {"in": 1, "hidden": 0.25, "out": 0.25, "b": 1}}[kind]  # fmt: skip
    for name, factor in factors.items():
        np.testing.assert_allclose(own[name], factor * plain[name], rtol=1e-6)


def test_biases_that_shrink_with_the_width_are_brought_back():
    """Equinox draws them as U(+-1/sqrt(fan_in)), as PyTorch does."""
    wide = EquinoxMLP(512)
    found = mup(over_batch, wide, MLP_INPUT, base_variables=EquinoxMLP(8))
    start = found.variables(wide)
    for layer, fan_in in (("second", 8), ("last", 16)):  # of the base
        bias = np.asarray(getattr(start, layer).bias)
        # Of n numbers from U(+-a): the mean square is a^2/3, with a relative error of
        # sqrt((9/5 - 1)/n).
        assert np.abs(bias).max() <= fan_in**-0.5
        allowed = 5 * math.sqrt(0.8 / bias.size)
        assert np.mean(bias**2) * 3 * fan_in == pytest.approx(1, abs=allowed)
    kept = mup(over_batch, wide, MLP_INPUT, base_variables=EquinoxMLP(8), biases="constant")
    assert kept.init.second.bias == kept.init.last.bias == 1


def test_a_cells_bias_follows_its_state():
    def cell(p, x):
        step = lambda h, x: (jnp.tanh(x @ p["i"] + h @ p["h"] + p["b"][None]),) * 2  # noqa: E731
        return jax.lax.scan(step, jnp.zeros((4, p["b"].shape[0])), x)[0] @ p["out"]

    def of(n):
        shapes = {"i": (5, n), "h": (n, n), "b": (n,), "out": (n, 3)}
        return {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}

    x = jax.ShapeDtypeStruct((6, 4, 5), jnp.float32)
    assert mup(cell, of(32), x, base_variables=of(8)).init["b"] == 2


def test_epsilon_follows_the_size_of_the_gradient():
    widths, seeds = (64, 512), 8
    sizes = {name: np.zeros((len(widths), seeds)) for name in draw(KEY, 8)}
    for i, n in enumerate(widths):
        found = of_width(n)
        slopes = jax.jit(jax.grad(lambda p: loss(apply(p, X))))
        for j, key in enumerate(jax.random.split(KEY, seeds)):
            for name, g in slopes(found.variables(draw(key, n))).items():
                sizes[name][i, j] = float(jnp.sqrt(jnp.mean(g**2))) / found.eps[name]
    x = np.log(widths) - np.mean(np.log(widths))
    for name, values in sizes.items():
        powers = x @ np.log(values) / (x @ x)
        allowed = 7 * powers.std(ddof=1) / math.sqrt(seeds)  # as rare as five, with 7 degrees
        assert abs(powers.mean()) < allowed + 0.03, name  # 1/width bends it at the lower end
    assert of_width(256).eps == {"in": 1 / 4, "hidden": 1 / 4, "out": 1, "b": 1 / 4}


def test_adamw_has_each_leafs_own_rate_epsilon_and_decay():
    found, params = of_width(256), draw(KEY, 256)
    mask = {"in": True, "hidden": True, "out": True, "b": False}
    whole = found.adamw(
        optax.constant_schedule(0.1), b2=0.99, eps=1e-3, weight_decay=0.3, mask=mask
    )
    slopes = [jax.tree.map(lambda p: 1e-3 * p, draw(k, 256)) for k in jax.random.split(KEY, 3)]
    slopes = [s | {"b": jnp.full(256, 1e-3)} for s in slopes]

    def run(optimizer, tree, gradients):
        state = optimizer.init(tree)
        for gradient in gradients:
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(gradient, state, tree)
                tree = optax.apply_updates(tree, updates)
        return tree

    end = run(whole, params, slopes)
    for name, leaf in params.items():
        alone = optax.adamw(
            0.1 * found.adam[name], b2=0.99, eps=1e-3 * found.eps[name],
            weight_decay=0.3 * found.decay[name] * mask[name],
        )  # fmt: skip
        expected = run(alone, leaf, [s[name] for s in slopes])
        np.testing.assert_allclose(end[name], expected, rtol=1e-5, atol=1e-6)
    # A rate times a decay that is the same at every width.
    assert {found.adam[n] * found.decay[n] for n in params} == {1}


def test_muon_needs_a_factor_only_where_the_fans_grow_apart():
    def apply(p, x):
        return jnp.tanh(jnp.tanh(x @ p["in"]) @ p["hidden"]) @ p["out"]

    def of(n, m):
        shapes = {"in": (7, n), "hidden": (n, m), "out": (m, 3)}
        return {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}

    assert mup(apply, of(32, 32), MLP_INPUT, base_variables=of(8, 8)).muon == {
        "in": 1, "hidden": 1, "out": 1 / 4  # which is Adam's
    }  # fmt: skip
    apart = {(32, 16): 2**-0.5, (16, 32): 1}  # optax has sqrt(2) for the second itself
    for widths, factor in apart.items():
        found = mup(apply, of(*widths), MLP_INPUT, base_variables=of(8, 8))
        assert found.muon["hidden"] == pytest.approx(factor)


def test_a_part_of_the_variables_is_trained():
    found = linen(LinenMLP, 32, 8, MLP_INPUT)
    params = shapes_of(LinenMLP(32), MLP_INPUT)["params"]
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    optimizer = found.optimizer(optax.sgd(1.0), part=lambda v: v["params"])
    updates, _ = optimizer.update(ones, optimizer.init(ones))
    assert float(updates["Dense_1"]["kernel"][0, 0]) == -0.25
    whole = found.optimizer(optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"part=lambda variables: variables\['params'\]"):
        whole.update(ones, whole.init(ones))


def test_the_table_shows_every_parameter():
    found = of_width(256)
    lines = str(found).splitlines()
    factors = ("fan_in", "fan_out", "init", "sgd", "adam", "muon", "eps", "decay")
    columns = ["parameter", "role", "class", *(f"x {name}" for name in factors)]
    assert re.split(r"\s{2,}", lines[0]) == columns
    assert lines[-1].split() == [
        "out", "weight", "output", "4", "1", "0.5", "0.25", "0.25", "0.25", "1", "4"
    ]  # fmt: skip
    frame = found.to_dataframe()
    assert list(frame["path"]) == [row.path for row in found.rows]
    assert list(frame["adam"]) == [row.adam for row in found.rows]


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_models_that_differ_in_more_than_width_are_refused():
    target = draw(KEY, 32)
    less = {name: leaf for name, leaf in draw(KEY, 8).items() if name != "b"}
    with pytest.raises(ValueError, match=r"none for \['b'\] in base_variables; the two models"):
        mup(apply, target, X, base_variables=less)
    with pytest.raises(ValueError, match=r"none for \['more'\] in variables"):
        mup(apply, target, X, base_variables=draw(KEY, 8) | {"more": jnp.ones(3)})

    def one(p, x):
        return x @ p["w"]

    def other(p, x):
        return x + p["w"]

    wide, narrow = {"w": jnp.ones((64, 8))}, {"w": jnp.ones((64,))}
    with pytest.raises(ValueError, match="with role 'bias' in the base and 'weight' in the target"):
        mup(one, wide, X, base_variables=narrow, base_apply=lambda p, x: other(
            {"w": p["w"][None]}, x))  # fmt: skip


@pytest.mark.bad_input
def test_widths_that_grow_and_shrink_are_refused():
    def model(p, x):
        return jnp.tanh(jnp.tanh(x @ p["in"]) @ p["hidden"]) @ p["out"]

    def of(n, m):
        shapes = {"in": (64, n), "hidden": (n, m), "out": (m, 3)}
        return {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}

    with pytest.raises(ValueError, match=r"\['hidden'\] that grows and \['hidden'\] that shrinks"):
        mup(model, of(32, 8), X, base_variables=of(8, 32))


@pytest.mark.bad_input
def test_another_kernel_or_vocabulary_is_no_width():
    def build(size):
        return nn.Conv(4, (size, size))

    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    with pytest.raises(ValueError, match="receptive_field 9 in the base and 25 in the target"):
        linen(build, 5, 3, images)
    with pytest.raises(ValueError, match="its entries grow x2, its fans x1 and x1"):
        linen(lambda rows: nn.Embed(rows, 4), 22, 11, TOKENS)


@pytest.mark.bad_input
def test_what_mup_has_to_be_told():
    with pytest.raises(ValueError, match=r"'Embed_0'\]\['embedding'\] is an embedding that widens"):
        linen(LinenTransformer, 48, 12, TOKENS)
    with pytest.raises(ValueError, match="unknown embeddings 'units'; did you mean 'unit'"):
        linen(LinenTransformer, 48, 12, TOKENS, embeddings="units")
    with pytest.raises(RoleError, match=r"\['b'\] grows with the width, and nothing is known"):
        mup(apply, draw(KEY, 32), X, base_variables=draw(KEY, 8), rules={"['b']": "other"})
    with pytest.raises(RoleError, match=r"\['b'\] is no weight, as no product"):
        mup(apply, draw(KEY, 32), X, base_variables=draw(KEY, 8), rules={"['b']": "weight"})
    target, base = LinenMLP(32), LinenMLP(8)
    with pytest.raises(Exception, match="shape") as caught:
        mup(lenient(target.apply), shapes_of(target, MLP_INPUT), MLP_INPUT,
            base_variables=shapes_of(base, MLP_INPUT))  # fmt: skip
    assert "give base_apply" in " ".join(caught.value.__notes__)


@pytest.mark.bad_input
def test_variables_and_kinds_that_do_not_fit_are_refused():
    found = of_width(256)
    with pytest.raises(ValueError, match=r"got shape \[64\] for \['b'\], which is \[256\]"):
        found.variables(draw(KEY, 64))
    drawn = draw(KEY, 256)
    del drawn["out"]
    with pytest.raises(ValueError, match=r"got none for \['out'\]"):
        found.variables(drawn)
    with pytest.raises(ValueError, match="unknown kind 'adamw'; did you mean 'adam'"):
        found.optimizer(optax.adam(1.0), kind="adamw")
