"""Any model, read off its traced computation."""

from jinit.models.roles import Role, RoleError, roles

__all__ = ["Role", "RoleError", "roles"]
