"""`jinit.layer_signals` as it is called: one network after the other, by the public face alone."""

import time

import jax
import jax.numpy as jnp
import numpy as np

import jinit
from benchmarks.peers import Built
from benchmarks.workloads import Workload

__all__ = ["ENTRIES"]


def signals(work: Workload, networks: int) -> Built:
    """Forward and backward through every layer, with all that is reported of them."""
    x, y = map(jnp.asarray, work.data)
    net = jinit.MLP(work.dims, activation=work.activation)
    drawn = jax.jit(jax.vmap(lambda key: jinit.init(key, net, "xavier")))
    many = drawn(jax.random.split(jax.random.key(0), networks))
    starts = [jax.tree.map(lambda a, i=i: a[i], many) for i in range(networks)]

    def run() -> np.ndarray:
        found = [jinit.layer_signals(net, *start, x, y) for start in starts]
        return np.stack([each.log_grad for each in found])

    began = time.perf_counter()
    jax.block_until_ready(jinit.layer_signals(net, *starts[0], x, y))
    return Built(run, time.perf_counter() - began)


ENTRIES = {"layer_signals": signals}
