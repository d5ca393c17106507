"""The house of the design: imports point down, theory and networks do not know each other."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jinit

ROOT = Path(jinit.__file__).parent

# Each folder's floors, the lowest first; what stands on one floor does not know its neighbours.
# A folder that is not listed has a single floor, in which only circles are refused.
FLOORS: dict[str, list[set[str]]] = {
    "": [
        {"checks", "files", "templates", "terminal"},
        {"elementwise"},
        {"activations", "runtime"},
        {"schemes", "data"},
        {"networks", "theory", "sweeps"},
        {"models"},
        {"trainability", "fixing"},
        {"plots"},
        {"pages"},
        {"tour"},
        {"cli"},
    ],
    "networks": [
        {"base", "forms", "scaled", "linear", "norms"},
        {"params", "losses", "convolution", "image_norms"},
        {"layer"},
        {"description"},
        {"mlp", "convnet"},
        {"signals", "apart"},
        {"correlations", "jacobian", "training"},
    ],
    "sweeps": [
        {"extent", "chunks", "progress"},
        {"grid"},
        {"compile"},
        {"blocks", "store"},
        {"datasets", "fingerprint", "zarr_store"},
        {"run"},
    ],
    "theory": [{"moments"}, {"maps"}, {"spectra", "layers"}, {"ensemble"}, {"advice"}],
    "theory.moments": [
        {"arguments", "elementwise", "program", "quadrature", "roots"},
        {"curve", "grid", "table"},
        {"pairs", "expectation"},
    ],
    "theory.maps": [
        {"wide", "gains", "shaped", "tailored"},
        {"lengths", "orbit"},
        {"correlations", "criticality", "dropout"},
        {"depth_scales", "phase_diagram"},
        {"modes"},
    ],
    "theory.spectra": [{"slope_law", "linear_nets"}, {"jacobian"}],
    "theory.layers": [
        {"batches", "finite_width"},
        {"batch_norm", "dead", "scatter_depth"},
        {"norms"},
        {"gradients", "shattering", "trajectory"},
    ],
    "cli": [
        {"cache", "interrupts", "options", "theory_report"},
        {"errors", "tour", "theory", "schemes", "diagnose", "fix", "sweeps"},
        {"main"},
    ],
    "fixing": [{"candidates", "result"}, {"given", "judging", "trials"}, {"lines"}, {"mending"}],
    "models.scaling": [{"coordinate_check", "depth", "following"}, {"trees"}, {"mup"}],
    "models.auditing": [{"oddities", "remarks"}, {"starting"}, {"audit"}, {"comparing"}],
    "models": [
        {"tracing"},
        {"starts"},
        {"drawing", "auditing"},
        {"diagnosis"},
        {"scaling"},
        {"model"},
    ],
}
USES_THE_DOOR = {"trainability", "tour", "cli"}  # these may read the public face, `import jinit`
DOOR = {"__init__", "__main__"}


def modules(root: Path) -> dict[str, Path]:
    """Every file by its dotted name below jinit; a package is its `__init__`."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, root: Path) -> set[str]:
    """The files of the house that a file imports, at the top or inside functions."""
    known = modules(root)
    package = ("jinit", *path.relative_to(root).parts[:-1])
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
            if parts[0] != "jinit":
                continue
            inner = parts[1:]
            while inner and ".".join(inner) not in known:
                inner = inner[:-1]
            found.add(".".join(inner) or "__init__")
    return found


def floor(folder: str, name: str, floors: dict[str, list[set[str]]]) -> int:
    """On which floor of a folder a file or room stands; a package's own `__init__` tops it."""
    if name == "__init__":
        return len(floors[folder])
    levels = [i for i, level in enumerate(floors[folder]) if name in level]
    assert levels, f"{folder or 'jinit'}/{name} has no floor yet: give it one in FLOORS"
    return levels[0]


