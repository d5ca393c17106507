"""The linear map on columns: values and derivatives of the plain product in either form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jinit.networks.linear import linear

# [fan_in, fan_out, batch]: weights turned (batch at least fan_in), and not.
SHAPES = [(4, 3, 7), (4, 3, 4), (8, 5, 2), (1, 1, 1)]


def arrays(shape):
    m, n, batch = shape
    rng = np.random.default_rng(0)
    draws = (rng.normal(size=s) for s in ((m, n), (m, batch), (n, batch), (m, n), (m, batch)))
    return tuple(jnp.asarray(a, jnp.float32) for a in draws)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_derivatives(shape):
    w, h, g, dw, dh = arrays(shape)
    out, tangent = jax.jvp(linear, (w, h), (dw, dh))
    close(out, w.T @ h)
    close(tangent, dw.T @ h + w.T @ dh)
    _, pull = jax.vjp(linear, w, h)
    for got, expected in zip(pull(g), (h @ g.T, w @ g), strict=True):
        close(got, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_second_derivatives_forward_over_reverse_and_reverse_over_reverse(shape):
    w, h, _, dw, _ = arrays(shape)

    def cubed(product):
        return lambda w: jnp.sum(product(w, h) ** 3)

    def by_hand(w, h):
        return w.T @ h

    for curvature in (
        lambda f: jax.jvp(jax.grad(f), (w,), (dw,))[1],
        lambda f: jax.grad(lambda w: jnp.vdot(jax.grad(f)(w), dw))(w),
    ):
        close(curvature(cubed(linear)), curvature(cubed(by_hand)))


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_mapped_over_either_or_both(axes):
    w, h, *_ = arrays((4, 3, 7))
    ws = jnp.stack([w, 2 * w]) if axes[0] == 0 else w
    hs = jnp.stack([h, 3 * h]) if axes[1] == 0 else h
    got = jax.jit(jax.vmap(linear, axes))(ws, hs)
    for i, each in enumerate(got):
        close(each, (ws[i] if axes[0] == 0 else w).T @ (hs[i] if axes[1] == 0 else h))


def test_no_transposed_left_operand_is_multiplied_in_a_step():
    """What the columns are for: of a step's three products none contracts two leading axes."""
    w, h, g, *_ = arrays((4, 3, 7))

    def step(w, h):
        out, pull = jax.vjp(linear, w, h)
        return out, pull(g)

    contracted = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                contracted.append(equation.params["dimension_numbers"][0])
            for inner in jaxprs_in_params(equation.params):
                walk(inner)

    walk(jax.make_jaxpr(step)(w, h).jaxpr)
    assert len(contracted) == 3
    assert ((0,), (0,)) not in [tuple(map(tuple, c)) for c in contracted]
