"""The report of `jinit theory`: what theory says of an activation, and what to do about it."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from jinit import checks, plots, theory
from jinit.activations import Activation
from jinit.terminal import Fitted

_GAINS: dict[Any, str] = {
    "second_moment": "keeps the signal's length, 1/√E φ²",
    "variance": "keeps its spread, 1/std φ",
    "gradient": "keeps the gradient's length, 1/√E φ'²",
}


class Start(NamedTuple):
    """A way to draw the weights of a deep plain network, and what becomes of the signal."""

    name: str
    weight_var: float
    bias_var: float
    phase: str
    q: float
    chi: float
    distance: float
    """factor of the squared distance of two nearby inputs: chi, but for a custom derivative"""
    layers: float
    """that train: 6 xi_c or, at criticality, what the scatter of finite width allows; infinite
    where lengths grow to a critical point that they never reach"""
    log_grad: float | None
    """ln of the gradient of the first layer over that of the last, of as many as asked for"""


class Forecast(NamedTuple):
    """Everything the report says."""

    name: str
    gains: dict[str, float]
    poincare: tuple[float, float]
    """a and b of a φ + b, which keeps lengths and gradients at once"""
    dead: float
    """the chance of a dead network, at the width and the depth asked for"""
    starts: tuple[Start, ...]
    layer_norm: float
    """growth of the squared gradient per layer"""
    batch_norm: float
    batch_norm_stability: float
    recommended: theory.Recommendation | None
    refusal: str
    """why nothing is recommended, if so"""
    point: theory.Critical | None
    """the critical point of the bias variance asked for"""
    point_refusal: str
    width: int
    depth: int | None


def load(name: str) -> str | Activation:
    """An activation by name, or `module:function` for one of one's own."""
    return checks.imported("activation", name) if ":" in name else name


def forecast(
    activation: str | Activation,
    *,
    weight_var: float | None = None,
    bias_var: float | None = None,
    depth: int | None = None,
    width: int = 128,
) -> Forecast:
    """Ask theory for everything the report needs.

    Args:
        activation: a name, or an elementwise jax.numpy function.
        weight_var: adds a start of one's own, with `bias_var`.
        bias_var: asks for the critical point with these biases.
        depth: asks for the gradient through so many layers.
        width: of the layers.
    """
    gains = {kind: theory.gain(activation, 1.0, kind) for kind in _GAINS}
    shaped = theory.gaussian_poincare(activation)
    recommended, refusal = _or_refusal(theory.recommend, activation, width=width)
    point, point_refusal = None, ""
    if bias_var is not None:
        point, point_refusal = _or_refusal(theory.critical, activation, bias_var=bias_var)

    def start(name: str, weight_var: float, bias_var: float) -> Start:
        net = theory.Ensemble(activation, weight_var=weight_var, bias_var=bias_var)
        if recommended is not None and name == "advised":
            # Known to be so; where lengths are only just stable, rounding would say otherwise.
            phase, q, chi, layers = "critical", recommended.q, 1.0, float(recommended.depth)
            distance = net.chi(q).distance
        else:
            scales, phase = net.depth_scales(), net.phase()
            q, chi, layers, distance = scales.q, scales.chi, scales.trainable_depth, scales.distance
            if phase == "critical" and math.isinf(q):
                phase = "critical at ∞"
            elif phase == "critical":
                layers = net.scatter_depth(width=width)
        log_grad = None
        if depth is not None:
            try:
                log_grad = float(net.trajectory(depth=depth).log_grad[0])
            except theory.MomentError:  # lengths leave float64 on the way
                log_grad = math.inf
        return Start(name, weight_var, bias_var, phase, q, chi, distance, layers, log_grad)

    wanted = [("Xavier", 1.0, 0.0), ("He", 2.0, 0.0)]
    if weight_var is not None:
        wanted.append(("yours", weight_var, bias_var or 0.0))
    if point is not None:
        wanted.append(("edge", point.weight_var, point.bias_var))
    if recommended is not None:
        wanted.append(("advised", recommended.weight_var, recommended.bias_var))
    starts = tuple(start(*each) for each in wanted)
    return Forecast(
        name=str(getattr(activation, "__name__", activation)),
        gains=gains,
        poincare=(shaped.output_scale, shaped.output_scale * shaped.output_shift),
        dead=theory.dead_chance(activation, [width] * (depth or 1)),
        starts=starts,
        layer_norm=theory.layer_norm_growth(activation),
        batch_norm=theory.batch_norm_growth(activation, allow_unstable=True),
        batch_norm_stability=theory.batch_norm_stability(activation),
        recommended=recommended,
        refusal=refusal,
        point=point,
        point_refusal=point_refusal,
        width=width,
        depth=depth,
    )


