"""Signals layer by layer against plain automatic differentiation, and where that underflows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, polygamma
from scipy.stats import binom

import jinit
from jinit.activations import activation
from jinit.networks.losses import LOSSES
from jinit.networks.norms import NORMS
from jinit.networks.signals import SATURATION
from jinit.runtime import jit_once

DIMS = (4, 5, 5, 5, 3)
LABELS = np.array([0, 2, 1, 1, 0, 2], np.int32)

# norm, residual, train flag, activation, loss
CASES = [
    (None, None, True, "tanh", "cross_entropy"),
    (None, "plain", True, "relu", "squared_error"),
    ("batch", None, True, "gelu", "cross_entropy"),
    ("batch", None, False, "tanh", "squared_error"),
    ("batch", "skipinit", True, "tanh", "cross_entropy"),
    ("batch", "scaled", False, "relu", "cross_entropy"),
    ("layer", None, True, "relu", "cross_entropy"),
    ("layer", "plain", True, "softplus", "squared_error"),
]


def stirred(net, rng):
    shapes = jax.eval_shape(lambda k: jinit.init(k, net), jax.random.key(0))
    params = jax.tree.map(lambda s: rng.uniform(-0.9, 0.9, s.shape), shapes[0])
    return params, jax.tree.map(lambda s: rng.uniform(0.5, 2.0, s.shape), shapes[1])


def plain_autodiff(net, params, state, x, y, loss, train):
    """The network written out, its gradients by `jax.grad` with a zero added to every z."""
    phi, layers, stats = activation(net.activation), list(params), list(state)
    blocks = sum(net.dims[i] == net.dims[i + 1] for i in range(net.depth - 1))

    def norm(i, z):
        if net.norm is None:
            return z
        axis = 0 if net.norm == "batch" else 1
        mean, var = jnp.mean(z, axis, keepdims=True), jnp.var(z, axis, keepdims=True)
        if net.norm == "batch" and not train:
            mean, var = stats[i].mean[None], stats[i].var[None]
        return layers[i].gamma[None] * (z - mean) / jnp.sqrt(var + net.eps) + layers[i].beta[None]

    def run(weights, zeros):
        h, pre, act, slopes = x, [], [], []
        for i, layer in enumerate(layers):
            z = lambda h, i=i, layer=layer: h @ weights[i] + layer.b[None]  # noqa: E731
            if i == net.depth - 1:
                pre.append(z(h) + zeros[i])
                act.append(pre[-1])
            elif net.residual and net.dims[i] == net.dims[i + 1]:
                a = {"plain": 1.0, "scaled": 1 / math.sqrt(blocks), "skipinit": layer.alpha}
                u = norm(i, h)
                act.append(phi(u))
                pre.append(h + a[net.residual] * z(act[-1]) + zeros[i])
                h = pre[-1]
                slopes.append(u)
            else:
                pre.append(z(h) + zeros[i])
                u = norm(i, pre[-1])
                h = phi(u)
                act.append(h)
                slopes.append(u)
        slopes = [jax.jvp(phi, (u,), (jnp.ones_like(u),))[1] for u in slopes]
        return LOSSES[loss](pre[-1], y), (pre, act, slopes)

    zeros = [jnp.zeros((x.shape[0], n), x.dtype) for n in net.dims[1:]]
    return jax.grad(run, argnums=(0, 1), has_aux=True)([layer.w for layer in layers], zeros)


def log_rms(arrays):
    return [math.log(np.sqrt(np.mean(np.square(a)))) for a in arrays]


@pytest.mark.parametrize(("norm", "residual", "train", "phi", "loss"), CASES)
def test_signals_are_those_of_plain_autodiff(norm, residual, train, phi, loss):
    """In float64; scaling by powers of two rounds nothing, so only the order of sums differs."""
    net = jinit.MLP(DIMS, activation=phi, norm=norm, residual=residual)
    rng = np.random.default_rng(4)
    params, state = stirred(net, rng)
    x = rng.normal(size=(6, 4))
    edges = np.linspace(-1, 1, 5)
    with jax.enable_x64(True):
        as64 = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, "float64"), tree)  # noqa: E731
        got, ((by_weights, by_pre), (pre, act, slopes)) = jit_once(
            lambda p, s, x: (
                jinit.layer_signals(net, p, s, x, LABELS, loss=loss, train=train, bins=edges),
                plain_autodiff(net, p, s, x, jnp.asarray(LABELS), loss, train),
            )
        )(as64(params), as64(state), as64(x))

        got, by_weights, by_pre, pre, act, slopes = jax.tree.map(
            np.asarray, (got, by_weights, by_pre, pre, act, slopes)
        )

        def close(found, expected):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)

        close(got.log_weight_grad, log_rms(by_weights))
        close(got.log_grad, log_rms(by_pre))
        close(got.log_pre, log_rms(pre))
        close(got.log_act, log_rms(act))
        for arrays, mean, std in (
            (pre, got.pre_mean, got.pre_std),
            (act, got.act_mean, got.act_std),
        ):
            close(mean, [np.mean(a) for a in arrays])
            close(std, [np.std(a) for a in arrays])
        for arrays, histogram in ((pre, got.pre_histogram), (act, got.act_histogram)):
            np.testing.assert_array_equal(histogram, [np.histogram(a, edges)[0] for a in arrays])
        close(got.dead[:-1], [np.mean(np.all(s == 0, axis=0)) for s in slopes])
        grid = jnp.linspace(-8.0, 8.0, 1601)
        steepest = float(jnp.max(jnp.abs(jax.vmap(jax.grad(activation(phi)))(grid))))
        close(got.saturated[:-1], [np.mean(np.abs(s) < SATURATION * steepest) for s in slopes])
    assert got.dead[-1] == got.saturated[-1] == 0


# --- where float32 ends ---------------------------------------------------------------------

DEPTH, WIDTH = 1000, 64


def relu_layer_log():
    """Mean and variance of log sqrt((1/n) chi²_{Bin(n, 1/2)}) (Hanin & Rolnick 2018)."""
    k = np.arange(1, WIDTH + 1)
    p = binom.pmf(k, WIDTH, 0.5)
    p /= p.sum()
    log = 0.5 * (digamma(k / 2) + math.log(2) - math.log(WIDTH))
    variance = 0.25 * polygamma(1, k / 2)
    mean = np.sum(p * log)
    return mean, np.sum(p * (variance + (log - mean) ** 2))


def linear_layer_log():
    """The same of log sqrt(chi²_n / n): tanh of 1e-9 is linear."""
    mean = 0.5 * (digamma(WIDTH / 2) + math.log(2) - math.log(WIDTH))
    return mean, 0.25 * polygamma(1, WIDTH / 2)


@pytest.mark.parametrize(("phi", "law"), [("tanh", linear_layer_log), ("relu", relu_layer_log)])
def test_a_thousand_layers_of_small_weights_on_a_straight_line(phi, law):
    """0.01 randn: a gradient of 1e-1100 has a finite logarithm, on the line that theory draws.

    For one sample the logarithm falls by independent steps of known mean and variance v. After L
    steps it has strayed by sqrt(v L); five times that bounds it everywhere.
    """
    net = jinit.MLP((WIDTH,) * (DEPTH + 1) + (10,), activation=phi)

    @jax.jit
    def measure(key):
        params, state = jinit.init(key, net, "normal", scale=0.01)
        x = jax.random.normal(key, (1, WIDTH))
        return jinit.layer_signals(net, params, state, x, key=key)

    got = jax.tree.map(np.asarray, measure(jax.random.key(1)))
    mean, variance = law()
    step = math.log(0.01 * math.sqrt(WIDTH)) + mean
    stray = 5 * math.sqrt(variance * DEPTH)
    layers = np.arange(DEPTH)

    backward = got.log_grad[:-1]
    assert np.isfinite(backward).all()
    assert backward[0] < -2400  # far below the smallest float32, exp(-103)
    line = backward[-1] - (DEPTH - 1 - layers) * -step
    assert np.abs(backward - line).max() < stray
    forward = got.log_pre[:-1]
    assert np.abs(forward - (forward[0] + layers * step)).max() < stray

    # The weight gradient is their product: a line too, of slope zero, at a height of its own.
    weights = got.log_weight_grad[:-1]
    assert np.isfinite(weights).all()
    assert np.abs(weights - weights.mean()).max() < 2 * stray
    for values, expected in ((backward, -step), (forward, step)):
        slope, offset = np.polyfit(layers, values, 1)
        residual = values - (slope * layers + offset)
        assert abs(slope - expected) < 5 * math.sqrt(6 / 5 * variance / DEPTH)
        assert 1 - residual.var() / values.var() > 0.9999
    # Of one sample it is an outer product, whose sizes multiply; logarithms of size 2500 are
    # float32 numbers to 1e-4.
    np.testing.assert_allclose(weights[1:], got.log_act[:-2] + backward[1:], atol=2e-3)


@pytest.mark.parametrize("phi", ["tanh", "relu"])
def test_large_weights_overflow_nothing_either(phi):
    net = jinit.MLP((WIDTH,) * 301 + (10,), activation=phi)

    @jax.jit
    def measure(key):
        params, state = jinit.init(key, net, "normal", scale=10.0)
        x = jax.random.normal(key, (4, WIDTH))
        return jinit.layer_signals(net, params, state, x, np.array([0, 1, 2, 3]))

    got = jax.tree.map(np.asarray, measure(jax.random.key(1)))
    assert np.isfinite(got.log_pre).all()
    if phi == "tanh":
        assert np.mean(got.saturated[:-1]) > 0.9
        return
    mean, variance = relu_layer_log()
    rise = np.diff(got.log_pre[:-1]).mean()
    assert abs(rise - math.log(10 * math.sqrt(WIDTH)) - mean) < 5 * math.sqrt(variance / 299)
    assert np.isinf(got.pre_std[-1])  # the std itself has left float32, and says so
    # The cross-entropy of such outputs still has a gradient, at most (p - y)/batch per entry.
    assert np.isfinite(got.log_grad).all()
    assert got.log_grad[-1] <= math.log(1 / 4)


def test_zero_weights_have_no_gradient_and_say_minus_infinity():
    net = jinit.MLP((4, 4, 4, 2), activation="tanh")
    params = jax.tree.map(
        lambda s: jnp.zeros(s.shape),
        jax.eval_shape(lambda k: jinit.init(k, net)[0], jax.random.key(0)),
    )
    got = jax.jit(
        lambda p: jinit.layer_signals(net, p, None, np.ones((3, 4)), np.array([0, 1, 1]))
    )(params)
    np.testing.assert_array_equal(got.log_grad[:-1], -np.inf)
    np.testing.assert_array_equal(got.log_weight_grad, -np.inf)
    assert np.isfinite(got.log_grad[-1])
    assert not np.any(got.pre_std)


# --- dead and saturated units ---------------------------------------------------------------


def jitted(net, layers, x):
    y = np.zeros(len(x), np.int32)
    return jax.jit(lambda p, x: jinit.layer_signals(net, p, None, x, y))(layers, x)


def test_dead_and_saturated_units_of_a_net_built_by_hand():
    """Four ReLU units: always on, always off, on for half the samples, and off but for one."""
    x = np.array([[1.0], [2.0], [-1.0], [-2.0]], np.float32)
    layers = [
        jinit.Layer(w=jnp.asarray([[0.0, 0.0, 1.0, 1.0]]), b=jnp.asarray([1.0, -1.0, 0.0, -1.5])),
        jinit.Layer(w=jnp.ones((4, 2)), b=jnp.zeros(2)),
    ]
    got = jitted(jinit.MLP((1, 4, 2)), layers, x)
    np.testing.assert_allclose(got.dead, [1 / 4, 0])
    np.testing.assert_allclose(got.saturated, [(0 + 4 + 2 + 3) / 16, 0])


def test_saturated_tanh_units():
    """tanh' falls below 5 % of its top where |u| > artanh(sqrt(0.95)) = 2.178."""
    edge = math.atanh(math.sqrt(1 - SATURATION))
    x = np.array([[0.99 * edge, 1.01 * edge, -1.01 * edge, 0.0]], np.float32)
    layers = [jinit.Layer(w=jnp.eye(4)), jinit.Layer(w=jnp.ones((4, 2)))]
    net = jinit.MLP((4, 4, 2), activation="tanh", bias=False)
    got = jitted(net, layers, x)
    np.testing.assert_allclose(got.saturated[0], 1 / 2)
    assert got.dead[0] == 0


