"""Convolutional networks: the product, the walk, the draws and the signals, beside plain jax."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jinit
from jinit.networks.convnet import image_steps
from jinit.networks.convolution import (
    Window,
    convolve,
    convolve_images,
    convolve_rows,
    project,
    project_rows,
)
from jinit.networks.image_norms import IMAGE_NORMS, image_norm
from jinit.networks.layer import RESIDUALS, climb
from jinit.networks.norms import BatchStats
from jinit.runtime import jit_once

RNG = np.random.default_rng(0)


def drawn(net, scheme="he", seed=0, **options):
    return jit_once(lambda k: jinit.init(k, net, scheme, **options))(jax.random.key(seed))


def stirred(net, seed=0):
    """Every leaf away from its starting value, so that each one matters."""
    shapes = jax.eval_shape(lambda k: jinit.init(k, net), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def stir(tree, shift):
        return jax.tree.map(
            lambda s: jnp.asarray(shift + 0.4 * rng.uniform(-1, 1, s.shape), s.dtype), tree
        )

    return stir(shapes[0], 0.0), stir(shapes[1], 1.0)


ALWAYS = ((3, 1, "circular"), (3, 2, "same"), (2, 1, "same"), (5, 3, "valid"))


# --- the product ------------------------------------------------------------------------------


def reference(w, x, window):
    """`lax.conv` on images [batch, h, w, channels], padded beforehand."""
    k = window.kernel
    low = (k - 1) // 2
    if window.padding != "valid":
        mode = "wrap" if window.padding == "circular" else "constant"
        ends = (low, k - 1 - low)
        x = jnp.pad(x, ((0, 0), ends, ends, (0, 0)), mode=mode)
    return jax.lax.conv_general_dilated(
        x, w, (window.stride,) * 2, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(("kernel", "stride", "padding"), [
    pytest.param(*form, padding, marks=[] if (*form, padding) in ALWAYS else pytest.mark.long)
    for form in ((1, 1), (3, 1), (3, 2), (2, 1), (5, 3))
    for padding in ("same", "circular", "valid")
])  # fmt: skip
def test_both_layouts_are_lax_conv_and_so_are_their_gradients(kernel, stride, padding):
    window = Window((5, 6), kernel, stride, padding)
    w = jnp.asarray(RNG.normal(size=(kernel, kernel, 2, 3)), jnp.float32)
    x = jnp.asarray(RNG.normal(size=(4, 5, 6, 2)), jnp.float32)
    expected, back = jax.vjp(lambda w, x: reference(w, x, window), w, x)
    assert expected.shape[1:3] == window.out
    seed = jnp.asarray(RNG.normal(size=expected.shape), jnp.float32)

    def columns(w, x):
        return convolve(w, x.transpose(3, 1, 2, 0), window).transpose(3, 1, 2, 0)

    in_rows = (partial(form, window=window) for form in (convolve_rows, convolve_images))
    for own in (columns, *in_rows):
        found, own_back = jax.vjp(own, w, x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        for a, b in zip(own_back(seed), back(seed), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_same_padding_with_stride_one_is_laxs():
    w, x = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((4, 4, 2, 3), (2, 5, 6, 2)))
    form = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=form)
    found = convolve_rows(w, x, Window((5, 6), 4, 1, "same"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_projection_reads_what_the_kernels_centre_reads():
    w, x = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((2, 3), (4, 7, 6, 2)))
    kernel = jnp.zeros((3, 3, 2, 3)).at[1, 1].set(w)
    for stride in (1, 2, 3):
        expected = convolve_rows(kernel, x, Window((7, 6), 3, stride, "same"))
        np.testing.assert_allclose(project_rows(w, x, stride), expected, rtol=1e-5, atol=1e-6)
        columns = project(w, x.transpose(3, 1, 2, 0), stride).transpose(3, 1, 2, 0)
        np.testing.assert_allclose(columns, expected, rtol=1e-5, atol=1e-6)


# --- the network ------------------------------------------------------------------------------


SHAPED = {
    "image": (6, 6, 2), "channels": (4, 4, 8), "classes": 3, "strides": (1, 1, 2),
    "groups": 2, "activation": "tanh",
}  # fmt: skip
X = jnp.asarray(RNG.normal(size=(5, 6, 6, 2)), jnp.float32)
Y = jnp.asarray([0, 1, 2, 0, 1])
CASES = [
    (None, None, True, "circular"),
    (None, "plain", True, "same"),
    ("batch", None, True, "same"),
    ("batch", "skipinit", True, "circular"),
    ("batch", "plain", False, "same"),
    ("layer", "scaled", True, "same"),
    ("group", None, True, "same"),
]


def test_the_walk_meets_every_norm_and_residual():
    assert {norm for norm, *_ in CASES} == set(IMAGE_NORMS)
    assert {residual for _, residual, *_ in CASES} == set(RESIDUALS)


def by_hand(net, params, state, x, *, train):
    """Layer by layer, with lax.conv and the norms by their definitions."""
    layers, windows = list(params), [run.window for run in net.runs for _ in range(run.length)]
    kinds = [run.kind for run in net.runs for _ in range(run.length)]
    stats = iter(state)
    phi, factor = jnp.tanh, net.branch_scale

    def norm(z, layer):
        if net.norm is None:
            return z
        if net.norm == "batch":
            own = next(stats)
            mean, var = (z.mean((0, 1, 2)), z.var((0, 1, 2))) if train else own
            standard = (z - mean[None, None, None]) / jnp.sqrt(var[None, None, None] + net.eps)
        else:
            count = 1 if net.norm == "layer" else net.groups
            parts = jnp.split(z, count, axis=3)
            standard = jnp.concatenate(
                [
                    (p - p.mean((1, 2, 3), keepdims=True))
                    / jnp.sqrt(p.var((1, 2, 3), keepdims=True) + net.eps)
                    for p in parts
                ],
                axis=3,
            )
        return layer.gamma[None, None, None] * standard + layer.beta[None, None, None]

    h = x
    for layer, window, kind in zip(layers[:-1], windows, kinds, strict=False):
        if kind == "plain":
            h = phi(norm(reference(layer.w, h, window) + layer.b[None, None, None], layer))
            continue
        z = reference(layer.w, phi(norm(h, layer)), window) + layer.b[None, None, None]
        stream = h
        if layer.projection is not None:
            stream = h[:, :: window.stride, :: window.stride] @ layer.projection
        h = stream + factor * (1.0 if layer.alpha is None else layer.alpha) * z
    return h.mean((1, 2)) @ layers[-1].w + layers[-1].b[None]


@pytest.mark.parametrize(("norm", "residual", "train", "padding"), CASES)
def test_outputs_and_signals_are_those_of_plain_jax(norm, residual, train, padding):
    """The forward pass, and the root mean square gradient by every layer's weights."""
    net = jinit.ConvNet(**SHAPED, norm=norm, residual=residual, padding=padding)
    kinds = [run.kind for run in net.runs]
    of_layers = ["plain"] * 3 if residual is None else ["plain", "block", "stage"]
    assert kinds == [*of_layers, "pooled"]
    params, state = stirred(net)

    def loss(params):
        out = by_hand(net, params, state, X, train=train)
        return optax.softmax_cross_entropy_with_integer_labels(out, Y).mean(), out

    @jit_once
    def all_of_it(params, state):
        return (
            jinit.forward(net, params, state, X, train=train)[0],
            jax.grad(loss, has_aux=True)(params),
            jinit.layer_signals(net, params, state, X, Y, train=train),
        )

    found, (gradient, expected), signals = all_of_it(params, state)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    sizes = [0.5 * np.log(np.mean(np.square(layer.w))) for layer in gradient]
    np.testing.assert_allclose(signals.log_weight_grad, sizes, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(("norm", "residual"), [("batch", None), (None, "plain")])
def test_on_one_pixel_it_is_the_mlp(norm, residual):
    """Kernels of one entry: the same parameters, outputs, statistics and signals."""
    dims = (6, 6, 6, 4)
    net = jinit.ConvNet(
        (1, 1, 6), channels=dims[1:-1], classes=4, kernel=1, norm=norm, residual=residual
    )
    mlp = jinit.MLP(dims, norm=norm, residual=residual)
    params, state = stirred(mlp)
    layers = [p._replace(w=p.w[None, None]) for p in params[:-1]]
    x = RNG.normal(size=(7, 6)).astype(np.float32)
    images = x[:, None, None]
    found, after = jinit.forward(net, [*layers, params[-1]], state, images, train=True)
    expected, own_after = jinit.forward(mlp, params, state, x, train=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(own_after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    key = jax.random.key(1)
    signals = jinit.layer_signals(net, [*layers, params[-1]], state, images, key=key)
    for a, b in zip(signals, jinit.layer_signals(mlp, params, state, x, key=key), strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("residual", [None, "scaled"])
def test_scanned_equals_unrolled_and_mapped_equals_looped(residual):
    """Twenty layers are scanned; one after the other they give the same."""
    net = jinit.ConvNet(
        (4, 4, 3),
        channels=(3,) * 20,
        classes=2,
        norm="batch",
        residual=residual,
        padding="circular",
    )
    assert [run.length for run in net.runs] == [20, 1]
    starts = jax.tree.map(lambda *a: jnp.stack(a), *(stirred(net, i) for i in range(2)))
    x = jnp.asarray(RNG.normal(size=(6, 4, 4, 3)), jnp.float32)

    def forward(params, state):
        return jinit.forward(net, params, state, x, train=True)

    mapped, one = jit_once(jax.vmap(forward))(*starts), jit_once(forward)
    for i in range(2):
        params, state = jax.tree.map(lambda a, i=i: a[i], starts)
        alone = one(params, state)
        for a, b in zip(jax.tree.leaves(mapped), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)
    h = x.transpose(3, 1, 2, 0)
    for layer, stats in zip(params, [*state, None], strict=True):
        run = net.runs[0] if stats is not None else net.runs[1]
        h, _ = climb(run.kind, image_steps(run, net.parts, True, layer, stats), h)
    np.testing.assert_allclose(alone[0], h.T, rtol=1e-4, atol=1e-5)


def test_a_thousand_layers_lower_to_the_program_of_twenty():
    def lines(depth):
        net = jinit.ConvNet((4, 4, 2), channels=(2,) * depth, classes=2, norm="batch")

        def step(key, x):
            params, state = jinit.init(key, net)
            return jax.grad(lambda p: jinit.forward(net, p, state, x, train=True)[0].sum())(params)

        lowered = jax.jit(step).lower(jax.random.key(0), jnp.ones((2, 4, 4, 2)))
        return lowered.as_text().count("\n")

    assert lines(1000) <= 1.05 * lines(40)


def test_all_pixels_may_be_read():
    net = jinit.ConvNet((3, 2, 1), channels=(2,), classes=2, pool=None)
    params, state = stirred(net)
    assert params[-1].w.shape == (12, 2)
    x = jnp.asarray(RNG.normal(size=(4, 3, 2, 1)), jnp.float32)
    z = reference(params[0].w, x, net.runs[0].window) + params[0].b[None, None, None]
    expected = jax.nn.relu(z).reshape(4, -1) @ params[-1].w + params[-1].b[None]
    found = jinit.forward(net, params, state, x, train=True)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    signals = jinit.layer_signals(net, params, state, x, key=jax.random.key(0))
    size = 0.5 * np.log(np.mean(np.square(expected)))
    np.testing.assert_allclose(signals.log_pre[-1], size, rtol=1e-4, atol=1e-5)


# --- norms, beside the frameworks -------------------------------------------------------------


@pytest.mark.parametrize("batch_axis", [0, (1, 2, 3)])
def test_norms_are_those_of_flax(batch_axis):
    linen = pytest.importorskip("flax.linen")
    x = jnp.asarray(RNG.normal(1.0, 2.0, size=(3, 4, 5, 6)), jnp.float32)
    own = x if batch_axis == 0 else x.transpose(3, 1, 2, 0)
    gamma, beta = (jnp.asarray(RNG.normal(size=6), jnp.float32) for _ in range(2))
    stats = BatchStats(jnp.zeros(6), jnp.ones(6))
    how = {"train": True, "momentum": 0.9, "eps": 1e-5, "batch_axis": batch_axis}
    theirs = {
        "batch": linen.BatchNorm(use_running_average=False, use_fast_variance=False),
        "layer": linen.GroupNorm(num_groups=1, epsilon=1e-5, use_fast_variance=False),
        "group": linen.GroupNorm(num_groups=3, epsilon=1e-5, use_fast_variance=False),
    }
    for name, module in theirs.items():
        variables = {"params": {"scale": gamma, "bias": beta}}
        if name == "batch":
            variables["batch_stats"] = {"mean": stats.mean, "var": stats.var}
        expected = module.apply(variables, x, mutable=["batch_stats"])[0]
        found = image_norm(name, 3).apply(own, stats, gamma, beta, **how)[0]
        back = found if batch_axis == 0 else found.transpose(3, 1, 2, 0)
        np.testing.assert_allclose(back, expected, rtol=1e-4, atol=1e-5)


def test_norms_are_those_of_torch():
    torch = pytest.importorskip("torch")
    x = RNG.normal(1.0, 2.0, size=(3, 6, 4, 5)).astype(np.float32)  # [batch, channels, h, w]
    ours = jnp.asarray(x.transpose(1, 2, 3, 0))
    stats, one, zero = BatchStats(jnp.zeros(6), jnp.ones(6)), jnp.ones(6), jnp.zeros(6)
    how = {"train": True, "momentum": 0.9, "eps": 1e-5, "batch_axis": (1, 2, 3)}
    theirs = {"batch": torch.nn.BatchNorm2d(6), "group": torch.nn.GroupNorm(3, 6)}
    for name, module in theirs.items():
        expected = module(torch.from_numpy(x)).detach().numpy()
        found, after = image_norm(name, 3).apply(ours, stats, one, zero, **how)
        np.testing.assert_allclose(found.transpose(3, 0, 1, 2), expected, rtol=1e-4, atol=1e-5)
        if name == "batch":
            np.testing.assert_allclose(after.var, module.running_var.numpy(), rtol=1e-5)
            np.testing.assert_allclose(after.mean, module.running_mean.numpy(), rtol=1e-4)


# --- drawing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_every_scheme_draws_every_layer(name):
    """Kernels of their fans: the layers are the scheme's own draws of their shapes."""
    net = jinit.ConvNet(
        (4, 4, 2), channels=(4, 4, 6), classes=4, strides=(1, 1, 2), residual="skipinit"
    )
    params, _ = jinit.init(jax.random.key(0), net, name)
    shapes = [(3, 3, 2, 4), (3, 3, 4, 4), (3, 3, 4, 6), (4, 6), (6, 4)]
    found = [*(layer.w for layer in params[:3]), params[2].projection, params[3].w]
    keys = [(0, 0), (1, 0), (2, 0), (2, 2), (3, 0)]
    places = ["first", "hidden", "hidden", "hidden", "last"]
    for w, shape, (layer, part), place in zip(found, shapes, keys, places, strict=True):
        assert w.shape == shape
        options = {"place": place} if jinit.SCHEMES[name].placed else {}
        own = "orthogonal" if name == "delta_orthogonal" and len(shape) == 2 else name
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), layer), part)
        expected = jinit.scheme(own, **options)(key, shape)
        np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-5)


