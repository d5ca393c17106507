"""Validation at the public edge: each mistake is answered by one sentence.

Every sentence says what was given, what is allowed and how to mend it. Public functions call this
module once, at their edge; what lies below them trusts its arguments.
"""

import difflib
import inspect
import math
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def suggestion(name: object, allowed: Iterable[str]) -> str:
    """The end of a sentence: `; did you mean 'he'?` for the nearest allowed name, else `.`"""
    given = str(name).lower()
    for near in difflib.get_close_matches(given, list(allowed), n=5, cutoff=0.5):
        # 'kaiming_normals' and 'xavier_normal' share an ending, and are two families.
        if _alike(given, near) > 0.74 or _alike(given.split("_")[0], near.split("_")[0]) > 0.7:
            return f"; did you mean {near!r}?"
    return "."


def _alike(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


_LARGEST = 2**31 - 1


def shown(value: Any) -> str:
    """A value as a sentence shows it: whole if it is short, else by its kind."""
    if isinstance(value, jax.Array | np.ndarray) and value.ndim:
        return f"an array of shape {list(value.shape)}"
    try:
        text = repr(value)
    except Exception:  # of somebody's own class
        text = ""
    if 0 < len(text) <= 80 and "\n" not in text:
        return text
    return f"an object of type {type(value).__name__}"


def flag(what: str, value: Any) -> bool:
    """True or False, which a program is made for."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{what} must be True or False, got {shown(value)}.")
    return bool(value)


def takes(what: str, function: Any, form: str, count: int) -> None:
    """A function that can be called with so many arguments in order."""
    try:
        if not callable(function):
            raise TypeError("no function")
        signature = inspect.signature(function)
    except ValueError:  # written in C
        return
    except TypeError:
        raise TypeError(f"{what} must be a function {form}, got {shown(function)}.") from None
    try:
        signature.bind(*range(count))
    except TypeError as error:
        raise TypeError(
            f"{what} must be a function {form}, got {shown(function)} ({error})."
        ) from None


def choice(what: str, name: object, allowed: Iterable[Any]) -> None:
    """`name` is one of `allowed`, or a ValueError that names the nearest."""
    allowed = list(allowed)
    if any(name is a or (type(name) is type(a) and name == a) for a in allowed):
        return
    names = [a for a in allowed if isinstance(a, str)]
    listed = ", ".join(repr(a) for a in allowed)
    raise ValueError(f"unknown {what} {shown(name)}{suggestion(name, names)} Allowed: {listed}.")


def imported(what: str, name: str) -> Any:
    """What `module:attribute` names, of a module that Python finds.

    Raises:
        ValueError: a name of another form, or of nothing that can be imported. What the module
            itself raises is raised as it is.
    """
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            raise ValueError("there is no colon")
        if module not in sys.modules and find_spec(module) is None:
            raise ImportError(f"No module named {module!r}")
    except (ImportError, AttributeError, ValueError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and not f"{module}.".startswith(f"{missing}."):
            raise  # a package of it imports what is not there
        raise _not_imported(what, name, error) from None
    found = import_module(module)  # whose own errors are its own
    try:
        return getattr(found, attribute)
    except AttributeError as error:
        raise _not_imported(what, name, error) from None


def _not_imported(what: str, name: str, error: Exception) -> ValueError:
    return ValueError(
        f"{what} {name!r} cannot be imported ({error}); give module:function of a module that "
        f"Python finds here."
    )


def options(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Every given option exists, or a TypeError that names the nearest."""
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            takes = ", ".join(repr(a) for a in allowed) if allowed else "no options"
            raise TypeError(f"{what} has no option {name!r}{suggestion(name, allowed)} "
                            f"It takes {takes}.")  # fmt: skip


def is_concrete(x: object) -> bool:
    """Whether the numbers can be read now (not a tracer inside jit, vmap or grad)."""
    return not isinstance(x, jax.core.Tracer)


def number(what: str, value: Any, *, least: float | int = -math.inf) -> None:
    """A real, finite scalar: a Python or NumPy number or a (traced) scalar array."""
    fix = f"{what} must be one finite real number or a scalar array"
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if value.ndim != 0:
            raise ValueError(
                f"{fix}, got an array of shape {value.shape}; "
                f"map over several values with jax.vmap."
            )
        if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer)):
            raise TypeError(f"{fix}, got dtype {value.dtype}.")
    elif isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{fix}, got {shown(value)}.")
    if is_concrete(value) and not math.isfinite(float(value)):
        raise ValueError(f"{fix}, got {shown(value)}.")
    if isinstance(value, Integral) and abs(int(value)) > _LARGEST:
        raise ValueError(f"{what} must be a float where it is so large, got {shown(value)}.")
    if is_concrete(value) and float(value) < least:
        raise ValueError(f"{what} must be at least {least:g}, got {shown(value)}.")


