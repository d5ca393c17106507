"""The report of `jinit theory`: what theory says of an activation, and what to do about it."""

import math
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jinit import theory
from jinit.activations import Activation

__all__ = ["Forecast", "forecast", "load", "print_forecast"]


class Start(NamedTuple):
    """A way to draw the weights of a deep plain network, and what becomes of the signal."""

    name: str
    weight_var: float
    bias_var: float
    phase: str
    q: float
    chi: float
    layers: float
    """that train: 6 xi_c or, at criticality, what the scatter of finite width allows"""
    log_grad: float | None
    """ln of the gradient of the first layer over that of the last, at the depth asked for"""


class Forecast(NamedTuple):
    """Everything the report says."""

    name: str
    gains: dict[str, float]
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
    if ":" not in name:
        return name
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"activation {name!r} cannot be imported ({error}); give a known name or "
            f"module:function of a module that Python finds here."
        ) from None


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
    recommended, refusal = None, ""
    try:
        recommended = theory.recommend(activation, width=width)
    except theory.NoCriticalPointError as error:
        refusal = str(error)
    point, point_refusal = None, ""
    if bias_var is not None:
        try:
            point = theory.critical(activation, bias_var=bias_var)
        except theory.NoCriticalPointError as error:
            point_refusal = str(error)
    wanted = [("Xavier", 1.0, 0.0), ("He", 2.0, 0.0)]
    if weight_var is not None:
        wanted.append(("yours", weight_var, bias_var or 0.0))
    if recommended is not None:
        wanted.append(("advised", recommended.weight_var, recommended.bias_var))
    gains = {
        kind: theory.gain(activation, 1.0, kind)
        for kind in ("second_moment", "variance", "gradient")
    }
    return Forecast(
        name=activation if isinstance(activation, str) else _name(activation),
        gains=gains,
        starts=tuple(_start(activation, *each, depth, width, recommended) for each in wanted),
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


def _start(
    activation: str | Activation,
    name: str,
    weight_var: float,
    bias_var: float,
    depth: int | None,
    width: int,
    recommended: theory.Recommendation | None,
) -> Start:
    if name == "advised" and recommended is not None:
        # Known to be critical; where lengths are only just stable, rounding would say otherwise.
        phase, q, chi, layers = "critical", recommended.q, 1.0, float(recommended.depth)
    else:
        scales = theory.depth_scales(activation, weight_var=weight_var, bias_var=bias_var)
        phase = theory.phase(activation, weight_var=weight_var, bias_var=bias_var)
        q, chi, layers = scales.q, scales.chi, scales.trainable_depth
        if phase == "critical":
            layers = theory.scatter_depth(
                activation, weight_var=weight_var, bias_var=bias_var, width=width
            )
    log_grad = None
    if depth is not None:
        found = theory.trajectory(
            activation, depth=depth, weight_var=weight_var, bias_var=bias_var
        ).log_grad
        log_grad = float(found[0])
    return Start(name, weight_var, bias_var, phase, q, chi, layers, log_grad)


# --- printing --------------------------------------------------------------------------------


def print_forecast(found: Forecast, console: Console) -> None:
    """The report, for a newcomer."""
    console.print(Text(f"{found.name}: does the signal survive the depth?", style="bold"))
    for part in _parts(found):
        console.print(part)


def _parts(found: Forecast) -> Iterator[RenderableType]:
    yield _heading("What to do")
    yield _paragraph(_advice(found))
    yield _heading("Deep plain networks")
    yield Padding(_starts(found), (0, 0, 0, 1))
    yield _paragraph(_legend(found))
    if found.point is not None or found.point_refusal:
        yield _heading("Edge of chaos with your biases")
        yield _paragraph(_edge(found))
    yield _heading("jinit.gain, for pre-activations of variance 1")
    yield _gains(found)
    yield _heading("With a norm in every layer")
    yield _paragraph(_norms(found))


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _paragraph(text: str) -> Padding:
    return Padding(Text(text), (0, 0, 0, 2))


def _advice(found: Forecast) -> str:
    best = found.recommended
    if best is None:
        return _capital(found.refusal)
    call = [f'"{best.scheme}"']
    if abs(best.gain - 1) > 5e-4:
        call.append(f"gain={best.gain:.4g}")
    if best.bias_var:
        call.append(f"bias_var={best.bias_var:.4g}")
    lines = [f"jinit.init(key, net, {', '.join(call)})"]
    lines.append(
        f"There the gradient neither vanishes nor explodes"
        f"{', and the signal keeps its length' if best.q else ''}. What ends the depth is chance: "
        f"through {best.depth} layers of {found.width} units, the gradients of two draws differ by "
        f"a factor of e or so. Wider layers go deeper."
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
    table.add_column("start", no_wrap=True)
    for column in ("weight\nvar", "bias\nvar"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    for column in ("length\nq", "gradient\nper layer", "trains to\nlayers"):
        table.add_column(column, justify="right", no_wrap=True)
    if found.depth is not None:
        table.add_column(f"through\n{found.depth}", justify="right", no_wrap=True)
    for start in found.starts:
        row = [
            start.name,
            f"{start.weight_var:.4g}",
            f"{start.bias_var:.4g}",
            start.phase,
            _number(start.q),
            f"× {math.sqrt(start.chi):.3f}",
            f"{start.layers:.0f}",
        ]
        if start.log_grad is not None:
            row.append(_power(start.log_grad))
        table.add_row(*row)
    return table


def _legend(found: Forecast) -> str:
    text = (
        "weight var: fan_in times the variance of a weight. Ordered: gradients vanish and all "
        "inputs become alike; chaotic: gradients explode, and like inputs are torn apart. Length: "
        "the variance of the pre-activations deep inside. Gradient per layer: its factor there, on "
        "the way back. Trains to: six times the depth over which two inputs can be told apart; at "
        f"criticality, what chance allows at {found.width} units."
    )
    if found.depth is not None:
        text += (
            f" Through {found.depth}: the gradient of the first layer over that of the last, with "
            f"{found.depth} layers in between and inputs of unit variance."
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
    table = Table(box=SIMPLE_HEAD, show_header=False)
    meaning = {
        "second_moment": "keeps the signal's length, 1/√E φ²",
        "variance": "keeps its spread, 1/std φ",
        "gradient": "keeps the gradient's length, 1/√E φ'²",
    }
    for kind, value in found.gains.items():
        table.add_row(f"{value:.6f}", kind, meaning[kind])
    return table


def _norms(found: Forecast) -> str:
    text = (
        f"Layer norm: the gradient changes by × {math.sqrt(found.layer_norm):.3f} per layer (with "
        f"Xavier or any other scale).\n"
    )
    if found.batch_norm_stability > 1 + 1e-9:
        return text + (
            f"Batch norm: large batches settle elsewhere than the theory's symmetric point, which "
            f"is unstable (d ln Var / d ln q = {found.batch_norm_stability:.3f}); measure it with "
            f"jinit.layer_signals."
        )
    return text + (
        f"Batch norm, large batches: × {math.sqrt(found.batch_norm):.3f} per layer, whatever the "
        f"scale of the weights."
    )


def _number(q: float) -> str:
    if q == 0:
        return "→ 0"
    return "→ ∞" if math.isinf(q) else f"{q:.4g}"


def _power(log: float) -> str:
    """exp(log), also where a float would underflow."""
    if not math.isfinite(log):
        return "0" if log < 0 else "∞"
    if abs(log) < 5:
        return f"{math.exp(log):.2g}"
    exponent = math.floor(log / math.log(10))
    return f"{10 ** (log / math.log(10) - exponent):.1f}e{exponent}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))
