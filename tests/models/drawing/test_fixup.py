"""Branches that the trace finds, and what Fixup and SkipInit make of them."""

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.models import diagnose, fixup, lsuv, skipinit
from jinit.models.tracing.trace import trace_model

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (32, 48))


class Residual(nn.Module):
    blocks: int = 6
    learned: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(48, name="first")(x)
        for i in range(self.blocks):
            h = nn.Dense(64, name=f"in_{i}")(nn.relu(x))
            h = nn.Dense(64, name=f"middle_{i}")(nn.relu(h))
            h = nn.Dense(48, name=f"out_{i}")(nn.relu(h))
            if self.learned:
                h = h * self.param(f"alpha_{i}", nn.initializers.ones, ())
            x = x + h
        return nn.Dense(10, name="head")(x)


def initialised(start, model, x=X, **options):
    with jax.numpy_rank_promotion("allow"):  # Flax mixes ranks
        variables = model.init(KEY, x)
        return start(KEY, model.apply, variables, x, **options)["params"]


def gain(layer):
    return float(np.std(layer["kernel"]) * np.sqrt(layer["kernel"].shape[0]))


def test_fixup_scales_the_inside_of_branches_and_shuts_their_ends():
    params = initialised(fixup, Residual())
    inside = np.sqrt(2) * 6 ** (-1 / 4)  # L = 6 branches of m = 3 weights
    for i in range(6):
        for name in ("in", "middle"):
            assert gain(params[f"{name}_{i}"]) == pytest.approx(inside, rel=0.06)  # 5 / sqrt(2 n)
        assert not np.any(params[f"out_{i}"]["kernel"])
    assert gain(params["first"]) == pytest.approx(np.sqrt(2), rel=0.08)
    assert not np.any(params["head"]["kernel"])


def test_one_fixup_step_changes_the_output_by_as_much_at_any_depth():
    """The paper's aim: a step of the learning rate eta changes the output by Theta(eta)."""

    def change(blocks):
        model = Residual(blocks)
        with jax.numpy_rank_promotion("allow"):
            params = {"params": initialised(fixup, model)}
            y = jax.random.normal(jax.random.key(2), (32, 10))
            loss = lambda p: jnp.mean(jnp.sum(jnp.square(model.apply(p, X) - y), -1))  # noqa: E731
            # The head is 0 at first: the second step is the first that reaches the branches.
            for _ in range(2):
                before = model.apply(params, X)
                gradient = jax.grad(loss)(params)
                params = jax.tree.map(lambda p, g: p - 1e-2 * g, params, gradient)
            return float(jnp.sqrt(jnp.mean(jnp.square(model.apply(params, X) - before))))

    shallow, deep = change(4), change(32)
    assert 0.5 < deep / shallow < 2


@pytest.mark.parametrize("learned", [False, True])
def test_skipinit_turns_branches_down_where_they_end(learned):
    params = initialised(skipinit, Residual(learned=learned), alpha=0.25)
    for i in range(6):
        if learned:
            assert params[f"alpha_{i}"] == 0.25
        expected = np.sqrt(2) * (1 if learned else 0.25)
        assert gain(params[f"out_{i}"]) == pytest.approx(expected, rel=0.06)
        assert gain(params[f"in_{i}"]) == pytest.approx(np.sqrt(2), rel=0.06)


def test_skipinit_of_zero_makes_the_model_its_skip_path():
    model = Residual()
    params = initialised(skipinit, model)
    with jax.numpy_rank_promotion("allow"):
        out = model.apply({"params": params}, X)
    expected = X @ params["first"]["kernel"] @ params["head"]["kernel"]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_branches_in_a_loop_over_stacked_layers_count_one_by_one():
    w = {"a": jnp.ones((9, 48, 48)), "b": jnp.ones((9, 48, 48))}

    def apply(w, x):
        def block(x, w):
            return x + jax.nn.relu(x @ w["a"]) @ w["b"], None

        return jax.lax.scan(jax.checkpoint(block), x, w)[0]

    drawn = fixup(KEY, apply, w, X)
    assert np.std(drawn["a"]) == pytest.approx(np.sqrt(2 / 48) * 9**-0.5, rel=0.03)
    assert not np.any(drawn["b"])
    assert diagnose(apply, drawn, X).residuals == 9


