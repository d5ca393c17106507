"""The `jinit` command, also as `python -m jinit`: guarded before anything else is imported."""

from jinit.cli import interrupts


def main() -> None:
    """Run the command."""
    interrupts.guard()
    from jinit.cli import main as command

    command.main()


if __name__ == "__main__":
    main()
