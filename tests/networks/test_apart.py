"""Training with layers taken apart: numbers as of stacked ones, and what accelerators would run."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jinit
from jinit.networks import apart, forms, mlp, training

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (24, 6))
Y = jnp.arange(24) % 3
WIDTHS = (6, *[8] * 4, 3)
IMAGES = jax.random.normal(KEY, (24, 4, 4, 2))
CONVOLUTIONS = {"channels": (4, 4, 6), "strides": (1, 1, 2), "classes": 3, "activation": "tanh"}


@pytest.fixture
def for_accelerators(monkeypatch):
    monkeypatch.setattr(forms, "PLATFORMS", frozenset({"cuda"}))
    monkeypatch.setattr(apart, "_LAYER_STEPS", 1)


def trained(net, optimizer, steps=3, **options):
    params, state = jinit.init(KEY, net, "he")
    return jinit.train(KEY, net, params, state, (X, Y), optimizer=optimizer, steps=steps,
                       batch_size=8, **options)  # fmt: skip


def is_apart(net, optimizer, steps=1000):
    params, state = jinit.init(KEY, net, "he")
    start = jinit.train_state(params, state, optimizer)
    _, form = training._forms(net, training._bind(net), optimizer, start, steps)
    return form.split is apart.split


@pytest.mark.parametrize("kind", [
    {"norm": "batch", "activation": "tanh"},
    pytest.param({}, marks=pytest.mark.long),
    pytest.param({"norm": "layer", "residual": "skipinit"}, marks=pytest.mark.long),
    pytest.param({"norm": "batch", "residual": "scaled", "bias": False}, marks=pytest.mark.long),
])  # fmt: skip
def test_both_forms_train_alike(kind, monkeypatch):
    net = jinit.MLP(WIDTHS, **kind)
    how = {"signals_at": [0, 2], "eval_every": 2, "record_at": 2,
           "record": lambda params, state, batch: params[1].w.sum()}  # fmt: skip
    stacked = trained(net, optax.sgd(0.1, momentum=0.9), **how)
    monkeypatch.setattr(forms, "PLATFORMS", frozenset({"cuda"}))
    monkeypatch.setattr(apart, "_LAYER_STEPS", 1)
    assert is_apart(net, optax.sgd(0.1, momentum=0.9))
    rows = trained(net, optax.sgd(0.1, momentum=0.9), **how)
    assert jax.tree.structure(rows) == jax.tree.structure(stacked)
    for one, other in zip(jax.tree.leaves(rows), jax.tree.leaves(stacked), strict=True):
        # Sums over eight samples and eight units in another order, three steps long.
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", [
    {"norm": "batch", "residual": "scaled", "padding": "circular"},
    pytest.param({"norm": "group", "groups": 2, "pool": None}, marks=pytest.mark.long),
    pytest.param({"norm": "layer", "residual": "skipinit"}, marks=pytest.mark.long),
])  # fmt: skip
def test_both_forms_of_convolutional_networks_agree(kind, monkeypatch):
    net, optimizer = jinit.ConvNet((4, 4, 2), **CONVOLUTIONS, **kind), optax.sgd(0.1)
    params, state = jax.jit(lambda key: jinit.init(key, net, "he"))(KEY)

    def trained(params, state):
        run = jinit.train(KEY, net, params, state, (IMAGES, Y), optimizer=optimizer, steps=2)
        return run, jinit.forward(net, params, state, IMAGES, train=False)[0]

    here = jax.jit(lambda *of: trained(*of))(params, state)
    monkeypatch.setattr(forms, "PLATFORMS", frozenset({"cuda"}))
    monkeypatch.setattr(apart, "_LAYER_STEPS", 1)
    start = jinit.train_state(params, state, optimizer)
    assert training._forms(net, training._bind(net), optimizer, start, 2)[1].split is apart.split
    there = jax.jit(lambda *of: trained(*of))(params, state)
    chex.assert_trees_all_close(there, here, rtol=2e-4, atol=2e-5)


def test_mapped_equals_one_by_one_and_a_run_is_continued(for_accelerators):
    net = jinit.MLP(WIDTHS, norm="batch")
    params, state = jinit.init(KEY, net, "he")

    def run(rate, params, state, **more):
        return jinit.train(KEY, net, params, state, (X, Y), optimizer=optax.sgd(rate),
                           batch_size=8, **more)  # fmt: skip

    rates = jnp.asarray([0.05, 0.2])
    whole = jax.jit(jax.vmap(lambda rate: run(rate, params, state, steps=4)))(rates)
    first = run(rates[1], params, state, steps=2)
    second = run(rates[1], first.params, first.state, steps=2, first_step=2,
                 opt_state=first.opt_state)  # fmt: skip
    for one, other in zip(jax.tree.leaves(second.params), jax.tree.leaves(whole.params),
                          strict=True):  # fmt: skip
        np.testing.assert_allclose(one, other[1], rtol=2e-4, atol=2e-5)


def masked(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 2, params)


ENTRYWISE = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(1e-3),
    "rmsprop": optax.rmsprop(1e-3),
    "lion": optax.lion(1e-3),
    "clipped, on a schedule": optax.chain(
        optax.clip(1.0), optax.sgd(optax.warmup_cosine_decay_schedule(0.0, 0.1, 5, 50))
    ),
}
MIXING = {
    "a global norm": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "lars": optax.lars(0.1),
    "lamb": optax.lamb(1e-3),
    "adafactor": optax.adafactor(1e-3),
    "noise": optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
    "a mask that counts axes": optax.chain(
        optax.add_decayed_weights(0.1, mask=masked), optax.sgd(0.1)
    ),
    "over layers": optax.stateless(
        lambda updates, params: jax.tree.map(lambda u: u - u.mean(0, keepdims=True), updates)
    ),
    "by place": optax.stateless(
        lambda updates, params: jax.tree.map(lambda u: u * u.shape[0], updates)
    ),
    "lbfgs": optax.lbfgs(),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRYWISE)
def test_what_looks_at_entries_is_taken_apart(name, for_accelerators):
    assert is_apart(jinit.MLP(WIDTHS, norm="batch"), ENTRYWISE[name])


@pytest.mark.parametrize("name", MIXING)
def test_what_looks_at_whole_arrays_sees_them(name, for_accelerators):
    assert not is_apart(jinit.MLP(WIDTHS, norm="batch"), MIXING[name])


def test_few_steps_deep_networks_and_cpus_stay_stacked(monkeypatch):
    net, sgd = jinit.MLP(WIDTHS), optax.sgd(0.1)
    assert forms.platforms() >= {"cpu"}
    monkeypatch.setattr(forms, "PLATFORMS", frozenset({"cpu"}))
    assert not is_apart(net, sgd)
    monkeypatch.setattr(forms, "PLATFORMS", frozenset({"cpu", "cuda"}))
    assert is_apart(net, sgd)
    assert not is_apart(net, sgd, steps=10)
    assert not is_apart(jinit.MLP((6, *[8] * 200, 3)), sgd)


@pytest.mark.parametrize("layers", [4, 40])
def test_both_forms_of_a_forward_pass_agree(layers, monkeypatch):
    monkeypatch.setattr(mlp, "UNROLLED_ROWS", 20)  # so that 40 go by chunks of 16, the last of 7
    net = jinit.MLP((6, *[8] * layers, 3), activation="tanh", norm="batch", residual="scaled")
    params, state = jinit.init(KEY, net, "he")

    def outputs(train):
        return jinit.forward(net, params, state, X, train=train)

    here = [outputs(train) for train in (True, False)]
    monkeypatch.setattr(forms, "PLATFORMS", frozenset({"cuda"}))
    for train, found in zip((True, False), here, strict=True):
        chex.assert_trees_all_close(outputs(train), found, rtol=1e-4, atol=1e-5)


# --- what would run ------------------------------------------------------------------------------


DEEP = (6, *[8] * 24, 3)  # a run that a CPU scans


def lowered(net, optimizer, platform, x=X):
    """The program of five mapped runs with batches of 12, as text; nothing is compiled."""
    params, state = jinit.init(KEY, net, "he")

    def run(rate):
        return jinit.train(KEY, net, params, state, (x, Y), optimizer=optimizer(rate), steps=200,
                           batch_size=12).history.loss  # fmt: skip

    traced = jax.jit(jax.vmap(run)).trace(jnp.ones(5))
    return traced.lower(lowering_platforms=(platform,)).as_text()


def found(text, operation, shapes):
    lines = [line for line in text.splitlines() if f"stablehlo.{operation} " in line]
    return [line for line in lines if re.search(shapes, line)]


def test_accelerators_slice_no_weights_turn_no_batch_and_sort_once_an_epoch(monkeypatch):
    stacked = r"tensor<(5x)?{}x(5x)?8(x8)?xf32>"  # a run of so many layers of all five networks
    cpu = lowered(jinit.MLP(DEEP, norm="batch"), optax.adam, "cpu")
    monkeypatch.setattr(forms, "PLATFORMS", frozenset({"cpu", "cuda"}))
    cuda = lowered(jinit.MLP(WIDTHS, norm="batch"), optax.adam, "cuda")
    for operation in ("dynamic_slice", "dynamic_update_slice"):
        assert found(cpu, operation, stacked.format(23))  # so that the pattern finds something
        assert not found(cuda, operation, stacked.format(3))
    assert not found(cuda, "transpose", r"tensor<5x12x8xf32>\) -> tensor<5x8x12xf32>")
    # Forward, and twice back but for the inputs' gradient.
    assert cuda.count("stablehlo.dot_general ") == 3 * 5 - 1
    assert cuda.count('"stablehlo.sort"') == 1
    assert cuda.index('"stablehlo.case"') < cuda.index("call @_shuffle")


def test_convolutions_on_accelerators_are_the_chips_own_and_slice_no_kernels(monkeypatch):
    monkeypatch.setattr(forms, "PLATFORMS", frozenset({"cpu", "cuda"}))
    net = jinit.ConvNet((4, 4, 2), channels=(4,) * 3, classes=3, norm="batch")
    cuda = lowered(net, optax.adam, "cuda", IMAGES)
    assert cuda.count("stablehlo.convolution") == 3 * 3 - 1  # none for the inputs' gradient
    # From step to step go single kernels, not the two that are alike as one array.
    (loop,) = (line for line in cuda.splitlines() if "= stablehlo.while" in line)
    assert "5x3x3x4x4xf32>" in loop
    assert not re.search(r"2x(5x)?3x3x4x4xf32>", loop)


def gradient(layers, **options):
    """The program of a single step of three mapped networks, as lowered for a GPU."""
    net = jinit.MLP((6, *[8] * layers, 3), **options)
    optimizer = optax.sgd(0.1)
    step = jinit.train_step(net, optimizer)

    def one(key):
        params, state = jinit.init(key, net, "he")
        return step(jinit.train_state(params, state, optimizer), (X, Y))

    traced = jax.jit(jax.vmap(one)).trace(jax.random.split(KEY, 3))
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def test_single_steps_on_accelerators(monkeypatch):
    monkeypatch.setattr(forms, "PLATFORMS", frozenset({"cpu", "cuda"}))
    turned = r"tensor<3x24x8xf32>\) -> tensor<3x8x24xf32>"
    text = gradient(24, norm="batch")
    assert "stablehlo.while" not in text
    assert not found(text, "dynamic_slice", r"x8x8xf32>")
    assert not found(text, "transpose", turned)
    deep = gradient(300)
    # Forward and back by chunks of 16, not 300 layers of code.
    assert deep.count("stablehlo.while") == 2
    assert len(deep) < 2 * len(gradient(16))
    assert not found(deep, "transpose", turned)


def test_the_cpus_program_is_what_it_was(monkeypatch):
    net = jinit.MLP(WIDTHS)
    texts = []
    for platforms in ({"cpu"}, {"cpu", "cuda"}):
        monkeypatch.setattr(forms, "PLATFORMS", frozenset(platforms))
        texts.append(lowered(net, optax.sgd, "cpu"))
    for operation in ("dot_general", "dynamic_update_slice", "transpose", "while", "add"):
        one, other = (text.count(f"stablehlo.{operation}") for text in texts)
        assert one == other > 0
