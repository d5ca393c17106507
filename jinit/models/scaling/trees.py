"""What optimizers ask about a model's parameters, as pytrees of the variables' structure.

Which leaf decays, which one is a matrix and along which axes, how deep it lies: all of it is read
off the same trace that says what each parameter is for.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from jinit import checks
from jinit.models.scaling.following import following
from jinit.models.tracing.model import TracedModel, face
from jinit.models.tracing.roles import Role
from jinit.models.tracing.values import RoleError

FIXED = "fixed"
"""Label of leaves that are no floating-point arrays."""


def tree_of(model: TracedModel, values: Sequence[Any], others: Any) -> Any:
    """A pytree of the variables' structure: a value a floating leaf, and `others` for the rest."""
    leaves, structure = jax.tree.flatten(model.variables)
    found = [others] * len(leaves)
    for i, value in zip(model.trace.chosen, values, strict=True):
        found[i] = value
    return jax.tree.unflatten(structure, found)


@face
def labels(model: TracedModel, variables: Any = None) -> Any:
    """The role of every leaf, for `optax.multi_transform`.

    Args:
        apply, variables, *inputs, rules: as for `jinit.Model`.

    Returns:
        A pytree of the variables' structure: "weight", "bias", "scale", "embedding", "tied",
        "statistic", "other" or "unused" (see `Role`), and "fixed" for leaves that are no
        floating-point arrays. Map them to the groups of your optimizer:
        `jax.tree.map(lambda role: "slow" if role == "embedding" else "rest", labels)`.

    Raises:
        RoleError: as `roles`.

    >>> import jax.numpy as jnp, jinit
    >>> p = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    >>> jinit.models.labels(lambda p, x: x @ p["w"] + p["b"], p, jnp.ones((4, 3)))
    {'b': 'bias', 'w': 'weight'}
    """
    model = model.of(variables)
    return tree_of(model, [role.kind for role in model.judged()], FIXED)


@face
def weight_decay_mask(
    model: TracedModel, variables: Any = None, *, embeddings: bool = False
) -> Any:
    """Which leaves decay: weights do; biases, scales and statistics do not.

    Args:
        apply, variables, *inputs, rules: as for `jinit.Model`.
        embeddings: whether looked-up tables decay; one that is tied to a readout is a weight, and
            decays.

    Returns:
        A pytree of the variables' structure, of True and False: the `mask` of `optax.adamw`, of
        `optax.add_decayed_weights` and of `optax.masked`.

    Raises:
        RoleError: as `roles`.
    """
    model = model.of(variables)
    decayed = checks.flag("embeddings", embeddings)
    kinds = ("weight", "tied", "embedding") if decayed else ("weight", "tied")
    return tree_of(model, [role.kind in kinds for role in model.judged()], False)


@face
def muon_dimension_numbers(
    model: TracedModel, variables: Any = None, *, embeddings: bool = False, readout: bool = False
) -> Any:
    """Which axes of which leaf are a matrix's rows and columns, for `optax.contrib.muon`.

    The reduction axes are those that the product sums over, the output axes those that it keeps,
    in whichever order the leaf has them; axes of stacked layers, and of experts with inputs of
    their own, are in neither, so that each matrix is made orthogonal by itself. Three choices: all
    heads of a projection, and all parts of a fused kernel, are one matrix; the taps of a
    convolution belong to what is summed over, so that its kernel is
    [height * width * channels in, channels out]; and a kernel whose groups lie in one axis with its
    channels, as depthwise ones', is left to Adam.

    Args:
        apply, variables, *inputs, rules: as for `jinit.Model`.
        embeddings: whether looked-up and tied tables are Muon's.
        readout: whether the weights are that no other weight follows: the model's last.

    Returns:
        A pytree of the variables' structure: `optax.contrib.MuonDimensionNumbers`, or None for what
        Muon leaves to Adam. Give it as `muon_weight_dimension_numbers`.

    Raises:
        ImportError: optax before 0.2.7, whose Muon knows two axes alone.
        RoleError: as `roles`.

    Source: Jordan 2024, "Muon: an optimizer for hidden layers in neural networks", who leaves
    embeddings and readout to Adam and flattens convolutions so.
    """
    numbers = getattr(optax.contrib, "MuonDimensionNumbers", None)
    if numbers is None:
        raise ImportError(
            f"Muon of optax {optax.__version__} takes matrices of two axes alone; install "
            f"optax 0.2.7 or later for muon_dimension_numbers: pip install -U optax."
        )
    model = model.of(variables)
    found = muon_axes(model, embeddings=embeddings, readout=readout)
    return tree_of(model, [axes and numbers(*axes) for axes in found], None)


