"""The layer's one definition, for every norm and residual kind: forward, mapped, and backward."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.networks.layer import LAYERS, RESIDUALS
from jinit.networks.norms import NORMS, Norm
from jinit.runtime import jit_once

DIMS = (4, 5, 5, 5, 3)
X = np.random.default_rng(0).normal(size=(6, 4))
Y = np.random.default_rng(1).normal(size=(6, 3))
# Every norm, over the batch and over what it has gathered, and every residual kind. A norm meets
# the branch's order of steps in one program; residual kinds differ in the branch's scale alone.
WALK = [
    *((None, residual, True) for residual in RESIDUALS),
    *((norm, None, True) for norm in NORMS if norm),
    ("batch", None, False),
    ("batch", "skipinit", True),
    ("batch", "scaled", False),
    ("layer", "plain", True),
]


def stirred(net, *lead):
    """Arrays in which every leaf matters, in float64."""
    rng = np.random.default_rng(4)
    shapes = jax.eval_shape(lambda k: jinit.init(k, net), jax.random.key(0))
    return jax.tree.map(lambda s: rng.uniform(0.3, 1.1, (*lead, *s.shape)), shapes)


@pytest.mark.parametrize(("norm", "residual", "train"), WALK)
def test_every_layer_back_is_the_derivative_of_every_layer_forward(norm, residual, train):
    """`layer_signals` knows its own way back; `jax.grad` of `forward` is another."""
    net = jinit.MLP(DIMS, activation="tanh", norm=norm, residual=residual)

    def both(params, state):
        def loss(params):
            return 0.5 * jnp.sum((jinit.forward(net, params, state, X, train=train)[0] - Y) ** 2)

        signals = jinit.layer_signals(net, params, state, X, Y, loss="squared_error", train=train)
        return signals.log_weight_grad, jax.grad(loss)(params)

    with jax.enable_x64(True):
        found, gradient = jit_once(both, level=0)(*jax.tree.map(jnp.asarray, stirred(net)))
        expected = [0.5 * math.log(np.mean(np.square(layer.w))) for layer in gradient]
    np.testing.assert_allclose(found, np.array(expected) - math.log(len(X)), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("norm", "residual", "train"), WALK)
def test_every_layer_mapped_equals_looped(norm, residual, train):
    net = jinit.MLP(DIMS, activation="tanh", norm=norm, residual=residual)
    start = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), stirred(net, 3))

    def outputs(params, state):
        return jinit.forward(net, params, state, X, train=train)

    mapped, single = jax.jit(jax.vmap(outputs))(*start), jax.jit(outputs)
    for i in range(3):
        alone = single(*jax.tree.map(lambda a, i=i: a[i], start))
        for many, one in zip(jax.tree.leaves(mapped), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(many[i], one, rtol=1e-5, atol=1e-5)


def test_the_walk_meets_every_row():
    met = set(WALK)
    assert {residual for _, residual, _ in met} == set(RESIDUALS)
    for norm, row in NORMS.items():
        for train in (True, False) if row.over_batch else (True,):
            of_norm = {residual is None for own, residual, t in met if (own, t) == (norm, train)}
            assert of_norm == {True, False}, (norm, train)


def test_every_step_of_every_order_is_known():
    """A step that only one of the two kinds of arrays had would be found at its first use."""
    steps = {step for order in LAYERS.values() for step in order.steps}
    assert steps == {"linear", "norm", "activate", "branch", "pool"}
    assert {order.around for order in LAYERS.values()} == {None, "project"}
    assert all("linear" in order.steps for order in LAYERS.values())


def test_a_norm_is_one_row(monkeypatch):
    """Root mean square norm, by nothing but its row: described, drawn, run, measured, refused."""

    def standardise(x, eps, batch_axis):
        return x / jnp.sqrt(jnp.mean(x * x, 1 - batch_axis, keepdims=True) + eps)

    def rms(x, stats, gamma, beta, *, eps, batch_axis, **_):
        scale, shift = jnp.expand_dims(gamma, batch_axis), jnp.expand_dims(beta, batch_axis)
        return scale * standardise(x, eps, batch_axis) + shift, stats

    with pytest.raises(ValueError, match=r"unknown norm 'rms'.*Allowed: None, 'batch', 'layer'"):
        jinit.MLP(DIMS, norm="rms")
    monkeypatch.setitem(NORMS, "rms", Norm(rms, standardise))
    for residual in (None, "skipinit"):  # the layer's two orders
        test_every_layer_back_is_the_derivative_of_every_layer_forward("rms", residual, True)


def test_a_branch_far_below_the_stream_has_its_gradient():
    """1e-55 beside 1: floats could not add the two, but each has a logarithm of its own."""
    net = jinit.MLP((8, 8, 8, 3), activation="tanh", residual="skipinit")
    params, state = jinit.init(jax.random.key(0), net, "normal", scale=1e-25)
    x = jax.random.normal(jax.random.key(1), (5, 8))

    @jax.jit
    def measure(alpha):
        (blocks, readout) = params.runs
        blocks = blocks._replace(alpha=jnp.full(2, alpha))
        own = jinit.Params((blocks, readout))
        return jinit.layer_signals(net, own, state, x, key=jax.random.key(2)).log_weight_grad

    small, smaller = measure(1e-6), measure(1e-30)
    np.testing.assert_allclose(small[:2] - smaller[:2], 24 * math.log(10), rtol=1e-5)
    np.testing.assert_allclose(small[2], smaller[2], rtol=1e-5)
