"""The command line, as a person calls it.

A process takes seconds to start, so that each kind of end has one real one (help, version, a table,
a refusal, a failed check, no device), and the other cases are called in this process.
"""

import json
import subprocess
import sys

import pytest

import jinit
from tests.shell import call, call_here


def test_help_names_the_commands():
    done = call("--help")
    assert done.returncode == 0
    assert "tour" in done.stdout
    assert "schemes" in done.stdout


def test_help_does_not_load_jax():
    program = (
        "import sys; sys.argv = ['jinit', '--help']\n"
        "from jinit.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'numpy', 'matplotlib', 'xarray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_version():
    assert call("--version").stdout.strip() == jinit.__version__


def test_schemes_lists_every_scheme():
    done = call_here("schemes")
    assert done.returncode == 0
    for name in jinit.SCHEMES:
        assert name in done.stdout


@pytest.mark.bad_input
def test_tour_into_a_used_folder_is_one_sentence(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    done = call_here("tour", "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path) in done.stderr
    assert "--overwrite" in done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.bad_input
def test_unknown_option_names_the_nearest():
    done = call_here("tour", "--quik")
    assert done.returncode == 2
    assert "--quick" in done.stderr


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "arguments", [("--out", "a" * 300), ("--out", "~nosuchuser/x"), ("--seed", "9" * 20)]
)
def test_impossible_options_are_one_message(arguments, tmp_path):
    done = call_here("tour", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.bad_input
def test_a_device_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    done = call("tour", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith(
        "jinit: jax cannot start on the device that JAX_PLATFORMS=nonsense"
    )
    assert not list(tmp_path.iterdir())


# --- theory ---------------------------------------------------------------------------------


@pytest.mark.script
def test_theory_tells_a_newcomer_what_to_do():
    done = call("theory", "gelu", "--depth", "20", "--bias-var", "0.04")
    assert done.returncode == 0, done.stderr
    assert 'jinit.init(key, net, "he", gain=0.9958, bias_var=0.1729)' in done.stdout
    assert "gain=1.54701" in done.stdout


def test_theory_of_a_function_of_ones_own_with_its_picture(tmp_path):
    (tmp_path / "mine.py").write_text("import jax.numpy as jnp\ndef phi(x): return x*jnp.tanh(x)\n")
    done = call_here("theory", "mine:phi", "--plot", "phases.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("phi: does the signal survive")
    assert (tmp_path / "phases.png").stat().st_size > 10_000
    again = call_here("theory", "mine:phi", "--plot", "phases.png", cwd=tmp_path)
    assert again.returncode == 2
    assert "is there already; choose another name, or add --overwrite" in again.stderr


def test_the_picture_of_an_activation_whose_moments_end(tmp_path):
    done = call_here("theory", "jax.numpy:exp", "--plot", "phases.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.endswith("The phase diagram is in phases.png.\n")
    assert (tmp_path / "phases.png").stat().st_size > 10_000


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "phases.png").mkdir()
    done = call_here("theory", "tanh", "--plot", "phases.png", "--overwrite", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("jinit: ")
    assert "phases.png" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


REFUSED = [
    (["gellu"], "unknown activation 'gellu'; did you mean 'gelu'?"),
    (["gelu", "--bias-var", "-1"], "--bias-var is a variance and must not be negative, got -1.0"),
    (["gelu", "--depth", "0"], "--depth must be an integer of at least 1, got 0"),
    (["gelu", "--plot", "a.txt"], "--plot must end in .png, .svg or .pdf, got 'a.txt'"),
    (["gelu", "--plot", "no/such/a.png"], "must lie in a folder that can be written"),
    (["jax.numpy:sign"], "must be continuous with a bounded derivative, got one that jumps at x ="),
]


@pytest.mark.script
@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("how", "arguments", "sentence"), [(call, *REFUSED[0]), *((call_here, *row) for row in REFUSED)]
)
def test_theory_refuses_in_one_sentence(how, arguments, sentence):
    done = how("theory", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


MODELS = """
import jax, jax.numpy as jnp
KEY = jax.random.key(0)

def apply(w, x):
    for own in w:
        x = jnp.tanh(x @ own)
    return x

def small():
    return apply, [0.01 * jax.random.normal(KEY, (16, 16))] * 1 + [0.01 * jax.random.normal(
        jax.random.fold_in(KEY, i), (16, 16)) for i in range(8)], jax.random.normal(KEY, (4, 16))

def fine():
    _, w, x = small()
    return {"apply": apply, "variables": [40 * own for own in w], "inputs": (x,),
            "loss": lambda out: jnp.mean(jnp.square(out))}

def wrong():
    return 3

def swapped():
    return apply, [jnp.ones((16, 16))], jnp.ones((4, 8))
"""


@pytest.mark.script
def test_diagnose_prints_writes_and_fails_where_it_is_told_to(tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    done = call(
        "diagnose", "models:small", "--json", "--fail-on", "explode,vanish", "--plot", "a.png",
        "--html", "a.html", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["findings"][0]["kind"] == "vanish"
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert "vanish" in (tmp_path / "a.html").read_text(encoding="utf-8")
    done = call_here("diagnose", "models:small", "--fail-on", "dead", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "vanish: x0.0" in done.stdout
    done = call_here("diagnose", "models:fine", "--fail-on", "any", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Healthy: over 9 layers" in done.stdout


@pytest.mark.bad_input
def test_diagnose_of_nothing_is_one_sentence(tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    for arguments, words in (
        (("models:wrong",), "must return (apply, variables, *inputs)"),
        (("models:none",), "cannot be imported"),
        (("models:swapped",), "Do variables and inputs fit the model?"),
        (("models:small", "--fail-on", "vanich"), "did you mean 'vanish'"),
        (
            ("json:loads",),
            "without arguments that returns (apply, variables, *inputs), got one that needs s",
        ),
    ):
        done = call_here("diagnose", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert words in done.stderr
