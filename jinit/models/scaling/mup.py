"""Maximal update parametrisation of any model: the learning rate of its base is best for it too.

Two traced models say which fans of which weight grow with the width. From that follow, leaf by
leaf, how large it starts and how far an optimizer may move it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ArrayLike

from jinit import checks
from jinit.models.scaling.depth import Multipliers
from jinit.models.scaling.depth import multipliers as depth_multipliers
from jinit.models.scaling.following import following
from jinit.models.scaling.trees import muon_axes
from jinit.models.tracing.model import TracedModel, face
from jinit.models.tracing.names import short_name, table
from jinit.models.tracing.roles import Role
from jinit.models.tracing.uses import Kind
from jinit.models.tracing.values import RoleError

if TYPE_CHECKING:
    import pandas as pd

Class = Literal["input", "hidden", "output", "scalar", "untrained"]


class MuPRow(NamedTuple):
    """One parameter; multipliers are relative to the base model."""

    path: str
    shape: tuple[int, ...]
    role: Kind
    kind: Class
    """which of the fans grow: "input" (fan_out alone), "hidden" (both), "output" (fan_in alone),
    "scalar" (none); "untrained" of statistics and of what is not used"""
    fan_in: float
    """of the target over that of the base"""
    fan_out: float
    """likewise, of all groups together"""
    init: float
    """on a start of variance 1/fan_in"""
    sgd: float
    """on the learning rate of SGD"""
    adam: float
    """on that of Adam"""
    muon: float
    """on that of optax's Muon, where this leaf is Muon's; else as of Adam"""
    eps: float
    """on Adam's epsilon"""
    decay: float
    """on the coefficient of decoupled weight decay, which the learning rate multiplies"""


