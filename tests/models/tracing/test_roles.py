"""Roles and fans of real models, each expected by hand from the mathematics of its layers."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jinit
from jinit.models import RoleError, roles

KEY = jax.random.key(0)


def found(apply, variables, *inputs, **options):
    return {role.path: role for role in roles(apply, variables, *inputs, **options)}


def of_linen(model, *inputs, **options):
    variables = jax.eval_shape(model.init, KEY, *inputs)
    return found(model.apply, variables, *inputs, **options)


def linen(name, leaf="kernel"):
    return "['params']" + "".join(f"['{part}']" for part in name.split("/")) + f"['{leaf}']"


def fans(role):
    return role.kind, role.fan_in, role.fan_out


def test_linen_mlp_in_call_order_with_its_activations():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.LayerNorm()(nn.relu(nn.Dense(32)(x)))
            x = nn.tanh(nn.Dense(16)(x))
            return nn.Dense(10)(x)

    got = of_linen(Model(), jnp.ones((4, 8)))
    assert fans(got[linen("Dense_0")]) == ("weight", 8, 32)
    assert fans(got[linen("Dense_1")]) == ("weight", 32, 16)
    assert got[linen("Dense_0", "bias")].kind == "bias"
    assert got[linen("LayerNorm_0", "scale")].kind == "scale"
    assert got[linen("LayerNorm_0", "bias")].kind == "bias"
    kernels = [got[linen(f"Dense_{i}")] for i in range(3)]
    assert [role.activation for role in kernels] == ["relu", "tanh", None]
    assert kernels[0].order < kernels[1].order < kernels[2].order


@pytest.mark.parametrize(
    ("layer", "channels", "expected"),
    [
        (lambda: nn.Conv(16, (3, 3)), 8, ("weight", 72, 144, 9, 1)),
        (lambda: nn.Conv(16, (3, 3), feature_group_count=4), 8, ("weight", 18, 36, 9, 4)),
        (lambda: nn.Conv(8, (5, 5), feature_group_count=8), 8, ("weight", 25, 25, 25, 8)),
        (lambda: nn.Conv(16, (3, 3), kernel_dilation=2), 8, ("weight", 72, 144, 9, 1)),
        (lambda: nn.ConvTranspose(16, (2, 2), strides=(2, 2)), 8, ("weight", 8, 64, 4, 1)),
    ],
    ids=["plain", "grouped", "depthwise", "dilated", "transposed"],
)
def test_linen_convolutions(layer, channels, expected):
    model = layer()
    got = of_linen(model, jnp.ones((2, 8, 8, channels)))["['params']['kernel']"]
    assert (*fans(got), got.receptive_field, got.groups) == expected
    kernels = 4 if isinstance(model, nn.ConvTranspose) else 1  # interleaved
    assert got.matrix().shape == (kernels * expected[4], expected[1], expected[2] // expected[3])
    assert sorted(got.matrix().ravel()) == list(range(np.prod(got.shape)))


def test_linen_attention_counts_heads_where_the_mathematics_does():
    model = nn.MultiHeadDotProductAttention(num_heads=8, qkv_features=32)
    got = of_linen(model, jnp.ones((2, 5, 24)), jnp.ones((2, 5, 24)))
    for name in ("query", "key", "value"):
        kernel = got[linen(name)]
        assert kernel.shape == (24, 8, 4)
        assert fans(kernel) == ("weight", 24, 32)
    assert got[linen("out")].shape == (8, 4, 24)
    assert fans(got[linen("out")]) == ("weight", 32, 24)


def test_linen_cells_with_fused_and_with_separate_gates():
    cell = nn.OptimizedLSTMCell(16)
    carry = cell.initialize_carry(KEY, (2, 8))
    got = of_linen(cell, carry, jnp.ones((2, 8)))
    assert fans(got[linen("ii")]) == ("weight", 8, 16)
    assert fans(got[linen("hf")]) == ("weight", 16, 16)
    assert got[linen("hf", "bias")].kind == "bias"
    gru = nn.GRUCell(16)
    got = of_linen(gru, jnp.ones((2, 16)), jnp.ones((2, 8)))
    assert fans(got[linen("hn")]) == ("weight", 16, 16)


def test_linen_recurrence_shares_its_weights_and_is_no_conflict():
    got = of_linen(nn.RNN(nn.SimpleCell(16)), jnp.ones((2, 7, 8)))
    kernel = got[linen("cell/h")]
    assert fans(kernel) == ("weight", 16, 16)
    assert kernel.times == 7
    assert kernel.activation == "tanh"


def test_linen_scan_over_stacked_layers_and_remat():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.relu(nn.Dense(16)(x)), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            block = nn.scan(
                nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=6
            )
            return block()(x, None)[0]

    (kernel,) = [
        role for role in of_linen(Model(), jnp.ones((2, 16))).values() if role.kind == "weight"
    ]
    assert kernel.shape == (6, 16, 16)
    assert (*fans(kernel), kernel.layers, kernel.times) == ("weight", 16, 16, 6, 1)
    assert kernel.activation == "relu"
    np.testing.assert_array_equal(kernel.matrix(), np.arange(6 * 256).reshape(6, 16, 16))


def test_embedding_alone_and_tied_to_the_readout():
    class Model(nn.Module):
        tied: bool

        @nn.compact
        def __call__(self, tokens):
            embed = nn.Embed(50, 16)
            x = nn.relu(nn.Dense(16)(embed(tokens)))
            return embed.attend(x) if self.tied else nn.Dense(50)(x)

    tokens = jnp.zeros((2, 5), jnp.int32)
    path = linen("Embed_0", "embedding")
    assert of_linen(Model(False), tokens)[path].kind == "embedding"
    tied = of_linen(Model(True), tokens)[path]
    assert fans(tied) == ("tied", 16, 50)


def test_mixed_precision_and_dropout_and_batch_statistics():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(32, dtype=jnp.bfloat16)(x)
            x = nn.BatchNorm(use_running_average=False, dtype=jnp.bfloat16)(x)
            return nn.Dense(4)(nn.Dropout(0.5, deterministic=False)(nn.relu(x)))

    model, x = Model(), jnp.ones((4, 8))
    with jax.numpy_dtype_promotion("standard"):
        variables = jax.eval_shape(model.init, {"params": KEY, "dropout": KEY}, x)

    def apply(variables, x):
        return model.apply(variables, x, rngs={"dropout": KEY}, mutable=["batch_stats"])

    with jax.numpy_dtype_promotion("standard"):  # Flax mixes them
        got = found(apply, variables, x)
    assert fans(got[linen("Dense_0")]) == ("weight", 8, 32)
    assert got[linen("Dense_0")].activation == "relu"
    assert got[linen("BatchNorm_0", "scale")].kind == "scale"
    for name in ("mean", "var"):
        assert got[f"['batch_stats']['BatchNorm_0']['{name}']"].kind == "statistic"


def test_nnx():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.dense = nnx.Linear(8, 5, rngs=rngs)

        def __call__(self, x):
            return self.dense(nnx.relu(self.conv(x)).mean((1, 2)))

    graph, state = nnx.split(Model(nnx.Rngs(0)))
    got = found(lambda state, x: nnx.merge(graph, state)(x), state, jnp.ones((2, 6, 6, 3)))
    weights = {p: fans(r) for p, r in got.items() if r.kind == "weight"}
    assert list(weights.values()) == [("weight", 27, 72), ("weight", 8, 5)]


def test_equinox_stores_out_in_and_is_mapped_over_the_batch():
    model = eqx.nn.MLP(8, 3, 16, 2, key=KEY)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    apply = lambda params, x: jax.vmap(eqx.combine(params, static))(x)  # noqa: E731
    got = found(apply, params, jnp.ones((4, 8)))
    first = got[".layers[0].weight"]
    assert first.shape == (16, 8)
    assert fans(first) == ("weight", 8, 16)
    np.testing.assert_array_equal(first.matrix()[0], np.arange(128).reshape(16, 8).T)
    assert fans(got[".layers[2].weight"]) == ("weight", 16, 3)
    assert got[".layers[0].bias"].kind == "bias"
    gru = eqx.nn.GRUCell(8, 16, key=KEY)
    params, static = eqx.partition(gru, eqx.is_inexact_array)
    apply = lambda params, x, h: eqx.combine(params, static)(x, h)  # noqa: E731
    got = found(apply, params, jnp.ones(8), jnp.ones(16))
    assert fans(got[".weight_hh"]) == ("weight", 16, 48)


def test_haiku_with_split_gates():
    model = hk.without_apply_rng(hk.transform(lambda x, h: hk.GRU(16)(x, h)[0]))
    x, h = jnp.ones((2, 8)), jnp.ones((2, 16))
    params = jax.eval_shape(model.init, KEY, x, h)
    got = found(model.apply, params, x, h)
    assert fans(got["['gru']['w_i']"]) == ("weight", 8, 48)
    assert fans(got["['gru']['w_h']"]) == ("weight", 16, 48)
    np.testing.assert_array_equal(got["['gru']['w_h']"].matrix()[0], np.arange(768).reshape(16, 48))


def test_plain_jax_with_scan_and_checkpoint_and_experts():
    params = {"layers": jnp.ones((5, 8, 8)), "experts": jnp.ones((4, 8, 3))}

    def apply(params, x):
        @jax.checkpoint
        def body(h, w):
            return jnp.tanh(h @ w), None

        h, _ = jax.lax.scan(body, x, params["layers"])
        return jax.vmap(lambda w, h: h @ w, (0, None))(params["experts"], h)

    got = found(apply, params, jnp.ones((2, 8)))
    layers, experts = got["['layers']"], got["['experts']"]
    assert (*fans(layers), layers.layers, layers.activation) == ("weight", 8, 8, 5, "tanh")
    assert experts.fan_in == 8
    assert experts.fan_out * experts.groups == 12


def test_jinits_own_networks():
    import jinit

    net = jinit.MLP((8, *(16,) * 20, 3), norm="batch")
    params, state = jinit.init(KEY, net)
    apply = lambda params, x: jinit.forward(net, params, state, x, train=True)[0]  # noqa: E731
    got = found(apply, params, jnp.ones((32, 8)))
    assert fans(got[".runs[0].w"]) == ("weight", 8, 16)
    assert (*fans(got[".runs[1].w"]), got[".runs[1].w"].layers) == ("weight", 16, 16, 19)
    assert got[".runs[1].gamma"].kind == "scale"


# --- what is not certain ------------------------------------------------------------------------


def test_sharing_across_different_fans_is_an_error_that_offers_a_rule():
    apply = lambda p, x: (x @ p["w"]).sum() + (x[:, :3] @ p["w"].T).sum()  # noqa: E731
    params = {"w": jnp.ones((8, 3))}
    with pytest.raises(RoleError, match=r"\['w'\] is shared .* \(3 -> 8 and 8 -> 3\).*rules="):
        roles(apply, params, jnp.ones((2, 8)))
    got = found(apply, params, jnp.ones((2, 8)), rules={"['w']": "other"})
    assert got["['w']"].kind == "other"


def test_an_operation_that_says_nothing_is_an_error_and_an_unused_leaf_is_none():
    params = {"w": jnp.ones((8, 3)), "idle": jnp.ones(4), "count": jnp.zeros((), jnp.int32)}
    with pytest.raises(RoleError, match=r"nothing certain of .*'w'"):
        roles(lambda p, x: jnp.convolve(p["w"].ravel(), x[0]), params, jnp.ones((2, 8)))
    got = found(lambda p, x: x @ p["w"], params, jnp.ones((2, 8)))
    assert got["['idle']"].kind == "unused"
    assert len(got) == 2


@pytest.mark.bad_input
def test_a_rule_for_nothing_and_variables_without_arrays():
    with pytest.raises(RoleError, match="rules name 'v', which is no parameter; paths are"):
        roles(lambda p, x: x @ p, jnp.ones((8, 3)), jnp.ones((2, 8)), rules={"v": "weight"})
    with pytest.raises(ValueError, match="'weight'"):
        roles(lambda p, x: x @ p, jnp.ones((8, 3)), jnp.ones((2, 8)), rules={"": "wieght"})
    with pytest.raises(TypeError, match="no floating-point array"):
        roles(lambda p, x: x, {"n": 3}, jnp.ones((2, 8)))


@jax.jit
def glu(w, x):
    """Of a name that jax uses for something else."""
    return jax.nn.sigmoid(x @ w)


def through(w, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]


@pytest.mark.parametrize(
    ("apply", "shape", "expected"),
    [
        (glu, (8, 3), ("weight", 8, 3, 1, 1)),
        (lambda w, x: x @ jax.lax.map(lambda w: 2.0 * w, w)[0], (3, 8, 8), ("weight", 8, 8, 1, 0)),
        (lambda w, x: through(w[2:], through(w[:2], x)), (6, 8, 8), ("weight", 8, 8, 6, 1)),
        (lambda w, x: x[:, :3] - w[None], (3,), ("bias", None, None, 1, 1)),
    ],
    ids=["a function called glu", "mapped", "stacks in two loops", "subtracted"],
)
def test_less_usual_ways_to_use_a_parameter(apply, shape, expected):
    (role,) = roles(apply, jnp.ones(shape), jnp.ones((2, 8)))
    assert (*fans(role), role.layers, role.times) == expected


def noisy(p, x, key):
    return x @ (p["mean"] + p["scale"] * jax.random.normal(key, (8, 4)))


def connected(p, x, key):
    return x @ (p["mean"] * jax.random.bernoulli(key, 0.5, (8, 4)).astype(x.dtype))


def chosen(p, x, key):
    return x @ jax.lax.cond(x.sum() > 0, lambda: p["mean"], lambda: p["scale"])


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0)], ids=["key", "raw key"])
@pytest.mark.parametrize("apply", [noisy, connected, chosen])
def test_numbers_from_a_key_that_is_given_make_no_bias_of_a_weight(apply, key):
    p = {"mean": jnp.ones((8, 4)), "scale": jnp.ones((8, 4))}
    uncertain = "scale" if apply is noisy else "mean"  # the mean is a weight, whatever is added
    with pytest.raises(RoleError, match=rf"nothing certain of \['{uncertain}'\].*'other'"):
        roles(apply, p, jnp.ones((2, 8)), key)
    rules = dict.fromkeys(("['mean']", "['scale']"), "other")
    if apply is noisy:
        assert found(apply, p, jnp.ones((2, 8)), key, rules=rules)["['scale']"].kind == "other"


def test_both_branches_of_a_choice_may_turn_a_weight_in_their_own_way():
    def apply(w, x):
        ways = (lambda w: jax.lax.optimization_barrier(w.T), lambda w: w.transpose(1, 0))
        return x @ jax.lax.cond(x.sum() > 0, *ways, w)

    (role,) = roles(apply, jnp.ones((3, 8)), jnp.ones((2, 8)))
    assert fans(role) == ("weight", 8, 3)


def test_a_table_of_heads_is_an_embedding():
    def apply(p, tokens):
        return jnp.einsum("bthd,hdo->bto", p["table"][tokens], p["w"])

    p = {"table": jnp.ones((30, 4, 8)), "w": jnp.ones((4, 8, 5))}
    table, w = roles(apply, p, jnp.zeros((2, 3), jnp.int32))
    assert (table.kind, table.features) == ("embedding", 32)
    assert fans(w) == ("weight", 32, 5)


def test_a_running_mean_may_be_handed_on_as_it_is():
    def apply(p, x, train):
        new, old = lambda: 0.9 * p["mean"] + 0.1 * x.mean(0), lambda: p["mean"]
        return (x - p["mean"][None]) @ p["w"], jax.lax.cond(train, new, old)

    p = {"mean": jnp.zeros(8), "w": jnp.ones((8, 3))}
    mean, w = roles(apply, p, jnp.ones((2, 8)), True)
    assert fans(w) == ("weight", 8, 3)
    assert mean.kind == "statistic"


def test_a_draw_that_depends_on_parameters_hides_none():
    apply = lambda p, key: jax.random.gamma(key, p, (4,))  # noqa: E731
    with pytest.raises(RoleError, match="nothing certain"):
        roles(apply, jnp.ones(4), KEY)


def test_a_transposed_kernel_that_its_stride_does_not_divide_has_a_fan_in_on_average():
    layer = nn.ConvTranspose(5, (3, 3), strides=(2, 1), use_bias=False)
    x = jnp.ones((1, 8, 8, 7))
    (role,) = roles(layer.apply, layer.init(KEY, x), x)
    assert fans(role)[1:3] == (7 * 1.5 * 3, 5 * 9)  # of 3 taps 1 or 2, and all 3


@pytest.mark.parametrize(
    ("apply", "kind"),
    [
        (lambda w, x: x @ w if x.sum() > 0 else x, jax.errors.TracerBoolConversionError),
        (lambda w, x: np.asarray(x) @ w, jax.errors.TracerArrayConversionError),
        (lambda w, x: x @ w["kernel"], TypeError),
        (lambda w, x: x.T @ w, TypeError),
    ],
    ids=["if", "numpy", "another structure", "another shape"],
)
def test_what_apply_raises_is_its_own_error_with_a_note(apply, kind):
    with pytest.raises(kind) as caught:
        roles(apply, jnp.ones((8, 3)), jnp.ones((2, 8)))
    assert "jinit traces apply(variables, *inputs)" in caught.value.__notes__[-1]


def test_layers_picked_one_by_one_a_class_token_and_a_choice():
    def apply(p, x):
        h = jnp.concatenate([jnp.broadcast_to(p["token"], (2, 1, 8)), x], axis=1)
        for i in range(3):
            h = jnp.tanh(h @ p["layers"][i])
        gate = jnp.argmax(h @ p["gate"], -1)
        return h * jnp.where(gate < 2, 1.0, 2.0)[..., None]

    params = {"layers": jnp.ones((3, 8, 8)), "token": jnp.ones(8), "gate": jnp.ones((8, 5))}
    got = found(apply, params, jnp.ones((2, 4, 8)))
    layers = got["['layers']"]
    assert (*fans(layers), layers.layers, layers.times) == ("weight", 8, 8, 3, 1)
    np.testing.assert_array_equal(layers.matrix(), np.arange(192).reshape(3, 8, 8))
    assert got["['token']"].kind == "embedding"
    assert (got["['gate']"].fan_in, got["['gate']"].activation) == (8, None)


def test_layers_chosen_by_a_counter_have_fans_but_no_fixed_matrix():
    def apply(w, x):
        return jax.lax.fori_loop(0, 5, lambda i, h: jnp.tanh(h @ w[i]), x)

    (role,) = roles(apply, jnp.ones((5, 8, 8)), jnp.ones((2, 8)))
    assert fans(role) == ("weight", 8, 8)
    with pytest.raises(RoleError, match="chosen while the model runs"):
        role.matrix()


def test_a_weight_of_a_layer_that_an_inner_loop_shares():
    def apply(p, x):
        def layer(h, own):
            w, steps = own

            def inner(h, s):
                return jnp.tanh(h @ w) * s[None], None

            return jax.lax.scan(inner, h, steps)[0], None

        return jax.lax.scan(layer, x, (p["w"], p["s"]))[0]

    params = {"w": jnp.ones((3, 8, 8)), "s": jnp.ones((3, 4, 8))}
    got = found(apply, params, jnp.ones((2, 8)))
    assert (got["['w']"].layers, got["['w']"].times) == (3, 4)
    assert (got["['s']"].kind, got["['s']"].times) == ("scale", 1)


def test_a_gelu_is_known_though_it_is_written_out_in_primitives():

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.gelu(nn.Dense(16)(x))

    assert of_linen(Model(), jnp.ones((2, 8)))[linen("Dense_0")].activation == "gelu_tanh"


def test_a_decay_that_is_summed_over_time_before_its_exponential_is_a_rate():
    """Mamba-2's form: exp of a sum of steps times A, for all pairs of times at once."""

    def ssd(p, x):
        step = jax.nn.softplus(x @ p["w"] + p["step_bias"])
        total = jnp.cumsum(-jnp.exp(p["A_log"]) * step, 1)
        kept = jnp.exp(jnp.tril(total[:, :, None] - total[:, None, :]).mean(-1))
        return jnp.einsum("bts,bsd->btd", kept, x) + p["D"] * x

    shapes = {"w": (6, 6), "step_bias": (6,), "A_log": (6,), "D": (6,)}
    with jax.numpy_rank_promotion("allow"):
        variables = {name: jnp.ones(shape) for name, shape in shapes.items()}
        got = found(ssd, variables, jnp.ones((2, 5, 6)))
    kinds = {path[2:-2]: role.kind for path, role in got.items()}
    assert kinds == {"w": "weight", "step_bias": "rate", "A_log": "rate", "D": "scale"}


