"""Networks of one's own: `jinit.train` beside loops written by hand in four frameworks."""

import chex
import equinox
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jinit

RNG = np.random.default_rng(3)
X = RNG.normal(size=(24, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32) + (X[:, 1] > 0).astype(np.int32)
DATA = jinit.Data(X[:16], Y[:16], X[16:], Y[16:])
KEY = jax.random.key(5)
ADAM = optax.adam(0.02)


def assert_close(one, other, rtol=1e-4, atol=1e-5):
    chex.assert_trees_all_equal_structs(one, other)
    chex.assert_trees_all_close(one, other, rtol=rtol, atol=atol)


def size(params):
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))


# --- one network in each framework, as (init, apply) ------------------------------------------


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(8, use_bias=False)(x))
        x = linen.Dropout(0.3, deterministic=not train)(linen.tanh(x))
        return linen.Dense(3)(x)


def linen_network():
    model = Linen()

    def init(key):
        variables = model.init(key, X[:1], train=False)
        return variables["params"], variables["batch_stats"]

    def apply(params, state, x, *, train, key=None):
        out, new = model.apply(
            {"params": params, "batch_stats": state}, x, train=train, mutable=["batch_stats"],
            rngs={"dropout": key} if train else {},
        )  # fmt: skip
        return out, new["batch_stats"]

    return init, apply


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.one = nnx.Linear(4, 8, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.two = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.two(nnx.tanh(self.norm(self.one(x))))


def nnx_network():
    graph, *_ = nnx.split(Nnx(nnx.Rngs(0)), nnx.Param, ...)

    def init(key):
        return nnx.split(Nnx(nnx.Rngs(params=key)), nnx.Param, ...)[1:]

    def apply(params, state, x, *, train, key=None):
        model = nnx.merge(graph, params, state, copy=True)
        model.train() if train else model.eval()
        return model(x), nnx.split(model, nnx.Param, ...)[2]

    return init, apply


def equinox_network():
    def make(key):
        return equinox.nn.MLP(4, 3, 8, 1, activation=jnp.tanh, key=key)

    static = equinox.partition(make(KEY), equinox.is_inexact_array)[1]

    def init(key):
        return equinox.filter(make(key), equinox.is_inexact_array), {}

    def apply(params, state, x, *, train, key=None):
        return jax.vmap(equinox.combine(params, static))(x), state

    return init, apply


def dict_network():
    """Of inputs in two arrays, one of tokens; outputs at every time."""

    def init(key):
        embed, out = jax.random.split(key)
        return {
            "embed": jax.random.normal(embed, (5, 6)), "out": jax.random.normal(out, (6, 5))
        }, {"calls": 0}  # fmt: skip

    def apply(params, state, x, *, train, key=None):
        hidden = jnp.tanh(params["embed"][x["tokens"]] + x["shift"][:, None, None])
        return hidden @ params["out"], {"calls": state["calls"] + int(train)}

    return init, apply


TOKENS = RNG.integers(0, 5, (24, 7))
SEQUENCES = ({"tokens": TOKENS, "shift": X[:, 0]}, (TOKENS + 1) % 5)
NETWORKS = {
    "linen": (linen_network, DATA[:2]),
    "nnx": (nnx_network, DATA[:2]),
    "equinox": (equinox_network, DATA[:2]),
    "dict": (dict_network, SEQUENCES),
}


def by_hand(init, apply, x, y, optimizer, steps):
    """A full-batch loop with nothing of jinit in it; losses, and the state after it."""
    x, y = jax.tree.map(jnp.asarray, (x, y))
    params, state = jax.tree.map(jnp.asarray, init(KEY))

    def loss(params, state, key):
        out, state = apply(params, state, x, train=True, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean(), state

    noise = jax.random.fold_in(KEY, np.uint32(2**32 - 1))

    @jax.jit
    def step(params, state, opt_state, i):
        key = jax.random.fold_in(noise, i)
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state, key)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), state, opt_state, value

    opt_state, losses = optimizer.init(params), []
    for i in range(steps):
        params, state, opt_state, value = step(params, state, opt_state, i)
        losses.append(value)
    return params, state, opt_state, jnp.stack(losses)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_equals_a_loop_by_hand(name):
    make, (x, y) = NETWORKS[name]
    init, apply = make()
    expected = by_hand(init, apply, x, y, ADAM, 6)
    net = jinit.Network(init, apply)
    got = jax.jit(
        lambda key: jinit.train(key, net, *net.init(KEY), (x, y), optimizer=ADAM, steps=6)
    )(KEY)
    assert_close((got.params, got.state, got.opt_state, got.history.loss), expected)
    out, _ = apply(got.params, got.state, jax.tree.map(jnp.asarray, x), train=False)
    assert got.accuracy == pytest.approx((np.asarray(out).argmax(-1) == y).mean())
    assert_close((got.loss, got.accuracy), tuple(jinit.evaluate(net, *got[:2], x, y)))
    assert got.loss < expected[-1][0]


