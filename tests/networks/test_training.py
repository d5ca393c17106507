"""Training as one traced program: what it computes, what it shares, and how often it is traced."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jinit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int32) + (X[:, 2] > 0.5).astype(np.int32)
DATA = jinit.Data(X[:16], Y[:16], X[16:], Y[16:])
NET = jinit.MLP((4, 6, 6, 3), activation="tanh")


def run(key, gain, lr, *, net=NET, data=DATA, **options):
    """One run of the design's example: everything numerical is traced."""
    init_key, train_key = jax.random.split(key)
    params, state = jinit.init(init_key, net, "xavier", gain=gain)
    options = {"optimizer": optax.sgd(lr), "steps": 12, "batch_size": 8} | options
    return jinit.train(train_key, net, params, state, data, **options)


@pytest.fixture(scope="module")
def grid():
    """2 gains x 2 learning rates x 2 seeds in one program, with its inputs."""
    keys = jax.random.split(jax.random.key(0), 2)
    gains, lrs = jnp.asarray([0.5, 2.0]), jnp.asarray([0.01, 0.3])
    over_seeds = jax.vmap(run, (0, None, None))
    over_rates = jax.vmap(over_seeds, (None, None, 0))
    return keys, gains, lrs, jax.jit(jax.vmap(over_rates, (None, 0, None)))(keys, gains, lrs)


@pytest.fixture(scope="module")
def single():
    return jax.jit(run)


def assert_close(one, other, rtol=1e-4, atol=1e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# --- tracing --------------------------------------------------------------------------------


def test_a_grid_over_gain_rate_and_seed_traces_the_training_program_once():
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(run, n=1)
    grid = jax.vmap(jax.vmap(counted, (0, None, 0)), (0, 0, None))
    program = jax.jit(lambda keys, gains, lrs: grid(keys, gains, lrs).loss)
    for shift in (0, 1):  # other values of the same shapes take the same program
        keys = jax.random.split(jax.random.key(shift), (3, 2))
        losses = program(keys, jnp.asarray([0.5, 1.0, 2.0]) + shift, jnp.asarray([0.1, 0.2]))
        assert losses.shape == (3, 2)
    assert program._cache_size() == 1


def test_a_body_is_traced_as_often_for_a_thousand_steps_as_for_ten():
    def traces(steps):
        calls = []

        def phi(x):
            calls.append(None)
            return jnp.tanh(x)

        net = jinit.MLP((4, 6, 6, 3), activation=phi)
        jax.eval_shape(lambda k: run(k, 1.0, 0.1, net=net, steps=steps), jax.random.key(0))
        return len(calls)

    assert traces(1000) == traces(10)


def test_a_thousand_layers_lower_to_the_program_of_thirty():
    def lowered(depth):
        net = jinit.MLP((4, *(6,) * depth, 3), norm="batch")
        params, state = jax.eval_shape(lambda k: jinit.init(k, net), jax.random.key(0))
        train = jax.jit(
            lambda k, p, s: jinit.train(k, net, p, s, DATA, optimizer=optax.adam(0.1), steps=5)
        )
        return len(train.lower(jax.random.key(0), params, state).as_text())

    assert lowered(1000) == pytest.approx(lowered(30), rel=0.03)


# --- rows of a batch of runs ----------------------------------------------------------------


def test_a_single_run_equals_its_row_in_a_mapped_batch(grid, single):
    keys, gains, lrs, mapped = grid
    assert mapped.loss.shape == (2, 2, 2)
    assert mapped.history.loss.shape == (2, 2, 2, 12)
    for index in np.ndindex(2, 2, 2):
        alone = single(keys[index[2]], gains[index[0]], lrs[index[1]])
        assert_close(jax.tree.map(lambda a, i=index: a[i], mapped), alone)


def test_a_diverging_run_changes_no_other(single):
    """Its neighbours in the batch end bit for bit where they end without it."""
    keys = jax.random.split(jax.random.key(4), 3)
    net = jinit.MLP((4, 6, 6, 3), activation="relu")
    mapped = jax.jit(
        jax.vmap(lambda k, lr: run(k, 1.0, lr, net=net, data=(X, X[:, :3]), loss="squared_error"))
    )
    healthy = mapped(keys, jnp.asarray([0.01, 0.01, 0.01]))
    mixed = mapped(keys, jnp.asarray([0.01, 1e8, 0.01]))
    assert not np.isfinite(mixed.loss[1])
    assert np.isfinite(healthy.loss).all()
    for a, b in zip(jax.tree.leaves(healthy), jax.tree.leaves(mixed), strict=True):
        np.testing.assert_array_equal(np.asarray(a)[[0, 2]], np.asarray(b)[[0, 2]])
    assert np.isfinite(mixed.history.loss[1, 0])  # its first loss was a number still


# --- minibatches ----------------------------------------------------------------------------


def marked(batch_size, steps, seed=0):
    """Sums of 2^(id of a sample) over each step's batch: which samples were in it."""
    samples = 10
    data = (np.zeros((samples, 1), np.float32), np.arange(samples))
    net = jinit.MLP((1, samples))
    params, state = jinit.init(jax.random.key(0), net, "zeros")
    result = jax.jit(
        lambda k: jinit.train(
            k, net, params, state, data, optimizer=optax.sgd(0.0), steps=steps,
            batch_size=batch_size, loss=lambda out, y: jnp.sum(2.0**y.astype(jnp.float32)),
        )
    )(jax.random.key(seed))  # fmt: skip
    sums = np.asarray(result.history.loss).astype(int)
    return [[i for i in range(samples) if total >> i & 1] for total in sums]


def test_minibatches_are_a_fresh_permutation_every_epoch():
    batches = marked(batch_size=2, steps=20)
    assert all(len(batch) == 2 for batch in batches)
    epochs = [batches[i : i + 5] for i in range(0, 20, 5)]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(10))
    assert len({str(epoch) for epoch in epochs}) == 4
    assert marked(batch_size=2, steps=20, seed=1) != batches


