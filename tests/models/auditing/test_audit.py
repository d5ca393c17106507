"""Audits: conventions by hand, frameworks recognised as their own, oddities planted and named."""

import math
import re
from html.parser import HTMLParser

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from jax.nn.initializers import he_normal, lecun_normal, variance_scaling

from jinit.models.auditing.audit import audit
from jinit.models.auditing.oddities import error, fits, sample
from jinit.models.starts.conventions import CONVENTIONS, Leaf
from jinit.models.starts.laws import FORMS, Law
from jinit.schemes import TRUNCATED_STD

KEY = jax.random.key(0)
FRAMEWORKS = ("torch", "keras", "flax", "haiku")


def product(p, x):
    return x @ p["w"]


def one(w, *, apply=product, inputs=None, **options):
    """The row of a single weight."""
    x = jnp.ones((2, w.shape[0]), w.dtype) if inputs is None else inputs
    (row,) = audit(apply, {"w": w}, x, **options).rows
    return row


def of_linen(model, *inputs, **options):
    variables = model.init(KEY, *inputs)
    return {row.path: row for row in audit(model.apply, variables, *inputs, **options).rows}


def odd(found):
    return [sentence for _, sentence in found.odd]


# --- the table ----------------------------------------------------------------------------------

BY_HAND = {  # weight 48 -> 16, its bias, the scale of a norm, embeddings of 16 features
    "torch": (1 / 12, 1 / 12, 0, 1),
    "keras": (0.17677669529663687, 0, 0, 0.028867513459481287),
    "flax": (0.14433756729740643, 0, 0, 0.25),
    "haiku": (0.8796256610342398 / math.sqrt(48), 0, 0, 0.8796256610342398),
    "caffe": (0.14433756729740643, 0, 0, None),
    "cs231n": (0.14433756729740643, 0, 0, 0.01),
    "he": (0.20412414523193154, 0, None, None),
    "xavier": (0.17677669529663687, 0, None, None),
}


def test_every_convention_by_hand():
    variables = {
        "embedding": jnp.ones((5, 16)), "kernel": jnp.ones((48, 16)), "b": jnp.ones(16),
        "scale": jnp.ones(48),
    }  # fmt: skip

    def apply(p, x, tokens):
        return (
            (x / jnp.std(x)) * p["scale"][None] @ p["kernel"]
            + p["b"][None]
            + p["embedding"][tokens]
        )

    found = audit(apply, variables, jnp.ones((2, 48)), jnp.zeros(2, jnp.int32))
    rows = {row.path: row.expected for row in found.rows}
    assert set(BY_HAND) == set(CONVENTIONS)
    for name, expected in BY_HAND.items():
        got = [rows[f"['{leaf}']"][name] for leaf in ("kernel", "b", "scale", "embedding")]
        for theirs, ours in zip(expected, got, strict=True):
            assert ours == (theirs if theirs is None else pytest.approx(theirs, rel=1e-9))


@pytest.mark.parametrize("name", FORMS)
def test_forms_are_the_distributions_of_scipy(name):
    theirs = {
        "normal": scipy.stats.norm(),
        "uniform": scipy.stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
        "truncated": scipy.stats.truncnorm(-2, 2, scale=FORMS["truncated"].bound / 2),
        "truncated_3": scipy.stats.truncnorm(-3, 3, scale=FORMS["truncated_3"].bound / 3),
    }[name]
    form = FORMS[name]
    assert theirs.std() == pytest.approx(1, rel=1e-9)
    assert form.kurtosis == pytest.approx(theirs.moment(4), rel=1e-7)
    x = np.linspace(-3, 3, 61)
    np.testing.assert_allclose(form.cdf(x), theirs.cdf(x), atol=1e-12)
    assert form.bound == pytest.approx(theirs.support()[1])


def draw(rng, law, shape):
    if law.form == "constant":
        return np.full(shape, law.mean)
    if law.form == "orthogonal":
        rows, columns = sorted(shape)
        q = np.linalg.qr(rng.normal(size=(columns, rows)))[0]
        return law.std * math.sqrt(columns) * (q if shape == (columns, rows) else q.T)
    if law.form in ("truncated", "truncated_3"):
        cut = 2 if law.form == "truncated" else 3
        x = scipy.stats.truncnorm.rvs(-cut, cut, size=shape, random_state=rng)
        return law.mean + law.std * x / scipy.stats.truncnorm.std(-cut, cut)
    if law.form == "uniform":
        return law.std * math.sqrt(3) * rng.uniform(-1, 1, size=shape)
    return law.std * rng.normal(size=shape)


LEAVES = {
    "weight": Leaf("weight", 80, 60),
    "square": Leaf("weight", 64, 64, hidden=64),
    "gates": Leaf("weight", 30, 256, hidden=64),
    "fused": Leaf("weight", 40, 120),
    "embedding": Leaf("embedding", features=64),
    "bias": Leaf("bias", fan_in=80),
    "scale": Leaf("scale"),
}
CASES = [
    pytest.param(leaf, law, id=f"{name}-{kind}-{i}")
    for name, convention in CONVENTIONS.items()
    for kind, leaf in LEAVES.items()
    for i, law in enumerate(convention.laws(leaf))
]


@pytest.mark.parametrize(("leaf", "law"), CASES)
def test_a_draw_of_every_law_fits_it_and_no_other(leaf, law):
    rng = np.random.default_rng(1)
    shape = {"bias": (4000,), "scale": (4000,), "embedding": (100, 64)}.get(
        leaf.role, (int(leaf.fan_in or 1), int(leaf.fan_out or 1))
    )
    values = draw(rng, law, shape)
    found = sample(values, values[None] if leaf.role == "weight" else None, eps=1e-7)
    assert fits(law, found)
    spread = error(3.0, values.size)
    for form in (*FORMS, "orthogonal"):
        for factor in (1 - 3 * spread, 1, 1 + 3 * spread):
            other = Law(form, factor * law.std, law.mean)
            if law.std > 0 and other != law:
                assert not fits(other, found)
    if law.std > 0:
        assert not fits(law._replace(mean=law.std / 4), found)


def test_true_draws_are_missed_as_rarely_as_four_standard_errors_say():
    """Of 800 draws, 4 standard errors lose 0.05; each test of a form has the same chance."""
    rng = np.random.default_rng(2)
    missed = 0
    for form in FORMS:
        law = Law(form, 0.1)
        for _ in range(200):
            missed += not fits(law, sample(draw(rng, law, (30, 40)), None, eps=1e-7))
    assert missed <= 1  # P(2 or more) is below 1 %, even were all five tests independent


def test_few_entries_do_not_tell_distributions_apart():
    found = sample(np.random.default_rng(3).normal(size=12), None, eps=1e-7)
    assert {"normal"} < found.forms


# --- frameworks are recognised as their own -----------------------------------------------------


def matched(rows, *, role="weight"):
    return [row.matches for row in rows if row.role == role]


def linen_layers():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, image, tokens):
            y = nn.Conv(32, (3, 3), feature_group_count=4)(nn.Conv(32, (3, 3))(image))
            h = nn.Embed(100, 64)(tokens)
            h = nn.LayerNorm()(h + nn.MultiHeadDotProductAttention(num_heads=8)(h))
            return nn.Dense(96)(x), y, h

    return Model()


def inputs():
    return jnp.ones((2, 64)), jnp.ones((2, 6, 6, 8)), jnp.zeros((2, 5), jnp.int32)


def test_linen_is_flax():
    model = linen_layers()
    found = audit(model.apply, model.init(KEY, *inputs()), *inputs(), conventions=FRAMEWORKS)
    weights = matched(found.rows)
    assert len(weights) == 7
    assert set(weights) == {("flax",)}
    assert matched(found.rows, role="embedding") == [("flax",)]
    assert matched(found.rows, role="scale") == [FRAMEWORKS]
    biases = {row.path: row.matches for row in found.rows if row.role == "bias"}
    norm = [path for path in biases if "LayerNorm" in path]
    assert [biases.pop(path) for path in norm] == [FRAMEWORKS]
    assert set(biases.values()) == {("keras", "flax", "haiku")}  # torch draws these
    assert found.odd == ()


