"""Calls of theory that work, for `test_face`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jinit import theory

ONE = {"activation": "tanh", "weight_var": 1.5, "bias_var": 0.1}

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "theory.Ensemble": (theory.Ensemble, ONE),
    "theory.batch_norm_growth": (theory.batch_norm_growth, {
        "activation": "relu", "batch": 8, "allow_unstable": False}),
    "theory.batch_norm_moments": (theory.batch_norm_moments, {"activation": "relu", "batch": 8}),
    "theory.batch_norm_spread": (theory.batch_norm_spread, {"activation": "relu", "batch": 8}),
    "theory.batch_norm_stability": (theory.batch_norm_stability, {
        "activation": "relu", "batch": 8}),
    "theory.chi": (theory.chi, ONE | {"q": 1.0}),
    "theory.correlation_fixed_point": (theory.correlation_fixed_point, ONE | {
        "q": 1.0, "all_points": False}),
    "theory.correlation_map": (theory.correlation_map, ONE | {"c": 0.5, "q": 1.0}),
    "theory.correlation_trajectory": (theory.correlation_trajectory, ONE | {
        "c": 0.5, "depth": 5, "input_second_moment": 1.0}),
    "theory.critical": (theory.critical, {"activation": "tanh", "bias_var": 0.1,
                                          "all_points": False}),
    "theory.critical at q": (theory.critical, {"activation": "tanh", "q": 0.5}),
    "theory.critical_line": (theory.critical_line, {"activation": "tanh", "q": [0.1, 1.0]}),
    "theory.dead_chance": (theory.dead_chance, {"activation": "relu", "widths": [4, 4], "q": 1.0}),
    "theory.depth_scales": (theory.depth_scales, ONE),
    "theory.dks": (theory.dks, {"activation": "tanh", "depth": 5, "slope": 1.5}),
    "theory.doubly_critical": (theory.doubly_critical, {"activation": "gelu"}),
    "theory.dropout": (theory.dropout, {"activation": "relu", "keep": 0.9, "weight_var": 1.8,
                                        "bias_var": 0.1, "q": 1.0}),
    "theory.expectation": (theory.expectation, {"function": "tanh", "q": 1.0}),
    "theory.fan_in": (theory.fan_in, {"kernel": (3, 3), "channels_in": 4}),
    "theory.finite_width": (theory.finite_width, {
        "activation": "relu", "widths": [8, 8, 8], "weight_var": 2.0, "bias_var": 0.0, "q": 1.0}),
    "theory.gain": (theory.gain, {"activation": "tanh", "q": 1.0, "kind": "second_moment"}),
    "theory.gaussian_poincare": (theory.gaussian_poincare, {"activation": "tanh"}),
    "theory.gradient_log_slope": (theory.gradient_log_slope, ONE | {
        "norm": "batch", "batch": 8, "residual": False, "branch_scale": 0.5, "q": 1.0,
        "allow_unstable": False}),
    "theory.jacobian_spectrum": (theory.jacobian_spectrum, {
        "activation": "tanh", "depth": 3, "weights": "orthogonal", "weight_var": 1.0, "q": 1.0,
        "moments": 2, "points": 20}),
    "theory.layer_norm_growth": (theory.layer_norm_growth, ONE),
    "theory.length_fixed_point": (theory.length_fixed_point, ONE | {
        "q": 1.0, "all_points": False}),
    "theory.length_map": (theory.length_map, ONE | {"q": 1.0}),
    "theory.linear_dynamics": (theory.linear_dynamics, {
        "t": np.linspace(0, 5, 4), "s": 1.0, "u0": 0.1, "depth": 2, "tau": 1.0}),
    "theory.linear_dynamics_time": (theory.linear_dynamics_time, {
        "u": 0.5, "s": 1.0, "u0": 0.1, "depth": 2, "tau": 1.0}),
    "theory.linear_singular_values": (theory.linear_singular_values, {
        "weight_var": 1.0, "aspect": 0.5}),
    "theory.mode_factors": (theory.mode_factors, ONE | {"image": (4, 4), "kernel": 3}),
    "theory.phase": (theory.phase, ONE),
    "theory.phase_diagram": (theory.phase_diagram, {
        "activation": "tanh", "weight_var": [0.5, 1.5], "bias_var": [0.0, 0.1]}),
    "theory.recommend": (theory.recommend, {"activation": "tanh", "width": 64}),
    "theory.scatter_depth": (theory.scatter_depth, ONE | {"q": 1.0, "width": 64}),
    "theory.selu_parameters": (theory.selu_parameters, {"mean": 0.0, "variance": 1.0}),
    "theory.shattering": (theory.shattering, ONE | {
        "depth": 4, "c": 0.1, "fixed": False, "norm": "layer", "residual": True,
        "branch_scale": 0.5, "input_second_moment": 1.0}),
    "theory.tat": (theory.tat, {"activation": "tanh", "depth": 5, "curvature": 0.3}),
    "theory.tat_slope": (theory.tat_slope, {"depth": 50, "eta": 0.9}),
    "theory.trajectory": (theory.trajectory, ONE | {
        "depth": 4, "input_second_moment": 1.0, "width": None, "norm": "layer", "batch": None,
        "residual": False, "branch_scale": 1.0, "allow_unstable": False}),
}  # fmt: skip
