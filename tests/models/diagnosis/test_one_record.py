"""`layer_signals` and `diagnose` are one instrument: every field agrees, layer by layer."""

import math

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.activations import activation
from jinit.networks.losses import LOSSES

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (32, 12))
Y = jnp.arange(32) % 3
DIMS = (12, 16, 16, 16, 3)  # a run of two, which is scanned
LONG = (12, 16, 16, 16, 8, 8, 3)  # and one of one
FIELDS = [name for name in jinit.LayerSignals._fields if "histogram" not in name]


def same(found, expected, message=""):
    for name in FIELDS:
        a, b = getattr(found, name), np.asarray(getattr(expected, name))
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=f"{name} {message}")


def drawn(net, alpha=0.3):
    """He's weights, small biases, and norms as they start; in NumPy, which compiles nothing."""
    rng = np.random.default_rng(2)
    params, state = jax.eval_shape(lambda key: jinit.init(key, net), KEY)
    full = {"gamma": 1.0, "beta": 0.0, "alpha": alpha}

    def leaf(name, shape):
        if name in full:
            return np.full(shape, full[name], np.float32)
        var = 0.1 if name == "b" else 2 / shape[-2]
        return (math.sqrt(var) * rng.normal(size=shape)).astype(np.float32)

    def run(shapes):
        return type(shapes)(
            *(
                None if own is None else jnp.asarray(leaf(name, own.shape))
                for name, own in zip(shapes._fields, shapes, strict=True)
            )
        )

    ones = jax.tree.map(lambda own: jnp.asarray(np.ones(own.shape, np.float32)), state)
    return type(params)(tuple(map(run, params.runs))), ones


SETTINGS = [
    ("tanh", None, None), ("gelu", None, None), ("leaky_relu", None, None),
    ("relu", "batch", None), ("sigmoid", "layer", None),
    ("tanh", None, "plain"), ("relu", None, "scaled"), ("gelu", None, "skipinit"),
    ("silu", "layer", "plain"), ("relu", "batch", "scaled"), ("tanh", "batch", "skipinit"),
]  # fmt: skip


@pytest.mark.parametrize(("phi", "norm", "residual"), SETTINGS)
def test_two_instruments_read_the_same(phi, norm, residual):
    net = jinit.MLP(
        LONG if residual == "scaled" else DIMS, activation=phi, norm=norm, residual=residual
    )
    params, state = drawn(net)

    def apply(params, x):
        return jinit.forward(net, params, state, x, train=True)[0]

    d = jinit.diagnose(apply, params, X, loss=LOSSES["cross_entropy"], targets=Y)
    same(d.signals, jinit.layer_signals(net, params, state, X, Y))
    for i, row in enumerate(d.layers):
        same(row.signals, jax.tree.map(lambda a, i=i: a[i], d.signals))
        same(row, row.signals)


def test_a_branch_that_starts_at_zero_has_the_same_signals_too():
    net = jinit.MLP(LONG, activation="tanh", residual="skipinit")
    params, state = drawn(net, alpha=0.0)
    d = jinit.diagnose(lambda p, x: jinit.forward(net, p, state, x, train=True)[0], params, X,
                       loss=LOSSES["cross_entropy"], targets=Y)  # fmt: skip
    assert d.layers[1].log_weight_grad == -math.inf
    same(d.signals, jinit.layer_signals(net, params, state, X, Y))


class Linen(nn.Module):
    net: jinit.MLP

    @nn.compact
    def __call__(self, h):
        net, phi = self.net, activation(self.net.activation)

        def norm(h):
            if net.norm == "batch":
                return nn.BatchNorm(use_running_average=False, epsilon=net.eps)(h)
            return h if net.norm is None else nn.LayerNorm(epsilon=net.eps)(h)

        for m, n in zip(net.dims[:-2], net.dims[1:-1], strict=True):
            if net.residual and m == n:
                h = h + net.branch_scale * nn.Dense(n)(phi(norm(h)))
            else:
                h = phi(norm(nn.Dense(n)(h)))
        return nn.Dense(net.dims[-1])(h)


@pytest.mark.parametrize(
    ("phi", "norm", "residual"),
    [("relu", "batch", None), ("gelu", "layer", "scaled"), ("tanh", None, "plain")],
)  # fmt: skip
def test_the_same_model_in_linen(phi, norm, residual):
    net = jinit.MLP(DIMS, activation=phi, norm=norm, residual=residual)
    params, state = drawn(net)
    model = Linen(net)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # Flax mixes
        variables = jax.jit(model.init)(KEY, X)
        for i, layer in enumerate(params):
            variables["params"][f"Dense_{i}"] = {"kernel": layer.w, "bias": layer.b}

        def apply(own, x):
            return model.apply({**variables, "params": own}, x, mutable=["batch_stats"])[0]

        d = jinit.diagnose(apply, variables["params"], X, loss=LOSSES["cross_entropy"], targets=Y)
    same(d.signals, jinit.layer_signals(net, params, state, X, Y))


class Equinox(eqx.Module):
    layers: list[eqx.nn.Linear]
    norms: list[eqx.nn.LayerNorm]
    net: jinit.MLP = eqx.field(static=True)

    def __call__(self, h):
        phi = activation(self.net.activation)
        *hidden, last = self.layers
        for layer, norm in zip(hidden, self.norms, strict=True):
            normed = norm if self.net.norm else (lambda h: h)
            if self.net.residual and layer.in_features == layer.out_features:
                h = h + self.net.branch_scale * layer(phi(normed(h)))
            else:
                h = phi(normed(layer(h)))
        return last(h)


@pytest.mark.parametrize(
    ("phi", "norm", "residual"),
    [("tanh", "layer", None), ("relu", None, "scaled"), ("tanh", "layer", "plain")],
)  # fmt: skip
def test_the_same_model_in_equinox(phi, norm, residual):
    net = jinit.MLP(DIMS, activation=phi, norm=norm, residual=residual)
    params, state = drawn(net)
    layers, norms = [], []
    for m, n, layer in zip(net.dims, net.dims[1:], params, strict=False):
        empty = eqx.nn.Linear(m, n, key=KEY)
        layers.append(eqx.tree_at(lambda e: (e.weight, e.bias), empty, (layer.w.T, layer.b)))
        norms.append(eqx.nn.LayerNorm(n, eps=net.eps))
    model = Equinox(layers, norms[:-1], net)
    with jax.numpy_dtype_promotion("standard"):
        d = jinit.diagnose(lambda m, x: jax.vmap(m)(x), model, X,
                           loss=LOSSES["cross_entropy"], targets=Y)  # fmt: skip
    same(d.signals, jinit.layer_signals(net, params, state, X, Y))
