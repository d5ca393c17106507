"""The scatter over draws: against closed forms, published numbers, draws of chi^2 and networks.

Draws and networks hold to five standard errors of a mean, sqrt(var / draws), or of a variance,
sqrt(2 / (draws - 1)). Where the theory is of leading order in 1/n, the next order is allowed for:
a mean may be off by 15 (sum 1/n)^2, a variance by 4 sum 1/n of itself. Nothing is allowed for
where it is exact.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import jinit
from jinit.theory import finite_width
from jinit.theory.moments.curve import curve

SIGMAS = 5


def x_tanh(x):
    return x * jnp.tanh(x)


# --- published numbers and closed forms -------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "mean", "var"), [(30, -0.08839567, 0.19114818), (1000, -0.00250410, 0.00501859)]
)
def test_published_moments_of_a_relu_layer(n, mean, var):
    layer = finite_width("relu", [n])
    assert layer.exact
    assert layer.jacobian_mean == pytest.approx(mean, abs=5e-9)
    assert layer.jacobian_var == pytest.approx(var, abs=5e-9)


@pytest.mark.parametrize("n", [1, 2, 7, 30, 1000, 10**6])
def test_a_linear_layer_is_chi_square(n):
    layer = finite_width("identity", [n])
    mean = scipy.special.digamma(n / 2) + math.log(2 / n)
    assert layer.jacobian_mean == pytest.approx(mean, rel=1e-7, abs=1e-13)
    assert layer.jacobian_var == pytest.approx(scipy.special.polygamma(1, n / 2), rel=1e-7)


@pytest.mark.parametrize("n", [1, 2, 7, 30, 1000])
def test_a_relu_layer_is_a_mixture_of_chi_squares(n):
    on = np.arange(1, n + 1)
    chance = scipy.stats.binom.pmf(on, n, 0.5) / -math.expm1(-n * math.log(2))
    mean = scipy.special.digamma(on / 2) + math.log(4 / n)
    var = scipy.special.polygamma(1, on / 2)
    layer = finite_width("relu", [n])
    expected = np.sum(chance * mean)
    assert layer.jacobian_mean == pytest.approx(expected, rel=1e-10)
    expected = np.sum(chance * var) + np.sum(chance * (mean - expected) ** 2)
    assert layer.jacobian_var == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n", [3, 30])
@pytest.mark.parametrize("slopes", [(1, 1), (1, 0), (1, 0.3), (-0.5, 2)])
def test_log_moments_against_draws(n, slopes):
    rng = np.random.default_rng(n)
    draws = 100_000
    right, left = slopes
    z = rng.standard_normal((draws, n))
    x = 2 * np.mean(np.where(z > 0, right * z, left * z) ** 2, 1) / (right**2 + left**2)
    log = np.log(x[x > 0])
    layer = finite_width(lambda u: jnp.where(u > 0, right * u, left * u), [n])
    assert layer.exact
    error = SIGMAS * log.std() / math.sqrt(draws)
    assert layer.signal_mean[0] == pytest.approx(log.mean(), abs=error)
    fourth = np.mean((log - log.mean()) ** 4)  # the log of few units is far from normal
    error = SIGMAS * math.sqrt((fourth - log.var() ** 2) / draws)
    assert layer.signal_var[0] == pytest.approx(log.var(), abs=error)


def test_layers_add_up():
    widths = [20, 10, 40, 30]
    of_layer = [finite_width("relu", [n]) for n in widths]
    var = np.array([layer.jacobian_var for layer in of_layer])
    net = finite_width("relu", widths)
    np.testing.assert_allclose(net.signal_var, np.cumsum(var), rtol=1e-12)
    above = [var[start:-1].sum() for start in range(4)]
    np.testing.assert_allclose(net.gradient_var, above, rtol=1e-12)
    assert net.gradient_var[-1] == net.gradient_mean[-1] == 0
    assert net.jacobian_var == pytest.approx(var.sum(), rel=1e-12)
    assert net.jacobian_mean == pytest.approx(net.signal_mean[-1], rel=1e-12)


def test_scale_does_not_matter_to_what_is_linear_on_either_side():
    expected = finite_width("relu", [20, 30])
    for options in ({"weight_var": 2.0}, {"weight_var": 0.1}, {"q": 1e6}):
        same = finite_width("relu", [20, 30], **options)
        np.testing.assert_array_equal(same.gradient_var, expected.gradient_var)
    own = finite_width(lambda x: jnp.maximum(3 * x, 0), [20, 30])
    np.testing.assert_allclose(own.signal_mean, expected.signal_mean, rtol=1e-10)


def test_leading_order_of_a_cube():
    """phi = u^3 has s = 3, t = 2, and moments that are whole numbers."""
    n_1, n_2 = 1000, 500
    net = finite_width(lambda u: u**3, [n_1, n_2], weight_var=0.7, q=0.9)
    alpha = 10395 / 15**2 - 1
    beta = 3 * 81 * 105 / 27**2 - 1
    shared = 9 * 945 / (15 * 27) - 1
    assert not net.exact
    np.testing.assert_allclose(
        net.signal_var, [alpha / n_1, 9 * alpha / n_1 + alpha / n_2], rtol=1e-9
    )
    np.testing.assert_allclose(net.gradient_var, [beta / n_1, 0], rtol=1e-9)
    assert net.jacobian_var == pytest.approx(
        (beta + 4 * shared + 4 * alpha) / n_1 + beta / n_2, rel=1e-9
    )
    # ln(A_2 / its mean): E (1 + x)^3 = 1 + 3 Var x, and minus half of the variance.
    mean = [-alpha / n_1 / 2, 3 * alpha / n_1 - (9 * alpha / n_1 + alpha / n_2) / 2]
    np.testing.assert_allclose(net.signal_mean, mean, rtol=1e-9)
    # The gradient meets z_2 phi'(z_2) with D_2 = 2 t = 4.
    mean = -beta / n_1 / 2 + (shared + 1) * 4 / n_1
    np.testing.assert_allclose(net.gradient_mean, [mean, 0], rtol=1e-9)


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_the_exact_law_tends_to_the_leading_order(activation):
    """Biases of almost no variance ask for the general formula."""
    for n in (50, 500, 5000):
        exact = finite_width(activation, [n] * 5)
        leading = finite_width(activation, [n] * 5, bias_var=1e-14)
        assert exact.exact
        assert not leading.exact
        for a, b in zip(exact[:-1], leading[:-1], strict=True):
            # chi^2_n: digamma and trigamma have corrections of 1/n; ReLU's units, of 5/n or less
            np.testing.assert_allclose(a, b, rtol=5 / n, atol=1e-11)


def test_deeper_networks_begin_with_the_same_layers():
    short, long = (
        finite_width("gelu", [30, 40, 50, 60][:depth], weight_var=1.9, bias_var=0.1)
        for depth in (2, 4)
    )
    np.testing.assert_allclose(long.signal_mean[:2], short.signal_mean, rtol=1e-12)
    np.testing.assert_allclose(long.signal_var[:2], short.signal_var, rtol=1e-12)


def test_the_default_weights_keep_gradients():
    at = {"bias_var": 0.1, "q": 0.7}
    given = finite_width("tanh", [50] * 3, weight_var=1 / curve("tanh").slope_second(0.7), **at)
    default = finite_width("tanh", [50] * 3, **at)
    np.testing.assert_allclose(default.gradient_var, given.gradient_var, rtol=1e-12)


def test_vanishing_lengths_leave_a_linear_network():
    small = finite_width("tanh", [100] * 200, weight_var=1e-4)
    linear = finite_width("identity", [100] * 200, bias_var=1e-14)
    np.testing.assert_allclose(np.diff(small.signal_var[5:]), 0.02, rtol=1e-9)
    assert small.gradient_var[5] == pytest.approx(linear.gradient_var[5], rel=1e-6)


def test_where_the_leading_order_ends_its_variances_say_so():
    """e^x: each layer's noise is carried on tenfold."""
    steep = finite_width(jnp.exp, [10] * 3)
    assert not steep.exact
    assert steep.signal_var[-1] > 100
    wide = finite_width("tanh", [1000] * 3)
    assert wide.signal_var[-1] < 0.01