def test_hes_standard_deviations():
    """Of kernels of 3 x 3: He et al. 2015, section 2.2, and by fan_out where it is asked for."""
    net = jinit.ConvNet((2, 2, 64), channels=(128, 256, 512, 64), classes=2)
    params, _ = jax.jit(lambda k: jinit.init(k, net, "he"))(jax.random.key(0))
    known = (0.058926, 0.041667, 0.029463, 0.020833)
    for layer, std in zip(params, known, strict=False):
        found, n = float(jnp.std(layer.w)), layer.w.size
        assert found == pytest.approx(std, rel=5 / math.sqrt(2 * n) + 1e-5)
    out = {"scale": 2.0, "mode": "fan_out", "distribution": "normal"}
    first = jinit.init(jax.random.key(0), net, "variance_scaling", **out)[0][0].w
    expected = math.sqrt(2 / (9 * 128))
    assert float(jnp.std(first)) == pytest.approx(expected, rel=5 / math.sqrt(2 * first.size))


@pytest.mark.parametrize("padding", ["same", "circular", "valid"])
def test_every_singular_value_of_a_delta_orthogonal_layer_is_its_gain(padding):
    net = jinit.ConvNet((5, 4, 3), channels=(3,), classes=2, padding=padding)
    params, _ = jinit.init(jax.random.key(0), net, "delta_orthogonal", gain=1.5)
    window = net.runs[0].window

    def layer(x):
        return convolve(params[0].w, x, window)

    matrix = jax.jacobian(layer)(jnp.zeros((3, 5, 4, 1)))
    outputs = 3 * math.prod(window.out)
    values = jnp.linalg.svd(matrix.reshape(outputs, -1), compute_uv=False)
    np.testing.assert_allclose(values, np.full(outputs, 1.5), rtol=1e-5)


