"""The linear map on samples as columns, `z = W^T h`, in the form that CPUs multiply fastest.

A training step multiplies three times: forward, for the gradient of the weights and for that of
the input. A product of a transposed left operand (`A^T B`, both stored by rows) runs at three
quarters of a CPU's peak, half for small ones, and the others near it (benchmarks/README.md). With
samples as rows it is the weights' gradient `h^T g` that has the slow form, and turning `h` costs a
pass over the batch; with samples as columns it is the forward product, and turning the weights,
which are smaller than a batch of activations, is cheap. Sums over the batch then run along memory,
too, which batch norm likes.
"""

import jax
from jaxtyping import Array, Float


@jax.custom_jvp
def linear(
    w: Float[Array, "fan_in fan_out"], h: Float[Array, "fan_in batch"]
) -> Float[Array, "fan_out batch"]:
    """`W^T h`, differentiable forward and backward, to any order."""
    if h.shape[1] < w.shape[0]:
        return _contract(w, h)  # turning the weights would cost more than it saves
    turned = jax.lax.platform_dependent(
        w,
        cpu=lambda w: jax.lax.optimization_barrier(w.T),  # else it is folded into the product
        default=lambda w: w.T,
    )
    return turned @ h


@linear.defjvp
def _linear_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # In this order the transposed rule gives the weights' gradient as h g^T, not turned.
    (w, h), (dw, dh) = primals, tangents
    return linear(w, h), _contract(w, dh) + _contract(dw, h)


def _contract(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())))
