"""Starts that are trained side by side, on the same batches."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jinit import models
from jinit.data import Data
from jinit.fixing.candidates import CLIP, DRAWS, Candidate, Case
from jinit.models.tracing.model import TracedModel
from jinit.networks.base import Loss, Network
from jinit.networks.training import train, train_state, train_step
from jinit.sweeps import sweep
from jinit.sweeps.progress import Reporter


class Start(NamedTuple):
    """What one seed of a candidate begins with."""

    variables: Any
    scale: float = 1.0
    clip: bool = False


def starts_of(
    model: TracedModel,
    candidate: Candidate,
    case: Case,
    keys: Sequence[jax.Array],
    trainer: "Trainer",
    scales: dict[str | None, float],
) -> list[Start]:
    """One for each key; `scales` keeps the stable rates of starts."""
    drawn = [model.variables] * len(keys)
    name = candidate.draw(case) if candidate.draw else None
    if name is not None:
        draw = DRAWS[name]
        with warnings.catch_warnings():  # of unused parameters: the lines of code will warn
            warnings.simplefilter("ignore", UserWarning)
            drawn = [draw.tool.traced(model, k, **draw.options(case)) for k in keys]  # type: ignore[attr-defined]
    scale = candidate.rate
    if scale is None:
        if name not in scales:
            scales[name] = trainer.stable(keys[0], drawn[0])
        scale = scales[name]
    return [Start(each, scale, candidate.clip) for each in drawn]


class Trainer:
    """Trains starts side by side."""

    def __init__(
        self, key: jax.Array, model: TracedModel, data: Data, loss: Loss,
        make: Callable[..., Any], steps: int, batch_size: int,
    ) -> None:  # fmt: skip
        """Which leaves move."""
        self.model, self.data, self.loss, self.make = model, data, loss, make
        self.key, self.steps, self.batch_size = key, steps, batch_size
        kinds = [role.kind for role in model.judged(strict=False)]
        moved = zip(model.trace.chosen, kinds, strict=True)
        self.moved = [i for i, kind in moved if kind != "statistic"]
        self.net = Network(lambda key: (self.params(model.variables), {}), self._apply)

    def params(self, variables: Any) -> Any:
        """The same tree, None for what is not trained."""
        leaves, structure = jax.tree.flatten(variables)
        own = [leaf if i in self.moved else None for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, own)

    def _apply(self, params: Any, state: Any, x: Any, *, train: bool, key: Any = None) -> Any:
        leaves, structure = jax.tree.flatten(self.model.variables)
        for i, leaf in zip(self.moved, jax.tree.leaves(params), strict=True):
            leaves[i] = leaf
        return self.model.apply(jax.tree.unflatten(structure, leaves), x), state

    def run(
        self, starts: Mapping[str, Sequence[Start]], end: float | None, progress: bool
    ) -> xr.Dataset:
        """The curves of all candidates; `ran` says whether there was time."""
        flat = [start for each in starts.values() for start in each]
        seeds = len(flat) // len(starts)
        stacked = jax.tree.map(
            lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]),
            *(self.params(start.variables) for start in flat),
        )
        stacked = jax.tree.map(lambda a: a.reshape(len(starts), seeds, *a.shape[1:]), stacked)
        scales = jnp.asarray([[s.scale for s in each] for each in starts.values()], np.float32)
        clips = jnp.asarray(
            [[CLIP if s.clip else math.inf for s in each] for each in starts.values()], np.float32
        )

        def start(key: jax.Array, *, candidate: jax.Array, draw: jax.Array) -> Any:
            mine = jax.tree.map(lambda a: jnp.asarray(a)[candidate, draw], stacked)
            return mine, scales[candidate, draw], clips[candidate, draw]

        def curve(key: jax.Array, start: Any, *, draw: jax.Array) -> dict[str, jax.Array]:
            params, scale, clip = start
            run = train(
                jax.random.fold_in(self.key, draw), self.net, params, {}, self.data,
                optimizer=self.make(scale, clip), steps=self.steps, batch_size=self.batch_size,
                loss=self.loss,
            )  # fmt: skip
            ran = jnp.ones((), np.float32)
            return {"loss": run.history.loss, "accuracy": run.accuracy, "ran": ran}

        with Reporter(show=progress) as reporter:
            reporter.begin(len(flat), 0)
            found = sweep(
                curve, prepare=start, dims={"loss": ("step",)}, block=seeds, progress=False,
                traced={"candidate": np.arange(len(starts)), "draw": np.arange(seeds)},
                executor=UntilTime(end, lambda: reporter.advance(seeds)),
            )  # fmt: skip
        found = found.squeeze("seed", drop=True).rename(draw="seed")
        last = found.loss.isel(step=slice(-max(1, self.steps // 10), None)).mean(
            "step", skipna=False
        )
        found["final_loss"] = last.where(np.isfinite(last), np.inf)
        found["ran"] = np.isfinite(found.ran)
        return found.assign_coords(candidate=list(starts))

    def stable(self, key: jax.Array, variables: Any) -> float:
        """Half of the largest stable learning rate there, over the one that the optimizer takes.

        That one shows in its first step: along the gradient it is |step| / |gradient|, else, as
        Adam's, the largest entry of the step.

        Raises:
            ValueError: a rate that is small enough, or curvature that tells nothing.
        """
        x, y = jax.tree.map(lambda a: jnp.asarray(a[: self.batch_size]), tuple(self.data[:2]))
        model = self.model.of(variables)
        params, optimizer = jax.tree.map(jnp.asarray, self.params(variables)), self.make()
        step = jax.jit(train_step(self.net, optimizer, loss=self.loss))

        def slope(params: Any) -> jax.Array:
            return self.loss(self._apply(params, {}, x, train=True)[0], y)

        g = _flat(jax.jit(jax.grad(slope))(params))
        moved = _flat(step(train_state(params, {}, optimizer), (x, y))[0].params) - _flat(params)
        sizes = np.linalg.norm(moved), np.linalg.norm(g)
        if not (np.isfinite(sizes).all() and all(sizes)):
            raise ValueError("the gradient at the start is 0 or no number, and tells no rate.")
        along = abs(moved @ g) > 0.99 * sizes[0] * sizes[1]
        rates = models.sharpness.traced(
            model, key, targets=y, rates=not along, tolerance=0.05, max_products=200
        )
        if along:
            stable, own = 2 / rates.largest, sizes[0] / sizes[1]
        else:
            stable, own = rates.rates.adam, np.abs(moved).max()  # type: ignore[union-attr]
        scale = float(f"{0.5 * stable / own:.1e}")
        if not 1e-6 < scale < 0.7:
            raise ValueError(
                f"half of the stable learning rate is {scale:g} of the optimizer's own, "
                f"{'too little to learn' if scale < 0.7 else 'which is small enough'}."
            )
        return scale


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


class UntilTime(Executor):
    """Runs what it is given at once and here; what would not end in time gives NaN."""

    def __init__(self, end: float | None, advance: Callable[[], None]) -> None:
        """`end` on the clock that only goes up, None for never."""
        self.end, self.advance = end, advance
        self.last: dict[str, np.ndarray] = {}
        self.seconds = 0.0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """What `fn` returns, or NaN."""
        future: Future[Any] = Future()
        began = time.monotonic()
        if self.last and self.end is not None and began + self.seconds >= self.end:
            future.set_result({k: np.full_like(v, np.nan) for k, v in self.last.items()})
            return future
        compiled = bool(self.last)  # by the first one, which tells no time
        try:
            self.last = fn(*args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
            return future
        self.seconds = time.monotonic() - began if compiled else 0.0
        future.set_result(self.last)
        self.advance()
        return future
