"""`jinit fix`, as a person calls it."""

import contextlib
import json

import jax
import numpy as np
import pytest

from jinit import fixing
from jinit.fixing import mending
from tests.shell import call_here

MODELS = """
import equinox, jax, jax.numpy as jnp, numpy as np, optax

x = np.asarray(jax.random.normal(jax.random.key(0), (96, 8)))
y = (x[:, 0] > 0).astype(int)
names = ("x_train", "y_train", "x_test", "y_test")
parts = {"apply": lambda ws, x: jax.nn.relu(x @ ws[0]) @ ws[1],
         "variables": [jnp.zeros((8, 16)), jnp.zeros((16, 2))],
         "data": dict(zip(names, (x, y, x, y))),
         "loss": lambda out, y: optax.softmax_cross_entropy_with_integer_labels(out, y).mean()}


def zeros():
    return parts


def own():
    return parts | {"optimizer": optax.sgd, "learning_rate": 0.3}


def fine():
    ws = [0.5 * jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((8, 16), (16, 2)))]
    return parts | {"variables": ws, "optimizer": optax.adam(0.03)}


def wrong():
    return parts["apply"], parts["variables"]


def without():
    return {name: parts[name] for name in parts if name != "data"}


def vector():
    return parts | {"loss": lambda out, y: out}


def twice():
    return parts | {"model": parts["apply"]}


def alone():
    return {name: parts[name] for name in ("apply", "data", "loss")}


def misspelt():
    return parts | {"in_axis": 0}


def module():
    model = equinox.nn.MLP(8, 2, 16, 1, key=jax.random.key(0))
    model = jax.tree.map(lambda a: 0 * a if equinox.is_array(a) else a, model)
    own = {"model": model, "in_axes": 0, "optimizer": optax.adam(0.03)}
    return own | {name: parts[name] for name in ("data", "loss")}


def needs(width):
    return parts
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MODELS)
    return tmp_path


@pytest.mark.long  # its sibling: tests/test_fixing.py mends zeros, and runs the lines
@pytest.mark.parametrize(
    ("made", "drawn", "given"),
    [("own", "variables", {"optimizer", "learning_rate"}), ("module", "model", {"optimizer"})],
)
def test_fix_prints_the_table_and_lines_that_run(made, drawn, given, folder, monkeypatch):
    some = {name: fixing.CANDIDATES[name] for name in ("he", "start, rate / 10")}
    monkeypatch.setattr(mending, "CANDIDATES", some)
    done = call_here("fix", f"mine:{made}", "--steps", "40", "--seeds", "2", "--plot", "a.png",
                     cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "all weights are zero" in done.stdout
    assert "wins" in done.stdout
    assert "2 of 2" in done.stdout
    assert "candidates" in done.stderr  # progress
    assert (folder / "a.png").stat().st_size > 10_000
    code, names = done.stdout[done.stdout.index("import jax, jinit, optax") :], {}
    monkeypatch.syspath_prepend(folder)
    with contextlib.chdir(folder):
        exec(code, names)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(names[drawn]) if hasattr(leaf, "ndim"))
    assert given <= names.keys()


@pytest.mark.long  # tests/test_fixing.py has it always
def test_fix_leaves_a_healthy_model_and_says_so(folder):
    done = call_here("fix", "mine:fine", "--steps", "60", "--seeds", "2", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["healthy"]
    assert found["code"] == ""
    assert "left as it is" in found["verdict"]


@pytest.mark.bad_input
def test_fix_of_nothing_is_one_sentence(folder):
    for arguments, words in (
        (
            ("mine:wrong",),
            "must return a dict of model (or apply and variables), data and loss, got tuple",
        ),
        (("mine:without",), "data is missing"),
        (("mine:twice",), "must return apply or model, which are the same, not both"),
        (("mine:alone",), "needs the parameters and data, apart from each other"),
        (("mine:misspelt",), "did you mean 'in_axes'"),
        (("mine:none",), "cannot be imported"),
        (("mine:needs",), "got one that needs width"),
        (("mine:vector",), "loss must map the model's output to a scalar"),
        (("mine:own", "--steps", "0"), "steps must be"),
        (("mine:own", "--plot", "a.txt"), "--plot must end in"),
    ):
        done = call_here("fix", *arguments, cwd=folder)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr
