"""Schemes in other frameworks, and what jinit's batch norm shares with Flax's.

Each framework is optional; the README's one-liners are what is run here.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.networks.norms import batch_norm, init_stats

KEY = jax.random.key(0)


def std_is(w, expected):
    """Within five standard errors of that many normal entries."""
    w = np.asarray(w, np.float64)
    assert abs(np.sqrt(np.mean(w**2)) / expected - 1) < 5 / math.sqrt(2 * w.size)


# --- schemes --------------------------------------------------------------------------------


def test_flax_linen_takes_a_scheme_as_it_is():
    nn = pytest.importorskip("flax.linen")
    model = nn.Dense(80, kernel_init=jinit.scheme("he"), bias_init=jinit.scheme("zeros"))
    params = model.init(KEY, jnp.ones((1, 120)))["params"]
    assert params["kernel"].shape == (120, 80)
    std_is(params["kernel"], math.sqrt(2 / 120))
    assert not np.any(params["bias"])
    convolution = nn.Conv(24, (3, 3), kernel_init=jinit.scheme("delta_orthogonal"))
    kernel = convolution.init(KEY, jnp.ones((1, 8, 8, 24)))["params"]["kernel"]
    centre = np.asarray(kernel[1, 1])
    np.testing.assert_allclose(centre @ centre.T, np.eye(24), atol=1e-5)
    assert np.sum(np.square(kernel)) == pytest.approx(24, rel=1e-5)


def test_flax_nnx_takes_a_scheme_as_it_is():
    nnx = pytest.importorskip("flax.nnx")
    layer = nnx.Linear(120, 80, kernel_init=jinit.scheme("he"), rngs=nnx.Rngs(0))
    assert layer.kernel.shape == (120, 80)
    std_is(layer.kernel[...], math.sqrt(2 / 120))


def test_haiku_takes_a_scheme_by_one_lambda():
    hk = pytest.importorskip("haiku")
    he = jinit.scheme("he")

    def model(x):
        w_init = lambda shape, dtype: he(hk.next_rng_key(), shape, dtype)  # noqa: E731
        return hk.Linear(80, w_init=w_init)(x)

    params = hk.transform(model).init(KEY, jnp.ones((1, 120)))
    assert params["linear"]["w"].shape == (120, 80)
    std_is(params["linear"]["w"], math.sqrt(2 / 120))


def test_equinox_takes_a_scheme_by_tree_at():
    """Its layers store (out, in), which the scheme is told."""
    eqx = pytest.importorskip("equinox")
    layer = eqx.nn.Linear(120, 80, key=KEY)
    he = jinit.scheme("he", in_axis=-1, out_axis=-2)
    layer = eqx.tree_at(lambda m: m.weight, layer, he(KEY, layer.weight.shape))
    assert layer.weight.shape == (80, 120)
    std_is(layer.weight, math.sqrt(2 / 120))
    orthogonal = jinit.scheme("orthogonal", in_axis=-1, out_axis=-2)
    layer = eqx.tree_at(lambda m: m.weight, layer, orthogonal(KEY, layer.weight.shape))
    np.testing.assert_allclose(layer.weight @ layer.weight.T, np.eye(80), atol=1e-5)
    assert layer(jnp.ones(120)).shape == (80,)

    convolution = eqx.nn.Conv2d(24, 32, 3, key=KEY)  # (out, in, *field)
    he = jinit.scheme("he", in_axis=1, out_axis=0)
    kernel = he(KEY, convolution.weight.shape)
    assert kernel.shape == (32, 24, 3, 3)
    std_is(kernel, math.sqrt(2 / (24 * 9)))


# --- batch norm: the Flax column of the table in docs/batch-norm.md -----------------------

X = np.random.default_rng(0).normal(2.0, 3.0, (6, 4)).astype(np.float32)


def in_flax(x, *, train, variables=None, **options):
    nn = pytest.importorskip("flax.linen")
    model = nn.BatchNorm(use_running_average=not train, **options)
    variables = variables or model.init(KEY, x)
    y, updated = model.apply(variables, x, mutable=["batch_stats"])
    return y, {**variables, **updated}


def ours(x, *, train, stats=None, **options):
    n = x.shape[1]
    stats = stats or init_stats((n,))
    return batch_norm(jnp.asarray(x), stats, jnp.ones(n), jnp.zeros(n), train=train, **options)


def test_training_outputs_equal_those_of_flax():
    """Both normalise by the biased variance of the batch, with eps 1e-5 by default."""
    y, _ = in_flax(X, train=True)
    np.testing.assert_allclose(ours(X, train=True)[0], y, rtol=1e-4, atol=1e-5)
    tiny = 1e-3 * X  # where eps is as large as the variance, defaults that differ would show
    y, _ = in_flax(tiny, train=True)
    np.testing.assert_allclose(ours(tiny, train=True)[0], y, rtol=1e-3, atol=1e-5)


def test_running_variance_is_unbiased_where_that_of_flax_is_biased():
    """running = m running + (1 - m) batch in both; the means agree, the variances by n/(n - 1)."""
    n, momentum = len(X), 0.7
    _, theirs = in_flax(X, train=True, momentum=momentum)
    _, stats = ours(X, train=True, momentum=momentum)
    theirs = theirs["batch_stats"]
    np.testing.assert_allclose(stats.mean, theirs["mean"], rtol=1e-5)
    np.testing.assert_allclose(stats.mean, (1 - momentum) * X.mean(0), rtol=1e-5)
    batch = (np.asarray(stats.var) - momentum) / (1 - momentum)
    their_batch = (np.asarray(theirs["var"]) - momentum) / (1 - momentum)
    np.testing.assert_allclose(their_batch, X.var(0), rtol=1e-4)
    np.testing.assert_allclose(batch, their_batch * n / (n - 1), rtol=1e-4)


def test_evaluation_outputs_equal_those_of_flax_from_the_same_statistics():
    _, stats = ours(X, train=True)
    variables = {
        "batch_stats": {"mean": stats.mean, "var": stats.var},
        "params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)},
    }
    y, _ = in_flax(X, train=False, variables=variables)
    np.testing.assert_allclose(ours(X, train=False, stats=stats)[0], y, rtol=1e-5, atol=1e-6)


def test_the_defaults_of_flax_are_as_the_table_says():
    nn = pytest.importorskip("flax.linen")
    model = nn.BatchNorm()
    assert (model.momentum, model.epsilon, model.use_fast_variance) == (0.99, 1e-5, True)
    net = jinit.MLP((2, 2))
    assert (net.momentum, net.eps) == (0.9, 1e-5)


def test_the_fast_variance_of_flax_loses_digits_that_jinit_keeps():
    """E[x²] - E[x]² beside a mean of 3000 has an error of about 1 in float32."""
    shifted = X + np.float32(3000)
    exact = ours(X, train=True, momentum=0.0)[1].var
    kept = ours(shifted, train=True, momentum=0.0)[1].var
    _, theirs = in_flax(shifted, train=True, momentum=0.0)
    _, slow = in_flax(shifted, train=True, momentum=0.0, use_fast_variance=False)
    biased = np.asarray(exact) * 5 / 6
    np.testing.assert_allclose(kept, exact, rtol=1e-3)
    np.testing.assert_allclose(slow["batch_stats"]["var"], biased, rtol=1e-3)
    assert np.abs(np.asarray(theirs["batch_stats"]["var"]) - biased).max() > 0.05


def test_a_training_batch_of_one_divides_by_the_root_of_eps_in_flax():
    """Zero by sqrt(eps): the output is the shift alone, whatever was put in; jinit refuses."""
    y, theirs = in_flax(X[:1], train=True, momentum=0.0)
    np.testing.assert_allclose(y, 0, atol=1e-1)
    np.testing.assert_allclose(theirs["batch_stats"]["var"], 0, atol=1e-5)
    with pytest.raises(ValueError, match="at least 2 samples"):
        ours(X[:1], train=True)
