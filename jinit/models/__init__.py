"""Any model, read off its traced computation."""

from jinit.models.auditing.audit import Audit, audit
from jinit.models.auditing.comparing import ComparedStarts, compare_starts
from jinit.models.diagnosis.findings import FAULTS, Fault
from jinit.models.diagnosis.measure import diagnose
from jinit.models.diagnosis.records import DiagnosedLayer, Finding
from jinit.models.diagnosis.report import Diagnosis
from jinit.models.diagnosis.sharpness import Sharpness, StableRates, sharpness
from jinit.models.drawing.fixup import fixup, skipinit
from jinit.models.drawing.gradinit import gradinit
from jinit.models.drawing.lsuv import lsuv
from jinit.models.drawing.metainit import gradient_quotient, metainit
from jinit.models.drawing.reinit import reinit
from jinit.models.drawing.scales import Learned
from jinit.models.model import Model
from jinit.models.scaling.coordinate_check import Setup, coordinate_check, coordinate_verdict
from jinit.models.scaling.mup import MuP, MuPRow, mup
from jinit.models.scaling.trees import (
    labels,
    layer_numbers,
    muon_dimension_numbers,
    weight_decay_mask,
)
from jinit.models.starts.places import PLACES
from jinit.models.starts.table import STARTS, Start
from jinit.models.tracing.model import roles
from jinit.models.tracing.roles import Role
from jinit.models.tracing.uses import Use
from jinit.models.tracing.values import RoleError

__all__ = [
    "FAULTS", "PLACES", "STARTS", "Audit", "ComparedStarts", "DiagnosedLayer", "Diagnosis", "Fault",
    "Finding", "Learned", "Model", "MuP", "MuPRow", "Role", "RoleError", "Setup", "Sharpness",
    "StableRates", "Start", "Use", "audit", "compare_starts", "coordinate_check",
    "coordinate_verdict", "diagnose", "fixup", "gradient_quotient", "gradinit", "labels",
    "layer_numbers", "lsuv", "metainit", "muon_dimension_numbers", "mup", "reinit", "roles",
    "sharpness", "skipinit", "weight_decay_mask",
]  # fmt: skip
