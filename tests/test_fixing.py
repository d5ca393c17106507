"""What does not train is mended, what trains is left alone, and the code does what was measured."""

import re
from pathlib import Path

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jinit
from jinit import fixing, plots
from jinit.fixing import judging, lines, mending, trials
from jinit.fixing.given import given, optimizer_of
from tests import broken

SMALL = {"steps": 60, "seeds": 2, "batch_size": 64, "progress": False}


def parts(made):
    return made["apply"], made["variables"], made["data"]


def rest(made):
    return {n: made[n] for n in made.keys() & {"loss", "optimizer", "learning_rate"}}


def by_code(code, key, made):
    """What the lines of code leave behind, in a namespace of the user's names."""
    names = {"jinit": jinit, "jax": jax, "optax": optax, "key": key, **made}
    exec(code, names)
    return names


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if hasattr(x, "dtype") and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(x, y)


@pytest.fixture
def few(monkeypatch):
    """Of the candidates those that the quick tests need; the long ones take all."""
    some = ("xavier", "he", "start, clipping", "rate / 10")
    monkeypatch.setattr(mending, "CANDIDATES", {n: fixing.CANDIDATES[n] for n in some} | {
        n: c._replace(promise=lambda case: 0) for n, c in fixing.CANDIDATES.items() if n not in some
    })  # fmt: skip


@pytest.fixture(scope="module")
def mended():
    """All weights zero, the quick sibling of the long tests."""
    made = broken.zeros()
    key = jax.random.key(3)
    some = {n: fixing.CANDIDATES[n] for n in ("he", "start, clipping")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mending, "CANDIDATES", some)
        return made, key, jinit.fix(key, *parts(made), **rest(made), **SMALL)


def test_zeros_are_mended_and_the_table_says_so(mended):
    _, _, result = mended
    before, *others = result.table
    assert max(before.accuracies) <= 0.15
    assert before.trained == 0
    won = next(row for row in others if row.candidate == result.winner)
    assert won.trained == 2
    assert min(won.accuracies) >= 0.8
    assert max(won.losses) < min(before.losses)
    text = str(result)
    assert text.startswith("Found: ")
    assert all(row.candidate in text for row in result.table)
    assert result.verdict in text
    assert result.code in text
    # In the order of promise, and the curve's end is the table's number.
    assert others[0].candidate == "he"
    curve = result.curves.loss.sel(candidate=won.candidate)
    np.testing.assert_allclose(curve.isel(step=slice(-6, None)).mean("step"), won.losses, rtol=1e-5)
    assert "no time" not in str(result.left_out)


def test_the_code_does_it(mended):
    made, key, result = mended
    same(by_code(result.code, key, made)["variables"], result.variables)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(result.variables))


