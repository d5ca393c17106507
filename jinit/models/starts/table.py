"""Starts: how whole models are drawn, in one table.

A start gives a law to places of a model (`jinit.models.starts.places.PLACES`). Of a leaf's place
the first name that the start knows decides, so that the end of a residual branch may have a law of
its own where other weights share one.

What a row says was read in its source, or computed from the formula there; `left_out` says what of
the source is not drawn here.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit.models.starts.conventions import CONVENTIONS, Leaf
from jinit.models.starts.laws import (
    AnyLaw,
    Fixed,
    Law,
    Paired,
    Quantile,
    constant,
    cut_at_3,
    normal,
    uniform,
    zero,
)
from jinit.models.starts.places import Layout, Place

Options = Mapping[str, Any]
LawOf = Callable[[Place, Layout, Options], AnyLaw | tuple[AnyLaw, ...] | None]
"""A place's law; one for each layer of a stack in a tuple; None where the leaf stays as it is"""


class Start(NamedTuple):
    """One row of the table."""

    formula: str
    source: str
    """where it was read"""
    laws: Mapping[str, LawOf]
    """name of a place -> law"""
    needs: tuple[str, ...] = ()
    """what a model must have, of `NEEDS`"""
    options: Options = MappingProxyType({})
    """name -> default"""
    named: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """name of a place of its own -> ends of the paths of leaves that stand there"""
    left_out: str = ""
    """what of the source is a matter of the model's code, or could not be read"""

    @property
    def whole(self) -> bool:
        """Whether it draws every weight; else what it says nothing of stays as it is."""
        return "weight" in self.laws


NEEDS: Mapping[str, tuple[str, str]] = {
    "residual": (
        "residual branches, and the model has none: no sum of a signal and of what weights have "
        "made of it",
        "start='torch' or a scheme such as 'he' would do",
    ),
    "attention": (
        "an attention, and the model has none: no softmax of a product of two signals that mixes a "
        "third",
        "start='gpt2' draws a residual model, 'torch' any",
    ),
    "lstm": (
        "the gates of an LSTM, and the model has none: no state that is kept as "
        "sigmoid(forget) * state + sigmoid(input) * candidate",
        "start='torch' draws any recurrent cell",
    ),
    "low_rank": (
        "low ranks x A B beside a weight that reads the same x, and the model has none",
        "name the leaves with start_options={'low_rank_first': path, 'low_rank_second': path}",
    ),
    "nu_log": (
        "the ring of an LRU, and the model has no leaf nu_log",
        "name it with start_options={'nu_log': path}; start='mamba' draws A_log",
    ),
    "A_log": (
        "the rates of a Mamba block, and the model has no leaf A_log",
        "name it with start_options={'A_log': path}; start='lru' draws nu_log",
    ),
    "first": (
        "a weight that reads an input itself, and the model has none",
        "start='torch' draws any model",
    ),
}
"""What a start may need: that it is missing in a sentence, and what would do."""


# --- laws that several rows share -----------------------------------------------------------------


def _zero(place: Place, model: Layout, options: Options) -> Law:
    return zero()


def _one(place: Place, model: Layout, options: Options) -> Law:
    return constant(1.0)


def _kept(place: Place, model: Layout, options: Options) -> None:
    return None


COMMON: Mapping[str, LawOf] = {"bias": _zero, "norm_scale": _one}
"""What nearly every whole model's recipe does: biases 0, scales of norms 1"""


def _std(number: float) -> LawOf:
    return lambda place, model, options: normal(number)


def _looked_up(law: Law) -> LawOf:
    """Of a position that is looked up; one that is a parameter of the model's own stays."""
    return lambda place, model, options: law if place.role in ("embedding", "tied") else None


def _of_features(place: Place, model: Layout, options: Options) -> Law:
    """N(0, 1 / features)."""
    return normal((place.features or place.shape[-1]) ** -0.5)


def _leaf(place: Place) -> Leaf:
    groups = place.groups if place.receptive_field > 1 else 1
    return Leaf(place.role, place.fan_in, place.fan_out, groups, place.features)


