"""All experiments by name: `python -m experiments NAME`, `--list`, `--all --quick`."""

import ast
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem[0] != "_"}


def main(arguments: list[str]) -> int:
    """Run one script, or all; the exit status is the worst of theirs."""
    match arguments:
        case ["--list"]:
            for name, path in SCRIPTS.items():
                about = ast.get_docstring(ast.parse(path.read_text())) or ""
                print(f"{name}: {about.splitlines()[0]}")
            return 0
        case ["--all", *options]:
            return max(_run(name, options) for name in SCRIPTS)
        case [name, *options] if name in SCRIPTS:
            return _run(name, options)
    sys.stderr.write(
        f"give --list, --all or the name of an experiment, got '{' '.join(arguments)}'; "
        f"there are {', '.join(SCRIPTS)}.\n"
    )
    return 2


def _run(name: str, options: list[str]) -> int:
    return subprocess.run([sys.executable, SCRIPTS[name], *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