class OfNNX(nnx.Module):
    def __init__(self, rngs):
        zero = nnx.initializers.zeros
        self.first = nnx.Linear(8, 16, kernel_init=zero, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.drop = nnx.Dropout(0.1, deterministic=True, rngs=rngs)
        self.last = nnx.Linear(16, 2, kernel_init=zero, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(jax.nn.relu(self.norm(self.first(x)))))


def of_equinox():
    model = equinox.nn.MLP(8, 2, 16, 1, key=jax.random.key(0))
    return jax.tree.map(lambda leaf: 0 * leaf if equinox.is_array(leaf) else leaf, model)


def sides(samples=96):
    """On which side of 0 the first number is."""
    x = np.asarray(jax.random.normal(jax.random.key(0), (samples, 8)))
    return x, (x[:, 0] > 0).astype(int)


MODULES = {
    "nnx": (lambda: OfNNX(nnx.Rngs(0)), {}, 'jinit.reinit(key, model, x, scheme="he")'),
    "equinox": (
        of_equinox, {"in_axes": 0}, "jinit.reinit(key, model, x, scheme=\"he\", in_axes=0)"
    ),
}  # fmt: skip


def applied(model, x, in_axes=None):
    return model(x) if in_axes is None else jax.vmap(model, in_axes)(x)


@pytest.mark.parametrize("name", MODULES)
def test_the_lines_of_a_model_that_holds_its_arrays_do_it(name):
    """They say `model`, and leave what was to be trained: a module with another start."""
    make, own, call = MODULES[name]
    model, data, key = make(), sides(), jax.random.key(1)
    with jax.numpy_rank_promotion("allow"):
        traced, _, called = given(
            model, data, None, batch_size=64, rules=None, **{"in_axes": None} | own
        )
        case, candidate = fixing.Case(frozenset({"dead"}), True, 0), fixing.CANDIDATES["he"]
        (start,) = trials.starts_of(traced, candidate, case, [key], None, {})
        code = lines.lines_of(candidate, case, start, called, None)
        assert code == f"x = data[0][:64]\nmodel = {call}"
        fresh = by_code(code, key, {"model": model, "data": data})["model"]
        assert type(fresh) is type(model)
        same(fresh, start.variables)
        assert np.abs(applied(model, data[0], **own)).max() == 0
        assert np.abs(applied(fresh, data[0], **own)).max() > 0


@pytest.mark.long  # its lines always, above
@pytest.mark.parametrize("name", MODULES)
def test_a_model_that_holds_its_arrays_is_mended(name, monkeypatch):
    make, own, _ = MODULES[name]
    monkeypatch.setattr(mending, "CANDIDATES", {"he": fixing.CANDIDATES["he"]})
    model, data, key = make(), sides(), jax.random.key(1)
    with jax.numpy_rank_promotion("allow"):
        result = jinit.fix(key, model, data, optimizer=optax.adam(0.03), **own, **SMALL)
        assert (result.winner, type(result.variables)) == ("he", type(model))
        same(by_code(result.code, key, {"model": model, "data": data})["model"], result.variables)


@pytest.mark.parametrize("by_name", [False, True])
def test_lines_name_what_was_given_as_it_was_given(by_name):
    x, y = sides(16)
    data = dict(zip(jinit.Data._fields, (x, y, x, y), strict=True)) if by_name else (x, y)
    module = linen.Dense(2)
    with jax.numpy_rank_promotion("allow"):
        variables = module.init(jax.random.key(0), x)
        bound = module.bind(variables)
        made = [
            ((module, variables, data), ("apply, variables", "variables")),
            ((bound, None, data), ("model", "variables")),
            ((bound, data), ("model", "variables")),
            ((nnx.Linear(8, 2, rngs=nnx.Rngs(0)), data), ("model", "model")),
        ]
        for arguments, words in made:
            arguments = [*arguments, None][:3]
            found = given(*arguments, batch_size=64, rules=None, in_axes=None)
            assert found.names[:2] == words
            assert found.names.x == ('data["x_train"][:16]' if by_name else "data[0][:16]")
    with pytest.raises(TypeError, match=r"apart .* jinit.fix\(key, model, data, in_axes=0, loss"):
        given(jax.vmap(of_equinox()), data, None, batch_size=64, rules=None, in_axes=None)
    with pytest.raises(TypeError, match=r"in_axes=0"):
        given(of_equinox(), data, None, batch_size=64, rules=None, in_axes=None)


def test_the_picture_holds_every_candidate(mended):
    _, _, result = mended
    lines = plots.fixed(result)
    assert [line.get_label() for line in lines] == [row.candidate for row in result.table]
    last = result.curves.loss.isel(step=slice(-2, None)).mean("step")  # 60 steps, two at once
    for line in lines:
        mine = last.sel(candidate=line.get_label())
        assert mine.min() <= line.get_ydata()[-1] <= mine.max()


def test_a_healthy_model_is_left_as_it_is():
    made = broken.healthy()
    result = jinit.fix(jax.random.key(0), *parts(made), **rest(made), **SMALL)
    assert result.variables is made["variables"]
    assert (result.code, result.winner, result.healthy) == ("", None, True)
    assert result.verdict.startswith("Healthy: nothing was found, and it trains")
    assert [row.candidate for row in result.table] == ["before"]


@pytest.mark.long  # `test_who_wins` always
def test_a_model_that_cannot_learn_is_helped_by_nothing_and_what_was_tried_is_named(few):
    """Labels that the inputs do not tell, and a loss that is no better than chance."""
    x = np.asarray(jax.random.normal(jax.random.key(0), (256, 8)))
    y = np.asarray(jax.random.randint(jax.random.key(1), (256,), 0, 2))
    w = jnp.zeros((8, 2))
    result = jinit.fix(
        jax.random.key(0), lambda w, x: x @ w, w, (x, y, x, y), optimizer=optax.sgd(1e-3),
        **SMALL | {"steps": 5},
    )  # fmt: skip
    assert result.winner is None
    assert not result.healthy
    assert result.variables is w
    assert result.code == ""
    assert result.verdict.startswith("Nothing helped: of ")
    assert "xavier" in result.verdict


@pytest.mark.long  # `test_time_is_watched_between_candidates` always
def test_when_time_is_up_the_rest_is_left_out_and_named():
    made = broken.zeros()
    result = jinit.fix(
        jax.random.key(3), *parts(made), **rest(made), **SMALL | {"steps": 5}, minutes=0.0001
    )
    assert [row.candidate for row in result.table] == ["before"]
    assert set(result.left_out.values()) >= {"no time was left"}
    assert "Left out, as time was up: he" in result.verdict


def test_time_is_watched_between_candidates():
    now, ran = [0.0], []

    def work(name):
        now[0] += 10.0
        ran.append(name)
        return {"loss": np.ones(2)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials.time, "monotonic", lambda: now[0])
        executor = trials.UntilTime(35.0, lambda: None)
        results = [executor.submit(work, i).result()["loss"] for i in range(5)]
    assert ran == [0, 1, 2]
    assert [bool(np.isnan(r).all()) for r in results] == [False, False, False, True, True]
    with pytest.raises(ZeroDivisionError):
        trials.UntilTime(None, lambda: None).submit(lambda: 1 / 0).result()


def test_the_stable_rate_is_that_of_a_quadratic():
    """L = mean((w x)^2) / 2 with mean(x^2) = 4: curvature 4, so 2/4, and half of it over lr = 1."""
    x, y = np.full((8, 1), 2.0, np.float32), np.zeros((8, 1), np.float32)
    model = jinit.Model(
        lambda w, x: x * w[None],
        jnp.ones(1),
        x[:8],
        loss=lambda out, y: jnp.mean((out - y) ** 2) / 2,
    )
    data = jinit.Data(x, y, x, y)
    make = optimizer_of(optax.sgd(1.0), None)
    trainer = trials.Trainer(jax.random.key(0), model, data, model.loss, make, 5, 8)
    assert trainer.stable(jax.random.key(0), jnp.ones(1)) == pytest.approx(0.25)
    make = optimizer_of(optax.sgd, 0.1)
    slow = trials.Trainer(jax.random.key(0), model, data, model.loss, make, 5, 8)
    with pytest.raises(ValueError, match="small enough"):
        slow.stable(jax.random.key(0), jnp.ones(1))


def row(name, losses, trained):
    return fixing.Row(name, "", float(np.median(losses)), losses, np.nan, (np.nan,) * 3, trained)


@pytest.mark.parametrize(
    ("others", "winner"),
    [
        ((row("a", (2.0, 2.1, 2.4), 3),), None),  # seeds overlap with the model as it is
        ((row("a", (2.0, 2.1, 2.2), 1),), None),  # better, but does not train
        ((row("a", (1.0, 1.1, 1.2), 3), row("b", (0.5, 0.6, 0.7), 3)), "b"),
        ((row("a", (0.5, 0.65, 0.9), 3), row("b", (0.5, 0.6, 0.7), 3)), "a"),  # a tie: the first
        ((row("a", (0.07, 0.08, 0.09), 3), row("b", (0.01, 0.01, 0.02), 3)), "a"),  # nearly
        ((row("a", (0.1, 0.1, 2.2), 2), row("b", (0.5, 0.6, 0.7), 3)), "b"),  # trains more often
    ],
)
def test_who_wins(others, winner):
    won = judging.winner((row("before", (2.3, 2.35, 2.4), 0), *others), 2.303)
    assert (won and won.candidate) == winner


CASES = {
    "small": fixing.Case(frozenset({"vanish"}), False, 0),
    "explodes": fixing.Case(frozenset({"explode"}), True, 0),
    "branches": fixing.Case(frozenset({"explode"}), True, 50),
    "nothing found": fixing.Case(frozenset(), True, 0),
    "diverges": fixing.Case(frozenset(), True, 0, diverges=True),
    "trains": fixing.Case(frozenset({"output"}), True, 0, trains=True),
}
FIRST = {
    "small": ("xavier", {"clipping", "fixup", "rate / 10", "stable rate"}),
    "explodes": ("he", {"fixup", "scaled branches", "stable rate"}),
    "branches": ("scaled branches", {"rate x 10"}),
    "nothing found": ("stable rate", {"fixup"}),
    "diverges": ("stable rate", {"rate x 10", "fixup"}),
    "trains": ("he", {"rate / 10", "start, clipping"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_found_chooses_the_candidates(name):
    promises = {n: c.promise(CASES[name]) for n, c in fixing.CANDIDATES.items()}
    first, absent = FIRST[name]
    assert max(promises, key=promises.get) == first
    assert {n for n, p in promises.items() if not p} >= absent


def options(**own):
    return {"optimizer": optax.sgd(0.5), **own}


@pytest.mark.parametrize("name", fixing.CANDIDATES)
def test_every_candidates_code_does_it(name):
    """Variables and first update of the lines are those of the start that is trained."""
    x = np.asarray(jax.random.normal(jax.random.key(0), (16, 4)))

    def apply(ws, x):
        for w in ws[:-1]:
            x = x + jax.nn.relu(x @ w)
        return x @ ws[-1]

    key, ws = jax.random.key(1), [3.0 * jnp.eye(4)] * 3 + [jnp.eye(4)]
    case, candidate = fixing.Case(frozenset({"explode"}), True, 3), fixing.CANDIDATES[name]
    model = jinit.Model(apply, ws, x, loss=broken.cross_entropy)

    class Trainer:
        def stable(self, key, variables):
            return 0.25

    (start,) = trials.starts_of(model, candidate, case, [key], Trainer(), {})
    assert start.scale != 1 or start.clip or start.variables is not ws
    made = {"apply": apply, "variables": ws, "data": (x, np.arange(16) % 4)}
    called = given(*parts(made), batch_size=64, rules=None, in_axes=None).names
    for own in (options(), options(optimizer=optax.sgd, learning_rate=0.5)):
        rate = own.get("learning_rate")
        names = by_code(lines.lines_of(candidate, case, start, called, rate), key, made | own)
        same(names["variables"], start.variables)
        theirs = names["optimizer"]
        if not isinstance(theirs, optax.GradientTransformation):
            theirs = theirs(names["learning_rate"])
        make = optimizer_of(own["optimizer"], rate)
        # Traced numbers, as the sweep has them, give the same steps.
        scale, clip = (jnp.float32(v) for v in (start.scale, fixing.CLIP if start.clip else np.inf))
        gradient = [jnp.full((4, 4), 3.0)] * 4
        theirs, ours, traced = (
            o.update(gradient, o.init(ws), ws)[0]
            for o in (theirs, make(start.scale, start.clip), make(scale, clip))
        )
        same(ours, theirs)
        for a, b in zip(traced, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": np.ones(3)}, "data must be a jinit.Data"),
        ({"data": {"x_train": 1}}, "got none of y_train"),
        ({"data": {"x_trian": 1}}, "did you mean 'x_train'"),
        ({"optimizer": optax.sgd}, "with learning_rate= beside it"),
        ({"learning_rate": 0.1}, "got 'a transformation' and learning_rate=0.1"),
        ({"optimizer": 0.1}, "optimizer must be an optax transformation"),
        ({"loss": lambda out, y: out}, "loss must map the model's output to a scalar"),
        ({"apply": lambda w, x: (x @ w, w)}, "apply must return outputs [batch, ...] alone"),
        ({"steps": 0}, "steps must be"),
        ({"minutes": "3"}, "minutes must be"),
    ],
)
def test_bad_input_is_one_sentence(change, words):
    x, y = np.ones((8, 4), np.float32), np.zeros(8, int)
    given = {"apply": lambda w, x: x @ w, "variables": jnp.ones((4, 2)), "data": (x, y),
             "optimizer": optax.sgd(0.1)} | change  # fmt: skip
    arguments = [given.pop(name) for name in ("apply", "variables", "data")]
    with pytest.raises((TypeError, ValueError)) as error:
        jinit.fix(jax.random.key(0), *arguments, **given, progress=False)
    assert words in str(error.value)


@pytest.mark.long
@pytest.mark.parametrize("name", broken.BROKEN)
def test_broken_models_are_mended(name):
    """At most 15 % of digits right before, at least 80 % after 300 steps, in 3 of 3 seeds."""
    made = broken.BROKEN[name]()
    result = jinit.fix(jax.random.key(1), *parts(made), **rest(made), progress=False)
    assert max(result.table[0].accuracies) <= 0.15
    won = next(r for r in result.table if r.candidate == result.winner)
    assert min(won.accuracies) >= 0.8
    assert won.trained == len(won.accuracies) == 3
    same(by_code(result.code, jax.random.key(1), made)["variables"], result.variables)


@pytest.mark.long
def test_the_page_prints_what_it_says(tmp_path, monkeypatch):
    """The same candidates in order, the same winner and code; numbers differ by machine."""
    text = (Path(__file__).parents[1] / "docs" / "fix.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    said = re.findall(r"```text\n(.*?)```", text, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(program, "docs/fix.md", "exec"), names)
    result = names["result"]
    shown = [line.split("  ")[0] for line in said.splitlines()[4:]]
    assert shown[: len(result.table)] == [row.candidate for row in result.table]
    assert f"{result.winner} (" in said
    assert result.code in said
    assert (tmp_path / "fix.png").exists()
