"""Pennington, Schoenholz & Ganguli 2017/2018: the spectrum of the input-output Jacobian.

The eigenvalues of J J^T, J = D_L W_L ... D_1 W_1, of deep networks at their critical point:
Gaussian weights spread them over orders of magnitude however the activation is chosen, and so does
ReLU whatever the weights; orthogonal weights with tanh keep them near 1 for many layers. The
numbers of the papers' formulas are compared with `jinit.theory.jacobian_spectrum` to their last
digit, and theory with the Jacobians of networks of widths N and 2 N:

- their mean eigenvalue, which the scale of the weights decides;
- their second moment, in units of the squared mean of each network, whose scatter multiplies all
  eigenvalues of a network alike;
- their largest eigenvalue, in units of that mean. At finite width it stays below the edge E. Where
  theory's density ends as (c / pi) sqrt(E - x), the largest of N eigenvalues is, in the mean, at
  E - 1.2065 (c N)^(-2/3) (Tracy & Widom 1996; real matrices). That is taken out.

What is left goes as 1/N and drops out of 2 m(2 N) - m(N), which must be theory's number within
five standard errors over networks (Student's t).

Sources: Pennington et al., "Resurrecting the sigmoid" (2017); "The emergence of spectral
universality in deep networks" (2018).
"""

import math
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _common import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    Check,
    Estimate,
    arguments,
    average,
    console,
    extrapolate,
    finish,
    printed,
    progress,
    verdict,
    write_checks,
    write_csv,
)
from matplotlib.figure import Figure

import jinit

NAME = "pennington2017_jacobian_spectra"
WIDTH, QUICK_WIDTH, SEEDS, QUICK_SEEDS = 80, 40, 240, 150  # and as many of twice the width
TRACY_WIDOM_MEAN = -1.2065335745820
NEAR_EDGE = 0.15  # of the largest eigenvalue, from which the density's end is read
Q = 1 / 16  # of the tanh networks


class Setting(NamedTuple):
    """An ensemble of networks at its critical point."""

    title: str
    activation: str
    weights: str
    scheme: str
    depth: int
    colour: str


SETTINGS = [
    Setting("linear, Gaussian", "identity", "gaussian", "xavier", 4, PURPLE),
    Setting("ReLU, Gaussian (He)", "relu", "gaussian", "he", 4, GREEN),
    Setting("ReLU, orthogonal", "relu", "orthogonal", "orthogonal", 4, GREEN),
    Setting("tanh, Gaussian", "tanh", "gaussian", "xavier", 8, ORANGE),
    Setting("tanh, orthogonal", "tanh", "orthogonal", "orthogonal", 8, BLUE),
    Setting("tanh, orthogonal", "tanh", "orthogonal", "orthogonal", 32, BLUE),
]

# (activation, weights, depth, q, quantity, printed)
PUBLISHED = [
    *(("identity", "gaussian", depth, 1.0, "largest", text) for depth, text in
      ((1, "4.00000"), (2, "6.75000"), (3, "9.48148"), (4, "12.20703"), (10, "28.531167"))),
    *(("relu", "gaussian", depth, 1.0, "largest", text) for depth, text in
      ((1, "5.828427"), (2, "11.090170"), (4, "21.858249"))),
    *(("relu", "orthogonal", depth, 1.0, "largest", text) for depth, text in
      ((1, "2.000000"), (2, "4.000000"), (4, "9.481481"))),
    ("tanh", "orthogonal", 1, 1 / 16, "variance", "0.0191902"),
    ("tanh", "orthogonal", 1, 1 / 64, "variance", "0.00168937"),
]  # fmt: skip


class Found(NamedTuple):
    """Eigenvalues of J J^T of sampled networks of both widths, `[seeds, width]`, and theory."""

    setting: Setting
    narrow: np.ndarray
    wide: np.ndarray
    theory: jinit.theory.JacobianSpectrum


