"""HTML from the templates beside this file; whatever is shown in it is escaped."""

from typing import Any


def render(template: str, **values: Any) -> str:
    """A template with its values, every one of which it must be given."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jinit"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(values)
