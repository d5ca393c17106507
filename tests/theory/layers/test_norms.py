"""Gradient growth under batch and layer norm: closed forms, random spheres and networks.

Closed forms hold to rounding, published numbers to their digits. Draws hold to five standard
errors, networks to that and the bias of their finite width.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import eval_gegenbauer, gammaln, roots_jacobi

import jinit
from jinit.theory import (
    batch_norm_growth,
    batch_norm_moments,
    batch_norm_spread,
    batch_norm_stability,
    layer_norm_growth,
)
from jinit.theory.moments.curve import MomentError, TooRoughError, curve

STANDARD_ERRORS = 5


def x_tanh(x):
    return x * jnp.tanh(x)


def identity(x):
    return x


def growth_of_relu(batch):
    """In closed form.

    Two entries have correlation rho = -1 / (B - 1). Products of ReLU and of its slopes depend on
    directions and second moments only, so that their expectations are the Gaussian ones:

        E phi phi' = (sqrt(1 - rho^2) + rho (pi - arccos rho)) / (2 pi),
        E d d' = 1/4 + arcsin(rho) / (2 pi).
    """
    rho = -1 / (batch - 1)
    product = (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
    both_on = 0.25 + math.asin(rho) / (2 * math.pi)
    return ((batch - 2) / 2 + both_on + product) / ((batch - 3) * (0.5 - product))


# --- published numbers and closed forms -------------------------------------------------------


def test_published_limits_of_large_batches():
    assert batch_norm_growth("relu") == pytest.approx(1.466942, abs=5e-7)
    assert batch_norm_growth("relu") == pytest.approx(math.pi / (math.pi - 1), rel=1e-12)
    assert batch_norm_growth("tanh") == pytest.approx(1.177807, abs=5e-7)
    assert batch_norm_growth("identity") == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(("batch", "growth"), [(4, 3.084061), (16, 1.589950), (64, 1.493063)])
def test_published_growth_of_relu(batch, growth):
    assert batch_norm_growth("relu", batch=batch) == pytest.approx(growth, abs=5e-7)


def test_tanh_in_batches_of_64():
    """The list's 1.1918 is that of simulations, whose mean log falls behind by half its variance.

    Formula, quadrature in other coordinates (below) and sampling agree on 1.192264.
    """
    growth = batch_norm_growth("tanh", batch=64)
    assert growth == pytest.approx(1.192264, abs=5e-7)
    assert growth == pytest.approx(1.1918, rel=5e-4)


@pytest.mark.parametrize("batch", [4, 5, 16, 1000])
def test_the_closed_forms_as_published(batch):
    rho = -1 / (batch - 1)
    b = (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
    centred = 1 / 2 - b
    n2 = batch / 2 + batch * (batch - 1) * (1 / 4 + math.asin(rho) / (2 * math.pi))
    published = (
        batch
        / (centred * (batch - 1) * (batch - 3))
        * (batch / 2 - 1 + n2 / batch**2 - 1 / 2 + (1 / 2 + (batch - 1) * b) / batch)
    )
    assert growth_of_relu(batch) == pytest.approx(published, rel=1e-12)
    assert batch_norm_spread("relu", batch=batch) == pytest.approx(centred, rel=1e-12)


@pytest.mark.parametrize("batch", [4, 5, 6, 7, 16, 145, 146, 10**4, 10**8])
def test_quadrature_agrees_with_the_closed_forms(batch):
    for relu in ("relu", jax.nn.relu):
        found = batch_norm_growth(relu, batch=batch)
        assert found == pytest.approx(growth_of_relu(batch), rel=1e-12)
    for linear in ("identity", identity):
        found = batch_norm_growth(linear, batch=batch)
        assert found == pytest.approx((batch - 2) / (batch - 3), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "factor"), [("gelu", 1.062), ("silu", 1.101), ("softplus", 1.056), ("mish", 1.001)]
)
def test_published_unstable_activations(name, factor):
    assert batch_norm_stability(name) == pytest.approx(factor, abs=5e-4)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "identity"])
def test_homogeneous_activations_are_just_stable(name):
    assert batch_norm_stability(name) == pytest.approx(1, abs=1e-12)
    assert batch_norm_growth(name) >= 1


@pytest.mark.parametrize("batch", [4, 9, 1000])
def test_linear_nets_pull_samples_together(batch):
    stability = batch_norm_stability("identity", batch=batch)
    assert stability == pytest.approx((batch - 1) / (batch + 1), rel=1e-11)


@pytest.mark.parametrize("name", ["tanh", "gelu", "softplus", "sin", "hard_tanh"])
def test_stability_is_the_derivative_of_the_variance(name):
    """A central difference errs by step^2 / 6 times a third derivative of order 1."""
    step = 1e-3
    high, low = (curve(name).variance(math.exp(s)) for s in (step, -step))
    expected = (math.log(high) - math.log(low)) / (2 * step)
    assert batch_norm_stability(name) == pytest.approx(expected, abs=step**2)


@pytest.mark.parametrize("name", ["tanh", "hard_tanh", "gelu", x_tanh])
def test_large_batches_reach_the_limit(name):
    """The distance falls as 1 / B, so that tenfold batches are ten times nearer."""
    limit = batch_norm_growth(name, allow_unstable=True)
    sizes = (10**3, 10**4, 10**5)
    growth = [batch_norm_growth(name, batch=b, allow_unstable=True) for b in sizes]
    off = [abs(g - limit) for g in growth]
    assert off[0] < 10 / sizes[0] * limit
    assert off[0] / off[1] == pytest.approx(10, rel=0.1)
    assert off[1] / off[2] == pytest.approx(10, rel=0.01)
    stable = [abs(batch_norm_stability(name, batch=b) - batch_norm_stability(name)) for b in sizes]
    assert stable[1] / stable[2] == pytest.approx(10, rel=0.01)
    for of in (batch_norm_moments, batch_norm_spread):
        np.testing.assert_allclose(of(name, batch=10**6), of(name), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("batch", [4, 7, None])
def test_scale_and_offset_do_not_matter(batch):
    def shifted(x):
        return 1000 - 3 * jnp.tanh(x)

    for of in (batch_norm_growth, batch_norm_stability):
        assert of(shifted, batch=batch) == pytest.approx(of("tanh", batch=batch), rel=1e-9)


@pytest.mark.parametrize("batch", [2, 3, 4, 9, 10**4])
def test_moments_of_one_entry(batch):
    n = batch - 1
    square = batch_norm_moments(jnp.square, batch=batch)
    assert square.mean == pytest.approx(1, rel=1e-12)
    assert square.second == pytest.approx(3 * n / (n + 2), rel=1e-12)
    relu = batch_norm_moments("relu", batch=batch)
    mean = math.sqrt(n / math.pi) / 2 * math.exp(math.lgamma(n / 2) - math.lgamma((n + 1) / 2))
    assert relu.mean == pytest.approx(mean, rel=1e-10)  # the difference of two large lgammas
    assert relu.second == pytest.approx(0.5, rel=1e-12)


# --- an independent calculation ---------------------------------------------------------------


def by_gegenbauer(phi, slope, batch):
    """The growth from expansions in orthogonal polynomials (Funk-Hecke), for smooth phi.

    E f(u) f(v) is the sum over degrees of the squared coefficients times P_k(rho).
    """
    n = batch - 1
    index = (n - 2) / 2
    x, weight = roots_jacobi(300, (n - 3) / 2, (n - 3) / 2)
    weight /= weight.sum()
    u = math.sqrt(n) * x

    def pair(f):
        total = 0.0
        for k in range(70):
            at_one = math.exp(gammaln(k + 2 * index) - gammaln(2 * index) - gammaln(k + 1))
            polynomial = eval_gegenbauer(k, index, x) / at_one
            coefficient = np.sum(weight * f * polynomial)
            norm = np.sum(weight * polynomial**2)
            total += coefficient**2 / norm * eval_gegenbauer(k, index, -1 / n) / at_one
        return total

    value, d = phi(u), slope(u)
    spread = np.sum(weight * value**2) - pair(value)
    top = (batch - 1) * np.sum(weight * d**2) - np.sum(weight * u**2 * d**2)
    return (top + pair(d) + pair(u * d)) / ((batch - 3) * spread)


@pytest.mark.parametrize("batch", [4, 5, 12, 64])
def test_smooth_activations_against_orthogonal_polynomials(batch):
    tanh = by_gegenbauer(np.tanh, lambda u: 1 / np.cosh(u) ** 2, batch)
    assert batch_norm_growth("tanh", batch=batch) == pytest.approx(tanh, rel=1e-10)
    own = by_gegenbauer(lambda u: u * np.tanh(u), lambda u: np.tanh(u) + u / np.cosh(u) ** 2, batch)
    found = batch_norm_growth(x_tanh, batch=batch, allow_unstable=True)
    assert found == pytest.approx(own, rel=1e-10)


@pytest.mark.parametrize("batch", [4, 6])
def test_sharp_bends_of_functions_of_ones_own(batch):
    """At a batch of 4 a bend of width 1/200 is nearly the singularity of a kink."""

    def bent(x):
        return jax.nn.softplus(200 * x) / 200

    # Rounding the corner of ReLU changes what it touches: a share 1/200 of the entries.
    assert batch_norm_growth(bent, batch=batch) == pytest.approx(growth_of_relu(batch), rel=2e-2)
    rapid = batch_norm_growth(lambda x: jnp.sin(50 * x), batch=batch, allow_unstable=True)
    # E d^2 and the spread of a sine of that many turns, all else averages out.
    assert rapid == pytest.approx(2500 * (batch - 2) / (batch - 3), rel=5e-2)
    sines = batch_norm_growth(lambda x: jnp.sin(3 * x), batch=batch)
    expected = by_gegenbauer(lambda u: np.sin(3 * u), lambda u: 3 * np.cos(3 * u), batch)
    assert sines == pytest.approx(expected, rel=1e-10)


# --- random spheres ---------------------------------------------------------------------------

CHUNKS, DRAWS = 40, 4000


def spheres(rng, batch, covariance_root=None):
    z = rng.standard_normal((DRAWS, batch))
    z = z - z.mean(1, keepdims=True)
    if covariance_root is not None:
        z = z @ covariance_root
    return math.sqrt(batch) * z / np.linalg.norm(z, axis=1, keepdims=True)


def mean_and_error(samples):
    return np.mean(samples), np.std(samples, ddof=1) / math.sqrt(len(samples))


@pytest.mark.parametrize("phi", ["tanh", "hard_tanh", "gelu", x_tanh])
def test_random_spheres(phi):
    """The matrices of the derivation, multiplied out for each draw; B = 6."""
    batch = 6
    centre = np.eye(batch) - 1 / batch
    rng = np.random.default_rng(6)
    traces, spreads, seconds = [], [], []
    for _ in range(CHUNKS):
        u = spheres(rng, batch)
        value, slope = curve(phi).evaluate(u)
        unit = u / math.sqrt(batch)
        # The norm's Jacobian without its length, times D, times the covariance P of gradients.
        jacobian = (centre - unit[:, :, None] * unit[:, None, :]) * slope[:, None, :]
        traces.append(np.sum((jacobian @ centre) ** 2, (1, 2)).mean())
        spreads.append(np.sum((value @ centre) ** 2, 1).mean() / (batch - 1))
        seconds.append(np.mean(value**2))
    trace, spread = np.array(traces), np.array(spreads)
    # E 1/|Pz|^2 = 1 / (spread (B - 3)) is exact.
    growth = batch / ((batch - 1) * (batch - 3)) * trace.mean() / spread.mean()
    # The error of a ratio of means, to first order.
    _, relative = mean_and_error(trace / trace.mean() - spread / spread.mean())
    predicted = batch_norm_growth(phi, batch=batch)
    assert abs(growth / predicted - 1) < STANDARD_ERRORS * relative
    for samples, expected in (
        (spreads, batch_norm_spread(phi, batch=batch)),
        (seconds, batch_norm_moments(phi, batch=batch).second),
    ):
        mean, error = mean_and_error(samples)
        assert abs(mean - expected) < STANDARD_ERRORS * error


@pytest.mark.parametrize("phi", ["tanh", "gelu", "hard_tanh"])
def test_stability_in_a_finite_batch(phi):
    """A covariance with two long and two short samples, propagated: a central difference."""
    batch, step = 8, 0.02
    rng = np.random.default_rng(8)
    centre = np.eye(batch) - 1 / batch
    longer = centre @ np.diag([1.0, 1, -1, -1, 0, 0, 0, 0]) @ centre
    spread = batch_norm_spread(phi, batch=batch)
    roots = []
    for sign in (1, -1):
        values, vectors = np.linalg.eigh(centre + sign * step * longer)
        roots.append(vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T)
    factors = []
    for _ in range(CHUNKS):
        state = rng.bit_generator.state
        back = []
        for root in roots:  # the same draws for both, so that they cancel
            rng.bit_generator.state = state
            value, _ = curve(phi).evaluate(spheres(rng, batch, root))
            back.append(np.sum(longer * (value.T @ value)) / DRAWS)
        difference = (back[0] - back[1]) / (2 * step)
        factors.append(difference / spread / np.sum(longer**2))
    mean, error = mean_and_error(factors)
    # A central difference errs by the square of the step.
    expected = batch_norm_stability(phi, batch=batch)
    assert abs(mean - expected) < STANDARD_ERRORS * error + 2 * step**2


# --- networks ---------------------------------------------------------------------------------

WIDTH, DEPTH, ENDS, SEEDS = 192, 16, 3, 16


def measured_growth(net, rows, *, start=ENDS, seeds=SEEDS, **options):
    """Growth of the log squared gradient per layer of each seed, layers at the ends left out.

    Returns the mean over seeds and its standard error.
    """
    width, depth = net.dims[0], len(net.dims) - 2

    def one(key):
        init_key, input_key, probe_key = jax.random.split(key, 3)
        params, state = jinit.init(init_key, net, **options)
        x = jax.random.normal(input_key, (rows, width))
        return jinit.layer_signals(net, params, state, x, key=probe_key).log_grad

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    log_square = 2 * np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys), np.float64)
    inner = log_square[:, start : depth - ENDS]
    return mean_and_error((inner[:, 0] - inner[:, -1]) / (inner.shape[1] - 1))


@pytest.mark.parametrize(("phi", "rows"), [("gelu", 8), (x_tanh, 10)])
def test_networks_with_batch_norm(phi, rows):
    """In batches as small as these the formula holds for GELU and x tanh(x) too.

    The mean log lies below the log of the mean square by half a variance. In one layer the square
    is a sum over units of weights like 1 / |Pz|^2, whose second moment is at most (B - 3) / (B - 5)
    times their squared mean; fourth moments of gradients and slopes give at most a factor of three
    more. So half the variance is below 5 / (2 * WIDTH), about as much as the other terms of order
    1 / WIDTH: twice that is allowed.
    """
    net = jinit.MLP((WIDTH,) * (DEPTH + 2), activation=phi, norm="batch", bias=False, eps=1e-12)
    growth, error = measured_growth(net, rows)
    predicted = math.log(batch_norm_growth(phi, batch=rows))
    assert abs(growth - predicted) < STANDARD_ERRORS * error + 5 / WIDTH


@pytest.mark.parametrize("phi", ["silu", "gelu"])
def test_deep_networks_leave_an_unstable_fixed_point(phi):
    """In large batches they settle near a growth of 1.39, published, and not at the formula's.

    Four nets of width 256; experiments/yang2019_batchnorm_explosion.py has more and wider ones.
    """
    net = jinit.MLP((256,) * 62, activation=phi, norm="batch", bias=False, eps=1e-12)
    log_growth, error = measured_growth(net, 128, start=20, seeds=4)
    allowed = STANDARD_ERRORS * error
    assert abs(log_growth - math.log(1.39)) < 0.005 / 1.39 + allowed
    formula = batch_norm_growth(phi, batch=128, allow_unstable=True)
    assert log_growth - allowed > math.log(formula)


def test_networks_with_layer_norm():
    """Allowed beside the scatter are 5 / WIDTH.

    A layer's factor is a mean over units, of relative variance E phi'^4 E g^4 / (E phi'^2 E g^2)^2
    / WIDTH, at most 6 / WIDTH with Gaussian gradients and half of the units off; half of it is what
    the log loses. The norm takes two of WIDTH directions.
    """
    phi, weight_var, bias_var = "gelu", 1.7, 0.3
    net = jinit.MLP((WIDTH,) * (DEPTH + 2), activation=phi, norm="layer", eps=1e-12)
    gain = math.sqrt(weight_var)
    growth, error = measured_growth(net, 4, scheme="xavier", gain=gain, bias_var=bias_var)
    predicted = math.log(layer_norm_growth(phi, weight_var=weight_var, bias_var=bias_var))
    assert abs(growth - predicted) < STANDARD_ERRORS * error + 5 / WIDTH


def test_layer_norm_of_a_plain_he_net_keeps_gradients():
    assert layer_norm_growth("relu") == pytest.approx(1, rel=1e-12)
    assert layer_norm_growth("relu", weight_var=5.0, bias_var=2.5) == pytest.approx(0.5, rel=1e-12)
    assert layer_norm_growth("selu") == pytest.approx(1.071575, abs=5e-7)
    assert layer_norm_growth("tanh", weight_var=0.0, bias_var=1.0) == 0


# --- bad input --------------------------------------------------------------------------------

OF_A_BATCH = [batch_norm_growth, batch_norm_stability, batch_norm_spread]


@pytest.mark.bad_input
@pytest.mark.parametrize(("of", "sentence"), [
    (batch_norm_growth, "for a gradient growth under batch norm, got {}: in smaller .* no finite"),
    (batch_norm_stability, "for expectations over two entries .* got {}: in smaller .* a sign"),
    (batch_norm_spread, "for expectations over two entries .* got {}: in smaller .* a sign"),
])  # fmt: skip
@pytest.mark.parametrize("phi", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("batch", [2, 3])
def test_batches_below_four(of, sentence, phi, batch):
    with pytest.raises(ValueError, match="batch must be at least 4 " + sentence.format(batch)):
        of(phi, batch=batch)


@pytest.mark.bad_input
@pytest.mark.parametrize("of", [*OF_A_BATCH, batch_norm_moments])
@pytest.mark.parametrize("batch", [0, -4, 8.0, 8.5, True, "8"])
def test_batches_that_are_no_sizes(of, batch):
    least = 2 if of is batch_norm_moments else 4
    with pytest.raises(ValueError, match=f"batch must be an integer of at least {least}, got"):
        of("tanh", batch=batch)


@pytest.mark.bad_input
def test_oscillations_that_would_take_minutes():
    def fast(x):
        return jnp.sin(200 * x)

    with pytest.raises(TooRoughError, match=r"bends too often .* batch of 64, .* more than 5e\+07"):
        batch_norm_growth(fast, batch=64, allow_unstable=True)


@pytest.mark.parametrize("batch", [None, 64])
def test_unstable_activations_are_refused(batch):
    with pytest.raises(
        ValueError, match=r"gelu in .*batches.* grow by 1\.0\d+ per layer"
    ) as caught:
        batch_norm_growth("gelu", batch=batch)
    assert "jinit.layer_signals" in str(caught.value)
    assert "allow_unstable=True" in str(caught.value)
    assert 1.3 < batch_norm_growth("gelu", batch=batch, allow_unstable=True) < 1.35


def test_small_batches_are_stable_where_large_ones_are_not():
    assert batch_norm_stability("gelu", batch=32) < 1 < batch_norm_stability("gelu", batch=64)
    assert batch_norm_growth("gelu", batch=16) > 1


@pytest.mark.parametrize("batch", [None, 8])
def test_constant_activations_are_refused(batch):
    for of in OF_A_BATCH:
        with pytest.raises(ValueError, match="spread of its input, which is 0"):
            of(lambda x: 0.1 + 0 * x, batch=batch)


def test_an_activation_can_be_constant_on_a_small_batch():
    """An entry of a normalised batch of 4 is at most sqrt(3)."""

    def late(x):
        return jax.nn.relu(x - 2)

    with pytest.raises(ValueError, match="constant on all values that a normalised batch of 4"):
        batch_norm_growth(late, batch=4)
    assert batch_norm_growth(late, batch=8, allow_unstable=True) > 1


def test_moments_that_diverge():
    def steep(x):
        return jnp.exp(x**2 / 3)

    assert math.isfinite(batch_norm_growth(steep, batch=8, allow_unstable=True))
    for of in OF_A_BATCH:
        with pytest.raises(MomentError):
            of(steep, batch=10**5)
        with pytest.raises(MomentError):
            of(steep)


@pytest.mark.bad_input
def test_variances_of_layer_norm():
    for name in ("weight_var", "bias_var"):
        with pytest.raises(ValueError, match=f"{name} is a variance"):
            layer_norm_growth("relu", **{name: -1.0})
        with pytest.raises(TypeError, match=f"{name} must be one finite real number"):
            layer_norm_growth("relu", **{name: "1"})
    with pytest.raises(ValueError, match="layer norm divides by the spread"):
        layer_norm_growth("relu", weight_var=0.0)
    with pytest.raises(ValueError, match="unknown activation"):
        layer_norm_growth("rellu")
    with pytest.raises(ValueError, match="unknown activation"):
        batch_norm_growth("rellu", batch=8)
