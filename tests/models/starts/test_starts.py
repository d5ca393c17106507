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


# --- what only some of them do ------------------------------------------------------------------


def test_mimetic_products_are_near_the_identity():
    """W_V W_O = 0.4 Z - 0.4 I; W_Q W_K^T = 0.7 Z + 0.7 I of which 16 of 64 directions are kept."""
    drawn, _ = start_of("mimetic")
    for i in range(2):
        qkv, out = leaf(drawn, "blocks/qkv")[i], leaf(drawn, "blocks/out")[i]
        noise = (qkv[VALUE] @ out + 0.4 * np.eye(D)) / 0.4
        assert abs(noise.std() * math.sqrt(D) - 1) < 5 / math.sqrt(2 * D * D)
        assert abs(np.trace(noise)) < 5  # a sum of 64 draws of N(0, 1/64)
        head = D // kinds.HEADS
        for h in range(kinds.HEADS):
            q, k = qkv[:, h * head : (h + 1) * head], qkv[:, D + h * head : D + (h + 1) * head]
            product = q @ k.T
            assert np.linalg.matrix_rank(product) == head
            np.testing.assert_allclose(q.T @ q, k.T @ k, atol=1e-4)  # the singular values, shared
            assert np.trace(product) > 0
    assert not np.allclose(leaf(drawn, "blocks/out")[0], leaf(drawn, "blocks/out")[1])


def test_gates_and_rings_are_functions_of_the_same_numbers():
    drawn, _ = start_of("chrono")
    np.testing.assert_allclose(leaf(drawn, "b_ih")[F], -leaf(drawn, "b_ih")[I], rtol=1e-6)
    drawn, _ = start_of("lru")
    radius = np.exp(-np.exp(leaf(drawn, "nu_log")))
    gamma = np.exp(leaf(drawn, "gamma_log"))
    np.testing.assert_allclose(gamma, np.sqrt(1 - radius**2), rtol=1e-4)
    assert radius.min() > 0.9 - 1e-6
    assert radius.max() < 0.999 + 1e-6


def test_an_encoder_and_a_decoder_have_depths_of_their_own():
    apply, variables, *inputs = kinds.encoder_decoder(4, 3)
    deepnet = jinit.reinit(KEY, apply, variables, *inputs, start="deepnet")
    t_fixup = jinit.reinit(KEY, apply, variables, *inputs, start="t_fixup")
    betas = {"encoder": 0.87 * (4**4 * 3) ** (-1 / 16), "decoder": (12 * 3) ** -0.25}
    factors = {"encoder": 0.67 * 4**-0.25, "decoder": (9 * 3) ** -0.25}
    for side in ("encoder", "decoder"):
        for name in ("v", "o", "down", *(("cv", "co") if side == "decoder" else ())):
            glorot = FEED if name == "down" else GLOROT
            for drawn, factor in ((deepnet, betas[side]), (t_fixup, factors[side])):
                std = leaf(drawn, f"{side}/{name}").std()
                assert std / (factor * glorot) == pytest.approx(1, abs=0.04), (side, name)
        assert leaf(deepnet, f"{side}/q").std() / GLOROT == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("name", ["gpt2", "llama_depth", "deepnet"])
def test_stacked_layers_and_single_ones_are_drawn_alike(name):
    stds = []
    for scanned in (True, False):
        apply, variables, tokens = kinds.gpt(3, scanned=scanned, gated=True)
        drawn = jinit.reinit(KEY, apply, variables, tokens, start=name)["blocks"]
        stds.append([
            [float(np.std(drawn[k][i] if scanned else drawn[i][k])) for i in range(3)]
            for k in ("qkv", "out", "up", "down")
        ])  # fmt: skip
    np.testing.assert_allclose(*stds, rtol=0.1)


def test_a_leaf_is_drawn_from_the_key_and_its_path_alone():
    (apply, variables, x), *_ = EXPECTED["fixup"]
    more = variables | {"blocks": kinds.resnet(12, learned=True)[1]["blocks"]}
    first = jinit.reinit(KEY, apply, variables, x, start="fixup")
    np.testing.assert_array_equal(
        first["in"], jinit.reinit(KEY, apply, more, x, start="fixup")["in"]
    )
    other = jinit.reinit(jax.random.key(6), apply, variables, x, start="fixup")
    assert not np.array_equal(first["in"], other["in"])


