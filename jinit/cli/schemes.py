"""`jinit schemes`."""

import jinit


def schemes() -> None:
    """List every initialisation scheme with its formula, options and source."""
    from rich.console import Console
    from rich.table import Table

    from jinit.terminal import Fitted

    table = Table("name", "weights", "options", "source")
    for name, entry in jinit.SCHEMES.items():
        own = [o for o in entry.options if o not in ("in_axis", "out_axis", "batch_axis")]
        table.add_row(name, entry.formula, ", ".join(own), entry.source)
    Console().print(Fitted(table))
