"""Calls of the public face that work; `test_face` makes ones of them that do not.

Of schemes, networks, training, sweeps, pictures and data.
"""

import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

import jinit
from jinit import data, networks, plots, theory

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (6, 4))
Y = jnp.arange(6) % 3
NET = jinit.MLP((4, 5, 5, 3), norm="batch")
PARAMS, STATE = jinit.init(KEY, NET)
STATS = networks.BatchStats(jnp.zeros(4), jnp.ones(4))
ONES = jnp.ones(4)
SGD = optax.sgd(0.1)

AXES = plots.figure(5)[1][0]  # each its own: what draws on a log axis leaves it behind
SWEPT = xr.Dataset(
    {"x": (("gain", "seed"), np.ones((3, 2)))}, {"gain": [1.0, 2.0, 3.0], "seed": [0, 1]}
)
CHECKED = xr.Dataset(
    {"size": (("step", "layer", "width", "seed"), np.ones((1, 2, 2, 1)))},
    {"step": [0], "layer": ["a", "b"], "width": [8, 16], "seed": [0]},
)
DIAGRAM = theory.phase_diagram("relu", weight_var=[1.0, 3.0], bias_var=[0.0, 0.1])
PREDICTED = theory.trajectory("relu", depth=2, weight_var=2.0)
SIGNALS = jinit.layer_signals(NET, PARAMS, STATE, X, Y)

NETWORK = {"net": NET, "params": PARAMS, "state": STATE}

# Every argument that is worth a mistake, with a value that works.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "MLP": (jinit.MLP, {"dims": (4, 5, 3), "activation": "tanh", "norm": "batch",
                        "residual": "plain", "bias": True, "momentum": 0.9, "eps": 1e-5}),
    "Network": (jinit.Network, {"init": lambda key: ({}, {}), "apply": lambda *a, **k: (a, k)}),
    "scheme": (jinit.scheme, {"name": "he", "gain": 1.0, "in_axis": -2, "out_axis": -1,
                              "batch_axis": ()}),
    "initializer": (jinit.scheme("he"), {"key": KEY, "shape": (3, 4), "dtype": jnp.float32}),
    "truncated_normal": (lambda **o: jinit.scheme("truncated_normal", **o)(KEY, (3, 3)),
                         {"scale": 1.0, "corrected": True, "mean": 0.0, "lower": -1.0,
                          "upper": 2.0}),
    "variance_scaling": (lambda **o: jinit.scheme("variance_scaling", **o)(KEY, (3, 3)),
                         {"scale": 1.0, "mode": "fan_avg", "distribution": "normal"}),
    "kaiming_normal": (lambda **o: jinit.scheme("kaiming_normal", **o)(KEY, (3, 3)),
                       {"a": 0.1, "mode": "fan_in", "nonlinearity": "relu"}),
    "init": (jinit.init, {"key": KEY, "net": NET, "scheme": "he", "bias_var": 0.1,
                          "dtype": jnp.float32, "gain": 1.0}),
    "init_params": (jinit.init_params, {"key": KEY, "dims": [4, 3], "scheme": "normal",
                                        "scale": 0.1}),
    "forward": (jinit.forward, NETWORK | {"x": X, "train": True}),
    "layer_signals": (jinit.layer_signals, NETWORK | {"x": X, "y": Y, "loss": "cross_entropy",
                                                      "train": True, "bins": [-1.0, 0.0, 1.0]}),
    "correlations": (jinit.correlations, NETWORK | {"x": X, "other": X + 1}),
    "measure_jacobian_spectrum": (jinit.measure_jacobian_spectrum, NETWORK | {"x": X}),
    "train_state": (jinit.train_state, {"params": PARAMS, "state": STATE, "optimizer": SGD}),
    "train_step": (jinit.train_step, {"net": NET, "optimizer": SGD, "loss": "cross_entropy"}),
    "a step": (jinit.train_step(NET, SGD), {"carry": jinit.train_state(PARAMS, STATE, SGD),
                                            "batch": (X, Y)}),
    "train": (jinit.train, {"key": KEY} | NETWORK | {
        "data": (X, Y), "optimizer": SGD, "steps": 2, "batch_size": 3, "loss": "cross_entropy",
        "opt_state": SGD.init(PARAMS), "first_step": 0, "eval_every": 1,
        "record": lambda params, state, batch: 1.0, "record_at": [0], "signals_at": [0]}),
    "evaluate": (jinit.evaluate, NETWORK | {"x": X, "y": Y, "loss": "cross_entropy"}),
    "batch_norm": (networks.batch_norm, {"x": X, "stats": STATS, "gamma": ONES, "beta": ONES,
                                         "train": True, "momentum": 0.9, "eps": 1e-5,
                                         "batch_axis": 0}),
    "layer_norm": (networks.layer_norm, {"x": X, "gamma": ONES, "beta": ONES, "eps": 1e-5,
                                         "batch_axis": 0}),
    "sweep": (jinit.sweep, {
        "fn": lambda key, *, n, a: {"x": n * a}, "static": {"n": [1.0]}, "traced": {"a": [2.0]},
        "seeds": 2, "prepare": None, "dims": {"x": ()}, "block": 1, "shard": (0, 1),
        "executor": None, "progress": False}),
    "Sweep": (jinit.Sweep, {
        "fn": lambda key, start, *, a: {"x": start * a}, "static": {}, "traced": {"a": [2.0]},
        "seeds": [3, 1], "prepare": lambda key: 1.0, "dims": {"x": ()}}),
    "dry_run": (jinit.dry_run, {"plan": jinit.Sweep(lambda key: {"x": 1.0}), "block": 1}),
    "figure": (plots.figure, {"columns": 2, "rows": 1, "width": 4.0, "height": 3.0,
                              "sharex": True}),
    "power_of_ten": (plots.power_of_ten, {"exponent": 2.0}),
    "band": (plots.band, {"ax": AXES[0], "x": [0, 1, 2], "runs": np.ones((2, 3)), "label": "a",
                          "color": "black", "quantiles": (0.1, 0.9), "linewidth": 1.0}),
    "histograms": (plots.histograms, {
        "ax": AXES[1], "counts": np.ones((2, 3)), "edges": [0.0, 1.0, 2.0, 3.0], "color": "black",
        "notes": ["a", "b"], "overlap": 1.5}),
    "weights": (plots.weights, {"ax": AXES[2], "w": np.ones((2, 3)), "limit": 1.0}),
    "gradient_map": (plots.gradient_map, {
        "ax": AXES[3], "scale": [0.5, 1.0, 2.0], "depth": [2, 10, 50], "limit": 10.0,
        "log_ratio": np.outer([-1.0, 0.5, 1.0], [2.0, 9.0, 20.0]), "marks": {"he": 1.5},
        "theory": [1.0, 1.0, 1.0]}),
    "grid": (plots.grid, {"dataset": SWEPT, "variable": "x", "title": "a"}),
    "coordinate_check": (plots.coordinate_check, {
        "dataset": CHECKED, "axes": [AXES[4]], "variable": "size", "title": "a"}),
    "phase_diagram": (plots.phase_diagram, {
        "theory": DIAGRAM, "marks": {"He": (2.0, 0.0)}, "limit": 1.0, "title": "a",
        "measured": {"weight_var": [2.0], "bias_var": [0.0], "log_slope": [0.0]}}),
    "signals": (plots.signals, {"measured": SIGNALS, "theory": PREDICTED, "title": "a"}),
    "digits": (data.digits, {
        "test_fraction": 0.5, "standardize": False, "seed": 1, "images": True}),
    "mnist1d": (data.mnist1d, {
        "samples": 40, "test_fraction": 0.5, "images": True, "seed": 1}),
    "patches": (data.patches, {"samples": 8, "side": 2, "whiten": True, "seed": 1}),
    "circles": (data.circles, {"samples": 20, "noise": 0.1, "factor": 0.5, "test_fraction": 0.2,
                               "standardize": True, "seed": 0}),
    "moons": (data.moons, {"samples": 20, "noise": 0.1, "test_fraction": 0.2, "standardize": True,
                           "seed": 0}),
    "gaussian": (data.gaussian, {"key": KEY, "samples": 20, "features": 3, "classes": 2,
                                 "test_fraction": 0.2}),
    "from_arrays": (data.from_arrays, {
        "x": np.arange(12.0).reshape(6, 2), "y": [0, 1, 0, 1, 0, 1], "test_fraction": 0.5,
        "standardize": True, "seed": 0}),
    "init_stats": (networks.init_stats, {"shape": (4,), "dtype": jnp.float32}),
}  # fmt: skip


