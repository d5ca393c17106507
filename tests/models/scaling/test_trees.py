"""Trees for optimizers on models of four frameworks, and what optax's own make of them."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers as Numbers

import jinit
from jinit.models.scaling.following import following
from jinit.models.tracing.values import RoleError
from tests.zoo import entries as zoo

KEY = jax.random.key(3)
ENTRIES = {e.name: e for e in zoo.ENTRIES}
FRAMEWORKS = ("linen", "nnx", "equinox", "haiku")
QUICK = ("nnx-scan", "linen-mlp", "equinox-mlp", "haiku-mlp")
NAMES = [f"{f}-{kind}" for kind in ("transformer", "cnn", "scan", "mlp") for f in FRAMEWORKS]
EVERY = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n not in QUICK)) for n in NAMES]
)
SEEN = (*QUICK, "linen-transformer", "equinox-cnn", "jax-scan", "jax-indexed-stack", "jax-experts")
ALL = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n not in SEEN)) for n in ENTRIES]
)


@cache
def built(name):
    apply, variables, inputs = ENTRIES[name].build(KEY)
    return apply, variables, inputs, jinit.Model(apply, variables, *inputs)


@cache
def model_of(name):
    """From shapes, where that will do: nothing is drawn."""
    made = []

    def build(key):
        found = ENTRIES[name].build(key)
        made.append(found.apply)
        return found.variables, found.inputs

    try:
        variables, inputs = jax.eval_shape(build, KEY)
        return variables, jinit.Model(made[0], variables, *inputs)
    except TypeError:  # integers that the model computes with
        _, variables, _, model = built(name)
        return variables, model


def by_path(tree, variables):
    """path -> value, None included, of a tree like the variables."""
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(variables)]
    flat = jax.tree.structure(variables).flatten_up_to(tree)
    return dict(zip(paths, flat, strict=True))


# --- what they hold -----------------------------------------------------------------------------


@ALL
def test_labels_and_decay_of_every_model_are_as_written_by_hand(name):
    variables, model = model_of(name)
    expected = {p: what.role for p, what in ENTRIES[name].expected.items()}
    labels = by_path(model.labels(), variables)
    assert {p: label for p, label in labels.items() if label != "fixed"} == expected
    floating = {p for p, leaf in by_path(variables, variables).items()
                if jnp.issubdtype(leaf.dtype, jnp.floating)}  # fmt: skip
    assert {p for p, label in labels.items() if label == "fixed"} == set(labels) - floating
    for embeddings in (False, True):
        decays = ("weight", "tied", *["embedding"] * embeddings)
        mask = by_path(model.weight_decay_mask(embeddings=embeddings), variables)
        assert mask == {p: labels[p] in decays for p in labels}


@ALL
def test_axes_of_every_matrix_multiply_to_the_fans_written_by_hand(name):
    variables, model = model_of(name)
    shapes = by_path(jax.tree.map(np.shape, variables), variables)
    found = by_path(model.muon_dimension_numbers(readout=True), variables)
    for path, what in ENTRIES[name].expected.items():
        numbers = found[path]
        if what.role != "weight":
            assert numbers is None, path
            continue
        strided = what.fan_in * what.strides  # all taps, of which each output meets some
        fan_out = what.fan_out // what.receptive_field
        grouped = what.receptive_field > 1 and what.groups > 1
        if grouped or min(strided, fan_out) == 1:
            assert numbers is None, path
            continue
        rows, columns = (math.prod(shapes[path][a] for a in axes) for axes in numbers)
        assert (rows, columns) == (strided, fan_out), path
        others = math.prod(shapes[path]) // (rows * columns)
        assert others == what.layers * what.groups, path


def test_axes_written_by_hand():
    def numbers(name, **options):
        variables, model = model_of(name)
        found = by_path(model.muon_dimension_numbers(**options), variables)
        return {p: n and (n.reduction_axis, n.output_axis) for p, n in found.items()}

    linen = numbers("linen-transformer")
    own = "LinenLayer_1/MultiHeadDotProductAttention_0"
    assert linen[zoo.linen_path(f"{own}/query/kernel")] == ((0,), (1, 2))  # [d, heads, size]
    assert linen[zoo.linen_path(f"{own}/out/kernel")] == ((0, 1), (2,))
    assert linen[zoo.linen_path(f"{own}/out/bias")] is None
    assert linen[zoo.linen_path("Embed_0/embedding")] is None  # tied to the readout
    assert numbers("equinox-transformer")[".layers[0].up.weight"] == ((1,), (0,))
    assert numbers("equinox-scan")[".layers.up.weight"] == ((2,), (1,))  # five layers in front
    assert numbers("equinox-cnn")[".layers[0].weight"] == ((1, 2, 3), (0,))  # [out, in, h, w]
    assert numbers("linen-cnn")[zoo.linen_path("Conv_0/kernel")] == ((0, 1, 2), (3,))
    fused = numbers("jax-scanned-transformer")["['layers']['qkv']"]  # [layers, d, 3, heads, size]
    assert fused == ((1,), (2, 3, 4))
    # The last weights of all are a readout, unless it is asked for; so are tables.
    assert numbers("equinox-transformer")[".head.weight"] is None
    whole = numbers("equinox-transformer", readout=True, embeddings=True)
    assert whole[".head.weight"] == ((1,), (0,))
    assert whole[".embed.weight"] == ((0,), (1,))


def test_what_no_weight_follows_is_a_readout():
    def two_heads(p, x):
        h = jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"])
        return h @ p["policy"], jax.jit(lambda h: h @ p["value"])(h)

    def cell(p, x):
        """A recurrent matrix is read by its next step."""
        step = lambda h, x: (jnp.tanh(x @ p["in"] + h @ p["rec"]),) * 2  # noqa: E731
        return jax.lax.scan(step, jnp.zeros((4, 7)), x)[0]

    def last(apply, shapes, x):
        p = {name: jnp.ones(shape) for name, shape in shapes.items()}
        model = jinit.Model(apply, p, x)
        names = [model.trace.paths[model.trace.uses[i].view.leaf]
                 for i in following(model.trace).last]  # fmt: skip
        return {name.strip("[']") for name in names}

    shapes = {"a": (5, 7), "b": (7, 7), "policy": (7, 3), "value": (7, 2)}
    assert last(two_heads, shapes, jnp.ones((4, 5))) == {"policy", "value"}
    assert last(cell, {"in": (5, 7), "rec": (7, 7)}, jnp.ones((6, 4, 5))) == set()


# --- layers -------------------------------------------------------------------------------------


def test_layers_are_numbered_along_the_longest_way():
    variables, model = model_of("linen-transformer")
    found = by_path(model.layer_numbers(), variables)

    def at(name):
        return found[zoo.linen_path(name)]

    assert {at("Embed_0/embedding"), at("Embed_1/embedding")} == {0}
    for layer in (0, 1):
        own = f"LinenLayer_{layer}"
        attention = f"{own}/MultiHeadDotProductAttention_0"
        expected = {
            f"{own}/LayerNorm_0": 1, f"{attention}/query": 1, f"{attention}/key": 1,
            f"{attention}/value": 1, f"{attention}/out": 2, f"{own}/LayerNorm_1": 3,
            f"{own}/Dense_0": 3, f"{own}/Dense_1": 4,
        }  # fmt: skip
        for name, number in expected.items():
            leaves = [n for p, n in found.items() if p.startswith(zoo.linen_path(name))]
            assert leaves == [number + 4 * layer] * 2, name  # with bias or shift
    assert at("LayerNorm_0/scale") == at("LayerNorm_0/bias") == 9


@pytest.mark.parametrize("framework", [*FRAMEWORKS, "jax"])
def test_stacked_layers_have_a_number_each(framework):
    variables, model = model_of(f"{framework}-scan")
    expected = ENTRIES[f"{framework}-scan"].expected
    shapes = by_path(jax.tree.map(np.shape, variables), variables)
    for path, number in by_path(model.layer_numbers(), variables).items():
        if np.ndim(number) == 0:
            assert number == 10, path  # the readout
            continue
        step = [1, 3, 5, 7, 9] if "down" in path or "_1" in path else [0, 2, 4, 6, 8]
        if framework == "jax":
            step = [1, 3, 5, 7, 9] if path.endswith(("['down']", "['c']")) else [0, 2, 4, 6, 8]
        assert number.shape == (5,) + (1,) * (len(shapes[path]) - 1), path
        assert number.ravel().tolist() == step, path
        assert expected[path].layers in (1, 5)


def test_backwards_nested_indexed_and_shared_loops():
    def numbers(apply, x, **shapes):
        p = {name: jnp.ones(shape) for name, shape in shapes.items()}
        return jinit.models.layer_numbers(apply, p, x)

    def layer(h, w):
        return jnp.tanh(h @ w), None

    x = jnp.ones((4, 7))
    back = numbers(lambda p, x: jax.lax.scan(layer, x, p["w"], reverse=True)[0], x, w=(3, 7, 7))
    assert back["w"].ravel().tolist() == [2, 1, 0]

    def nested(p, x):
        inner = lambda h, w: (jax.lax.scan(layer, h, w)[0], None)  # noqa: E731
        return jax.lax.scan(inner, x, p["w"])[0] @ p["out"]

    found = numbers(nested, x, w=(2, 3, 7, 7), out=(7, 2))
    assert found["w"].squeeze((2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["out"] == 6

    def indexed(p, x):
        for i in range(3):
            x = jnp.tanh(x @ p["w"][i] + p["b"][i][None])
        return x

    found = numbers(indexed, x, w=(3, 7, 7), b=(3, 7))
    assert found["w"].shape == (3, 1, 1)
    assert found["b"].ravel().tolist() == [0, 1, 2]

    def shared(p, x):
        step = lambda h, x: (jnp.tanh(x @ p["in"] + h @ p["rec"] + p["b"][None]),) * 2  # noqa: E731
        h = jax.lax.scan(step, jnp.zeros((4, 7)), x)[0]
        return jnp.tanh(h @ p["again"]) @ p["again"] @ p["out"]

    shapes = {"in": (5, 7), "rec": (7, 7), "b": (7,), "again": (7, 7), "out": (7, 2)}
    found = numbers(shared, jnp.ones((9, 4, 5)), **shapes)
    assert found == {"in": 0, "rec": 0, "b": 0, "again": 1, "out": 3}


def test_a_norm_goes_with_the_weight_before_it_or_on_a_stream_with_the_next():
    variables, model = model_of("linen-resnet-train")
    found = by_path(model.layer_numbers(), variables)
    # stem 0; blocks of 1, 2 and 3, 4; head 5. The first norm of the first block reads the stem.
    scales = {"LinenBlock_0/BatchNorm_0": 0, "LinenBlock_0/BatchNorm_1": 1,
              "LinenBlock_1/BatchNorm_0": 3, "LinenBlock_1/BatchNorm_1": 3,
              "BatchNorm_0": 5}  # fmt: skip
    for name, number in scales.items():
        for leaf in ("scale", "bias"):
            assert found[zoo.linen_path(f"{name}/{leaf}")] == number, name


# --- optax --------------------------------------------------------------------------------------


def gradient(name):
    apply, _, inputs, model = built(name)

    def loss(floats):
        out = jax.tree.leaves(apply(model.rebuilt(floats), *inputs))[0]
        return jnp.sum(jax.random.normal(KEY, out.shape) * out.astype(jnp.float32))

    return model.rebuilt(jax.jit(jax.grad(loss))(model.floats))


def given(tree):
    """optax calls what is callable, as a tree is that is a module of Equinox."""
    return (lambda _: tree) if callable(tree) else tree


def step(optimizer, gradients, variables):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = optimizer.init(variables)
        updates, _ = jax.jit(optimizer.update)(gradients, state, variables)
        return updates, optax.apply_updates(variables, updates)


@EVERY
def test_a_step_of_muon_is_orthogonal_where_it_says_and_adams_elsewhere(name):
    _, variables, _, model = built(name)
    numbers = model.muon_dimension_numbers()
    gradients = gradient(name)
    muon = optax.contrib.muon(
        1.0,
        muon_weight_dimension_numbers=given(numbers),
        adam_learning_rate=1e-2,
        ns_steps=8,
        nesterov=False,
    )
    updates, new = step(muon, gradients, variables)
    assert jax.tree.structure(new) == jax.tree.structure(variables)
    found, slopes = by_path(updates, variables), by_path(gradients, variables)
    looked = 0
    for path, own in by_path(numbers, variables).items():
        update = np.asarray(found[path])
        if own is None:  # Adam's first step is the sign
            large = np.abs(slopes[path]) > 1e-5
            np.testing.assert_allclose(np.abs(update)[large], 1e-2, rtol=0.01)
            continue
        others = tuple(a for a in range(update.ndim) if a not in sum(map(tuple, own), ()))
        rows, columns = (math.prod(update.shape[a] for a in axes) for axes in own)
        matrices = update.transpose(*others, *own[0], *own[1]).reshape(-1, rows, columns)
        values = np.linalg.svd(matrices, compute_uv=False) / math.sqrt(max(1, columns / rows))
        slope = np.asarray(slopes[path]).transpose(*others, *own[0], *own[1])
        rank = np.linalg.matrix_rank(slope.reshape(-1, rows, columns), rtol=1e-3).min()
        # Its iteration leaves singular values between 0.7 and 1.2, of what has any slope.
        assert values.max() < 1.25, path
        assert values[:, :rank].min() > 0.6, path
        looked += 1
    assert looked >= 2


@EVERY
def test_masked_decay_shrinks_what_the_mask_names(name):
    _, variables, _, model = built(name)
    mask = model.weight_decay_mask()
    nothing = jax.tree.map(jnp.zeros_like, variables)
    for optimizer in (
        optax.adamw(1.0, weight_decay=0.1, mask=given(mask)),
        optax.masked(optax.add_decayed_weights(-0.1), given(mask)),
    ):
        _, new = step(optimizer, nothing, variables)
        masks, olds = by_path(mask, variables), by_path(variables, variables)
        for path, leaf in by_path(new, variables).items():
            np.testing.assert_allclose(leaf, olds[path] * (0.9 if masks[path] else 1), rtol=1e-6)


@EVERY
def test_multi_transform_moves_each_group_by_its_own_rate_and_layers_by_theirs(name):
    _, variables, _, model = built(name)
    rates = {"weight": 1.0, "tied": 2.0, "embedding": 3.0, "bias": 4.0, "scale": 5.0}
    groups = {role: optax.sgd(rate) for role, rate in rates.items()}
    groups |= dict.fromkeys(("statistic", "other", "unused", "fixed"), optax.set_to_zero())
    ones = jax.tree.map(jnp.ones_like, variables)
    updates, _ = step(optax.multi_transform(groups, given(model.labels())), ones, variables)
    labels = by_path(model.labels(), variables)
    for path, update in by_path(updates, variables).items():
        np.testing.assert_array_equal(update, -rates[labels[path]])
    decayed = jax.tree.map(lambda u, n: u * 0.5 ** np.float32(n), ones, model.layer_numbers())
    numbers = by_path(model.layer_numbers(), variables)
    for path, leaf in by_path(decayed, variables).items():
        np.testing.assert_array_equal(leaf, np.broadcast_to(0.5 ** numbers[path], leaf.shape))


def test_integers_and_statistics_are_left_alone():
    def run(p, x):
        h = (x - p["mean"][None]) * jax.lax.rsqrt(p["var"][None] + 1e-5)
        return h @ p["w"] * p["count"].astype(jnp.float32) + p["b"][None]

    variables = {"w": jnp.ones((5, 3)), "b": jnp.ones(3), "mean": jnp.zeros(5),
                 "var": jnp.ones(5), "count": jnp.int32(2), "idle": jnp.ones(2)}  # fmt: skip
    labels = jinit.models.labels(run, variables, jnp.ones((4, 5)))
    assert labels == {"w": "weight", "b": "bias", "mean": "statistic", "var": "statistic",
                      "count": "fixed", "idle": "unused"}  # fmt: skip
    groups = dict.fromkeys(("weight", "bias"), optax.adam(1e-2))
    groups |= dict.fromkeys(("statistic", "fixed", "unused"), optax.set_to_zero())
    ones = jax.tree.map(jnp.ones_like, variables)
    updates, _ = step(optax.multi_transform(groups, labels), ones, variables)
    assert {name for name, update in updates.items() if np.any(update)} == {"w", "b"}


def test_shapes_alone_and_a_model_of_many_billions():
    """Nothing as large as a leaf is ever made."""
    d, layers = 8192, 80
    shapes = {"embed": (128256, d), "up": (layers, d, 28672), "down": (layers, 28672, d),
              "norm": (layers, d), "head": (d, 128256)}  # fmt: skip
    p = {name: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for name, shape in shapes.items()}

    def apply(p, tokens):
        def block(x, own):
            h = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True)) * own["norm"]
            return x + jax.nn.silu(h @ own["up"]) @ own["down"], None

        stack = {name: p[name] for name in ("up", "down", "norm")}
        x = jax.lax.scan(block, p["embed"][tokens], stack)[0]
        return x @ p["head"]

    with jax.numpy_rank_promotion("allow"):
        model = jinit.Model(apply, p, jax.ShapeDtypeStruct((1, 16), jnp.int32))
    assert model.muon_dimension_numbers()["up"] == Numbers((1,), (2,))
    assert model.layer_numbers()["norm"].ravel().tolist() == list(range(1, 160, 2))
    assert model.layer_numbers()["head"] == 161


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_an_old_optax_and_a_leaf_of_no_known_use_say_so(monkeypatch):
    _, model = model_of("jax-scan")
    monkeypatch.delattr(optax.contrib, "MuonDimensionNumbers")
    with pytest.raises(ImportError, match=r"install optax 0\.2\.7 or later"):
        model.muon_dimension_numbers()
    monkeypatch.undo()

    def odd(p, x):
        return jnp.linalg.solve(p["w"], x)

    for tree in ("labels", "weight_decay_mask", "muon_dimension_numbers", "layer_numbers"):
        call = partial(getattr(jinit.models, tree), odd, {"w": jnp.eye(3)}, jnp.ones((3, 2)))
        with pytest.raises(RoleError, match=r"nothing certain of \['w'\]"):
            call()
        call(rules={"['w']": "other"})
