"""What is said of a public model: how it is built, what its leaves are for, what is found."""

import importlib.metadata
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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


FAULTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "small": ("100 times too small", lambda leaf: leaf / 100),
    "large": ("3 times too large", lambda leaf: leaf * 3),
    "zero": ("all zero", jnp.zeros_like),
    "same": ("all equal", lambda leaf: jnp.full_like(leaf, 0.1)),
    "off": ("all -100", lambda leaf: jnp.full_like(leaf, -100)),
    "nan": ("one NaN", lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan)),
}
"""Name -> (in words, what becomes of a leaf)."""

EVERY = "every weight"
"""In the place of a path: what is planted goes into all weights."""


def with_fault(model: jinit.Model, fault: str, path: str) -> Any:
    """The variables with the fault in one leaf, or in all weights."""
    _, change = FAULTS[fault]
    roles = {role.path: role.kind for role in model.judged(strict=False)}
    flat, structure = jax.tree_util.tree_flatten_with_path(model.variables)
    paths = [jax.tree_util.keystr(p) for p, _ in flat]
    spoilt = {p for p in paths if roles.get(p) in ("weight", "tied")} if path == EVERY else {path}
    assert spoilt <= set(paths), f"{path} is none of {paths}"
    leaves = [
        change(jnp.asarray(x)) if p in spoilt else x for p, (_, x) in zip(paths, flat, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)


class Said(NamedTuple):
    """What jinit says of variables."""

    audit: Any
    diagnosis: Any


def named_by(path: str, before: Said, after: Said) -> str:
    """Who names the fault: "diagnose", else "audit", by what it did not say before; else ""."""
    known = {finding.kind for finding in before.diagnosis.findings}
    labels = {p.role.path: p.label for p in after.diagnosis.parameters}
    found = [
        finding for finding in after.diagnosis.findings
        if path == EVERY or labels[path] in finding.layers or labels[path] in finding.sentence
    ]  # fmt: skip
    for finding in sorted(found, key=lambda f: f.kind in known):
        if path != EVERY or finding.kind not in known:
            return f"diagnose: {finding.kind}"
    odd = dict(before.audit.odd)
    return "audit" if any(p == path and odd.get(p) != s for p, s in after.audit.odd) else ""


def size(model: jinit.Model) -> tuple[int, int]:
    """Floating-point leaves, and numbers in them."""
    leaves = model.trace.leaves
    return len(leaves), sum(math.prod(leaf.shape) for leaf in leaves)
