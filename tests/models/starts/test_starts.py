"""Every start against its source's numbers, on a model of its kind."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import scipy.stats

import jinit
from jinit import STARTS
from tests.models.starts import models_of_kinds as kinds

KEY = jax.random.key(5)
CUT_2, CUT_3 = scipy.stats.truncnorm(-2, 2), scipy.stats.truncnorm(-3, 3)


class Is(NamedTuple):
    """What the entries of a leaf, or of a part of it, are drawn from."""

    std: float
    kurtosis: float = 3.0
    mean: float = 0.0
    part: Any = np.s_[...]


def normal(std, **more):
    return Is(std, **more)


def uniform(limit, **more):
    return Is(limit / math.sqrt(3), 1.8, **more)


def cut(law, std, **more):
    return Is(law.std() * std, float(law.stats("k")) + 3, **more)


def of(distribution, **more):
    """A scipy distribution's moments."""
    return Is(distribution.std(), float(distribution.stats("k")) + 3, distribution.mean(), **more)


class LogOf:
    """Moments of a function of uniform numbers, by a fine grid of its own."""

    def __init__(self, function):
        self.values = function((np.arange(200_001) + 0.5) / 200_001)

    def std(self):
        return self.values.std()

    def mean(self):
        return self.values.mean()

    def stats(self, _):
        centred = self.values - self.mean()
        return (centred**4).mean() / self.std() ** 4 - 3


def value(number):
    return Is(0.0, mean=number)


ZERO, ONE = value(0.0), value(1.0)
D, HIDDEN, L = kinds.WIDTH, kinds.HIDDEN, 6
QUERY, KEY_, VALUE = np.s_[..., :D], np.s_[..., D : 2 * D], np.s_[..., 2 * D :]
H = 80  # of the cells
F, I = np.s_[H : 2 * H], np.s_[:H]  # noqa: E741
GLOROT = math.sqrt(2 / (2 * D))
FEED = math.sqrt(2 / (D + HIDDEN))
BIASES = {f"blocks/{name}": ZERO for name in ("norm_b", "qkv_b", "out_b")}
NORMS = {f"blocks/{name}": ONE for name in ("norm", "norm2")} | {"norm": ONE}
T_FIXUP = 0.67 * L**-0.25
BETA = (8 * L) ** -0.25

