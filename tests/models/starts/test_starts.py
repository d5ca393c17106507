"""Every start against its source's numbers, on a model of its kind."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import scipy.stats

import jinit
from jinit import STARTS
from jinit.models.starts.places import PLACES
from jinit.models.starts.table import NEEDS
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


@pytest.mark.long  # its sibling: layers that are stacked, at depth 100
@pytest.mark.parametrize("name", ["llama_depth"])
def test_stacked_layers_and_single_ones_are_drawn_alike(name):
    stds = []
    for scanned in (True, False):
        apply, variables, tokens = kinds.gpt(2, scanned=scanned, gated=True)
        drawn = jinit.reinit(KEY, apply, variables, tokens, start=name)["blocks"]
        stds.append([
            [float(np.std(drawn[k][i] if scanned else drawn[i][k])) for i in range(2)]
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


# --- a hundred layers -----------------------------------------------------------------------------

# start -> its model, options, the weight whose output is the stream or the branch of a block, and
# whether its gradient is seen at the start. Fixup shuts the readout, so that no gradient arrives:
# its paper's claim is of updates, which tests/models/drawing/test_fixup.py measures. T-Fixup's is
# of updates too; its signal and gradient keep as well. Branches of DeepNet are measured before the
# norm, where diagnose sees them.
DEEP = {
    "gpt2": (kinds.gpt, {}, "down", True),
    "deepnet": (lambda n: kinds.encoder(n, alpha=(2 * n) ** 0.25), {}, "down", True),
    "t_fixup": (kinds.encoder, {}, "down", True),
    "fixup": (kinds.resnet, {}, "b", False),
    "skipinit": (lambda n: kinds.resnet(n, learned=True), {}, "b", True),
}


def of_first_and_last(name, layers):
    """Natural logarithms of signal and gradient, of the last block over the first one."""
    build, options, place, _ = DEEP[name]
    apply, variables, *inputs = build(layers)
    drawn = jinit.reinit(KEY, apply, variables, *inputs, start=name, start_options=options)
    rows = [row for row in jinit.diagnose(apply, drawn, *inputs).layers
            if row.path == f"['blocks']['{place}']"]  # fmt: skip
    assert len(rows) == layers
    return rows[-1].log_pre - rows[0].log_pre, rows[-1].log_grad - rows[0].log_grad


@pytest.mark.long
@pytest.mark.parametrize("name", DEEP)
def test_signal_and_gradient_keep_within_a_factor_of_2_over_100_layers(name):
    signal, gradient = of_first_and_last(name, 100)
    assert abs(signal) < math.log(2)
    if DEEP[name][-1]:
        assert abs(gradient) < math.log(2)


def test_skipinit_keeps_signal_and_gradient_over_100_layers():
    """The quick sibling of the test above."""
    np.testing.assert_allclose(of_first_and_last("skipinit", 100), 0, atol=1e-3)


# --- audits and comparisons -----------------------------------------------------------------------


def audited(name):
    drawn, _ = start_of(name)
    (apply, _, *inputs), *_ = EXPECTED[name]
    return jinit.audit(apply, drawn, *inputs, rules=RULES.get(name, {}))


@pytest.mark.parametrize("name", ["gpt2", "olmo2", "t_fixup", "keras", "fixup", "lru"])
def test_an_audit_names_the_start(name):
    found = audited(name)
    assert name in [fit.name for fit in found.start if not fit.differs]
    assert found.untrained == ()
    assert f"Drawn as by start {found.start[0].name}" in str(found)


def test_an_audit_names_the_leaf_that_is_not_of_the_start():
    apply, variables, tokens = kinds.gpt(4)
    drawn = jinit.reinit(KEY, apply, variables, tokens, start="gpt2")
    drawn["blocks"]["out"] = drawn["blocks"]["out"] * math.sqrt(8)  # not over the depth
    (fit,) = jinit.audit(apply, drawn, tokens).start
    assert fit.name == "gpt2"
    ((path, sentence),) = fit.differs
    assert path == "['blocks']['out']"
    assert "has std 0.02" in sentence
    assert "std 0.007071" in sentence
    he = jinit.reinit(KEY, apply, variables, tokens)
    assert jinit.audit(apply, he, tokens).start == ()


def trained(drawn, still=(), steps=60):
    """Low-rank steps and heavier tails, as training makes them, but for some leaves."""
    rng = np.random.default_rng(4)

    def moved(path, x):
        x = np.asarray(x, np.float64)
        if any(part in jax.tree_util.keystr(path) for part in still):
            return x.astype(np.float32)
        if x.ndim < 2:
            return (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32)
        scale = x.std() or 0.02
        for _ in range(steps):
            a, b = (
                rng.normal(size=(*x.shape[:-1], 1)),
                rng.normal(size=(*x.shape[:-2], 1, x.shape[-1])),
            )
            x = x + 0.2 * scale * a * b * rng.exponential()
        return x.astype(np.float32)

    return jax.tree_util.tree_map_with_path(moved, drawn)


def test_an_audit_says_what_was_never_trained():
    apply, variables, tokens = kinds.gpt(2, scanned=False)
    drawn = jinit.reinit(KEY, apply, variables, tokens, start="gpt2")
    found = jinit.audit(apply, trained(drawn, still=("[1]['down']", "[0]['up_b']")), tokens)
    assert set(found.untrained) == {"['blocks'][1]['down']", "['blocks'][0]['up_b']"}
    assert "Still as drawn, where others were trained" in str(found)
    assert jinit.audit(apply, trained(drawn), tokens).untrained == ()
    few = trained(drawn, still=("up", "down", "out", "qkv"))
    assert jinit.audit(apply, few, tokens).untrained == ()  # most of it looks drawn


def test_drawn_matrices_fail_as_rarely_as_the_docstring_says():
    """False alarms need half of the matrices to fail, and one in 1000 does: of 600 here, 0.6."""
    from jinit.models.auditing.starting import is_noise

    rng = np.random.default_rng(0)
    failed = 0
    for shape in ((1, 40, 30), (1, 120, 20), (1, 48, 48)):
        for draw in (rng.normal, lambda size: rng.uniform(-1, 1, size)):
            failed += sum(not is_noise(draw(size=shape)) for _ in range(100))
    assert failed <= 4  # P(5 or more of 600 at 1/1000) is 0.04 %
    weak = rng.normal(size=(1, 64, 64))
    a, b = rng.normal(size=(2, 64)) / 8
    assert not is_noise(weak + 4 * 8 * np.multiply.outer(a, b)[None])


def test_two_frameworks_starts_of_one_architecture_are_compared():
    """One stores [in, heads, size], the other [out, in]; one forgot to scale by the depth."""
    apply, variables, tokens = kinds.gpt(2, scanned=False, tied=False)
    gpt2 = jinit.reinit(KEY, apply, variables, tokens, start="gpt2")

    def turn(p):
        flat = {f"{i}{k}": x.T for i, own in enumerate(p["blocks"]) for k, x in own.items()}
        return flat | {"embed": p["embed"], "wpe": p["positions"], "g": p["norm"],
                       "head": p["head"].T}  # fmt: skip

    def port(p, tokens):
        blocks = [{k[1:]: x.T for k, x in p.items() if k[0] == str(i)} for i in range(2)]
        return apply({"blocks": blocks, "embed": p["embed"], "positions": p["wpe"],
                      "norm": p["g"], "head": p["head"].T}, tokens)  # fmt: skip

    other = jinit.reinit(jax.random.key(8), apply, variables, tokens, start="gpt2")
    same = jinit.compare_starts((apply, gpt2, tokens), (port, turn(other), tokens))
    assert same.differing == ()
    assert same.starts == ("gpt2", "gpt2")
    assert "No difference" in str(same)
    wrong = turn(other)
    wrong["1down"] = wrong["1down"] * 2
    wrong["head"] = wrong["head"] * 0
    found = jinit.compare_starts(jinit.Model(apply, gpt2, tokens), jinit.audit(port, wrong, tokens))
    assert {row.path for row in found.differing} == {"['blocks'][1]['down']", "['head']"}
    assert found.differing[0].b.path == "['1down']"
    assert found.differing[0].ratio == pytest.approx(2, rel=0.05)
    assert "! ['head']: std 0.02" in str(found)
    frame = found.to_dataframe()
    assert len(frame) == len(found.rows)
    assert {"path_a", "std_b", "ratio", "differs"} <= set(frame.columns)


def test_a_leaf_that_only_one_model_has_is_said():
    x = np.ones((4, 64), np.float32)
    w = kinds.weights(0, a=(64, 64), b=(64, 32))
    plain = (lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], w, x)
    biased = (lambda p, x: jax.nn.relu(x @ p["a"] + p["c"][None]) @ p["b"],
              w | {"c": np.zeros(64, np.float32)}, x)  # fmt: skip
    (row,) = jinit.compare_starts(plain, biased).differing
    assert row.differs == "only the second model has it: bias [64]."


@pytest.mark.bad_input
def test_what_cannot_be_compared_is_one_sentence():
    x = np.ones((4, 64), np.float32)
    a = (lambda p, x: x @ p["a"], kinds.weights(0, a=(64, 64)), x)
    b = (lambda p, x: x @ p["a"], kinds.weights(0, a=(64, 32)), x)
    with pytest.raises(ValueError, match="no leaf of one matches the other"):
        jinit.compare_starts(a, b)
    with pytest.raises(TypeError, match=r"b must be a jinit\.Model, a tuple"):
        jinit.compare_starts(a, {"a": 1})


def test_the_page_lists_every_start_and_every_place():
    page = (Path(jinit.__file__).parents[1] / "docs" / "starts.md").read_text(encoding="utf-8")
    for name, row in STARTS.items():
        assert f"| `{name}` | {row.formula} |" in page, name
        assert row.source in page, name
        assert all(f"`{option}` =" in page for option in row.options)
    assert page.count("\n| `") == len(STARTS) + len(PLACES)
    for place, words in PLACES.items():
        assert f"| `{place}` | {words} |" in page


def test_every_law_is_of_a_place_and_every_need_has_a_sentence():
    for row in STARTS.values():
        assert row.laws.keys() <= PLACES.keys() | row.named.keys()
        assert set(row.needs) <= NEEDS.keys()