class Nothing:
    """Of a class that nobody knows."""


BAD: dict[str, Any] = {
    "None": None, "text": "no_such_name", "nan": float("nan"), "inf": float("inf"), "-1": -1,
    "0": 0, "1.5": 1.5, "1j": 1j, "True": True, "[]": [], "{}": {}, "a class": Nothing(),
    "a function": lambda *_: "text", "empty": np.ones((0,)), "nans": np.full((6, 4), np.nan),
    "a matrix": np.ones((3, 5), np.float32), "words": ["a", "b"], "many": 10**30,
    "objects": np.array([None, "x"], object), "a key": KEY, "parameters": PARAMS,
}  # fmt: skip


class _Hang(BaseException):
    pass


def fault(
    function: Callable[..., Any], works: dict[str, Any], argument: str, value: Any, seconds: float
) -> str | None:
    """A raw traceback, a NaN for an answer or a hang; None where the call is answered."""

    def hang(*_: Any) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        out = function(**works | {argument: value})
        jax.block_until_ready(jax.tree.leaves(out))
    except _Hang:
        return f"no answer in {seconds:g} s"
    except Exception as error:
        return _raw(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return nan_in(out)


def nan_in(out: Any) -> str | None:
    """What is no number in an answer."""
    bad = [x for x in jax.tree.leaves(out) if _is_nan(x)]
    return f"NaN for an answer: {bad[0]}" if bad else None


ROOM = str(Path(jinit.__file__).parent)


def _raw(error: Exception) -> str | None:
    """What is wrong with an error, if it is not one sentence of jinit's own."""
    *_, last = traceback.extract_tb(error.__traceback__)
    what = f"{type(error).__name__}: {str(error)[:200]!r}"
    if any(
        note.startswith(("jinit traces apply", "jinit calls loss"))
        for note in getattr(error, "__notes__", ())
    ):
        return None  # of the model itself
    if not last.filename.startswith(ROOM):
        return f"raw, of {Path(last.filename).name}:{last.lineno}: {what}"
    if not isinstance(error, TypeError | ValueError) or not str(error):
        return f"no sentence: {what}"
    if len(str(error)) > 1200:
        return f"a sentence of {len(str(error))} letters: {what}"
    return None


def _is_nan(x: Any) -> bool:
    if not hasattr(x, "dtype") and not isinstance(x, float | complex):
        return False
    array = (
        np.asarray(x)
        if not jnp.issubdtype(getattr(x, "dtype", float), jax.dtypes.prng_key)
        else np.zeros(0)
    )
    return array.dtype.kind in "fc" and bool(np.isnan(array).any())
