"""Pennington, Schoenholz & Ganguli 2017/2018: the spectrum of the input-output Jacobian.

The eigenvalues of J J^T, J = D_L W_L ... D_1 W_1, of deep networks at their critical point:
Gaussian weights spread them over orders of magnitude however the activation is chosen, and so does
ReLU whatever the weights; orthogonal weights with tanh keep them near 1 for many layers. Theory is
compared with the papers' formulas, and with networks of widths N and 2 N, extrapolated.

Sources: Pennington et al., "Resurrecting the sigmoid" (2017); "The emergence of spectral
universality in deep networks" (2018).
"""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from harness.checks import Check, Estimate, average, compare, extrapolate, printed
from harness.experiment import Experiment
from harness.figures import BLUE, GREEN, ORANGE, PURPLE, Figure, label, panels

import jinit

TRACY_WIDOM_MEAN = -1.2065335745820
NEAR_EDGE = 0.15  # of the largest eigenvalue, from which the density's end is read
STATISTICS = ["mean", "second moment", "largest"]


# Of networks at their critical point: activation, weights, depth, and the variance q of the
# pre-activations.
ENSEMBLES = {
    "linear, Gaussian, L = 4": ("identity", "gaussian", 4, 1.0),
    "ReLU, Gaussian (He), L = 4": ("relu", "gaussian", 4, 1.0),
    "ReLU, orthogonal, L = 4": ("relu", "orthogonal", 4, 1.0),
    "tanh, Gaussian, L = 8": ("tanh", "gaussian", 8, 1 / 16),
    "tanh, orthogonal, L = 8": ("tanh", "orthogonal", 8, 1 / 16),
    "tanh, orthogonal, L = 32": ("tanh", "orthogonal", 32, 1 / 16),
}
COLOURS = (PURPLE, GREEN, GREEN, ORANGE, BLUE, BLUE)

# (quantity, activation, weights, q, {depth: printed})
PUBLISHED = [
    ("largest", "identity", "gaussian", 1.0,
     {1: "4.00000", 2: "6.75000", 3: "9.48148", 4: "12.20703", 10: "28.531167"}),
    ("largest", "relu", "gaussian", 1.0, {1: "5.828427", 2: "11.090170", 4: "21.858249"}),
    ("largest", "relu", "orthogonal", 1.0, {1: "2.000000", 2: "4.000000", 4: "9.481481"}),
    ("variance", "tanh", "orthogonal", 1 / 16, {1: "0.0191902"}),
    ("variance", "tanh", "orthogonal", 1 / 64, {1: "0.00168937"}),
]  # fmt: skip


@cache
def predict(ensemble: str) -> jinit.theory.JacobianSpectrum:
    """At infinite width."""
    activation, weights, depth, q = ENSEMBLES[ensemble]
    return jinit.theory.jacobian_spectrum(activation, depth, weights, q=q)


def measure(seeds: int = 240, width: int = 80) -> xr.Dataset:
    """Eigenvalues of J J^T of as many networks of this width as of twice it."""

    def run(key: jax.Array, *, ensemble: str, units: int) -> dict[str, jax.Array]:
        activation, weights, depth, q = ENSEMBLES[ensemble]
        point = jinit.theory.critical(activation, q=q)
        # Of the length at which the first layer's pre-activations have variance q.
        key = jax.random.fold_in(key, units)
        x_key, init_key = jax.random.split(key)
        x = jax.random.normal(x_key, (1, units))
        x = x * jnp.sqrt((q - point.bias_var) / point.weight_var / jnp.mean(x**2))
        net = jinit.MLP((units,) * (depth + 1) + (1,), activation=activation)
        scheme = "xavier" if weights == "gaussian" else "orthogonal"
        variances = {"gain": math.sqrt(point.weight_var), "bias_var": point.bias_var}
        params, state = jinit.init(init_key, net, scheme, **variances)
        return {"eigenvalue": jinit.measure_jacobian_spectrum(net, params, state, x)[0]}

    axes = {"ensemble": tuple(ENSEMBLES), "units": [width, 2 * width]}
    return jinit.sweep(run, static=axes, seeds=seeds, dims={"eigenvalue": ("rank",)}).astype(float)


