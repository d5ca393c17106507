"""An activation as theory sees it: phi and phi' in float64, and their Gaussian expectations.

Whatever can be computed from one activation and one variance q goes through `Curve.at(q)`, the
values at quadrature nodes of u = sqrt(q) z. Nodes follow the activation: panels are split at its
kinks and wherever it bends, for named activations and for any callable alike.

A callable is read anew each time it is given, and known by what it computes (`moments.program`).
Where a custom derivative makes gradients something else than the slope of phi, there are two
slopes: signals, lengths and correlations go by phi's own, gradients by the custom one.
"""

import math
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit.activations import Activation, facts
from jinit.elementwise import check_elementwise
from jinit.theory.moments.program import Program, read
from jinit.theory.moments.quadrature import BEYOND, REACHES, Probes, bent, gaussian_nodes, pieces

_POINTS = 2**12  # per compiled call: one size, as each costs a compilation
_PROBED = 16.0  # as far are callables looked at beside the nodes of panels
_LANDMARKS = 64  # around which they are looked at ever closer
_SAME_KINK = 1e-9  # panels that narrow lie at a kink that is known
_TWO = 1e-7  # by so much must a custom derivative differ from the slope, to be another one
_FARTHEST = 500  # 2**500: its square is still a float64
_LARGEST = 1e297  # a variance all of whose reaches are less
_ALMOST_ZERO = 1e-170  # whose square is 0
_LEAST_GROWTH = 1e-10
_MOMENTS = 100_000  # kept per activation and kind: a float each


class MomentError(ValueError):
    """A Gaussian expectation that is not a finite number."""


class TooRoughError(ValueError):
    """A function that is not smooth but for isolated points, as far as an expectation looks."""


class Sample(NamedTuple):
    """phi and phi' at the quadrature nodes u = sqrt(q) z; every field `[nodes]`."""

    q: float
    z: np.ndarray
    weight: np.ndarray
    """of the node in an expectation over z ~ N(0, 1)"""
    value: np.ndarray
    slope: np.ndarray
    """phi's own, which signals meet"""
    custom: np.ndarray
    """the derivative that gradients are given; `slope` but for a custom one"""
    name: str

    def mean(self, integrand: np.ndarray) -> float:
        """E of an integrand given at the nodes.

        Raises:
            MomentError: where it diverges.
        """
        terms = self.weight * integrand
        total = float(np.sum(terms))
        edge = float(np.sum(np.abs(terms[np.abs(self.z) > np.abs(self.z).max() - 1])))
        cut_off = edge > 1e-9 * float(np.sum(np.abs(terms))) > 0
        if not math.isfinite(total) or (cut_off and self.q > 0):
            raise MomentError(
                f"a Gaussian moment of {self.name} diverges, or leaves float64, at variance "
                f"q = {self.q:.6g}; give a smaller variance."
            )
        return total


