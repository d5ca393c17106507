"""Does the signal survive the depth of this network?

jinit initialises networks by any published scheme, predicts what mean-field theory says of them,
and measures what really happens. The names below are the public face; they are resolved on first
use, so that importing jinit costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinit import activations, batchnorm, data, models, plots, theory
    from jinit.activations import ACTIVATIONS
    from jinit.models.audit import audit
    from jinit.models.diagnose import diagnose
    from jinit.models.reinit import reinit
    from jinit.networks import MLP, forward, init, init_params
    from jinit.params import Layer, NormState, Params
    from jinit.runtime import configure
    from jinit.schemes import SCHEMES, scheme
    from jinit.signals import LayerSignals, layer_signals
    from jinit.sweeps import Sweep, load, sweep
    from jinit.theory import gain
    from jinit.training import (
        TrainResult,
        TrainState,
        evaluate,
        train,
        train_state,
        train_step,
    )
    from jinit.types import Data

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "SCHEMES",
    "Data",
    "Layer",
    "LayerSignals",
    "NormState",
    "Params",
    "Sweep",
    "TrainResult",
    "TrainState",
    "activations",
    "audit",
    "batchnorm",
    "configure",
    "data",
    "diagnose",
    "evaluate",
    "forward",
    "gain",
    "init",
    "init_params",
    "layer_signals",
    "load",
    "models",
    "plots",
    "reinit",
    "scheme",
    "sweep",
    "theory",
    "train",
    "train_state",
    "train_step",
]

_HOMES = {
    "ACTIVATIONS": "activations",
    "MLP": "networks",
    "SCHEMES": "schemes",
    "Data": "types",
    "Layer": "params",
    "LayerSignals": "signals",
    "NormState": "params",
    "Params": "params",
    "Sweep": "sweeps",
    "TrainResult": "training",
    "TrainState": "training",
    "audit": "models",
    "configure": "runtime",
    "diagnose": "models",
    "evaluate": "training",
    "forward": "networks",
    "gain": "theory",
    "init": "networks",
    "init_params": "networks",
    "layer_signals": "signals",
    "load": "sweeps",
    "reinit": "models",
    "scheme": "schemes",
    "sweep": "sweeps",
    "train": "training",
    "train_state": "training",
    "train_step": "training",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"jinit.{_HOMES[name]}"), name)
    elif name in __all__:
        value = import_module(f"jinit.{name}")
    else:
        raise AttributeError(f"module 'jinit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