def test_fluctuations_beyond_float64_are_infinite_and_no_nan():
    deep = finite_width(x_tanh, [10] * 800, weight_var=1e-4)
    assert deep.signal_var[-1] == math.inf
    assert deep.signal_mean[-1] == -math.inf
    assert not any(np.isnan(field).any() for field in deep)


# --- against an exact simulation without weights ----------------------------------------------

GELU = (
    lambda u: u * scipy.special.ndtr(u),
    lambda u: scipy.special.ndtr(u) + u * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi),
)
TANH = (np.tanh, lambda u: 1 - np.tanh(u) ** 2)
X_TANH = (lambda u: u * np.tanh(u), lambda u: np.tanh(u) + u * (1 - np.tanh(u) ** 2))


def reduced(values, widths, *, weight_var, bias_var, q, draws, rng):
    """ln of signals [L], of gradients [L] over the last's, and of |J v|^2, `[draws, ...]`.

    Of a Gaussian W with W h known only W h and what acts on vectors orthogonal to h matter, so
    that every layer takes a few vectors and no matrix:

        W' delta = h (W h . delta) / |h|^2 + noise orthogonal to h,
        W p = W h (p . h) / |h|^2 + noise of the size of p orthogonal to h.
    """

    def normal(n):
        return rng.standard_normal((draws, n))

    def dot(a, b):
        return np.sum(a * b, 1, keepdims=True)

    phi, slope = values
    scale = math.sqrt(q - bias_var)
    signals, layers = [], []
    tangent = normal(widths[0])
    for n in widths:
        if layers:
            (w, h, d), p = layers[-1], layers[-1][2] * tangent
            per_unit = weight_var / h.shape[1]
            scale = np.sqrt(per_unit * dot(h, h))
            along = dot(p, h) / dot(h, h)
            orthogonal = np.sqrt(per_unit * np.maximum(dot(p, p) - along**2 * dot(h, h), 0))
        w = scale * normal(n)
        if layers:
            tangent = along * w + orthogonal * normal(n)
        z = w + math.sqrt(bias_var) * normal(n)
        layers.append((w, phi(z), slope(z)))
        signals.append(np.mean(layers[-1][1] ** 2, 1))
    jacobian = np.sum((layers[-1][2] * tangent) ** 2, 1)

    delta = layers[-1][2] * normal(widths[-1])
    gradients = [dot(delta, delta)]
    for (_, h, d), (w, _, _) in zip(layers[-2::-1], layers[:0:-1], strict=True):
        noise = normal(h.shape[1]) * np.sqrt(weight_var / h.shape[1] * dot(delta, delta))
        delta = d * (noise + h * (dot(w, delta) - dot(noise, h)) / dot(h, h))
        gradients.insert(0, dot(delta, delta))
    gradients = np.log(np.concatenate(gradients, 1) / gradients[-1])
    return np.log(np.array(signals).T), gradients, np.log(jacobian)


