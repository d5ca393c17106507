"""Correlations of pairs of inputs: by definition, near 1, in logs, and as theory says."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit import theory

RNG = np.random.default_rng(5)
PAIRS, WIDTH, DEPTH = 3, 12, 3
X, OTHER = RNG.normal(size=(2, PAIRS, WIDTH)).astype(np.float32)


def pre_activations(net, params, state, x, train):
    """Of every layer `[batch, units]`, in NumPy."""
    found, h = [], x.astype(np.float64)
    for i, layer in enumerate(jax.tree.map(np.float64, list(params))):
        last = i == len(params) - 1

        def norm(z, layer=layer, i=i):
            if net.norm is None:
                return z
            mean, var = (z.mean(0), z.var(0))
            if net.norm == "layer":
                mean, var = z.mean(1, keepdims=True), z.var(1, keepdims=True)
            elif not train:
                mean, var = (np.float64(a) for a in state[i])
            return layer.gamma * (z - mean) / np.sqrt(var + net.eps) + layer.beta

        if net.residual and not last and layer.w.shape[0] == layer.w.shape[1]:
            scale = net.branch_scale * (1.0 if layer.alpha is None else layer.alpha)
            h = h + scale * (np.tanh(norm(h)) @ layer.w + layer.b)
            found.append(h)
        else:
            found.append(h @ layer.w + layer.b)
            h = None if last else np.tanh(norm(found[-1]))
    return found


# Only batch norm asks whether it trains; every norm meets both orders of a layer's steps.
@pytest.mark.parametrize(
    ("norm", "residual", "train"),
    [
        (None, None, True), (None, None, False), (None, "plain", True), (None, "scaled", True),
        (None, "skipinit", True), ("batch", None, True), ("batch", None, False),
        ("batch", "skipinit", True), ("batch", "scaled", False), ("layer", None, True),
        ("layer", "plain", True),
    ],
)  # fmt: skip
def test_they_are_what_the_definition_says(norm, residual, train):
    net = jinit.MLP((WIDTH, *(9,) * DEPTH, 4), activation="tanh", norm=norm, residual=residual)
    shapes = jax.eval_shape(lambda key: jinit.init(key, net), jax.random.key(0))
    rng = np.random.default_rng(6)
    params, state = jax.tree.map(lambda a: 0.3 + 0.5 * rng.normal(size=a.shape), shapes)
    state = jax.tree.map(np.exp, state)  # a variance is positive
    with jax.enable_x64(True):  # the same formulas, to the same digits
        params, state = jax.tree.map(jnp.asarray, (params, state))
        found = jinit.correlations(net, params, state, X, OTHER, train=train)
    chex.assert_shape(list(found), (PAIRS, DEPTH + 1))
    got = jax.tree.map(np.asarray, found)
    for i, z in enumerate(pre_activations(net, params, state, np.concatenate([X, OTHER]), train)):
        u, v = np.split(z, 2)
        expected = (u * v).sum(1) / np.sqrt((u * u).sum(1) * (v * v).sum(1))
        np.testing.assert_allclose(got.correlation[:, i], expected, atol=1e-13)
        np.testing.assert_allclose(got.apart[:, i], 1 - expected, atol=1e-13)
        np.testing.assert_allclose(got.length[:, i], (u * u).mean(1), rtol=1e-13)
        np.testing.assert_allclose(got.other_length[:, i], (v * v).mean(1), rtol=1e-13)
        np.testing.assert_allclose(got.distance[:, i], ((u - v) ** 2).mean(1), rtol=1e-13)


def test_near_one_nothing_cancels():
    """Inputs 1e-5 apart are 5e-11 from correlation 1, of which float32 knows nothing."""
    net = jinit.MLP((WIDTH, WIDTH), bias=False)
    near = X + np.float32(1e-5) * OTHER
    u, v = X.astype(np.float64), near.astype(np.float64)
    unit = u / np.linalg.norm(u, axis=1)[:, None] - v / np.linalg.norm(v, axis=1)[:, None]
    got = jinit.correlations(net, [jinit.Layer(np.eye(WIDTH, dtype=np.float32))], None, X, near)
    np.testing.assert_allclose(got.apart[:, 0], (unit**2).sum(1) / 2, rtol=1e-4)
    assert (got.apart < 1e-9).all()
    assert (got.correlation == 1).all()
    same = jinit.correlations(net, [jinit.Layer(np.eye(WIDTH, dtype=np.float32))], None, X, 3 * X)
    np.testing.assert_allclose(same.apart, 0, atol=1e-12)


def test_float64_parameters_are_measured_in_float64():
    with jax.enable_x64(True):
        net = jinit.MLP((WIDTH, 40, 40, 40, 2), activation="tanh")
        params, state = jinit.init(jax.random.key(1), net, "xavier", dtype=jnp.float64)
        got = jinit.correlations(
            net, params, state, X.astype(np.float64), X + np.float64(1e-9) * OTHER
        )
        assert got.apart.dtype == jnp.float64
        assert (got.apart[:, :3] > 1e-20).all()
        assert (got.apart < 1e-16).all()


def test_they_are_right_where_lengths_leave_float32():
    net = jinit.MLP((WIDTH,) * 200 + (3,), bias=False)
    params, state = jinit.init(jax.random.key(0), net, "normal", scale=0.01)
    sure, _ = jinit.init(jax.random.key(0), net, "normal", scale=1.0)
    tiny, usual = (jinit.correlations(net, p, state, X, OTHER) for p in (params, sure))
    assert (tiny.length[:, -1] == 0).all()  # 1e-500 or so
    alive = np.isfinite(usual.correlation)
    assert alive[:, :20].all()
    np.testing.assert_allclose(tiny.correlation[alive], usual.correlation[alive], atol=1e-4)


def test_of_what_is_off_there_is_no_correlation():
    net = jinit.MLP((WIDTH, 5, 2), bias=False)
    params, state = jinit.init(jax.random.key(0), net, "constant", value=-1.0)
    got = jinit.correlations(net, params, state, np.abs(X), np.abs(OTHER))
    assert np.isfinite(got.correlation[:, 0]).all()
    assert np.isnan(got.correlation[:, 1]).all()
    assert (got.length[:, 1] == 0).all()


def test_mapped_over_seeds_and_gains_equals_one_by_one_in_one_trace():
    net = jinit.MLP((WIDTH, 8, 8, 3), activation="tanh", norm="batch")

    def measure(key, gain):
        params, state = jinit.init(key, net, "xavier", gain=gain)
        return jinit.correlations(net, params, state, X, OTHER)

    keys, gains = jax.random.split(jax.random.key(2), 3), jnp.asarray([0.5, 1.0, 3.0])
    counted = chex.assert_max_traces(measure, n=1)
    mapped = jax.jit(jax.vmap(jax.vmap(counted, (None, 0)), (0, None)))(keys, gains)
    one = jax.jit(measure)
    for i, j in np.ndindex(3, 3):
        for a, b in zip(mapped, one(keys[i], gains[j]), strict=True):
            np.testing.assert_allclose(a[i, j], b, rtol=2e-4, atol=1e-5)


SEEDS, WIDE, LAYERS = 24, 1000, 5


@pytest.mark.parametrize(
    ("activation", "weight_var", "bias_var"),
    [("tanh", 0.8, 0.1), ("tanh", 2.0, 0.05), ("relu", 2.0, 0.0)],
    ids=["ordered", "chaotic", "relu"],
)
def test_the_mean_over_seeds_is_theorys_trajectory(activation, weight_var, bias_var):
    """Width 1000: within five standard errors of the mean over seeds, and what is of order 1/width.

    A layer's bias is at most some 1 / width, and the next layers carry it on: layers / width.
    """
    net = jinit.MLP((WIDE,) * (LAYERS + 1) + (1,), activation=activation)
    one, other = np.random.default_rng(1).normal(size=(2, WIDE))
    one, other = (a / np.sqrt((a * a).mean()) for a in (one, other))
    other -= one * (one * other).mean()
    other /= np.sqrt((other * other).mean())
    starts = np.array([0.2, 0.9])
    pairs = starts[:, None] * one + np.sqrt(1 - starts**2)[:, None] * other
    inputs = np.stack([np.stack([one, one]), pairs]).astype(np.float32)

    def measure(key):
        gain = weight_var**0.5
        params, state = jinit.init(key, net, "xavier", gain=gain, bias_var=bias_var)
        return jinit.correlations(net, params, state, *inputs).correlation[:, :LAYERS]

    keys = jax.random.split(jax.random.key(3), SEEDS)
    seen = np.asarray(jax.jit(lambda keys: jax.lax.map(measure, keys))(keys), np.float64)
    for i, c in enumerate(starts):
        expected = theory.correlation_trajectory(
            activation, float(c), depth=LAYERS, weight_var=weight_var, bias_var=bias_var
        )
        error = seen[:, i].std(0, ddof=1) / np.sqrt(SEEDS)
        assert (np.abs(seen[:, i].mean(0) - expected) <= 5 * error + LAYERS / WIDE).all()
        assert (error < 0.02).all()


@pytest.mark.bad_input
def test_bad_input_is_one_sentence():
    net = jinit.MLP((WIDTH, 5, 2))
    params, state = jinit.init(jax.random.key(0), net)
    with pytest.raises(ValueError, match=r"pair one input with one, got 3 and 2; repeat"):
        jinit.correlations(net, params, state, X, OTHER[:2])
    with pytest.raises(ValueError, match=r"other must have shape \[batch, 12\].*got \[3, 5\]"):
        jinit.correlations(net, params, state, X, OTHER[:, :5])
    with pytest.raises(ValueError, match="x must be finite"):
        jinit.correlations(net, params, state, X * np.float32(np.nan), OTHER)
    with pytest.raises(ValueError, match="params belong to another network"):
        jinit.correlations(dataclasses.replace(net, dims=(12, 6, 2)), params, state, X, OTHER)