def _of_convention(name: str) -> dict[str, LawOf]:
    """The default laws of a convention."""
    its = CONVENTIONS[name]

    def first(place: Place, model: Layout, options: Options) -> Law | None:
        return next(iter(its.laws(_leaf(place))), None)

    position: LawOf = lambda p, m, o: first(p, m, o) if p.role in ("embedding", "tied") else None  # noqa: E731
    roles = dict.fromkeys(("weight", "embedding", "tied", "bias", "norm_scale"), first)
    scale = its.scale[0] if its.scale else constant(1.0)
    return {**roles, "position": position, "norm_scale": lambda p, m, o: scale}


def _glorot(place: Place, gain: float = 1.0) -> float:
    return gain * math.sqrt(2 / ((place.fan_in or 1) + place.outputs))


# --- torch and its like ---------------------------------------------------------------------------


def _torch_cell(place: Place, model: Layout, options: Options) -> Law:
    return uniform(1 / math.sqrt(place.hidden or 1))


def _torch_projection(place: Place, model: Layout, options: Options) -> Law | None:
    """Of nn.MultiheadAttention one matrix [3 d, d], Glorot's; of nn.Linear as any other."""
    if options["attention"] == "linear":
        return _TORCH["weight"](place, model, options)  # type: ignore[return-value]
    return Law("uniform", math.sqrt(2 / (4 * (place.fan_in or 1))))


def _torch_projection_bias(place: Place, model: Layout, options: Options) -> Law | None:
    if options["attention"] == "linear":
        return _TORCH["bias"](place, model, options)  # type: ignore[return-value]
    return zero()


_TORCH = _of_convention("torch")
_TORCH_CELLS: dict[str, LawOf] = dict.fromkeys(("recurrent", "cell", "cell_bias"), _torch_cell)