def infinite_width(phi, widths, *, weight_var, bias_var, q):
    """ln E phi^2 and ln chi of the layers, `[layers]`."""
    seconds, chis = [], []
    for _ in widths:
        seconds.append(curve(phi).second(q))
        chis.append(weight_var * curve(phi).slope_second(q))
        q = weight_var * seconds[-1] + bias_var
    return np.log(seconds), np.log(chis)


def above(log_chis):
    """ln of the infinite-width squared norm of the gradient at l over that at L."""
    return np.append(np.cumsum(log_chis[-2::-1])[::-1], 0.0)


def agrees(draws, mean, var, widths, *, exact=False):
    """Mean and variance over the draws, `[draws, ...]`, against theory."""
    count, inverse = len(draws), 0 if exact else np.sum(1 / np.array(widths))
    off = np.abs(draws.mean(0) - mean)
    assert np.all(off <= SIGMAS * draws.std(0) / math.sqrt(count) + 15 * inverse**2)
    allowed = SIGMAS * math.sqrt(2 / (count - 1)) + 4 * inverse
    np.testing.assert_allclose(draws.var(0, ddof=1), var, rtol=allowed, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "values", "weight_var", "bias_var", "q"),
    [
        ("tanh", TANH, 1.4, 0.05, 0.6),
        ("tanh", TANH, 3.0, 0.0, 1.5),
        ("gelu", GELU, 2.2, 0.0, 1.0),
        ("gelu", GELU, 1.98, 0.17, 3.5),
        (x_tanh, X_TANH, 1.2, 0.05, 1.0),
    ],
    ids=["tanh", "tanh-chaotic", "gelu", "gelu-bias", "x_tanh"],
)
def test_leading_order_against_wide_networks(activation, values, weight_var, bias_var, q):
    widths = [300, 500, 400, 250, 400]
    at = {"weight_var": weight_var, "bias_var": bias_var, "q": q}
    net = finite_width(activation, widths, **at)
    rng = np.random.default_rng(7)
    parts = [reduced(values, widths, draws=500, rng=rng, **at) for _ in range(12)]
    signals, gradients, jacobian = (np.concatenate(part) for part in zip(*parts, strict=True))
    log_seconds, log_chis = infinite_width(activation, widths, **at)
    agrees(signals - log_seconds, net.signal_mean, net.signal_var, widths)
    agrees(gradients - above(log_chis), net.gradient_mean, net.gradient_var, widths)
    # v is scaled to W v of unit variance per unit.
    jacobian -= log_chis.sum() + math.log(widths[-1] / weight_var)
    agrees(jacobian, net.jacobian_mean, net.jacobian_var, widths)


def test_two_slopes_against_narrow_networks():
    leaky = (lambda u: np.where(u > 0, u, 0.4 * u), lambda u: np.where(u > 0, 1.0, 0.4))
    at = {"weight_var": 1.3, "bias_var": 0.0, "q": 0.8}
    widths = [8, 5, 12, 9]

    def phi(u):
        return jax.nn.leaky_relu(u, 0.4)

    net = finite_width(phi, widths, **at)
    assert net.exact
    rng = np.random.default_rng(8)
    signals, gradients, jacobian = reduced(leaky, widths, draws=30_000, rng=rng, **at)
    log_seconds, log_chis = infinite_width(phi, widths, **at)
    agrees(signals - log_seconds, net.signal_mean, net.signal_var, widths, exact=True)
    agrees(gradients - above(log_chis), net.gradient_mean, net.gradient_var, widths, exact=True)
    jacobian -= log_chis.sum() + math.log(widths[-1] / at["weight_var"])
    agrees(jacobian, net.jacobian_mean, net.jacobian_var, widths, exact=True)