def test_histograms_count_every_entry_within_the_edges():
    net = jinit.MLP((6, 7, 7, 3), activation="tanh")
    edges = np.linspace(-1, 1, 21)
    got = jax.jit(
        lambda k: jinit.layer_signals(
            net, *jinit.init(k, net), jax.random.normal(k, (11, 6)), key=k, bins=edges
        )
    )(jax.random.key(0))
    assert got.act_histogram.shape == got.pre_histogram.shape == (3, 20)
    np.testing.assert_array_equal(got.act_histogram[:2].sum(axis=1), 11 * 7)  # |tanh| < 1
    without = jax.eval_shape(
        lambda k: jinit.layer_signals(net, *jinit.init(k, net), jnp.ones((11, 6)), key=k),
        jax.random.key(0),
    )
    assert without.act_histogram is None


# --- mapped, jitted, scanned ----------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_mapped_equals_looped_and_eager_equals_jitted(norm):
    net = jinit.MLP((4, 6, 6, 3), activation="tanh", norm=norm)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    keys, gains = jax.random.split(jax.random.key(3), 3), jnp.asarray([0.1, 1.0, 5.0])
    start = jax.jit(jax.vmap(lambda k, g: jinit.init(k, net, "xavier", gain=g)))(keys, gains)

    def measure(start):
        return jinit.layer_signals(net, *start, x, LABELS)

    def assert_close(one, other):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    mapped, single = jax.jit(jax.vmap(measure))(start), jax.jit(measure)
    assert mapped.log_grad.shape == (3, 3)
    rows = [jax.tree.map(lambda a, row=row: a[row], start) for row in range(3)]
    for row, alone in enumerate(rows):
        assert_close(jax.tree.map(lambda a, row=row: a[row], mapped), single(alone))
    if norm == "layer":  # op by op is slow
        assert_close(single(rows[1]), measure(rows[1]))


