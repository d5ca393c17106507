"""ReLU nets of any scale, for tests of the schemes that learn scales."""

import jax
import jax.numpy as jnp

from jinit.models.drawing.reinit import reinit

KEY = jax.random.key(0)
WIDTH, DEPTH, CLASSES, BATCH = 32, 10, 10, 64
X = jax.random.normal(jax.random.key(5), (BATCH, WIDTH))
Y = jax.random.randint(jax.random.key(6), (BATCH,), 0, CLASSES)
RANDOM = jax.ShapeDtypeStruct(X.shape, X.dtype)


def loss(outputs):
    picked = jnp.take_along_axis(jax.nn.log_softmax(outputs), Y[:, None], 1)
    return -jnp.mean(picked)


def apply(params, x):
    """A ReLU net whose hidden layers lie in leaves of their own."""
    for layer in params["hidden"]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"][None])
    return x @ params["out"]


def stacked_apply(params, x):
    def body(x, layer):
        return jax.nn.relu(x @ layer["w"] + layer["b"][None]), None

    return jax.lax.scan(body, x, params["hidden"])[0] @ params["out"]


def shapes(depth=DEPTH, width=WIDTH):
    layer = {"w": (width, width), "b": (width,)}
    tree = {"hidden": [layer] * depth, "out": (width, CLASSES)}
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), tree, is_leaf=is_shape)


def start(gain, depth=DEPTH):
    """He's, times the gain: ReLU nets without biases are critical at 1."""
    return reinit(jax.random.key(1), apply, shapes(depth), X, gain=gain)


def stacked(params):
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["hidden"])
    return {"hidden": layers, "out": params["out"]}