def test_looks_linear_nets_are_linear():
    net = jinit.ConvNet((4, 4, 2), channels=(6, 8, 4), classes=3, strides=(1, 2, 1))
    params, state = jinit.init(jax.random.key(0), net, "looks_linear")
    a, b = (jnp.asarray(RNG.normal(size=(3, 4, 4, 2)), jnp.float32) for _ in range(2))
    out, _ = jinit.forward(net, params, state, jnp.concatenate([a, b, a + 2 * b]), train=True)
    of_a, of_b, of_both = jnp.split(out, 3)
    np.testing.assert_allclose(of_both, of_a + 2 * of_b, rtol=1e-4, atol=1e-5)
    assert float(jnp.std(of_a)) > 0.01


def test_a_deeper_net_shares_its_first_layers():
    shallow, deep = (
        jinit.ConvNet((4, 4, 1), channels=(2,) * n, classes=2, residual="plain") for n in (2, 5)
    )
    a, b = (jinit.init(jax.random.key(0), net, "he", bias_var=0.1)[0] for net in (shallow, deep))
    for i in range(2):
        np.testing.assert_array_equal(a[i].w, b[i].w)
        np.testing.assert_array_equal(a[i].b, b[i].b)


# --- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [0.01, 1.0, 100.0])
def test_a_thousand_delta_orthogonal_layers_are_a_straight_line(gain):
    """Linear isometries times a gain: e^4600 either way, each logarithm right."""
    net = jinit.ConvNet(
        (3, 3, 4), channels=(4,) * 1000, classes=4, activation="identity", padding="circular"
    )
    params, state = drawn(net, "delta_orthogonal", gain=gain)
    x = jnp.asarray(RNG.normal(size=(2, 3, 3, 4)), jnp.float32)
    signals = jinit.layer_signals(net, params, state, x, key=jax.random.key(0))
    log, layers = math.log(gain), np.arange(1000)
    start = 0.5 * math.log(float(jnp.mean(x * x)))
    # An isometry in float32 is one to a few 1e-7 a layer.
    np.testing.assert_allclose(signals.log_pre[:1000], start + (layers + 1) * log, atol=2e-3)
    backward = signals.log_grad[999] + (999 - layers) * log
    np.testing.assert_allclose(signals.log_grad[:1000], backward, atol=2e-3)