def test_the_starts_fixup_and_skipinit_are_the_functions_of_their_names():
    (apply, variables, x), *_ = EXPECTED["fixup"]
    for function in (jinit.models.fixup, jinit.models.skipinit):
        theirs = function(KEY, apply, variables, x)
        ours = jinit.reinit(KEY, apply, variables, x, start=function.__name__)
        for path in ("in", "blocks/a", "blocks/m", "blocks/b", "head", "blocks/alpha"):
            if (function.__name__, path) != ("fixup", "blocks/alpha"):  # which it leaves alone
                np.testing.assert_allclose(
                    leaf(ours, path).std(), leaf(theirs, path).std(), rtol=0.06, err_msg=path
                )


def test_shapes_without_numbers_are_drawn_and_a_draw_can_be_compiled():
    apply, variables, tokens = kinds.gpt(2)
    shapes = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, variables))
    drawn = jinit.reinit(KEY, apply, shapes, tokens, start="gpt2")
    compiled = jax.jit(lambda key: jinit.reinit(key, apply, shapes, tokens, start="gpt2"))(KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                 drawn, compiled)  # fmt: skip
    with pytest.raises(TypeError, match=r"leaves .* as it is"):
        jinit.reinit(KEY, apply, shapes, tokens, start="mimetic")


def test_options_change_numbers_and_name_leaves():
    apply, variables, tokens = kinds.gpt(2)
    options = {"std": 0.05, "position": "['blocks']['up_b']", "position_std": 0.3}
    drawn = jinit.reinit(KEY, apply, variables, tokens, start="gpt2", start_options=options)
    assert leaf(drawn, "blocks/qkv").std() == pytest.approx(0.05, rel=0.02)
    assert leaf(drawn, "blocks/up_b").std() == pytest.approx(0.3, rel=0.2)
    apply, variables, x = kinds.lora()
    drawn = jinit.reinit(
        KEY, apply, variables, x, start="lora", start_options={"first": "gaussian"}
    )
    assert leaf(drawn, "layers/0/down").std() == pytest.approx(1 / 4, rel=0.08)
    apply, variables, x = kinds.mamba()
    drawn = jinit.reinit(KEY, apply, variables, x, start="mamba")  # rates need no rule
    assert leaf(drawn, "in_proj").std() == leaf(variables, "in_proj").std()


@pytest.mark.bad_input
def test_bad_input_is_one_sentence():
    net = kinds.resnet(2)
    gpt = kinds.gpt(2)
    for given, options, sentence in [
        (kinds.cnn(), {"start": "gpt2"}, "needs residual branches, and the model has none.*torch"),
        (net, {"start": "deepnet"}, "needs an attention, and the model has none"),
        (net, {"start": "chrono"}, "needs the gates of an LSTM"),
        (net, {"start": "lora"}, "low ranks x A B beside a weight.*low_rank_first"),
        (net, {"start": "mamba"}, "no leaf A_log.*start_options"),
        (net, {"start": "lru"}, "no leaf nu_log"),
        (gpt, {"start": "gpt3"}, "unknown start 'gpt3'; did you mean 'gpt2'"),
        (gpt, {"start": "gpt2", "scheme": "he"}, "start='gpt2' .* takes no scheme="),
        (gpt, {"start": "gpt2", "gain": 2.0}, "takes no gain="),
        (gpt, {"start_options": {"std": 1.0}}, "start_options= belong to a start"),
        (gpt, {"start": "gpt2", "start_options": {"sdt": 1.0}}, "unknown option 'sdt'.*'std'"),
        (gpt, {"start": "gpt2", "start_options": {"std": "a"}}, r"start_options\['std'\] must be"),
        (gpt, {"start": "gpt2", "start_options": {"position": "wpe"}}, "'wpe', which is no leaf"),
        (gpt, {"start": "t_fixup", "start_options": {"side": "left"}}, "'encoder', 'decoder'"),
        (kinds.lstm(), {"start": "chrono", "start_options": {"longest": 2}}, "more than 2, got 2"),
    ]:
        apply, variables, *inputs = given
        with pytest.raises((ValueError, TypeError), match=sentence):
            jinit.reinit(KEY, apply, variables, *inputs, **options)
