"""Every model of the zoo: one of a kind in each framework that offers it, and deep ones."""

import pytest

from tests.zoo import convolutions, equinox, haiku, linen, nnx, plain
from tests.zoo.base import CONVOLUTIONS, ENTRIES, FRAMEWORKS, linen_path, plain_path
from tests.zoo.healthy import healthy

__all__ = [
    "CONVOLUTIONS",
    "ENTRIES",
    "FRAMEWORKS",
    "first_of_its_kind",
    "healthy",
    "linen_path",
    "plain_path",
]

# Importing a file puts its models into ENTRIES.
FILES = (linen, nnx, equinox, haiku, plain, convolutions)


def first_of_its_kind(entries):
    """Settings of which one framework's of each kind always runs; the others are long."""
    kinds = [e.kind for e in entries]
    return [
        pytest.param(e, id=e.name, marks=[pytest.mark.long] * (e.kind in kinds[:i]))
        for i, e in enumerate(entries)
    ]