def dtype(what: str, value: Any, allowed: Any = jnp.floating) -> Any:
    """A dtype of that kind which jax can hold now; None is float32, `float` jax's own."""
    kinds = {jnp.floating: "a floating-point", jnp.inexact: "a floating-point or complex",
             jnp.number: "a number's"}  # fmt: skip
    fix = f"{what} must be {kinds[allowed]} dtype such as jax.numpy.float32"
    try:
        if isinstance(value, jax.Array | np.ndarray):
            raise TypeError("an array")
        given = jnp.dtype(jnp.float32 if value is None else value)
        of_kind = given != np.dtype([]) and jnp.issubdtype(given, allowed)
    except (TypeError, ValueError):  # numpy and jax have words of their own
        raise TypeError(f"{fix}, got {shown(value)}.") from None
    if not of_kind:
        raise TypeError(f"{fix}, got {given}.")
    held = jax.dtypes.canonicalize_dtype(given)
    if held != given and not any(value is t for t in (float, int, complex)):
        raise ValueError(
            f"{what} cannot be {given}, as jax holds 32 bits only; call "
            f"jax.config.update('jax_enable_x64', True) first, or take {held}."
        )
    return held


def count(what: str, value: Any, *, least: int = 1, most: int = _LARGEST) -> int:
    """An integer of at least `least`, and no more than an int32 holds, returned as int."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{what} must be an integer of at least {least}, got {shown(value)}.")
    if int(value) > most:
        raise ValueError(f"{what} must be at most {most}, got {shown(value)}.")
    return int(value)


def listed(fix: str, value: Any) -> tuple[Any, ...]:
    """The elements of a list, or of what has one order too."""
    unordered = isinstance(value, str | bytes | set | frozenset | dict)
    if unordered or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
        raise TypeError(f"{fix}, got {shown(value)}.")
    return tuple(value)


def dims(value: Any) -> tuple[int, ...]:
    """Layer widths (input, hidden ..., output) as a tuple of positive ints."""
    fix = "dims must list at least two positive integer widths, input first, as in [64, 128, 10]"
    widths = listed(fix, value)
    if len(widths) < 2:
        raise ValueError(f"{fix}, got {list(widths)!r}.")
    for i, width in enumerate(widths):
        if isinstance(width, bool) or not isinstance(width, Integral) or width < 1:
            raise ValueError(f"{fix}, got {width!r} at position {i}.")
    return tuple(int(width) for width in widths)


def key(value: Any) -> jax.Array:
    """One typed PRNG key; a legacy `PRNGKey` array is wrapped, `rbg` keys are refused."""
    fix = "key must be one PRNG key, made by jax.random.key(0)"
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(f"{fix}, got {shown(value)}.")
    rbg = ""
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        name = str(jax.random.key_impl(value))
        rbg = f"a key of the {name!r} kind" if "rbg" in name else ""
    elif value.dtype == jnp.uint32 and value.shape[-1:] == (2,):
        # A legacy threefry key; a batch of them is caught by the shape below.
        value = jax.random.wrap_key_data(jnp.asarray(value), impl="threefry2x32")
    elif value.dtype == jnp.uint32 and value.shape[-1:] == (4,):
        rbg = f"a uint32 array of shape {value.shape}, legacy keys of the 'rbg' kind"
    else:
        raise TypeError(f"{fix}, got an array of dtype {value.dtype} and shape {value.shape}.")
    if rbg:
        raise ValueError(
            f"{fix}, got {rbg}, whose draws under jax.vmap use only the first key; use "
            f"jax.random.key(seed, impl='threefry2x32')."
        )
    if value.shape != ():
        raise ValueError(
            f"{fix}, got a batch of keys of shape {value.shape}; map over them with jax.vmap."
        )
    return value


def batch(inputs: tuple[Any, ...]) -> None:
    """All of a model's inputs hold numbers."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(inputs)[0]:
        where = f"inputs{jax.tree_util.keystr(path)}"
        fix = "give a batch as the model meets it in training"
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(
                f"inputs must be arrays with numbers, got only a shape, {list(leaf.shape)}, at "
                f"{where}; {fix}."
            )
        if np.size(leaf) == 0:
            raise ValueError(
                f"inputs must hold at least one sample, got an array of shape "
                f"{list(np.shape(leaf))} at {where}; {fix}."
            )


