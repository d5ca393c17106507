"""Calls of everything that reads a model, for `test_face`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jinit
from jinit import models

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (6, 4))
Y = jnp.arange(6) % 3
W = {"a": jax.random.normal(KEY, (4, 5)), "b": jax.random.normal(KEY, (5, 3)),
     "c": jnp.zeros(3)}  # fmt: skip


def net(w: Any, x: Any) -> Any:
    """Two layers, of which one has a bias."""
    return jnp.tanh(x @ w["a"]) @ w["b"] + w["c"][None]


def branches(w: Any, x: Any) -> Any:
    """A residual network of two branches."""
    for name in ("a", "b"):
        x = x + jnp.tanh(x @ w[name]["in"]) @ w[name]["out"]
    return x @ w["head"]


BRANCHES = {
    "a": {"in": jnp.ones((4, 5)), "out": jnp.ones((5, 4))},
    "b": {"in": jnp.ones((4, 5)), "out": jnp.ones((5, 4))},
    "head": jnp.ones((4, 3)),
}


def make(width: int) -> Any:
    """The network as wide, and how it is drawn and trained."""

    def init(key: Any) -> Any:
        first, last = jax.random.split(key)
        return {"a": jax.random.normal(first, (4, width)), "b": jax.random.normal(last, (width, 3)),
                "c": jnp.zeros(3)}  # fmt: skip

    return models.Setup(net, init, (X,), lambda out: jnp.mean(out**2), optax.sgd(0.1))


def one_input(function: Callable[..., Any]) -> Callable[..., Any]:
    """Its inputs as one argument of a name."""

    def call(apply: Any, variables: Any, x: Any, **options: Any) -> Any:
        first = [options.pop("key")] if "key" in options else []
        return function(*first, apply, variables, x, **options)

    return call


def square(out: Any) -> Any:
    """A loss."""
    return jnp.mean(out**2)


READ = {"apply": net, "variables": W, "x": X, "rules": {"['c']": "bias"}}
DRAWN = {"key": KEY} | READ
LOSS = {"loss": square}

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Model": (one_input(jinit.Model), READ | LOSS),
    "audit": (one_input(jinit.audit), READ | {"conventions": ["torch", "flax"]}),
    "diagnose": (one_input(jinit.diagnose), READ | {
        "loss": lambda out, y: jnp.mean(out[jnp.arange(6), y]), "targets": Y}),
    "reinit": (one_input(jinit.reinit), DRAWN | {"scheme": "he", "gain": 1.0}),
    "reinit a start": (one_input(jinit.reinit), DRAWN | {
        "start": "torch", "start_options": {}}),
    "compare_starts": (jinit.compare_starts, {
        "a": jinit.Model(net, W, X), "b": jinit.Model(net, W, X)}),
    "models.roles": (one_input(models.roles), READ),
    "models.labels": (one_input(models.labels), READ),
    "models.layer_numbers": (one_input(models.layer_numbers), READ),
    "models.weight_decay_mask": (one_input(models.weight_decay_mask), READ | {
        "embeddings": False}),
    "models.muon_dimension_numbers": (one_input(models.muon_dimension_numbers), READ | {
        "embeddings": False, "readout": False}),
    "models.mup": (one_input(models.mup), {
        "apply": branches, "variables": BRANCHES, "x": X, "base_variables": BRANCHES,
        "biases": "fan_in", "depth": 2.0, "alpha": 1.0, "branches": "weights"}),
    "models.lsuv": (one_input(models.lsuv), DRAWN | {
        "scheme": "he", "std": 1.0, "passes": 2}),
    "models.fixup": (one_input(models.fixup), {
        "key": KEY, "apply": branches, "variables": BRANCHES, "x": X, "scheme": "he"}),
    "models.skipinit": (one_input(models.skipinit), {
        "key": KEY, "apply": branches, "variables": BRANCHES, "x": X, "alpha": 0.0,
        "scheme": "he"}),
    "models.gradient_quotient": (one_input(models.gradient_quotient), READ | LOSS | {"eps": 1e-5}),
    "models.gradinit": (one_input(models.gradinit), READ | LOSS | {
        "steps": 2, "learning_rate": 0.01, "optimizer": "sgd", "step_size": 0.1, "gamma": 1.0,
        "lower": 0.01, "clip": 1.0}),
    "models.metainit": (one_input(models.metainit), DRAWN | LOSS | {
        "steps": 2, "learning_rate": 0.1, "momentum": 0.9, "eps": 1e-5, "lower": 0.01}),
    "models.sharpness": (one_input(models.sharpness), DRAWN | LOSS | {
        "count": 1, "rates": True, "momentum": 0.9, "beta1": 0.9, "eps": 1e-8,
        "tolerance": 0.01, "max_products": 200}),
    "models.coordinate_check": (models.coordinate_check, {
        "make": make, "widths": [4, 8], "key": KEY, "steps": 1, "seeds": 1}),
    "fix": (jinit.fix, {
        "key": KEY, "apply": net, "variables": W, "data": (X, Y), "loss": "cross_entropy",
        "optimizer": optax.sgd, "learning_rate": 0.1, "steps": 2, "seeds": 1, "batch_size": 3,
        "minutes": 0.2, "progress": False}),
}  # fmt: skip