class Curve:
    """One activation, as it was when it was read; use `curve(activation)`, which keeps it."""

    def __init__(self, activation: str | Activation, program: Program | None = None) -> None:
        """Refuse what is not elementwise; nothing else is looked at before it is needed."""
        name = activation if isinstance(activation, str) else repr(activation)
        self.name: str = getattr(activation, "__name__", name)
        row = facts(activation)
        self._phi, self._exact_slope, kinks = row.function, row.slope, row.kinks
        self._program = program
        self._compiled = jax.jit(self._rows)
        self.two_slopes = False
        """whether gradients are given another derivative than phi's own slope"""
        check_elementwise(
            f"activation {self.name} must be an elementwise jax.numpy function of one array",
            self._output,
            lambda x: self._evaluate(x)[0],
            points=64,
        )
        self.two_slopes = self._differs()
        self._reach = 0.0  # how far the pieces reach
        self._probes: Probes | None = None
        self._too_rough = math.inf
        self._edges = np.array(sorted({0.0, *kinks}))
        self.kinks: tuple[float, ...] = tuple(sorted({*kinks}))
        """where phi or a derivative is not smooth, as far as the quadrature has looked"""
        self._size = np.zeros(3 if self.two_slopes else 2)
        self.at = lru_cache(maxsize=64)(self._at)
        # The moments everything else is made of; kept, because maps visit the same q again.
        keep = lru_cache(maxsize=_MOMENTS)
        self.mean = keep(partial(self.expect, integrand=lambda at: at.value))
        self.second = keep(partial(self.expect, integrand=lambda at: at.value**2))
        self.slope_second = keep(partial(self.expect, integrand=lambda at: at.slope**2))
        self.gradient_second = self.slope_second
        """E phi'^2 of the slope that gradients are given"""
        if self.two_slopes:
            self.gradient_second = keep(partial(self.expect, integrand=lambda at: at.custom**2))
        self.second_growth = keep(self._second_growth)

    @property
    def function(self) -> Activation:
        """The activation itself, for networks."""
        return self._phi

    def _output(self) -> Any:
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            vector = jax.ShapeDtypeStruct((8,), np.dtype("float64"))
            return jax.eval_shape(lambda x: self._phi(x), vector)

    def _rows(self, x: jax.Array) -> jax.Array:
        program = self._program
        if self._exact_slope is not None:
            return jnp.stack([self._phi(x), self._exact_slope(x)])
        if program is None:
            return jnp.stack(jax.jvp(self._phi, (x,), (jnp.ones_like(x),)))
        custom = [] if program.custom is None else [program.custom(x)]
        return jnp.stack([program.value(x), program.slope(x), *custom])

    def _differs(self) -> bool:
        if self._exact_slope is not None or self._program is None or self._program.custom is None:
            return False
        far = np.logspace(-12, 3, 600)
        _, own, custom = self._evaluate(np.concatenate([np.linspace(-12, 12, 2897), far, -far]))
        both = np.isfinite(own) & np.isfinite(custom)
        size = max(float(np.max(np.abs(custom[both]), initial=0.0)), 1e-300)
        # Where phi has a kink the two may be its two sides, at an isolated point.
        off = both & (np.abs(own - custom) > _TWO * size)
        return bool(np.sum(off) > 3)

    def evaluate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """phi(x) and phi'(x) in float64, whatever jax's x64 flag says and inside a trace too."""
        value, slope, _ = self.evaluate_all(x)
        return value, slope

    def evaluate_all(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same, and the derivative that gradients are given."""
        value, *slopes = self._evaluate(x)
        if self.two_slopes:
            own, custom = slopes
            return value, np.where(np.isfinite(own), own, custom), custom
        return value, slopes[-1], slopes[-1]  # a rule that says the same says it more exactly

    def _evaluate(self, x: np.ndarray) -> np.ndarray:
        flat = np.ravel(np.asarray(x, np.float64))
        short = -len(flat) % _POINTS or (0 if len(flat) else _POINTS)
        padded = np.concatenate([flat, np.zeros(short)]).reshape(-1, _POINTS)
        with jax.ensure_compile_time_eval(), jax.enable_x64(True), on_cpu():
            rows = np.concatenate([np.asarray(self._compiled(part)) for part in padded], 1)
        return rows[:, : len(flat)].reshape(-1, *np.shape(x))

    def _looked_at(self, x: np.ndarray) -> np.ndarray:
        """The rows that a panel has to resolve."""
        value, slope, custom = self.evaluate_all(x)
        return np.stack([value, slope, custom] if self.two_slopes else [value, slope])

    def pieces(self, reach: float) -> np.ndarray:
        """Edges of the panels inside (-reach, reach) on which phi and phi' are smooth."""
        self._extend(reach)
        return self._edges[np.abs(self._edges) < reach]

    def _at(self, q: float) -> Sample:
        if q == 0:  # the limit: a kink at 0 is seen from both sides
            x = np.array([-_ALMOST_ZERO, _ALMOST_ZERO])
            both = np.array([-1.0, 1.0]), np.full(2, 0.5)
            return Sample(0.0, *both, *self.evaluate_all(x), self.name)
        if q > _LARGEST:
            raise _too_large(self.name, q)
        root = math.sqrt(q)
        for reach in REACHES:
            edges = np.arange(-reach, reach + 1)
            z, weight = gaussian_nodes(
                np.unique(np.concatenate([edges, self.pieces(reach * root) / root]))
            )
            value, slope, custom = self.evaluate_all(root * z)
            with np.errstate(all="ignore"):
                largest = np.max(np.square([value, slope, custom]), 0)
                fourth = weight * largest**2
            outer, total = fourth[np.abs(z) > reach - 1].sum(), fourth.sum()
            if outer <= BEYOND * total and total > 0:  # if all is 0, look farther out
                break
        return Sample(q, z, weight, value, slope, custom, self.name)

    def expect(self, q: float, integrand: Callable[[Sample], np.ndarray]) -> float:
        """E of an integrand of the nodes; a MomentError where it diverges."""
        at = self.at(q)
        with np.errstate(over="ignore", invalid="ignore"):
            return at.mean(integrand(at))

    def _second_growth(self, q: float) -> float:
        """d E[phi^2] / dq = E[phi'^2 + phi phi''] = E[z phi phi'] / sqrt(q), kinks included."""
        if q == 0 and self.second(0.0) == 0:
            return self.slope_second(0.0)
        q = max(q, _LEAST_GROWTH) if self.second(0.0) else q  # phi(0) E z is 0, but for rounding
        return self.expect(q, lambda at: at.z * at.value * at.slope) / math.sqrt(q)

    def variance(self, q: float) -> float:
        """Var phi."""
        mean = self.mean(q)
        return self.expect(q, lambda at: (at.value - mean) ** 2)

    # --- looking at the function ---

    def _extend(self, reach: float) -> None:
        if reach > 2.0**_FARTHEST:
            raise _too_large(self.name, (reach / REACHES[0]) ** 2)
        while self._reach < reach:
            if self._too_rough < math.inf:
                raise self._rough(self._too_rough)
            to = max(4.0, 2.0 ** math.floor(math.log2(max(self._reach, 1.0)) + 1))
            try:
                self._extend_to(to)
            except FloatingPointError as error:
                # What is not finite may lie beyond what is asked for.
                if abs(error.args[0]) > reach:
                    with suppress(FloatingPointError):
                        self._extend_to(reach)
                        return
                raise MomentError(
                    f"{self.name} or its derivative is not finite at x = {error.args[0]:.6g}, "
                    f"where an expectation needs it; give a smaller variance, or an activation "
                    f"that is finite everywhere."
                ) from None

    def _extend_to(self, to: float) -> None:
        """One shell more, both sides at once: what is small on one is measured by the other."""
        start = self._reach
        inner = np.array([0.25, 0.5, 1.0, 2.0]) if start == 0 else np.array([start])
        ends = np.append(inner, to)
        kinks = np.array(self.kinks)
        ahead = np.unique(np.concatenate([-ends, kinks[np.abs(kinks) < to], ends, self._edges]))
        sides = [ahead] if start == 0 else [ahead[ahead <= -start], ahead[ahead >= start]]
        if start == 0:
            self._probes = self._look_closely()
        probes = self._probes if to <= _PROBED else None
        edges, size = [ahead], self._size
        found_kinks: list[float] = []
        for _ in range(2):  # the second time with the size of both sides
            edges, found_kinks, before = [ahead], [], size
            for side in sides:
                found = pieces(self._looked_at, side, size=size, probes=probes)
                if found is None:
                    self._too_rough = to
                    raise self._rough(to)
                edges.append(found.edges)
                found_kinks += list(found.kinks)
                size = np.maximum(size, found.size)
            if len(sides) == 1 or np.all(before == size):
                break
        self._size = size
        self._edges = np.unique(np.concatenate([*edges, self._edges]))
        new = self._edges[np.abs(self._edges) >= start]
        seen = {*found_kinks}
        sharp = self._look_across(new)
        near = self._edges[np.abs(self._edges) >= start / 2]
        gap = [near] if start == 0 else [near[near < 0], near[near > 0]]
        if self._program is not None:  # of a named one all kinks are known
            for side in gap:
                sharp += bent(self._looked_at, side, np.maximum(size, 1e-300)).tolist()
        for x in sharp:
            beside = np.array([*self.kinks, *seen, math.inf])
            if np.abs(beside - x).min() > _SAME_KINK * max(1.0, abs(x)):
                seen.add(x)
        self.kinks = tuple(sorted({*self.kinks, *map(float, seen)}))
        self._reach = to

    def _look_closely(self) -> Probes | None:
        """Of a callable: points evenly spaced, and ever closer to where it may be special."""
        if self._program is None:
            return None
        even = np.linspace(-_PROBED, _PROBED, 2**16) * (1 - 1e-7) + 1.7e-6
        steps = np.concatenate([sign * 2.0 ** np.arange(-39, 1, 0.25) for sign in (-1, 1)])
        x = np.unique(np.concatenate([even, (self._landmarks()[:, None] + steps).ravel()]))
        rows = self._looked_at(x)
        good = np.isfinite(rows).all(0)
        return Probes(x[good], rows[:, good])

    def _landmarks(self) -> np.ndarray:
        """Where an intermediate of the computation changes sign, if there are not too many."""
        assert self._program is not None
        x = np.linspace(-_PROBED, _PROBED, _POINTS) + 1.3e-6
        compiled = jax.jit(self._program.landmarks)

        def above(x: np.ndarray) -> np.ndarray:
            padded = np.concatenate([x, np.zeros(_POINTS - len(x))])
            return np.asarray(compiled(padded))[:, : len(x)] > 0

        with jax.ensure_compile_time_eval(), jax.enable_x64(True), on_cpu():
            seen = above(x)
            row, at = np.nonzero(seen[:, 1:] != seen[:, :-1])
            few = np.bincount(row, minlength=len(seen))[row] <= _LANDMARKS
            row, at = row[few][: 4 * _LANDMARKS], at[few][: 4 * _LANDMARKS]
            low, high, first = x[at], x[at + 1], seen[row, at]
            for _ in range(40):
                middle = (low + high) / 2
                same = above(middle)[row, np.arange(len(row))] == first
                low, high = np.where(same, middle, low), np.where(same, high, middle)
        return np.unique(np.round(low, 10))[:_LANDMARKS]

    def _rough(self, reach: float) -> TooRoughError:
        return TooRoughError(
            f"{self.name} must be differentiable but for isolated points, got one that is not "
            f"smooth in more than 64 places, or oscillates too fast to be followed, within "
            f"|x| < {reach:g}; give a smoother activation, or a smaller variance."
        )

    def _look_across(self, edges: np.ndarray) -> list[float]:
        """Edges at which phi' jumps; phi must not, and phi' must be bounded on both sides."""
        scale = np.maximum(1.0, np.abs(edges))
        steps = np.array([-1e-5, -1e-7, -1e-9, 1e-9, 1e-7, 1e-5])
        value, slope, _ = self.evaluate_all(edges + steps[:, None] * scale)
        near = 1e-9 * scale
        middle, value, slope = slope[[1, 4]], value[[0, 2, 3, 5]], slope[[0, 2, 3, 5]]
        jump = np.abs(value[2] - value[1])
        steepest = np.maximum(np.max(np.abs(slope), 0), 1.0)
        jumps = jump > 4 * near * steepest + 1e-12 * self._size[0]
        near_slope, far_slope = np.abs(slope[1:3]).max(0), np.abs(slope[[0, 3]]).max(0)
        unbounded = (near_slope > 10 * far_slope + 10) & (near_slope > 2 * np.abs(middle).max(0))
        for bad, what in ((jumps, "jumps"), (unbounded, "has no bounded derivative")):
            if bad.any():
                raise ValueError(
                    f"{self.name} must be continuous with a bounded derivative, got one that "
                    f"{what} at x = {edges[bad][0] + 0.0:.6g}; smooth it there (a step, for "
                    f"example, into a sigmoid)."
                )
        bend = (
            np.abs(slope[2] - slope[1]) - np.abs(slope[3] - slope[2]) - np.abs(slope[1] - slope[0])
        )
        return [float(x) for x in edges[bend > 1e-6 * self._size[1]]]


ActivationLike = str | Activation | Curve  # a name, a function, or what `curve` made of it


def curve(activation: ActivationLike) -> Curve:
    """The `Curve` of an activation; a callable is read anew, and kept by what it computes."""
    if isinstance(activation, Curve):
        return activation
    row = facts(activation)  # an unknown name is answered before anything else
    if isinstance(activation, str):
        return _named(activation)
    try:
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            program = read(row.function, _POINTS)
            slope = None if row.slope is None else read(row.slope, _POINTS)
    except Exception:
        return Curve(activation)  # which says what is wrong with it
    name = getattr(activation, "__name__", repr(activation))
    key = (name, row.kinks, program.key, slope and slope.key)
    if program.key is None or (slope is not None and slope.key is None):
        return Curve(activation, program)
    return _kept(_Read(key, activation, program))


@dataclass(frozen=True)
class _Read:
    """A callable by what it computes."""

    key: Hashable
    activation: Activation = field(compare=False)
    program: Program = field(compare=False)


_named = lru_cache(maxsize=64)(Curve)


@lru_cache(maxsize=64)
def _kept(found: _Read) -> Curve:
    return Curve(found.activation, found.program)


def _too_large(name: str, q: float) -> MomentError:
    return MomentError(
        f"{name} cannot be followed in float64 at variance q = {q:.6g}; give a smaller variance, "
        f"of at most {_LARGEST:.0e}."
    )


def on_cpu() -> Any:
    """Double precision is a CPU's trade; where jax has no CPU backend, take what there is."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return jax.default_device(None)