def numeric(what: str, value: Any, *, complex: bool = False) -> None:
    """An array of numbers (or booleans), not of text or objects."""
    try:
        dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    except (TypeError, ValueError):  # of parts that make no array
        dtype = np.dtype(object)
    kinds = "biuc" if complex else "biu"
    if not (jnp.issubdtype(dtype, jnp.floating) or getattr(dtype, "kind", "O") in kinds):
        kind = "numbers" if complex else "real numbers"
        raise TypeError(
            f"{what} must be an array of {kind}, got {type(value).__name__} of {dtype}; "
            f"convert it first (class names to 0, 1, 2, ...)."
        )


def finite(what: str, value: Any) -> None:
    """Concrete numbers hold no NaN or infinity; traced ones are trusted."""
    if not is_concrete(value):
        return
    array = np.asarray(value)
    if array.dtype.kind in "fc" or array.dtype.name == "bfloat16":
        bad = ~np.isfinite(array if array.dtype.kind == "c" else array.astype(np.float64))
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{what} must be finite, got {int(bad.sum())} NaN or infinite entries, the first "
                f"at {first}; drop or impute them before training."
            )


def loss_value(out: Any) -> None:
    """What a loss gives, or the shape of it, is one real number."""
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        given = f"an array of shape {list(out.shape)}" if getattr(out, "shape", ()) else shown(out)
        raise ValueError(
            f"loss must give one real number for the model's output, got {given}; take a mean."
        )


def trainable(what: str, tree: Any) -> None:
    """A pytree of floating-point arrays, and of nothing else."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.inexact):
            raise TypeError(
                f"{what} must hold floating-point arrays only, got {shown(leaf)} at "
                f"{what}{jax.tree_util.keystr(path)}; keep in state what is not trained."
            )


def labels(what: str, value: Any, classes: int) -> None:
    """Concrete integer labels lie in [0, classes)."""
    if not is_concrete(value) or np.size(value) == 0:  # a tracer has no numbers yet
        return
    array = np.asarray(value)
    low, high = int(array.min()), int(array.max())
    widen = f", or widen the last layer to {high + 1}" if low >= 0 else ""
    if low < 0 or high >= classes:
        raise ValueError(
            f"{what} must hold labels from 0 to {classes - 1} for {classes} classes, got labels "
            f"from {low} to {high}; renumber them{widen}, or, if they are numbers to be met and no "
            f"labels, give floats, as {what}.astype(float)."
        )
