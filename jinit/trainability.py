"""The built-in map: where gradients vanish, and what trains, over scheme x depth x scale x seed."""

import itertools
import math
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from rich.box import SIMPLE_HEAD
from rich.table import Table

import jinit
from jinit import checks, runtime
from jinit.activations import Activation
from jinit.files import whole

DATA = {"digits": (64, 10, 1437), "circles": (2, 2, 800), "moons": (2, 2, 800)}
"""Inputs, classes and training samples of the sets of `jinit.data` that a map takes by name: known
here, so that what a map would cost is said before any is loaded."""
_GAINS = tuple(np.geomspace(0.1, 10, 33).tolist())
UNITS = {"log_gradient_ratio": "natural logarithm of a ratio of root mean squares"}


class Setting(NamedTuple):
    """What all networks of a map share."""

    activation: str | Activation
    width: int
    norm: str | None
    bias_var: float
    data: str | jinit.Data
    batch: int
    steps: int


def map_trainability(
    activation: str | Activation = "tanh",
    *,
    schemes: Sequence[str] = ("xavier", "he"),
    depths: Sequence[int] = (2, 5, 10, 20, 50),
    gains: Sequence[float] | np.ndarray = _GAINS,
    learning_rates: Sequence[float] | np.ndarray = (0.1,),
    seeds: int | Sequence[int] = 8,
    width: int = 64,
    norm: str | None = None,
    bias_var: float = 0.0,
    data: str | jinit.Data = "digits",
    batch: int = 64,
    steps: int = 0,
    store: str | os.PathLike[str] | None = None,
    block: int | None = None,
    shard: tuple[int, int] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Where gradients vanish, and what trains, over scheme x depth x scale x learning rate x seed.

    The gradient ratio is g_1 / g_L, g_l the root mean square of the loss's gradient by the
    pre-activations of hidden layer l of L, over a batch, before training.

    Args:
        activation: of all networks: a name or an elementwise jax.numpy function.
        schemes: names that take a gain.
        depths: hidden layers, at least 2.
        gains: factors on the schemes' standard deviation.
        learning_rates: of gradient descent, if there is training.
        seeds: a count, or integers, as in `jinit.sweep`.
        width: units of a hidden layer.
        norm: as in `jinit.MLP`.
        bias_var: variance of the biases.
        data: "digits", "circles", "moons", or a `jinit.Data`.
        batch: samples of a batch.
        steps: of training; without any, only the gradients at the start are measured.
        store, block, shard, executor, progress: as in `jinit.sweep`.

    Returns:
        The dataset, over "scheme", "depth", "gain", "learning_rate" (if there is training) and
        "seed": `log_gradient_ratio`, the natural logarithm of the ratio, and after training `loss`
        and `accuracy` on the test half, NaN where a network diverged.

    Raises:
        ValueError, TypeError: a scheme without a gain, unknown data, too large a batch; and as in
            `jinit.sweep`.
    """
    setting = Setting(activation, width, norm, bias_var, data, batch, steps)
    sweep = plan(setting, schemes, depths, gains, learning_rates, seeds)
    found = jinit.sweep(
        sweep, store=store, block=block, shard=shard, executor=executor, progress=progress
    )
    return with_units(found)


def plan(
    setting: Setting,
    schemes: Sequence[str],
    depths: Sequence[int],
    gains: Sequence[float] | np.ndarray,
    learning_rates: Sequence[float] | np.ndarray,
    seeds: int | Sequence[int],
) -> jinit.Sweep:
    """The sweep that `map_trainability` runs, also for `jinit.dry_run`.

    Drawing the weights is a program of its own, so that schemes share the others.
    """
    for name in schemes:
        checks.choice("scheme", name, jinit.SCHEMES)
        if "gain" not in jinit.SCHEMES[name].options:
            able = [n for n, entry in jinit.SCHEMES.items() if "gain" in entry.options]
            raise ValueError(
                f"a map stretches a scheme by gain, which {name!r} does not take; choose among "
                f"{', '.join(able)}."
            )
    for depth in checks.listed("depths must list numbers of hidden layers, as in [2, 10]", depths):
        checks.count("every depth (of hidden layers)", depth, least=2)
    for name, values in (("gain", gains), ("learning_rate", learning_rates)):
        for value in np.ravel(values).tolist():
            positive = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
            if not positive or not np.isfinite(np.float32(value)) or not np.float32(value):
                raise ValueError(
                    f"every {name} must be a finite number above 0, got {checks.shown(value)}."
                )
    checks.count("width", setting.width)
    checks.number("bias_var", setting.bias_var, least=0)
    if not isinstance(setting.data, jinit.Data):
        checks.choice("data", setting.data, DATA)
    checks.count("steps", setting.steps, least=0)
    samples = _sizes(setting)[2]
    if not 2 <= setting.batch <= samples:
        raise ValueError(f"batch must lie between 2 and {samples}, got {setting.batch}.")
    _net(setting, 2)  # refuses what no network can have
    traced: dict[str, Any] = {"gain": gains}
    if setting.steps:
        traced["learning_rate"] = learning_rates
    return jinit.Sweep(
        partial(_train if setting.steps else _measure, setting=setting),
        {"scheme": list(schemes), "depth": list(depths)},
        traced,
        seeds,
        partial(_draw, setting=setting),
    )


class Cost(NamedTuple):
    """What a map would take."""

    points: int
    """of the grid, each with all seeds"""
    networks: int
    programs: int
    """that are compiled: one per function and combination of the static axes that it names"""
    bytes: int
    """of the results, before compression"""
    seconds: float
    """about, compiling included"""


def cost(sweep: jinit.Sweep, setting: Setting, *, shards: int = 1) -> Cost:
    """What a map takes on this machine, within a second: nothing of it is compiled.

    A program's compile time is a multiple of that of the network of `runtime.pace`, and its work is
    counted: 6 operations for a weight and sample of a step (2 forward, 4 backward), at a share of
    the pace. Both factors were measured on two cores (2 to 20 layers, widths 64 and 256); on other
    machines the time is right within a factor of two or three.
    """
    for scheme in sweep.static["scheme"]:  # refuses what it cannot draw
        draw = partial(_draw, scheme=scheme, depth=min(sweep.static["depth"]), setting=setting)
        jax.eval_shape(draw, jax.random.key(0), gain=jnp.float32(1))
    machine = runtime.pace()
    seconds = 0.0
    programs = 0
    for what in sweep.functions:
        own = {tuple(sweep.arguments_of(what, point).items()) for point in sweep.points}
        programs += len(own)
        seconds += len(own) * machine.compile_seconds * _COMPILES[what, setting.steps > 0]
    for point in sweep.points:
        dims = _net(setting, point["depth"]).dims
        weights = sum(a * b for a, b in itertools.pairwise(dims))
        work = 6 * weights * setting.batch * (setting.steps + _MEASURED)
        seconds += sweep.rows / shards * work / (_SHARE * machine.flops)
    outputs = 3 if setting.steps else 1
    networks = math.ceil(sweep.runs / shards)
    return Cost(sweep.runs // len(sweep.seeds), networks, programs, 4 * outputs * networks, seconds)  # type: ignore[arg-type]


_COMPILES = {("prepare", False): 25, ("prepare", True): 25, ("fn", False): 8, ("fn", True): 20}
_MEASURED = 3  # steps that the gradients before training cost
_SHARE = 0.25  # of the pace that training reaches


def log_gradient_ratio(signals: jinit.LayerSignals) -> jax.Array:
    """The natural logarithm of the gradient in the first layer over that in the last hidden one."""
    return signals.log_grad[..., 0] - signals.log_grad[..., -2]


def _data(setting: Setting) -> jinit.Data:
    data = setting.data
    return data if isinstance(data, jinit.Data) else getattr(jinit.data, data)()


def _sizes(setting: Setting) -> tuple[int, int, int]:
    """Inputs and outputs of the networks, and how many training samples there are."""
    if not isinstance(setting.data, jinit.Data):
        return DATA[setting.data]
    x, y = setting.data[:2]
    labels = np.asarray(y)
    outputs = int(labels.max()) + 1 if labels.dtype.kind in "iu" else labels[0].size
    return x.shape[1], outputs, len(x)


def _net(setting: Setting, depth: int) -> jinit.MLP:
    inputs, outputs, _ = _sizes(setting)
    return jinit.MLP(
        (inputs, *(setting.width,) * depth, outputs),
        activation=setting.activation,
        norm=setting.norm,  # type: ignore[arg-type]
    )


def _draw(key: jax.Array, *, scheme: str, depth: int, gain: jax.Array, setting: Setting) -> Any:
    return jinit.init(key, _net(setting, depth), scheme, gain=gain, bias_var=setting.bias_var)


def _measure(key: jax.Array, start: Any, *, depth: int, setting: Setting) -> dict[str, jax.Array]:
    params, state = start
    x, y = (jnp.asarray(a[: setting.batch]) for a in _data(setting)[:2])
    signals = jinit.layer_signals(_net(setting, depth), params, state, x, y)
    return {"log_gradient_ratio": log_gradient_ratio(signals)}


def _train(
    key: jax.Array, start: Any, *, depth: int, learning_rate: jax.Array, setting: Setting
) -> dict[str, jax.Array]:
    params, state = start
    run = jinit.train(
        key, _net(setting, depth), params, state, _data(setting),
        optimizer=optax.sgd(learning_rate), steps=setting.steps, batch_size=setting.batch,
    )  # fmt: skip
    before = _measure(key, start, depth=depth, setting=setting)
    return before | {"loss": run.loss, "accuracy": run.accuracy}


def crossings(dataset: xr.Dataset) -> xr.DataArray:
    """`crossing` of the median over seeds, by scheme and depth."""
    ratio = dataset.log_gradient_ratio
    ratio = ratio.median([d for d in ("seed", "learning_rate") if d in ratio.dims])
    return xr.apply_ufunc(
        partial(crossing, dataset.gain.values), ratio, input_core_dims=[["gain"]], vectorize=True
    )


def crossing(gains: np.ndarray, log_ratio: np.ndarray) -> float:
    """The gain at which gradient ratios first rise through one; NaN where they never do.

    Interpolated in `log_ratio` `[gains]` against log(gain).
    """
    above = np.flatnonzero((log_ratio[:-1] < 0) & (log_ratio[1:] >= 0))
    if not len(above):
        return math.nan
    i = above[0]
    share = -log_ratio[i] / (log_ratio[i + 1] - log_ratio[i])
    return float(np.exp((1 - share) * np.log(gains[i]) + share * np.log(gains[i + 1])))


def table(dataset: xr.Dataset) -> Table:
    """For each scheme and depth, the gain that hands the gradient back as it came."""
    found = crossings(dataset)
    shown = Table(
        title="gain at which the gradient in the first layer is that in the last", box=SIMPLE_HEAD,
        title_justify="left", collapse_padding=True, pad_edge=False,
    )  # fmt: skip
    shown.add_column("scheme", no_wrap=True)
    for depth in dataset.depth.values:
        shown.add_column(f"{depth} layers", justify="right", no_wrap=True)
    for scheme in dataset.scheme.values:
        row = (float(found.sel(scheme=scheme, depth=d)) for d in dataset.depth.values)
        shown.add_row(str(scheme), *("none" if math.isnan(g) else f"{g:.3g}" for g in row))
    return shown


def passing(setting: Setting) -> float:
    """The accuracy from which a network counts as trained: half-way from chance to 1.

    Chance is the share of the most frequent class in the test half.
    """
    frequencies = np.unique(np.asarray(_data(setting).y_test), return_counts=True)[1]
    return float(1 + frequencies.max() / frequencies.sum()) / 2


def training_table(dataset: xr.Dataset, least: float) -> Table:
    """For each scheme, depth and learning rate: how many networks trained, and at which gains.

    A network has trained if its test accuracy is at least `least`; a gain trains if half of the
    seeds do. What diverged has not trained, and what a shard left out is not counted.
    """
    shown = Table(
        title=f"what trained: test accuracy of {least:.2f} and more", box=SIMPLE_HEAD,
        title_justify="left", collapse_padding=True, pad_edge=False,
    )  # fmt: skip
    shown.add_column("scheme", no_wrap=True)
    for column in ("layers", "rate", "trained", "best", "gains that\ntrain"):
        shown.add_column(column, justify="right", no_wrap=True)
    every = dataset.stack(row=("scheme", "depth", "learning_rate"))
    for scheme, depth, rate in every.row.values:
        here = dataset.sel(scheme=scheme, depth=depth, learning_rate=rate)
        measured = here.log_gradient_ratio.notnull()
        accuracy = here.accuracy.where(measured)
        ok = (accuracy >= least) & measured
        train = here.gain.values[((ok.sum("seed") * 2 >= measured.sum("seed")) & ok.any("seed"))]
        shown.add_row(
            str(scheme), str(depth), f"{rate:.3g}", f"{int(ok.sum())} of {int(measured.sum())}",
            f"{float(accuracy.max()):.2f}" if accuracy.notnull().any() else "—",
            _range(train),
        )  # fmt: skip
    return shown


def _range(gains: np.ndarray) -> str:
    if not len(gains):
        return "none"
    low, high = f"{gains.min():.3g}", f"{gains.max():.3g}"
    return low if low == high else f"{low} to {high}"


def with_units(dataset: xr.Dataset) -> xr.Dataset:
    """The same, whose variables say what they are; a store keeps numbers alone."""
    known = {n: each.assign_attrs(units=UNITS[n]) for n, each in dataset.items() if n in UNITS}
    return dataset.assign(known)


def export(dataset: xr.Dataset, file: Path, *, csv: bool) -> None:
    """As CSV, a row per network (and entry, for vectors), or as NetCDF; whole or not at all."""
    with whole(file) as staging:
        if csv:
            dataset.to_dataframe().to_csv(staging)
        else:
            with_units(dataset).to_netcdf(staging, engine="scipy")