def test_dead_channels_are_those_that_no_pixel_switches_on():
    net = jinit.ConvNet((3, 3, 1), channels=(2,), classes=2)
    params, state = jinit.init(jax.random.key(0), net, "zeros")
    b = jnp.asarray([-1.0, 1.0])
    layers = [params[0]._replace(b=b), params[1]]
    x = jnp.ones((2, 3, 3, 1))
    signals = jinit.layer_signals(net, layers, state, x, key=jax.random.key(0))
    assert signals.dead[0] == 0.5
    # One pixel of one image that is on is enough.
    kernel = jnp.zeros((3, 3, 1, 2)).at[1, 1, 0, 0].set(2.0)
    layers[0] = layers[0]._replace(w=kernel)
    signals = jinit.layer_signals(
        net, layers, state, (x * 0).at[1, 2, 2].set(1.0), key=jax.random.key(0)
    )
    assert signals.dead[0] == 0
    assert signals.saturated[0] == pytest.approx(17 / 36)


def test_correlations_look_at_pixels_too():
    net = jinit.ConvNet((3, 3, 2), channels=(4, 4), classes=2, activation="tanh")
    params, state = stirred(net)
    x, other = (jnp.asarray(RNG.normal(size=(2, 3, 3, 2)), jnp.float32) for _ in range(2))
    found = jinit.correlations(net, params, state, x, other)
    u, v = (reference(params[0].w, a, net.runs[0].window) + params[0].b[None, None, None]
            for a in (x, other))  # fmt: skip
    u, v = u.reshape(2, -1), v.reshape(2, -1)
    expected = (u * v).sum(1) / jnp.sqrt((u * u).sum(1) * (v * v).sum(1))
    np.testing.assert_allclose(found.correlation[:, 0], expected, rtol=1e-5)