# start -> its model, options, and what each leaf is; a leaf may have several parts.
EXPECTED: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "gpt2": (kinds.gpt(L), {}, {
        "embed": normal(0.02), "positions": normal(0.01), "blocks/qkv": normal(0.02),
        "blocks/up": normal(0.02), "blocks/out": normal(0.02 / math.sqrt(2 * L)),
        "blocks/down": normal(0.02 / math.sqrt(2 * L)), "blocks/up_b": ZERO, **BIASES, **NORMS,
    }),
    "gpt_neox": (kinds.gpt(L), {}, {
        "embed": normal(math.sqrt(2 / (5 * D))), "blocks/qkv": normal(math.sqrt(2 / (5 * D))),
        "blocks/up": normal(math.sqrt(2 / (5 * D))), "blocks/out": normal(2 / L / math.sqrt(D)),
        "blocks/down": normal(2 / L / math.sqrt(D)), **BIASES, **NORMS,
    }),
    "olmo2": (kinds.gpt(L), {}, {
        "embed": cut(CUT_3, 0.02), "blocks/qkv": cut(CUT_3, 0.02), "blocks/out": cut(CUT_3, 0.02),
        "blocks/down": cut(CUT_3, 0.02), **BIASES, **NORMS,
    }),
    "nanochat": (kinds.gpt(L, tied=False, gated=True), {}, {
        "embed": normal(1.0), "head": ZERO, "blocks/out": ZERO, "blocks/down": ZERO,
        "blocks/qkv": normal(1 / math.sqrt(D)), "blocks/up": normal(1 / math.sqrt(D)),
    }),
    "llama_depth": (kinds.gpt(L, tied=False, gated=True), {}, {
        "embed": normal(1.0), "head": cut(CUT_3, 1 / math.sqrt(D)), "blocks/qkv": normal(0.02),
        "blocks/gate": normal(0.02),
        **{f"blocks/{name}": [normal(0.02 / math.sqrt(2 * (i + 1)), part=np.s_[i])
                              for i in range(L)] for name in ("out", "down", "up")},
    }),
    "torch": (kinds.lstm(), {}, {
        **{name: uniform(1 / math.sqrt(H)) for name in ("ih", "hh", "b_ih", "b_hh")},
        "head": uniform(1 / math.sqrt(H)), "head_b": uniform(1 / math.sqrt(H)),
    }),
    "equinox": (kinds.cnn(), {}, {
        "kernel": uniform(1 / math.sqrt(144)), "kernel_b": uniform(1 / math.sqrt(144)),
        "w": uniform(1 / math.sqrt(48)), "w_b": uniform(1 / math.sqrt(48)), "embed": normal(1.0),
        "scale": ONE, "shift": ZERO,
    }),
    "flax": (kinds.cnn(), {}, {
        "kernel": Is(1 / 12, float(CUT_2.stats("k")) + 3), "kernel_b": ZERO,
        "w": Is(1 / math.sqrt(48), float(CUT_2.stats("k")) + 3), "w_b": ZERO,
        "embed": normal(1 / math.sqrt(48)), "scale": ONE, "shift": ZERO,
    }),
    "haiku": (kinds.gru(), {}, {
        "w_i": Is(1 / math.sqrt(24), float(CUT_2.stats("k")) + 3),
        "w_h": Is(1 / math.sqrt(H), float(CUT_2.stats("k")) + 3), "b": ZERO,
        "head": cut(CUT_2, 1 / math.sqrt(H)),
    }),
    "keras": (kinds.lstm(), {}, {
        "ih": uniform(math.sqrt(6 / (24 + 4 * H))), "hh": Is(1 / math.sqrt(4 * H), 1.0 + 1e-5),
        "b_ih": [value(1.0)._replace(part=F), ZERO._replace(part=I)], "b_hh": ZERO,
        "head": uniform(math.sqrt(6 / (H + 60))), "head_b": ZERO,
    }),
    "deepnet": (kinds.gpt(L), {}, {
        "embed": normal(D**-0.5), "blocks/up": normal(BETA * FEED),
        "blocks/down": normal(BETA * FEED), "blocks/out": normal(BETA * GLOROT),
        "blocks/qkv": [normal(GLOROT, part=QUERY), normal(GLOROT, part=KEY_),
                       normal(BETA * GLOROT, part=VALUE)], **BIASES, **NORMS,
    }),
    "t_fixup": (kinds.gpt(L), {}, {
        "embed": normal(T_FIXUP * D**-0.5), "blocks/up": Is(T_FIXUP * FEED, 1.8),
        "blocks/down": Is(T_FIXUP * FEED, 1.8), "blocks/out": Is(T_FIXUP * GLOROT, 1.8),
        "blocks/qkv": [Is(GLOROT, 1.8, part=QUERY), Is(T_FIXUP * GLOROT, 1.8, part=VALUE)],
    }),
    "fixup": (kinds.resnet(9, learned=True), {}, {
        "in": normal(math.sqrt(2 / 32)), "head": ZERO, "blocks/b": ZERO, "blocks/alpha": ONE,
        "blocks/a": normal(9 ** (-1 / 4) * math.sqrt(2 / 48)), "blocks/c": ZERO,
        "blocks/m": normal(9 ** (-1 / 4) * math.sqrt(2 / 64)),
    }),
    "skipinit": (kinds.resnet(9, learned=True), {}, {
        "in": normal(math.sqrt(2 / 32)), "blocks/alpha": ZERO, "head": normal(math.sqrt(2 / 48)),
        "blocks/a": normal(math.sqrt(2 / 48)), "blocks/b": normal(math.sqrt(2 / 56)),
    }),
    "lora": (kinds.lora(), {}, {
        "layers/0/down": uniform(1 / math.sqrt(300)), "layers/0/up": ZERO, "layers/1/up": ZERO,
    }),
    "siren": (kinds.siren(), {}, {
        "w0": uniform(1 / 2), "w1": uniform(math.sqrt(6 / 400) / 30),
        "w2": uniform(math.sqrt(6 / 300) / 30), "b0": uniform(1 / math.sqrt(2)),
        "b1": uniform(1 / math.sqrt(400)),
    }),
    "chrono": (kinds.lstm(), {"longest": 784}, {
        "b_ih": [of(LogOf(lambda u: np.log(1 + 782 * u)), part=F),
                 of(LogOf(lambda u: -np.log(1 + 782 * u)), part=I),
                 ZERO._replace(part=np.s_[2 * H :])],
        "b_hh": ZERO, "hh": ONE,
    }),
    "forget_bias": (kinds.lstm(), {}, {
        "b_ih": [ONE._replace(part=F), ZERO._replace(part=I)], "b_hh": ZERO, "hh": ONE,
    }),
    "lru": (kinds.lru(), {}, {
        "nu_log": of(LogOf(lambda u: np.log(-0.5 * np.log(0.81 + (0.999**2 - 0.81) * u)))),
        "theta_log": of(LogOf(lambda u: np.log(2 * np.pi * u))),
        "gamma_log": of(LogOf(lambda u: 0.5 * np.log(1 - 0.81 - (0.999**2 - 0.81) * u))),
        "B_re": normal(1 / math.sqrt(80)), "B_im": normal(1 / math.sqrt(80)),
        "C_re": normal(1 / math.sqrt(700)), "C_im": normal(1 / math.sqrt(700)),
        "D": normal(1.0), "out": ONE,
    }),
    "mamba": (kinds.mamba(), {}, {
        "dt_proj/weight": uniform(1 / 3), "D": ONE,
        "dt_proj/bias": of(LogOf(lambda u: np.log(np.expm1(1e-3 * 100**u)))),
        "A_log": [value(math.log(n + 1))._replace(part=np.s_[:, n]) for n in range(16)],
    }),
    # The two factors have no formula: their product has, in the test below.
    "mimetic": (kinds.gpt(2), {}, {"blocks/up": normal(1 / math.sqrt(D))}),
}  # fmt: skip
RULES = {
    "lru": {f"['{name}']": "other" for name in
            ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im")},
}  # fmt: skip


def leaf(variables, path):
    for part in path.split("/"):
        variables = variables[int(part) if isinstance(variables, list) else part]
    return np.asarray(variables, np.float64)


def start_of(name, *, key=KEY, **more):
    (apply, variables, *inputs), options, expected = EXPECTED[name]
    return jinit.reinit(
        key, apply, variables, *inputs, start=name, start_options=options,
        rules=RULES.get(name, {}), **more,
    ), expected  # fmt: skip


def test_every_start_is_expected():
    assert EXPECTED.keys() == STARTS.keys()


@pytest.mark.parametrize("name", STARTS)
def test_a_start_has_its_sources_std(name):
    """Mean and std of every leaf within five standard errors."""
    drawn, expected = start_of(name)
    for path, parts in expected.items():
        for law in parts if isinstance(parts, list) else [parts]:
            entries = leaf(drawn, path)[law.part]
            if law.std == 0:
                np.testing.assert_allclose(entries, law.mean, rtol=1e-6, err_msg=path)
                continue
            error = 5 * math.sqrt((law.kurtosis - 1) / (4 * entries.size)) + 1e-6
            spread = math.sqrt(np.mean((entries - law.mean) ** 2))
            assert abs(spread / law.std - 1) < error, path
            assert abs(entries.mean() - law.mean) < 5 * law.std / math.sqrt(entries.size), path
