"""GradInit on badly scaled nets, and as a pure function."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jinit.models.drawing.gradinit import gradinit
from jinit.models.drawing.reinit import reinit
from tests.models.drawing.relu_nets import (
    CLASSES,
    KEY,
    X,
    apply,
    loss,
    shapes,
    stacked,
    stacked_apply,
    start,
)


def one_step(params, optimizer, size):
    """The loss after one step of the optimizer, and the norm of the gradient before it."""
    entries, unflatten = ravel_pytree(params)
    entries = np.asarray(entries)
    g = np.asarray(ravel_pytree(jax.grad(lambda p: loss(stacked_apply(p, X)))(params))[0])
    if optimizer == "adam":
        norm, direction = np.abs(g).sum(), np.sign(g)
    else:
        norm = np.sqrt(np.square(g).sum())
        direction = g / norm
    moved = unflatten(jnp.asarray(entries - np.float32(size) * direction))
    return float(loss(stacked_apply(moved, X))), float(norm)


@pytest.mark.parametrize(
    ("gain", "optimizer", "size", "gamma"),
    [
        (0.5, "sgd", 0.1, 1.0),
        (3.0, "sgd", 0.1, 1.0),
        (0.5, "adam", 1e-3, None),
        (3.0, "adam", 1e-3, 10.0),
    ],
)
def test_gradinit_lowers_the_loss_after_one_step_under_its_bound(gain, optimizer, size, gamma):
    params = stacked(start(gain))
    options = {"optimizer": optimizer, "step_size": size, "gamma": gamma}

    @jax.jit
    def learn(params):
        return gradinit(
            stacked_apply, params, X, loss=loss, steps=300, learning_rate=0.005, **options
        )

    found = learn(params)
    before, norm_before = one_step(params, optimizer, size)
    after, norm = one_step(found.variables, optimizer, size)
    assert float(found.history[0]) == pytest.approx(before, rel=1e-3)
    assert after < before - 5e-4  # a thousand times what float32 rounds
    assert after < math.log(CLASSES)  # better than a guess, from which 3.0 starts far away
    # Steps of Adam cross the bound a little before they turn back.
    assert gamma is None or norm < 2 * gamma
    assert gain < 1 or norm_before > 1e5


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gradinit_mapped_over_seeds_and_bounds_is_a_loop(optimizer):
    @jax.jit
    def learn(key, gamma):
        params = reinit(key, apply, shapes(2), X, gain=2.0)
        return gradinit(
            apply, params, X, loss=loss, steps=5, gamma=gamma, step_size=1e-2, optimizer=optimizer
        )

    # The first bound holds from the start, and the last is never reached.
    keys, gammas = jax.random.split(KEY, 3), jnp.asarray([1e6, 2.0, 1e-3])
    looped = [learn(key, gamma) for key, gamma in zip(keys, gammas, strict=True)]
    mapped = jax.vmap(learn)(keys, gammas)
    for i, one in enumerate(looped):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), row, one)
