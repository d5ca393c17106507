"""What is predicted layer by layer for norms and residual branches, against real networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit import theory
from jinit.runtime import jit_once
from jinit.theory import MomentError
from jinit.theory.maps import correlations
from jinit.theory.maps.wide import follow
from jinit.theory.moments.pairs import pair

WIDTH, DEPTH, SEEDS, BATCH = 256, 6, 24, 64


def measure(net, scheme, seeds=SEEDS, batch=BATCH, **options):
    """log_pre, log_act and log_grad - log_grad[last] of the hidden layers, [seeds, DEPTH]."""

    def one(seed):
        init_key, x_key, probe_key = jax.random.split(jax.random.key(seed), 3)
        params, state = jinit.init(init_key, net, scheme, **options)
        x = jax.random.normal(x_key, (batch, net.dims[0]))
        seen = jinit.layer_signals(net, params, state, x, key=probe_key)
        return seen.log_pre[:-1], seen.log_act[:-1], seen.log_grad[:-1] - seen.log_grad[-2]

    found = jit_once(lambda seeds: jax.lax.map(one, seeds), level=1)(jnp.arange(seeds))
    return [np.asarray(each, np.float64) for each in found]


def agrees(runs, predicted, extra):
    error = runs.std(0, ddof=1) / math.sqrt(len(runs))
    assert np.all(error < 0.05)
    assert np.all(np.abs(runs.mean(0) - predicted) < 5 * error + extra), runs.mean(0) - predicted


@pytest.mark.parametrize(("name", "norm"), [("tanh", "batch"), ("gelu", "layer")])
def test_normalised_networks(name, norm):
    """5 standard errors, and a bias of 5 depth / width in the logarithms."""
    net = jinit.MLP((WIDTH,) * (DEPTH + 1) + (1,), activation=name, norm=norm, eps=1e-12)
    pre, act, grad = measure(net, "he", bias_var=0.1)
    predicted = theory.trajectory(
        name, depth=DEPTH, weight_var=2.0, bias_var=0.1, norm=norm,
        batch=BATCH if norm == "batch" else None,
    )  # fmt: skip
    extra = 5 * np.arange(1, DEPTH + 1) / WIDTH
    agrees(pre, predicted.log_pre, extra)
    agrees(act, predicted.log_act, extra)
    agrees(grad, predicted.log_grad, extra[::-1])


@pytest.mark.parametrize(("norm", "residual", "batch", "bias_var"), [
    (None, "plain", BATCH, 0.0), (None, "scaled", BATCH, 0.0), ("layer", "plain", BATCH, 0.0),
    # Large, as the prediction is for large batches; biases add to q but not to what it divides by.
    ("batch", "plain", 512, 0.5),
])  # fmt: skip
def test_residual_networks(norm, residual, batch, bias_var):
    """Square from the input on, so that the stream starts Gaussian; blocks keep it nearly so."""
    net = jinit.MLP((WIDTH,) * (DEPTH + 1) + (1,), activation="relu", norm=norm,
                    residual=residual, eps=1e-12)  # fmt: skip
    pre, act, grad = measure(net, "he", batch=batch, bias_var=bias_var)
    predicted = theory.trajectory(
        "relu", depth=DEPTH, weight_var=2.0, bias_var=bias_var, norm=norm, residual=True,
        branch_scale=1 / math.sqrt(DEPTH) if residual == "scaled" else 1.0,
    )  # fmt: skip
    extra = 5 * np.arange(1, DEPTH + 1) / WIDTH
    agrees(pre, predicted.log_pre, extra)
    agrees(act, predicted.log_act, extra)
    agrees(grad, predicted.log_grad, extra[::-1])


def test_residual_batch_norm_divides_by_what_varies_over_the_batch():
    """v_l = 1 + 2 Var phi l for ReLU under He, whatever the biases; factors of 1 + 1 / v_l."""
    depth = 16
    spread = 1 + (1 - 1 / math.pi) * np.arange(1, depth)
    exact = np.append(np.cumsum(np.log1p(1 / spread)[::-1])[::-1] / 2, 0.0)
    for bias_var in (0.0, 0.7):
        found = theory.trajectory(
            "relu", depth=depth, weight_var=2.0, bias_var=bias_var, norm="batch", residual=True
        )
        np.testing.assert_allclose(found.log_grad, exact, rtol=1e-10)
    # A simulation of 500 units and batches of 128, six nets, scatter .008 and less.
    np.testing.assert_allclose(exact[[0, 3, 7, 11]], [1.395, 0.839, 0.445, 0.190], atol=0.015)


def test_residual_growth_laws():
    """He blocks double; a norm inside the branch adds; 1 / sqrt(L) keeps (1 + 1/L)^L below e."""
    layers = 30
    index = np.arange(1, layers + 1)
    plain = theory.trajectory("relu", depth=layers, weight_var=2.0, residual=True)
    np.testing.assert_allclose(plain.q, 2.0**index, rtol=1e-12)
    normed = theory.trajectory("relu", depth=layers, weight_var=2.0, residual=True, norm="batch")
    np.testing.assert_allclose(normed.q, index + 1, rtol=1e-12)
    scaled = theory.trajectory(
        "relu", depth=layers, weight_var=2.0, residual=True, branch_scale=1 / math.sqrt(layers)
    )
    assert scaled.q[-1] == pytest.approx((1 + 1 / layers) ** layers, rel=1e-12)


def test_the_backward_factors_of_glorot_and_bengio():
    """ "Standard" U(±1/sqrt(n)), five tanh layers: the factor of the back-propagated variance."""
    found = theory.trajectory("tanh", depth=6, weight_var=1 / 3)
    factors = np.exp(2 * (found.log_grad[:-1] - found.log_grad[1:]))
    np.testing.assert_allclose(
        factors, [0.222369, 0.295187, 0.320420, 0.329003, 0.331887], atol=5.1e-7
    )


@pytest.mark.parametrize(("phi", "options", "expected"), [
    ("tanh", {"weight_var": 1.5, "bias_var": 0.05}, math.log(0.9386363)),
    ("relu", {"weight_var": 3.0}, math.log(1.5)),
    ("relu", {"norm": "batch"}, math.log(1.466942)),
    ("tanh", {"norm": "batch"}, math.log(1.177807)),
    ("relu", {"norm": "batch", "batch": 16}, math.log(1.589950)),
    ("relu", {"norm": "layer", "weight_var": 2.0}, 0.0),
    ("relu", {"residual": True, "weight_var": 2.0}, math.log(2)),
    ("relu", {"residual": True, "weight_var": 2.0, "norm": "batch", "q": 4.0}, math.log(1.25)),
])  # fmt: skip
def test_growth_of_the_gradient_per_layer(phi, options, expected):
    assert theory.gradient_log_slope(phi, **options) == pytest.approx(expected, abs=6e-7)


def test_the_slope_is_that_of_a_deep_trajectory():
    for options in ({"weight_var": 2.5, "bias_var": 0.1}, {"norm": "layer"}, {"norm": "batch"}):
        slope = theory.gradient_log_slope("tanh", **options)
        layers = theory.trajectory("tanh", depth=60, **{"weight_var": 1.0, **options})
        assert 2 * (layers.log_grad[-10] - layers.log_grad[-9]) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 6, 7, 50])
def test_following_a_cycle_is_what_going_through_it_is(depth):
    def step(state):
        return state * 10, (state + 1 if state < 5 else 3)  # 0 1 2 3 4 5 3 4 5 3 ...

    state, rows = 0, []
    for _ in range(depth):
        row, state = step(state)
        rows.append(row)
    assert follow(step, 0, depth) == rows


def test_where_layers_settle_depth_costs_nothing(monkeypatch):
    deep = theory.trajectory("tanh", depth=100_000, weight_var=1.5, bias_var=0.05)
    short = theory.trajectory("tanh", depth=300, weight_var=1.5, bias_var=0.05)
    np.testing.assert_array_equal(deep.q[:300], short.q)
    assert deep.q[-1] == pytest.approx(
        theory.length_fixed_point("tanh", weight_var=1.5, bias_var=0.05), rel=1e-12
    )
    calls = []
    monkeypatch.setattr(
        correlations, "pair", lambda *arguments: calls.append(None) or pair(*arguments)
    )
    ordered = theory.correlation_trajectory(
        "tanh", 0.5, depth=10_000, weight_var=1.2, bias_var=0.05
    )
    assert ordered[-1] == 1
    chaotic = theory.correlation_trajectory(
        "tanh", 0.5, depth=10_000, weight_var=4.0, bias_var=0.05
    )
    assert chaotic[-1] == pytest.approx(0.165065, abs=5e-7)
    assert len(calls) < 1000


def test_correlations_that_approach_are_not_cut_short():
    """ReLU: 1 - c falls as 9 pi^2 / (2 l^2), which never settles (Zhang et al. 2022)."""
    found = theory.correlation_trajectory("relu", 0.0, depth=600, weight_var=2.0)
    assert np.all(np.diff(found) > 0)
    assert (1 - found[-1]) * 600**2 == pytest.approx(9 * math.pi**2 / 2, rel=0.05)


def test_bands_are_those_of_finite_width():
    found = theory.trajectory("relu", depth=10, weight_var=2.0, width=50)
    scatter = theory.finite_width("relu", [50] * 10, weight_var=2.0, q=2.0)
    np.testing.assert_allclose(2 * found.log_act_band.std, np.sqrt(scatter.signal_var))
    np.testing.assert_allclose(found.log_grad_band.mean, scatter.gradient_mean / 2, atol=1e-12)


@pytest.mark.bad_input
def test_combinations_without_a_prediction_are_refused():
    def refused(message, **options):
        with pytest.raises(ValueError, match=message):
            theory.trajectory("tanh", **{"depth": 3, "weight_var": 1.0, **options})

    refused("unknown norm 'bath'; did you mean 'batch'", norm="bath")
    refused("predicted for plain networks only, got width=64 with norm='layer'", norm="layer",
            width=64)  # fmt: skip
    refused("batch=8 belongs to norm='batch' without residual", batch=8)
    refused("batch", norm="batch", batch=3)
    refused("depth must be an integer of at least 1, got 0", depth=0)
    refused("width must be an integer of at least 1, got 0", width=0)
    refused("depth must be at most 1000000, got 100000000: layers are followed one by one",
            depth=10**8)  # fmt: skip
    with pytest.raises(ValueError, match="depth must be at most 10000, got 10001"):
        theory.correlation_trajectory("tanh", 0.5, depth=10_001, weight_var=1.0)
    with pytest.raises(MomentError, match="relu cannot be followed in float64"):
        theory.trajectory("relu", depth=400, weight_var=200.0)
    with pytest.raises(ValueError, match="batch=8 belongs to norm='batch', got norm=None"):
        theory.gradient_log_slope("tanh", batch=8)
    with pytest.raises(ValueError, match="predicted for large batches only, got batch=8"):
        theory.gradient_log_slope("tanh", norm="batch", residual=True, batch=8)


@pytest.mark.bad_input
@pytest.mark.parametrize("options", [
    {"weight_var": 1e200}, {"weight_var": 2.0, "input_second_moment": 1e308},
    {"weight_var": 1e308, "input_second_moment": 1e308, "norm": "layer"},
    {"weight_var": 1e308, "input_second_moment": 1e308, "norm": "batch"},
    {"weight_var": 1e100, "residual": True, "branch_scale": 1e200},
])  # fmt: skip
def test_lengths_that_leave_float64_are_one_sentence(options):
    with pytest.raises(MomentError, match="pre-activations leave float64 where weight_var="):
        theory.trajectory("relu", depth=3, **options)


@pytest.mark.bad_input
def test_correlations_of_lengths_that_leave_float64():
    with pytest.raises(MomentError, match="pre-activations leave float64 where weight_var="):
        theory.correlation_trajectory("relu", 0.5, depth=3, weight_var=1e200)


def test_a_stream_of_zeros_has_no_norm():
    found = theory.trajectory(
        "relu", depth=3, weight_var=2.0, input_second_moment=0.0, norm="batch", residual=True,
        branch_scale=0.0,
    )  # fmt: skip
    assert found.log_grad[0] == math.inf