def _flax_recurrent(place: Place, model: Layout, options: Options) -> AnyLaw:
    """Orthogonal, gate by gate."""
    hidden = place.hidden or 1
    if place.outputs == hidden:
        return Law("orthogonal", 1 / math.sqrt(hidden))

    def gates(key: jax.Array, fan_in: int, fan_out: int) -> jax.Array:
        draw = jax.nn.initializers.orthogonal()
        keys = jax.random.split(key, fan_out // hidden)
        return jnp.concatenate([draw(each, (fan_in, hidden)) for each in keys], 1)

    return Paired("orthogonal, gate by gate", gates, "gates", 1 / math.sqrt(hidden))


def _keras_recurrent(place: Place, model: Layout, options: Options) -> Law:
    """Orthogonal across all gates."""
    return Law("orthogonal", 1 / math.sqrt(max(place.fan_in or 1, place.outputs)))


def _haiku_cell(place: Place, model: Layout, options: Options) -> Law | None:
    """hk.GRU scales its variance exactly; hk.LSTM and hk.VanillaRNN are made of hk.Linear."""
    if place.fan_out == 3 * (place.hidden or 0):
        return Law("truncated", 1 / math.sqrt(place.fan_in or 1))
    return _HAIKU["weight"](place, model, options)  # type: ignore[return-value]


_HAIKU = _of_convention("haiku")


# --- residual models ------------------------------------------------------------------------------


def _per_layer(place: Place, law: Callable[[int], Law]) -> Law | tuple[Law, ...]:
    laws = tuple(law(place.block + i) for i in range(place.layers))
    return laws if place.layers > 1 else laws[0]


def _llama_end(place: Place, model: Layout, options: Options) -> Law | tuple[Law, ...]:
    std = options["std"]
    if not options["by_layer"]:
        return normal(std / math.sqrt(2 * model.shape.blocks))
    return _per_layer(place, lambda layer: normal(std / math.sqrt(2 * (layer + 1))))


def _nanochat(place: Place, model: Layout, options: Options) -> Law:
    fan_in = place.fan_in or 1
    return normal(min(1.0, math.sqrt(place.outputs / fan_in)) / math.sqrt(fan_in))


def _deepnet_beta(place: Place, model: Layout) -> float:
    its = model.shape
    if place.side == "encoder":
        return 0.87 * (its.encoder**4 * its.decoder) ** (-1 / 16)
    return float((12 * its.decoder if place.side == "decoder" else 8 * its.blocks) ** -0.25)


def _deepnet(place: Place, model: Layout, options: Options) -> Law:
    return normal(_glorot(place, _deepnet_beta(place, model)))


def _t_fixup_factor(place: Place, model: Layout, options: Options) -> float:
    side = place.side or options["side"]
    layers = {"encoder": model.shape.encoder, "decoder": model.shape.decoder}[side]
    layers = layers if place.side else model.shape.blocks
    return float(0.67 * layers**-0.25 if side == "encoder" else (9 * layers) ** -0.25)


def _t_fixup(place: Place, model: Layout, options: Options) -> Law:
    return Law("uniform", _glorot(place, _t_fixup_factor(place, model, options)))


def _t_fixup_embedding(place: Place, model: Layout, options: Options) -> Law:
    features = place.features or place.shape[-1]
    return normal(features**-0.5 * _t_fixup_factor(place, model, options))


def _he(place: Place, factor: float = 1.0) -> Law:
    return normal(factor * math.sqrt(2 / (place.fan_in or 1)))


def _fixup_inside(place: Place, model: Layout, options: Options) -> Law:
    power = -1 / (2 * place.depth - 2) if place.depth > 1 else 0.0
    return _he(place, model.shape.branches**power)


def _skipinit_end(place: Place, model: Layout, options: Options) -> Law:
    return _he(place) if "branch_scale" in model.has else _he(place, options["alpha"])


# --- attention whose products are near the identity -----------------------------------------------


def _split_product(
    key: jax.Array, size: int, mixture: tuple[float, float], rank: int
) -> tuple[jax.Array, jax.Array]:
    """U sqrt(S) and sqrt(S) V^T of noise Z + identity I, Z ~ N(0, 1/size); the first of `rank`."""
    noise, identity = mixture
    z = jax.random.normal(key, (size, size)) / math.sqrt(size)
    u, s, vt = jnp.linalg.svd(noise * z + identity * jnp.eye(size))
    root = jnp.sqrt(s[:rank])
    return u[:, :rank] * root[None], root[:, None] * vt[:rank]


def _mimetic_value(place: Place, model: Layout, options: Options) -> Paired:
    noise, identity = options["value_out"]
    mixture = (noise, -identity)

    def of(key: jax.Array, fan_in: int, fan_out: int) -> jax.Array:
        first, second = _split_product(key, max(fan_in, fan_out), mixture, min(fan_in, fan_out))
        return first if "value" in place.names else second

    return Paired("of V O = 0.4 Z - 0.4 I", of, "value_out")


def _mimetic_query(place: Place, model: Layout, options: Options) -> Paired:
    mixture, head = options["query_key"], place.head or 1

    def of(key: jax.Array, fan_in: int, fan_out: int) -> jax.Array:
        heads = jax.random.split(key, fan_out // head)
        pairs = [_split_product(each, fan_in, mixture, head) for each in heads]
        is_query = "query" in place.names
        return jnp.concatenate([q if is_query else kt.T for q, kt in pairs], 1)

    return Paired("of Q K^T = 0.7 Z + 0.7 I, head by head", of, "query_key")


# --- recurrent and state-space models -------------------------------------------------------------


def _xp(u: Any) -> Any:
    return jnp if isinstance(u, jax.Array) else np


def _longest(place: Place, options: Options) -> float:
    given = options["longest"]
    return float(place.times if given is None else given)


def _chrono(sign: int) -> LawOf:
    def law(place: Place, model: Layout, options: Options) -> Quantile:
        longest = _longest(place, options)
        if longest <= 2:
            raise ValueError(
                f"start 'chrono' needs the longest dependency in steps, more than 2, got "
                f"{longest:g}; give start_options={{'longest': 100}}."
            )
        words = f"{'-' if sign < 0 else ''}ln U(1, {longest - 1:g})"
        return Quantile(words, lambda u: sign * _xp(u).log(1 + (longest - 2) * u), "chrono")

    return law


def _ring(u: Any, options: Options) -> Any:
    """|lambda|^2, uniform in area between two radii."""
    low, high = options["r_min"] ** 2, options["r_max"] ** 2
    return low + (high - low) * u


def _lru_nu(place: Place, model: Layout, options: Options) -> Quantile:
    of = lambda u: _xp(u).log(-0.5 * _xp(u).log(_ring(u, options)))  # noqa: E731
    return Quantile("ln of -ln |lambda|", of, "ring")


def _lru_gamma(place: Place, model: Layout, options: Options) -> Quantile:
    of = lambda u: 0.5 * _xp(u).log(1 - _ring(u, options))  # noqa: E731
    return Quantile("ln sqrt(1 - |lambda|^2)", of, "ring")


def _lru_theta(place: Place, model: Layout, options: Options) -> Quantile:
    return Quantile("ln of a uniform phase", lambda u: _xp(u).log(options["max_phase"] * u))


def _states(place: Place, model: Layout) -> int:
    """Of the LRU that a leaf belongs to: the entries of its nu_log, of one layer."""
    ring = [p for p in model.places if "nu_log" in p.names]
    return next((p for p in ring if p.group == place.group), ring[0]).shape[-1]


def _lru_in(place: Place, model: Layout, options: Options) -> Law:
    states = _states(place, model)
    sizes = place.shape[-2:]
    inputs = sizes[0] if sizes[1] == states and sizes[0] != states else sizes[1]
    return normal(1 / math.sqrt(2 * inputs))


def _lru_out(place: Place, model: Layout, options: Options) -> Law:
    return normal(1 / math.sqrt(_states(place, model)))


def _mamba_bias(place: Place, model: Layout, options: Options) -> Quantile:
    low, high = math.log(options["dt_min"]), math.log(options["dt_max"])

    def of(u: Any) -> Any:
        dt = _xp(u).maximum(_xp(u).exp(low + (high - low) * u), options["dt_floor"])
        return dt + _xp(u).log(-_xp(u).expm1(-dt))

    return Quantile("softplus^-1 of a log-uniform dt", of)


def _mamba_dt(place: Place, model: Layout, options: Options) -> Law:
    return uniform((place.fan_in or min(place.shape[-2:])) ** -0.5)


def _counted(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.log(np.arange(1, shape[-1] + 1)), shape)


def _lora_first(place: Place, model: Layout, options: Options) -> Law:
    rank = min(place.fan_out or min(place.shape[-2:]), min(place.shape[-2:]))
    if options["first"] == "gaussian":
        return normal(1 / rank)
    return uniform(1 / math.sqrt(place.fan_in or max(place.shape[-2:])))


# --- the table ------------------------------------------------------------------------------------

STARTS: Mapping[str, Start] = {
    "gpt2": Start(
        formula="N(0, 0.02²), ends of residual branches over √(number of branches) = √(2L); "
        "positions N(0, 0.01²); biases 0",
        source="openai/gpt-2 src/model.py (0.02, positions 0.01) and Radford et al. 2019 "
        "(1/√N of N residual layers), as in huggingface/transformers modeling_gpt2.py, which "
        "draws positions with 0.02 (start_options={'position_std': 0.02})",
        laws={
            **COMMON,
            "branch_end": lambda p, m, o: normal(o["std"] / math.sqrt(m.shape.branches)),
            "weight": lambda p, m, o: normal(o["std"]),
            "embedding": lambda p, m, o: normal(o["std"]),
            "position": lambda p, m, o: normal(o["position_std"]),
        },
        needs=("residual",),
        options={"std": 0.02, "position_std": 0.01},
    ),
    "gpt_neox": Start(
        formula="small init N(0, 2/(5d)), ends of residual branches by Wang's N(0, (2/(L√d))²)",
        source="EleutherAI/gpt-neox megatron/model/init_functions.py, small_init and wang_init",
        laws={
            **COMMON,
            "branch_end": lambda p, m, o: normal(2 / (m.shape.blocks * math.sqrt(m.shape.width))),
            "weight": lambda p, m, o: normal(math.sqrt(2 / (5 * m.shape.width))),
            "embedding": lambda p, m, o: normal(math.sqrt(2 / (5 * m.shape.width))),
            "position": lambda p, m, o: normal(math.sqrt(2 / (5 * m.shape.width))),
        },
        needs=("residual",),
    ),
    "olmo2": Start(
        formula="N(0, 0.02²) cut at ±3 · 0.02, weights and embeddings; biases 0",
        source="allenai/OLMo-core src/olmo_core/nn/transformer/init.py, InitMethod.normal",
        laws={
            **COMMON,
            **dict.fromkeys(
                ("weight", "embedding", "position"), lambda p, m, o: cut_at_3(o["std"])
            ),
        },
        options={"std": 0.02},
    ),
    "nanochat": Start(
        formula="N(0, min(1, fan_out/fan_in)/fan_in); ends of residual branches and readout 0; "
        "embeddings N(0, 1)",
        source="karpathy/nanochat nanochat/gpt.py as first published, init_weights",
        laws={
            **COMMON,
            "branch_end": _zero,
            "readout": _zero,
            "weight": _nanochat,
            "embedding": _std(1.0),
            "position": _looked_up(normal(1.0)),
        },
        needs=("residual",),
        left_out="what later versions changed",
    ),
    "llama_depth": Start(
        formula="N(0, 0.02²); attention's output, the end of the feed-forward and its weight "
        "beside the gate N(0, 0.02²/(2l)) in layer l; readout N(0, 1/d) cut at 3σ; embeddings "
        "N(0, 1)",
        source="pytorch/torchtitan models/llama3, depth_init; as InitMethod.llama_depth of "
        "allenai/OLMo-core. by_layer=False takes the number of layers for l",
        laws={
            **COMMON,
            "branch_end": _llama_end,
            "up": _llama_end,
            "readout": lambda p, m, o: cut_at_3(1 / math.sqrt(p.fan_in or 1)),
            "weight": lambda p, m, o: normal(o["std"]),
            "embedding": _std(1.0),
            "position": _looked_up(normal(1.0)),
        },
        needs=("attention", "residual"),
        options={"std": 0.02, "by_layer": True},
        left_out="torch cuts the normals at ±2, which is a hundred standard deviations",
    ),
    "torch": Start(
        formula="Linear and Conv U(±1/√fan_in), biases alike; Embedding N(0, 1); RNN, LSTM and GRU "
        "U(±1/√hidden), biases alike; norms 1 and 0",
        source="torch.nn's reset_parameters (kaiming_uniform with a = √5), as in CONVENTIONS. "
        "attention='multihead' draws nn.MultiheadAttention: Glorot's uniform of one [3d, d], "
        "biases 0",
        laws={
            **_TORCH,
            **_TORCH_CELLS,
            **dict.fromkeys(("query", "key", "value"), _torch_projection),
            "attention_bias": _torch_projection_bias,
        },
        options={"attention": "linear"},
    ),
    "flax": Start(
        formula="N(0, 1/fan_in) cut at ±2σ, std exact; embeddings N(0, 1/features); recurrent "
        "weights orthogonal, gate by gate; biases 0",
        source="flax.linen and flax.nnx: lecun_normal, default_embed_init, recurrent.py; as in "
        "CONVENTIONS",
        laws={**_of_convention("flax"), "recurrent": _flax_recurrent},
    ),
    "haiku": Start(
        formula="N(0, 1/fan_in) cut at ±2σ, std 0.88/√fan_in; embeddings N(0, 1) cut likewise; "
        "GRU cut, std 1/√fan_in; biases 0",
        source="haiku._src basic.py, embed.py, recurrent.py; as in CONVENTIONS. hk.LSTM adds 1 to "
        "its forget gate in the code",
        laws={**_HAIKU, "recurrent": _haiku_cell, "cell": _haiku_cell},
    ),
    "keras": Start(
        formula="Glorot's U(±√(6/(fan_in + fan_out))); embeddings U(±0.05); recurrent weights "
        "orthogonal across gates; forget bias 1, other biases 0",
        source="keras.layers: glorot_uniform, unit_forget_bias; as in CONVENTIONS",
        laws={**_of_convention("keras"), "recurrent": _keras_recurrent, "forget_gate": _one},
    ),
    "equinox": Start(
        formula="Linear and Conv U(±1/√fan_in), biases alike; Embedding N(0, 1); LSTM and GRU "
        "U(±1/√hidden), biases alike; norms 1 and 0",
        source="equinox.nn _linear.py, _conv.py, _embedding.py, _rnn.py",
        laws={**_TORCH, **_TORCH_CELLS},
    ),
    "deepnet": Start(
        formula="Glorot's normal; feed-forward, value and output projections times "
        "β = (8N)^(-1/4); with encoder and decoder 0.87 (N⁴M)^(-1/16) and (12M)^(-1/4); embeddings "
        "and readout N(0, 1/d)",
        source="Wang et al. 2022; microsoft/torchscale architecture/decoder.py",
        laws={
            **COMMON,
            **dict.fromkeys(("value", "attention_out", "feed_forward_in", "branch_end"), _deepnet),
            "readout": lambda p, m, o: normal(1 / math.sqrt(p.fan_in or 1)),
            "weight": lambda p, m, o: normal(_glorot(p)),
            "embedding": _of_features,
            "position": _of_features,
        },
        needs=("attention", "residual"),
        left_out="the constant α = (2N)^(1/4) on the skip is in the model's code: "
        "norm(α x + branch(x)); of an encoder beside a decoder 0.81 (N⁴M)^(1/16), of the decoder "
        "(3M)^(1/4)",
    ),
    "t_fixup": Start(
        formula="Glorot's uniform; embeddings N(0, 1/d); value and output projections, "
        "feed-forward and embeddings times 0.67 N^(-1/4) in an encoder, (9N)^(-1/4) in a decoder",
        source="Huang et al. 2020, and public ports of its code. A model of one side is an encoder "
        "unless start_options={'side': 'decoder'}",
        laws={
            **COMMON,
            **dict.fromkeys(("value", "attention_out", "feed_forward_in", "branch_end"), _t_fixup),
            "weight": lambda p, m, o: Law("uniform", _glorot(p)),
            "embedding": _t_fixup_embedding,
            "position": _t_fixup_embedding,
        },
        needs=("attention", "residual"),
        options={"side": "encoder"},
        left_out="that norms and the warmup are left out is in the model's code",
    ),
    "fixup": Start(
        formula="He's N(0, 2/fan_in); inside of branches times L^(-1/(2m-2)), their ends and the "
        "readout 0; multipliers 1, biases 0; embeddings N(0, 1/d)",
        source="Zhang, Dauphin & Ma 2019, section 3; hongyi-zhang/Fixup fixup_resnet_cifar.py, "
        "which counts fan_out",
        laws={
            **COMMON,
            "branch_end": _zero,
            "readout": _zero,
            "shortcut": lambda p, m, o: _he(p),
            "branch": _fixup_inside,
            "weight": lambda p, m, o: _he(p),
            "branch_scale": _one,
            "embedding": _of_features,
            "position": _of_features,
        },
        needs=("residual",),
    ),
    "skipinit": Start(
        formula="He's N(0, 2/fan_in); the number at the end of a branch α = 0, or else the last "
        "weights times α",
        source="De & Smith 2020, section 4; ReZero (Bachlechner et al. 2020), α = 0",
        laws={
            **COMMON,
            "branch_end": _skipinit_end,
            "branch_scale": lambda p, m, o: constant(o["alpha"]),
            "weight": lambda p, m, o: _he(p),
            "embedding": _of_features,
            "position": _of_features,
        },
        needs=("residual",),
        options={"alpha": 0.0},
    ),
    "mimetic": Start(
        formula="W_Q W_Kᵀ = 0.7 Z + 0.7 I head by head, W_V W_O = 0.4 Z - 0.4 I, each split by its "
        "singular values, Z ~ N(0, 1/d)",
        source="Trockman & Kolter 2023; coefficients as in public ports of their code",
        laws={
            **dict.fromkeys(("query", "key"), _mimetic_query),
            **dict.fromkeys(("value", "attention_out"), _mimetic_value),
        },
        needs=("attention",),
        options={"query_key": (0.7, 0.7), "value_out": (0.4, 0.4)},
        left_out="sinusoidal positions; everything but the attention stays as it is",
    ),
    "lora": Start(
        formula="A U(±1/√fan_in), B 0; first='gaussian' takes N(0, 1/r²) for A",
        source="Hu et al. 2021; loralib and huggingface/peft, reset_lora_parameters",
        laws={"low_rank_first": _lora_first, "low_rank_second": _zero},
        needs=("low_rank",),
        options={"first": "uniform"},
        named={
            "low_rank_first": ("lora_A", "lora_a", "lora_A/weight"),
            "low_rank_second": ("lora_B", "lora_b", "lora_B/weight"),
        },
        left_out="everything else stays as it is",
    ),
    "siren": Start(
        formula="first weights U(±1/fan_in), others U(±√(6/fan_in)/ω₀), ω₀ = 30; biases "
        "U(±1/√fan_in)",
        source="Sitzmann et al. 2020, section 3.2; vsitzmann/siren modules.py; biases are torch's",
        laws={
            **COMMON,
            "first": lambda p, m, o: uniform(1 / (p.fan_in or 1)),
            "weight": lambda p, m, o: uniform(math.sqrt(6 / (p.fan_in or 1)) / o["omega"]),
            "bias": lambda p, m, o: _TORCH["bias"](p, m, o),
        },
        needs=("first",),
        options={"omega": 30.0},
        left_out="sin(ω₀ x) itself is in the model's code",
    ),
    "chrono": Start(
        formula="forget bias ln U(1, T - 1), input bias its negative, other gates' biases 0",
        source="Tallec & Ollivier 2018; 0h-n0/chrono_initialization. T is the length of the loop, "
        "unless start_options={'longest': T}",
        laws={"forget_gate": _chrono(1), "input_gate": _chrono(-1), "cell_bias": _zero},
        needs=("lstm",),
        options={"longest": None},
        left_out="GRUs; everything but the biases of the gates stays as it is",
    ),
    "forget_bias": Start(
        formula="forget bias 1, other gates' biases 0",
        source="Jozefowicz et al. 2015; as keras's unit_forget_bias",
        laws={"forget_gate": lambda p, m, o: constant(o["value"]), "cell_bias": _zero},
        needs=("lstm",),
        options={"value": 1.0},
        left_out="everything but the biases of the gates stays as it is",
    ),
    "lru": Start(
        formula="λ's modulus r on a ring, uniform in area, phase uniform, γ = √(1 - r²), as "
        "logarithms; B N(0, 1/(2 d)) and C N(0, 1/n), real and imaginary part each; D N(0, 1)",
        source="Orvieto et al. 2023; NicolasZucchet/minimal-LRU "
        "lru/model.py, whose defaults are r_min = 0, r_max = 1",
        laws={
            "nu_log": _lru_nu,
            "theta_log": _lru_theta,
            "gamma_log": _lru_gamma,
            **dict.fromkeys(("B_re", "B_im"), _lru_in),
            **dict.fromkeys(("C_re", "C_im"), _lru_out),
            "D": _std(1.0),
        },
        needs=("nu_log",),
        options={"r_min": 0.9, "r_max": 0.999, "max_phase": 2 * math.pi},
        named={
            name: (name,)
            for name in ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")
        },
        left_out="everything else stays as it is",
    ),
    "mamba": Start(
        formula="A_log = ln(1 ... N); dt's bias softplus⁻¹ of dt log-uniform on [0.001, 0.1], at "
        "least 1e-4; dt's weights U(±rank^(-1/2)); D = 1",
        source="state-spaces/mamba mamba_ssm/modules/mamba_simple.py",
        laws={
            "A_log": lambda p, m, o: Fixed("ln(1 ... N)", _counted),
            "dt_bias": _mamba_bias,
            "dt_weight": _mamba_dt,
            "D": _one,
        },
        needs=("A_log",),
        options={"dt_min": 1e-3, "dt_max": 0.1, "dt_floor": 1e-4},
        named={
            "A_log": ("A_log",),
            "D": ("D",),
            "dt_bias": ("dt_bias", "dt_proj/bias"),
            "dt_weight": ("dt_weight", "dt_proj/weight", "dt_proj/kernel"),
        },
        left_out="everything else stays as it is",
    ),
}
