"""The models of `tests.zoo.defaults`, for `audit_frameworks.py`."""

from tests.zoo.defaults import DEEP, DEPTH, DIMS, FEATURES, MODELS, WIDTH, Layers

__all__ = ["DEEP", "DEPTH", "DIMS", "FEATURES", "MODELS", "WIDTH", "Layers"]
