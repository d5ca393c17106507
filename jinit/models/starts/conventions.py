"""What known conventions draw for each kind of parameter, in one table.

A law says how one leaf is drawn. A convention gives a leaf's laws from its true fans: the first is
its default for such a leaf, further ones are what it draws in some layers (attention, cells) or
calls by the same name. Frameworks that count fans otherwise are not copied in that: a leaf drawn
with other fans is what an audit wants to find.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jinit.models.starts.laws import FormName, Law
from jinit.schemes import TRUNCATED_STD


class Leaf(NamedTuple):
    """What of a parameter the conventions look at."""

    role: str
    fan_in: int | float | None = None
    """of a bias: that of the weight it is added to"""
    fan_out: int | float | None = None
    """of one group"""
    groups: int = 1
    """of a grouped convolution"""
    features: int | None = None
    """of an embedding"""
    hidden: int | float | None = None
    """units of the recurrent cell that it may belong to, by the fans around it"""


def _zero(fan_in: int | float | None) -> tuple[Law, ...]:
    return (Law("constant", 0.0, 0.0),)


class Convention(NamedTuple):
    """One row of the table.

    `weight(leaf)`, `embedding(features)` and `bias(fan_in)` give laws; none where the convention
    says nothing. `cell(leaf)` are the laws of recurrent and fused layers besides.
    """

    whose: str
    """in a sentence: "the std is He's" """
    formula: str
    source: str
    weight: Callable[[Leaf], tuple[Law, ...]]
    bias: Callable[[int | float | None], tuple[Law, ...]] = _zero
    scale: tuple[Law, ...] = (Law("constant", 0.0, 1.0),)
    embedding: Callable[[int], tuple[Law, ...]] = lambda features: ()
    cell: Callable[[Leaf], tuple[Law, ...]] = lambda leaf: ()
    uncorrected: bool = False
    """whether its normals have lost some of their std to a cut"""

    def laws(self, leaf: Leaf) -> tuple[Law, ...]:
        """Every law of this convention for a leaf, its default first."""
        return _LAWS[leaf.role](self, leaf) if leaf.role in _LAWS else ()


_LAWS: dict[str, Callable[[Convention, Leaf], tuple[Law, ...]]] = {
    "weight": lambda its, leaf: its.weight(leaf) + its.cell(leaf),
    "embedding": lambda its, leaf: its.embedding(leaf.features or 1),
    "tied": lambda its, leaf: its.embedding(leaf.features or 1) + its.weight(leaf),
    "bias": lambda its, leaf: its.bias(leaf.fan_in),
    "scale": lambda its, leaf: its.scale,
}
"""Laws of a convention by role; it says nothing of other ones."""


def _of_fan_in(variance: float, *forms: FormName) -> Callable[[Leaf], tuple[Law, ...]]:
    def laws(leaf: Leaf) -> tuple[Law, ...]:
        std = math.sqrt(variance / (leaf.fan_in or 1))
        return tuple(Law(form, std) for form in forms)

    return laws


def _of_both_fans(*forms: FormName, groups: bool = False) -> Callable[[Leaf], tuple[Law, ...]]:
    def laws(leaf: Leaf) -> tuple[Law, ...]:
        fan_out = (leaf.fan_out or 1) * (leaf.groups if groups else 1)
        std = math.sqrt(2 / ((leaf.fan_in or 1) + fan_out))
        return tuple(Law(form, std) for form in forms)

    return laws


def _torch_bias(fan_in: int | float | None) -> tuple[Law, ...]:
    """U(±1/sqrt(fan_in)) of its weight; 0 in norms."""
    return _zero(None) if fan_in is None else (Law("uniform", 1 / math.sqrt(3 * fan_in)),)


def _torch_cell(leaf: Leaf) -> tuple[Law, ...]:
    """RNN, LSTM, GRU: U(±1/sqrt(hidden)), both matrices; attention's fused projections: Glorot."""
    found: tuple[Law, ...] = ()
    if leaf.hidden is not None and leaf.fan_out != leaf.hidden:
        found += (Law("uniform", 1 / math.sqrt(3 * leaf.hidden)),)
    if leaf.fan_in is not None and leaf.fan_out == 3 * leaf.fan_in:
        found += _of_both_fans("uniform")(leaf)
    return found


