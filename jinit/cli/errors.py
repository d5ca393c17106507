"""Where an error becomes a sentence: in the words of the command line, with the model's place."""

import functools
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from jinit.cli import cache, interrupts
from jinit.cli.options import fail

DEBUG = typer.Option("--debug", help="Show the traceback of an error.")


def answered(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--debug`, whose every error is one sentence and status 2."""

    @functools.wraps(command)
    def run(ctx: typer.Context, *, debug: bool = False, **options: Any) -> None:
        try:
            with cache.kept():
                command(**options)
        except KeyboardInterrupt:
            print(interrupts.line(), file=sys.stderr)
            raise typer.Exit(130) from None
        except (Exception, SystemExit) as error:
            if isinstance(error, typer.Exit) or type(error).__module__.startswith(_OF_TYPER):
                raise
            if any(isinstance(each, BrokenPipeError) for each in _chain(error)):
                os._exit(1)  # nobody reads on, as under `jinit schemes | head`
            if debug or ctx.find_root().params.get("debug"):
                traceback.print_exception(error)
            long = {p.name: [o for o in p.opts if o.startswith("--")] for p in ctx.command.params}
            fail(sentence(error, {str(name): opts[0] for name, opts in long.items() if opts}))

    own = inspect.signature(command)
    extra: dict[str, Any] = {"ctx": typer.Context, "debug": Annotated[bool, DEBUG]}
    one = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    flag, context = (
        one("debug", default=False, annotation=extra["debug"]),
        one("ctx", annotation=typer.Context),
    )
    given = [each.replace(kind=each.KEYWORD_ONLY) for each in own.parameters.values()]
    run.__signature__ = own.replace(parameters=[*given, flag, context])  # type: ignore[attr-defined]
    run.__annotations__ = command.__annotations__ | extra
    return run


_OF_TYPER = ("click.", "typer.")


def sentence(error: BaseException, options: Mapping[str, str]) -> str:
    """One line on what went wrong: the device, jinit's own sentence, or an error with its place."""
    from jinit import runtime

    of_jax = not is_own(error) and not place(error)
    if of_jax and (trouble := runtime.device_trouble()):
        return trouble
    text = str(error).strip().splitlines() or [""]
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("jinit ")]
    where = place(error)
    if is_own(error):
        found = spoken(text[0], options)
        return " ".join([f"{where}: {found}" if where else found, *notes])
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{_short(error.filename)}:{error.lineno}"
        text = [error.msg]
    named = ": ".join(filter(None, (type(error).__name__, text[0])))
    if not where:
        last = traceback.extract_tb(error.__traceback__)[-1:]
        at = "".join(f", at {_short(f.filename)}:{f.lineno}" for f in last)
        return f"an error that jinit did not expect{at}: {named} (--debug shows the traceback)"
    return " ".join([f"{where}: {named}", *notes, "(--debug shows the traceback)"])


# --- whose error it is ---------------------------------------------------------------------------

_JINIT = f"{Path(__file__).parents[1]}{os.sep}"
_PATHS = ("stdlib", "platstdlib", "purelib", "platlib")
_INSTALLED = tuple(f"{os.path.realpath(sysconfig.get_path(name))}{os.sep}" for name in _PATHS)


def is_own(error: BaseException) -> bool:
    """Whether jinit said it: the innermost frame is one of its `raise` statements."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return any(f.filename.startswith(_JINIT) and (f.line or "").startswith("raise") for f in last)


def place(error: BaseException) -> str:
    """`mine.py:12, in apply`: the innermost line of a person's own file that the error passed.

    Of an error that jinit made of another, the other's; "" if it passed none.
    """
    for each in _chain(error):
        own = [f for f in traceback.extract_tb(each.__traceback__) if _is_a_persons(f.filename)]
        if own:
            named = "" if own[-1].name.startswith("<") else f", in {own[-1].name}"
            return f"{_short(own[-1].filename)}:{own[-1].lineno}{named}"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_a_persons(file: str) -> bool:
    file = os.path.realpath(file) if not file.startswith("<") else ""
    return bool(file) and not file.startswith((_JINIT, *_INSTALLED))


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


# --- in whose words ------------------------------------------------------------------------------


def spoken(text: str, options: Mapping[str, str]) -> str:
    """The sentence with options (`--bias-var`) where it names a function's arguments (`bias_var=`).

    Names that are words of English are arguments only where they are called so: `steps=`, and as
    the subject of a sentence, also in the plural, as functions take several. Calls stay Python.
    """
    parts = re.split(r"([\w.]+\([^()]*\))", text)
    parts[::2] = [_outside_calls(part, options) for part in parts[::2]]
    return "".join(parts)


def _outside_calls(text: str, options: Mapping[str, str]) -> str:
    for name, option in options.items():
        called = rf"(?<![\w.-])['\"]?{name}{'' if name.endswith('s') else 's?'}"
        text = re.sub(rf"{called}=(?=[\w'\"(\[.-]*\w)", f"{option} ", text)
        text = re.sub(rf"{called}=", option, text)
        text = re.sub(rf"^(the traced axis |the static axis ){called}'", option, text)
        text = re.sub(rf"^(every |unknown |){called}(?= (must|is|are|cannot|has|needs|'|\())",
                      rf"\g<1>{option}", text)  # fmt: skip
        if "_" in name:
            text = re.sub(rf"{called}(?!\w)['\"]?", option, text)
    for python, shell in _PHRASES.items():
        text = text.replace(python, shell)
    return text


_PHRASES = {"Allowed: None, ": "Allowed: ", " or a scalar array": ""}  # an option left out is None
