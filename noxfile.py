"""What is run on jinit, each in an environment of its own: `nox -s core`, `nox --list`.

`.ci/run` does without nox: it is lint, types and all, on one Python.
"""

from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
nox.options.sessions = ["lint", "types", "core"]
nox.options.error_on_missing_interpreters = False


def install(session: nox.Session) -> None:
    """Jinit as it lies here, with what the tests need."""
    session.install("-e", ".[test]")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, on jinit."""
    install(session)
    session.run("mypy")


@nox.session(python=PYTHONS)
def core(session: nox.Session) -> None:
    """A minute of tests."""
    install(session)
    session.run("pytest", "-m", "core", *session.posargs)


@nox.session(name="all", python=PYTHONS)
def all_(session: nox.Session) -> None:
    """Every test but `long`: what `.ci/run` runs."""
    install(session)
    session.run("pytest", *session.posargs)


@nox.session
def long(session: nox.Session) -> None:
    """What `all` leaves out: the README's programs, more settings, small experiments."""
    install(session)
    session.run("pytest", "-m", "long", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """What is written runs: programs of the README, examples in docstrings, links within."""
    install(session)
    session.run("pytest", "-m", "long or not long", "tests/test_readme.py", *session.posargs)


@nox.session(python="3.12")
def models(session: nox.Session) -> None:
    """Some fifty models of public packages, which it installs: about ten minutes."""
    # At once: a package that asks for an older jax would else have pip try all of them.
    session.install("-e", ".[test]", "-r", "tests/public/packages.txt")
    session.run("pytest", "-m", "public", "tests/public", *session.posargs,
                env={"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"})  # fmt: skip


@nox.session
def experiments(session: nox.Session) -> None:
    """Every published result, whole: about half an hour. `nox -s experiments -- lsuv` runs one."""
    install(session)
    wanted = session.posargs or ["*"]
    scripts = [s for name in wanted for s in sorted(Path("experiments").glob(f"{name}.py"))]
    for script in scripts:
        if not script.name.startswith("_"):
            out = Path(session.create_tmp()) / script.stem
            session.run("python", str(script), "--out", str(out), "--overwrite")