def test_a_network_that_is_the_mlp_trains_like_it():
    mlp = jinit.MLP((4, 6, 3), activation="tanh", norm="batch", bias=False)
    net = jinit.Network(
        lambda key: jinit.init(key, mlp, "he"),
        lambda params, state, x, *, train, key=None: jinit.forward(
            mlp, params, state, x, train=train
        ),
    )
    start = jax.jit(net.init)(KEY)
    one, other = (
        jinit.train(KEY, n, *start, DATA, optimizer=ADAM, steps=8, batch_size=8, eval_every=4)
        for n in (mlp, net)
    )
    assert_close(one, other)


def test_float_targets_are_of_the_outputs_shape_and_have_no_accuracy():
    def apply(params, state, x, *, train, key=None):
        return x @ params, state

    net = jinit.Network(lambda key: (jnp.zeros((4,)), ()), apply)
    target = X @ np.array([1.0, -2.0, 0.5, 0.0], np.float32)  # outputs [batch]
    got = jinit.train(KEY, net, *net.init(KEY), (X, target), optimizer=optax.sgd(0.3), steps=80)
    assert got.history.loss[0] == pytest.approx(np.mean(target**2) / 2, rel=1e-5)
    assert got.loss < 1e-3
    assert np.isnan(got.accuracy)


def test_a_loss_is_a_function_of_outputs_and_targets():
    init, apply = dict_network()
    net = jinit.Network(init, apply)

    def last_token(outputs, targets):
        chex.assert_shape([outputs, targets], [(24, 7, 5), (24, 7)])
        return optax.softmax_cross_entropy_with_integer_labels(
            outputs[:, -1], targets[:, -1]
        ).mean()

    options = {"optimizer": ADAM, "steps": 2, "loss": last_token}
    got = jinit.train(KEY, net, *net.init(KEY), SEQUENCES, **options)
    x, y = jax.tree.map(jnp.asarray, SEQUENCES)
    expected = last_token(apply(net.init(KEY)[0], {"calls": 0}, x, train=True)[0], y)
    assert got.history.loss[0] == pytest.approx(float(expected), rel=1e-5)


# --- maps, records and continued runs ---------------------------------------------------------


def run(key, lr, net, **options):
    options = {"steps": 12, "batch_size": 4, "optimizer": optax.adam(lr)} | options
    params, state = net.init(key)
    return jinit.train(key, net, params, state, DATA, **options)


def norms(params, state, batch):
    return {"norm": size(params), "first": batch[1][0]}


RECORDED = {"eval_every": 5, "record": norms, "record_at": [11, 0, 3]}


def test_mapped_equals_one_by_one_in_one_trace_with_records_and_dropout():
    net = jinit.Network(*linen_network())
    keys, lrs = jax.random.split(KEY, 2), jnp.asarray([0.01, 0.1])
    counted = chex.assert_max_traces(run, n=1)
    mapped = jax.jit(
        jax.vmap(
            jax.vmap(lambda k, lr: counted(k, lr, net, **RECORDED), (None, 0)), (0, None)
        )
    )(keys, lrs)  # fmt: skip
    assert mapped.history.test.loss.shape == (2, 2, 3)
    assert mapped.history.record["norm"].shape == (2, 2, 3)
    one = jax.jit(lambda k, lr: run(k, lr, net, **RECORDED))
    for i, j in np.ndindex(2, 2):
        row = jax.tree.map(lambda a, at=(i, j): a[at], mapped)
        assert_close(row, one(keys[i], lrs[j]), rtol=1e-3, atol=1e-4)


