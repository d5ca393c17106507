"""Any model, read off its traced computation."""

from jinit.models.audit import Audit, audit
from jinit.models.diagnose import Diagnosis, diagnose
from jinit.models.driven import lsuv
from jinit.models.findings import FAULTS, Finding
from jinit.models.learned import Learned, gradient_quotient, gradinit, metainit
from jinit.models.mup import MuP, MuPRow, Setup, coordinate_check, mup
from jinit.models.reinit import reinit
from jinit.models.residuals import fixup, skipinit
from jinit.models.roles import Role, roles
from jinit.models.uses import Use
from jinit.models.values import RoleError

__all__ = [
    "FAULTS",
    "Audit",
    "Diagnosis",
    "Finding",
    "Learned",
    "MuP",
    "MuPRow",
    "Role",
    "RoleError",
    "Setup",
    "Use",
    "audit",
    "coordinate_check",
    "diagnose",
    "fixup",
    "gradient_quotient",
    "gradinit",
    "lsuv",
    "metainit",
    "mup",
    "reinit",
    "roles",
    "skipinit",
]
