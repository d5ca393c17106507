"""Jacobian spectra, against published numbers, closed forms and products of random matrices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import ndtri

from jinit.theory import MomentError, jacobian_spectrum
from jinit.theory.moments.curve import curve

# Pennington, Schoenholz & Ganguli 2017 and 2018, eigenvalues normalised to mean 1
LARGEST = [
    *(("identity", "gaussian", depth, value) for depth, value in
      ((1, "4.000000"), (2, "6.750000"), (3, "9.48148"), (4, "12.20703"), (10, "28.531167"))),
    *(("relu", "gaussian", depth, value) for depth, value in
      ((1, "5.828427"), (2, "11.090170"), (4, "21.858249"))),
    *(("relu", "orthogonal", depth, value) for depth, value in
      ((1, "2.000000"), (2, "4.000000"), (4, "9.481481"))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "weights", "depth", "value"), LARGEST)
def test_largest_eigenvalues(name, weights, depth, value):
    found = jacobian_spectrum(name, depth, weights).largest
    assert f"{found:.{len(value.split('.')[1])}f}" == value


@pytest.mark.parametrize(("q", "bracket"), [(1 / 16, 0.0191902), (1 / 64, 0.00168937)])
@pytest.mark.parametrize("depth", [1, 5])
def test_variances_of_tanh(q, bracket, depth):
    """Depth times mu2 / mu1^2 - 1, to which Gaussian weights add 1."""
    orthogonal = jacobian_spectrum("tanh", depth, "orthogonal", q=q)
    half_unit = 5e-8 if q == 1 / 16 else 5e-9
    assert orthogonal.variance == pytest.approx(depth * bracket, abs=1.01 * depth * half_unit)
    gaussian = jacobian_spectrum("tanh", depth, q=q)
    assert gaussian.variance == pytest.approx(depth * (bracket + 1), rel=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_moments_of_linear_networks_are_fuss_catalan_numbers(depth):
    found = jacobian_spectrum("identity", depth, moments=5).moments
    exact = [math.comb((depth + 1) * k, k) / (depth * k + 1) for k in range(1, 6)]
    np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_one_linear_layer_is_marchenko_and_pastur():
    found = jacobian_spectrum("identity", 1)
    x = found.eigenvalue
    exact = np.sqrt(np.maximum(4 - x, 0) / x) / (2 * math.pi)
    inside = (x > 1e-3) & (x < 3.99)
    np.testing.assert_allclose(found.density[inside], exact[inside], rtol=1e-5)


@pytest.mark.parametrize("depth", [2, 5])
def test_the_fuss_catalan_density(depth):
    """The parametrised closed form: x = sin^(L+1)((L+1) p) / (sin p sin^L(L p))."""
    p = np.linspace(0.02, math.pi / (depth + 1) - 0.02, 100_000)
    x = np.sin((depth + 1) * p) ** (depth + 1) / (np.sin(p) * np.sin(depth * p) ** depth)
    density = np.sin(p) ** 2 * np.sin(depth * p) ** (depth - 1) / np.sin((depth + 1) * p) ** depth
    density = density / math.pi
    found = jacobian_spectrum("identity", depth)
    inside = (found.eigenvalue > x.min()) & (found.eigenvalue < x.max())
    assert inside.sum() > 100
    at = np.log(found.eigenvalue[inside])
    exact = np.exp(np.interp(at, np.log(x[::-1]), np.log(density[::-1])))
    np.testing.assert_allclose(found.density[inside], exact, rtol=1e-6)


def own(x):
    """What no table knows."""
    return x * jnp.tanh(x)


def rare(x):
    """No slope but in one unit of four million."""
    return jax.nn.relu(x - 5)


CASES = [
    ("identity", 4, "gaussian", 1.0), ("relu", 3, "gaussian", 1.0), ("relu", 4, "orthogonal", 1.0),
    ("hard_tanh", 2, "orthogonal", 1.0), ("tanh", 4, "orthogonal", 1.0),
    ("tanh", 2, "gaussian", 1.0), ("gelu", 3, "orthogonal", 1.0), (own, 2, "gaussian", 1.0),
    # slopes of two sizes; the law itself; a narrow one; mostly very small ones; hardly any
    ("leaky_relu", 4, "orthogonal", 1.0), ("gelu", 1, "orthogonal", 1.0),
    ("tanh", 1, "orthogonal", 1e-6), ("tanh", 3, "gaussian", 1e4), ("relu", 1000, "gaussian", 1.0),
    ("gelu", 50, "gaussian", 1.0), (rare, 3, "gaussian", 1.0), (jnp.square, 1, "orthogonal", 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("phi", "depth", "weights", "q"), CASES)
def test_density_and_atoms_have_the_moments(phi, depth, weights, q):
    found = jacobian_spectrum(phi, depth, weights, q=q)
    for k in range(3):
        total = np.sum(found.weight * found.density * found.eigenvalue**k)
        total += sum(share * position**k for position, share in found.atoms)
        exact = 1.0 if k == 0 else found.moments[k - 1]
        assert total == pytest.approx(exact, rel=1e-9 if k == 0 else 2e-3)
    assert np.all(found.density >= 0)
    assert np.all(np.diff(found.eigenvalue) > 0)


def test_few_points_are_enough_for_the_shares():
    few = jacobian_spectrum("tanh", 3, points=2)
    assert np.sum(few.weight * few.density) == pytest.approx(1, rel=1e-9)
    assert len(jacobian_spectrum("tanh", 3, points=300).eigenvalue) >= 300


def test_moments_of_slopes_without_bounds():
    """phi = e^x has E phi'^2k = e^(2 k^2), x^2 the moments of chi^2_1: 1, 3, 15, 105, 945."""
    found = jacobian_spectrum(jnp.exp, 1, "orthogonal", moments=5)
    exact = [math.exp(2 * k**2 - 2 * k) for k in range(1, 6)]
    np.testing.assert_allclose(found.moments, exact, rtol=1e-9)
    found = jacobian_spectrum(jnp.square, 1, "orthogonal", moments=5)
    np.testing.assert_allclose(found.moments, [1, 3, 15, 105, 945], rtol=1e-9)
    assert found.largest == math.inf
    assert jacobian_spectrum(lambda x: x * jnp.log1p(x * x), 2).largest == math.inf


