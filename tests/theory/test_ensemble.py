"""One object that is asked many things, and the functions that ask it one."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest

from jinit import theory
from jinit.theory.moments.curve import curve

NET = theory.Ensemble("tanh", weight_var=1.5, bias_var=0.05)
QUESTIONS = {
    "length_map": {"q": 0.7},
    "length_fixed_point": {},
    "correlation_map": {"c": 0.3},
    "correlation_trajectory": {"c": 0.3, "depth": 4},
    "correlation_fixed_point": {"q": 0.5},
    "chi": {"q": 0.7},
    "phase": {},
    "depth_scales": {},
    "jacobian_spectrum": {"depth": 2, "points": 20},
    "trajectory": {"depth": 4, "width": 20},
    "gradient_log_slope": {"norm": "batch"},
    "layer_norm_growth": {},
    "finite_width": {"widths": [20, 30]},
    "scatter_depth": {"width": 4},
    "shattering": {"depth": 3},
    "mode_factors": {"image": (4, 4)},
}


@pytest.mark.parametrize("name", [n for n in theory.__all__ if hasattr(theory.Ensemble, n)])
def test_a_function_asks_what_the_method_answers(name):
    function, asked = getattr(theory, name), QUESTIONS[name]
    takes = inspect.signature(function).parameters
    variances = {k: getattr(NET, k) for k in ("weight_var", "bias_var") if k in takes}
    found, same = function("tanh", **variances, **asked), getattr(NET, name)(**asked)
    jax.tree.map(np.testing.assert_array_equal, found, same)
    method = inspect.signature(getattr(theory.Ensemble, name)).parameters
    assert set(takes) == {"activation", *variances, *list(method)[1:]} | ({"all_points"} & {*takes})
    assert inspect.getdoc(getattr(NET, name)) in function.__doc__


def test_all_fixed_points():
    variances = {"weight_var": NET.weight_var, "bias_var": NET.bias_var}
    assert NET.length_fixed_points() == theory.length_fixed_point(
        "tanh", **variances, all_points=True
    )
    assert NET.correlation_fixed_points() == theory.correlation_fixed_point(
        "tanh", **variances, all_points=True
    )


def test_it_is_a_frozen_value():
    same = theory.Ensemble("tanh", weight_var=np.float64(1.5), bias_var=0.05)
    assert same == NET
    assert hash(same) == hash(NET)
    assert repr(NET) == "Ensemble(activation='tanh', weight_var=1.5, bias_var=0.05)"
    assert NET.phi is curve("tanh")
    assert theory.Ensemble(NET.phi, weight_var=1.5, bias_var=0.05).depth_scales() == (
        NET.depth_scales()
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        NET.weight_var = 2.0
    wider = dataclasses.replace(NET, weight_var=3.0)
    assert isinstance(wider, theory.Ensemble)
    assert wider.phase() == "chaotic"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"activation": "tanhh"}, ValueError, "tanh"),
        ({"activation": jax.nn.softmax}, ValueError, "elementwise"),
        ({"weight_var": -1.0}, ValueError, "weight_var is a variance and must not be negative"),
        ({"bias_var": float("nan")}, ValueError, "bias_var"),
        ({"bias_var": "a"}, TypeError, "bias_var"),
    ],
)
@pytest.mark.bad_input
def test_bad_input_is_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        theory.Ensemble(**{"activation": "tanh", "weight_var": 1.0, **arguments})
