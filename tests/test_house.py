"""The house of the design: imports point down, theory and networks do not know each other."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jinit

ROOT = Path(jinit.__file__).parent

FLOORS = {
    "types": 0, "checks": 0, "activations": 0, "scaled": 0,
    "schemes": 1, "theory": 1, "data": 1, "runtime": 1, "losses": 1, "linear": 1,
    "batchnorm": 2, "params": 2, "networks": 2,
    "signals": 3, "training": 3, "models": 3,
    "plots": 4, "sweeps": 4,
    "cli": 5, "tour": 5, "report": 5, "forecast": 5, "maps": 5,
}  # fmt: skip

# Arrows between rooms of one floor; on the ground floor the shared helpers may be read.
SAME_FLOOR = {
    ("activations", "checks"),
    ("params", "batchnorm"),
    ("networks", "batchnorm"),
    ("networks", "params"),
    ("training", "signals"),
    ("tour", "maps"),
    ("tour", "report"),
    ("cli", "tour"),
    ("cli", "forecast"),
    ("cli", "maps"),
}

PUBLIC_FACE = {"__init__", "__main__"}  # these stand in the door and may name any room


def room(path: Path) -> str:
    """The room a file belongs to: its module, or its package for a package on one floor."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of jinit that a file imports, at the top or inside functions, absolute or relative."""
    package = ("jinit", *path.relative_to(ROOT).parts[:-1])
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "jinit":
                found.add(parts[1] if len(parts) > 1 else "__init__")
    return found


FILES = sorted(
    path for path in ROOT.rglob("*.py") if room(path) not in PUBLIC_FACE
)  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    own = room(path)
    assert own in FLOORS, f"{own} has no floor yet: give it one in the design and here"
    for other in imported_rooms(path) - {own}:
        if FLOORS[own] == 5 and other not in FLOORS:
            continue  # commands stand above everything and may read the public face
        assert other in FLOORS, f"{path.name} imports {other!r}, which is no room of the house"
        below = FLOORS[other] < FLOORS[own]
        assert below or (own, other) in SAME_FLOOR, f"{own} must not import {other}"


def test_the_reader_of_imports_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "theory").mkdir()
    file = tmp_path / "theory" / "x.py"
    file.write_text(
        "import jinit.schemes\nfrom jinit import checks as c\nfrom ..data import digits\n"
        "from . import gaussian\ndef f():\n    from jinit.networks import MLP\n"
    )
    assert imported_rooms(file) == {"schemes", "checks", "data", "networks", "theory"}


def test_theory_and_networks_do_not_know_each_other():
    """That the two agree is evidence only while neither can lean on the other."""
    reaches: dict[str, set[str]] = {}
    for path in FILES:
        reaches.setdefault(room(path), set()).update(imported_rooms(path) - {room(path)})

    def closure(start: str) -> set[str]:
        seen, open_ = set(), [start]
        while open_:
            for other in reaches.get(open_.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    open_.append(other)
        return seen

    assert "networks" not in closure("theory")
    assert "theory" not in closure("networks")
    assert "theory" not in closure("training")


def in_fresh_python(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent), **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.script
def test_importing_jinit_does_not_import_jax():
    heavy = ["jax", "numpy", "scipy", "sklearn", "matplotlib", "optax", "xarray"]
    out = in_fresh_python(
        f"import sys, jinit; print([m for m in {heavy!r} if m in sys.modules]); print(dir(jinit))"
    )
    loaded, names = out.splitlines()
    assert loaded == "[]"
    assert "layer_signals" in names


@pytest.mark.parametrize("name", sorted(jinit.__all__))
def test_every_public_name_resolves(name):
    assert getattr(jinit, name) is not None
    assert name in dir(jinit)


def test_every_home_is_public_and_an_unknown_name_is_an_attribute_error():
    assert set(jinit._HOMES) <= set(jinit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'forwrad'"):
        jinit.forwrad  # noqa: B018


def test_names_for_the_type_checker_are_the_public_names():
    """The block under TYPE_CHECKING is what editors see; it must list what `__all__` lists."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body for alias in node.names}
    assert seen == set(jinit.__all__)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_edits_the_configuration_of_jax_on_import(path):
    """Nothing at module level changes jax for whoever imports it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            continue
        assert "config.update" not in ast.unparse(node)
