"""What is said of a public model: how it is built, what its leaves are for, what is found."""

import importlib.metadata
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import jinit
from tests.zoo.base import BIAS, EMBEDDING, SCALE, STATISTIC, UNUSED, Is, weight

__all__ = ["BIAS", "EMBEDDING", "ENTRIES", "RATE", "SCALE", "STATISTIC", "UNUSED", "Is", "weight"]

RATE = Is("rate")


@dataclass(frozen=True, eq=False)
class Entry:
    """A model of a package, as small as its package lets it be."""

    package: str
    """as pip knows it"""
    name: str
    build: Callable[[Any], jinit.Model]
    """from a key, drawn as its package draws it"""
    expected: Mapping[str, Is]
    """roles of some leaves, from the mathematics, by path"""
    planted: tuple[str, str]
    """what is planted, a key of `FAULTS`, and into which leaf"""
    says: tuple[str, ...] = ()
    """the findings of the model as it is drawn, each of them true"""
    why: str = ""
    """why they are true, and what is known to be odd in the package"""
    unused: str = ""
    """why some leaves are used by nothing, or in a way that says nothing"""

    @property
    def id(self) -> str:
        return f"{self.package}-{self.name}".replace(" ", "_")

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package)


ENTRIES: list[Entry] = []


def entry(package: str, name: str, expected: Mapping[str, Is], **more: Any) -> Any:
    """Put a function `build(key) -> jinit.Model` into the table."""

    def decorate(build: Any) -> Any:
        ENTRIES.append(Entry(package, name, build, expected, **more))
        return build

    return decorate


def normal(key, *shape):
    return jax.random.normal(jax.random.fold_in(key, 1), shape)


def tokens(key, *shape):
    return jax.random.randint(jax.random.fold_in(key, 1), shape, 0, 29)


# --- faults -------------------------------------------------------------------------------------


def _off(leaf):
    return jnp.full_like(leaf, -30)


FAULTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "small": ("1000 times too small", lambda leaf: leaf / 1000),
    "large": ("30 times too large", lambda leaf: leaf * 30),
    "zero": ("all zero", jnp.zeros_like),
    "same": ("all columns alike", lambda leaf: jnp.full_like(leaf, 0.1)),
    "off": ("all -30", _off),
    "nan": ("one NaN", lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan)),
}
"""Name -> (in words, what becomes of a leaf)."""


def with_fault(model: jinit.Model, fault: str, path: str) -> Any:
    """The variables with the fault in one leaf."""
    _, change = FAULTS[fault]
    flat, structure = jax.tree_util.tree_flatten_with_path(model.variables)
    paths = [jax.tree_util.keystr(p) for p, _ in flat]
    assert path in paths, f"{path} is none of {paths}"
    leaves = [
        change(jnp.asarray(x)) if p == path else x for p, (_, x) in zip(paths, flat, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)


def named_by(path: str, diagnosis: Any, audit: Any, before: Any) -> str:
    """Who names the leaf: "diagnose", else "audit" by what it did not say before, else ""."""
    label = next(p.label for p in diagnosis.parameters if p.role.path == path)
    for finding in diagnosis.findings:
        if label in finding.layers or label in finding.sentence:
            return f"diagnose: {finding.kind}"
    known = dict(before.odd)
    said = [s for p, s in audit.odd if p == path and known.get(p) != s]
    return "audit" if said else ""


def size(model: jinit.Model) -> tuple[int, int]:
    """Floating-point leaves, and numbers in them."""
    leaves = model.trace.leaves
    return len(leaves), sum(math.prod(leaf.shape) for leaf in leaves)
