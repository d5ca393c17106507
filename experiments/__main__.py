"""All experiments by name: `python -m experiments NAME`, `--list`, `--all --quick`."""

import ast
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = {path.stem: path for path in sorted(HERE.glob("[a-z]*.py"))}


def main(arguments: list[str]) -> int:
    """Run one script, or all; the exit status is the worst of theirs."""
    name, *options = arguments or [""]
    if name == "--list":
        for name, path in SCRIPTS.items():
            about = ast.get_docstring(ast.parse(path.read_text())) or ""
            print(f"{name}: {about.splitlines()[0]}")
        return 0
    chosen = list(SCRIPTS.values()) if name == "--all" else [SCRIPTS.get(name)]
    if None in chosen:
        names = ", ".join(SCRIPTS)
        sys.stderr.write(f"give --list, --all or a script, got '{name}'; there are {names}.\n")
        return 2
    commands = ([sys.executable, path, *options] for path in chosen)
    return max(subprocess.run(command, check=False).returncode for command in commands)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
