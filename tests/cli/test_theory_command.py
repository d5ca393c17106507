"""The report of `jinit theory`."""

import io
import math
import re

import jax.numpy as jnp
import pytest
from rich.console import Console

from jinit import theory
from jinit.activations import ACTIVATIONS
from jinit.cli.theory_report import forecast, load, print_forecast

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


def own(x):
    """What no table knows."""
    return x * jnp.tanh(x)


def printed(found, width=80):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_forecast(found, console)
    return console.file.getvalue()


def report(activation, **options):
    return printed(forecast(activation, **options))


def flat(text):
    return " ".join(text.split())


@pytest.mark.parametrize("activation", [*ACTIVATIONS, own])
def test_every_activation_gets_a_report_that_fits_a_terminal(activation):
    found = forecast(activation, depth=50, bias_var=0.05, weight_var=1.5)
    text = printed(found)
    narrow = printed(found, 60)
    assert "…" not in narrow
    assert max(len(line) for line in narrow.splitlines()) <= 60
    assert set(_NUMBER.findall(text)) == set(_NUMBER.findall(narrow))  # none is cut
    name = activation if isinstance(activation, str) else "own"
    assert text.startswith(f"{name}: does the signal survive the depth?")
    assert "…" not in text  # no column is cut off
    assert "nan" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    for start in ("Xavier", "He", "yours"):
        assert f"\n  {start} " in text


def test_a_newcomer_is_told_what_to_do():
    text = flat(report("gelu"))
    best = theory.recommend("gelu")
    assert 'jinit.init(key, net, "he", gain=0.9958, bias_var=0.1729)' in text
    assert f"through {best.depth} layers of 128 units" in text
    assert f"{theory.gain('gelu'):.6f}" in text
    assert 'jinit.init(key, net, "he")' in flat(report("relu"))
    assert 'jinit.init(key, net, "xavier")' in flat(report("tanh"))
    assert "No plain network of softplus keeps its signals" in flat(report("softplus"))
    assert "saturate most units" in flat(report("sigmoid"))


def test_the_depth_of_wide_networks_is_not_cut_off():
    """sqrt(5 L / n) / 2 = 1 at L = 8000."""
    best = theory.recommend("relu", width=10_000)
    assert best.depth == pytest.approx(8000, abs=3)
    text = flat(report("relu", width=10_000))
    assert f"through {best.depth} layers of 10000 units" in text


def test_the_rows_are_what_theory_says():
    found = forecast("tanh", weight_var=1.5, bias_var=0.05, depth=20)
    mine, edge = found.starts[2:4]
    exact = theory.depth_scales("tanh", weight_var=1.5, bias_var=0.05)
    assert mine[:3] == ("yours", 1.5, 0.05)
    assert (mine.phase, mine.q, mine.chi) == ("ordered", exact.q, exact.chi)
    assert mine.layers == exact.trainable_depth
    layers = theory.trajectory("tanh", depth=20, weight_var=1.5, bias_var=0.05)
    assert mine.log_grad == layers.log_grad[0]
    assert found.point == theory.critical("tanh", bias_var=0.05)
    assert edge[:4] == ("edge", found.point.weight_var, 0.05, "critical")


def test_biases_without_a_critical_point_are_answered_in_the_report():
    text = flat(report("relu", bias_var=0.1))
    assert "Relu has no critical point with bias_var=0.1; it is critical only with" in text
    text = flat(report("gelu", bias_var=0.04))
    assert "the length is not stable there" in text


def test_advice_and_rows_do_not_contradict_each_other():
    """An unstable formula is not quoted, and what is critical only at infinity is so called."""
    text = flat(report("softplus", depth=50))
    assert "under which the gradient changes" not in text
    assert "critical at ∞ → ∞ × 1.000 — " in text
    assert "the signal grows without end" in text
    # Batch norm is stable for this one; the factor is the gradient's, not that of its square.
    shifted = flat(report(lambda x: jnp.maximum(x, 0) + 3.0))
    assert "gradient changes by a factor of 1.21 per layer" in shifted  # sqrt(pi / (pi - 1))
    assert "Batch norm, large batches: × 1.211 per layer" in shifted
    assert "and the signal keeps its length" in flat(report("relu"))
    assert "fade only as a power of the depth" in flat(report("tanh"))


def test_lengths_that_leave_float64_are_infinite():
    def cube(x):
        return x**3

    text = report(cube, depth=50)
    assert "→ ∞" in text
    assert flat(text).split("He ")[1].split("weight var")[0].split()[-1] == "∞"


def test_gradients_too_small_for_a_float_are_powers_of_ten():
    text = flat(report("relu", depth=1000, weight_var=0.01))
    exponent = 999 * math.log10(0.005) / 2
    assert f"{10 ** (exponent % 1):.1f}e{math.floor(exponent)}" in text
    assert "e-1150" in text


def test_a_function_of_ones_own_by_name(tmp_path, monkeypatch):
    (tmp_path / "mine_for_the_test.py").write_text(
        "import jax.numpy as jnp\ndef phi(x):\n    return x * jnp.tanh(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = forecast(load("mine_for_the_test:phi"))
    assert found.name == "phi"
    assert found.gains == forecast(own).gains


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["no_such_module:phi", "math:no_such_function", ":phi"])
def test_a_function_that_cannot_be_imported(name):
    with pytest.raises(ValueError, match=r"cannot be imported .*; give module:fun"):
        load(name)
