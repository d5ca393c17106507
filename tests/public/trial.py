"""One public model tried: audited, diagnosed, broken in one leaf and diagnosed again."""

from functools import cache
from typing import Any, NamedTuple

import jax

import jinit
from tests.public.base import Entry, Said, named_by, with_fault
from tests.zoo.base import lenient


class Trial(NamedTuple):
    """What jinit says of a model."""

    model: jinit.Model
    audit: Any
    diagnosis: Any
    named: str
    """who names the planted fault; empty if nobody does"""


@cache
def trial(entry: Entry) -> Trial:
    """Build and try a model; the same answer again if asked again."""
    return lenient(_trial)(entry)


def _trial(entry: Entry) -> Trial:
    model = entry.build(jax.random.key(0))
    before = Said(model.audit(), model.diagnose())
    fault, path = entry.planted
    broken = with_fault(model, fault, path)
    after = Said(model.audit(broken), model.diagnose(broken))
    return Trial(model, *before, named_by(path, before, after))
