"""The built-in map: where gradients vanish, and what trains, over scheme x depth x scale x seed."""

import math
from collections.abc import Sequence
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
from jinit import checks

__all__ = ["DATA", "Setting", "crossing", "crossings", "export", "plan", "table"]

DATA = ("digits", "circles", "moons")


class Setting(NamedTuple):
    """What all networks of a map share."""

    activation: str = "tanh"
    width: int = 64
    norm: str | None = None
    bias_var: float = 0.0
    data: str = "digits"
    batch: int = 64
    steps: int = 0
    """of training by SGD; without any, only gradients at the start are measured"""


def plan(
    setting: Setting,
    *,
    schemes: Sequence[str],
    depths: Sequence[int],
    gains: Sequence[float] | np.ndarray,
    rates: Sequence[float] = (0.1,),
    seeds: int | Sequence[int] = 8,
) -> jinit.Sweep:
    """The sweep that makes a map.

    Drawing the weights is a program of its own, so that schemes share the others. Recorded are
    `log10_gradient_ratio`, the gradient in the first layer over that in the last hidden one, and
    after training `loss` and `accuracy` on the test half, NaN where a network diverged.

    Args:
        setting: what all networks share.
        schemes: names that take a gain.
        depths: hidden layers, at least 2.
        gains: factors on the schemes' standard deviation.
        rates: learning rates, if there is training.
        seeds: as in `jinit.sweep`.

    Raises:
        ValueError: a scheme without a gain, unknown data, too large a batch.
    """
    checks.choice("data", setting.data, DATA)
    for name in schemes:
        checks.choice("scheme", name, jinit.SCHEMES)
        if "gain" not in jinit.SCHEMES[name].options:
            able = [n for n, entry in jinit.SCHEMES.items() if "gain" in entry.options]
            raise ValueError(
                f"a map stretches a scheme by gain, which {name!r} does not take; choose among "
                f"{', '.join(able)}."
            )
    for depth in depths:
        checks.count("every depth (of hidden layers)", depth, least=2)
    samples = len(_data(setting.data).x_train)
    if not 2 <= setting.batch <= samples:
        raise ValueError(f"batch must lie between 2 and {samples}, got {setting.batch}.")
    traced: dict[str, Any] = {"gain": gains}
    if setting.steps:
        traced["lr"] = rates
    measure = _train if setting.steps else _measure
    return jinit.Sweep(
        partial(measure, setting=setting),
        {"scheme": list(schemes), "depth": list(depths)},
        traced,
        seeds,
        partial(_draw, setting=setting),
    )


def _data(name: str) -> jinit.Data:
    return getattr(jinit.data, name)()


def _net(setting: Setting, depth: int) -> jinit.MLP:
    data = _data(setting.data)
    classes = int(np.max(data.y_train)) + 1
    return jinit.MLP(
        (data.x_train.shape[1], *(setting.width,) * depth, classes),
        activation=setting.activation,
        norm=setting.norm,  # type: ignore[arg-type]
    )


def _draw(key: jax.Array, *, scheme: str, depth: int, gain: jax.Array, setting: Setting) -> Any:
    net = _net(setting, depth)
    return jinit.init(key, net, scheme, gain=gain, bias_var=setting.bias_var)


def _measure(key: jax.Array, start: Any, *, depth: int, setting: Setting) -> dict[str, jax.Array]:
    data = _data(setting.data)
    params, state = start
    x, y = (jnp.asarray(a[: setting.batch]) for a in (data.x_train, data.y_train))
    log_grad = jinit.layer_signals(_net(setting, depth), params, state, x, y).log_grad
    return {"log10_gradient_ratio": (log_grad[0] - log_grad[-2]) / math.log(10)}


def _train(
    key: jax.Array, start: Any, *, depth: int, lr: jax.Array, setting: Setting
) -> dict[str, jax.Array]:
    params, state = start
    run = jinit.train(
        key, _net(setting, depth), params, state, _data(setting.data), optimizer=optax.sgd(lr),
        steps=setting.steps, batch_size=setting.batch,
    )  # fmt: skip
    before = _measure(key, start, depth=depth, setting=setting)
    return before | {"loss": run.loss, "accuracy": run.accuracy}


# --- reading it ---------------------------------------------------------------------------------


def crossings(dataset: xr.Dataset) -> xr.DataArray:
    """The gain at which the median gradient ratio first rises through one; NaN where it never does.

    Interpolated in log10(ratio) against log(gain), by scheme and depth.
    """
    ratio = dataset.log10_gradient_ratio.median([d for d in ("seed", "lr") if d in dataset.dims])
    return xr.apply_ufunc(
        partial(crossing, dataset.gain.values), ratio, input_core_dims=[["gain"]], vectorize=True
    )


def crossing(gains: np.ndarray, log_ratio: np.ndarray) -> float:
    """The gain at which log-ratios `[gains]` first rise through zero, NaN where they never do.

    Interpolated in log-ratio against log(gain).
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
        title_justify="left",
    )  # fmt: skip
    shown.add_column("scheme")
    for depth in dataset.depth.values:
        shown.add_column(f"{depth} layers", justify="right")
    for scheme in dataset.scheme.values:
        row = (float(found.sel(scheme=scheme, depth=d)) for d in dataset.depth.values)
        shown.add_row(str(scheme), *("none" if math.isnan(g) else f"{g:.3g}" for g in row))
    return shown


def export(dataset: xr.Dataset, file: Path, *, csv: bool) -> None:
    """As CSV, a row per network (and entry, for vectors), or as NetCDF; whole or not at all."""
    staging = file.with_name(f".{file.name}.partial")
    try:
        if csv:
            dataset.to_dataframe().to_csv(staging)
        else:
            dataset.to_netcdf(staging, engine="scipy")
        staging.replace(file)
    except OSError as error:
        raise ValueError(f"'{file}' cannot be written ({error.strerror or error}).") from None
    finally:
        staging.unlink(missing_ok=True)
