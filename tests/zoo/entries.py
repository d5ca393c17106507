"""Every model of the zoo: one of a kind in each framework that offers it, and deep ones."""

from tests.zoo import convolutions, equinox, haiku, linen, nnx, plain
from tests.zoo.base import CONVOLUTIONS, ENTRIES, FRAMEWORKS, linen_path, plain_path
from tests.zoo.healthy import healthy

__all__ = ["CONVOLUTIONS", "ENTRIES", "FRAMEWORKS", "healthy", "linen_path", "plain_path"]

# Importing a file puts its models into ENTRIES.
FILES = (linen, nnx, equinox, haiku, plain, convolutions)
