"""What is recommended for an activation holds in real networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit import theory
from jinit.activations import ACTIVATIONS
from jinit.runtime import jit_once


def own(x):
    """What no table knows."""
    return x * jnp.tanh(x)


@pytest.mark.parametrize("phi", [*ACTIVATIONS, own])
def test_a_recommendation_is_critical_as_a_scheme(phi):
    if phi == "softplus":
        with pytest.raises(ValueError, match=r"no plain network of softplus keeps .*norm='batch'"):
            theory.recommend(phi)
        return
    found = theory.recommend(phi, width=64)
    assert found.weight_var == pytest.approx(found.gain**2 * {"xavier": 1, "he": 2}[found.scheme])
    chi = theory.chi(phi, found.q, weight_var=found.weight_var)
    assert chi.perpendicular == pytest.approx(1, rel=1e-9)
    assert found.length_stable
    assert chi.parallel <= 1 + 1e-9
    assert found.saturated == (phi in ("sigmoid", "hard_sigmoid"))
    assert theory.recommend(phi, width=256).depth > found.depth > 5


def test_the_named_starts_come_out_as_the_papers_have_them():
    assert theory.recommend("relu")[:3] == ("he", pytest.approx(1.0), 0.0)
    assert theory.recommend("tanh")[:3] == ("xavier", pytest.approx(1.0), 0.0)


def test_the_depth_is_where_real_gradients_scatter_by_a_factor_of_e():
    """He-ReLU of width 16; the std of 400 draws errs by 3.5 %, and five times that is allowed."""
    width, seeds = 16, 400
    depth = theory.recommend("relu", width=width).depth
    net = jinit.MLP((width,) * (depth + 1) + (1,), activation="relu", bias=False)

    def one(seed):
        key = jax.random.key(seed)
        params, state = jinit.init(key, net, "he")
        seen = jinit.layer_signals(net, params, state, jnp.ones((1, width)), key=key)
        return seen.log_grad[0] - seen.log_grad[-2]

    scatter = np.std(jit_once(jax.vmap(one), level=1)(jnp.arange(seeds)), ddof=1)
    assert scatter == pytest.approx(1.0, rel=5 / math.sqrt(2 * (seeds - 1)))


@pytest.mark.parametrize("width", [128, 10_000, 10**7])
@pytest.mark.parametrize(("name", "per_layer"), [("relu", 5.0), ("identity", 2.0)])
def test_depth_is_in_proportion_to_width_however_wide(name, per_layer, width):
    """sqrt(per_layer L / n) / 2 = 1, up to the next order in 1/n."""
    depth = theory.recommend(name, width=width).depth
    assert depth == pytest.approx(4 * width / per_layer, rel=3 / width + 1e-3, abs=1)


@pytest.mark.parametrize(("name", "width"), [("sigmoid", 20_000), ("gelu", 10**7), ("relu6", 5000)])
def test_the_depth_past_what_is_followed_is_where_the_variance_gets_to(name, width):
    best = theory.recommend(name, width=width)
    assert best.depth > 2048
    given = {"weight_var": best.weight_var, "bias_var": best.bias_var, "q": best.q or 1.0}
    for share, within in ((1.02, 1), (0.98, -1)):
        layers = [width] * round(share * best.depth)
        variance = theory.finite_width(name, layers, **given).gradient_var[0] / 4
        assert within * (variance - 1) > 0


@pytest.mark.bad_input
def test_activations_without_advice_say_why():
    with pytest.raises(ValueError, match=r"exp keeps .*: lengths run away from its critical point"):
        theory.recommend(jnp.exp)
    with pytest.raises(ValueError, match="width must be an integer of at least 1, got 0"):
        theory.recommend("relu", width=0)