def main() -> int:
    """Measure, compare, write, and return the exit status."""
    options = arguments(
        NAME, __doc__, quick=f"{QUICK_SEEDS} networks of widths {QUICK_WIDTH} and "
        f"{2 * QUICK_WIDTH} instead of {SEEDS} of widths {WIDTH} and {2 * WIDTH}",
    )  # fmt: skip
    width, seeds = (QUICK_WIDTH, QUICK_SEEDS) if options.quick else (WIDTH, SEEDS)
    console.print(f"{seeds} networks of {width} units, and as many of {2 * width}, each.")
    found = []
    with progress() as bar:
        task = bar.add_task("networks", total=2 * len(SETTINGS) * seeds)
        for setting, key in zip(
            SETTINGS, jax.random.split(jax.random.key(2017), len(SETTINGS)), strict=True
        ):
            both = []
            for of_width, width_key in zip((width, 2 * width), jax.random.split(key), strict=True):
                both.append(measure(width_key, setting, of_width, seeds))
                bar.advance(task, seeds)
            found.append(Found(setting, *both, predict(setting)))
    checks = [*compare_with_print(), *(check for each in found for check in compare(each))]
    write_checks(options.out / "published_measured.csv", checks)
    write_csv(
        options.out / "eigenvalues.csv",
        ("setting", "depth", "width", "seed", "eigenvalue"),
        ((f.setting.title, f.setting.depth, len(run), seed, float(e)) for f in found
         for runs in (f.narrow, f.wide) for seed, run in enumerate(runs) for e in run),
    )  # fmt: skip
    write_csv(
        options.out / "density.csv",
        ("setting", "depth", "eigenvalue", "density"),
        ((f.setting.title, f.setting.depth, float(x), float(y)) for f in found
         for x, y in zip(f.theory.eigenvalue, f.theory.density, strict=True)),
    )  # fmt: skip
    draw(options.out / f"{NAME}.png", found)
    status = verdict(checks)
    console.print(f"Figure and data are in {options.out}/.")
    return status


def length(setting: Setting) -> float:
    """Variance of the pre-activations in every layer."""
    return Q if setting.activation == "tanh" else 1.0


def predict(setting: Setting) -> jinit.theory.JacobianSpectrum:
    """At infinite width."""
    return jinit.theory.jacobian_spectrum(
        setting.activation, setting.depth, setting.weights, q=length(setting)
    )


def compare_with_print() -> list[Check]:
    """The numbers of the papers' formulas beside theory."""
    checks = []
    for activation, weights, depth, q, quantity, text in PUBLISHED:
        theory = jinit.theory.jacobian_spectrum(activation, depth, weights, q=q)
        what = f"{activation}, {weights}, L = {depth}" + (f", q = {q:g}" if q != 1 else "")
        group = f"{quantity} of the eigenvalues, jinit.theory.jacobian_spectrum"
        checks.append(printed(group, what, text, getattr(theory, quantity)))
    return sorted(checks, key=lambda check: check.group)