# --- training ---------------------------------------------------------------------------------


def test_it_trains_evaluates_records_and_sweeps():
    """Two classes of stripes: down or across."""
    wave = np.sign(np.sin(np.arange(6) * 2.0))
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 64).astype(np.int32)
    clean = np.where(y[:, None, None] == 1, wave[None, :, None], wave[None, None, :])
    x = (clean + 0.3 * rng.normal(size=(64, 6, 6))).astype(np.float32)[..., None]
    net = jinit.ConvNet((6, 6, 1), channels=(4, 4), classes=2, norm="batch")

    def run(key, *, lr):
        params, state = jinit.init(key, net, "he")
        out = jinit.train(
            key, net, params, state, (x, y), optimizer=optax.sgd(lr), steps=40, batch_size=16,
            signals_at=[0, 39],
        )  # fmt: skip
        last = jinit.evaluate(net, out.params, out.state, x, y)
        return {
            "loss": last.loss, "again": out.loss, "first": out.history.loss[0],
            "grad": out.history.signals.log_grad,
        }  # fmt: skip

    found = jinit.sweep(run, traced={"lr": [0.0, 0.1]}, seeds=2, dims={"grad": ("at", "layer")},
                        progress=False)  # fmt: skip
    np.testing.assert_allclose(found.loss, found.again, rtol=1e-5)
    assert found.grad.shape == (2, 2, 2, 3)
    assert np.isfinite(found.grad).all()
    assert (found.loss.sel(lr=0.1) < 0.6 * found.loss.sel(lr=0.0)).all()