def below_edge(theory: jinit.theory.JacobianSpectrum, width: int) -> float:
    """The mean of Tracy and Widom, where the density ends as (c / pi) sqrt(edge - x)."""
    gap = theory.largest - theory.eigenvalue
    near = (gap > 0) & (gap < NEAR_EDGE * theory.largest)
    ends = math.pi * theory.density[near] / np.sqrt(gap[near])
    c = np.polyfit(gap[near] / theory.largest, ends, 3)[-1]
    return float(TRACY_WIDOM_MEAN * (c * width) ** (-2 / 3))


def statistics(eigenvalue: xr.DataArray, theory: jinit.theory.JacobianSpectrum) -> Estimate:
    """Mean, second moment and largest, less what the width takes from the largest; `[3]`."""
    width = int(eigenvalue.units)
    eigenvalue = eigenvalue.isel(rank=slice(width))  # of a narrow one the others are not there
    mean = eigenvalue.mean("rank", skipna=False)
    below = below_edge(theory, width) / float(theory.moments[0])
    second = (eigenvalue**2).mean("rank") / mean**2
    largest = eigenvalue.max("rank") / mean - below
    return average(xr.concat([mean, second, largest], "what").assign_coords(what=STATISTICS))


def compare_with_print() -> list[Check]:
    """The numbers of the papers' formulas beside theory."""
    found = []
    for quantity, activation, weights, q, texts in PUBLISHED:
        group = f"{quantity} of the eigenvalues, jinit.theory.jacobian_spectrum"
        for depth, text in texts.items():
            theory = jinit.theory.jacobian_spectrum(activation, depth, weights, q=q)
            what = f"{activation}, {weights}, L = {depth}" + (f", q = {q:g}" if q != 1 else "")
            found.append(printed(group, what, text, getattr(theory, quantity)))
    return found


def checks(data: xr.Dataset) -> list[Check]:
    """The papers' formulas beside theory, and theory beside sampled Jacobians."""
    found = compare_with_print()
    narrow, wide = data.units.values
    for name in data.ensemble.values.tolist():
        theory = predict(name)
        mean = float(theory.moments[0])
        expected = [mean, theory.moments[1] / mean**2, theory.largest / mean]
        samples = data.eigenvalue.sel(ensemble=name)
        seen = extrapolate(*(statistics(samples.sel(units=n), theory) for n in (narrow, wide)))
        group = f"{name}: {seen.seeds} nets of {narrow} and {wide} units"
        found += compare(group, "{what}", expected, seen, "theory")
    return found


def figure(data: xr.Dataset) -> Figure:
    """Theory's densities over histograms of the sampled eigenvalues."""
    wide = int(data.units[-1])
    title = "Orthogonal layers of tanh spread directions least:\n"
    title += "32 of them less than 4 or 8 of any other kind"
    note = f"Histograms: {data.sizes['seed']} networks of width {wide}; lines: theory, and its edge"
    fig, axes = panels(title, note, (13, 8.6), rows=2, columns=3)
    for panel, name, colour in zip(axes, ENSEMBLES, COLOURS, strict=True):
        theory, sampled = predict(name), data.eigenvalue.sel(ensemble=name, units=wide).values
        top = 1.08 * max(theory.largest, sampled.max())
        bins = np.linspace(0, top, 60)
        share = np.histogram(sampled[sampled > 1e-9], bins)[0] / sampled.size / bins[1]
        panel.stairs(share, bins, fill=True, color=colour, alpha=0.55)
        panel.plot(theory.eigenvalue, theory.density, color="black")
        panel.axvline(theory.largest, color="black", linestyle=":")
        if name.startswith("tanh, orthogonal"):
            panel.set_ylim(0, 1.3 * share.max())
        else:
            panel.set(yscale="log", ylim=(2e-3, 10))
        zeros = sum(share for position, share in theory.atoms if position == 0)
        title = f"{name}\nvariance {theory.variance:.3g}, largest {theory.largest:.3g}"
        title += f", {zeros:.0%} 0" if zeros else ""
        label(panel, title, "eigenvalue of J Jᵀ", "density", xlim=(0, top))
        panel.title.set_fontsize(11)
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, checks, figure, cpu_devices=1,
    quick={"seeds": 150, "width": 40}, lacks="90 of 240 networks, and widths above 80",
)  # fmt: skip
EXPERIMENT.run(__name__)