def test_frequencies_and_phases_of_a_normalised_basis_are_no_running_statistics():
    """sin(f x + p), less its mean and over its deviation under x ~ N(0, 1), as ActNet has it."""

    def basis(p, x):
        f, phase = p["f"], p["phase"]
        mean = jnp.exp(-(f**2) / 2) * jnp.sin(phase)
        square = (1 - jnp.exp(-2 * f**2) * jnp.cos(2 * phase)) / 2
        y = (jnp.sin(x[..., None] * f + phase) - mean) / jnp.sqrt(square - mean**2 + 1e-3)
        return jnp.einsum("bik,iko->bo", y, p["w"])

    with jax.numpy_rank_promotion("allow"):
        variables = {"f": jnp.ones(5), "phase": jnp.ones(5), "w": jnp.ones((3, 5, 2))}
        got = found(basis, variables, jnp.ones((4, 3)))
    assert got["['f']"].kind == "scale"
    assert got["['phase']"].kind == "bias"
    assert fans(got["['w']"]) == ("weight", 15, 2)


def test_real_and_imaginary_parts_made_complex_are_applied_in_complex_precision():
    def apply(p, x):
        both = p["real"] + 1j * p["imag"]
        return jnp.fft.irfft(jnp.einsum("bi,io->bo", jnp.fft.rfft(x), both))

    real, imag = jax.random.normal(KEY, (2, 5, 5))
    with jax.numpy_dtype_promotion("standard"):
        model = jinit.Model(apply, {"real": real, "imag": imag}, jnp.ones((4, 8)))
        rows = {row.path: row for row in model.audit().rows}
        found = model.diagnose()
    assert [len(found.layers), rows["['real']"].role] == [1, "weight"]
    applied = np.std(np.stack([real, imag])) * np.sqrt(2)
    np.testing.assert_allclose(rows["['real']"].std, applied, rtol=1e-5)


