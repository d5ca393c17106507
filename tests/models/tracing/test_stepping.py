"""Loops of unknown length, and solvers that hide them, are stepped through and give the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.models import diagnose
from jinit.models.tracing.stepping import hides_weights, stepped
from jinit.models.tracing.trace import trace_model

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (16, 8))


def field(p, h):
    for w in p:
        h = jnp.tanh(h @ w)
    return h


def in_while(p, x):
    """Steps until a time is reached, each of as many inner ones as its number."""

    def inner(state):
        k, h = state
        return k - 1, h + 0.1 * field(p, h)

    def step(state):
        t, n, h = state
        _, h = jax.lax.while_loop(lambda s: s[0] > 0, inner, (n, h))
        return t + 0.25, n + 1, h

    return jax.lax.while_loop(lambda s: s[0] < 0.9, step, (0.0, 1, x))[2]


@jax.custom_vjp
def solved(p, x):
    return in_while(p, x)


solved.defvjp(lambda p, x: (solved(p, x), (p, x)), lambda _, g: (None, g))


def weights(scale):
    return [scale * jax.random.normal(k, (8, 8)) for k in jax.random.split(KEY, 4)]


def chosen(p, x):
    return jax.lax.cond(x.sum() > -99, in_while, lambda p, x: x, p, x)


@pytest.mark.parametrize("apply", [in_while, solved, jax.jit(in_while), chosen])
def test_the_output_is_the_same_and_gradients_go_through(apply):
    p = weights(0.3)
    trace = trace_model(apply, p, X)
    assert hides_weights(trace)
    run = stepped(trace, p, (X,))
    np.testing.assert_allclose(run(p, X), apply(p, X), rtol=1e-5, atol=1e-6)

    def by_hand(p):
        h = X
        for n in range(1, 5):
            for _ in range(n):
                h = h + 0.1 * field(p, h)
        return jnp.sum(h**2)

    ours = jax.grad(lambda p: jnp.sum(run(p, X) ** 2))(p)
    for a, b in zip(ours, jax.grad(by_hand)(p), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_vanishing_field_is_named_through_a_solver():
    d = diagnose(solved, weights(0.02), X)
    assert len(d.layers) == 4
    assert d.findings[0].kind == "vanish"
    assert "Inside a residual branch the signal vanishes" in d.verdict
    assert diagnose(solved, weights(0.4), X).findings == ()


def too_long(w, x):
    return jax.lax.while_loop(
        lambda s: s[0] < 5000, lambda s: (s[0] + 1, jnp.tanh(s[1] @ w)), (0, x)
    )[1]


@jax.custom_vjp
def hidden(w, x):
    return too_long(w, x)


hidden.defvjp(lambda w, x: (hidden(w, x), (w, x)), lambda res, g: (res[0], g))


def test_a_loop_that_takes_too_long_is_said():
    p = {"loop": jnp.eye(8), "in": jnp.eye(8)}
    d = diagnose(lambda p, x: hidden(p["loop"], x @ p["in"]), p, X)
    assert "takes more than 1024 passes" in d.verdict
    assert not d.is_healthy
    with pytest.raises(ValueError, match=r"more than 1024 passes, and jax knows no gradient"):
        diagnose(lambda p, x: too_long(p["loop"], x @ p["in"]), p, X)


def test_a_rounding_with_its_own_gradient_keeps_it():
    """Only a derivative around a loop is left out."""

    @jax.custom_vjp
    def rounded(w):
        return jnp.round(w)

    rounded.defvjp(lambda w: (jnp.round(w), None), lambda _, g: (g,))
    trace = trace_model(lambda w, x: x @ rounded(w), jnp.eye(8), X)
    assert not hides_weights(trace)
