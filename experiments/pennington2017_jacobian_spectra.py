"""Pennington, Schoenholz & Ganguli 2017/2018: the spectrum of the input-output Jacobian.

The eigenvalues of J J^T, J = D_L W_L ... D_1 W_1, of deep networks at their critical point:
Gaussian weights spread them over orders of magnitude however the activation is chosen; orthogonal
weights with tanh keep them near 1, ReLU does not. Published largest eigenvalues and variances are
compared with `jinit.theory.jacobian_spectrum` to the printed digits, and theory with the Jacobians
of real networks: their second moment, within five standard errors over the seeds and 5 L / N for
the finite width, and their largest eigenvalue, which finite width keeps below the limit: edges
converge like N^(-2/3), and it is allowed (L / N)^(2/3) of its size and five standard errors.

Sources: Pennington et al., "Resurrecting the sigmoid" (2017); "The emergence of spectral
universality in deep networks" (2018).
"""

import math
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from _common import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    Check,
    arguments,
    console,
    half_unit,
    progress,
    verdict,
    write_checks,
    write_csv,
)

import jinit

matplotlib.use("Agg")  # no display is needed
import matplotlib.pyplot as plt

NAME = "pennington2017_jacobian_spectra"
WIDTH, QUICK_WIDTH, SEEDS, QUICK_SEEDS = 300, 100, 10, 6
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


def main() -> int:
    """Measure, compare, write, and return the exit status."""
    options = arguments(
        NAME, __doc__, quick=f"{QUICK_SEEDS} networks of width {QUICK_WIDTH} instead of "
        f"{SEEDS} of width {WIDTH}",
    )  # fmt: skip
    width, seeds = (QUICK_WIDTH, QUICK_SEEDS) if options.quick else (WIDTH, SEEDS)
    console.print(f"Seeds 0 to {seeds - 1}, {width} units.")
    checks = published()
    found = []
    with progress() as bar:
        task = bar.add_task("networks", total=len(SETTINGS) * seeds)
        for setting in SETTINGS:
            eigenvalues = measure(setting, width, seeds)
            theory = jinit.theory.jacobian_spectrum(
                setting.activation, setting.depth, setting.weights, q=length(setting)
            )
            found.append((setting, eigenvalues, theory))
            checks += compare(setting, eigenvalues, theory)
            bar.advance(task, seeds)
    write_checks(options.out / "published_measured.csv", checks)
    write_csv(
        options.out / "eigenvalues.csv",
        ("setting", "depth", "seed", "eigenvalue"),
        ((s.title, s.depth, seed, float(e)) for s, runs, _ in found
         for seed, run in enumerate(runs) for e in run),
    )  # fmt: skip
    write_csv(
        options.out / "density.csv",
        ("setting", "depth", "eigenvalue", "density"),
        ((s.title, s.depth, float(x), float(y)) for s, _, t in found
         for x, y in zip(t.eigenvalue, t.density, strict=True)),
    )  # fmt: skip
    draw(options.out / f"{NAME}.png", found)
    status = verdict(checks)
    console.print(f"Figure and data are in {options.out}/.")
    return status


def length(setting: Setting) -> float:
    """Variance of the pre-activations in every layer."""
    return Q if setting.activation == "tanh" else 1.0


def published() -> list[Check]:
    """Printed numbers beside theory."""
    checks = []
    for activation, weights, depth, q, quantity, printed in PUBLISHED:
        theory = jinit.theory.jacobian_spectrum(activation, depth, weights, q=q)
        what = f"{activation}, {weights}, L = {depth}" + (f", q = {q:g}" if q != 1 else "")
        group = f"{quantity} of the eigenvalues, jinit.theory.jacobian_spectrum"
        value = getattr(theory, quantity)
        checks.append(Check(group, what, float(printed), float(value), 1.001 * half_unit(printed)))
    return sorted(checks, key=lambda check: check.group)