@face
def layer_numbers(model: TracedModel, variables: Any = None) -> Any:
    """How deep every leaf lies, for learning rates by layer.

    The number of a weight or embedding is how many others lie before it, along the longest way from
    the inputs: 0 is the first, and the projections of queries, keys and values have the same. A
    bias has the number of what it is added to; a norm's scale and shift that of the weight whose
    output is normalised, and on a residual stream that of the next weight.

    Args:
        apply, variables, *inputs, rules: as for `jinit.Model`.

    Returns:
        A pytree of the variables' structure, of integers; of leaves that hold stacked layers an
        array of them that broadcasts against the leaf. What is used several times counts where it
        is used first; what is not used, or is no floating-point array, has 0.

    Raises:
        RoleError: as `roles`.

    >>> import jax, jax.numpy as jnp, jinit
    >>> p = {"in": jnp.ones((3, 5)), "out": jnp.ones((5, 2)), "b": jnp.ones(2)}
    >>> apply = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"] + p["b"]
    >>> jinit.models.layer_numbers(apply, p, jnp.ones((4, 3)))
    {'b': 1, 'in': 0, 'out': 1}
    """
    model = model.of(variables)
    places = following(model.trace).places
    return tree_of(model, [_number(role, places) for role in model.judged()], 0)


# --- axes ---------------------------------------------------------------------------------------

Axes = tuple[tuple[int, ...], tuple[int, ...]]
"""Those that are summed over, those that are kept."""


def muon_axes(
    model: TracedModel, *, embeddings: bool = False, readout: bool = False
) -> list[Axes | None]:
    """Of every floating leaf; None of what is not Muon's."""
    last = following(model.trace).last
    checks.flag("embeddings", embeddings)
    checks.flag("readout", readout)
    found: list[Axes | None] = []
    for role in model.judged():
        axes = None
        if role.kind == "weight" and (readout or not any(u.order in last for u in role.uses)):
            axes = matrix_axes(role)
        elif role.kind in ("embedding", "tied") and embeddings and len(role.shape) == 2:
            axes = ((0,), (1,)) if role.shape[1] == role.features else ((1,), (0,))
        found.append(axes)
    return found


def matrix_axes(role: Role) -> Axes | None:
    """Axes of a weight that are summed over, and that are kept; None if it is no matrix of these.

    Its matrices say which entries of the leaf lie in one row and in one column: an axis along which
    only rows differ is summed over, and so on.
    """
    known = _plain_axes(role)
    if known is None:
        try:
            matrices = role.matrix()
        except RoleError:  # a part that is chosen while the model runs
            return None
        lines = [matrices[:, 0, 0], matrices[0, :, 0], matrices[0, 0, :]]
        # Along which axes of the leaf entries of each line differ.
        differ = [
            {a for a, at in enumerate(np.unravel_index(line, role.shape)) if (at != at[0]).any()}
            for line in lines
        ]
        apart, rows, columns = differ
        if rows & columns or apart & columns or (apart & rows and role.receptive_field == 1):
            return None
        known = tuple(sorted(rows)), tuple(sorted(columns))
    sizes = (math.prod(role.shape[a] for a in axes) for axes in known)
    return known if min(sizes) > 1 else None


def _plain_axes(role: Role) -> Axes | None:
    """Where the leaf is read as it lies, layer by layer: no entry has to be looked at."""
    uses = [use for use in role.uses if use.kind == "weight" and use.times]
    if len(uses) != 1 or any(step is not None for step in uses[0].view.steps) or role.groups > 1:
        return None
    _, summed, free = uses[0].axes
    leading = len(uses[0].view.layers)
    return tuple(leading + a for a in sorted(summed)), tuple(leading + a for a in sorted(free))


# --- depths -------------------------------------------------------------------------------------


def _number(role: Role, places: dict[int, dict[tuple[int, ...], int]]) -> int | np.ndarray:
    found = [(use, places[use.order]) for use in role.uses if use.order in places]
    if not found:
        return 0
    first = min(min(known.values()) for _, known in found)
    if all(known == {(): first} for _, known in found):
        return first
    if not any(use.view.layers or use.view.picked > 1 for use, _ in found):
        return first  # used again and again, or in parts as gates are
    none = np.iinfo(np.int32).max
    plain = all(step is None for use, _ in found for step in use.view.steps)
    leading = {use.view.layers for use, _ in found}
    if plain and len(leading) == 1:  # read as they lie, one after the other
        (layers,) = leading
        numbers = np.full(layers, none, np.int32)
        for _, known in found:
            for layer, place in known.items():
                numbers[layer] = min(numbers[layer], place)
        return _narrow(numbers.reshape(*layers, *[1] * (len(role.shape) - len(layers))))
    numbers = np.full(math.prod(role.shape), none, np.int32)
    try:
        for use, known in found:
            for layer, place in known.items():
                at = use.view.indices(role.shape, layer).ravel()
                numbers[at] = np.minimum(numbers[at], place)
    except RoleError:  # a part that is chosen while the model runs
        return first
    numbers[numbers == none] = first
    return _narrow(numbers.reshape(role.shape))


def _narrow(numbers: np.ndarray) -> int | np.ndarray:
    """The same, with one entry along axes where nothing changes."""
    for axis in range(numbers.ndim):
        first = numbers.take([0], axis)
        numbers = first if (numbers == first).all() else numbers
    return int(numbers.item()) if numbers.size == 1 else numbers
