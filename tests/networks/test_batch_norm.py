"""Batch and layer norm: a case done by hand, and the gradient through the statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.networks.norms import BatchStats, batch_norm, init_stats, layer_norm

ONE, ZERO = jnp.ones(1), jnp.zeros(1)
COLUMN = jnp.asarray([[1.0], [2.0], [3.0], [4.0]])


def test_by_hand():
    """[1, 2, 3, 4]: mean 2.5, biased variance 1.25, unbiased 1.666667."""
    y, stats = batch_norm(
        COLUMN, init_stats((1,)), ONE, ZERO, train=True, momentum=0.0, eps=0.0
    )  # fmt: skip
    np.testing.assert_allclose(y[:, 0], (np.arange(1, 5) - 2.5) / np.sqrt(1.25), rtol=1e-6)
    np.testing.assert_allclose(stats.mean, [2.5], rtol=1e-6)
    np.testing.assert_allclose(stats.var, [1.666667], rtol=1e-6)


def test_running_statistics_are_an_exponential_average():
    """running = m running + (1 - m) batch, from mean 0 and variance 1."""
    stats = init_stats((1,))
    for step in range(1, 4):
        _, stats = batch_norm(COLUMN, stats, ONE, ZERO, train=True, momentum=0.8)
        kept = 0.8**step
        np.testing.assert_allclose(stats.mean, [(1 - kept) * 2.5], rtol=1e-6)
        np.testing.assert_allclose(stats.var, [kept + (1 - kept) * 5 / 3], rtol=1e-6)


def test_evaluation_uses_the_running_statistics_and_leaves_them():
    stats = BatchStats(jnp.asarray([2.0]), jnp.asarray([4.0]))
    y, after = batch_norm(
        COLUMN, stats, 3 * ONE, ONE, train=False, eps=0.0
    )  # fmt: skip
    np.testing.assert_allclose(y, 3 * (np.asarray(COLUMN) - 2) / 2 + 1, rtol=1e-6)
    assert after is stats
    # One sample is fine here, and its output does not depend on the others.
    single, _ = batch_norm(COLUMN[2:3], stats, 3 * ONE, ONE, train=False, eps=0.0)
    np.testing.assert_allclose(single, y[2:3], rtol=1e-6)


def test_a_training_batch_of_one_is_an_error():
    with pytest.raises(ValueError, match=r"at least 2 samples, got 1; use a larger batch or train"):
        batch_norm(COLUMN[:1], init_stats((1,)), ONE, ZERO, train=True)


def test_a_large_mean_costs_no_digits():
    """E[x²] - E[x]² would lose the variance 1.25 beside a mean of 1e4 in float32."""
    y, stats = batch_norm(
        COLUMN + 1e4, init_stats((1,)), ONE, ZERO, train=True, momentum=0.0, eps=0.0
    )
    np.testing.assert_allclose(y[:, 0], (np.arange(1, 5) - 2.5) / np.sqrt(1.25), rtol=1e-3)
    np.testing.assert_allclose(stats.var, [5 / 3], rtol=1e-3)


def test_the_output_has_mean_beta_and_std_gamma():
    x = jnp.asarray(np.random.default_rng(0).normal(3.0, 5.0, (200, 4)), jnp.float32)
    gamma, beta = jnp.asarray([1.0, 2.0, 0.5, 0.0]), jnp.asarray([0.0, -1.0, 2.0, 3.0])
    y, _ = batch_norm(x, init_stats((4,)), gamma, beta, train=True)
    np.testing.assert_allclose(jnp.mean(y, axis=0), beta, atol=1e-5)
    np.testing.assert_allclose(jnp.std(y, axis=0), gamma, atol=1e-5)


def normalised_of(mode):
    """A function of (x, gamma, beta) alone, in the given mode."""
    running = BatchStats(jnp.linspace(-0.3, 0.4, 3), jnp.linspace(0.5, 2.0, 3))

    def function(x, gamma, beta):
        if mode == "layer":
            return layer_norm(x, gamma, beta)
        return batch_norm(x, running, gamma, beta, train=mode == "train")[0]

    return function


@pytest.mark.parametrize("mode", ["train", "evaluate", "layer"])
def test_gradient_through_the_statistics_against_finite_differences(mode):
    """In float64 central differences with h = 1e-6 are good to about 1e-9."""
    rng, h = np.random.default_rng(5), 1e-6
    arguments = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=3)
    weights = rng.normal(size=(4, 3))
    sizes = np.cumsum([12, 3])

    with jax.enable_x64(True):
        function = normalised_of(mode)

        def loss(flat):
            x, gamma, beta = jnp.split(flat, sizes)
            return jnp.sum(weights * function(x.reshape(4, 3), gamma, beta) ** 2)

        flat = jnp.concatenate([jnp.ravel(a) for a in arguments])
        steps = h * jnp.eye(18)
        ahead, behind, gradient = jax.jit(
            lambda f: (
                jax.vmap(lambda s: loss(f + s))(steps),
                jax.vmap(lambda s: loss(f - s))(steps),
                jax.grad(loss)(f),
            )
        )(flat)
    difference = (np.asarray(ahead) - np.asarray(behind)) / (2 * h)
    np.testing.assert_allclose(gradient, difference, rtol=1e-7, atol=1e-8)
    if mode == "train":  # shifting a unit by a constant changes nothing, so its gradients sum to 0
        np.testing.assert_allclose(np.asarray(gradient[:12]).reshape(4, 3).sum(0), 0, atol=1e-12)


def test_no_gradient_flows_into_the_running_statistics():
    def kept(x):
        _, stats = batch_norm(x, init_stats((1,)), ONE, ZERO, train=True)
        return jnp.sum(stats.mean + stats.var)

    assert not np.any(jax.grad(kept)(COLUMN))


def test_a_bias_in_front_moves_the_running_mean_alone():
    def looked(net, params, state, x):
        """Outputs, state after, and which layers' biases have a gradient."""

        def objective(params):
            out, after = jinit.forward(net, params, state, x, train=True)
            return jnp.sum(jnp.square(out)), (out, after)

        gradient, seen = jax.jit(jax.grad(objective, has_aux=True))(params)
        return *seen, [bool(np.any(layer.b != 0)) for layer in gradient]

    net = jinit.MLP((3, 4, 4, 2), activation="tanh", norm="batch", momentum=0.75)
    params, state = jinit.init(jax.random.key(0), net, "xavier")
    x = jax.random.normal(jax.random.key(1), (8, 3))
    shifted = jinit.Params(tuple(run._replace(b=run.b + 2.0) for run in params.runs))
    plain, after, found = looked(net, params, state, x)
    same, moved, _ = looked(net, shifted, state, x)
    # The readout's bias is added to the outputs; those of the other layers are not seen.
    np.testing.assert_allclose(same, plain + 2.0, rtol=1e-6)
    for one, other in zip(after.runs[:-1], moved.runs[:-1], strict=True):
        np.testing.assert_allclose(other.mean, one.mean + 0.25 * 2.0, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(other.var, one.var)
    assert found == [False, False, True]
    # In a residual block the norm comes first, and the bias is part of the stream.
    block = jinit.MLP((4, 4, 2), activation="tanh", norm="batch", residual="plain")
    assert looked(block, *jinit.init(jax.random.key(0), block, "he"), x[:, [0, 1, 2, 0]])[2] == [
        True, True,
    ]  # fmt: skip


def test_layer_norm_by_hand():
    """Every sample over its own units, by the biased variance; a batch of one is fine."""
    x = COLUMN.T
    y = layer_norm(x, 2 * jnp.ones(4), jnp.ones(4), eps=0.0)
    np.testing.assert_allclose(
        y[0], 2 * (np.arange(1, 5) - 2.5) / np.sqrt(1.25) + 1, rtol=1e-6
    )  # fmt: skip
    both = layer_norm(jnp.concatenate([x, 7 * x]), jnp.ones(4), jnp.zeros(4), eps=0.0)
    np.testing.assert_allclose(both[0], both[1], rtol=1e-5)


def test_constant_units_are_normalised_to_beta_not_to_nan():
    x = jnp.full((5, 1), 3.0)
    y, _ = batch_norm(x, init_stats((1,)), ONE, 2 * ONE, train=True)
    np.testing.assert_array_equal(y, jnp.full((5, 1), 2.0))
    g = jax.grad(lambda x: jnp.sum(batch_norm(x, init_stats((1,)), ONE, ZERO, train=True)[0]))(x)
    assert np.isfinite(g).all()


@pytest.mark.parametrize("mode", ["train", "evaluate", "layer"])
def test_samples_as_columns_are_the_same_turned(mode):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    gamma, beta = jnp.asarray([1.0, 2.0, 0.5]), jnp.asarray([0.0, -1.0, 2.0])
    stats = BatchStats(jnp.asarray([0.1, 0.2, 0.3]), jnp.asarray([1.0, 2.0, 3.0]))

    def normalised(x, axis):
        if mode == "layer":
            return layer_norm(x, gamma, beta, batch_axis=axis), ()
        return batch_norm(x, stats, gamma, beta, train=mode == "train", batch_axis=axis)

    (rows, rows_after), (columns, columns_after) = normalised(x, 0), normalised(x.T, 1)
    np.testing.assert_allclose(columns.T, rows, rtol=1e-5, atol=1e-6)
    for a, b in zip(rows_after, columns_after, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.bad_input
def test_another_batch_axis_is_refused():
    with pytest.raises(ValueError, match="batch_axis"):
        batch_norm(COLUMN, init_stats((1,)), ONE, ZERO, train=True, batch_axis=2)


@pytest.mark.parametrize("axis", [0, 1])
def test_forward_mode_and_curvature_agree_with_plain_autodiff(axis):
    """The rule is differentiated again, both ways; the plain formula is what it stands for."""
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        x, dx = (jnp.asarray(rng.normal(size=(5, 3) if axis == 0 else (3, 5))) for _ in range(2))
        gamma, beta, weights = (jnp.asarray(rng.normal(size=s)) for s in (3, 3, x.shape))

        def plain(x):
            mean = x.mean(axis, keepdims=True)
            var = jnp.square(x - mean).mean(axis, keepdims=True)
            scale, shift = jnp.expand_dims(gamma, axis), jnp.expand_dims(beta, axis)
            return scale * (x - mean) / jnp.sqrt(var + 1e-5) + shift

        def by_rule(x):
            stats = init_stats((3,), jnp.float64)
            return batch_norm(x, stats, gamma, beta, train=True, batch_axis=axis)[0]

        def losses(function):
            def loss(x):
                return jnp.sum(weights * jnp.sin(function(x)))

            return (
                jax.jvp(function, (x,), (dx,))[1],
                jax.grad(loss)(x),
                jax.jvp(jax.grad(loss), (x,), (dx,))[1],
                jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), dx))(x),
            )

        for got, expected in zip(losses(by_rule), losses(plain), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)