def measure(setting: Setting, width: int, seeds: int) -> np.ndarray:
    """Eigenvalues of J J^T of real networks, [seeds, width]."""
    q = length(setting)
    if setting.activation == "tanh":
        point = jinit.theory.critical("tanh", q=q)
        weight_var, bias_var = point.weight_var, point.bias_var
    else:
        weight_var, bias_var = jinit.theory.critical(setting.activation).weight_var, 0.0
    per_gain = 2.0 if setting.scheme == "he" else 1.0
    net = jinit.MLP((width,) * (setting.depth + 1) + (1,), activation=setting.activation)
    phi = jinit.ACTIVATIONS[setting.activation]

    @jax.jit
    def jacobian(seed: jax.Array) -> jax.Array:
        init_key, x_key = jax.random.split(jax.random.key(seed))
        params, _ = jinit.init(
            init_key, net, setting.scheme, gain=math.sqrt(weight_var / per_gain), bias_var=bias_var
        )
        x = jax.random.normal(x_key, (width,))
        # Of the length at which the first layer's pre-activations have variance q.
        h = x * jnp.sqrt((q - bias_var) / weight_var / jnp.mean(x**2))
        product = jnp.eye(width)
        for layer in list(params)[:-1]:
            z = h @ layer.w + layer.b
            h, slope = jax.jvp(phi, (z,), (jnp.ones_like(z),))
            product = product @ (layer.w * slope[None])
        return product

    singular = [
        np.linalg.svd(np.asarray(jacobian(seed), np.float64), compute_uv=False)
        for seed in range(seeds)
    ]
    return np.array(singular) ** 2


def compare(setting: Setting, eigenvalues: np.ndarray, theory) -> list[Check]:
    """Second moment and edge of the sampled Jacobians beside theory."""
    seeds, width = eigenvalues.shape
    group = f"{seeds} networks of width {width} (published: theory)"
    what = f"{setting.title}, L = {setting.depth}"
    # Relative to the mean of each network, whose scatter multiplies all its eigenvalues alike.
    second = np.mean(eigenvalues**2, 1) / np.mean(eigenvalues, 1) ** 2
    error = second.std(ddof=1) / math.sqrt(seeds)
    expected = float(theory.moments[1] / theory.moments[0] ** 2)
    ratio = setting.depth / width
    bulk = Check(
        group, f"{what}: second moment", expected, float(second.mean()),
        float(5 * error + 5 * ratio * (expected - 1) + ratio / 5),
    )  # fmt: skip
    top = eigenvalues.max(1) / np.mean(eigenvalues, 1)
    error = top.std(ddof=1) / math.sqrt(seeds)
    largest = float(theory.largest / theory.moments[0])
    # Edges converge like N^(-2/3), from below.
    away = 5 * error + largest * ratio ** (2 / 3) + 0.02
    edge = Check(group, f"{what}: largest", largest, float(top.mean()), float(away))
    return [bulk, edge]


def draw(path, found) -> None:
    """Theory's densities over histograms of the sampled eigenvalues."""
    plt.rcParams.update({"font.size": 10.5, "axes.spines.top": False, "axes.spines.right": False})
    fig, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for ax, (setting, eigenvalues, theory) in zip(axes.flat, found, strict=True):
        top = 1.08 * max(theory.largest, eigenvalues.max())
        bins = np.linspace(0, top, 60)
        positive = eigenvalues[eigenvalues > 1e-9]
        ax.hist(
            positive, bins, weights=np.full(len(positive), 1 / eigenvalues.size / np.diff(bins)[0]),
            color=setting.colour, alpha=0.55, label=f"{len(eigenvalues)} networks",
        )  # fmt: skip
        ax.plot(theory.eigenvalue, theory.density, color="black", linewidth=1.8, label="theory")
        ax.axvline(theory.largest, color="black", linestyle=":", linewidth=1.3)
        heights, _ = np.histogram(positive, bins)
        dense = setting.weights == "orthogonal" and setting.activation == "tanh"
        if dense:
            ax.set_ylim(0, 1.3 * heights.max() / eigenvalues.size / np.diff(bins)[0])
        else:
            ax.set_yscale("log")
            ax.set_ylim(2e-3, 10)
        ax.set_xlim(0, top)
        zeros = sum(share for position, share in theory.atoms if position == 0)
        note = f", {zeros:.0%} are 0" if zeros else ""
        ax.set_title(
            f"{setting.title}, {setting.depth} layers\nlargest {theory.largest:.3g}{note}",
            loc="left", fontsize=11, fontweight="bold",
        )  # fmt: skip
        ax.set_xlabel("eigenvalue of J Jᵀ")
    for row in axes:
        row[0].set_ylabel("density")
    axes[0][0].legend(frameon=False)
    fig.suptitle(
        "Only orthogonal weights with a smooth activation keep all directions alike (dotted: the "
        "largest eigenvalue of theory)", fontweight="bold",
    )  # fmt: skip
    fig.savefig(path, dpi=120)
    plt.close(fig)


if __name__ == "__main__":
    sys.exit(main())
