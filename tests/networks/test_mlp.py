"""From a key to parameters to outputs: what is drawn, and that scanned equals written out."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import jinit
from jinit.networks.layer import RESIDUALS
from jinit.networks.norms import NORMS
from jinit.runtime import jit_once

ON_CPU = jax.default_backend() == "cpu"


def drawn(net, scheme="xavier", seed=0, **options):
    return jit_once(lambda k: jinit.init(k, net, scheme, **options))(jax.random.key(seed))


def stirred(net, seed=0):
    """Parameters with every leaf away from its starting value, so that each one matters."""

    def stir(tree, rng, shift):
        return jax.tree.map(
            lambda s: jnp.asarray(shift + 0.4 * rng.uniform(-1, 1, s.shape), s.dtype), tree
        )

    shapes = jax.eval_shape(lambda k: jinit.init(k, net), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return stir(shapes[0], rng, 0.0), stir(shapes[1], rng, 1.0)


# --- the description ------------------------------------------------------------------------


def test_a_description_is_hashable_comparable_and_frozen():
    net = jinit.MLP([8, 8, 2], activation="tanh")
    assert net == jinit.MLP((8, 8, 2), activation="tanh")
    assert hash(net) == hash(jinit.MLP([8, 8, 2], activation="tanh"))
    assert net != jinit.MLP((8, 8, 2), activation="relu")
    assert net.dims == (8, 8, 2)
    with pytest.raises(AttributeError):
        net.dims = (1, 2)


def test_defaults_are_those_of_the_design():
    net = jinit.MLP((2, 2))
    assert (net.momentum, net.eps, net.norm, net.residual, net.bias) == (
        0.9,
        1e-5,
        None,
        None,
        True,
    )


@pytest.mark.parametrize(
    ("dims", "runs"),
    [
        ((4, 2), [(0, 1, True)]),
        ((4, 4), [(0, 1, True)]),
        ((3, 4, 4, 4, 2), [(0, 1, False), (1, 2, False), (3, 1, True)]),
        ((4, 4, 4, 4), [(0, 2, False), (2, 1, True)]),
        ((2, 3, 2, 3, 3), [(0, 1, False), (1, 1, False), (2, 1, False), (3, 1, True)]),
    ],
)
def test_equal_hidden_layers_form_runs_and_the_readout_stands_alone(dims, runs):
    net = jinit.MLP(dims)
    assert [(r.start, r.length, r.kind == "readout") for r in net.runs] == runs
    assert sum(r.length for r in net.runs) == net.depth == len(dims) - 1


# --- drawing --------------------------------------------------------------------------------


def test_init_params_is_init_of_the_plain_network():
    dims, options = [5, 6, 6, 3], {"bias_var": 0.3, "gain": 0.7}
    both = jax.jit(
        lambda k: (
            jinit.init_params(k, dims, "he", **options),
            jinit.init(k, jinit.MLP(dims), "he", **options)[0],
        )
    )(jax.random.key(2))
    for one, other in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_deeper_net_shares_its_first_layers():
    shallow, deep = (
        drawn(jinit.MLP((5,) + (6,) * depth + (3,)), "he", bias_var=0.2)[0] for depth in (2, 5)
    )
    assert len(shallow) == 3
    for i in range(2):
        np.testing.assert_array_equal(shallow[i].w, deep[i].w)
        np.testing.assert_array_equal(shallow[i].b, deep[i].b)
    # The layers themselves are all different.
    weights = [np.asarray(layer.w) for layer in deep][1:5]
    assert not any(np.array_equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_norm_residual_and_bias_do_not_move_the_draws_of_the_weights():
    """Common random numbers: what is compared differs in what is compared alone."""
    dims = (6, 6, 6, 3)
    plain, _ = drawn(jinit.MLP(dims))
    other, _ = drawn(jinit.MLP(dims, norm="batch", residual="skipinit", bias=False))
    for one, two in zip(plain, other, strict=True):
        np.testing.assert_array_equal(one.w, two.w)


def test_what_is_not_drawn_starts_where_it_should():
    net = jinit.MLP((6, 6, 6, 3), norm="batch", residual="skipinit")
    params, state = drawn(net)
    for layer in list(params)[:-1]:
        assert np.all(layer.gamma == 1)
        assert not np.any(layer.beta)
        assert not np.any(layer.alpha)
        assert not np.any(layer.b)
    for stats in state:
        assert not np.any(stats.mean)
        assert np.all(stats.var == 1)


def test_bias_variance_is_the_variance_of_the_biases():
    params, _ = drawn(jinit.MLP((2, 3000, 3000)), bias_var=0.25, seed=3)
    for layer in params:
        n = layer.b.size
        assert abs(np.mean(layer.b)) < 5 * 0.5 / math.sqrt(n)
        assert abs(np.var(layer.b) / 0.25 - 1) < 5 * math.sqrt(2 / n)
    # Biases and weights come from different keys.
    assert not np.array_equal(params[0].b, 0.5 * np.asarray(params[0].w[0]) * math.sqrt(2))


def mapped_and_looped(name, net, bias_var):
    """jit(vmap(init)) over keys and traced amplitudes, and jit(init) for each row."""
    options = jinit.SCHEMES[name].options
    option = next((o for o in ("gain", "scale", "value") if o in options), None)

    def f(key, amplitude):
        chosen = {option: amplitude} if option else {}
        return jinit.init(key, net, name, bias_var=bias_var * amplitude, **chosen)[0]

    keys = jax.random.split(jax.random.key(5), 3)
    amplitudes = jnp.asarray([0.5, 1.0, 1.5])
    single = jax.jit(f)
    looped = [single(k, a) for k, a in zip(keys, amplitudes, strict=True)]
    return jax.jit(jax.vmap(f))(keys, amplitudes), looped


def assert_rows_equal(mapped, looped):
    for row, alone in enumerate(looped):
        for many, one in zip(jax.tree.leaves(mapped), jax.tree.leaves(alone), strict=True):
            if ON_CPU:
                np.testing.assert_array_equal(many[row], one)
            else:
                np.testing.assert_allclose(many[row], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_mapped_equals_looped_bit_for_bit(name):
    """On CPU, for every scheme. One layer: the compile of a draw is what costs time here.

    Sizes are multiples of eight: on jax 0.12 the entries of a [5, 1] kernel that fill no vector
    register may differ in their last bit (on 0.10 they do not).
    """
    net = jinit.MLP((6, 8), bias=False)
    if name == "delta_orthogonal":  # has no meaning for a dense layer, and says so
        with pytest.raises(ValueError, match="for a dense layer use 'orthogonal'"):
            jinit.init(jax.random.key(0), net, name)
        return
    mapped, looped = mapped_and_looped(name, net, 0.0)
    assert_rows_equal(mapped, looped)
    w = [np.asarray(p[0].w) for p in looped]
    if name not in ("zeros", "constant", "identity"):  # what is drawn, each key draws anew
        assert not np.array_equal(w[0] * 3, w[2])


@pytest.mark.parametrize("name", ["normal", "orthogonal", "looks_linear"])
def test_mapped_equals_looped_bit_for_bit_in_deep_nets(name):
    """Several runs, places and biases of traced variance."""
    assert_rows_equal(*mapped_and_looped(name, jinit.MLP((6, 8, 8, 4)), 0.3))


def test_any_initializer_is_accepted_where_a_name_is():
    net = jinit.MLP((6, 8, 8, 3))
    by_name = drawn(net, "he", gain=2.0)[0]
    by_function = drawn(net, jinit.scheme("he", gain=2.0))[0]
    for one, two in zip(by_name, by_function, strict=True):
        np.testing.assert_array_equal(one.w, two.w)
    theirs, _ = drawn(net, jax.nn.initializers.he_normal())
    ours, _ = drawn(net, "he_normal")
    np.testing.assert_allclose(theirs[1].w, ours[1].w, rtol=1e-6)


def test_parameters_of_another_dtype():
    params, state = jax.eval_shape(
        lambda k: jinit.init(k, jinit.MLP((4, 4, 2), norm="batch"), dtype=jnp.bfloat16),
        jax.random.key(0),
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


# --- forward --------------------------------------------------------------------------------

DIMS = (3, 5, 5, 5, 5, 2)
PHI = {"tanh": np.tanh, "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2}


def by_hand(net, params, state, x, train):
    """The network of the design as a plain loop, in NumPy float64."""
    layers = [jax.tree.map(lambda a: np.asarray(a, np.float64), layer) for layer in params]
    running = [jax.tree.map(lambda a: np.asarray(a, np.float64), stats) for stats in state]
    new, h, phi = [], np.asarray(x, np.float64), PHI[net.activation]

    def norm(i, z):
        if net.norm is None:
            return z
        if net.norm == "layer":
            mean, var = z.mean(1, keepdims=True), z.var(1, keepdims=True)
        elif train:
            mean, var, m = z.mean(0), z.var(0), net.momentum
            new.append(
                (
                    m * running[i].mean + (1 - m) * mean,
                    m * running[i].var + (1 - m) * z.var(0, ddof=1),
                )
            )
        else:
            mean, var = running[i]
            new.append((mean, var))
        return layers[i].gamma * (z - mean) / np.sqrt(var + net.eps) + layers[i].beta

    blocks = sum(a == b for a, b in zip(net.dims[:-1], net.dims[1:-1], strict=False))
    for i, layer in enumerate(layers[:-1]):
        bias = 0 if layer.b is None else layer.b
        if net.residual and layer.w.shape[0] == layer.w.shape[1]:
            a = {"plain": 1, "scaled": 1 / math.sqrt(blocks), "skipinit": layer.alpha}[net.residual]
            h = h + a * (phi(norm(i, h)) @ layer.w + bias)
        else:
            h = phi(norm(i, h @ layer.w + bias))
    last = layers[-1]
    return h @ last.w + (0 if last.b is None else last.b), new


CASES = [
    (norm, residual, train)
    for norm, row in NORMS.items()
    for residual in RESIDUALS
    for train in ((True, False) if row.over_batch else (True,))
]


@pytest.mark.parametrize(("norm", "residual", "train"), CASES)
def test_scanned_equals_written_out(norm, residual, train):
    net = jinit.MLP(
        DIMS,
        activation="gelu" if norm == "layer" else "tanh",
        norm=norm,
        residual=residual,
        bias=residual != "scaled",
        momentum=0.7,
    )
    params, state = stirred(net)
    x = jnp.asarray(np.random.default_rng(9).normal(size=(6, 3)), jnp.float32)
    out, after = jax.jit(lambda p, s: jinit.forward(net, p, s, x, train=train))(params, state)
    expected, statistics = by_hand(net, params, state, x, train)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
    assert len(after) == len(statistics)
    for stats, (mean, var) in zip(after, statistics, strict=True):
        np.testing.assert_allclose(stats.mean, mean, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(stats.var, var, rtol=2e-5, atol=2e-5)


def test_a_plain_list_of_layers_is_taken_as_it_is():
    net = jinit.MLP(DIMS, norm="batch", residual="skipinit")
    params, state = stirred(net)
    x = jnp.asarray(np.random.default_rng(9).normal(size=(6, 3)), jnp.float32)
    f = jax.jit(lambda p, s: jinit.forward(net, p, s, x, train=True))
    stacked, listed = f(params, state), f(list(params), list(state))
    for one, two in zip(jax.tree.leaves(stacked), jax.tree.leaves(listed), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_hand_built_weights_need_no_state():
    net = jinit.MLP((2, 2, 1), activation="relu")
    layers = [
        jinit.Layer(w=jnp.asarray([[1.0, -1.0], [0.0, 2.0]]), b=jnp.asarray([0.0, 1.0])),
        jinit.Layer(w=jnp.asarray([[3.0], [-1.0]]), b=jnp.asarray([0.5])),
    ]
    x = np.array([[1.0, 2.0], [-1.0, 0.0]], np.float32)
    out, state = jinit.forward(net, layers, None, x, train=True)
    # relu([1, 4]) -> 3 - 4 + 0.5;  relu([-1, 2]) -> -2 + 0.5
    np.testing.assert_array_equal(out, [[-0.5], [-1.5]])
    assert len(state) == 0


def test_a_custom_activation_equals_the_named_one():
    params, state = stirred(jinit.MLP(DIMS))
    x = jnp.ones((2, 3))
    outs = [
        jinit.forward(jinit.MLP(DIMS, activation=phi), params, state, x, train=True)[0]
        for phi in ("tanh", jnp.tanh)
    ]
    np.testing.assert_array_equal(*outs)


def test_the_last_layer_is_a_linear_readout():
    """No activation, norm or skip there, though it is square."""
    net = jinit.MLP((3, 3), norm="batch", residual="plain")
    params, state = stirred(net)
    x = jnp.asarray([[1.0, -2.0, 3.0]])
    out, _ = jinit.forward(net, params, state, x, train=True)
    np.testing.assert_allclose(out, x @ params[0].w + params[0].b[None], rtol=1e-6)
    assert params[0].gamma is None


def test_skipinit_starts_as_the_readout_alone():
    net = jinit.MLP((4, 4, 4, 4, 2), residual="skipinit", norm="layer")
    params, state = drawn(net, "he")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    out, _ = jax.jit(lambda p: jinit.forward(net, p, state, x, train=True))(params)
    np.testing.assert_array_equal(out, jax.jit(jnp.matmul)(x, params[-1].w))


@pytest.mark.parametrize(
    "dims", [(6, 4), (6, 6, 4), (6, 8, 4), (6, *(8,) * 10, 4), (6, *(6,) * 30, 4)]
)
def test_looks_linear_relu_nets_are_linear_at_any_depth(dims):
    """f(x) + f(-x) = 0 and f(x + y) = f(x) + f(y), the first layer square or not."""
    net = jinit.MLP(dims, activation="relu")
    x, y = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)

    @jax.jit
    def outputs(key):
        params, state = jinit.init(key, net, "looks_linear")
        return jinit.forward(net, params, state, jnp.concatenate([x, -x, y, x + y]), train=True)[0]

    fx, minus, fy, both = np.split(np.asarray(outputs(jax.random.key(0))), 4)
    # Orthogonal maps do not amplify: each layer adds an error of a few units in the last place.
    size = np.abs(both).max()
    bound = 20 * len(dims) * np.finfo(np.float32).eps * max(size, 1)
    assert size > 0.05  # linear, and not because it is zero
    assert np.abs(fx + minus).max() <= bound
    assert np.abs(fx + fy - both).max() <= bound


def test_xavier_relu_nets_are_not_linear():
    """The control of the test above."""
    net = jinit.MLP((6, 8, 4), activation="relu")
    params, state = drawn(net)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 6)), jnp.float32)
    out = jinit.forward(net, params, state, jnp.concatenate([x, -x]), train=True)[0]
    assert np.abs(out[:5] + out[5:]).max() > 0.1


# --- depth costs no compile -----------------------------------------------------------------


def lowered_sizes(program):
    """Characters of the lowered program at depth 30 and 1000: what a compiler has to read."""
    return [len(program(jinit.MLP((8, *(16,) * depth, 4), norm="batch"))) for depth in (30, 1000)]


def shapes_of(net):
    return jax.eval_shape(lambda k: jinit.init(k, net), jax.random.key(0))


def test_a_thousand_layers_lower_to_the_program_of_thirty():
    """Batch norm and gradient included. Counted, not timed: one scanned body serves any depth."""

    def gradient(net):
        params, state = shapes_of(net)
        x = jax.ShapeDtypeStruct((32, 8), jnp.float32)

        def loss(params, state, x):
            out, state = jinit.forward(net, params, state, x, train=True)
            return jnp.sum(out), state

        return jax.jit(jax.grad(loss, has_aux=True)).lower(params, state, x).as_text()

    thirty, thousand = lowered_sizes(gradient)
    assert thousand == pytest.approx(thirty, rel=0.03)


def test_drawing_a_thousand_layers_lowers_to_the_program_of_thirty():
    def draw(net):
        return (
            jax.jit(lambda k: jinit.init(k, net, "orthogonal")).lower(jax.random.key(0)).as_text()
        )

    thirty, thousand = lowered_sizes(draw)
    assert thousand == pytest.approx(thirty, rel=0.03)


# --- how residual streams grow --------------------------------------------------------------

BLOCKS, WIDTH, SEEDS, BATCH = 8, 256, 24, 32


@pytest.mark.parametrize(
    ("norm", "residual", "law"),
    [
        (None, "plain", lambda blocks: 2.0**blocks),
        ("batch", "plain", lambda blocks: blocks + 1.0),
        (None, "scaled", lambda blocks: (1 + 1 / BLOCKS) ** blocks),
    ],
)
def test_the_squared_norm_of_a_residual_stream_follows_its_law(norm, residual, law):
    """He-ReLU blocks: doubling without norm, l + 1 with batch norm, (1 + 1/L)^L when scaled."""
    net = jinit.MLP((WIDTH,) * (BLOCKS + 1) + (1,), norm=norm, residual=residual)

    def squares(key):
        init_key, x_key = jax.random.split(key)
        params, state = jinit.init(init_key, net, "he")
        x = jax.random.normal(x_key, (BATCH, WIDTH))
        signals = jinit.layer_signals(net, params, state, x, key=key)
        # The stream before the first block, and after each one.
        return jnp.concatenate([jnp.mean(x**2)[None], jnp.exp(2 * signals.log_pre[:-1])])

    found = jax.jit(lambda keys: jax.lax.map(squares, keys))(
        jax.random.split(jax.random.key(11), SEEDS)
    )
    expected = np.array([law(blocks) for blocks in range(BLOCKS + 1)])
    error = np.std(found, axis=0, ddof=1) / math.sqrt(SEEDS)
    # A unit's sign and its layer's length are correlated at finite width: 2/n per block. Under
    # batch norm the units of a batch of 32 are of mean zero exactly, not in law: 1/B beside it.
    bias = expected * np.arange(BLOCKS + 1) * 2 / WIDTH + (expected / BATCH if norm else 0)
    assert np.all(np.abs(np.mean(found, axis=0) - expected) <= 5 * error + bias)


@pytest.mark.parametrize("scheme", ["xavier", "glorot_uniform", "truncated_normal"])
def test_a_grid_of_gains_shares_one_draw(scheme):
    """Counted operations: 64 gains cost 64 multiplications per weight, not 64 draws."""
    option = "scale" if scheme == "truncated_normal" else "gain"
    net = jinit.MLP((16, 16, 16, 24, 24, 4))

    def cost(gains):
        draw = jax.vmap(lambda gain: jinit.init(jax.random.key(0), net, scheme, **{option: gain}))
        return jax.jit(draw).lower(gains).cost_analysis()["flops"]

    weights = sum(a * b for a, b in itertools.pairwise(net.dims))
    assert cost(jnp.ones(64)) - cost(jnp.ones(1)) < 3 * 63 * weights


@pytest.mark.bad_input
@pytest.mark.parametrize("option", ["in_axis", "out_axis", "place"])
def test_init_refuses_a_layout_of_its_own(option):
    with pytest.raises(TypeError, match=f"'{option}' is set by the network.*leave it out"):
        jinit.init(jax.random.key(0), jinit.MLP((4, 4, 2)), "looks_linear", **{option: -1})


@pytest.mark.bad_input
def test_an_initializer_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"must return an array of the shape.*\[4, 2\].*\[2, 4\]"):
        jinit.init(
            jax.random.key(0), jinit.MLP((4, 2)), lambda key, shape, dtype: jnp.zeros((2, 4))
        )
