"""`jinit map`, and what is asked of any stored sweep: `status`, `plot`, `export`."""

import math
from pathlib import Path
from typing import Annotated

import typer

import jinit
from jinit.cli import interrupts
from jinit.cli.options import Overwrite, Picture, Stored, check_file, check_plot, fail
from jinit.files import whole


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
        list[float] | None, typer.Option("--learning-rate", "--lr", help="Repeat for several: 0.1.")
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
    plot: Picture = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take.")
    ] = False,
) -> None:
    """Map where gradients vanish, and what trains, over scheme x depth x scale x seed."""
    check_plot(plot, overwrite)
    from rich.console import Console

    jinit.configure()
    from jinit import trainability
    from jinit.sweeps.zarr_store import ZarrStore, check_place
    from jinit.terminal import Fitted

    console = Console(highlight=False)
    low, high, count = gain
    if not _SMALLEST <= low < high <= 1 / _SMALLEST or not 2 <= count <= _MOST:
        fail(
            f"--gain must be a lowest above 0, a highest above that (from {_SMALLEST:g} to "
            f"{1 / _SMALLEST:g}) and 2 to {_MOST:,} of them, got {low:g} {high:g} {count}."
        )
    if seeds > _MOST:
        fail(f"--seeds must be at most {_MOST:,}, got {seeds}.")
    setting = trainability.Setting(activation, width, norm, bias_var, data, batch, steps)
    sweep = trainability.plan(
        setting,
        schemes=scheme or ["xavier", "he"],
        depths=depth or [2, 5, 10, 20, 50],
        gains=geometric(low, high, count),
        learning_rates=learning_rate or [0.1],
        seeds=seeds,
    )
    part = _part(shard, store)
    if store is not None:
        check_place(store)
        if store.exists():
            ZarrStore(store, write=False)  # refuses what is no sweep
    cost = trainability.cost(sweep, setting, shards=part[1] if part else 1)
    console.print(
        f"{cost.points:,} points, {cost.networks:,} networks, {cost.programs} programs to compile, "
        f"{cost.bytes / 1e6:.2g} MB: about {_duration(cost.seconds)} on this machine"
        + (f", less what {store} holds already." if store is not None and store.exists() else "."),
        soft_wrap=True,
    )
    if dry_run:
        return
    with interrupts.keeping(lambda: _kept(store)):
        found = jinit.sweep(sweep, store=store, shard=part)
        console.print(Fitted(trainability.table(found)))
        if steps:
            least = trainability.passing(setting)
            console.print(Fitted(trainability.training_table(found, least)))
        if plot is not None:
            with whole(plot) as file:
                if steps:
                    jinit.plots.grid(found, "accuracy", boundary=least).savefig(file)
                else:
                    jinit.plots.grid(found, "log_gradient_ratio").savefig(file)
            console.print(f"The map is in {plot}.", soft_wrap=True)
    if store is not None:
        console.print(f"The results are in {store}; read them with jinit.load.", soft_wrap=True)


_SMALLEST = 1e-37  # a float32 that is no denormal
_MOST = 1_000_000  # of an axis, which memory holds


def geometric(low: float, high: float, count: int) -> list[float]:
    """So many numbers from the lowest to the highest, each the same multiple of the one before."""
    step = (math.log(high) - math.log(low)) / (count - 1)
    return [low, *(low * math.exp(step * i) for i in range(1, count - 1)), high]


def _kept(store: Path | None) -> interrupts.Kept:
    if store is None:
        return interrupts.Kept("nothing is kept without --store FOLDER")
    if not store.exists():
        return interrupts.Kept(f"nothing is in {store} yet")
    return interrupts.Kept(f"the finished blocks are kept in {store}", "go on there")


def _duration(seconds: float) -> str:
    for unit, least in (("h", 2 * 3600), ("min", 120)):
        if seconds >= least:
            return f"{seconds / (least / 2):.2g} {unit}" if seconds < 50 * least else (
                f"{seconds / (least / 2):.0f} {unit}")  # fmt: skip
    return f"{max(seconds, 1):.0f} s"


def _part(shard: str | None, store: Path | None) -> tuple[int, int] | None:
    if shard is None:
        return None
    index, slash, count = shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        fail(f"--shard must be i/n, such as 0/4, the i-th of n parts from 0, got '{shard}'.")
    if store is None:
        fail("--shard needs the store that all parts share; add --store FOLDER.")
    return int(index), int(count)


def status(store: Stored) -> None:
    """How far a stored sweep is."""
    from rich.console import Console

    from jinit.sweeps.zarr_store import ZarrStore

    kept = ZarrStore(store, write=False)
    done = kept.done()
    meta = kept.made_for
    console = Console(highlight=False)
    axes = {**meta["static"], **meta["traced"], "seed": meta["seeds"]}
    grid = " x ".join(f"{name} ({len(values)})" for name, values in axes.items())
    console.print(f"{int(done.sum())} of {len(done)} blocks of {meta['block']} networks are done.")
    console.print(f"Grid: {grid}")
    console.print(f"Outputs: {', '.join(output.name for output in kept.outputs)}")
    console.print(f"Made on {meta['platform']} with jax {meta['jax']}.")
    if not done.all():
        last = kept.extent.last_fills(done)
        again = "the same sweep again" if last else "a sweep over all of this grid"
        console.print(f"Run {again} to go on.")


def plot(
    store: Stored,
    file: Annotated[Path, typer.Argument(help="The picture (.png, .svg, .pdf).")],
    variable: Annotated[
        str | None, typer.Option(help="Which output; the first with one number per network.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw a stored sweep over its two longest numeric axes."""
    check_plot(file, overwrite, "the picture")
    found = jinit.load(store, partial=True)
    with whole(file) as staging:
        jinit.plots.grid(found, variable).savefig(staging)
    print(f"The picture is in {file}.")


def export(
    store: Stored,
    csv: Annotated[Path | None, typer.Option(help="One row per network.")] = None,
    nc: Annotated[Path | None, typer.Option(help="NetCDF, for xarray and many others.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a finished sweep as CSV or NetCDF."""
    if (csv is None) == (nc is None):
        fail("export needs one of --csv FILE and --nc FILE.")
    file = csv or nc
    assert file is not None
    check_file(file, overwrite, "--csv" if csv is not None else "--nc")
    from jinit import trainability

    trainability.export(jinit.load(store), file, csv=csv is not None)
    print(f"The results are in {file}.")