def _or_refusal(ask: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, str]:
    """What theory answers, or why there is no critical point."""
    try:
        return ask(*args, **options), ""
    except theory.NoCriticalPointError as error:
        text = str(error)
        return None, text[:1].upper() + text[1:]


# --- drawing ---------------------------------------------------------------------------------


def draw(activation: str | Activation, found: Forecast, file: Path) -> None:
    """The phase diagram, with every start that the report names."""
    marks = {start.name: (start.weight_var, start.bias_var) for start in found.starts}
    if found.point is not None:
        marks["critical"] = (found.point.weight_var, found.point.bias_var)
    widest = max(weight for weight, _ in marks.values())
    highest = max(bias for _, bias in marks.values())
    diagram = theory.phase_diagram(
        activation,
        weight_var=np.linspace(0, 1.25 * widest, 61)[1:] if widest > 3.5 else None,
        bias_var=np.linspace(0, 1.4 * highest, 61) if highest > 0.4 else None,
    )
    plots.phase_diagram(diagram, marks=marks).savefig(file)


# --- printing --------------------------------------------------------------------------------


def print_forecast(found: Forecast, console: Console) -> None:
    """The report, for a newcomer."""
    console.print(Text(f"{found.name}: does the signal survive the depth?", style="bold"))
    for part in _parts(found):
        console.print(part)


def _parts(found: Forecast) -> Iterator[RenderableType]:
    yield _heading("What to do")
    yield _paragraph(_advice(found))
    if found.point is not None or found.point_refusal:
        yield _heading("With your biases: the edge of chaos")
        yield _paragraph(_edge(found))
    yield _heading("Deep plain networks")
    yield Padding(Fitted(_starts(found)), (0, 0, 0, 1))
    yield _paragraph(_legend(found))
    yield _heading("Gains for one layer, jinit.gain")
    yield Fitted(_gains(found))
    yield _paragraph(
        'They multiply "xavier" and keep one thing through one layer, where its pre-activations '
        "have variance 1. For a deep network take the start above, which holds for all layers."
    )
    if found.dead > 1e-12:
        yield _paragraph(_dead(found))
    yield _heading("With a norm in every layer")
    yield _paragraph(_norms(found))


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _paragraph(text: str) -> Padding:
    return Padding(Text(text), (0, 0, 0, 2))


def _advice(found: Forecast) -> str:
    best = found.recommended
    if best is None:
        return found.refusal
    call = [f'"{best.scheme}"']
    if abs(best.gain - 1) > 5e-4:
        call.append(f"gain={best.gain:.4g}")
    if best.bias_var:
        call.append(f"bias_var={best.bias_var:.4g}")
    lines = [f"jinit.init(key, net, {', '.join(call)})"]
    lines.append(
        "There the gradient neither vanishes nor explodes, and the signal keeps its length."
        if best.q
        else "There signal and gradient fade only as a power of the depth, not by a factor per "
        "layer."
    )
    lines[-1] += (
        f" What ends the depth is chance: through {best.depth} layers of {found.width} units, the "
        f"gradients of two draws differ by a factor of e or so. Wider layers go deeper."
    )
    if not best.length_stable:
        lines[-1] = (
            f"It holds for signals of a length near {best.q:.3g} only: from inputs of unit "
            f"variance lengths run away from it, by a factor of e or more within {best.depth} "
            f"layers. Scale the inputs down, or use batch norm or residual blocks."
        )
    if best.saturated:
        lines.append(
            f"But this point lies far out: pre-activations of variance {best.q:.3g} saturate most "
            f"units. Another activation, batch norm or residual blocks serve better."
        )
    if best.bias_var and best.q:
        lines.append(
            f"The biases belong to it: without them, lengths of {found.name} run away from the "
            f"edge, to 0 or to infinity."
        )
    return "\n".join(lines)


def _starts(found: Forecast) -> Table:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    columns = ["start", "weight\nvar", "bias\nvar", "phase", "length\nq", "gradient\nper layer",
               "trains to\nlayers", f"through\n{found.depth}"]  # fmt: skip
    for column in columns if found.depth is not None else columns[:-1]:
        words = column in ("start", "phase")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    for start in found.starts:
        row = [
            start.name,
            f"{start.weight_var:.4g}",
            f"{start.bias_var:.4g}",
            start.phase,
            _number(start.q),
            _factor(math.sqrt(start.chi), grows=math.isinf(start.q)),
            f"{start.layers:.0f}" if math.isfinite(start.layers) else "—",
        ]
        if start.log_grad is not None:
            row.append(_power(start.log_grad))
        table.add_row(*row)
    return table


