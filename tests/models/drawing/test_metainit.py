"""Scales learned by gradients: on badly scaled nets, against a dense Hessian, as pure functions."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jinit.models.drawing.metainit import gradient_quotient, gradinit, metainit
from jinit.models.drawing.reinit import reinit

KEY = jax.random.key(0)
WIDTH, DEPTH, CLASSES, BATCH = 32, 10, 10, 64
X = jax.random.normal(jax.random.key(5), (BATCH, WIDTH))
Y = jax.random.randint(jax.random.key(6), (BATCH,), 0, CLASSES)
RANDOM = jax.ShapeDtypeStruct(X.shape, X.dtype)


def loss(outputs):
    picked = jnp.take_along_axis(jax.nn.log_softmax(outputs), Y[:, None], 1)
    return -jnp.mean(picked)


def apply(params, x):
    """A ReLU net whose hidden layers lie in leaves of their own."""
    for layer in params["hidden"]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"][None])
    return x @ params["out"]


def stacked_apply(params, x):
    def body(x, layer):
        return jax.nn.relu(x @ layer["w"] + layer["b"][None]), None

    return jax.lax.scan(body, x, params["hidden"])[0] @ params["out"]


def shapes(depth=DEPTH, width=WIDTH):
    layer = {"w": (width, width), "b": (width,)}
    tree = {"hidden": [layer] * depth, "out": (width, CLASSES)}
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), tree, is_leaf=is_shape)


def start(gain, depth=DEPTH):
    """He's, times the gain: ReLU nets without biases are critical at 1."""
    return reinit(jax.random.key(1), apply, shapes(depth), X, gain=gain)


def stacked(params):
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["hidden"])
    return {"hidden": layers, "out": params["out"]}


# --- the gradient quotient ----------------------------------------------------------------------


def test_the_gradient_quotient_is_that_of_the_dense_hessian():
    x = X[:, :6]
    params = reinit(jax.random.key(1), apply, shapes(2, 6), x)
    params["hidden"][0]["b"] += 0.1
    flat, unflatten = ravel_pytree(params)

    def flat_loss(entries):
        return loss(apply(unflatten(entries), x))

    g = np.asarray(jax.grad(flat_loss)(flat), np.float64)
    hessian = np.asarray(jax.hessian(flat_loss)(flat), np.float64)
    sign = np.where(g >= 0, 1, -1)
    expected = np.mean(np.abs((g - hessian @ g) / (g + 1e-3 * sign) - 1))
    found = gradient_quotient(apply, params, x, loss=loss, eps=1e-3)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_gradient_quotient_of_a_linear_loss_is_what_eps_leaves():
    params = {"w": jnp.ones((4, 3))}
    x = jnp.ones((2, 4))
    linear = lambda outputs: jnp.mean(outputs)  # noqa: E731
    # Every gradient is 1/3, and the Hessian 0.
    expected = 1 - (1 / 3) / (1 / 3 + 0.1)
    found = gradient_quotient(lambda p, x: x @ p["w"], params, x, loss=linear, eps=0.1)
    assert float(found) == pytest.approx(expected, rel=1e-5)


# --- what the schemes are for -------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "factor"), [(0.5, 1.7), (3.0, 1000.0)])
def test_metainit_lowers_the_gradient_quotient_and_comes_nearer_to_criticality(gain, factor):
    """In the geometric mean over eight seeds, by that factor (measured: 2.2 and 800000)."""

    def learn(key, params):
        found = metainit(key, stacked_apply, params, RANDOM, loss=loss, steps=100)
        both = [
            gradient_quotient(stacked_apply, variables, X, loss=loss)
            for variables in (params, found.variables)
        ]
        return found.scales["['hidden']['w']"], found.history, *both

    keys = jax.random.split(KEY, 8)
    starts = stacked(jax.vmap(lambda key: reinit(key, apply, shapes(), X, gain=gain))(keys))
    starts["hidden"] = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), starts["hidden"])
    scales, history, before, after = jax.jit(jax.vmap(learn))(keys, starts)
    assert scales.shape == (8, DEPTH)
    assert history.shape == (8, 100)
    assert geometric_mean(after) < geometric_mean(before) / factor
    assert geometric_mean(history[:, -1]) < geometric_mean(history[:, 0]) / factor
    left = gain * geometric_mean(scales)
    assert abs(math.log(left)) < 0.7 * abs(math.log(gain))


def geometric_mean(numbers):
    return math.exp(np.mean(np.log(np.asarray(numbers, np.float64))))


def one_step(params, optimizer, size):
    """The loss after one step of the optimizer, and the norm of the gradient before it."""
    entries, unflatten = ravel_pytree(params)
    entries = np.asarray(entries)
    g = np.asarray(ravel_pytree(jax.grad(lambda p: loss(stacked_apply(p, X)))(params))[0])
    if optimizer == "adam":
        norm, direction = np.abs(g).sum(), np.sign(g)
    else:
        norm = np.sqrt(np.square(g).sum())
        direction = g / norm
    moved = unflatten(jnp.asarray(entries - np.float32(size) * direction))
    return float(loss(stacked_apply(moved, X))), float(norm)


