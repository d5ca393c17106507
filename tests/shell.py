"""The `jinit` command, as a process of its own and within this one."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jaxtyping

from jinit.cli.main import app

TERMINAL = {"COLUMNS": "200", "NO_COLOR": "1"}


def command(*arguments):
    return [sys.executable, "-m", "jinit", *arguments]


def call(*arguments, cwd=None):
    """As a person calls it: for what only a process shows, which takes seconds to import jax."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=600, cwd=cwd, check=False,
        env=os.environ | TERMINAL,
    )  # fmt: skip


def call_here(*arguments, cwd="."):
    """The same in this process, where a traceback or a warning is the test's error.

    Without the checker, as in a process of its own: typer gives None for a flag that is not given.
    """
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with (
        contextlib.chdir(cwd),
        _unchecked(),
        mock.patch.dict(os.environ, TERMINAL),
        mock.patch.object(sys, "path", list(sys.path)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            app(arguments, prog_name="jinit")
        except SystemExit as end:
            status = end.code
        _forget_modules(Path.cwd())
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _unchecked():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def _forget_modules(folder):
    """Of a test's own folder: the next one has others of the same name."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).parent == folder:
            del sys.modules[name]
