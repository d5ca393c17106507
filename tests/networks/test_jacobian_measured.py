"""Spectra of Jacobians of real networks: against jax.jacobian, LAPACK and theory."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit import theory

RNG = np.random.default_rng(7)
X = RNG.normal(size=(3, 6))


def net_of(dims, **options):
    return jinit.MLP(dims, activation="tanh", **options)


def drawn(net):
    """Arrays in which every leaf matters."""
    rng = np.random.default_rng(8)
    shapes = jax.eval_shape(lambda key: jinit.init(key, net), jax.random.key(0))
    params, state = jax.tree.map(lambda a: 0.2 + 0.5 * rng.normal(size=a.shape), shapes)
    return jax.tree.map(jnp.asarray, (params, jax.tree.map(np.exp, state)))


DEEP, SQUARE = (6, 8, 8, 8, 3), (6, 6, 6, 4)  # the second has a branch round its first layer


# Only batch norm asks whether it trains.
@pytest.mark.parametrize(
    ("dims", "norm", "residual", "train"),
    [
        *((DEEP, norm, residual, True) for norm in (None, "batch", "layer")
          for residual in (None, "scaled")),
        (DEEP, None, None, False), (DEEP, "batch", None, False), (DEEP, "batch", "scaled", False),
        (SQUARE, None, None, True), (SQUARE, None, "scaled", True),
        (SQUARE, "batch", "scaled", True), (SQUARE, "layer", "scaled", False),
    ],
)  # fmt: skip
def test_with_the_readout_it_is_that_of_jax_jacobian(dims, norm, residual, train):
    with jax.enable_x64(True):
        net = net_of(dims, norm=norm, residual=residual)
        params, state = drawn(net)
        got = jinit.measure_jacobian_spectrum(net, params, state, X, readout=True, train=train)
        forward = lambda x: jinit.forward(net, params, state, x, train=train)[0]  # noqa: E731
        whole = jax.jit(jax.jacobian(forward))(jnp.asarray(X))
        assert got.dtype == jnp.float64
        assert got.shape == (3, dims[-1])
        for i in range(3):
            j = np.asarray(whole[i, :, i])
            np.testing.assert_allclose(got[i], np.linalg.eigvalsh(j @ j.T), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_without_the_readout_it_ends_with_the_last_activation(bias):
    with jax.enable_x64(True):
        net = net_of((6, 8, 8, 3), bias=bias)
        params, _ = jinit.init(jax.random.key(0), net, "xavier", dtype=jnp.float64)
        got = jinit.measure_jacobian_spectrum(net, params, None, X)
        h, j = X, np.broadcast_to(np.eye(6), (3, 6, 6))
        for layer in params[:-1]:
            h = np.tanh(h @ np.asarray(layer.w))
            j = (1 - h**2)[:, :, None] * (np.asarray(layer.w).T @ j)
        # J is [8, 6], and two of its eight eigenvalues are zero.
        expected = np.linalg.eigvalsh(j @ np.swapaxes(j, 1, 2))
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
        assert (got[:, :2] == 0).all()


def test_mapped_over_seeds_equals_one_by_one_in_one_trace():
    net = net_of((6, 7, 7, 2))

    def measure(key, gain):
        params, state = jinit.init(key, net, "xavier", gain=gain)
        return jinit.measure_jacobian_spectrum(net, params, state, X.astype(np.float32))

    keys, gains = jax.random.split(jax.random.key(2), 3), jnp.asarray([0.5, 1.0, 3.0])
    mapped = jax.jit(jax.vmap(chex.assert_max_traces(measure, n=1)))(keys, gains)
    assert mapped.shape == (3, 3, 7)
    for i in range(3):
        np.testing.assert_allclose(mapped[i], jax.jit(measure)(keys[i], gains[i]), atol=1e-5)


SEEDS, WIDE, LAYERS = 12, 300, 4


@pytest.mark.parametrize("scheme", ["xavier", "orthogonal"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_moments_over_seeds_are_theorys(activation, scheme):
    """Within five standard errors, and what is of order layers / width in mean and second moment.

    Relative to infinite width the mean changes by some layers / width, the second moment by up to
    four times that (products of two).
    """
    q, bias_var = 0.5, 0.0
    weights = "orthogonal" if scheme == "orthogonal" else "gaussian"
    if activation == "tanh":
        point = theory.critical("tanh", q=q)
        weight_var, bias_var = point.weight_var, point.bias_var
    else:
        weight_var = 2.0
    expected = theory.jacobian_spectrum(
        activation, LAYERS, weights, q=q, weight_var=weight_var, moments=2
    )
    net = jinit.MLP((WIDE,) * (LAYERS + 1) + (1,), activation=activation)

    def measure(key):
        init_key, x_key = jax.random.split(key)
        x = jax.random.normal(x_key, (1, WIDE))
        x = x * jnp.sqrt((q - bias_var) / weight_var / jnp.mean(x**2))
        params, state = jinit.init(init_key, net, scheme, gain=weight_var**0.5, bias_var=bias_var)
        return jinit.measure_jacobian_spectrum(net, params, state, x)[0]

    keys = jax.random.split(jax.random.key(4), SEEDS)
    found = np.asarray(jax.jit(lambda keys: jax.lax.map(measure, keys))(keys), np.float64)
    for power in (1, 2):
        moments = (found**power).mean(1)
        error = moments.std(ddof=1) / np.sqrt(SEEDS)
        allowed = 5 * error + (1, 4)[power - 1] * LAYERS / WIDE * expected.moments[power - 1]
        assert abs(moments.mean() - expected.moments[power - 1]) <= allowed
    if activation == "relu":
        assert (found < 1e-6).mean() >= 0.5 - 0.05


@pytest.mark.bad_input
def test_bad_input_is_one_sentence():
    net = net_of((6, 3))
    params, state = jinit.init(jax.random.key(0), net)
    with pytest.raises(ValueError, match=r"\[6, 3\] has no activation.*readout=True"):
        jinit.measure_jacobian_spectrum(net, params, state, X)
    deep = net_of((6, 5, 3))
    params, state = jinit.init(jax.random.key(0), deep)
    with pytest.raises(ValueError, match=r"x must have shape \[batch, 6\]"):
        jinit.measure_jacobian_spectrum(deep, params, state, X[:, :4])
    with pytest.raises(ValueError, match="x must be finite"):
        jinit.measure_jacobian_spectrum(deep, params, state, X + np.inf)
