"""What a stranger gives: every argument of the public face, but it cannot be.

Each is answered by one sentence of jinit's own, or by an answer without a NaN; what a model or a
loss of the stranger's own raises stays as it is, with a note. `face` holds calls of schemes,
networks, training, sweeps, data and pictures, and the values; the others `face_theory` and
`face_models`.
"""

import pytest

from tests import face_models, face_theory
from tests.face import BAD, fault, nan_in
from tests.face import CALLS as OF_NETWORKS

pytestmark = pytest.mark.bad_input

CALLS = OF_NETWORKS | face_theory.CALLS | face_models.CALLS

# Calls that compile what they are given: of the values, one in so many is tried by default.
SLOW = {"train": 7, "a step": 3, "layer_signals": 3, "correlations": 3,
        "measure_jacobian_spectrum": 3, "evaluate": 2, "init": 2, "init_params": 2,
        "theory.correlation_fixed_point": 7, "theory.shattering": 3, "theory.dropout": 3,
        "theory.jacobian_spectrum": 3, "fix": 21, "diagnose": 7, "models.sharpness": 7,
        "models.gradinit": 7, "models.metainit": 7, "models.coordinate_check": 7,
        "models.gradient_quotient": 3, "models.lsuv": 7, "models.fixup": 3, "models.skipinit": 3,
        "reinit": 3, "reinit a start": 3, "sweep": 4, "digits": 4, "gaussian": 3}  # fmt: skip

# Who is given a NaN hands it on.
HANDED_ON = {("forward", "x"), ("batch_norm", "x"), ("layer_norm", "x"),
             ("train_state", "params"), ("train_state", "state")}  # fmt: skip

CASES = [
    (call, argument, value, (i + j) % SLOW.get(call, 1) == 0)
    for call, (_, works) in CALLS.items()
    for i, argument in enumerate(works)
    for j, value in enumerate(BAD)
    if not (value.startswith("nan") and (call, argument) in HANDED_ON)
]


def answered(call, argument, value):
    function, works = CALLS[call]
    found = fault(function, works, argument, BAD[value], seconds=120.0)
    assert found is None, f"{call}({argument}={value}): {found}"


@pytest.mark.parametrize("call", CALLS)
def test_every_call_works(call):
    function, works = CALLS[call]
    assert nan_in(function(**works)) is None


@pytest.mark.parametrize(("call", "argument"), sorted({(c, a) for c, a, *_ in CASES}))
def test_a_value_that_cannot_be_is_answered(call, argument):
    for _, _, value, _ in (c for c in CASES if c[:2] == (call, argument) and c[3]):
        answered(call, argument, value)


@pytest.mark.long
@pytest.mark.parametrize(("call", "argument"), sorted({(c, a) for c, a, *_ in CASES}))
def test_the_other_values_are_answered(call, argument):
    for _, _, value, _ in (c for c in CASES if c[:2] == (call, argument) and not c[3]):
        answered(call, argument, value)


def test_there_are_five_hundred_of_them():
    assert sum(always for *_, always in CASES) > 500