def test_samples_that_fill_no_batch_wait_for_the_next_epoch():
    batches = marked(batch_size=4, steps=40)
    left_out = set()
    for i in range(0, 40, 2):
        seen = batches[i] + batches[i + 1]
        assert len(seen) == len(set(seen)) == 8
        left_out |= set(range(10)) - set(seen)
    assert left_out == set(range(10))  # twenty epochs leave out every sample at times


def test_without_a_batch_size_every_step_sees_all_samples():
    assert marked(batch_size=None, steps=3) == [list(range(10))] * 3


# --- against a loop by hand -----------------------------------------------------------------


def by_hand(params, x, y, lr, steps, momentum=0.0):
    """Full-batch gradient descent on a tanh net with cross-entropy, in NumPy float64."""
    w = [np.asarray(layer.w, np.float64) for layer in params]
    b = [np.asarray(layer.b, np.float64) for layer in params]
    moving = [np.zeros_like(a) for a in (*w, *b)]
    losses = []

    def probabilities():
        hs = [x.astype(np.float64)]
        for i in range(len(w)):
            z = hs[-1] @ w[i] + b[i]
            hs.append(np.tanh(z) if i < len(w) - 1 else z)
        e = np.exp(hs[-1] - hs[-1].max(1, keepdims=True))
        return hs, e / e.sum(1, keepdims=True)

    for _ in range(steps):
        hs, p = probabilities()
        losses.append(-np.log(p[np.arange(len(y)), y]).mean())
        g = (p - np.eye(p.shape[1])[y]) / len(y)
        gw, gb = [], []
        for i in reversed(range(len(w))):
            gw.insert(0, hs[i].T @ g)
            gb.insert(0, g.sum(0))
            g = (g @ w[i].T) * (1 - hs[i] ** 2)
        for j, step in enumerate((*gw, *gb)):
            moving[j] = momentum * moving[j] + step
        w = [a - lr * m for a, m in zip(w, moving[: len(w)], strict=True)]
        b = [a - lr * m for a, m in zip(b, moving[len(w) :], strict=True)]
    _, p = probabilities()
    final = -np.log(p[np.arange(len(y)), y]).mean()
    return w, b, losses, final, np.mean(p.argmax(1) == y)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradient_descent_equals_a_loop_by_hand(momentum):
    net = jinit.MLP((4, 5, 5, 3), activation="tanh")
    params, state = jax.jit(lambda k: jinit.init(k, net, "he", bias_var=0.1))(jax.random.key(1))
    w, b, losses, final, accuracy = by_hand(params, X, Y, 0.2, 30, momentum)
    got = jax.jit(
        lambda k: jinit.train(
            k, net, params, state, (X, Y), optimizer=optax.sgd(0.2, momentum=momentum), steps=30
        )
    )(jax.random.key(0))
    np.testing.assert_allclose(got.history.loss, losses, rtol=1e-4)
    np.testing.assert_allclose(got.loss, final, rtol=1e-4)
    assert got.accuracy == pytest.approx(accuracy)
    for layer, expected_w, expected_b in zip(got.params, w, b, strict=True):
        np.testing.assert_allclose(layer.w, expected_w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.b, expected_b, rtol=1e-4, atol=1e-5)
    assert losses[-1] < 0.5 * losses[0]