@pytest.mark.parametrize(
    ("gain", "optimizer", "size", "gamma"),
    [
        (0.5, "sgd", 0.1, 1.0),
        (3.0, "sgd", 0.1, 1.0),
        (0.5, "adam", 1e-3, None),
        (3.0, "adam", 1e-3, 10.0),
    ],
)
def test_gradinit_lowers_the_loss_after_one_step_under_its_bound(gain, optimizer, size, gamma):
    params = stacked(start(gain))
    options = {"optimizer": optimizer, "step_size": size, "gamma": gamma}

    @jax.jit
    def learn(params):
        return gradinit(
            stacked_apply, params, X, loss=loss, steps=300, learning_rate=0.005, **options
        )

    found = learn(params)
    before, norm_before = one_step(params, optimizer, size)
    after, norm = one_step(found.variables, optimizer, size)
    assert float(found.history[0]) == pytest.approx(before, rel=1e-3)
    assert after < before - 5e-4  # a thousand times what float32 rounds
    assert after < math.log(CLASSES)  # better than a guess, from which 3.0 starts far away
    # Steps of Adam cross the bound a little before they turn back.
    assert gamma is None or norm < 2 * gamma
    assert gain < 1 or norm_before > 1e5


# --- what is scaled -----------------------------------------------------------------------------


def learners():
    meta = lambda apply, params, **more: metainit(  # noqa: E731
        KEY, apply, params, X, loss=loss, steps=5, **more
    )
    grad = lambda apply, params, **more: gradinit(  # noqa: E731
        apply, params, X, loss=loss, steps=5, **{"gamma": None, "clip": 1e6, **more}
    )
    return {"metainit": meta, "gradinit": grad}


@pytest.fixture(params=["metainit", "gradinit"])
def learn(request):
    return learners()[request.param]


def test_weights_are_scaled_and_nothing_else(learn):
    params = start(2.0, depth=2)
    params["hidden"][0]["b"] += 0.3
    params["hidden"][1]["w"] = params["hidden"][1]["w"].astype(jnp.bfloat16).astype(jnp.float32)
    given = {**params, "count": jnp.arange(3)}
    found = learn(apply, given)
    assert jax.tree.structure(found.variables) == jax.tree.structure(given)
    paths = ["['hidden'][0]['w']", "['hidden'][1]['w']", "['out']"]
    assert sorted(found.scales) == paths
    assert all(scale.shape == () and scale > 0 and scale != 1 for scale in found.scales.values())
    now = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(found[0])}
    for path, was in jax.tree_util.tree_leaves_with_path(given):
        path = jax.tree_util.keystr(path)
        scale = found.scales.get(path, jnp.ones((), was.dtype))
        np.testing.assert_allclose(now[path], scale * was, rtol=1e-6)


def test_stacked_layers_have_a_scale_each_as_if_they_lay_apart(learn):
    params = start(2.0, depth=3)
    apart, together = learn(apply, params), learn(stacked_apply, stacked(params))
    expected = [apart.scales[f"['hidden'][{i}]['w']"] for i in range(3)]
    np.testing.assert_allclose(together.scales["['hidden']['w']"], expected, rtol=1e-3)
    assert len(np.unique(np.asarray(expected))) == 3
    np.testing.assert_allclose(together.history, apart.history, rtol=1e-3)
    np.testing.assert_allclose(
        together.variables["hidden"]["w"], stacked(apart.variables)["hidden"]["w"], rtol=1e-3
    )


def test_layers_stacked_on_another_axis(learn):
    params = stacked(start(2.0, depth=3))
    moved = {
        **params,
        "hidden": {**params["hidden"], "w": jnp.moveaxis(params["hidden"]["w"], 0, 1)},
    }

    def moved_apply(p, x):
        hidden = {**p["hidden"], "w": jnp.moveaxis(p["hidden"]["w"], 1, 0)}
        return stacked_apply({**p, "hidden": hidden}, x)

    first, second = learn(stacked_apply, params), learn(moved_apply, moved)
    path = "['hidden']['w']"
    np.testing.assert_allclose(first.scales[path], second.scales[path], rtol=1e-3)
    back = jnp.moveaxis(second.variables["hidden"]["w"], 1, 0)
    np.testing.assert_allclose(back, first.variables["hidden"]["w"], rtol=1e-3)


class Language(nn.Module):
    tied: bool

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(CLASSES, 16)
        x = nn.LayerNorm()(nn.tanh(nn.Dense(16)(embed(tokens))))
        return embed.attend(x) if self.tied else nn.Dense(CLASSES)(x)


@pytest.mark.parametrize("tied", [False, True])
def test_tied_embeddings_are_scaled_and_others_are_not(tied):
    model = Language(tied)
    tokens = jax.random.randint(KEY, (BATCH,), 0, CLASSES)
    variables = model.init(KEY, tokens)
    found = metainit(KEY, model.apply, variables, tokens, loss=loss, steps=3)
    names = {path.split("'")[3] for path in found.scales}
    assert names == ({"Embed_0", "Dense_0"} if tied else {"Dense_0", "Dense_1"})


