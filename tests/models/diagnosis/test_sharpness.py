"""The largest eigenvalue against the Hessian written out; its rates against training itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jinit.models.diagnosis.sharpness import DENSE, sharpness

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (16, 8))
LABELS = jnp.arange(16) % 4


def draw(key):
    shapes = {"in": (8, 12), "b": (12,), "out": (12, 4)}
    return {
        name: jax.random.normal(own, s) / s[0] ** 0.5
        for own, (name, s) in zip(jax.random.split(key, 3), shapes.items(), strict=True)
    }


def apply(p, x):
    return jnp.tanh(x @ p["in"] + p["b"][None]) @ p["out"]


def loss(output, targets):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(output), targets[:, None], 1))


def dense(f, params):
    flat, tree = ravel_pytree(params)
    gradient = jax.grad(lambda v: f(tree(v)))
    hessian = jax.jit(jax.jacrev(gradient))(flat)
    return np.asarray(hessian, np.float64), np.asarray(jax.jit(gradient)(flat))


# Products are in float32, whose rounding is 6e-8 of the largest: over the ~100 terms of a sum.
ROUNDING = 1e-5


def test_eigenvalues_are_those_of_the_hessian_written_out():
    params = draw(KEY)
    found = sharpness(KEY, apply, params, X, loss=loss, targets=LABELS, count=3, rates=True)
    hessian, gradient = dense(lambda p: loss(apply(p, X), LABELS), params)
    assert len(hessian) > DENSE  # so that Lanczos was asked
    values, vectors = np.linalg.eigh(hessian)
    # A residual r leaves an eigenvalue off by r at most.
    np.testing.assert_allclose(found.eigenvalues, values[:-4:-1], atol=ROUNDING + 1e-3 * values[-1])
    np.testing.assert_allclose(found.largest, values[-1], rtol=ROUNDING)
    assert (found.residuals < 1e-3).all()
    direction = ravel_pytree(found.direction)[0]
    gap = 1 - values[-2] / values[-1]
    assert abs(direction @ vectors[:, -1]) > 1 - (found.residuals[0] / gap) ** 2 - ROUNDING
    root = np.sqrt(np.abs(gradient) + 1e-8)
    top = np.linalg.eigvalsh(hessian / root / root[:, None])[-1]
    np.testing.assert_allclose(found.rates.preconditioned, top, rtol=1e-3)
    expected = (2 / found.largest, 3.8 / found.largest, 38 / found.rates.preconditioned)
    np.testing.assert_allclose(found.rates[:3], expected, rtol=1e-12)
    assert found.products < 300
    assert str(found).startswith(f"Sharpness {found.largest:.4g} (to ")
    assert "heavy ball" in str(found)


def test_it_is_the_same_from_every_first_vector_and_for_few_parameters():
    one, two = (
        sharpness(jax.random.key(i), apply, draw(KEY), X, loss=loss, targets=LABELS) for i in (3, 4)
    )
    np.testing.assert_allclose(one.largest, two.largest, rtol=1e-5)
    assert one.rates is None
    curve = jnp.array([3.0, -5.0, 1.0])  # L = sum c w^2 / 2
    few = sharpness(
        KEY, lambda p, x: p["w"] * x, {"w": jnp.ones(3)}, jnp.ones(3),
        loss=lambda out: jnp.sum(curve * out**2) / 2, count=3,
    )  # fmt: skip
    np.testing.assert_allclose(few.eigenvalues, [3, 1, -5], rtol=1e-6)


def test_statistics_unused_leaves_and_integers_do_not_move():
    def run(p, x):
        h = (x - p["mean"][None]) * jax.lax.rsqrt(p["var"][None] + 1e-5)
        return h @ p["w"] * p["count"].astype(jnp.float32)

    params = {
        "w": jnp.ones((8, 4)), "mean": jnp.zeros(8), "var": jnp.ones(8), "idle": jnp.ones(5),
        "count": jnp.int32(2),
    }  # fmt: skip
    found = sharpness(KEY, run, params, X, loss=lambda out: jnp.mean(jnp.sum(out**2, 1)))
    # L = 4 mean |W^T x|^2: H = 8 X^T X / n for each of the four outputs.
    x = np.asarray(X, np.float64) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(found.largest, 8 * np.linalg.norm(x, 2) ** 2 / 16, rtol=ROUNDING)
    assert found.direction["count"] == 2
    moved = {name for name, leaf in found.direction.items() if name != "count" and leaf.any()}
    assert moved == {"w"}


def test_a_derivative_of_the_models_own_needs_no_forward_mode():
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))
    found = sharpness(
        KEY, lambda p, x: double(x @ p["w"]), {"w": jnp.ones((8, 4))}, X,
        loss=lambda out: jnp.mean(jnp.sum(out**2, 1)) / 2,
    )  # fmt: skip
    top = 4 * np.linalg.norm(np.asarray(X, np.float64), 2) ** 2 / 16
    np.testing.assert_allclose(found.largest, top, rtol=ROUNDING)


def test_half_precision_and_modules_of_equinox():
    model = eqx.nn.MLP(8, 4, 12, 1, activation=jnp.tanh, key=KEY)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def run(p, x):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return jax.vmap(eqx.combine(p, static))(x).astype(jnp.float32)

    exact = sharpness(KEY, run, params, X, loss=loss, targets=LABELS)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    rough = sharpness(KEY, run, half, X, loss=loss, targets=LABELS, tolerance=0.1)
    # bfloat16 rounds by 2^-9 in each of some dozen steps.
    np.testing.assert_allclose(rough.largest, exact.largest, rtol=0.1)
    assert rough.direction.layers[0].weight.dtype == jnp.bfloat16


# --- the rates, tried ---------------------------------------------------------------------------

CURVES = jnp.array([0.01, 0.3, 2.0, 7.0])
ABOVE_AND_BELOW = pytest.mark.parametrize("factor", [0.95, 1.05])


def quadratic(p, x):
    return p["w"] * x


def bowl(out):
    return jnp.sum(CURVES * out**2) / 2


def frozen_adam(rate, denominator, beta1=0.9):
    """Adam whose preconditioner stays what it is."""
    divide = optax.stateless(lambda g, _: jax.tree.map(lambda x: x / denominator, g))
    return optax.chain(optax.ema(beta1, debias=False), divide, optax.sgd(rate))


def distances(optimizer, start, gradient):
    """From 0, of every entry, over a hundred steps."""

    def step(carry, _):
        w, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient(w), state, w)
            w = optax.apply_updates(w, updates)
        return (w, state), jnp.abs(w)

    return jax.lax.scan(step, (start, optimizer.init(start)), None, 100)[1]


@ABOVE_AND_BELOW
@pytest.mark.parametrize("which", ["gradient_descent", "heavy_ball", "adam"])
def test_a_quadratic_converges_below_the_rate_and_diverges_above(which, factor):
    start = jnp.array([0.3, -1.0, 2.0, 0.1])
    rates = sharpness(KEY, quadratic, {"w": start}, jnp.ones(4), loss=bowl, rates=True).rates
    rate = factor * getattr(rates, which)
    optimizer = {
        "gradient_descent": optax.sgd(rate),
        "heavy_ball": optax.sgd(rate, momentum=0.9),
        "adam": frozen_adam(rate, jnp.abs(CURVES * start) + 1e-8),
    }[which]
    # The last entry is the steepest, and of the smallest preconditioner too. Per step it is
    # multiplied by 1 - 2 factor, with momentum by the larger root z of
    # z^2 - (1.9 - 3.8 factor) z + 0.9 = 0.
    plain, of_momentum = 2 * factor - 1, max(abs(np.roots([1, 3.8 * factor - 1.9, 0.9])))
    per_step = plain if which == "gradient_descent" else of_momentum
    along = np.log(distances(optimizer, start, lambda w: CURVES * w)[:, 3])
    assert (per_step < 1) == (factor < 1)
    slope = (along[70:].mean() - along[20:50].mean()) / 50
    # Complex roots turn, so that single steps come near 0.
    assert slope == pytest.approx(np.log(per_step), abs=0.03)


def test_adam_with_its_own_moments():
    moments = jnp.array([4.0, 1.0, 9.0, 1.0])
    found = sharpness(
        KEY, quadratic, {"w": jnp.ones(4)}, jnp.ones(4), loss=bowl, rates=True, beta1=0.5,
        second_moments={"w": moments}, eps=1.0, momentum=0.0,
    )  # fmt: skip
    top = float((CURVES / (jnp.sqrt(moments) + 1)).max())
    np.testing.assert_allclose(found.rates, (2 / 7, 2 / 7, 6 / top, top), rtol=1e-6)


@ABOVE_AND_BELOW
def test_a_network_at_its_minimum_is_held_below_the_rate_and_left_above(factor):
    """Targets that are its own outputs: the gradient is 0 there, and the curvature what it was."""
    params = draw(KEY)
    targets = apply(params, X)

    def objective(out, targets):
        return jnp.mean(jnp.sum((out - targets) ** 2, 1)) / 2

    found = sharpness(KEY, apply, params, X, loss=objective, targets=targets, rates=True)
    rate = factor * found.rates.gradient_descent
    gradient = jax.grad(lambda p: objective(apply(p, X), targets))

    def step(p, _):
        p = jax.tree.map(lambda w, g: w - jnp.float32(rate) * g, p, gradient(p))
        along = sum(jnp.vdot(p[n] - params[n], found.direction[n]) for n in params)
        return p, jnp.abs(along)

    moved = jax.tree.map(lambda w, v: w + 1e-3 * v, params, found.direction)
    along = jax.lax.scan(step, moved, None, 40)[1]
    # |1 - rate lambda| = 0.9 or 1.1 a step, while the loss is a quadratic: over 40 steps of 1e-3.
    expected = abs(1 - 2 * factor)
    np.testing.assert_allclose(along[20] / along[0], expected**20, rtol=0.1)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_what_has_no_sharpness_says_so():
    p = draw(KEY)
    with pytest.raises(TypeError, match="loss must be a function of the model's output, got None"):
        sharpness(KEY, apply, p, X)
    with pytest.raises(ValueError, match=r"loss must give one real number .*\[16\].*take a mean"):
        sharpness(KEY, apply, p, X, loss=lambda out: out.sum(1))
    with pytest.raises(ValueError, match=r"loss must give one real number .* take a mean"):
        sharpness(KEY, apply, p, X, loss=lambda out: (out.mean(), 1.0))
    with pytest.raises(ValueError, match=r"no positive curvature .* is 0, so that no"):
        sharpness(KEY, lambda p, x: x @ p["in"], p, X, loss=jnp.mean)
    with pytest.raises(ValueError, match=r"no positive curvature in any direction, .* is -"):
        sharpness(KEY, quadratic, {"w": jnp.ones(4)}, jnp.ones(4), loss=lambda o: -bowl(o))
    with pytest.raises(ValueError, match="the Hessian of the loss holds NaN or infinity"):
        sharpness(KEY, apply, p, X, loss=lambda out: jnp.sum(jnp.sqrt(out - out)))
    with pytest.raises(ValueError, match="after 7 products; give a larger max_products"):
        sharpness(KEY, apply, p, X, loss=loss, targets=LABELS, max_products=7)
    with pytest.raises(ValueError, match="count must be at most the number of parameters, 4, got"):
        sharpness(KEY, quadratic, {"w": jnp.ones(4)}, jnp.ones(4), loss=bowl, count=5)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), got 1"):
        sharpness(KEY, apply, p, X, loss=loss, targets=LABELS, momentum=1)
    with pytest.raises(ValueError, match="eps must be positive, got 0"):
        sharpness(KEY, apply, p, X, loss=loss, targets=LABELS, eps=0)
    with pytest.raises(ValueError, match="second_moments must be a tree like the variables"):
        sharpness(KEY, apply, p, X, loss=loss, targets=LABELS, rates=True, second_moments=p["in"])
    with pytest.raises(TypeError, match="sharpness needs variables with numbers"):
        sharpness(KEY, apply, jax.eval_shape(draw, KEY), X, loss=loss, targets=LABELS)
    with pytest.raises(ValueError, match="needs a parameter that the output depends on, got none"):
        sharpness(KEY, lambda p, x: x, p, X, loss=jnp.mean)
