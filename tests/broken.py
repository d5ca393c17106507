"""Models that do not train on digits, each broken in another way, and one that does.

Every function is a `make()` as `jinit fix` takes it.
"""

from itertools import pairwise

import equinox
import jax
import jax.numpy as jnp
import optax
from flax import linen

import jinit

KEY = jax.random.key(7)


def cross_entropy(output, targets):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(output, targets))


def made(apply, variables, **optimizer):
    data = jinit.data.digits()
    return {
        "apply": apply, "variables": variables, "data": data, "loss": cross_entropy, **optimizer
    }  # fmt: skip


def plain(weights, activation, biases=0.0):
    """A multilayer perceptron of those weights, and its apply."""

    def apply(layers, x):
        for w, b in layers[:-1]:
            x = activation(x @ w + b[None])
        w, b = layers[-1]
        return x @ w + b[None]

    return apply, [(w, jnp.full(w.shape[1], biases)) for w in weights]


def drawn(dims, std):
    keys = jax.random.split(KEY, len(dims) - 1)
    pairs = pairwise(dims)
    return [std(m) * jax.random.normal(k, (m, n)) for k, (m, n) in zip(keys, pairs, strict=True)]


class Deep(linen.Module):
    """The README's."""

    @linen.compact
    def __call__(self, x):
        for _ in range(20):
            x = linen.tanh(linen.Dense(64, kernel_init=linen.initializers.normal(0.01))(x))
        return linen.Dense(10)(x)


def too_small():
    model = Deep()
    return made(model.apply, model.init(KEY, jnp.ones((1, 64))), optimizer=optax.adam(3e-3))


def zeros():
    apply, layers = plain([jnp.zeros(s) for s in ((64, 64), (64, 64), (64, 10))], jax.nn.relu)
    return made(apply, layers, optimizer=optax.sgd(0.1, momentum=0.9))


def of_equinox(change):
    def apply(model, x):
        return jax.vmap(model)(x)

    model = equinox.nn.MLP(64, 10, 64, 4, activation=jax.nn.relu, key=KEY)
    arrays = equinox.filter(model, equinox.is_array)
    changed = jax.tree.map(change, arrays)
    return apply, equinox.combine(changed, equinox.filter(model, equinox.is_array, inverse=True))


def all_equal():
    apply, model = of_equinox(lambda leaf: jnp.full(leaf.shape, 0.005 if leaf.ndim == 2 else 0.0))
    return made(apply, model, optimizer=optax.sgd(0.005, momentum=0.9))


def dead():
    apply, model = of_equinox(lambda leaf: leaf if leaf.ndim == 2 else jnp.full(leaf.shape, -10.0))
    return made(apply, model, optimizer=optax.adam(1e-3))


def exploding():
    dims = (64, *(64,) * 20, 10)
    apply, layers = plain(drawn(dims, lambda fan: 3 * (2 / fan) ** 0.5), jax.nn.relu)
    return made(apply, layers, optimizer=optax.sgd(0.01, momentum=0.9))


class Residual(linen.Module):
    """Twenty branches, added at full size."""

    @linen.compact
    def __call__(self, x):
        for _ in range(20):
            inside = linen.relu(linen.Dense(64, kernel_init=linen.initializers.he_normal())(x))
            x = x + linen.Dense(64, kernel_init=linen.initializers.he_normal())(inside)
        return linen.Dense(10)(x)


def unscaled_branches():
    model = Residual()
    return made(model.apply, model.init(KEY, jnp.ones((1, 64))), optimizer=optax.sgd(0.01))


def too_fast():
    apply, layers = plain(drawn((64, 64, 64, 10), lambda fan: (2 / fan) ** 0.5), jax.nn.relu)
    return made(apply, layers, optimizer=optax.sgd, learning_rate=30.0)


def saturated():
    apply, layers = plain(drawn((64, *(64,) * 10, 10), lambda fan: 3.0), jnp.tanh)
    return made(apply, layers, optimizer=optax.adam(1e-3))


def healthy():
    apply, layers = plain(drawn((64, 64, 64, 10), lambda fan: (2 / fan) ** 0.5), jax.nn.relu)
    return made(apply, layers, optimizer=optax.adam(3e-3))


BROKEN = {
    make.__name__: make
    for make in (
        too_small, zeros, all_equal, dead, exploding, unscaled_branches, too_fast, saturated
    )
}  # fmt: skip