def test_a_thousand_layers_lower_to_the_program_of_ten():
    def lowered(depth):
        net = jinit.MLP((8, *(16,) * depth, 4), norm="batch", activation="tanh")
        shapes = jax.eval_shape(lambda k: jinit.init(k, net), jax.random.key(0))
        x, key = jnp.ones((32, 8)), jax.random.key(0)
        measure = jax.jit(lambda p, s: jinit.layer_signals(net, p, s, x, key=key))
        return len(measure.lower(*shapes).as_text())

    assert lowered(1000) == pytest.approx(lowered(10), rel=0.03)


def test_bfloat16_parameters_are_widened():
    net = jinit.MLP((4, 4, 2), activation="tanh")
    shapes = jax.eval_shape(
        lambda k: jinit.layer_signals(
            net, *jinit.init(k, net, dtype=jnp.bfloat16), jnp.ones((3, 4)), key=k
        ),
        jax.random.key(0),
    )
    assert shapes.log_grad.dtype == jnp.float32


def test_saturated_tanh_units_pass_on_what_they_have_left():
    """At |u| = 20 the slope 1 - tanh² is 4 exp(-40), which float32 would round to zero."""
    layers = [jinit.Layer(w=20 * jnp.eye(2)), jinit.Layer(w=jnp.ones((2, 1)))]
    net = jinit.MLP((2, 2, 1), activation="tanh", bias=False)
    got = jitted(net, layers, jnp.ones((1, 2)))
    np.testing.assert_allclose(got.log_grad[0] - got.log_grad[1], math.log(4) - 40, rtol=1e-5)