def test_nnx_is_flax():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(64, 96, rngs=rngs)
            self.conv = nnx.Conv(8, 32, (3, 3), feature_group_count=2, rngs=rngs)
            self.embed = nnx.Embed(100, 64, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(8, 64, rngs=rngs, decode=False)

        def __call__(self, x, image, tokens):
            return self.dense(x), self.conv(image), self.attention(self.embed(tokens))

    graph, state = nnx.split(Model(nnx.Rngs(0)))
    found = audit(lambda state, *x: nnx.merge(graph, state)(*x), state, *inputs(),
                  conventions=FRAMEWORKS)  # fmt: skip
    assert matched(found.rows) == [("flax",)] * 6
    assert matched(found.rows, role="embedding") == [("flax",)]
    assert found.odd == ()


def test_haiku_is_haiku():
    def function(x, image, tokens):
        y = hk.Conv2D(32, 3, feature_group_count=4)(hk.Conv2D(32, 3)(image))
        h = hk.Embed(100, 64)(tokens)
        w_init = hk.initializers.VarianceScaling()  # has no default in attention
        return hk.Linear(96)(x), y, hk.MultiHeadAttention(4, 16, w_init=w_init)(h, h, h)

    model = hk.without_apply_rng(hk.transform(function))
    found = audit(model.apply, model.init(KEY, *inputs()), *inputs(), conventions=FRAMEWORKS)
    attention = [row.matches for row in found.rows if "attention" in row.path and row.fan_in]
    assert attention == [("flax",)] * 4  # which corrects for the cut
    others = [row.matches for row in found.rows if "attention" not in row.path and row.fan_in]
    assert others == [("haiku",)] * 3
    assert matched(found.rows, role="embedding") == [("haiku",)]
    assert found.odd == ()


def test_equinox_is_torch_biases_and_cells_too():
    class Model(eqx.Module):
        dense: eqx.nn.Linear
        conv: eqx.nn.Conv2d
        embed: eqx.nn.Embedding
        attention: eqx.nn.MultiheadAttention
        norm: eqx.nn.LayerNorm

        def __init__(self, key):
            keys = jax.random.split(key, 4)
            self.dense = eqx.nn.Linear(64, 512, key=keys[0])
            self.conv = eqx.nn.Conv2d(8, 512, 3, groups=4, key=keys[1])
            self.embed = eqx.nn.Embedding(100, 64, key=keys[2])
            self.attention = eqx.nn.MultiheadAttention(8, 64, key=keys[3])
            self.norm = eqx.nn.LayerNorm(64)

        def __call__(self, x, image, tokens):
            h = jax.vmap(self.embed)(tokens)
            return self.dense(x), self.conv(image), jax.vmap(self.norm)(self.attention(h, h, h))

    params, static = eqx.partition(Model(KEY), eqx.is_inexact_array)
    given = jnp.ones(64), jnp.ones((8, 6, 6)), jnp.zeros(5, jnp.int32)
    found = audit(lambda p, *x: eqx.combine(p, static)(*x), params, *given, conventions=FRAMEWORKS)
    assert matched(found.rows) == [("torch",)] * 6
    assert matched(found.rows, role="embedding") == [("torch",)]
    biases = {row.path: row for row in found.rows if row.role == "bias"}
    assert biases[".dense.bias"].matches == ("torch",)
    assert biases[".dense.bias"].expected["torch"] == pytest.approx(1 / math.sqrt(3 * 64))
    assert biases[".conv.bias"].matches == ("torch",)
    assert biases[".conv.bias"].expected["torch"] == pytest.approx(1 / math.sqrt(3 * 2 * 9))
    assert biases[".norm.bias"].matches == FRAMEWORKS
    assert found.odd == ()

    params, static = eqx.partition(eqx.nn.LSTMCell(24, 64, key=KEY), eqx.is_inexact_array)
    carry = (jnp.ones(64), jnp.ones(64))
    found = audit(lambda p, x, c: eqx.combine(p, static)(x, c), params, jnp.ones(24), carry,
                  conventions=FRAMEWORKS)  # fmt: skip
    assert matched(found.rows) == [("torch",)] * 2
    assert matched(found.rows, role="bias") == [("torch",)]
    assert found.odd == ()


def test_linen_cells_are_orthogonal_where_they_recur():
    cell = nn.OptimizedLSTMCell(64)
    carry = cell.initialize_carry(KEY, (2, 64))
    rows = of_linen(cell, carry, jnp.ones((2, 64)), conventions=FRAMEWORKS)
    for gate in "ifgo":
        recurrent = rows[f"['params']['h{gate}']['kernel']"]
        assert (recurrent.distribution, recurrent.matches) == ("orthogonal", ("keras", "flax"))
        assert rows[f"['params']['i{gate}']['kernel']"].matches == ("flax",)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_summed_up_in_float64_and_recognised(dtype):
    w = lecun_normal()(KEY, (512, 1024)).astype(dtype)
    row = one(w, conventions=FRAMEWORKS)
    exact = np.asarray(w).astype(np.float64)
    assert row.std == pytest.approx(exact.std(), rel=1e-12)
    assert row.mean == pytest.approx(exact.mean(), abs=1e-12)
    assert row.matches == ("flax",)
    drawn = lecun_normal()(KEY, (512, 1024), dtype)  # 2^7 different quantiles in bfloat16
    assert "flax" in one(drawn).matches
    assert "he" not in one(drawn).matches


# --- what is odd --------------------------------------------------------------------------------


def test_heads_counted_into_fan_in():
    w = lecun_normal()(KEY, (64, 8, 8))
    row = one(w, apply=lambda p, x: jnp.einsum("bd,dhk->bhk", x, p["w"]))
    assert (row.fan_in, row.matches) == (64, ())
    (sentence,) = row.odd
    assert sentence == (
        "std is 1/sqrt(8) of LeCun's (flax): an axis of 8 (heads) was counted into fan_in "
        "(fan_in 512 instead of 64)."
    )


def scanned(p, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0]


def test_stacked_layers_counted_into_the_receptive_field():
    x = jnp.ones((2, 64))
    row = one(he_normal()(KEY, (6, 64, 64)), apply=scanned, inputs=x)
    (sentence,) = row.odd
    assert "std is 1/sqrt(6) of He's: the 6 stacked layers were counted into fan_in" in sentence
    assert "(fan_in 384 instead of 64)" in sentence
    glorot = jax.nn.initializers.glorot_uniform()(KEY, (6, 64, 64))
    (sentence,) = one(glorot, apply=scanned, inputs=x).odd
    assert "1/sqrt(6) of Glorot's" in sentence
    assert "the 6 stacked layers were counted into fan_in" in sentence
    right = he_normal(batch_axis=0)(KEY, (6, 64, 64))
    row = one(right, apply=scanned, inputs=x)
    assert (row.layers, row.matches, row.odd) == (6, ("he",), ())


@pytest.mark.parametrize(
    ("apply", "w", "layout"),
    [
        (product, he_normal(in_axis=-1, out_axis=-2)(KEY, (512, 64)),
         "the model stores [in, out], which was read as [out, in]."),
        (lambda p, x: x @ p["w"].T, he_normal()(KEY, (64, 512)),
         "the model stores [out, in], which was read as [in, out]."),
    ],
    ids=["torch's layout", "jax's layout"],
)  # fmt: skip
def test_swapped_fans(apply, w, layout):
    row = one(w, apply=apply, inputs=jnp.ones((2, 512)))
    assert (row.fan_in, row.fan_out) == (512, 64)
    assert row.odd == (f"the std is He's for fan_out 64, not for fan_in 512: {layout}",)


def test_a_kernel_of_torchs_layout_drawn_by_jaxs_initialiser():
    """[out, in, 3, 3] read as [..., in, out]: 64 * 16 * 3 = 3072 for a fan_in of 144."""

    def apply(p, x):
        return jax.lax.conv(x, p["w"], (1, 1), "SAME")

    x = jnp.ones((1, 16, 8, 8))
    row = one(lecun_normal()(KEY, (64, 16, 3, 3)), apply=apply, inputs=x)
    (sentence,) = row.odd
    assert sentence == (
        "std is 0.217 of LeCun's (flax): the shape (64, 16, 3, 3) was read as [..., in, out] "
        "(fan_in 3072 instead of 144); name the axes to the initializer, in_axis=-3, out_axis=-4."
    )
    right = lecun_normal(in_axis=1, out_axis=0)(KEY, (64, 16, 3, 3))
    assert one(right, apply=apply, inputs=x).odd == ()
    without = variance_scaling(9.0, "fan_in", "truncated_normal", in_axis=1, out_axis=0)
    (sentence,) = one(without(KEY, (64, 16, 3, 3)), apply=apply, inputs=x).odd
    assert "sqrt(9) times LeCun's (flax): the receptive field of 9 was left out" in sentence


def transposed(strides, **options):
    def apply(p, x):
        return jax.lax.conv_transpose(x, p["w"], strides, "SAME", **options)

    return apply


def of_equinox_transposed(w, groups):
    layer = eqx.nn.ConvTranspose2d(
        48, 96, 4, stride=2, padding=1, groups=groups, use_bias=False, key=KEY
    )
    assert layer.weight.shape == w
    return lambda p, x: eqx.tree_at(lambda m: m.weight, layer, p["w"])(x)


# How it is applied, its shape, inputs; axes in and out, taps of which an output meets one.
TRANSPOSED = {
    "one axis": (
        transposed((3,), transpose_kernel=True), (6, 96, 48), (2, 5, 48), (-1, -2), 3,
    ),
    "three axes": (
        transposed((2, 2, 2), transpose_kernel=True), (2, 4, 2, 60, 20), (1, 3, 3, 3, 20),
        (-1, -2), 8,
    ),
    "no stride": (
        transposed((1, 1), transpose_kernel=True), (3, 3, 80, 48), (1, 4, 4, 48), (-1, -2), 1,
    ),
    "dilated": (
        transposed((2, 2), transpose_kernel=True, rhs_dilation=(3, 3)), (4, 4, 96, 48),
        (1, 4, 4, 48), (-1, -2), 4,
    ),
    "flax": (
        lambda p, x: nn.ConvTranspose(
            96, (4, 4), (2, 2), use_bias=False, transpose_kernel=True
        ).apply({"params": {"kernel": p["w"]}}, x),
        (4, 4, 96, 48), (1, 4, 4, 48), (-1, -2), 4,
    ),
    "equinox": (
        of_equinox_transposed((96, 48, 4, 4), 1), (96, 48, 4, 4), (48, 5, 5), (-3, -4), 4,
    ),
    "equinox, in groups": (
        of_equinox_transposed((96, 12, 4, 4), 4), (96, 12, 4, 4), (48, 5, 5), (-3, -4), 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_a_transposed_convolution_that_was_misread_is_named_with_its_cure(kind):
    """An initializer that is told what the sentence says draws what is right."""
    apply, shape, inputs, (in_axis, out_axis), skipped = TRANSPOSED[kind]
    fan_in = math.prod(shape) // shape[out_axis] / skipped
    x = jnp.ones(inputs)

    def drawn(scale, *axes):
        draw = variance_scaling(scale, "fan_in", "truncated_normal", *axes)
        with jax.numpy_rank_promotion("allow"):
            return one(draw(KEY, shape), apply=apply, inputs=x)

    row = drawn(2.0, -2, -1)  # as [..., in, out]
    assert row.fan_in == pytest.approx(fan_in)
    (sentence,) = row.odd
    assert "was read as [..., in, out]" in sentence or "outputs were taken" in sentence
    said = re.search(r"in_axis=(-\d), out_axis=(-\d)(, and (\d) times)?", sentence)
    assert (int(said[1]), int(said[2])) == (in_axis, out_axis)
    assert int(said[4] or 1) == skipped
    right = drawn(2.0 * skipped, in_axis, out_axis)
    assert ("he" in "".join(right.matches), right.odd) == (True, ())


def gated(p, x):
    i, f, g, o = jnp.split(x @ p["w"], 4, -1)
    return jax.nn.sigmoid(o) * jnp.tanh(jax.nn.sigmoid(i) * jnp.tanh(g) + jax.nn.sigmoid(f))


def test_gates_are_counted_only_where_something_is_split():
    """Glorot's std of one of four: variance 2/(m + n/4)."""
    w = (2 / (64 + 128)) ** 0.5 * jax.random.normal(KEY, (64, 512))
    (sentence,) = one(w, apply=gated).odd
    assert "only one of 4 gates was counted into fan_out (fan_out 128 instead of 512)" in sentence
    assert one(w).odd == ()


def test_a_std_of_one_is_no_axis_that_was_left_out():
    """Experts of N(0, 1): nobody took a fan_in of 1."""
    x = jnp.ones((2, 4, 128))
    w = jax.random.normal(KEY, (4, 128, 48))
    row = one(w, apply=lambda p, x: jnp.einsum("tei,eij->tej", x, p["w"]), inputs=x)
    (sentence,) = row.odd
    assert sentence.startswith("no convention within a factor of 8")


def test_a_cut_is_corrected_once():
    """0.77/sqrt(fan_in) is haiku's 0.88 cut once more, which nobody does."""
    w = lecun_normal()(KEY, (64, 64)) * TRUNCATED_STD**2
    assert not [s for s in one(w).odd if "not corrected" in s]


def test_all_groups_counted_into_fan_in():
    def apply(p, x):
        return jax.lax.conv_general_dilated(
            x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )  # fmt: skip

    w = lecun_normal()(KEY, (3, 3, 8, 64))
    x = jnp.ones((1, 6, 6, 32))
    row = one(w, apply=apply, inputs=x)
    assert (row.fan_in, row.groups, row.matches, row.odd) == (72, 4, ("flax",), ())
    (sentence,) = one(w / 2, apply=apply, inputs=x).odd
    assert "1/sqrt(4) of LeCun's (flax): all 4 groups were counted into fan_in" in sentence


def test_true_fans_are_preferred_and_few_entries_explained_by_nothing():
    """std 1/sqrt(128) is He's for 256 inputs and LeCun's for the 128 outputs."""
    w = jax.random.normal(KEY, (256, 128)) / math.sqrt(128)
    row = one(w)
    assert row.matches == ("he",)
    assert row.odd == ()
    small = one(he_normal()(KEY, (4, 64)).T)  # 256 entries
    assert not any("for fan_out" in sentence for sentence in small.odd)


def test_zeros_and_constants():
    zero = one(jnp.zeros((64, 32)))
    assert zero.distribution == "constant"
    (sentence,) = zero.odd
    assert "all entries are 0: every unit of the layer gives the same" in sentence
    (sentence,) = one(jnp.full((64, 32), 0.1)).odd
    assert "all entries are 0.1: every unit of the layer computes the same" in sentence
    (row,) = audit(lambda p, i: p[i], jnp.ones((9, 4)), jnp.zeros(3, jnp.int32)).rows
    assert row.odd == ("all entries are 1: every index is embedded as the same vector.",)


def test_entries_that_are_not_finite():
    row = one(lecun_normal()(KEY, (64, 32)).at[3, 4].set(jnp.nan).at[5, 6].set(-jnp.inf))
    assert row.odd == ("2 of 2048 entries are NaN or infinite.",)
    assert math.isnan(row.std)
    assert row.matches == ()
    (row,) = audit(
        lambda b, x: x + b[None], jnp.array([1.0, jnp.nan]), jnp.ones((3, 2))
    ).rows  # fmt: skip
    assert row.odd == ("1 of 2 entries are NaN or infinite.",)


def test_columns_and_layers_that_are_copies():
    w = lecun_normal()(KEY, (64, 32))
    (sentence,) = one(w.at[:, 5].set(w[:, 9]).at[:, 6].set(w[:, 9])).odd
    assert sentence.startswith("2 of 32 columns are copies of others")
    assert one(w.at[5].set(w[9])).odd == ()  # rows are inputs
    stored = one(w.at[5].set(w[9]), apply=lambda p, x: x @ p["w"].T, inputs=jnp.ones((2, 32)))
    assert stored.odd[0].startswith("1 of 64 columns are copies")
    square = lecun_normal()(KEY, (64, 64))
    stacked = one(jnp.stack([square] * 3), apply=scanned, inputs=jnp.ones((2, 64)))
    (sentence,) = stacked.odd
    assert sentence.startswith("its 3 stacked layers all hold the same numbers")


def test_small_and_sparse_matrices_are_no_copies_by_chance():
    assert one(jax.random.uniform(KEY, (1, 4000))).odd == ()
    assert one(lecun_normal()(KEY, (4, 4000)).astype(jnp.bfloat16)).odd == ()
    delta = np.zeros((3, 3, 16, 16), np.float32)
    delta[1, 1] = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]

    def apply(p, x):
        return jax.lax.conv_general_dilated(
            x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert one(jnp.asarray(delta), apply=apply, inputs=jnp.ones((1, 6, 6, 16))).odd == ()


def test_far_from_every_convention():
    normal = jax.random.normal(KEY, (512, 256))
    (sentence,) = one(1e-4 * normal).odd
    assert sentence.startswith("no convention within a factor of 25")  # torch's 0.02552 is nearest
    assert "torch's, is 0.0255" in sentence
    (sentence,) = one(normal).odd
    assert "no convention within a factor of 16" in sentence  # He's 0.0625
    assert "He's" in sentence
    between = one(0.2 * normal)  # 3.2 times He's: nobody's, and not odd
    assert (between.matches, between.odd) == ((), ())
    assert one(0.2 * normal, conventions=["cs231n", "torch"]).odd == ()


def test_a_leaf_that_is_never_used():
    params = {"w": lecun_normal()(KEY, (64, 32)), "idle": jnp.ones(4)}
    found = audit(product, params, jnp.ones((2, 64)))
    assert found.odd == (
        ("['idle']", "it is never used: nothing that the model returns is computed from it."),
    )


def transformer():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=4)(h)
            h = nn.Dense(256)(nn.LayerNorm()(x))
            return x + nn.Dense(64)(nn.gelu(h)), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            embed = nn.Embed(200, 64)
            places = self.param("places", nn.initializers.normal(0.02), (6, 64))
            x = embed(tokens) + places[None]
            blocks = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            return embed.attend(nn.LayerNorm()(blocks()(x, None)[0]))

    return Model(), jnp.zeros((2, 6), jnp.int32)


def test_a_healthy_scanned_transformer_with_tied_embeddings_has_nothing_odd():
    model, tokens = transformer()
    variables = model.init(KEY, tokens)
    for seed in range(5):
        variables = model.init(jax.random.key(seed), tokens)
        found = audit(model.apply, variables, tokens)
        assert found.odd == ()
        weights = [row for row in found.rows if row.role in ("weight", "tied")]
        assert len(weights) == 7
        assert all("flax" in row.matches for row in weights)


# --- showing ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty():
    model, tokens = transformer()
    variables = model.init(KEY, tokens)
    kernel = variables["params"]["ScanBlock_0"]["Dense_0"]
    kernel["kernel"] = jnp.zeros_like(kernel["kernel"])
    return audit(model.apply, variables, tokens)


def test_text_is_readable_at_100_columns(faulty):
    text = str(faulty)
    assert max(map(len, text.splitlines())) <= 100
    assert repr(faulty) == text
    for column in ("path", "shape", "role", "fan_in", "fan_out", "std", "gain", "matches"):
        assert column in text.splitlines()[0]
    marked = [line for line in text.splitlines() if line.startswith("!")]
    assert [line.split("/")[0] for line in marked[:1]] == ["! params"]
    assert "Odd in 1 of" in text
    assert "! ['params']['ScanBlock_0']['Dense_0']['kernel']: all entries are 0" in text
    healthy = audit(product, {"w": lecun_normal()(KEY, (64, 32))}, jnp.ones((2, 64)))
    assert str(healthy).splitlines()[-1] == "Nothing odd in 1 parameter."


def test_dataframe(faulty):
    frame = faulty.to_dataframe()
    assert list(frame.columns) == [
        "path", "shape", "role", "fan_in", "fan_out", "groups", "layers", "std", "mean", "gain",
        "distribution", "matches", "odd", "remarks", *CONVENTIONS,
    ]  # fmt: skip
    assert len(frame) == len(faulty.rows)
    row = frame.set_index("path").loc["['params']['ScanBlock_0']['Dense_1']['kernel']"]
    assert row["shape"] == (3, 256, 64)
    assert (row["fan_in"], row["fan_out"], row["layers"]) == (256, 64, 3)
    assert row["matches"] == "flax"
    assert row["flax"] == pytest.approx(1 / 16)
    assert row["gain"] == pytest.approx(16 * row["std"])
    scale = frame[frame.role == "scale"].iloc[0]
    assert frame["fan_in"].isna().sum() > 0
    assert math.isnan(scale["he"])
    assert (frame["odd"] != "").sum() == 1
    few = audit(product, {"w": jnp.ones((4, 3))}, jnp.ones((2, 4)), conventions=["he", "flax"])
    assert list(few.to_dataframe().columns[-2:]) == ["he", "flax"]


def test_html_holds_every_path_and_escapes(faulty, tmp_path):
    page = faulty.to_html(tmp_path / "audit.html")
    assert (tmp_path / "audit.html").read_text(encoding="utf-8") == page
    cells = []

    class Reader(HTMLParser):
        def handle_data(self, data):
            cells.append(data)

    Reader().feed(page)
    for row in faulty.rows:
        assert row.path in cells
    assert "http" not in page
    assert page.lstrip().startswith("<!doctype html>")
    assert faulty._repr_html_().lstrip().startswith("<div")
    name = "<b>&\"'"
    found = audit(lambda p, x: x @ p[name], {name: jnp.zeros((4, 3))}, jnp.ones((2, 4)))
    page = found.to_html()
    assert "<b>&" not in page
    cells.clear()
    Reader().feed(page)
    assert found.rows[0].path in cells


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_an_unknown_convention_is_answered_by_the_nearest():
    params, x = {"w": jnp.ones((4, 3))}, jnp.ones((2, 4))
    with pytest.raises(ValueError, match=r"unknown convention 'kears'; did you mean 'keras'\?"):
        audit(product, params, x, conventions=["torch", "kears"])
    assert audit(product, params, x, conventions="he").conventions == ("he",)


@pytest.mark.bad_input
def test_variables_without_values():
    with pytest.raises(TypeError, match=r"outside jax\.jit"):
        jax.jit(lambda p: audit(product, p, jnp.ones((2, 4))).rows[0].std)({"w": jnp.ones((4, 3))})
    with pytest.raises(TypeError, match="no floating-point array"):
        audit(lambda p, x: x, {"n": 3}, jnp.ones(2))


@pytest.mark.bad_input
def test_rules_are_those_of_roles():
    params, x = {"w": jnp.ones((4, 3))}, jnp.ones((2, 4))
    with pytest.raises(ValueError, match="is no parameter"):
        audit(product, params, x, rules={"v": "weight"})
    (row,) = audit(product, params, x, rules={"['w']": "other"}).rows
    assert (row.role, row.matches, row.odd) == ("other", (), ())


def test_a_table_holds_fans_that_are_no_whole_numbers():
    layer = nn.ConvTranspose(5, (3, 3), strides=(2, 1), use_bias=False)
    x = jnp.ones((1, 8, 8, 7))
    table = audit(layer.apply, layer.init(KEY, x), x).to_dataframe()
    assert table.fan_in.tolist() == [31.5]
    assert (
        audit(lambda w, x: x @ w, jnp.ones((8, 3)), x[0, 0, :, :1].T).to_dataframe().fan_in[0] == 8
    )
