"""The interpreter changes nothing of a model, and sees every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.models.tracing.probe import Spot, interpret, log_size, moments, size, tap, tap_zeros
from jinit.models.tracing.trace import trace_model
from tests.zoo import entries as zoo

MODELS = [e for e in zoo.ENTRIES if e.kind not in (*zoo.CONVOLUTIONS, "linear", "vector")]


def close(a, b, rounding=0.0):
    """To 2e-5 of the largest entry; `rounding` is what may be the noise of a zero."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = max(np.max(np.abs(b), initial=0), 1e-6, rounding / 2e-5)
    np.testing.assert_allclose(a / scale, b / scale, atol=2e-2 if a.ndim and scale > 1e3 else 2e-5)


@pytest.mark.parametrize("entry", zoo.first_of_its_kind(MODELS))
def test_a_model_and_its_gradient_are_the_same_under_the_interpreter(entry):
    apply, variables, inputs = entry.build(jax.random.key(3))
    traced = trace_model(apply, variables, *inputs)
    leaves = jax.tree.leaves(variables)
    floats = [leaves[i] for i in traced.chosen]
    uses = {use.path: use for use in traced.uses if use.kind == "weight"}
    places = [Spot(path) for path in uses]
    taps = {i: tap_zeros([n.length for n in u.loops]) for i, u in enumerate(uses.values())}

    def plain(floats):
        own = list(leaves)
        for i, leaf in zip(traced.chosen, floats, strict=True):
            own[i] = leaf
        out = apply(jax.tree.unflatten(jax.tree.structure(variables), own), *inputs)
        return sum(jnp.sum(jnp.sin(leaf.astype(jnp.float32))) for leaf in _arrays(out))

    def seen(floats, taps):
        visit = lambda i, value, zeros: (tap(value, zeros), moments(value))  # noqa: E731
        out, records = interpret(traced, floats, inputs, places, visit, taps)
        assert set(records) == set(taps)
        return sum(jnp.sum(jnp.sin(leaf.astype(jnp.float32))) for leaf in out if _float(leaf))

    expected, gradients = jax.jit(jax.value_and_grad(plain))(floats)
    (value, (found, tapped)) = jax.jit(jax.value_and_grad(seen, argnums=(0, 1)))(floats, taps)
    close(value, expected)
    # That of a key's bias is zero: it shifts all logits of a query alike.
    rounding = 2e-7 * max(float(jnp.max(jnp.abs(g))) for g in gradients if g.size)
    for a, b in zip(found, gradients, strict=True):
        bits = jnp.finfo(b.dtype).bits
        if bits == 32 and "mixed" not in entry.name:
            close(a, b, rounding)
    for zeros in tapped.values():
        assert np.isfinite(zeros).all()


def _float(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _arrays(out):
    return [leaf for leaf in jax.tree.leaves(out) if hasattr(leaf, "dtype") and _float(leaf)]


def test_what_is_returned_in_place_of_a_value_goes_on():
    def apply(w, x):
        return jax.lax.scan(lambda h, w: (h @ w, jnp.sum(h)), x, w)[0]

    w, x = jnp.stack([jnp.eye(3)] * 4), jnp.ones((2, 3))
    traced = trace_model(apply, w, x)
    (use,) = traced.uses
    double = lambda i, value, given: (given * value, given)  # noqa: E731
    factors = jnp.asarray([1.0, 2.0, 3.0, 4.0])
    (out,), records = interpret(traced, [w], [x], [Spot(use.path)], double, {0: factors})
    np.testing.assert_allclose(out, 24 * x)
    np.testing.assert_array_equal(records[0], factors)


def test_sizes_are_right_where_squares_leave_float32():
    x = np.random.default_rng(0).normal(size=(4, 5))
    for scale in (1e-30, 1.0, 1e30):
        found = size(jnp.asarray(scale * x, jnp.float32))
        expected = np.log(scale) + 0.5 * np.log(np.mean(x**2))
        assert log_size(*np.asarray(found)) == pytest.approx(expected, abs=1e-5)
    assert log_size(*np.asarray(size(jnp.zeros(3)))) == -np.inf
    assert np.isnan(log_size(*np.asarray(size(jnp.asarray([1.0, jnp.nan])))))
    seen = moments(jnp.asarray(x, jnp.float32))
    mean, square = (np.float64(a) for a in (seen.mean * seen.scale, seen.square))
    assert mean == pytest.approx(x.mean(), abs=1e-5)
    std = float(seen.scale) * np.sqrt(square - float(seen.mean) ** 2)
    assert std == pytest.approx(x.std(), rel=1e-5)


def test_where_no_gradient_flows_a_tap_stays_zero():
    def f(zeros):
        return jnp.sum(jax.lax.stop_gradient(tap(jnp.ones(3), zeros[0]))) + jnp.sum(
            tap(2 * jnp.ones(3), zeros[1])
        )

    first, second = jax.grad(f)((tap_zeros([]), tap_zeros([])))
    assert log_size(*np.asarray(first)) == -np.inf
    assert log_size(*np.asarray(second)) == pytest.approx(0, abs=1e-6)