def test_under_vmap_only_chosen_steps_are_recorded():
    """A predicate that is mapped turns a cond into a select of both sides, done at every step."""
    net = jinit.Network(*equinox_network())

    def conds(**options):
        mapped = jax.vmap(lambda k: run(k, 0.1, net, **options))
        return str(jax.make_jaxpr(mapped)(jax.random.split(KEY, 2))).count(" cond[")

    assert conds(**RECORDED) == conds() + 2


def test_records_and_evaluations_are_of_the_network_before_the_step():
    net = jinit.Network(*linen_network())
    record_at, evaluated_at = [10, 0, 3], (0, 5, 10)
    whole = run(KEY, 0.05, net, **RECORDED | {"record_at": record_at})
    # Every length of a run is a program of its own.
    parts = {n: run(KEY, 0.05, net, steps=n) for n in {*record_at, *evaluated_at}}
    for slot, steps in enumerate(record_at):
        found = whole.history.record["norm"][slot]
        np.testing.assert_allclose(found, size(parts[steps].params), rtol=1e-5)
    for slot, steps in enumerate(evaluated_at):
        part = parts[steps]
        assert_close(jax.tree.map(lambda a, s=slot: a[s], whole.history.test), jinit.evaluate(
            net, part.params, part.state, DATA.x_test, DATA.y_test
        ))  # fmt: skip


MLP = jinit.MLP((4, 6, 6, 3), activation="tanh", norm="batch", bias=False)
MLP_NETWORK = jinit.Network(
    lambda key: jinit.init(key, MLP, "he"),
    lambda params, state, x, *, train, key=None: jinit.forward(MLP, params, state, x, train=train),
)


# All of the data, a divisor of it and none; a network of one's own, with dropout, in the hardest.
@pytest.mark.parametrize(
    ("kind", "batch_size"), [("mlp", None), ("mlp", 4), ("mlp", 6), ("linen", 6)]
)
def test_a_run_in_two_parts_is_the_run_in_one(kind, batch_size):
    """Bit for bit: momenta, batch norm, dropout, and the permutation that the first part began."""
    net = MLP if kind == "mlp" else jinit.Network(*linen_network())
    start = jax.jit(lambda k: MLP_NETWORK.init(k) if kind == "mlp" else net.init(k))(KEY)
    calls = []

    def count(params, state, batch):
        calls.append(None)
        return size(params)

    def part(params, state, opt_state=None, *, steps, first_step=0):
        return jinit.train(
            KEY, net, params, state, DATA, optimizer=ADAM, steps=steps, batch_size=batch_size,
            opt_state=opt_state, first_step=first_step, eval_every=3, record=count, record_at=2,
        )  # fmt: skip

    whole = part(*start, steps=15)
    one = part(*start, steps=7)
    two = part(one.params, one.state, one.opt_state, steps=8, first_step=7)
    assert_close(two._replace(history=None), whole._replace(history=None), rtol=0, atol=0)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), one.history, two.history)
    assert_close(joined, whole.history, rtol=0, atol=0)
    assert whole.history.record.shape == (8,)  # steps 0, 2, ..., 14
    assert whole.history.test.loss.shape == (5,)
    assert len(calls) < 10  # traced, never called for a step


def test_signals_at_is_a_record_of_layer_signals():
    params, state = jax.jit(MLP_NETWORK.init)(KEY)
    got = jinit.train(
        KEY, MLP, params, state, DATA, optimizer=ADAM, steps=6, signals_at=[0, 5],
        record=lambda params, state, batch: jinit.layer_signals(MLP, params, state, *batch),
        record_at=5,
    )  # fmt: skip
    assert_close(got.history.signals, got.history.record, rtol=0, atol=0)


def test_a_body_with_records_is_traced_as_often_for_a_thousand_steps_as_for_ten():
    def traces(steps):
        calls = []

        def apply(params, state, x, *, train, key=None):
            calls.append(None)
            return x @ params, state

        net = jinit.Network(lambda key: (jnp.zeros((4, 3)), {}), apply)
        jax.eval_shape(lambda k: run(k, 0.1, net, steps=steps, eval_every=5), KEY)
        return len(calls)

    assert traces(1000) == traces(10)


# --- bad input --------------------------------------------------------------------------------


def linear(params, state, x, *, train, key=None):
    return x @ params, state


def fails(kind, sentence, call):
    with pytest.raises(kind, match=sentence):
        call()