def test_a_steepest_slope_beyond_the_reach_is_the_end_all_the_same():
    """One layer has the law of the slopes itself; q = 1/64 sees |x| < 1, GELU is steepest at √2."""
    steepest = 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi)
    for q in (1 / 64, 1.0):
        found = jacobian_spectrum("gelu", 1, "orthogonal", q=q, weight_var=1.0)
        assert found.largest == pytest.approx(steepest**2, rel=1e-9)
    found = jacobian_spectrum("softplus", 1, "orthogonal", q=0.01, weight_var=1.0)
    assert found.largest == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("name", ["leaky_relu", "hard_tanh"])
def test_shares_of_orthogonal_products(name):
    """One draw of N = 400: eigenvalues are rigid, so that shares scatter by less than 5 L / N.

    What scatters is the number of open units, by 0.025 a layer and less in the share.
    """
    depth, size, rng = 3, 400, np.random.default_rng(5)
    phi = curve(name)
    product = np.eye(size)
    for _ in range(depth):
        rotation, r = np.linalg.qr(rng.normal(size=(size, size)))
        # Units in equal steps of probability: as many open ones as there ought to be.
        _, slope = phi.evaluate(rng.permutation(ndtri((np.arange(size) + 0.5) / size)))
        product = slope[:, None] * ((rotation * np.sign(np.diag(r))) @ product)
    drawn = np.linalg.svd(product, compute_uv=False) ** 2 / phi.slope_second(1.0) ** depth
    found = jacobian_spectrum(name, depth, "orthogonal")
    for least in (0.3, 1.0, 2.0):
        share = np.sum((found.weight * found.density)[found.eigenvalue > least])
        share += sum(each for position, each in found.atoms if position > least)
        assert np.mean(drawn > least) == pytest.approx(share, abs=5 * depth / size)


