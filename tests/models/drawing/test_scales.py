"""What MetaInit and GradInit scale, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.models.drawing.gradinit import gradinit
from jinit.models.drawing.metainit import metainit
from tests.models.drawing.relu_nets import (
    KEY,
    RANDOM,
    WIDTH,
    X,
    apply,
    loss,
    stacked,
    stacked_apply,
    start,
)

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
    # few steps, straight down: after many at this rate the scales swing, and rounding decides
    options = {"loss": loss, "steps": 5, "lower": 0.6}
    for found in (
        metainit(KEY, apply, params, X, learning_rate=1.0, **options),
        gradinit(apply, params, X, learning_rate=0.1, **options),
    ):
        scales = np.array([float(scale) for scale in found.scales.values()])
        assert scales.min() == pytest.approx(0.6, rel=1e-6)


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
        metainit(KEY, lambda p, t: apply(p, jax.nn.one_hot(t, WIDTH)), params, tokens, loss=loss)
    with pytest.raises(TypeError, match="inputs must be arrays with numbers, got only a shape"):
        gradinit(apply, params, RANDOM, loss=loss)
    with pytest.raises(ValueError, match="no weight to scale"):
        gradinit(lambda p, x: x + p["b"][None], {"b": jnp.ones(WIDTH)}, X, loss=loss)