def test_what_lies_side_by_side_and_is_repeated_before_it_is_changed():
    """LinOSS's form: parts of a state matrix, the same at every time."""

    def apply(p, x):
        every = jnp.broadcast_to(jnp.concatenate([p["a"], p["b"]]), (4, 6))
        return jnp.exp(every) * (x @ p["w"])

    got = found(
        apply, {"a": jnp.ones(3), "b": jnp.ones(3), "w": jnp.ones((5, 6))}, jnp.ones((4, 5))
    )
    kinds = {path: role.kind for path, role in got.items()}
    assert kinds == {"['a']": "scale", "['b']": "scale", "['w']": "weight"}


def test_a_factor_whose_logarithm_is_in_a_flows_determinant_is_a_factor():
    def log_prob(p, x):
        scale = jax.nn.softplus(p["scale"])
        z = (x - p["shift"]) / scale
        return jnp.sum(-0.5 * z**2, -1) - jnp.sum(jnp.log(scale))

    variables = {"scale": jnp.ones(3), "shift": jnp.zeros(3)}
    got = found(log_prob, variables, jnp.ones((4, 3)), in_axes=0)
    assert {path[2:-2]: role.kind for path, role in got.items()} == {
        "scale": "scale", "shift": "bias"
    }  # fmt: skip
