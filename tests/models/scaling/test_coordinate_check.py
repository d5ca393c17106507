"""muP by what a step does at every width, and what a coordinate check sees."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import xarray as xr

from jinit.models.scaling.coordinate_check import Setup, coordinate_check, coordinate_verdict
from jinit.models.scaling.trees import muon_dimension_numbers
from jinit.models.tracing.model import roles
from tests.models.scaling.widening import (
    KEY,
    TIME,
    VOCABULARY,
    LinenTransformer,
    X,
    apply,
    draw,
    lenient,
    loss,
    of_width,
)

# --- what a step does ---------------------------------------------------------------------------

WIDTHS, SEEDS = (64, 128, 256, 512, 1024), 8
LAYERS = ["in", "hidden", "out"]


def checked(kind, *, scaled, rate):
    def make(n):
        optimizer = {"sgd": optax.sgd, "adam": optax.adam}[kind](rate)
        if not scaled:
            return Setup(apply, jax.jit(lambda key: draw(key, n)), (X,), loss, optimizer)
        found = of_width(n)
        init = jax.jit(lambda key: found.variables(draw(key, n)))
        return apply, init, (X,), loss, found.optimizer(optimizer, kind=kind)

    return coordinate_check(make, WIDTHS, key=jax.random.key(3), steps=1, seeds=SEEDS)


def slope(found, variable, step):
    """Mean over networks, and what chance allows: as rare as five standard errors."""
    values = found[f"{variable}_slope"].sel(step=step).values
    allowed = scipy.stats.t.isf(scipy.stats.norm.sf(5), SEEDS - 1)
    return values.mean(0), allowed * values.std(0, ddof=1) / math.sqrt(SEEDS)


@pytest.fixture(scope="module", params=["sgd", "adam"])
def both(request):
    kind, rate = request.param, {"sgd": 1e-2, "adam": 1e-4}[request.param]
    return kind, *(checked(kind, scaled=scaled, rate=rate) for scaled in (False, True))


def test_one_step_moves_every_layer_alike_at_every_width(both):
    kind, standard, scaled = both
    assert list(scaled.layer.values) == LAYERS
    mean, allowed = slope(scaled, "change", 1)
    np.testing.assert_array_less(np.abs(mean), allowed)
    assert max(allowed) < 0.3
    # And not without muP. One step of SGD: layer 1 moves by n^(-1/2), layer 2 by n^(-1/2) to
    # n^(1/2), logits by 1 to n. One of Adam: 1, 1 to n, n to n^(3/2).
    mean, allowed = slope(standard, "change", 1)
    powers = {"sgd": ((-0.5, -0.5), (-0.5, 0.5), (0.0, 1.0)), "adam": ((0, 0), (0, 1), (1, 1.5))}
    low, high = np.transpose(powers[kind])
    np.testing.assert_array_less(low - allowed, mean)
    np.testing.assert_array_less(mean, high + allowed)
    for i in (1, 2):
        assert mean[i] > allowed[i]


def test_the_verdict_names_the_first_layer_that_depends_on_the_width(both):
    kind, standard, scaled = both
    assert coordinate_verdict(scaled).startswith("The coordinate check holds: after 1 steps no")
    text = coordinate_verdict(standard)
    # One step of SGD: layer 1 moves by n^(-1/2). One of Adam leaves it and moves layer 2 by n.
    assert text.startswith(f"The coordinate check fails at {'in' if kind == 'sgd' else 'hidden'}:")
    assert ("shrinks with the width like width^-0." in text) == (kind == "sgd")
    assert ("grows with the width like width^+" in text) == (kind == "adam")


@pytest.mark.long
def test_muon_holds_with_its_multipliers():
    def make(n):
        found = of_width(n)
        numbers = muon_dimension_numbers(apply, draw(KEY, n), X)
        muon = optax.contrib.muon(
            1e-2, adam_learning_rate=1e-4, muon_weight_dimension_numbers=numbers
        )
        init = jax.jit(lambda key: found.variables(draw(key, n)))
        return apply, init, (X,), loss, found.optimizer(muon, kind="muon")

    found = coordinate_check(make, (64, 128, 256), key=jax.random.key(3), steps=1, seeds=4)
    assert coordinate_verdict(found).startswith("The coordinate check holds")


def test_verdicts_of_what_was_not_seen():
    slopes = np.zeros((3, 2, 2)) + 0.01 * np.arange(3)[:, None, None]
    size = np.ones((2, 3, 2, 2))

    def dataset(slopes, size=size):
        return xr.Dataset(
            {"change_slope": (("seed", "step", "layer"), slopes),
             "size": (("width", "seed", "step", "layer"), size)},
            {"layer": ["a", "b"], "step": [0, 1], "width": [8, 16]},
        )  # fmt: skip

    still = slopes.copy()
    still[..., 1] = np.nan
    assert coordinate_verdict(dataset(still)).endswith("b has not changed everywhere.")
    assert "No layer has changed" in coordinate_verdict(dataset(still * np.nan))
    gone = size.copy()
    gone[1, 0, 1, 1] = np.inf
    assert "saw b overflow at width 16" in coordinate_verdict(dataset(slopes, gone))
    with pytest.raises(ValueError, match="two seeds or more, got 1"):
        coordinate_verdict(dataset(slopes).isel(seed=slice(1)))
    with pytest.raises(ValueError, match=r"reads what coordinate_check gives.*got \['size'\]"):
        coordinate_verdict(dataset(slopes)[["size"]])


def test_before_training_only_the_readout_of_mup_shrinks(both):
    _, standard, scaled = both
    for found, expected in ((standard, (0, 0, 0)), (scaled, (0, 0, -0.5))):
        mean, allowed = slope(found, "size", 0)
        np.testing.assert_array_less(np.abs(mean - np.array(expected)), allowed)
        assert np.isnan(found.change_slope.sel(step=0)).all()
        assert (found.change.sel(step=0) == 0).all()


def test_sizes_are_those_of_the_model_itself():
    params, optimizer = draw(KEY, 64), optax.sgd(0.1)
    found = coordinate_check(
        lambda n: Setup(apply, lambda key: draw(KEY, n), (X,), loss, optimizer), [64, 128],
        key=KEY, steps=1, seeds=2,
    )  # fmt: skip
    gradient = jax.grad(lambda p: loss(apply(p, X)))(params)
    after = jax.tree.map(lambda p, g: p - np.float32(0.1) * g, params, gradient)

    def layers(p):
        first = X @ p["in"]
        second = jnp.tanh(first) @ p["hidden"]
        return first, second, jnp.tanh(second + p["b"][None]) @ p["out"]

    def sizes(values):
        return [float(jnp.abs(value).mean()) for value in values]

    at = found.sel(width=64, seed=1)
    start, end = layers(params), layers(after)
    np.testing.assert_allclose(at["size"], [sizes(start), sizes(end)], rtol=1e-5)
    changes = sizes([b - a for a, b in zip(start, end, strict=True)])
    # Differences of numbers of size 1, of which float32 rounds each.
    np.testing.assert_allclose(at["change"], [[0.0] * 3, changes], rtol=1e-5, atol=1e-6)
    assert found["size"].dims == ("width", "seed", "step", "layer")


def test_layers_of_loops_are_seen_one_by_one_and_steps_in_time_together():
    def model(p, x):
        x = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x @ p["in"], p["layers"])[0]
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ p["shared"]), None), x, None, length=4)[0]

    def init(n):
        def drawn(key):
            shapes = {"in": (64, n), "layers": (3, n, n), "shared": (n, n)}
            return {
                name: jax.random.normal(key, s) / math.sqrt(s[-2]) for name, s in shapes.items()
            }

        return drawn

    found = coordinate_check(
        lambda n: (model, init(n), (X,), lambda out: jnp.mean(out**2), optax.sgd(0.1)), [8, 16],
        key=KEY, steps=1, seeds=1,
    )  # fmt: skip
    assert list(found.layer.values) == ["in", "layers[0]", "layers[1]", "layers[2]", "shared"]
    p = init(16)(jax.random.split(KEY, 1)[0])
    h, seen = X @ p["in"], []
    for w in [*p["layers"], *[p["shared"]] * 4]:
        seen.append(float(jnp.abs(h @ w).mean()))
        h = jnp.tanh(h @ w)
    expected = [*seen[:3], np.mean(seen[3:])]
    np.testing.assert_allclose(found["size"].sel(width=16, step=0, seed=0)[1:], expected, rtol=1e-5)


def test_the_model_keeps_derivatives_of_its_own():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    # Backward, nothing: a model that was differentiated otherwise would learn.
    product.defvjp(lambda x, w: (x @ w, w), lambda w, g: (g @ w.T, jnp.zeros_like(w)))
    found = coordinate_check(
        lambda n: (
            lambda p, x: product(x, p["w"]), lambda key: {"w": jax.random.normal(key, (64, n))},
            (X,), lambda out: jnp.mean(out**2), optax.sgd(0.1),
        ),
        [8, 16], key=KEY, steps=1, seeds=1,
    )  # fmt: skip
    assert (found["size"] > 0).all()
    assert (found["change"] == 0).all()


def test_what_a_while_loop_does_is_left_out():
    def model(p, x):
        # jax knows no gradient of such a loop, but may be told that there is none.
        w = jax.lax.stop_gradient(p["loop"])
        h = jax.lax.stop_gradient(x @ p["in"])
        _, h = jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] @ w), (0, h))
        return h @ p["out"]

    def init(n):
        shapes = {"in": (64, n), "loop": (n, n), "out": (n, 2)}
        return lambda key: {name: jax.random.normal(key, s) for name, s in shapes.items()}

    used = {role.path: role.times for role in roles(model, init(8)(KEY), X)}
    assert used["['loop']"] == 1
    found = coordinate_check(
        lambda n: (model, init(n), (X,), lambda out: jnp.mean(out**2), optax.sgd(0.1)), [8, 16],
        key=KEY, steps=1, seeds=1,
    )  # fmt: skip
    assert list(found.layer.values) == ["in", "out"]


def test_a_transformer_is_checked_from_its_embedding_on():
    def make(n):
        model = LinenTransformer(n)
        inputs = jnp.arange(2 * TIME, dtype=jnp.int32).reshape(2, TIME) % VOCABULARY
        return (
            lenient(model.apply), lenient(lambda key: jax.jit(model.init)(key, inputs)), (inputs,),
            lambda out: jnp.mean(out**2), optax.adam(1e-3),
        )  # fmt: skip

    found = coordinate_check(make, [8, 16], key=KEY, steps=1, seeds=1)
    layers = list(found.layer.values)
    assert layers[0] == "Embed_0"
    assert len(layers) == 1 + 4 + 3
    assert np.isfinite(found["size"]).all()


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_a_coordinate_check_says_what_make_must_give():
    def make(n):
        return Setup(apply, lambda key: draw(key, n), (X,), loss, optax.sgd(0.1))

    for widths in ([64], [64, 64]):
        with pytest.raises(ValueError, match="widths must be two or more different ones"):
            coordinate_check(make, widths, key=KEY)
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        coordinate_check(make, [8, 16], key=KEY, steps=0)
    with pytest.raises(TypeError, match=r"make must return \(apply, init, inputs, loss, optimizer"):
        coordinate_check(lambda n: (apply, X), [8, 16], key=KEY)
    with pytest.raises(TypeError, match=r"inputs must be a tuple .* write \(batch,\)"):
        coordinate_check(lambda n: make(n)._replace(inputs=X), [8, 16], key=KEY)
    with pytest.raises(TypeError, match="init must be a function"):
        coordinate_check(lambda n: make(n)._replace(init=draw(KEY, n)), [8, 16], key=KEY)

    def deeper(n):
        if n == 8:
            return make(n)
        return make(n)._replace(apply=lambda p, x: jnp.tanh(apply(p, x)) @ p["out"].T @ p["hidden"])

    with pytest.raises(ValueError, match="models that differ in their widths alone, got layers"):
        coordinate_check(deeper, [8, 16], key=KEY, steps=1, seeds=1)
