"""LSUV on models of every kind: unit variance out of every layer."""

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.models import lsuv, roles
from jinit.models.tracing.probe import Spot, interpret
from jinit.models.tracing.trace import trace_model

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (64, 32))


class MLP(nn.Module):
    depth: int = 8

    @nn.compact
    def __call__(self, x):
        for i in range(self.depth):
            x = nn.tanh(nn.Dense(48 if i % 2 else 32)(x))
        return nn.Dense(10)(x)


class Residual(nn.Module):
    blocks: int = 8

    @nn.compact
    def __call__(self, x):
        for _ in range(self.blocks):
            x = x + nn.Dense(32)(nn.relu(nn.Dense(64)(nn.relu(x))))
        return nn.Dense(10)(x)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        x = nn.relu(nn.Conv(32, (3, 3), feature_group_count=4, strides=2)(x))
        return nn.Dense(10)(x.mean((1, 2)))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(50, 32)
        x = embed(tokens)
        for _ in range(2):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=4)(h, h)
            x = x + nn.Dense(32)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x))))
        return embed.attend(nn.LayerNorm()(x))


def stds(apply, variables, *inputs):
    """Of what comes out of every product of weights, in call order, over all passes of a loop."""
    traced = trace_model(apply, variables, *inputs)
    leaves = jax.tree.leaves(variables)
    _, found = interpret(
        traced, [leaves[i] for i in traced.chosen], inputs,
        [Spot(traced.visible(path)) for path in traced.by_equation("weight")],
        lambda i, value, _: (value, jnp.std(value)),
    )  # fmt: skip
    return np.array([float(jnp.sqrt(jnp.mean(jnp.square(std)))) for std in found.values()])


@pytest.mark.parametrize(
    ("model", "x", "within"),
    [
        (MLP(), X, 1e-3),
        (Residual(), X, 1e-3),
        (CNN(), jax.random.normal(KEY, (16, 8, 8, 3)), 1e-3),
        (Transformer(), jnp.arange(60).reshape(6, 10) % 50, 0.1),  # its embedding is tied
        (nn.RNN(nn.GRUCell(24)), jax.random.normal(KEY, (16, 12, 32)), 0.1),  # shared in time
    ],
    ids=["mlp", "residual", "cnn", "transformer", "gru"],
)
def test_every_layer_has_unit_variance(model, x, within):
    with jax.numpy_rank_promotion("allow"):  # Flax mixes ranks
        variables = jax.tree.map(lambda a: 3 * a, model.init(KEY, x))
        scaled = lsuv(KEY, model.apply, variables, x)
        np.testing.assert_allclose(stds(model.apply, scaled, x), 1.0, atol=within)


def test_stacked_layers_have_a_factor_each():
    w = jnp.ones((6, 32, 32))

    def apply(w, x):
        return jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, w)[0]

    scaled = lsuv(KEY, apply, w, X)
    np.testing.assert_allclose(stds(apply, scaled, X), 1.0, atol=1e-3)
    for own in scaled:  # still orthogonal, up to its factor
        square = own.T @ own
        np.testing.assert_allclose(square / square[0, 0], np.eye(32), atol=1e-4)


def test_a_layer_that_is_called_twice_and_equinox():
    def apply(w, x):
        return jnp.tanh(x @ w) @ w

    scaled = lsuv(KEY, apply, jnp.ones((32, 32)), X)
    measured = stds(apply, scaled, X)
    assert np.exp(np.mean(np.log(measured))) == pytest.approx(1, abs=0.02)  # one number for two
    model = eqx.nn.MLP(32, 10, 48, 3, key=KEY)
    mapped = lambda model, x: jax.vmap(model)(x)  # noqa: E731
    np.testing.assert_allclose(stds(mapped, lsuv(KEY, mapped, model, X), X), 1.0, atol=1e-3)


def test_mapped_over_keys_is_the_loop_and_compiles_once():
    model = MLP(3)
    with jax.numpy_rank_promotion("allow"):
        variables = model.init(KEY, X)
        keys = jax.random.split(KEY, 3)

        @jax.jit
        @chex.assert_max_traces(n=1)
        def draw(key, std):
            return lsuv(key, model.apply, variables, X, std=std)

        mapped = jax.vmap(lambda key: lsuv(key, model.apply, variables, X))(keys)
        for i, key in enumerate(keys):
            one = draw(key, 1.0)
            for a, b in zip(jax.tree.leaves(mapped), jax.tree.leaves(one), strict=True):
                np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(stds(model.apply, draw(KEY, 2.0), X), 2.0, atol=2e-3)


def test_a_layer_that_nothing_reaches_keeps_its_draw():
    def apply(w, x):
        return jax.nn.relu(x @ w[0] - 100.0) @ w[1]

    w = [jnp.ones((32, 32)), jnp.ones((32, 32))]
    first, second = lsuv(KEY, apply, w, X)
    assert np.isfinite(first).all()
    np.testing.assert_allclose(second.T @ second, np.eye(32), atol=1e-4)


def test_biases_and_norms_are_as_reinit_leaves_them():
    with jax.numpy_rank_promotion("allow"):
        model = Transformer()
        tokens = jnp.zeros((2, 5), jnp.int32)
        variables = jax.tree.map(lambda a: a + 1, model.init(KEY, tokens))
        scaled = lsuv(KEY, model.apply, variables, tokens, passes=1)
        by_path = dict(jax.tree_util.tree_flatten_with_path(scaled)[0])
        by_path = {jax.tree_util.keystr(path): leaf for path, leaf in by_path.items()}
        for role in roles(model.apply, variables, tokens):
            if role.kind in ("bias", "scale"):
                np.testing.assert_array_equal(by_path[role.path], float(role.kind == "scale"))


@pytest.mark.bad_input
def test_what_is_no_number_of_passes_or_std():
    apply = lambda w, x: x @ w  # noqa: E731
    with pytest.raises(ValueError, match="passes"):
        lsuv(KEY, apply, jnp.ones((32, 4)), X, passes=0)
    for std in (0.0, -1.0):
        with pytest.raises(ValueError, match="std"):
            lsuv(KEY, apply, jnp.ones((32, 4)), X, std=std)
    with pytest.raises(TypeError, match="std"):
        lsuv(KEY, apply, jnp.ones((32, 4)), X, std="one")
