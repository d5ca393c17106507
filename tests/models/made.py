"""Ways between a parameter and the matrix that is applied, as models in public use have them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

N = 48
MASK = jnp.tril(jnp.ones((N, N)))
AROUND = (jnp.arange(N)[None] - jnp.arange(N)[:, None]) % N
FIXED = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(N, N)))[0], jnp.float32)


class Made(NamedTuple):
    """What is applied, `[N, N]`, and what can be drawn through it."""

    of: Callable[[Any], jax.Array]
    roles: dict[str, str]
    he: bool = True
    orthogonal: bool = True


def standardised(w):
    return (w - w.mean(0, keepdims=True)) / w.std(0, keepdims=True)


def unit(w):
    return w / jnp.linalg.norm(w, axis=0, keepdims=True)


def rounded(w):
    return w + jax.lax.stop_gradient(jnp.round(w * 8) / 8 - w)


@jax.custom_vjp
def ternary(w):
    size = jnp.abs(w)
    return jnp.where(size > 0.5 * size.mean(), jnp.sign(w) * size.mean(), 0)


ternary.defvjp(lambda w: (ternary(w), None), lambda _, g: (g,))

WEIGHT = {"w": "weight"}
MADE = {
    "MADE's mask": Made(lambda v: v["w"] * MASK, WEIGHT, orthogonal=False),
    "an NTK factor": Made(lambda v: v["w"] / N**0.5, WEIGHT),
    "equalised learning rate, stored [out, in]": Made(lambda v: 0.3 * v["w"].T, WEIGHT),
    "a factor in bfloat16": Made(
        lambda v: v["w"].astype(jnp.bfloat16).astype(jnp.float32) * 2, WEIGHT
    ),
    "one added": Made(lambda v: 1 + v["w"], WEIGHT),
    "softplus": Made(lambda v: jax.nn.softplus(v["w"]), WEIGHT, orthogonal=False),
    "exp": Made(lambda v: jnp.exp(v["w"]), WEIGHT, orthogonal=False),
    "squared": Made(lambda v: v["w"] ** 2, WEIGHT, orthogonal=False),
    "abs": Made(lambda v: jnp.abs(v["w"]), WEIGHT, orthogonal=False),
    "tanh": Made(lambda v: jnp.tanh(v["w"]), WEIGHT),
    "softplus under a mask": Made(
        lambda v: MASK * jax.nn.softplus(v["w"]), WEIGHT, orthogonal=False
    ),
    "minus its mean": Made(
        lambda v: v["w"] - v["w"].mean(0, keepdims=True), WEIGHT, orthogonal=False
    ),
    "weight standardisation with a gain": Made(
        lambda v: v["s"][None] * standardised(v["w"]), WEIGHT | {"s": "scale"}, orthogonal=False
    ),
    "weight standardisation": Made(
        lambda v: standardised(v["w"]), WEIGHT, he=False, orthogonal=False
    ),
    "weight norm": Made(
        lambda v: v["s"][None] * unit(v["w"]), WEIGHT | {"s": "scale"}
    ),
    "weight norm of a log length": Made(
        lambda v: jnp.exp(v["s"])[None] * unit(v["w"]),
        WEIGHT | {"s": "scale"},
    ),
    "spectral norm": Made(lambda v: v["w"] / jnp.linalg.norm(v["w"], 2), WEIGHT, he=False),
    "rounding that passes gradients": Made(
        lambda v: rounded(v["w"]), WEIGHT, orthogonal=False
    ),
    "ternary with its own gradient": Made(lambda v: ternary(v["w"]), WEIGHT, orthogonal=False),
    "signs": Made(lambda v: jnp.sign(v["w"]), WEIGHT, he=False, orthogonal=False),
    "merged LoRA": Made(
        lambda v: v["w"] + 2 * (v["a"] @ v["b"]), WEIGHT | {"a": "weight", "b": "weight"}
    ),
    "low rank": Made(
        lambda v: v["a"] @ v["b"], {"a": "weight", "b": "weight"}, orthogonal=False
    ),
    "two factors of full rank": Made(
        lambda v: v["c"] @ v["w"], {"c": "weight", "w": "weight"}
    ),
    "a sum of two": Made(lambda v: v["w"] + v["c"], {"c": "weight", "w": "weight"}),
    "padded": Made(lambda v: jnp.pad(v["half"], ((0, 0), (0, N // 2))), {"half": "weight"},
                   orthogonal=False),
    "scattered": Made(lambda v: jnp.zeros((N, N)).at[:, ::2].set(v["half"]), {"half": "weight"},
                      orthogonal=False),
    "tiled": Made(lambda v: jnp.tile(v["half"], (1, 2)), {"half": "weight"}, orthogonal=False),
    "circulant": Made(lambda v: v["row"][AROUND], {"row": "weight"}, orthogonal=False),
    "symmetric": Made(lambda v: v["w"] + v["w"].T, WEIGHT, orthogonal=False),
    "in another basis": Made(lambda v: FIXED @ v["w"], WEIGHT),
    "orthogonal by QR": Made(lambda v: jnp.linalg.qr(v["w"])[0], WEIGHT, he=False),
    "stacked, one of them scaled": Made(
        lambda v: jnp.concatenate([v["half"], 3 * v["other"]], 1),
        {"half": "weight", "other": "weight"}, orthogonal=False,
    ),
}  # fmt: skip
QUICK = {
    "MADE's mask", "an NTK factor", "merged LoRA", "low rank", "spectral norm",
}  # fmt: skip


def variables():
    shapes = {
        "w": (N, N), "c": (N, N), "a": (N, 4), "b": (4, N), "half": (N, N // 2),
        "other": (N, N // 2), "row": (N,),
    }  # fmt: skip
    keys = dict(zip(shapes, jax.random.split(jax.random.key(7), len(shapes)), strict=True))
    return {k: jax.random.normal(keys[k], shape) for k, shape in shapes.items()} | {
        "s": jnp.ones(N)
    }
