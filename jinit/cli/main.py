"""The `jinit` command. Nothing heavy is imported before a command needs it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import jinit

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Does the signal survive the depth of this network?",
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        print(jinit.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def tour(
    out: Annotated[Path, typer.Option(help="Folder for the page, figures and data.")] = Path(
        "jinit-tour"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A smaller tour.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random draw.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier tour in the same folder.")
    ] = False,
) -> None:
    """Why initialisation matters: six chapters, measured on real digits while you wait.

    JAX_PLATFORMS=cpu, cuda or tpu chooses the device.
    """
    from rich.console import Console

    from jinit.runtime import device_name
    from jinit.tour import FULL, QUICK, OutputError, take_tour

    try:
        device_name()
    except (RuntimeError, AssertionError) as error:
        _fail(
            f"jax cannot start on the device that JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')} "
            f"asks for ({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            f"use JAX_PLATFORMS=cpu, or install jinit[cuda] or jinit[tpu]."
        )
    try:
        take_tour(
            out, QUICK if quick else FULL, seed=seed, overwrite=overwrite,
            console=Console(),
        )  # fmt: skip
    except OutputError as error:
        _fail(str(error))


@app.command("theory")
def theory_(
    activation: Annotated[
        str, typer.Argument(help="A name such as gelu, or module:function for one of your own.")
    ],
    bias_var: Annotated[
        float | None, typer.Option(help="Variance of the biases; adds the critical point for it.")
    ] = None,
    weight_var: Annotated[
        float | None, typer.Option(help="fan_in times the variance of your weights; adds a row.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Layers; adds the gradient through so many.")
    ] = None,
    width: Annotated[int, typer.Option(help="Units of a layer.")] = 128,
    plot: Annotated[
        Path | None, typer.Option(help="Write the phase diagram to this file (.png, .svg, .pdf).")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of an earlier plot.")
    ] = False,
) -> None:
    """What theory says of an activation: where to start, and how deep a plain network trains."""
    if plot is not None:
        _check_plot(plot, overwrite)
    from rich.console import Console

    from jinit.cli.theory import forecast, load, print_forecast

    sys.path.insert(0, os.getcwd())  # where module:function is looked for first
    try:
        phi = load(activation)
        found = forecast(phi, weight_var=weight_var, bias_var=bias_var, depth=depth, width=width)
        if plot is not None:
            _plot(phi, found, plot)
    except (ValueError, TypeError, OSError) as error:
        _fail(str(error))
    console = Console(highlight=False)
    print_forecast(found, console)
    if plot is not None:
        console.print(f"\nThe phase diagram is in {plot}.")


PLOTS = (".png", ".svg", ".pdf")


def _check_plot(file: Path, overwrite: bool) -> None:
    if file.suffix not in PLOTS:
        _fail(f"--plot must end in {', '.join(PLOTS[:-1])} or {PLOTS[-1]}, got '{file}'.")
    _check_file(file, overwrite, "--plot")


def _plot(activation: Any, found: Any, file: Path) -> None:
    from jinit import plots, theory

    marks = {start.name: (start.weight_var, start.bias_var) for start in found.starts}
    if found.point is not None:
        marks["critical"] = (found.point.weight_var, found.point.bias_var)
    widest = max(weight for weight, _ in marks.values())
    highest = max(bias for _, bias in marks.values())
    diagram = theory.phase_diagram(
        activation,
        weight_var=_up_to(1.25 * widest) if widest > 3.5 else None,
        bias_var=_up_to(1.4 * highest, zero=True) if highest > 0.4 else None,
    )
    plots.phase_diagram(diagram, marks=marks).savefig(file)


def _up_to(most: float, *, zero: bool = False) -> list[float]:
    steps = 60
    return [most * i / steps for i in range(0 if zero else 1, steps + 1)]


@app.command()
def schemes() -> None:
    """List every initialisation scheme with its formula, options and source."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "weights", "options", "source")
    for name, entry in jinit.SCHEMES.items():
        own = [o for o in entry.options if o not in ("in_axis", "out_axis", "batch_axis")]
        table.add_row(name, entry.formula, ", ".join(own), entry.source)
    Console().print(table)


# --- models of one's own ------------------------------------------------------------------------


