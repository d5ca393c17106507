"""What mean-field theory predicts, in float64, before a weight is drawn.

Activations are given by name or as any elementwise jax.numpy function. Variances are those of
Poole et al. 2016 and Schoenholz et al. 2017: weights N(0, weight_var / fan_in), biases
N(0, bias_var), pre-activations of variance q. So "xavier" with gain sqrt(weight_var) draws the
weights that `weight_var` describes, and "he" is weight_var 2.
"""

from jinit.theory.advice import Recommendation, recommend
from jinit.theory.ensemble import (
    Ensemble,
    chi,
    correlation_fixed_point,
    correlation_map,
    correlation_trajectory,
    depth_scales,
    finite_width,
    gradient_log_slope,
    jacobian_spectrum,
    layer_norm_growth,
    length_fixed_point,
    length_map,
    mode_factors,
    phase,
    scatter_depth,
    shattering,
    trajectory,
)
from jinit.theory.layers.batch_norm import (
    batch_norm_growth,
    batch_norm_moments,
    batch_norm_spread,
    batch_norm_stability,
)
from jinit.theory.layers.batches import BatchNormMoments
from jinit.theory.layers.dead import dead_chance
from jinit.theory.layers.finite_width import FiniteWidth
from jinit.theory.layers.shattering import Shattering
from jinit.theory.layers.trajectory import Band, Trajectory
from jinit.theory.maps.correlations import CorrelationFixedPoint
from jinit.theory.maps.criticality import (
    Chi,
    Critical,
    CriticalLine,
    DoublyCritical,
    NoCriticalPointError,
    critical,
    critical_line,
    doubly_critical,
)
from jinit.theory.maps.depth_scales import DepthScales
from jinit.theory.maps.dropout import Dropout, dropout
from jinit.theory.maps.gains import gain
from jinit.theory.maps.lengths import LengthFixedPoint, fan_in
from jinit.theory.maps.modes import ModeFactors
from jinit.theory.maps.phase_diagram import PhaseDiagram, phase_diagram
from jinit.theory.maps.shaped import ShapedActivation, dks, gaussian_poincare, tat
from jinit.theory.maps.tailored import SeluParameters, selu_parameters, tat_slope
from jinit.theory.moments.curve import MomentError
from jinit.theory.moments.expectation import expectation
from jinit.theory.moments.grid import Answers
from jinit.theory.spectra.jacobian import JacobianSpectrum
from jinit.theory.spectra.linear_nets import (
    LinearSingularValues,
    linear_dynamics,
    linear_dynamics_time,
    linear_singular_values,
)

__all__ = [
    "Answers", "Band", "BatchNormMoments", "Chi", "CorrelationFixedPoint", "Critical",
    "CriticalLine", "DepthScales", "DoublyCritical", "Dropout", "Ensemble", "FiniteWidth",
    "JacobianSpectrum", "LengthFixedPoint", "LinearSingularValues", "ModeFactors",
    "MomentError", "NoCriticalPointError", "PhaseDiagram", "Recommendation", "SeluParameters",
    "ShapedActivation", "Shattering", "Trajectory", "batch_norm_growth", "batch_norm_moments",
    "batch_norm_spread", "batch_norm_stability", "chi", "correlation_fixed_point",
    "correlation_map", "correlation_trajectory", "critical", "critical_line", "dead_chance",
    "depth_scales", "dks", "doubly_critical", "dropout", "expectation", "fan_in",
    "finite_width", "gain", "gaussian_poincare", "gradient_log_slope", "jacobian_spectrum",
    "layer_norm_growth", "length_fixed_point", "length_map", "linear_dynamics",
    "linear_dynamics_time", "linear_singular_values", "mode_factors", "phase", "phase_diagram",
    "recommend", "scatter_depth", "selu_parameters", "shattering", "tat", "tat_slope",
    "trajectory",
]  # fmt: skip
