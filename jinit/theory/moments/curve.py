"""An activation as theory sees it: phi and phi' in float64, and their Gaussian expectations.

Whatever can be computed from one activation and one variance q goes through `Curve.at(q)`, the
values at quadrature nodes of u = sqrt(q) z. Nodes follow the activation: panels are split at its
kinks and wherever it bends, for named activations and for any callable alike.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit.activations import Activation, facts
from jinit.elementwise import check_elementwise
from jinit.theory.moments.quadrature import BEYOND, REACHES, gaussian_nodes, pieces

_SMALL, _LARGE = 2**12, 2**16  # points per compiled call
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
    """One activation; use `curve(activation)`, which keeps it."""

    def __init__(self, activation: str | Activation) -> None:
        """Refuse what is not elementwise; nothing else is looked at before it is needed."""
        name = activation if isinstance(activation, str) else repr(activation)
        self.name: str = getattr(activation, "__name__", name)
        row = facts(activation)
        self._phi, self._exact_slope, kinks = row.function, row.slope, row.kinks
        self._compiled = jax.jit(self._value_and_slope)
        check_elementwise(
            f"activation {self.name} must be an elementwise jax.numpy function of one array",
            self._output,
            lambda x: self.evaluate(x)[0],
            points=64,
        )
        self._shells = -1  # how far the pieces reach: 2 ** shells
        self._too_rough = math.inf
        self._edges = np.array(sorted({0.0, *kinks}))
        self.kinks: tuple[float, ...] = tuple(sorted({*kinks}))
        """where phi or phi' is not smooth, as far as the quadrature has looked"""
        self._size = np.zeros(2)
        self.at = lru_cache(maxsize=64)(self._at)
        # The moments everything else is made of; kept, because maps visit the same q again.
        keep = lru_cache(maxsize=_MOMENTS)
        self.mean = keep(partial(self.expect, integrand=lambda at: at.value))
        self.second = keep(partial(self.expect, integrand=lambda at: at.value**2))
        self.slope_second = keep(partial(self.expect, integrand=lambda at: at.slope**2))
        self.second_growth = keep(self._second_growth)

    def _output(self) -> Any:
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            return jax.eval_shape(self._phi, jax.ShapeDtypeStruct((8,), np.dtype("float64")))

    def _value_and_slope(self, x: jax.Array) -> jax.Array:
        if self._exact_slope is not None:
            return jnp.stack([self._phi(x), self._exact_slope(x)])
        return jnp.stack(jax.jvp(self._phi, (x,), (jnp.ones_like(x),)))

    def evaluate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """phi(x) and phi'(x) in float64, whatever jax's x64 flag says and inside a trace too."""
        flat = np.ravel(np.asarray(x, np.float64))
        size = _SMALL if len(flat) <= _SMALL else _LARGE
        rows = np.empty((2, len(flat)))
        # Padded to two sizes: each costs one compilation.
        with jax.ensure_compile_time_eval(), jax.enable_x64(True), on_cpu():
            for start in range(0, len(flat), size):
                part = flat[start : start + size]
                padded = np.concatenate([part, np.zeros(size - len(part))])
                rows[:, start : start + size] = np.asarray(self._compiled(padded))[:, : len(part)]
        value, slope = rows.reshape(2, *np.shape(x))
        return value, slope

    def pieces(self, reach: float) -> np.ndarray:
        """Edges of the panels inside (-reach, reach) on which phi and phi' are smooth."""
        self._extend(reach)
        return self._edges[np.abs(self._edges) < reach]

    def _at(self, q: float) -> Sample:
        if q == 0:  # the limit: a kink at 0 is seen from both sides
            x = np.array([-_ALMOST_ZERO, _ALMOST_ZERO])
            value, slope = self.evaluate(x)
            return Sample(0.0, np.array([-1.0, 1.0]), np.full(2, 0.5), value, slope, self.name)
        if q > _LARGEST:
            raise _too_large(self.name, q)
        root = math.sqrt(q)
        for reach in REACHES:
            edges = np.arange(-reach, reach + 1)
            z, weight = gaussian_nodes(
                np.unique(np.concatenate([edges, self.pieces(reach * root) / root]))
            )
            value, slope = self.evaluate(root * z)
            with np.errstate(all="ignore"):
                fourth = weight * np.maximum(value**2, slope**2) ** 2
            outer, total = fourth[np.abs(z) > reach - 1].sum(), fourth.sum()
            if outer <= BEYOND * total and total > 0:  # if all is 0, look farther out
                break
        return Sample(q, z, weight, value, slope, self.name)

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
        shells = max(2, math.ceil(math.log2(reach)))
        if shells <= self._shells:
            return
        if shells > _FARTHEST:
            raise _too_large(self.name, (reach / REACHES[0]) ** 2)
        if shells >= self._too_rough:
            raise self._rough(self._too_rough)
        # Both sides at once: what is small on one is measured by the size of the other.
        ends = 2.0 ** np.arange(self._shells if self._shells > 0 else -2, shells + 1)
        edges = np.unique(np.concatenate([-ends, self._edges, ends]))
        try:
            found = pieces(lambda x: np.stack(self.evaluate(x)), edges, size=self._size)
        except FloatingPointError as error:
            raise MomentError(
                f"{self.name} or its derivative is not finite at x = {error.args[0]:.6g}, where "
                f"an expectation needs it; give a smaller variance, or an activation that is "
                f"finite everywhere."
            ) from None
        if found is None:
            self._too_rough = shells
            raise self._rough(shells)
        self._size = np.maximum(self._size, found.size)
        self._edges = np.unique(np.concatenate([self._edges, found.edges]))
        seen = self._look_across(found.edges)
        self.kinks = tuple(sorted({*self.kinks, *map(float, found.kinks), *seen}))
        self._shells = shells

    def _rough(self, shells: float | int) -> TooRoughError:
        return TooRoughError(
            f"{self.name} must be differentiable but for isolated points, got one that is not "
            f"smooth in more than 64 places, or oscillates too fast to be followed, within "
            f"|x| < {2.0**shells:g}; give a smoother activation, or a smaller variance."
        )

    def _look_across(self, edges: np.ndarray) -> list[float]:
        """Edges at which phi' jumps; phi must not, and phi' must be bounded on both sides."""
        scale = np.maximum(1.0, np.abs(edges))
        wide, near = 1e-5 * scale, 1e-9 * scale
        value, slope = self.evaluate(edges + np.stack([-wide, -near, near, wide]))
        jump = np.abs(value[2] - value[1])
        steepest = np.maximum(np.max(np.abs(slope), 0), 1.0)
        jumps = jump > 4 * near * steepest + 1e-12 * self._size[0]
        near_slope, far_slope = np.abs(slope[1:3]).max(0), np.abs(slope[[0, 3]]).max(0)
        unbounded = near_slope > 10 * far_slope + 10
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
    """The `Curve` of an activation by name or callable; made once for each."""
    if isinstance(activation, Curve):
        return activation
    facts(activation)  # an unknown name is answered before anything else
    try:
        return _kept(activation)
    except TypeError as error:
        if "unhashable" in str(error):
            return Curve(activation)
        raise


_kept = lru_cache(maxsize=64)(Curve)


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