def upward(own: str, other: str, floors: dict[str, list[set[str]]]) -> str | None:
    """A sentence if that import does not point down in the folder where the two part ways."""
    a, b = own.split("."), other.split(".")
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    folder = ".".join(a[:shared])
    if folder not in floors:
        return None
    from_, to = ((parts[shared:] or ["__init__"])[0] for parts in (a, b))
    if floor(folder, to, floors) < floor(folder, from_, floors):
        return None
    return f"{own} must not import {other}: {to} does not lie below {from_} in {folder or 'jinit'}"


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A way along imports that comes back to where it began."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str] | None:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return None
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*way, name]):
                return found
        done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := walk(name, []))), None)


MODULES = {name: path for name, path in modules(ROOT).items() if name not in DOOR}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name):
    for other in imports(MODULES[name], ROOT):
        if other == "__init__":
            assert name.split(".")[0] in USES_THE_DOOR, f"{name} must not import the public face"
        else:
            assert upward(name, other, FLOORS) is None


def test_no_import_runs_in_a_circle():
    assert circle({name: imports(path, ROOT) - DOOR for name, path in MODULES.items()}) is None


def test_the_reader_of_imports_sees_every_form(tmp_path):
    for file in ("schemes", "checks", "data", "networks/mlp", "theory/pairs", "theory/__init__"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / f"{file}.py").touch()
    file = tmp_path / "theory" / "x.py"
    file.write_text(
        "import jinit.schemes\nfrom jinit import checks as c\nfrom ..data import digits\n"
        "from . import pairs\nfrom jinit.theory import gain\nimport jinit\n"
        "def f():\n    from jinit.networks.mlp import MLP\n"
    )
    assert imports(file, tmp_path) == {
        "schemes", "checks", "data", "theory.pairs", "theory", "__init__", "networks.mlp",
    }  # fmt: skip


def test_the_reader_of_floors_refuses_what_it_should():
    floors = {"": [{"a"}, {"b", "c"}], "b": [{"x"}, {"y"}]}
    assert upward("b.x", "a", floors) is None
    assert upward("b.y", "b.x", floors) is None
    assert upward("b", "b.y", floors) is None  # a package's face stands above its files
    assert upward("c.deep.z", "c.deep.u", floors) is None
    for own, other in [("a", "b.x"), ("b.x", "c"), ("b.x", "b.y"), ("b.y", "b")]:
        assert "must not import" in str(upward(own, other, floors))
    with pytest.raises(AssertionError, match="attic has no floor"):
        upward("attic", "a", floors)
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_theory_and_networks_do_not_know_each_other():
    """That the two agree is evidence only while neither can lean on the other."""

    def closure(start: str) -> set[str]:
        seen: set[str] = set()
        open_ = {name for name in MODULES if name.split(".")[0] == start}
        while open_:
            name = open_.pop()
            seen.add(name)
            open_ |= (imports(MODULES[name], ROOT) - DOOR) - seen
        return {name.split(".")[0] for name in seen}

    assert "networks" not in closure("theory")
    assert "theory" not in closure("networks")
    assert closure("sweeps").isdisjoint({"networks", "theory", "models"})


PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_no_public_name_equals_a_submodule(name):
    """`from jinit.models import audit` must never depend on what was imported before."""
    package = importlib.import_module(f"jinit.{name}")
    below = {m.removeprefix(f"{name}.") for m in MODULES if m.startswith(f"{name}.")}
    assert below.isdisjoint(getattr(package, "__all__", ()))


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
    assert sorted(jinit.__all__) == sorted([*jinit._HOMES, *jinit._MODULES])
    with pytest.raises(AttributeError, match="no attribute 'forwrad'"):
        jinit.forwrad  # noqa: B018


@pytest.mark.parametrize("old", sorted(jinit._RENAMED))
def test_an_old_name_says_the_new_one(old):
    with pytest.raises(AttributeError, match=f"jinit.{old} of jinit 0.1 is now jinit"):
        getattr(jinit, old)


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
