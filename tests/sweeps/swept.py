"""Functions that the tests of sweeps map; in a module, so that other processes can import them."""

import jax
import jax.numpy as jnp
import numpy as np

WEIGHTS = np.linspace(-1.0, 1.0, 12, dtype=np.float32)


def noisy(key, *, size, gain, shift=0.0):
    """Some of everything: floats, integers, booleans, a ragged vector."""
    x = gain * jax.random.normal(key, (size,)) + shift
    return {"mean": jnp.mean(x), "count": jnp.sum(x > 0), "any": jnp.any(x > 2.0), "values": x}


NOISY = {
    "static": {"size": [3, 5]},
    "traced": {"gain": [0.5, 1.0, 2.0], "shift": [0.0, 1.0]},
    "seeds": 4,
    "dims": {"values": ("entry",)},
}


def draw(key, *, kind, gain):
    """Where `descend` starts."""
    w = jax.random.normal(key, (12,)) if kind == "normal" else jnp.ones(12)
    return {"w": gain * w, "key": jax.random.fold_in(key, 7)}


def descend(key, start, *, steps, lr):
    """Gradient descent on a quadratic bowl with some noise, from a prepared start."""

    def step(w, i):
        noise = jax.random.normal(jax.random.fold_in(key, i), w.shape)
        return w - lr * (w - jnp.asarray(WEIGHTS) + 0.1 * noise), jnp.sum(w**2)

    w, history = jax.lax.scan(step, start["w"], jnp.arange(steps))
    return {"loss": jnp.sum((w - jnp.asarray(WEIGHTS)) ** 2), "history": history}


DESCEND = {
    "prepare": draw,
    "static": {"kind": ["normal", "ones"], "steps": [4, 7]},
    "traced": {"gain": [0.5, 2.0], "lr": [1e-2, 1e-1, 1.0]},
    "seeds": 3,
    "dims": {"history": ("step",)},
}


ONE_POINT = DESCEND | {"static": {"kind": ["normal"], "steps": [4]}}  # two programs instead of four


def busy(key, *, rounds, gain):
    """Takes about a tenth of a second, so that a kill finds it at work."""

    def body(i, x):
        return jnp.tanh(x @ x.T) * gain + 1e-3 * i

    x = jax.lax.fori_loop(0, rounds, body, jax.random.normal(key, (64, 64)))
    return {"trace": jnp.trace(x), "row": x[0, :5], "diverged": jnp.where(gain > 1, jnp.nan, gain)}


BUSY = {
    "static": {"rounds": [1500, 3000]},
    "traced": {"gain": [0.5, 0.9, 1.3]},
    "seeds": 12,
    "dims": {"row": ("entry",)},
}