def test_train_is_train_step_in_a_loop():
    """With batch norm, whose state is carried along and used for the final numbers.

    Without biases: before batch norm their gradients are rounding, which Adam would blow up.
    """
    net = jinit.MLP((4, 6, 3), norm="batch", bias=False)
    optimizer = optax.adam(0.05)
    params, state = jax.jit(lambda k: jinit.init(k, net, "he"))(jax.random.key(2))
    step = jax.jit(jinit.train_step(net, optimizer))
    now, losses = jinit.train_state(params, state, optimizer), []
    for _ in range(8):
        now, metrics = step(now, (DATA.x_train, DATA.y_train))
        losses.append(metrics.loss)
    got = jax.jit(lambda k: jinit.train(k, net, params, state, DATA, optimizer=optimizer, steps=8))(
        jax.random.key(0)
    )
    np.testing.assert_allclose(got.history.loss, losses, rtol=1e-4)
    assert_close((got.params, got.state), (now.params, now.state))
    final = jinit.evaluate(net, now.params, now.state, DATA.x_test, DATA.y_test)
    assert_close((got.loss, got.accuracy), tuple(final))
    assert not np.array_equal(got.state[0].mean, state[0].mean)


def test_no_steps_at_all_leave_the_network_as_it_was():
    params, state = jax.jit(lambda k: jinit.init(k, NET))(jax.random.key(2))
    got = jinit.train(
        jax.random.key(0), NET, params, state, DATA, optimizer=optax.sgd(0.1), steps=0
    )
    assert_close(got.params, params, rtol=0, atol=0)
    assert got.history.loss.shape == (0,)


def test_final_numbers_are_of_the_test_half_or_of_the_pair(single):
    params, state = jax.jit(lambda k: jinit.init(k, NET))(jax.random.key(2))
    options = {"optimizer": optax.sgd(0.1), "steps": 3}
    on_data = jinit.train(jax.random.key(0), NET, params, state, DATA, **options)
    on_pair = jinit.train(jax.random.key(0), NET, params, state, DATA[:2], **options)
    assert_close(on_data.params, on_pair.params, rtol=0, atol=0)
    for result, x, y in ((on_data, *DATA[2:]), (on_pair, *DATA[:2])):
        expected = jinit.evaluate(NET, result.params, result.state, x, y)
        assert_close((result.loss, result.accuracy), tuple(expected))
    assert on_data.loss != on_pair.loss


# --- optimisers -----------------------------------------------------------------------------

OPTIMISERS = {
    "adam": lambda lr: optax.adam(lr),
    "adamw": lambda lr: optax.adamw(lr),
    "lamb": lambda lr: optax.lamb(lr),
    "lion": lambda lr: optax.lion(lr),
    "rmsprop": lambda lr: optax.rmsprop(lr),
    "nesterov, clipped, on a schedule": lambda lr: optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.sgd(lambda count: lr * 0.99**count, momentum=0.9, nesterov=True),
    ),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_any_optax_optimiser_learns_under_strict_promotion(name):
    """With its learning rate traced, as in a sweep."""
    got = jax.jit(
        lambda k, lr: run(
            k, 1.0, lr, optimizer=OPTIMISERS[name](lr), steps=60, batch_size=None, data=(X, Y)
        )
    )(jax.random.key(0), jnp.float32(0.02))
    assert np.isfinite(jax.tree.leaves(got.params)[0]).all()
    assert got.loss < 0.8 * got.history.loss[0]


@pytest.mark.parametrize(
    ("loss", "width", "y"),
    [("binary_cross_entropy", 1, (Y > 0).astype(int)), ("squared_error", 3, Y)],
)
def test_the_other_losses_train(loss, width, y):
    net = jinit.MLP((4, 6, width), activation="tanh")
    got = jax.jit(
        lambda k: run(k, 1.0, 0.1, net=net, data=(X, y), loss=loss, steps=100, batch_size=None)
    )(jax.random.key(0))
    assert got.loss < 0.8 * got.history.loss[0]
    assert 0.5 < got.accuracy <= 1