def test_the_activation_need_not_vanish_at_zero():
    """Sigmoid of tiny arguments is one half; softplus ln 2: no linear extension may be used."""
    for phi, value in (("sigmoid", 0.5), ("softplus", math.log(2))):
        net = jinit.MLP((4, 4, 4, 2), activation=phi, bias=False)
        layers = [jinit.Layer(w=jnp.full((a, b), 1e-30)) for a, b in ((4, 4), (4, 4), (4, 2))]
        got = jitted(net, layers, jnp.ones((2, 4)))
        np.testing.assert_allclose(got.act_mean[:2], value, rtol=1e-6)


@pytest.mark.parametrize("margin", [1.0, 17.0, 60.0, 110.0, 1e4])
def test_gradient_of_a_sure_net_is_not_rounded_to_zero(margin):
    """softmax - onehot is ±1/(1 + e^margin) in both classes, whatever float32 makes of 1 - p."""
    net = jinit.MLP((2, 2))
    layers = [jinit.Layer(margin * jnp.eye(2), jnp.zeros(2))]
    found = jinit.layer_signals(net, layers, None, jnp.eye(2), jnp.array([0, 1]))
    expected = -np.logaddexp(0, margin) - np.log(2)  # the mean over a batch of two
    np.testing.assert_allclose(found.log_grad, [expected], rtol=1e-6)


@pytest.mark.parametrize("margin", [1.0, 17.0, 200.0])
def test_gradient_of_a_sure_binary_net_is_not_rounded_to_zero(margin):
    net = jinit.MLP((2, 1))
    layers = [jinit.Layer(margin * jnp.array([[1.0], [-1.0]]), jnp.zeros(1))]
    found = jinit.layer_signals(net, layers, None, jnp.eye(2), jnp.array([1, 0]))
    np.testing.assert_allclose(found.log_grad, [-np.logaddexp(0, margin) - np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("eps", [1e-5, 1e-24, 1e-30])
def test_norm_of_tiny_signals_keeps_its_eps(eps):
    """Weights of 1e-14 give a variance near 1e-27, which eps may drown or not."""
    net = jinit.MLP((8, 8, 3), activation="identity", norm="batch", eps=eps)
    key = jax.random.key(3)
    params, state = jinit.init(key, net, "normal", scale=1e-14)
    x = jax.random.normal(key, (16, 8))
    found = jinit.layer_signals(net, params, state, x, key=key)
    z = np.asarray(x, np.float64) @ np.asarray(params[0].w, np.float64)
    u = (z - z.mean(0)) / np.sqrt(z.var(0) + eps)
    expected = 0.5 * np.log(np.mean(u**2))
    np.testing.assert_allclose(found.log_act[0], expected, rtol=1e-4)