def test_a_weight_of_zeros_stays_so_and_does_no_harm(learn):
    params = start(2.0, depth=2)
    params["out"] = jnp.zeros_like(params["out"])
    found = learn(apply, params)
    assert not found.variables["out"].any()
    assert np.isfinite(found.history).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.variables))


def test_half_precision_is_scaled_in_float32_and_rounded(learn):
    wide = start(2.0, depth=2)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), wide)
    widened = lambda p, x: apply(jax.tree.map(lambda w: w.astype(jnp.float32), p), x)  # noqa: E731
    found = learn(widened, narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.variables)} == {jnp.dtype(jnp.bfloat16)}
    for path, scale in found.scales.items():
        assert scale.dtype == jnp.float32
        assert scale != 1, path


def test_scales_do_not_fall_below_their_bound():
    params = start(3.0, depth=3)
    options = {"loss": loss, "steps": 30, "lower": 0.5}
    for found in (
        metainit(KEY, apply, params, X, learning_rate=5.0, **options),
        gradinit(apply, params, X, learning_rate=0.5, **options),
    ):
        scales = np.array([float(scale) for scale in found.scales.values()])
        assert scales.min() == pytest.approx(0.5, rel=1e-6)


# --- pure functions -----------------------------------------------------------------------------


def test_inputs_given_by_shape_are_drawn_from_the_key_and_arrays_are_not():
    params = start(1.0, depth=2)
    keys = jax.random.split(KEY)
    drawn = [metainit(key, apply, params, RANDOM, loss=loss, steps=3) for key in keys]
    assert (np.asarray(drawn[0].history) != np.asarray(drawn[1].history)).all()
    given = [metainit(key, apply, params, X, loss=loss, steps=3) for key in keys]
    np.testing.assert_array_equal(given[0].history, given[1].history)


def test_metainit_mapped_over_seeds_and_learning_rates_is_a_loop():
    traces = []

    @jax.jit
    def learn(key, learning_rate):
        traces.append(key)
        params = reinit(key, apply, shapes(2), X, gain=2.0)
        return metainit(key, apply, params, RANDOM, loss=loss, steps=5, learning_rate=learning_rate)

    keys, rates = jax.random.split(KEY, 3), jnp.asarray([0.05, 0.1, 0.2])
    looped = [learn(key, rate) for key, rate in zip(keys, rates, strict=True)]
    assert len(traces) == 1
    mapped = jax.vmap(learn)(keys, rates)
    for i, one in enumerate(looped):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), row, one)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gradinit_mapped_over_seeds_and_bounds_is_a_loop(optimizer):
    @jax.jit
    def learn(key, gamma):
        params = reinit(key, apply, shapes(2), X, gain=2.0)
        return gradinit(
            apply, params, X, loss=loss, steps=5, gamma=gamma, step_size=1e-2, optimizer=optimizer
        )

    # The first bound holds from the start, and the last is never reached.
    keys, gammas = jax.random.split(KEY, 3), jnp.asarray([1e6, 2.0, 1e-3])
    looped = [learn(key, gamma) for key, gamma in zip(keys, gammas, strict=True)]
    mapped = jax.vmap(learn)(keys, gammas)
    for i, one in enumerate(looped):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), row, one)


# --- what is not allowed ------------------------------------------------------------------------


@pytest.mark.bad_input
def test_arguments_that_are_not_allowed():
    params = start(1.0, depth=1)
    tokens = jax.ShapeDtypeStruct((4,), jnp.int32)
    with pytest.raises(ValueError, match="'rbg' kind"):
        metainit(jax.random.key(0, impl="rbg"), apply, params, X, loss=loss)
    with pytest.raises(TypeError, match="loss must be a function of the model's output, got None"):
        metainit(KEY, apply, params, X, loss=None)
    with pytest.raises(ValueError, match=r"loss must give one real number .* take a mean"):
        gradinit(apply, params, X, loss=lambda outputs: outputs)
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        gradinit(apply, params, X, loss=loss, steps=0)
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        metainit(KEY, apply, params, X, loss=loss, learning_rate=0.0)
    with pytest.raises(ValueError, match="gamma must be positive"):
        gradinit(apply, params, X, loss=loss, gamma=-1.0)
    with pytest.raises(ValueError, match="unknown optimizer 'adm'; did you mean 'adam'"):
        gradinit(apply, params, X, loss=loss, optimizer="adm")
    with pytest.raises(TypeError, match="int32 cannot hold; give an array"):
        metainit(KEY, apply, params, tokens, loss=loss)
    with pytest.raises(TypeError, match="inputs must be arrays with numbers, got only a shape"):
        gradinit(apply, params, RANDOM, loss=loss)
    with pytest.raises(ValueError, match="no weight to scale"):
        gradinit(lambda p, x: x + p["b"][None], {"b": jnp.ones(WIDTH)}, X, loss=loss)