@dataclass(frozen=True)
class MuP:
    """What `mup` found. `print` shows a table."""

    rows: tuple[MuPRow, ...]
    """one a parameter, in the order of the leaves"""
    init: Any
    """multipliers as a pytree of the variables' structure: on the start (1 for other leaves)"""
    sgd: Any
    """likewise, on the learning rate of SGD"""
    adam: Any
    """likewise, on that of Adam"""
    muon: Any
    """likewise, on that of Muon"""
    eps: Any
    """likewise, on Adam's epsilon"""
    decay: Any
    """likewise, on decoupled weight decay"""

    def variables(self, drawn: Any, *, zero_readout: bool = False) -> Any:
        """Standard variables brought to the start of muP: every leaf times its multiplier.

        Args:
            drawn: variables of the target, of variance 1/fan_in times a number that does not
                depend on the width, as every framework draws them and `jinit.reinit` does.
            zero_readout: "output" weights start at 0, which the authors recommend: the output then
                is the same at every width from the first step on, not of order 1/sqrt(width).

        Raises:
            ValueError: variables of another model.
        """
        missing = {row.path: row for row in self.rows}

        def scaled(keys: Any, leaf: Any) -> Any:
            path = jax.tree_util.keystr(keys)
            row = missing.pop(path, None)
            if row is None:
                return leaf
            if tuple(leaf.shape) != row.shape:
                raise ValueError(
                    f"drawn must be variables of the target, got shape {list(leaf.shape)} for "
                    f"{path}, which is {list(row.shape)} there."
                )
            factor = 0.0 if zero_readout and row.kind == "output" else row.init
            return leaf if factor == 1 else jnp.asarray(leaf) * jnp.asarray(factor, leaf.dtype)

        start = jax.tree_util.tree_map_with_path(scaled, drawn)
        if missing:
            path, *_ = missing
            raise ValueError(f"drawn must be variables of the target, got none for {path}.")
        return start

    def optimizer(
        self,
        base: optax.GradientTransformation,
        *,
        kind: str = "adam",
        part: Callable[[Any], Any] | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """The base model's optimizer, for the target: every leaf's update times its multiplier.

        Everything in `base` is scaled, decoupled weight decay (`optax.adamw`) too, and its epsilon
        stays what it is: `adamw` scales these by their own laws.

        Args:
            base: tuned on the base model, learning rate included.
            kind: "sgd" for updates that are proportional to the gradient (momentum too), "adam"
                for those that are not changed if it is scaled (RMSProp, Adagrad, Lion), "muon" for
                `optax.contrib.muon` with the dimension numbers of `jinit.models`.
            part: of the variables, the tree that is trained, as `lambda v: v["params"]`.

        Raises:
            ValueError: an unknown kind; updates for a leaf that is not there.
        """
        checks.choice("kind", kind, ("sgd", "adam", "muon"))
        return optax.chain(base, _times(getattr(self, kind), part))

    def adamw(
        self,
        learning_rate: ArrayLike | optax.Schedule,
        *,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        mask: Any = None,
        part: Callable[[Any], Any] | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """The base model's AdamW for the target: rates, epsilon and decay each by their own law.

        An epsilon of its own for each leaf is the same as gradients over its multiplier and one
        epsilon. What clips gradients is chained before this, where they are what they are.

        Args:
            learning_rate, b1, b2, eps, weight_decay: as tuned on the base model.
            mask: which leaves decay, a pytree of booleans like what is trained (see
                `jinit.models.weight_decay_mask`); None decays all, as optax does.
            part: of the variables, the tree that is trained, as `lambda v: v["params"]`.
        """

        def decayed(updates: Any, params: Any) -> Any:
            added = jax.tree.map(lambda w: w * jnp.asarray(weight_decay, w.dtype), params)
            added, _ = by_law.update(added, by_law.init(params))
            where = jax.tree.map(lambda _: True, updates) if mask is None else mask
            return jax.tree.map(lambda m, u, d: u + d if m else u, where, updates, added)

        by_law = _times(self.decay, part)
        return optax.chain(
            _times(jax.tree.map(lambda factor: 1 / factor, self.eps), part),
            optax.scale_by_adam(b1, b2, eps), optax.stateless(decayed),
            optax.scale_by_learning_rate(learning_rate), _times(self.adam, part),
        )  # fmt: skip

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a parameter."""
        import pandas as pd

        return pd.DataFrame([row._asdict() for row in self.rows])

    def __str__(self) -> str:  # noqa: D105
        numbers = ("fan_in", "fan_out", "init", "sgd", "adam", "muon", "eps", "decay")
        rows = [
            [short_name(r.path), r.role, r.kind, *(f"{getattr(r, n):.4g}" for n in numbers)]
            for r in self.rows
        ]
        return table(("parameter", "role", "class", *(f"x {name}" for name in numbers)), rows)


def _times(tree: Any, part: Callable[[Any], Any] | None) -> optax.GradientTransformation:
    """Every leaf times its number."""
    flat = jax.tree_util.tree_leaves_with_path(part(tree) if part else tree)
    factors = {jax.tree_util.keystr(keys): factor for keys, factor in flat}

    def scaled(keys: Any, update: Any) -> Any:
        path = jax.tree_util.keystr(keys)
        if path not in factors:
            raise ValueError(
                f"updates must be like the variables that mup was given, got {path!r}; if a "
                f"part is trained give part=lambda variables: variables['params'], or alike."
            )
        return update * jnp.asarray(factors[path], update.dtype)

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates))


@face
def mup(
    model: TracedModel,
    variables: Any = None,
    *,
    base_variables: Any,
    base_apply: Callable[..., Any] | None = None,
    base_inputs: Sequence[Any] | None = None,
    embeddings: str | None = None,
    biases: str = "fan_in",
    depth: ArrayLike = 1.0,
    alpha: ArrayLike = 1.0,
    branches: str = "weights",
) -> MuP:
    """Multipliers that make a wide, or deep, model learn as its narrow base does.

    With r_in and r_out the fans of the target over those of the base:

        class    grows          init std       SGD            Adam       epsilon    decay
        input    fan_out        1              r_out          1          1 / r_out  1
        hidden   both           1              r_out / r_in   1 / r_in   1 / r_out  r_in
        output   fan_in         r_in^(-1/2)    1 / r_in       1 / r_in   1          r_in
        scalar   none           1              1              1          1          1

    relative to a start of variance 1/fan_in and to the base's learning rate. This is table 3 of the
    paper. Tables 8 and 9 describe the same training with factors in the forward pass; a factor on
    a weight can always be put into its start and learning rate instead, and a model that is given
    as a function has no place for one. Biases, scales of norms and looked-up embeddings are
    "input": their fan_in is 1. So are kernels of depthwise convolutions, whose groups grow. Adam's
    epsilon follows the size of the gradient, which is the quotient of the columns before it. A
    decay that the learning rate multiplies is held at rate times decay (Dey et al. 2025, table 1).

    Muon needs next to nothing: its updates have a spectral norm, and optax multiplies them by
    sqrt(max(1, fan_out / fan_in)), where sqrt(fan_out / fan_in) is asked for (Yang, Simon &
    Bernstein 2023, condition 1). `muon` is the quotient, relative to the base: 1 wherever both fans
    grow alike, whatever the width. (With `consistent_rms` it would be another.) What optax's Muon
    leaves to Adam has Adam's multiplier.

    With `depth` = m_L, the residual blocks of the target over those of the base, CompleteP: every
    branch is multiplied by m_L^(-alpha), and in the branches

        SGD m_L^(2 alpha - 1)    Adam, Muon m_L^(alpha - 1)    epsilon m_L^(-alpha)    decay 1

    So at alpha = 1, where no layer learns lazily, hidden rates do not depend on the depth. The
    factor of the branches is put into the start and the rates of their last weights, in which they
    are linear.

    What a model does without weights cannot be changed from outside:

    - Attention must divide its logits by the width of a head, not by its root, times a constant
      that agrees at the base: `q @ k / d * sqrt(d_base)`. Not needed if heads are added and not
      widened.
    - A tied embedding has to start like an input, which is too large for a readout: the logits must
      be divided by r in `apply`. Do that, and say so with `rules={path: "embedding"}`.

    Args:
        apply, variables, *inputs, rules: as for `jinit.Model`.
        base_variables: of the base, the same tree with other widths.
        base_apply: of the base; None if it is the same function.
        base_inputs: of the base; None if they are the same.
        embeddings: how embeddings that widen are drawn: "unit" if their variance does not depend on
            the width (Equinox, Haiku, PyTorch), or "features" if it is 1/features (Flax,
            `jinit.reinit`), which muP has to undo.
        biases: how those of weights are drawn: "fan_in" if their variance is 1/fan_in (PyTorch,
            Equinox; where they start at 0, as in Flax and Haiku, it changes nothing), which muP has
            to undo by sqrt(r_in), or "constant" if it does not depend on the width.
        depth: m_L. The base has the same tree, hence as many blocks as the target; where depth
            alone grows, give the target's own variables as base.
        alpha: in [0.5, 1].
        branches: "weights", or "apply" if `apply` multiplies each branch by m_L^(-alpha) itself.

    Returns:
        `MuP`.

    Raises:
        RoleError: as `jinit.models.roles`; a tied embedding, or a parameter of no known use, that
            grows.
        ValueError: trees that differ; a parameter whose role, layers or kernel size differ; widths
            of which some grow and others shrink; embeddings that widen, and not said how they are
            drawn; a depth without residual branches.

    >>> import jax, jax.numpy as jnp, jinit, optax
    >>> def apply(p, x):
    ...     return jnp.tanh(jnp.tanh(x @ p["in"]) @ p["hidden"]) @ p["out"]
    >>> def draw(key, n):
    ...     shapes = {"in": (64, n), "hidden": (n, n), "out": (n, 10)}
    ...     return {k: jax.random.normal(key, s) / s[0] ** 0.5 for k, s in shapes.items()}
    >>> wide = draw(jax.random.key(0), 1024)
    >>> found = mup(apply, wide, jnp.ones((1, 64)), base_variables=draw(jax.random.key(0), 64))
    >>> found.adam["in"], found.adam["hidden"], found.init["out"]
    (1.0, 0.0625, 0.25)
    >>> start, optimizer = found.variables(wide), found.optimizer(optax.adam(1e-3))

    Source: Yang et al. 2022, "Tensor Programs V", table 3 and appendix B; Dey et al. 2025, "Don't
    be lazy: CompleteP enables compute-efficient deep transformers", table 1.
    """
    if embeddings is not None:
        checks.choice("embeddings", embeddings, ("unit", "features"))
    checks.choice("biases", biases, ("fan_in", "constant"))
    checks.choice("branches", branches, ("weights", "apply"))
    m_l, alpha = _positive("depth", depth), _positive("alpha", alpha)
    if not 0.5 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0.5, 1], got {alpha}.")
    model = model.of(variables)
    _same_tree(model.variables, base_variables)
    target = model.judged()
    given = model.inputs if base_inputs is None else base_inputs
    try:
        narrow = TracedModel(base_apply or model.apply, base_variables, *given, rules=model.rules)
        base = narrow.judged()
    except Exception as error:
        if base_apply is None:
            error.add_note("This was the base model, run by the target's apply; give base_apply.")
        raise
    own = [_row(*pair, embeddings) for pair in zip(target, base, strict=True)]
    if biases == "fan_in":
        own = _with_biases(model, target, own)
    own = _with_muon(model, narrow, own)
    deeper = depth_multipliers(
        model.trace, target, depth=m_l, alpha=alpha, in_weights=branches == "weights"
    )
    rows = tuple(
        row if row.kind == "untrained" else _deeper(row, by)
        for row, by in zip(own, deeper, strict=True)
    )
    wider = [row for row in rows if max(row.fan_in, row.fan_out) > 1]
    narrower = [row for row in rows if min(row.fan_in, row.fan_out) < 1]
    if wider and narrower:
        raise ValueError(
            f"widths must all grow or all shrink from the base, got {wider[0].path} that grows and "
            f"{narrower[0].path} that shrinks; change the base."
        )

    def tree(name: str) -> Any:
        factors = {row.path: getattr(row, name) for row in rows}
        return jax.tree_util.tree_map_with_path(
            lambda keys, _: factors.get(jax.tree_util.keystr(keys), 1.0), model.variables
        )

    return MuP(rows, *map(tree, Multipliers._fields))


def _positive(name: str, value: Any) -> float:
    checks.number(name, value)
    if not float(value) > 0:
        raise ValueError(f"{name} must be positive, got {checks.shown(value)}.")
    return float(value)


def _deeper(row: MuPRow, by: Multipliers) -> MuPRow:
    return row._replace(**{n: getattr(row, n) * factor for n, factor in by._asdict().items()})


def _with_biases(model: TracedModel, roles: Sequence[Role], rows: Sequence[MuPRow]) -> list[MuPRow]:
    """Biases that shrink with the fan_in of the weight whose outputs they are added to."""
    uses, added = model.trace.uses, following(model.trace).added_to
    found = []
    for role, row in zip(roles, rows, strict=True):
        weights = {i for use in role.uses for i in added.get(use.order, ())}
        # Of several, as those of an input and of a state, the wider one is the cell's.
        r_in = max((rows[uses[i].leaf].fan_in for i in weights), default=1.0)
        is_bias = row.role == "bias" and row.kind != "untrained"
        found.append(row._replace(init=row.init * r_in**0.5) if is_bias else row)
    return found


def _with_muon(model: TracedModel, base: TracedModel, rows: Sequence[MuPRow]) -> list[MuPRow]:
    """Muon's multiplier, where the leaf is Muon's: what is asked for over what optax gives."""

    def quotients(of: TracedModel) -> list[float | None]:
        found: list[float | None] = []
        for role, axes in zip(of.judged(), muon_axes(of), strict=True):
            rows, columns = (math.prod(role.shape[a] for a in own) for own in axes or ((), ()))
            found.append(math.sqrt(min(1.0, columns / rows)) if axes else None)
        return found

    pairs = zip(rows, quotients(model), quotients(base), strict=True)
    return [row._replace(muon=a / b) if a and b else row for row, a, b in pairs]


# --- one leaf -----------------------------------------------------------------------------------


def _same_tree(variables: Any, base: Any) -> None:
    paths = [
        [jax.tree_util.keystr(p) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)
         if hasattr(leaf, "dtype")]
        for tree in (variables, base)
    ]  # fmt: skip
    for own, others, who in ((*paths, "base_variables"), (*paths[::-1], "variables")):
        missing = [path for path in own if path not in others]
        if missing:
            raise ValueError(
                f"base_variables must be the same tree with other widths, got none for "
                f"{missing[0]} in {who}; the two models must have the same layers."
            )


def _row(target: Role, base: Role, embeddings: str | None) -> MuPRow:
    path = target.path
    for name in ("kind", "layers", "receptive_field"):
        wide, narrow = getattr(target, name), getattr(base, name)
        if wide != narrow:
            what = "role" if name == "kind" else name
            raise ValueError(
                f"the base must differ in its widths alone, got {path} with {what} {narrow!r} "
                f"in the base and {wide!r} in the target."
            )
    r_in, r_out = _ratios(target, base)
    grown = math.prod(target.shape) / math.prod(base.shape)
    if not math.isclose(r_in * r_out, grown, rel_tol=1e-9):
        raise ValueError(
            f"the base must differ in its widths alone, got {path} of shape {list(base.shape)} in "
            f"the base and {list(target.shape)} in the target: its entries grow x{grown:.4g}, its "
            f"fans x{r_in:.4g} and x{r_out:.4g}."
        )
    if target.kind in ("statistic", "unused"):
        return MuPRow(path, target.shape, target.kind, "untrained", r_in, r_out, *Multipliers())
    if target.kind == "tied" and grown != 1:
        raise RoleError(
            f"{path} is an embedding and a readout, which muP starts at different sizes. Divide "
            f"the logits by {r_in:.4g}, the width over that of the base, in apply, and treat it "
            f"as an embedding with rules={{{path!r}: 'embedding'}}."
        )
    if target.kind == "other" and grown != 1:
        raise RoleError(
            f"{path} grows with the width, and nothing is known of its use; say what it is with "
            f"rules={{{path!r}: 'bias'}} (or scale, embedding, weight)."
        )
    kind = _CLASSES[r_in != 1, r_out != 1]
    init = r_in**-0.5 if kind == "output" else 1.0
    if target.kind == "embedding" and r_out != 1:
        if embeddings is None:
            raise ValueError(
                f"{path} is an embedding that widens: say with embeddings='unit' that its variance "
                f"is drawn independent of the width (Equinox, Haiku, PyTorch), or with "
                f"embeddings='features' that it is drawn 1/features (Flax, jinit.reinit)."
            )
        init = r_out**0.5 if embeddings == "features" else 1.0
    # The gradient's size is what SGD's rate has to make up for.
    by = Multipliers(init, r_out / r_in, 1 / r_in, 1 / r_in, 1 / r_out, r_in)
    return MuPRow(path, target.shape, target.kind, kind, r_in, r_out, *by)


_CLASSES: dict[tuple[bool, bool], Class] = {
    (False, True): "input",
    (True, True): "hidden",
    (True, False): "output",
    (False, False): "scalar",
}


def _ratios(target: Role, base: Role) -> tuple[float, float]:
    """Of fan_in, and of fan_out in all groups together."""
    if target.kind in ("weight", "tied"):
        if target.fan_in is None or base.fan_in is None:
            raise RoleError(
                f"{target.path} is a weight by rule, but no product reads it as it is, so that it "
                f"has no fans; say that it is a bias, scale or embedding."
            )
        wide, narrow = ((role.fan_out or 1) * role.groups for role in (target, base))
        return target.fan_in / base.fan_in, wide / narrow
    if target.kind == "embedding":
        return 1.0, target.features / base.features
    return 1.0, math.prod(target.shape) / math.prod(base.shape)