@pytest.mark.parametrize(
    ("depth", "weights"), [(2, "gaussian"), (3, "orthogonal"), (8, "orthogonal")]
)
def test_the_edge_for_any_share_of_open_units(depth, weights):
    """inf over z of (1+z)/z [(z+p)/(p (1+z))]^L, times (1+z)^L for Gaussian weights."""
    p = math.erf(1 / math.sqrt(2))  # hard_tanh at q = 1

    def log_f(log_z):
        z = math.exp(log_z)
        power = depth if weights == "gaussian" else 0
        return (1 + power) * math.log1p(z) - log_z + depth * math.log((z + p) / (p * (1 + z)))

    exact = math.exp(minimize_scalar(log_f, bounds=(-20, 30), method="bounded").fun)
    found = jacobian_spectrum("hard_tanh", depth, weights)
    assert found.largest == pytest.approx(exact, rel=1e-6)


def test_atoms_of_orthogonal_networks():
    assert jacobian_spectrum("identity", 3, "orthogonal").atoms == pytest.approx(
        np.array([[1.0, 1.0]])
    )
    p = math.erf(1 / math.sqrt(2))
    found = jacobian_spectrum("hard_tanh", 2, "orthogonal").atoms
    np.testing.assert_allclose(found, [[0, 1 - p], [1 / p**2, 1 - 2 * (1 - p)]], rtol=1e-9)


def test_weights_scale_the_spectrum():
    one, four = (jacobian_spectrum("relu", 3, weight_var=v) for v in (2.0, 4.0))
    assert four.largest == pytest.approx(8 * one.largest, rel=1e-12)
    np.testing.assert_allclose(four.moments, one.moments * 8.0 ** np.arange(1, 5), rtol=1e-12)
    np.testing.assert_allclose(four.density, one.density / 8, rtol=1e-9)


@pytest.mark.parametrize("phi", ["relu", "tanh", own])
def test_products_of_random_matrices(phi):
    """Twelve products of N = 200: five standard errors, and 5 L / N of the second moment."""
    depth, size, rng = 3, 200, np.random.default_rng(3)
    weight_var = 1 / curve(phi).slope_second(1.0)
    second = []
    for _ in range(12):
        product = np.eye(size)
        for _ in range(depth):
            w = rng.normal(0, math.sqrt(weight_var / size), (size, size))
            _, slope = curve(phi).evaluate(rng.normal(size=size))
            product = slope[:, None] * (w @ product)
        eigenvalues = np.linalg.svd(product, compute_uv=False) ** 2
        second.append(np.mean(eigenvalues**2) / np.mean(eigenvalues) ** 2)
    exact = jacobian_spectrum(phi, depth).moments[1]
    error = np.std(second, ddof=1) / math.sqrt(12)
    assert error < 0.05 * exact
    assert abs(np.mean(second) - exact) < 5 * error + 5 * depth / size * exact


@pytest.mark.bad_input
def test_bad_spectra_are_refused():
    with pytest.raises(ValueError, match="unknown weights 'gausian'; did you mean 'gaussian'"):
        jacobian_spectrum("tanh", 2, "gausian")
    with pytest.raises(ValueError, match="depth must be an integer of at least 1, got 0"):
        jacobian_spectrum("tanh", 0)
    with pytest.raises(ValueError, match="q is a variance and must be positive"):
        jacobian_spectrum("tanh", 2, q=0.0)
    with pytest.raises(ValueError, match="has slope 0 everywhere at q = 1"):
        jacobian_spectrum(lambda x: 0 * x + 2.0, 2)
    with pytest.raises(MomentError, match=r"moment 9 .* E phi'\^18 of exp .* at most 8 moments"):
        jacobian_spectrum(jnp.exp, 1, moments=12)
    with pytest.raises(ValueError, match="leave float64; give a weight_var nearer to"):
        jacobian_spectrum("relu", 2000, weight_var=4.0)