# --- bad input --------------------------------------------------------------------------------

WRONG = [
    ({"image": (8, 8)}, r"image must list \(height, width, channels\)"),
    ({"image": (8, 0, 1)}, "every entry of image must be an integer of at least 1, got 0"),
    ({"channels": ()}, "channels must list the channels of every convolution"),
    ({"kernel": (3, 3)}, "kernel must list one for each of the 3 convolutions, got 2"),
    ({"kernel": 5, "padding": "valid"}, "a kernel of 5 at layer 1, whose images are 4 x 4"),
    ({"strides": 4}, "a stride of 4 at layer 1, whose images are 2 x 2"),
    ({"norm": "group", "groups": 3}, "groups must divide .*got 3 groups and 4 channels at layer 0"),
    ({"residual": "plain", "padding": "valid"}, r"from \[6, 6\] to \[4, 4\] at layer 1"),
    ({"padding": "mirror"}, "unknown padding 'mirror'"),
    ({"norm": "bach"}, "unknown norm 'bach'; did you mean 'batch'"),
    ({"pool": "max"}, "unknown pool 'max'"),
    ({"classes": 0}, "classes must be an integer of at least 1"),
    ({"eps": -1.0}, "eps must not be negative"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_what_cannot_be_is_one_sentence(change, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence) as error:
        jinit.ConvNet(**{"image": (8, 8, 1), "channels": (4, 4, 4), "classes": 2} | change)
    assert "\n" not in str(error.value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((2, 64), r"must be images of shape \[batch, 8, 8, 1\].*use x.reshape\(-1, 8, 8, 1\)"),
        ((2, 8, 8), r"got \[2, 8, 8\]; use x\[..., None\]"),
        ((2, 8, 8, 3), r"got \[2, 8, 8, 3\]; reshape x, or change image"),
    ],
)
def test_images_of_another_shape(shape, sentence):
    net = jinit.ConvNet((8, 8, 1), channels=(4,), classes=2)
    params, state = jinit.init(jax.random.key(0), net)
    x = jnp.ones(shape)
    for call in (
        lambda: jinit.forward(net, params, state, x, train=True),
        lambda: jinit.layer_signals(net, params, state, x, key=jax.random.key(0)),
        lambda: jinit.evaluate(net, params, state, x, jnp.zeros(2, jnp.int32)),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


@pytest.mark.bad_input
def test_parameters_of_another_network():
    net, other = (jinit.ConvNet((4, 4, 1), channels=(n, n), classes=2) for n in (2, 3))
    params, state = jinit.init(jax.random.key(0), other)
    x = jnp.ones((2, 4, 4, 1))
    fits = r"another network: this one has channels \[2, 2\] on images \[4, 4, 1\]"
    for given in (params, list(params)):
        with pytest.raises(ValueError, match=fits):
            jinit.forward(net, given, state, x, train=True)


def test_a_description_is_hashable_comparable_and_frozen():
    net = jinit.ConvNet([8, 8, 1], channels=[4, 4], classes=2)
    same = jinit.ConvNet((8, 8, 1), channels=(4, 4), classes=2, kernel=(3, 3))
    assert (net, hash(net)) == (same, hash(same))
    assert net != jinit.ConvNet((8, 8, 1), channels=(4, 4), classes=2, padding="valid")
    assert set(RESIDUALS) == {None, "plain", "scaled", "skipinit"}
    with pytest.raises(AttributeError):
        net.classes = 3