def test_projections_beside_a_branch_and_sums_that_are_no_branch():
    def resnet(x):
        h = jax.nn.relu(hk.Linear(32, name="a")(x))
        return hk.Linear(24, name="shortcut")(x) + hk.Linear(24, name="b")(h)

    model = hk.without_apply_rng(hk.transform(resnet))
    (branch,) = trace_model(model.apply, model.init(KEY, X), X).residuals
    assert branch.depth == 2
    cell = nn.RNN(nn.GRUCell(16))
    with jax.numpy_rank_promotion("allow"):
        x = jnp.ones((2, 5, 8))
        assert trace_model(cell.apply, cell.init(KEY, x), x).residuals == ()
    with jax.numpy_rank_promotion("allow"):  # an encoder before it: skip and branch do not meet
        after = nn.Sequential([nn.Dense(16), nn.relu, nn.RNN(nn.GRUCell(16))])
        assert trace_model(after.apply, after.init(KEY, x), x).residuals == ()

    def conditional(w, x, c):
        for own, other in w:
            x = jax.nn.relu(x @ own + c @ other)
        return x

    square = jnp.ones((48, 48))
    assert trace_model(conditional, [(square, square)] * 4, X, X[::-1]).residuals == ()
    masked = lambda w, x: jax.nn.softmax((x @ w[0]) @ (x @ w[1]).T + jnp.tri(32))  # noqa: E731
    assert trace_model(masked, [jnp.ones((48, 8))] * 2, X).residuals == ()


def test_a_shortcut_may_pool_before_it_projects():
    def apply(w, x):
        pooled = 0.5 * (x + jnp.roll(x, 1, 0))
        return pooled @ w[0] + jax.nn.relu(x @ w[1]) @ w[2]

    (found,) = trace_model(apply, [jnp.ones((48, 48))] * 3, X).residuals
    assert (len(found.shortcut), found.depth) == (1, 2)


@pytest.mark.parametrize("turned", [False, True])
def test_branches_beside_each_other_are_two(turned):
    """As in GPT-J: x + attention(norm(x)) + mlp(norm(x))."""

    def apply(w, x):
        h = x - x.mean(-1, keepdims=True)
        stream, mlp = x + jnp.tanh(h @ w[0]) @ w[1], jax.nn.relu(h @ w[2]) @ w[3]
        return mlp + stream if turned else stream + mlp

    traced = trace_model(apply, [jnp.ones((48, 48))] * 4, X)
    assert [r.last for r in traced.residuals] == [{1}, {3}]
    assert [r.depth for r in traced.residuals] == [2, 2]


def test_a_time_embedding_may_enter_a_branch_beside_a_projection():
    """As in the blocks of diffusion models."""

    def apply(p, x, time):
        h = jax.nn.silu(x) @ p["a"] + (jax.nn.silu(time) @ p["time"])[:, None]
        return jax.nn.silu(h) @ p["b"] + x @ p["skip"]

    p = {k: jnp.ones((48, 64)) for k in ("a", "time", "skip")} | {"b": jnp.ones((64, 64))}
    (found,) = trace_model(apply, p, jnp.ones((4, 9, 48)), jnp.ones((4, 48))).residuals
    assert (len(found.shortcut), found.depth) == (1, 2)


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_skipinit_puts_alpha_where_a_branch_has_a_number_of_its_own(start):
    def apply(p, x):
        return x + p["number"] * (jax.nn.relu(x @ p["a"]) @ p["b"])

    p = {"number": jnp.asarray(start), "a": jnp.ones((48, 48)), "b": jnp.ones((48, 48))}
    drawn = skipinit(KEY, apply, p, X, alpha=0.25)
    assert float(drawn["number"]) == 0.25
    assert np.std(drawn["b"]) == pytest.approx(np.sqrt(2 / 48), rel=0.05)


def test_fixup_leaves_a_tied_embedding_as_it_is_drawn():
    def apply(p, tokens):
        x = p["embed"][tokens]
        for a, b in p["blocks"]:
            x = x + jax.nn.relu(x @ a) @ b
        return x @ p["embed"].T

    p = {"embed": jnp.ones((64, 48)), "blocks": [(jnp.ones((48, 48)), jnp.ones((48, 48)))] * 3}
    drawn = fixup(KEY, apply, p, jnp.zeros((2, 4), jnp.int32))
    assert np.std(drawn["embed"]) == pytest.approx(48**-0.5, rel=0.05)
    assert not np.any(drawn["blocks"][0][1])


@pytest.mark.bad_input
def test_a_model_without_branches_is_refused():
    for scheme in (fixup, skipinit):
        with pytest.raises(ValueError, match="no residual branch"):
            scheme(KEY, lambda w, x: x @ w, jnp.ones((48, 4)), X)


@pytest.mark.parametrize("start", [fixup, skipinit, lsuv])
def test_a_scheme_is_a_name_or_an_initializer(start):
    """The annotation, which the suite checks, allows both; one scheme draws the same by both."""
    by_name = initialised(start, Residual(2), scheme="xavier")
    by_function = initialised(start, Residual(2), scheme=jinit.scheme("xavier"))
    jax.tree.map(np.testing.assert_array_equal, by_name, by_function)
    fixed = initialised(start, Residual(2), scheme=lambda key, shape, dtype: jnp.ones(shape, dtype))
    assert len(np.unique(fixed["in_0"]["kernel"])) == 1
