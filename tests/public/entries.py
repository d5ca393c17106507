"""Every public model that jinit is tried on."""

from tests.public import equinox_models, flax_models
from tests.public.base import ENTRIES, Entry

__all__ = ["ENTRIES", "Entry"]

FILES = (equinox_models, flax_models)  # importing a file puts its models into ENTRIES
