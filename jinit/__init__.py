"""Does the signal survive the depth of this network?

jinit initialises networks by any published scheme, predicts what mean-field theory says of them,
and measures what really happens. The names below are the public face; they are resolved on first
use, so that importing jinit costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinit import activations, data, models, networks, plots, theory
    from jinit.activations import ACTIVATIONS
    from jinit.data import Data
    from jinit.fixing import FixResult, fix
    from jinit.models.auditing.audit import audit
    from jinit.models.auditing.comparing import compare_starts
    from jinit.models.diagnosis.measure import diagnose
    from jinit.models.drawing.reinit import reinit
    from jinit.models.model import Model
    from jinit.models.starts.table import STARTS
    from jinit.networks.base import Network
    from jinit.networks.convnet import ConvNet
    from jinit.networks.correlations import Correlations, correlations
    from jinit.networks.jacobian import measure_jacobian_spectrum
    from jinit.networks.mlp import MLP, forward, init, init_params
    from jinit.networks.params import ConvLayer, Layer, NormState, Params
    from jinit.networks.signals import LayerSignals, layer_signals
    from jinit.networks.training import (
        TrainResult,
        TrainState,
        evaluate,
        train,
        train_state,
        train_step,
    )
    from jinit.runtime import configure
    from jinit.schemes import SCHEMES, scheme
    from jinit.sweeps import Sweep, dry_run, load, sweep
    from jinit.theory import gain
    from jinit.tour import take_tour
    from jinit.trainability import map_trainability

__version__ = "0.2.0"

__all__ = [
    "ACTIVATIONS", "MLP", "SCHEMES", "STARTS", "ConvLayer", "ConvNet", "Correlations", "Data",
    "FixResult", "Layer", "LayerSignals", "Model", "Network", "NormState", "Params", "Sweep",
    "TrainResult", "TrainState", "activations", "audit", "compare_starts", "configure",
    "correlations", "data", "diagnose", "dry_run", "evaluate", "fix", "forward", "gain",
    "init", "init_params", "layer_signals", "load", "map_trainability",
    "measure_jacobian_spectrum", "models", "networks", "plots", "reinit", "scheme", "sweep",
    "take_tour", "theory", "train", "train_state", "train_step",
]  # fmt: skip

_MODULES = ("activations", "data", "models", "networks", "plots", "theory")
_NAMES = {
    "activations": "ACTIVATIONS",
    "data": "Data",
    "models": "Model audit compare_starts diagnose reinit",
    "models.starts.table": "STARTS",
    "fixing": "FixResult fix",
    "networks.base": "Network",
    "networks.convnet": "ConvNet",
    "networks.correlations": "Correlations correlations",
    "networks.jacobian": "measure_jacobian_spectrum",
    "networks.mlp": "MLP forward init init_params",
    "networks.params": "ConvLayer Layer NormState Params",
    "networks.signals": "LayerSignals layer_signals",
    "networks.training": "TrainResult TrainState evaluate train train_state train_step",
    "runtime": "configure",
    "schemes": "SCHEMES scheme",
    "sweeps": "Sweep dry_run load sweep",
    "theory": "gain",
    "tour": "take_tour",
    "trainability": "map_trainability",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

# What 0.1 called otherwise.
_RENAMED = {"batchnorm": "jinit.networks (batch_norm, layer_norm, BatchStats)"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"jinit.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"jinit.{name}")
    elif name in _RENAMED:
        raise AttributeError(f"jinit.{name} of jinit 0.1 is now {_RENAMED[name]}.")
    else:
        raise AttributeError(f"module 'jinit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
