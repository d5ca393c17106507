"""One public model tried: audited, diagnosed, broken in one leaf and diagnosed again."""

from functools import cache
from typing import Any, NamedTuple

import jax

import jinit
from tests.public.base import Entry, named_by, with_fault
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
    audit, diagnosis = model.audit(), model.diagnose()
    fault, path = entry.planted
    broken = with_fault(model, fault, path)
    named = named_by(path, model.diagnose(broken), model.audit(broken), audit)
    return Trial(model, audit, diagnosis, named)