def _keras_cell(leaf: Leaf) -> tuple[Law, ...]:
    """The recurrent matrix, orthogonal across all its gates."""
    if leaf.hidden is None or leaf.fan_in != leaf.hidden:
        return ()
    return (Law("orthogonal", 1 / math.sqrt(leaf.fan_out or 1)),)


def _flax_cell(leaf: Leaf) -> tuple[Law, ...]:
    """The recurrent matrix, orthogonal gate by gate; only the plain square one is told apart."""
    if leaf.fan_in is None or leaf.fan_in != leaf.fan_out:
        return ()
    return (Law("orthogonal", 1 / math.sqrt(leaf.fan_in)),)


Conventions = Mapping[str, Convention]

CONVENTIONS: Conventions = {
    "torch": Convention(
        whose="torch's",
        formula="U(±1/√fan_in), biases alike; embeddings N(0, 1)",
        source="torch.nn: kaiming_uniform(a=√5); equinox.nn likewise",
        weight=_of_fan_in(1 / 3, "uniform"),
        bias=_torch_bias,
        embedding=lambda features: (Law("normal", 1.0),),
        cell=_torch_cell,
    ),
    "keras": Convention(
        whose="Glorot's (keras)",
        formula="U(±√(6/(fan_in + fan_out))); embeddings U(±0.05); recurrent: orthogonal",
        source="keras.layers: glorot_uniform; it counts the outputs of all groups",
        weight=_of_both_fans("uniform", groups=True),
        embedding=lambda features: (Law("uniform", 0.05 / math.sqrt(3)),),
        cell=_keras_cell,
    ),
    "flax": Convention(
        whose="LeCun's (flax)",
        formula="N(0, 1/fan_in) truncated, std exact; embeddings N(0, 1/features); "
        "recurrent: orthogonal",
        source="flax.linen and flax.nnx: lecun_normal, variance_scaling(out_axis=0)",
        weight=_of_fan_in(1.0, "truncated"),
        embedding=lambda features: (Law("normal", 1 / math.sqrt(features)),),
        cell=_flax_cell,
    ),
    "haiku": Convention(
        whose="haiku's",
        formula="N(0, 1/fan_in) truncated, std 0.88/√fan_in; embeddings N(0, 1) truncated",
        source="haiku: TruncatedNormal(1/√fan_in), which does not correct for the cut",
        weight=_of_fan_in(TRUNCATED_STD**2, "truncated"),
        embedding=lambda features: (Law("truncated", TRUNCATED_STD),),
        uncorrected=True,
    ),
    "caffe": Convention(
        whose="LeCun's (caffe)",
        formula="U(±√(3/fan_in))",
        source='Caffe\'s "xavier" filler, variance_norm FAN_IN',
        weight=_of_fan_in(1.0, "uniform"),
    ),
    "cs231n": Convention(
        whose="LeCun's (cs231n)",
        formula="N(0, 1/fan_in); embeddings N(0, 0.01²)",
        source="CS231n: randn / √fan_in, which it calls Xavier; captioning: randn / 100",
        weight=_of_fan_in(1.0, "normal"),
        embedding=lambda features: (Law("normal", 0.01),),
    ),
    "he": Convention(
        whose="He's",
        formula="variance 2/fan_in: normal, truncated or uniform",
        source="He et al. 2015, eq. 10; torch kaiming_*, keras and jax he_*",
        weight=_of_fan_in(2.0, "normal", "truncated", "uniform"),
        scale=(),
    ),
    "xavier": Convention(
        whose="Glorot's",
        formula="variance 2/(fan_in + fan_out): uniform, normal or truncated",
        source="Glorot & Bengio 2010, eq. 12 and 16",
        weight=_of_both_fans("uniform", "normal", "truncated"),
        scale=(),
    ),
}