def _legend(found: Forecast) -> str:
    phases = {start.phase for start in found.starts}
    settled = all(0 < start.q < math.inf for start in found.starts if start.phase == "chaotic")
    text = "weight var: fan_in times the variance of a weight."
    if "ordered" in phases:
        text += " Ordered: gradients vanish, and all inputs become alike."
    if "chaotic" in phases:
        text += " Chaotic: gradients explode"
        text += ", and inputs that are alike are driven apart." if settled else "."
    if "critical at ∞" in phases:
        text += (
            " Critical at ∞: the signal grows without end, and only then does the gradient keep "
            "its size."
        )
    text += (
        " Length: the variance of the pre-activations deep inside. Gradient per layer: its factor "
        "there, on the way back. Trains to: six times the layers over which a difference between "
        "two inputs (the squared gradient, where lengths do not settle) changes by a factor of e; "
        f"at criticality, what chance allows at {found.width} units."
    )
    if any(abs(start.distance - start.chi) > 1e-6 * start.chi for start in found.starts):
        both = ", ".join(
            f"{start.name} {_factor(math.sqrt(start.distance))}" for start in found.starts
        )
        text += (
            f" A custom derivative gives gradients another slope than the function's own, by which "
            f"signals, phases and lengths go: nearby inputs part by ({both}) per layer."
        )
    if found.depth is not None:
        text += (
            f" Through {found.depth}: of {found.depth} layers, the gradient in the first over that "
            f"in the last, for inputs of unit variance."
        )
    return text


def _edge(found: Forecast) -> str:
    if found.point is None:
        return found.point_refusal
    point = found.point
    text = (
        f"bias_var={point.bias_var:.6g}: weight_var={point.weight_var:.8g}, that is "
        f'jinit.init(key, net, "xavier", gain={math.sqrt(point.weight_var):.6g}, '
        f"bias_var={point.bias_var:.6g}), with pre-activations of variance {point.q:.6g}."
    )
    if not point.length_stable:
        text += (
            f" But the length is not stable there (parallel susceptibility "
            f"{point.chi_parallel:.4g}): one that is slightly off runs away."
        )
    return text


def _gains(found: Forecast) -> Table:
    table = Table(
        *(Column("", no_wrap=n < 2) for n in range(3)), box=SIMPLE_HEAD, show_header=False
    )
    for kind, value in found.gains.items():
        table.add_row(f"{value:.6f}", kind, _GAINS[kind])
    a, b = found.poincare
    shifted = f"{a:.6f} φ {'+' if b >= 0 else '-'} {abs(b):.6f}"
    table.add_row(shifted, "Gaussian-Poincaré", "keeps length and gradient at once, with Xavier")
    return table


def _dead(found: Forecast) -> str:
    layers = found.depth or 1
    return (
        f"A layer of {found.width} units is off as a whole, and the network dead at birth, with a "
        f"chance of {found.dead:.2g} in {layers} layer{'s' if layers > 1 else ''}."
    )


def _norms(found: Forecast) -> str:
    text = (
        f"Layer norm: the gradient changes by {_factor(math.sqrt(found.layer_norm))} per layer "
        f"(with Xavier or any other scale).\n"
    )
    if found.batch_norm_stability > 1 + 1e-9:
        return text + (
            f"Batch norm: large batches settle elsewhere than the theory's symmetric point, which "
            f"is unstable (d ln Var / d ln q = {found.batch_norm_stability:.3f}); measure it with "
            f"jinit.layer_signals."
        )
    return text + (
        f"Batch norm, large batches: {_factor(math.sqrt(found.batch_norm))} per layer, whatever "
        f"the scale of the weights."
    )


def _number(q: float) -> str:
    if q == 0:
        return "→ 0"
    return "→ ∞" if math.isinf(q) else f"{q:.4g}"


def _factor(factor: float, *, grows: bool = False) -> str:
    if math.isinf(factor) or (grows and factor > 1e4):  # with the length it belongs to
        return "→ ∞"
    return f"× {factor:.3f}" if factor < 1e4 else f"× {factor:.0e}"


def _power(log: float) -> str:
    """exp(log), also where a float would underflow."""
    if not math.isfinite(log):
        return "0" if log < 0 else "∞"
    if abs(log) < 5:
        return f"{math.exp(log):.2g}"
    exponent = math.floor(log / math.log(10))
    return f"{10 ** (log / math.log(10) - exponent):.1f}e{exponent}"
