"""The forms a model comes in: a module is its own apply; what holds its weights inside is told."""

from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jinit

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (32, 8))


class OfNNX(nnx.Module):
    def __init__(self, rngs):
        self.a, self.norm = nnx.Linear(8, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
        self.b = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.relu(self.norm(self.a(x))))


class OfLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(16)(x)))


def of_equinox():
    return eqx.nn.MLP(8, 4, 16, 1, key=KEY)


def weights(rows):
    return sorted((r.fan_in, r.fan_out) for r in rows if r.role == "weight")


def test_a_module_is_its_own_apply_and_comes_back_redrawn():
    model = OfNNX(nnx.Rngs(0))
    assert weights(jinit.audit(model, X).rows) == [(8, 16), (16, 4)]
    new = jinit.reinit(KEY, model, X, scheme="he")
    assert isinstance(new, OfNNX)
    np.testing.assert_array_equal(new.norm.var[...], model.norm.var[...])
    assert new(X).shape == (32, 4)
    assert not jnp.allclose(new.a.kernel[...], model.a.kernel[...])
    model = of_equinox()
    found = jinit.Model(model, X, in_axes=0)
    assert weights(found.audit().rows) == [(8, 16), (16, 4)]
    new = found.reinit(KEY, scheme="orthogonal")
    assert isinstance(new, eqx.nn.MLP)
    assert len(found.diagnose(new).layers) == 2
    shapes = eqx.filter_eval_shape(of_equinox)
    assert weights(jinit.audit(shapes, X, in_axes=0).rows) == [(8, 16), (16, 4)]


def test_linen_bound_and_not():
    model = OfLinen()
    with jax.numpy_rank_promotion("allow"):
        variables = model.init(KEY, X)
        for given in (
            (model.apply, variables, X),
            (model, variables, X),
            (model.bind(variables), X),
        ):
            assert weights(jinit.audit(*given).rows) == [(8, 16), (16, 4)]


def linen_inside():
    model = OfLinen()
    variables = model.init(KEY, X)
    return model, variables


INSIDE = {
    "partial of linen": (lambda m, v: partial(m.apply, v), "model.apply, variables, batch"),
    "lambda of linen": (lambda m, v: lambda x: m.apply(v, x), "model.apply, variables, batch"),
    "mapped equinox": (lambda m, v: jax.vmap(of_equinox()), "model, batch, in_axes=0"),
    "bound method": (lambda m, v: OfNNX(nnx.Rngs(0)).__call__, r"model, batch\)"),
    "compiled": (lambda m, v: nnx.jit(OfNNX(nnx.Rngs(0))), r"model, batch\)"),
}


@pytest.mark.parametrize("name", INSIDE)
def test_a_function_that_holds_its_weights_says_the_right_call(name):
    make, call = INSIDE[name]
    with jax.numpy_rank_promotion("allow"):
        apply = make(*linen_inside())
        for tool in (jinit.audit, jinit.diagnose, partial(jinit.reinit, KEY), jinit.Model):
            with pytest.raises(TypeError, match=rf"batch of inputs, apart .* call .*\({call}"):
                tool(apply, X)


def test_variables_that_are_not_what_is_applied_are_told():
    w = jax.random.normal(KEY, (8, 4))
    with pytest.raises(TypeError, match="holds its weights inside"):
        jinit.diagnose(lambda p, x: x @ w, X, X)
    with pytest.raises(TypeError, match=r"takes one sample .* in_axes=0"):
        jinit.diagnose(of_equinox(), X)
    with pytest.raises(TypeError, match="needs the parameters and a batch"):
        jinit.diagnose(of_equinox())
    with pytest.raises(TypeError, match="apply must be a function"):
        jinit.audit(3, X, X)


def test_a_constant_mask_is_no_weight_that_is_held_inside():
    mask = jnp.tril(jnp.ones((8, 8)))
    found = jinit.audit(lambda p, x: x @ (p * mask), jnp.ones((8, 8)), X)
    assert weights(found.rows) == [(8, 8)]


def test_a_model_that_draws_its_own_numbers_or_has_side_effects_is_told():
    from jax.experimental import io_callback

    w = jnp.eye(8)
    state = np.random.get_state()
    try:
        with pytest.raises(ValueError, match=r"draws numbers by numpy.random .* jax.random"):
            jinit.audit(lambda w, x: x @ w + np.random.normal(), w, X)
    finally:
        np.random.set_state(state)
    with pytest.raises(ValueError, match="side effects"):
        jinit.audit(lambda w, x: x @ w + io_callback(lambda: np.float32(1), w[0, 0]), w, X)


def test_a_model_that_is_long_to_read_says_how_long(monkeypatch):
    from jinit.models.tracing import interpreter

    clock = iter(np.arange(0.0, 1e6, 1.0))
    monkeypatch.setattr(interpreter, "_now", lambda: float(next(clock)))

    def apply(w, x):
        for _ in range(100):
            x = jnp.tanh(x @ w)
        return x

    with pytest.warns(UserWarning, match=r"takes about 2\d\d s: \d+ of 200 operations"):
        jinit.audit(apply, jnp.eye(8), X)
