"""Compiled programs are kept between commands, to the same bits, or nothing is said of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jinit
from jinit.cli import cache
from tests.shell import call

ROOT = Path(jinit.__file__).parents[1]


def in_fresh_python(code, home, **settings):
    """Without what the suite says of jax's cache."""
    own = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False,
        env=own | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(home)} | settings,
    )  # fmt: skip


KEPT = """
from jinit.cli import cache
with cache.kept():
    import hashlib, jax, jax.numpy as jnp, numpy as np
    w = jax.random.normal(jax.random.key(0), (24, 24))
    rows = jnp.sin(jnp.arange(24 * 20_000.0).reshape(-1, 24))

    def program(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(w @ x), x)

    out = np.asarray(jax.jit(jax.vmap(program))(rows))
    print(hashlib.sha256(out.tobytes()).hexdigest())
"""


@pytest.mark.script
@pytest.mark.skipif(sys.platform != "linux", reason="nothing is kept elsewhere")
def test_what_is_kept_has_the_bits_of_what_is_compiled_and_is_told_in_one_line(tmp_path):
    """Of vmapped products of a matrix and a vector, as in jax#39103 (docs/troubles.md)."""
    settings = {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    first, second = (in_fresh_python(KEPT, tmp_path, **settings) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert second.returncode == 0
    assert first.stdout == second.stdout
    (line,) = second.stderr.splitlines()
    assert line.startswith("jinit: ")
    assert "compiled programs came from" in line
    (folder,) = (tmp_path / "jinit" / "compiled").iterdir()
    assert f"{folder} (JAX_ENABLE_COMPILATION_CACHE=0 compiles anew)." in line
    assert sum("jit_program" in file.name for file in folder.iterdir()) == 1
    assert folder.stat().st_mode & 0o077 == 0


BEGUN = """
import os, sys
from jinit.cli import cache
print(cache.begin(), os.environ.get("JAX_COMPILATION_CACHE_DIR"), "jax" in sys.modules)
"""


@pytest.mark.script
@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"JAX_ENABLE_COMPILATION_CACHE": "false"}, "None None False"),
        ({"JAX_COMPILATION_CACHE_DIR": "mine"}, "None mine False"),
    ],
)
def test_what_jax_is_told_of_its_cache_holds(settings, kept, tmp_path):
    done = in_fresh_python(BEGUN, tmp_path / "home", **settings)
    assert (done.stdout.strip(), done.stderr) == (kept, "")
    assert not (tmp_path / "home").exists()


@pytest.mark.script
@pytest.mark.bad_input
@pytest.mark.skipif(sys.platform != "linux", reason="nothing is kept elsewhere")
def test_a_folder_that_cannot_be_written_is_one_sentence_and_the_command_goes_on(
    tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = call("schemes")
    assert done.returncode == 0
    assert "glorot_normal" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("jinit: compiled programs are not kept, since ")
    assert line.endswith(
        "cannot be written (Not a directory); give another folder by JAX_COMPILATION_CACHE_DIR, or "
        "JAX_ENABLE_COMPILATION_CACHE=0."
    )


def test_the_oldest_programs_go_first(tmp_path):
    for i, name in enumerate("cab"):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (i, i))
    (tmp_path / "folder").mkdir()
    (tmp_path / "torn").touch()
    cache.shrink(tmp_path, 300)
    assert len(list(tmp_path.iterdir())) == 4
    cache.shrink(tmp_path, 150)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b", "folder"]


def test_another_machine_has_another_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    here = cache.place()
    assert here.parts[:4] == ("/", "somewhere", "jinit", "compiled")
    assert cache.place() == here
    monkeypatch.setattr(cache.platform, "machine", lambda: "another")
    assert cache.place() != here