def test_regression_has_no_accuracy():
    targets = X[:, :3] * 2
    got = jax.jit(lambda k: run(k, 1.0, 0.1, data=(X, targets), steps=60, batch_size=None))(
        jax.random.key(0)
    )
    assert np.isnan(got.accuracy)
    assert got.loss < 0.5 * got.history.loss[0]


# --- signals on the way ---------------------------------------------------------------------


def test_signals_at_chosen_steps_are_those_of_the_network_at_that_step():
    net = jinit.MLP((4, 6, 6, 3), activation="tanh", norm="batch")
    params, state = jax.jit(lambda k: jinit.init(k, net, "he"))(jax.random.key(2))

    @jax.jit
    def both(key):
        options = {"optimizer": optax.sgd(0.3)}
        whole = jinit.train(key, net, params, state, (X, Y), steps=6, signals_at=[4, 0], **options)
        return whole, jinit.train(key, net, params, state, (X, Y), steps=4, **options)

    whole, part = both(jax.random.key(0))
    measure = jax.jit(lambda p, s: jinit.layer_signals(net, p, s, X, Y))
    expected = measure(part.params, part.state), measure(params, state)
    signals = whole.history.signals
    assert signals.log_grad.shape == (2, 3)
    for slot in (0, 1):  # in the order asked for
        assert_close(jax.tree.map(lambda a, s=slot: a[s], signals), expected[slot], rtol=1e-3)
    assert not np.allclose(signals.log_grad[0], signals.log_grad[1])


# --- eager ----------------------------------------------------------------------------------


def test_jitted_equals_eager_on_the_hot_paths():
    """jaxlib 0.10.2 has miscompiled fused loops on CPU; op by op there is nothing to fuse."""
    net = jinit.MLP((4, 6, 6, 3), activation="gelu", norm="batch", residual="plain")
    params, state = jax.jit(lambda k: jinit.init(k, net, "he"))(jax.random.key(2))

    def hot(params):
        def objective(params):
            out, _ = jinit.forward(net, params, state, X, train=True)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, Y))

        trained = jinit.train(
            jax.random.key(0), net, params, state, (X, Y), optimizer=optax.sgd(0.1), steps=3
        )
        return jax.value_and_grad(objective)(params), trained

    jitted = jax.jit(hot)(params)
    with jax.disable_jit():
        eager = hot(params)
    assert_close(jitted, eager)


@pytest.mark.parametrize(
    "optimizer", [optax.lbfgs(), optax.polyak_sgd(1.0)], ids=["lbfgs", "polyak"]
)
def test_optimizers_that_ask_for_the_loss(optimizer):
    net = jinit.MLP((2, 8, 2))
    params, state = jinit.init(jax.random.key(0), net, "he")
    data = jinit.data.moons(60)
    run = jax.jit(
        lambda: jinit.train(
            jax.random.key(1), net, params, state, data, optimizer=optimizer, steps=10
        )
    )()
    assert float(run.history.loss[-1]) < 0.8 * float(run.history.loss[0])


@pytest.mark.bad_input
def test_labels_that_are_not_one_per_sample_are_refused():
    net = jinit.MLP((2, 8, 2))
    params, state = jinit.init(jax.random.key(0), net, "he")
    x, y = np.zeros((4, 2), np.float32), np.eye(2, dtype=np.int32)[[0, 1, 0, 1]]
    with pytest.raises(ValueError, match=r"labels y must have shape \[4\], got \[4, 2\].*argmax"):
        jinit.evaluate(net, params, state, x, y)
    with pytest.raises(ValueError, match=r"cross_entropy needs integer labels.*argmax"):
        jinit.evaluate(net, params, state, x, y.astype(np.float32), loss="cross_entropy")
    with pytest.raises(TypeError, match=r"y must be an array of real numbers.*0, 1, 2"):
        jinit.evaluate(net, params, state, x, list("abab"))
    column = jinit.evaluate(net, params, state, x, y.argmax(1)[:, None])
    np.testing.assert_array_equal(column, jinit.evaluate(net, params, state, x, y.argmax(1)))