def measure(key: jax.Array, setting: Setting, width: int, seeds: int) -> np.ndarray:
    """Eigenvalues of J J^T of real networks, `[seeds, width]`."""
    q = length(setting)
    if setting.activation == "tanh":
        point = jinit.theory.critical("tanh", q=q)
        weight_var, bias_var = point.weight_var, point.bias_var
    else:
        weight_var, bias_var = jinit.theory.critical(setting.activation).weight_var, 0.0
    gain = math.sqrt(weight_var / (2.0 if setting.scheme == "he" else 1.0))
    net = jinit.MLP((width, width, 1), activation=setting.activation)  # a layer and a readout
    phi = jinit.ACTIVATIONS[setting.activation]

    def singular_values(key: jax.Array) -> jax.Array:
        def layer(carry: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple:
            h, product = carry
            (drawn, _), _ = jinit.init(key, net, setting.scheme, gain=gain, bias_var=bias_var)
            z = h @ drawn.w + drawn.b
            h, slope = jax.jvp(phi, (z,), (jnp.ones_like(z),))
            return (h, product @ (drawn.w * slope[None])), None

        x_key, layers_key = jax.random.split(key)
        x = jax.random.normal(x_key, (width,))
        # Of the length at which the first layer's pre-activations have variance q.
        h = x * jnp.sqrt((q - bias_var) / weight_var / jnp.mean(x**2))
        keys = jax.random.split(layers_key, setting.depth)
        _, product = jax.lax.scan(layer, (h, jnp.eye(width)), keys)[0]
        return jnp.linalg.svd(product, compute_uv=False)

    keys = jax.random.split(key, seeds)
    found = jax.jit(lambda keys: jax.lax.map(singular_values, keys))(keys)
    return np.asarray(found, np.float64) ** 2


def compare(found: Found) -> list[Check]:
    """Mean, second moment and edge of the sampled Jacobians beside theory."""
    setting, theory = found.setting, found.theory
    seeds, width = found.narrow.shape
    group = f"{setting.title}, L = {setting.depth}: {seeds} nets of {width} and {2 * width} units"
    mean = float(theory.moments[0])
    expected = (mean, theory.moments[1] / mean**2, theory.largest / mean)
    measured = extrapolate(*(statistics(runs, theory) for runs in found[1:3]))
    return [
        Check(group, what, *map(float, row), "theory")
        for what, *row in zip(
            ("mean", "second moment", "largest"), expected, measured.mean, measured.tolerance,
            strict=True,
        )
    ]  # fmt: skip


def statistics(eigenvalues: np.ndarray, theory: jinit.theory.JacobianSpectrum) -> Estimate:
    """Mean, second moment and largest, less what the width takes from the largest; `[3]`."""
    mean = eigenvalues.mean(axis=1)
    below = below_edge(theory, eigenvalues.shape[1]) / float(theory.moments[0])
    return average(
        np.stack(
            [mean, np.mean(eigenvalues**2, 1) / mean**2, eigenvalues.max(1) / mean - below], -1
        )
    )


def below_edge(theory: jinit.theory.JacobianSpectrum, width: int) -> float:
    """The mean of Tracy and Widom, where the density ends as (c / pi) sqrt(edge - x)."""
    gap = theory.largest - theory.eigenvalue
    near = (gap > 0) & (gap < NEAR_EDGE * theory.largest)
    ends = math.pi * theory.density[near] / np.sqrt(gap[near])
    c = np.polyfit(gap[near] / theory.largest, ends, 3)[-1]
    return float(TRACY_WIDOM_MEAN * (c * width) ** (-2 / 3))


def draw(path, found: list[Found]) -> None:
    """Theory's densities over histograms of the sampled eigenvalues."""
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    panels = figure.subplots(2, 3)
    for axes, (setting, _, eigenvalues, theory) in zip(panels.flat, found, strict=True):
        top = 1.08 * max(theory.largest, eigenvalues.max())
        bins = np.linspace(0, top, 60)
        each = 1 / eigenvalues.size / np.diff(bins)[0]
        positive = eigenvalues[eigenvalues > 1e-9]
        heights, *_ = axes.hist(
            positive, bins, weights=np.full(len(positive), each), color=setting.colour,
            alpha=0.55, label=f"{len(eigenvalues)} networks of width {eigenvalues.shape[1]}",
        )  # fmt: skip
        axes.plot(theory.eigenvalue, theory.density, color="black", linewidth=1.8, label="theory")
        axes.axvline(
            theory.largest, color="black", linestyle=":", linewidth=1.3, label="its largest"
        )
        if setting.weights == "orthogonal" and setting.activation == "tanh":
            axes.set_ylim(0, 1.3 * heights.max())
        else:
            axes.set_yscale("log")
            axes.set_ylim(2e-3, 10)
        axes.set_xlim(0, top)
        zeros = sum(share for position, share in theory.atoms if position == 0)
        note = f", {zeros:.0%} are 0" if zeros else ""
        axes.set_title(
            f"{setting.title}, {setting.depth} layers\nvariance {theory.variance:.3g}, largest "
            f"{theory.largest:.3g}{note}", loc="left", fontsize=11, fontweight="bold",
        )  # fmt: skip
        axes.set_xlabel("eigenvalue of J Jᵀ")
        finish(axes, labels=11)
    for row in panels:
        row[0].set_ylabel("density")
    panels[0][0].legend(frameon=False, fontsize=10)
    figure.suptitle(
        "Orthogonal layers of tanh spread directions least:\n32 of them less than 4 or 8 of any "
        "other kind", fontsize=15, fontweight="bold",
    )  # fmt: skip
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
