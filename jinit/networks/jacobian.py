"""The spectrum of J Jᵀ for the input-output Jacobian of a network that was drawn."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jinit import checks
from jinit.networks.mlp import MLP, as_measured, forward
from jinit.networks.norms import NORMS
from jinit.networks.params import Layer, NormState, Params
from jinit.runtime import measured


@measured
def measure_jacobian_spectrum(
    net: MLP,
    params: Any,
    state: Any,
    x: Float[ArrayLike, "batch in"],
    *,
    readout: bool = False,
    train: bool = False,
) -> Float[Array, "batch out"]:
    """Eigenvalues of J Jᵀ at given inputs, the squares of the singular values of J.

        J = D_L W_L ... D_1 W_1,

    by default from the input up to and with the last activation, without the readout: the J of
    `jinit.theory.jacobian_spectrum(activation, depth=L)`, whose `eigenvalue` and `density` these
    sample, with L hidden layers and nothing rescaled. Its `weight_var` is fan_in times the variance
    of a weight (or an orthogonal matrix's gain squared), its q the variance of the pre-activations,
    which inputs of mean square (q - bias_var) / weight_var have in the first layer.

    Args:
        net, params, state: as in `jinit.forward`; the precision is that of `params`, and float32 at
            least.
        x: inputs; each has a spectrum of its own, and they are taken one after the other.
        readout: whether J goes on through the readout to the outputs.
        train: with batch norm, normalise by the batch, through whose statistics J then goes (of an
            output by its own input), or by the running statistics.

    Returns:
        Eigenvalues in increasing order, as many as J has rows: zeros are among them where it has
        fewer columns. Where they leave the range of the dtype they are 0 or infinite.

    Raises:
        ValueError: arrays that do not fit the network.

    Source: Pennington, Schoenholz & Ganguli 2017, eq. 2.
    """
    if not isinstance(net, MLP):
        raise TypeError(
            f"measure_jacobian_spectrum takes a jinit.MLP, got {checks.shown(net)}; of a "
            f"convolutional net take jax.jacobian of jinit.forward."
        )
    params, state, x = as_measured(net, params, state, x)
    if net.depth == 1 and not readout:
        raise ValueError(
            f"a network of widths {list(net.dims)} has no activation up to which its Jacobian "
            f"could go; add a hidden layer or use readout=True."
        )
    return _measure(net, readout, train, params, state, x)


@partial(jax.jit, static_argnames=("net", "readout", "train"))
def _measure(
    net: MLP, readout: bool, train: bool, params: Params, state: NormState, x: jax.Array
) -> jax.Array:
    if not readout:  # an identity in its place, which the last activation passes
        width = net.dims[-2]
        net = dataclasses.replace(net, dims=(*net.dims[:-1], width))
        bias = jnp.zeros((1, width), x.dtype) if net.bias else None
        passes = Layer(jnp.eye(width, dtype=x.dtype)[None], bias)
        params = Params((*params.runs[:-1], passes))
    together = NORMS[net.norm].over_batch and train

    def spectrum(i: jax.Array) -> jax.Array:
        def output(own: jax.Array) -> jax.Array:
            batch, row = (x.at[i].set(own), i) if together else (own[None], 0)
            return forward(net, params, state, batch, train=train)[0][row]

        outputs, inputs = net.dims[-1], net.dims[0]
        jacobian = (jax.jacfwd if inputs <= outputs else jax.jacrev)(output)(x[i])
        values = jnp.square(jnp.linalg.svd(jacobian, compute_uv=False))[::-1]
        return jnp.pad(values, (outputs - len(values), 0))

    return jax.lax.map(spectrum, jnp.arange(len(x)))
