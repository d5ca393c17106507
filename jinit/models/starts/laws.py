"""What one leaf, or a part of one, is drawn from."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from scipy.special import ndtr

from jinit.schemes import TRUNCATED_STD

FormName = Literal["normal", "truncated", "truncated_3", "uniform", "orthogonal", "constant"]


class Law(NamedTuple):
    """How the entries of a leaf are drawn; a constant is its mean."""

    form: FormName
    std: float
    mean: float = 0.0


class Form(NamedTuple):
    """A distribution of independent entries, of mean 0 and variance 1."""

    kurtosis: float
    """E x^4"""
    bound: float
    """of |x|"""
    cdf: Callable[[Any], Any]
    quantile: Callable[[jax.Array], jax.Array] | None = None
    """of a uniform number, where entries are drawn so"""


def _std_cut_at(a: float) -> float:
    """Of a standard normal that is cut at ±a: E x^2 = 1 - 2 a phi(a) / P(|x| < a)."""
    density = math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * a * density / math.erf(a / math.sqrt(2)))


STD_CUT_AT_3 = _std_cut_at(3.0)
"""0.98658: what a normal of std 1 has left when it is cut at three standard deviations."""


def _cut_at(a: float, std: float) -> Form:
    """By parts, E x^4 = 3 E x^2 - 2 a^3 phi(a) / P(|x| < a)."""
    density = math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
    fourth = 3 * std**2 - 2 * a**3 * density / float(scipy.special.erf(a / math.sqrt(2)))

    def cdf(x: Any) -> Any:
        return (ndtr(np.clip(x * std, -a, a)) - ndtr(-a)) / (ndtr(a) - ndtr(-a))

    return Form(fourth / std**4, a / std, cdf)


FORMS: dict[FormName, Form] = {
    "normal": Form(3.0, math.inf, ndtr),
    "truncated": _cut_at(2.0, TRUNCATED_STD),
    "truncated_3": _cut_at(3.0, STD_CUT_AT_3),
    "uniform": Form(1.8, math.sqrt(3.0), lambda x: np.clip(0.5 + x / math.sqrt(12.0), 0.0, 1.0)),
}


class Quantile(NamedTuple):
    """Entries that are a monotone function of uniform numbers on (0, 1).

    Two leaves of one `shared` name that lie beside each other are functions of the same numbers.
    """

    words: str
    of: Callable[[Any], Any]
    shared: str = ""

    def grid(self) -> np.ndarray:
        """Its values at the midpoints of 4096 equal steps, in order."""
        return np.sort(np.asarray(self.of((np.arange(4096) + 0.5) / 4096), np.float64))

    @property
    def mean(self) -> float:
        """Of an entry."""
        return float(self.grid().mean())

    @property
    def std(self) -> float:
        """Of an entry."""
        return float(self.grid().std())


class Fixed(NamedTuple):
    """Entries that are written down and not drawn: a function of the leaf's shape."""

    words: str
    of: Callable[[tuple[int, ...]], np.ndarray]


class Paired(NamedTuple):
    """A matrix whose product with another one is what the law is about.

    `of(key, fan_in, fan_out)`; both matrices are drawn from one key by their `shared` name.
    """

    words: str
    of: Callable[[jax.Array, int, int], jax.Array]
    shared: str
    std: float = math.nan
    """of an entry, where it is known"""


AnyLaw = Law | Quantile | Fixed | Paired
"""One for the whole of a part; several Laws in a tuple are for the layers of a stack, in order."""


def normal(std: float) -> Law:
    """N(0, std^2)."""
    return Law("normal", std) if std else zero()


def cut_at_3(std: float) -> Law:
    """N(0, std^2) cut at three standard deviations, and not corrected for that."""
    return Law("truncated_3", std * STD_CUT_AT_3)


def uniform(limit: float) -> Law:
    """U(-limit, limit)."""
    return Law("uniform", limit / math.sqrt(3))


def zero() -> Law:
    """0 everywhere."""
    return Law("constant", 0.0)


def constant(value: float) -> Law:
    """One number everywhere."""
    return Law("constant", 0.0, value)


def words_of(law: Any) -> str:
    """A law in plain text."""
    if isinstance(law, tuple) and not hasattr(law, "_fields"):
        return f"{words_of(law[0])} to {words_of(law[-1])} by layer"
    if not isinstance(law, Law):
        return law.words
    if law.form == "constant":
        return f"= {law.mean:.4g}"
    around = f" about {law.mean:.4g}" if law.mean else ""
    return f"{law.form.replace('_3', ' at 3 sigma')}, std {law.std:.4g}{around}"


def entries(key: jax.Array, law: Law, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Independent entries of a law, which is not the orthogonal one."""
    std = jnp.asarray(law.std, dtype)
    if law.form == "constant":
        return jnp.full(shape, law.mean, dtype)
    if law.form == "normal":
        drawn = jax.random.normal(key, shape, dtype) * std
    elif law.form == "uniform":
        drawn = jax.random.uniform(key, shape, dtype, -1, 1) * (std * math.sqrt(3.0))
    else:
        cut, left = {"truncated": (2.0, TRUNCATED_STD), "truncated_3": (3.0, STD_CUT_AT_3)}[
            law.form
        ]
        drawn = jax.random.truncated_normal(key, -cut, cut, shape, dtype) * (std / left)
    return drawn + jnp.asarray(law.mean, dtype) if law.mean else drawn
