"""`jinit map`, and what is asked of any stored sweep: `status`, `plot`, `export`."""

from pathlib import Path
from typing import Annotated

import typer

import jinit
from jinit.cli.options import Overwrite, Picture, Stored, check_file, check_plot, fail, one_sentence


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

    console = Console(highlight=False)
    with one_sentence(ValueError, TypeError, RuntimeError):
        low, high, count = gain
        if not 0 < low < high or count < 2:
            raise ValueError(
                f"--gain must be a lowest above 0, a highest above that and at least 2 of them, "
                f"got {low:g} {high:g} {count}."
            )
        sweep = trainability.plan(
            trainability.Setting(activation, width, norm, bias_var, data, batch, steps),
            schemes=scheme or ["xavier", "he"],
            depths=depth or [2, 5, 10, 20, 50],
            gains=[low * (high / low) ** (i / (count - 1)) for i in range(count)],
            learning_rates=learning_rate or [0.1],
            seeds=seeds,
        )
        if dry_run:
            cost = jinit.dry_run(sweep)
            console.print(
                f"{cost.networks:,} networks in {cost.blocks:,} blocks, {cost.compiles} programs "
                f"to compile, {cost.bytes / 1e6:.1f} MB, and at most about {cost.seconds:.2g} s on "
                f"this machine, without compiling."
            )
            return
        found = jinit.sweep(sweep, store=store, shard=_parts(shard))
    console.print(trainability.table(found))
    if plot is not None:
        jinit.plots.grid(found, "accuracy" if steps else "log_gradient_ratio").savefig(plot)
        console.print(f"The map is in {plot}.")
    if store is not None:
        console.print(f"The results are in {store}; read them with jinit.load.")


def _parts(shard: str | None) -> tuple[int, int] | None:
    if shard is None:
        return None
    index, slash, count = shard.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise ValueError(f"--shard must be i/n, such as 0/4, got '{shard}'.")
    return int(index), int(count)


def status(store: Stored) -> None:
    """How far a stored sweep is."""
    from rich.console import Console

    from jinit.sweeps.zarr_store import ZarrStore

    with one_sentence(ValueError):
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
        console.print("Run the same sweep again to go on.")


def plot(
    store: Stored,
    file: Annotated[Path, typer.Argument(help="The picture (.png, .svg, .pdf).")],
    variable: Annotated[
        str | None, typer.Option(help="Which output; the first with one number per network.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw a stored sweep over its two longest numeric axes."""
    check_plot(file, overwrite)
    with one_sentence(ValueError):
        found = jinit.load(store, partial=True)
        jinit.plots.grid(found, variable).savefig(file)
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

    with one_sentence(ValueError):
        trainability.export(jinit.load(store), file, csv=csv is not None)
    print(f"The results are in {file}.")