@app.command("diagnose")
def diagnose_(
    factory: Annotated[
        str, typer.Argument(help="module:function that returns (apply, variables, *inputs).")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    fail_on: Annotated[
        str, typer.Option(help="Faults that end with status 1: vanish,explode,dead, or any.")
    ] = "",
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture to this file (.png, .svg, .pdf).")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of an earlier run.")
    ] = False,
) -> None:
    """Where the signal of a model of yours dies: every layer, forward and backward, and a verdict.

    Instead of a tuple the function may return a dict with apply, variables, inputs, and loss or
    rules as in jinit.diagnose.
    """
    if plot is not None:
        _check_plot(plot, overwrite)
    if html is not None:
        _check_file(html, overwrite, "--html")
    from jinit import checks
    from jinit.models import FAULTS, diagnose

    wanted = [name for name in fail_on.split(",") if name]
    sys.path.insert(0, os.getcwd())  # where the module is looked for first
    try:
        for name in wanted:
            checks.choice("--fail-on", name, [*FAULTS, "any"])
        apply, variables, inputs, options = _model(factory)
        found = diagnose(apply, variables, *inputs, **options)
    except Exception as error:  # also whatever the model raises
        notes = [n for n in getattr(error, "__notes__", ()) if n.startswith("jinit ")]
        first = (str(error).splitlines() or [""])[0]
        said = (
            first
            if isinstance(error, ValueError | TypeError)
            else f"{type(error).__name__}: {first}"
        )
        _fail(" ".join([said, *notes]))
    if json:
        import json as format_

        print(format_.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        print(found)
    if plot is not None:
        jinit.plots.diagnosis(found).savefig(plot)
    if html is not None:
        found.to_html(html)
    kinds = {finding.kind for finding in found.findings}
    if kinds & set(wanted) or (kinds and "any" in wanted):
        raise typer.Exit(1)


def _model(factory: str) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
    from jinit import checks

    make = checks.imported("model", factory)
    if callable(make):
        _check_no_arguments(factory, make)
        make = make()
    made = make
    if isinstance(made, dict):
        checks.options(factory, made, ["apply", "variables", "inputs", "loss", "rules"])
        missing = [name for name in ("apply", "variables", "inputs") if name not in made]
        if not missing and isinstance(made["inputs"], tuple | list):
            rest = {name: made[name] for name in ("loss", "rules") if name in made}
            return made["apply"], made["variables"], tuple(made["inputs"]), rest
    elif isinstance(made, tuple) and len(made) >= 2 and callable(made[0]):
        return made[0], made[1], made[2:], {}
    raise ValueError(
        f"{factory} must return (apply, variables, *inputs), or a dict of apply, variables and "
        f"inputs (a tuple), got {type(made).__name__}."
    )


def _check_no_arguments(name: str, make: Callable[..., Any]) -> None:
    from inspect import Parameter, signature

    try:
        parameters = signature(make).parameters.values()
    except ValueError:  # of functions written in C
        return
    optional = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in optional]
    if needed:
        raise ValueError(
            f"{name} must be a function without arguments that returns (apply, variables, "
            f"*inputs), got one that needs {', '.join(needed)}; write one that calls it with what "
            f"it needs."
        )


# --- sweeps -------------------------------------------------------------------------------------


