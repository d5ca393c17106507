"""Any model, read off its traced computation."""

from jinit.models.roles import Role, roles
from jinit.models.trace import Use
from jinit.models.values import RoleError

__all__ = ["Role", "RoleError", "Use", "roles"]
