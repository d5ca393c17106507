"""As test_planted_errors.py, for papers of the gallery: what is published passes, errors miss.

Datasets of the full setting's shape are drawn from the laws that the papers state.
"""

import math

import numpy as np
import pytest
import xarray as xr
from harness.checks import verdict


def missed(checks):
    names = [check.what for check in checks if not check.ok]
    assert verdict(checks) == (1 if names else 0)
    return names


# --- glorot2010 -------------------------------------------------------------------------------


@pytest.fixture
def glorot(load):
    return load("glorot2010_saturation")


def as_glorot_says(glorot, *, signal=1.0, gradient=1.0, singular=1.0, sigmoid=None, ahead=0.5):
    noise = 1 + 1e-4 * np.random.default_rng(0).normal(size=(16, glorot.DEPTH))
    published = {what: np.float64(texts.split()) for what, texts in glorot.PUBLISHED.items()}
    both = {what: np.stack([values * noise] * 2) for what, values in published.items()}
    both["activation"][0] *= signal
    both["gradient"][0] *= gradient
    jacobians = np.stack([float(text) * noise[:, 0] for text in glorot.SINGULAR.values()])
    falls = np.linspace(1, 0.01, 30)
    losses = {
        name: falls * (ahead if "normalised" in name else 1.0) for name in glorot.NETS
    } | {glorot.SIGMOID: np.full(30, glorot.GUESSING) if sigmoid is None else sigmoid}  # fmt: skip
    every = np.stack([np.stack([loss] * 8) for loss in losses.values()])
    by = ("scheme", "seed", "layer")
    return xr.Dataset(
        {"activation": (by, both["activation"]), "gradient": (by, both["gradient"]),
         "singular": (by[:2], singular * jacobians), "loss": (("net", "run", "step"), every),
         "top": (("net", "run", "step"), every * 0 + np.linspace(0.5, 0.2, 30))},
        {"scheme": list(glorot.SCHEMES), "layer": range(1, glorot.DEPTH + 1),
         "net": list(glorot.NETS)},
    )  # fmt: skip


def test_glorot_what_the_paper_says_passes(glorot):
    checks = glorot.checks(as_glorot_says(glorot))
    assert missed(checks) == []
    assert len(checks) == 21


def test_glorot_another_scale_misses(glorot):
    layers = [f"layer {n}" for n in range(1, 6)]
    assert missed(glorot.checks(as_glorot_says(glorot, signal=1.01))) == layers
    assert missed(glorot.checks(as_glorot_says(glorot, gradient=0.99))) == layers
    names = missed(glorot.checks(as_glorot_says(glorot, singular=math.sqrt(3))))
    assert names == list(glorot.SINGULAR)


def test_glorot_sigmoids_that_learn_and_standard_nets_that_lead_miss(glorot):
    data = as_glorot_says(glorot, sigmoid=np.linspace(2.3, 0.1, 30))
    assert missed(glorot.checks(data)) == ["standard sigmoid nets still guess"]
    data = as_glorot_says(glorot, ahead=1.5)
    assert len(missed(glorot.checks(data))) == 2
    data = as_glorot_says(glorot)
    data["top"] = data.top * 0 + 0.5
    assert missed(glorot.checks(data)) == ["their top layer falls from 1/2 to half of it"]


# --- sussillo2014 -----------------------------------------------------------------------------


@pytest.fixture
def sussillo(load):
    return load("sussillo2014_random_walk")


def walks(sussillo, gains=lambda name, width: 1.0, *, spread=1.0, learns=0.3, stalls=math.log(10)):
    """Log norms of products of chi^2, under the gain that takes their drift away."""
    rng, steps, nets = np.random.default_rng(1), 95, 1000
    walk = np.zeros((2, len(sussillo.WIDTHS), nets, steps + 1))
    for i, name in enumerate(sussillo.ACTIVATIONS):
        for j, n in enumerate(sussillo.WIDTHS):
            on = n if name == "identity" else rng.binomial(n, 0.5, (nets, steps))
            edge = 1.0 if name == "identity" else 2.0
            each = np.log(edge / n * rng.chisquare(on, (nets, steps))) / 2
            drift = each.mean()
            g = sussillo.gain(name, n) * gains(name, n) / math.sqrt(edge)
            walk[i, j, :, 1:] = (drift + spread * (each - drift) + math.log(g)).cumsum(1)
    losses = np.stack([np.full((8, 40), learns), np.full((8, 40), stalls)])
    by = ("activation", "width", "seed")
    return xr.Dataset(
        {"walk": ((*by, "layer"), walk[..., :: sussillo.EVERY]),
         "slope": (by, walk[..., -1] / steps), "loss": (("start", "run", "step"), losses)},
        {"activation": list(sussillo.ACTIVATIONS), "width": list(sussillo.WIDTHS),
         "layer": range(0, steps + 1, sussillo.EVERY), "start": ["random walk", "g = 1"]},
    )  # fmt: skip


def test_sussillo_walks_of_the_law_pass(sussillo):
    checks = sussillo.checks(walks(sussillo))
    assert missed(checks) == []
    assert len(checks) == 26


def test_sussillo_other_spreads_and_gains_of_infinite_width_miss(sussillo):
    checks = sussillo.checks(walks(sussillo, spread=1.3))
    assert {c.group.split()[0] for c in checks if not c.ok} == {"variance"}
    assert len(missed(checks)) == 16

    def infinite(name, width):
        return {"identity": 1.0, "relu": math.sqrt(2)}[name] / sussillo.gain(name, width)

    checks = sussillo.checks(walks(sussillo, infinite))
    assert {c.group.split()[0] for c in checks if not c.ok} == {"ln"}
    assert len(missed(checks)) == 8


def test_sussillo_nets_that_do_not_learn_miss(sussillo):
    assert len(missed(sussillo.checks(walks(sussillo, learns=2.0)))) == 1
    assert len(missed(sussillo.checks(walks(sussillo, stalls=1.0)))) == 1