@app.command("map")
def map_(
    activation: Annotated[str, typer.Option(help="Of all networks.")] = "tanh",
    scheme: Annotated[
        list[str] | None, typer.Option(help="Repeat for several; xavier and he by default.")
    ] = None,
    depth: Annotated[
        list[int] | None, typer.Option(help="Hidden layers; repeat for several: 2, 5, 10, 20, 50.")
    ] = None,
    gain: Annotated[
        tuple[float, float, int], typer.Option(help="Scales: lowest, highest, how many.")
    ] = (0.1, 10.0, 33),
    learning_rate: Annotated[
        list[float] | None,
        typer.Option("--learning-rate", "--lr", help="Repeat for several: 0.1."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Networks at every point.")] = 8,
    steps: Annotated[int, typer.Option(help="Of training; 0 measures gradients only.")] = 0,
    width: Annotated[int, typer.Option(help="Units of a layer.")] = 64,
    norm: Annotated[str | None, typer.Option(help="batch or layer.")] = None,
    bias_var: Annotated[float, typer.Option(help="Variance of the biases.")] = 0.0,
    batch: Annotated[int, typer.Option(help="Samples of a batch.")] = 64,
    data: Annotated[str, typer.Option(help="digits, circles or moons.")] = "digits",
    store: Annotated[
        Path | None, typer.Option(help="Folder that keeps the results; a killed run goes on there.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: compute the i-th of n parts (from 0) of the store.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the map to this file.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of an earlier plot.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take.")
    ] = False,
) -> None:
    """Map where gradients vanish, and what trains, over scheme x depth x scale x seed."""
    if plot is not None:
        _check_plot(plot, overwrite)
    from rich.console import Console

    jinit.configure()
    from jinit import trainability

    console = Console(highlight=False)
    try:
        low, high, count = gain
        if not 0 < low < high or count < 2:
            raise ValueError(
                f"--gain must be a lowest above 0, a highest above that and at least 2 of them, "
                f"got {low:g} {high:g} {count}."
            )
        grid: dict[str, Any] = {
            "schemes": scheme or ["xavier", "he"],
            "depths": depth or [2, 5, 10, 20, 50],
            "gains": [low * (high / low) ** (i / (count - 1)) for i in range(count)],
            "learning_rates": learning_rate or [0.1],
            "seeds": seeds,
            "width": width,
            "norm": norm,
            "bias_var": bias_var,
            "data": data,
            "batch": batch,
            "steps": steps,
        }
        if dry_run:
            console.print(_costs(jinit.dry_run(trainability.plan(activation, **grid))))
            return
        found = jinit.map_trainability(activation, **grid, store=store, shard=_parts(shard))
    except (ValueError, TypeError, RuntimeError) as error:
        _fail(str(error))
    console.print(trainability.table(found))
    if plot is not None:
        jinit.plots.grid(found, "accuracy" if steps else "log_gradient_ratio").savefig(plot)
        console.print(f"The map is in {plot}.")
    if store is not None:
        console.print(f"The results are in {store}; read them with jinit.load.")


def _costs(found: Any) -> str:
    megabytes = found.bytes / 1e6
    return (
        f"{found.networks:,} networks in {found.blocks:,} blocks, {found.compiles} programs to "
        f"compile, {megabytes:.1f} MB, and at most about {found.seconds:.2g} s on this machine, "
        f"without compiling."
    )


def _parts(shard: str | None) -> tuple[int, int] | None:
    if shard is None:
        return None
    index, slash, count = shard.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise ValueError(f"--shard must be i/n, such as 0/4, got '{shard}'.")
    return int(index), int(count)


@app.command()
def status(store: Annotated[Path, typer.Argument(help="A sweep's folder.")]) -> None:
    """How far a stored sweep is."""
    from rich.console import Console

    from jinit.sweeps.zarr_store import ZarrStore

    try:
        kept = ZarrStore(store, write=False)
        done = kept.done()
    except ValueError as error:
        _fail(str(error))
    meta = kept.made_for
    console = Console(highlight=False)
    axes = {**meta["static"], **meta["traced"], "seed": meta["seeds"]}
    grid = " x ".join(f"{name} ({len(values)})" for name, values in axes.items())
    console.print(f"{int(done.sum())} of {len(done)} blocks of {meta['block']} networks are done.")
    console.print(f"Grid: {grid}")
    console.print(f"Outputs: {', '.join(output.name for output in kept.outputs)}")
    console.print(f"Made on {meta['platform']} with jax {meta['jax']}.")
    if not done.all():
        console.print("Run the same sweep again to go on.")


@app.command("plot")
def plot_(
    store: Annotated[Path, typer.Argument(help="A sweep's folder.")],
    file: Annotated[Path, typer.Argument(help="The picture (.png, .svg, .pdf).")],
    variable: Annotated[
        str | None, typer.Option(help="Which output; the first with one number per network.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Draw a stored sweep over its two longest numeric axes."""
    _check_plot(file, overwrite)
    try:
        found = jinit.load(store, partial=True)
        jinit.plots.grid(found, variable).savefig(file)
    except ValueError as error:
        _fail(str(error))
    print(f"The picture is in {file}.")


@app.command("export")
def export_(
    store: Annotated[Path, typer.Argument(help="A sweep's folder.")],
    csv: Annotated[Path | None, typer.Option(help="One row per network.")] = None,
    nc: Annotated[Path | None, typer.Option(help="NetCDF, for xarray and many others.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write a finished sweep as CSV or NetCDF."""
    if (csv is None) == (nc is None):
        _fail("export needs one of --csv FILE and --nc FILE.")
    file = csv or nc
    assert file is not None
    _check_file(file, overwrite, "--csv" if csv is not None else "--nc")
    from jinit import trainability

    try:
        trainability.export(jinit.load(store), file, csv=csv is not None)
    except ValueError as error:
        _fail(str(error))
    print(f"The results are in {file}.")


def _check_file(file: Path, overwrite: bool, option: str) -> None:
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        _fail(f"{option} must lie in a folder that can be written, got '{file}'; make it first.")
    if file.exists() and not overwrite:
        _fail(f"{option}: '{file}' is there already; choose another name, or add --overwrite.")


def _fail(message: str) -> NoReturn:
    print(f"jinit: {message}", file=sys.stderr)
    raise typer.Exit(2)


def main() -> None:
    """Entry point of the `jinit` command."""
    app()