@pytest.mark.bad_input
def test_bad_functions_are_one_sentence():
    init = lambda key: (jnp.zeros((4, 3)), {})  # noqa: E731
    fails(TypeError, r"needs init\(key\) -> \(params, state\), got 3",
          lambda: jinit.Network(3, linear))  # fmt: skip
    fails(TypeError, r"needs apply\(.*key=None\) -> \(outputs, state\), got None",
          lambda: jinit.Network(init, None))  # fmt: skip
    fails(TypeError, r"init\(key\) -> \(params, state\), got dict instead of a pair.*\{\} for it",
          lambda: jinit.Network(lambda key: {}, linear).init(KEY))  # fmt: skip

    def trains(apply, params=None, **options):
        net = jinit.Network(init, apply)
        options = {"optimizer": ADAM, "steps": 2} | options
        start = (jnp.zeros((4, 3)) if params is None else params, {})
        return lambda: jinit.train(KEY, net, *start, DATA, **options)

    def alone(params, state, x, *, train, key=None):
        return x @ params

    def summed(params, state, x, *, train, key=None):
        return jnp.sum(x @ params), state

    fails(TypeError, r"apply\(.*-> \(outputs, state\), got .* instead of a pair", trains(alone))
    fails(ValueError, r"outputs \[batch, ...\] for a batch of 16, got \[\]", trains(summed))
    fails(TypeError, r"floating-point arrays only, got .*params\['b'\].*keep in state",
          trains(linear, params={"a": jnp.ones(3), "b": jnp.arange(3)}))  # fmt: skip
    fails(TypeError, r"signals_at looks into the layers of a jinit.MLP.*record=",
          trains(linear, signals_at=[0]))  # fmt: skip
    fails(TypeError, "record is a function.*record_at=None", trains(linear, record=norms))
    fails(TypeError, "record is a function.*got record=3", trains(linear, record=3, record_at=1))
    fails(ValueError, r"record_at must list different steps from 0 to 1, got \[2\]",
          trains(linear, record=norms, record_at=[2]))  # fmt: skip
    fails(ValueError, "eval_every must be an integer of at least 1", trains(linear, eval_every=0))
    fails(ValueError, "first_step must be an integer", trains(linear, first_step=-1))
    fails(ValueError, "opt_state must be what this optimizer keeps.*leave opt_state out",
          trains(linear, opt_state=optax.sgd(0.1).init(jnp.zeros((4, 3)))))  # fmt: skip
    fails(TypeError, "net must be a jinit.MLP.*or a jinit.Network",
          lambda: jinit.train_step(linear, ADAM))  # fmt: skip


@pytest.mark.bad_input
def test_bad_data_is_one_sentence():
    init, apply = dict_network()
    net = jinit.Network(init, apply)
    start = net.init(KEY)

    def trains(x, y, **options):
        return lambda: jinit.train(KEY, net, *start, (x, y), optimizer=ADAM, steps=1, **options)

    x, y = SEQUENCES
    fails(ValueError, r"x must hold arrays \[batch, ...\] of one batch, got \[\[24\], \[23, 7\]\]",
          trains(x | {"tokens": TOKENS[1:]}, y))  # fmt: skip
    fails(ValueError, "x must be finite", trains(x | {"shift": X[:, 0] * np.nan}, y))
    fails(ValueError, r"labels y must have shape \[24, 7\], got \[24\]", trains(x, y[:, 0]))
    fails(ValueError, r"float targets y must have shape \[24, 7, 5\]", trains(x, np.float32(y)))
    fails(ValueError, "y must hold labels from 0 to 4", trains(x, y + 1))
    fails(ValueError, "y must have one entry per sample, 24 of them", trains(x, y[1:]))
    fails(ValueError, "batch_size must be at most .* 24", trains(x, y, batch_size=25))


def test_networks_of_the_same_functions_are_equal_and_can_be_hashed():
    init = lambda key: (jnp.zeros((4, 3)), {})  # noqa: E731
    one, other = jinit.Network(init, linear), jinit.Network(init, linear)
    assert one == other
    assert hash(one) == hash(other)
    evaluate = jax.jit(jinit.evaluate, static_argnums=0)
    assert evaluate(one, *one.init(KEY), X, Y).loss == pytest.approx(np.log(3))
    assert evaluate(other, *one.init(KEY), X, Y).loss == pytest.approx(np.log(3))
    assert evaluate._cache_size() == 1
