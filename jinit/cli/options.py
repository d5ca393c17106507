"""What commands share: options, files that may be written, and the sentence that ends them."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

_PLOTS = (".png", ".svg", ".pdf")

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that are there already.")
]
Picture = Annotated[
    Path | None, typer.Option(help="Write a picture to this file (.png, .svg, .pdf).")
]
Stored = Annotated[Path, typer.Argument(help="A sweep's folder.")]


def check_plot(file: Path | None, overwrite: bool, option: str = "--plot") -> None:
    """What an option names, if given, is a picture that may be written."""
    if file is not None and file.suffix not in _PLOTS:
        fail(f"{option} must end in {', '.join(_PLOTS[:-1])} or {_PLOTS[-1]}, got '{file}'.")
    check_file(file, overwrite, option)


def check_file(file: Path | None, overwrite: bool, option: str) -> None:
    """What an option names, if given, is a file that may be written."""
    if file is None:
        return
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        fail(f"{option} must lie in a folder that can be written, got '{file}'; make it first.")
    if file.exists() and not overwrite:
        fail(f"{option}: '{file}' is there already; choose another name, or add --overwrite.")


def fail(message: str) -> NoReturn:
    """End the command with that sentence and status 2."""
    print(f"jinit: {message}", file=sys.stderr)
    raise typer.Exit(2)


def made_by(factory: str, form: str) -> Any:
    """What the function `module:function` returns, called without arguments, or what stands there.

    Raises:
        ValueError: what cannot be imported; a function that needs arguments.
    """
    from inspect import Parameter, signature

    from jinit import checks

    made = checks.imported("model", factory)
    if not callable(made):
        return made
    try:
        parameters = list(signature(made).parameters.values())
    except ValueError:  # of functions written in C
        parameters = []
    optional = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in optional]
    if needed:
        raise ValueError(
            f"{factory} must be a function without arguments that returns {form}, got one that "
            f"needs {', '.join(needed)}; write one that calls it with what it needs."
        )
    return made()
