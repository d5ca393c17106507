"""CompleteP on a residual network of any depth: as its table has it, and by what training does."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jinit.models.scaling.mup import mup

KEY = jax.random.key(0)
WIDTH, BASE = 32, 2
X = jax.random.normal(jax.random.key(1), (16, 8))
Y = jax.random.normal(jax.random.key(2), (16, 3))


def draw(key, depth):
    shapes = {"in": (8, WIDTH), "up": (depth, WIDTH, WIDTH), "down": (depth, WIDTH, WIDTH),
              "out": (WIDTH, 3)}  # fmt: skip
    weights = {
        name: jax.random.normal(own, s) / math.sqrt(s[-2])
        for own, (name, s) in zip(jax.random.split(key, 4), shapes.items(), strict=True)
    }
    vectors = {"scale": jnp.ones((depth, WIDTH)), "b": 0.1 * jnp.ones((depth, WIDTH)),
               "last": jnp.ones(WIDTH)}  # fmt: skip
    return weights | vectors


def normed(x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def stream(p, x, factor=1.0):
    def block(x, own):
        h = normed(x) * own["scale"][None]
        return x + jnp.float32(factor) * (jax.nn.relu(h @ own["up"]) @ own["down"] + own["b"]), None

    blocks = {name: p[name] for name in ("scale", "up", "down", "b")}
    with jax.numpy_rank_promotion("allow"):
        return jax.lax.scan(block, x @ p["in"], blocks)[0]


def model_of(factor=1.0):
    return lambda p, x: normed(stream(p, x, factor)) * p["last"][None] @ p["out"]


def loss(out):
    return jnp.mean(jnp.sum((out - Y) ** 2, -1))


def of_depth(depth, **options):
    p = draw(KEY, depth)
    return mup(model_of(), p, X, base_variables=p, depth=depth / BASE, **options)


def multipliers(found, name):
    return tuple(getattr(found, tree)[name] for tree in ("init", "sgd", "adam", "eps", "decay"))


def test_table_1():
    """Where the model itself multiplies its branches: at alpha = 1 only epsilon is left."""
    for alpha, hidden in ((1.0, (1, 8, 1, 1 / 8, 1)), (0.5, (1, 1, 8**-0.5, 8**-0.5, 1))):
        found = of_depth(16, alpha=alpha, branches="apply")
        for name in ("up", "down", "scale", "b"):
            assert multipliers(found, name) == pytest.approx(hidden)
            assert found.muon[name] == pytest.approx(hidden[2])
        for name in ("in", "out", "last"):
            assert multipliers(found, name) == (1, 1, 1, 1, 1)


def test_the_factor_of_a_branch_is_put_into_what_it_ends_in():
    found = of_depth(16)
    assert multipliers(found, "up") == (1, 8, 1, 1 / 8, 1)
    # 1/8 more on the start and the rate, 1/64 on that of SGD, 8 on epsilon and on decay.
    assert multipliers(found, "down") == multipliers(found, "b") == (1 / 8, 1 / 8, 1 / 8, 1, 8)

    def scaled(p, x):
        """A LayerScale after the last weights is what the branch ends in."""
        h = x + jnp.tanh(x @ p["w"]) @ p["v"] * p["gamma"][None]
        return h @ p["out"]

    p = {
        "w": jnp.ones((8, 8)),
        "v": jnp.ones((8, 8)),
        "gamma": jnp.ones(8),
        "out": jnp.ones((8, 3)),
    }
    found = mup(scaled, p, X, base_variables=p, depth=4)
    assert found.init == {"w": 1, "v": 1, "gamma": 0.25, "out": 1}


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_training_is_that_of_a_model_that_multiplies_its_branches_itself(kind):
    """A large epsilon and a large decay, so that a law that is wrong would be seen."""
    depth, ends = 8, {}
    for branches, factor in (("weights", 1.0), ("apply", BASE / depth)):
        found, apply = of_depth(depth, branches=branches), model_of(factor)
        optimizer = {
            "adamw": found.adamw(1e-2, eps=1e-2, weight_decay=1.0),
            "sgd": found.optimizer(optax.sgd(1e-2), kind="sgd"),
        }[kind]

        def step(carry, _, apply=apply, optimizer=optimizer):
            p, state = carry
            value, slopes = jax.value_and_grad(lambda p: loss(apply(p, X)))(p)
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(slopes, state, p)
                return (optax.apply_updates(p, updates), state), value

        start = found.variables(draw(KEY, depth))
        ends[branches] = jax.lax.scan(step, (start, optimizer.init(start)), None, 20)[1]
    assert float(ends["apply"][-1]) < 0.9 * float(ends["apply"][0])
    np.testing.assert_allclose(ends["weights"], ends["apply"], rtol=1e-4)


DEPTHS, SEEDS = (4, 32), 6


def slope_of(values):
    """Of a logarithm against that of the depth, and what chance allows."""
    x = np.log(DEPTHS) - np.mean(np.log(DEPTHS))
    slopes = np.tensordot(x / (x @ x), np.log(values), axes=1)
    return slopes.mean(), 5 * slopes.std(ddof=1) / math.sqrt(SEEDS)


@pytest.mark.long
def test_gradients_are_of_the_size_of_epsilon_and_a_step_moves_the_stream_alike_at_any_depth():
    sizes, moves, plain = [], [], []
    for depth in DEPTHS:
        found = of_depth(depth)
        optimizer, apply = found.adamw(1e-3), model_of()

        @jax.jit
        def tried(key, found=found, optimizer=optimizer, apply=apply, depth=depth):
            p = found.variables(draw(key, depth))
            slopes = jax.grad(lambda p: loss(apply(p, X)))(p)
            over = jax.tree.map(lambda g, eps: jnp.sqrt(jnp.mean(g**2)) / eps, slopes, found.eps)
            moved = []
            for own, start in ((optimizer, p), (optax.adam(1e-3), draw(key, depth))):
                with jax.numpy_dtype_promotion("standard"):
                    updates, _ = own.update(slopes, own.init(start), start)
                    new = optax.apply_updates(start, updates) | {"in": start["in"]}
                moved.append(jnp.abs(stream(new, X) - stream(start, X)).mean())
            return jnp.stack([over[n] for n in ("up", "down", "scale", "b")]), jnp.stack(moved)

        over, moved = jax.vmap(tried)(jax.random.split(KEY, SEEDS))
        sizes.append(over)
        moves.append(moved[:, 0])
        plain.append(moved[:, 1])
    for i in range(4):
        mean, allowed = slope_of(np.stack(sizes)[:, :, i])
        # Corrections of 1/depth: blocks of the base add up to (1 + 1/depth)^depth and so on.
        assert abs(mean) < allowed + 0.2
    mean, allowed = slope_of(np.stack(moves))
    assert abs(mean) < allowed + 0.1
    assert slope_of(np.stack(plain))[0] > 0.4  # and not without


@pytest.mark.bad_input
def test_what_depth_does_not_fit():
    p = {"w": jnp.ones((8, 8)), "v": jnp.ones((8, 3))}
    with pytest.raises(ValueError, match="depth= scales residual branches, and the model has none"):
        mup(lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"], p, X, base_variables=p, depth=2)

    def shared(p, x):
        h = jnp.tanh(x @ p["w"])
        return (h + jnp.tanh(h @ p["u"]) @ p["w"]) @ p["v"]

    q = p | {"u": jnp.ones((8, 8))}
    with pytest.raises(ValueError, match=r"\['w'\] ends a residual branch and is used elsewhere"):
        mup(shared, q, X, base_variables=q, depth=2)
    assert mup(shared, q, X, base_variables=q, depth=2, branches="apply").eps["w"] == 0.5
    for options, message in (
        ({"depth": 0}, "depth must be positive, got 0"),
        ({"alpha": 2}, r"alpha must lie in \[0\.5, 1\], got 2"),
        ({"branches": "weight"}, "unknown branches 'weight'; did you mean 'weights'"),
        ({"biases": "zeros"}, "unknown biases 'zeros'"),
    ):
        with pytest.raises(ValueError, match=message):
            mup(shared, q, X, base_variables=q, **options)