# --- against networks -------------------------------------------------------------------------


@partial(jax.jit, static_argnames="dims")
def draw(keys, dims, gain, bias_var):
    """One network per key; compiled once for all activations."""
    net = jinit.MLP(dims)
    return jax.lax.map(lambda key: jinit.init(key, net, "he", gain=gain, bias_var=bias_var), keys)


def simulate(activation, widths, *, weight_var, bias_var, q, seeds):
    """ln mean square activations and gradients over the last hidden layer's, `[seeds, L]`."""
    net = jinit.MLP((4, *widths, 3), activation=activation)
    x = jnp.full((1, 4), math.sqrt((q - bias_var) / weight_var), jnp.float32)

    @jax.jit
    def signals(keys, nets):
        def one(key_and_net):
            key, (params, state) = key_and_net
            seen = jinit.layer_signals(net, params, state, x, key=key)
            return seen.log_act[:-1], seen.log_grad[:-1]

        return jax.lax.map(one, (keys, nets))

    keys = jax.vmap(jax.random.key)(np.arange(2 * seeds))
    gain = math.sqrt(weight_var / 2)
    act, grad = signals(keys[seeds:], draw(keys[:seeds], net.dims, gain, bias_var))
    act, grad = (2 * np.asarray(x, np.float64) for x in (act, grad))
    units = np.log(widths)
    return act, grad + units - (grad[:, -1:] + units[-1])


@pytest.mark.parametrize(
    ("activation", "widths", "weight_var", "bias_var", "q"),
    [
        ("relu", [80] * 6, 2.0, 0.0, 1.0),
        ("identity", [80] * 6, 1.0, 0.0, 1.0),
        ("tanh", [80] * 6, 1.4, 0.05, 0.6),
        ("gelu", [80] * 6, 1.98, 0.17, 3.5),
        (x_tanh, [80] * 6, 1.2, 0.05, 1.0),
    ],
    ids=["relu", "identity", "tanh", "gelu", "x_tanh"],
)
def test_against_networks(activation, widths, weight_var, bias_var, q):
    at = {"weight_var": weight_var, "bias_var": bias_var, "q": q}
    act, grad = simulate(activation, widths, seeds=400, **at)
    net = finite_width(activation, widths, **at)
    assert net.exact == (bias_var == 0)
    log_seconds, log_chis = infinite_width(activation, widths, **at)
    agrees(act - log_seconds, net.signal_mean, net.signal_var, widths, exact=net.exact)
    grad = grad - above(log_chis)
    agrees(grad, net.gradient_mean, net.gradient_var, widths, exact=net.exact)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("widths", "sentence"),
    [
        ([], "hidden layers, as in .*, got none"),
        (50, "hidden layers, as in .*, got 50"),
        ("50", "hidden layers, as in .*, got '50'"),
        ([50, 0], r"widths\[1\] must be an integer of at least 1, got 0"),
        ([50.0], r"widths\[0\] must be an integer of at least 1, got 50.0"),
        ([True], r"widths\[0\] must be an integer of at least 1, got True"),
    ],
)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_widths_that_are_none(activation, widths, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        finite_width(activation, widths)


@pytest.mark.bad_input
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weight_var": -1.0}, "weight_var is a variance and must be positive, got -1"),
        ({"weight_var": 0.0}, "weight_var is a variance and must be positive, got 0"),
        ({"bias_var": -0.1}, "bias_var is a variance and must not be negative, got -0.1"),
        ({"q": 0.0}, "q is a variance and must be positive, got 0"),
        ({"q": math.nan}, "q must be one finite real number"),
    ],
)
def test_variances_that_are_none(activation, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        finite_width(activation, [10], **options)


@pytest.mark.bad_input
def test_activations_without_logarithms_or_moments():
    for constant in (lambda x: 0 * x, lambda x: 0 * x + 1):
        with pytest.raises(ValueError, match="signals or gradients of <lambda> vanish"):
            finite_width(constant, [10])
    with pytest.raises(ValueError, match="diverges, or leaves float64"):
        finite_width(lambda x: jnp.exp(x * x / 3), [10])
    with pytest.raises(ValueError, match="pre-activations leave float64 where weight_var=1e\\+200"):
        finite_width("gelu", [10] * 3, weight_var=1e200)
    with pytest.raises(ValueError, match="did you mean 'tanh'"):
        finite_width("tahn", [10])
