"""What jinit measures is in full float32 on every chip: its compiled programs ask for that."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit import models
from jinit.runtime import configure

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (12, 8))
Y = jnp.arange(12) % 3
NET = jinit.MLP((8, 6, 6, 3), norm="batch")
PARAMS, STATE = jinit.init(KEY, NET)
W = [jax.random.normal(KEY, shape) for shape in ((8, 6), (6, 6), (6, 3))]


def apply(w, x):
    for layer in w:
        x = jnp.tanh(x @ layer)
    return x


def square(out):
    return jnp.mean(out**2)


MEASURED = {
    "layer_signals": lambda p, w: jinit.layer_signals(NET, p, STATE, X, Y),
    "correlations": lambda p, w: jinit.correlations(NET, p, STATE, X, X + 1),
    "jacobian": lambda p, w: jinit.measure_jacobian_spectrum(NET, p, STATE, X),
    "lsuv": lambda p, w: models.lsuv(KEY, apply, w, X, passes=2),
    "gradient_quotient": lambda p, w: models.gradient_quotient(apply, w, X, loss=square),
    "gradinit": lambda p, w: models.gradinit(apply, w, X, loss=square, steps=2).variables,
}


def products(function, *arguments):
    """How many products a compiled program takes, and of those how many in full float32."""
    text = jax.jit(function).lower(*arguments).as_text()
    found = re.findall(r"stablehlo\.dot_general.*", text)
    return len(found), sum("[HIGHEST, HIGHEST]" in product for product in found)


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("setting", [None, "tensorfloat32"])
def test_what_measures_asks_for_full_products_whatever_is_set(name, setting):
    with jax.default_matmul_precision(setting):
        every, full = products(MEASURED[name], PARAMS, W)
    assert every == full > 0


def test_a_diagnosis_traces_the_model_at_full_precision():
    trace = jinit.Model(apply, W, X).trace
    found = [e.params["precision"] for e in trace.jaxpr.jaxpr.eqns if "precision" in e.params]
    assert len(found) == 3
    assert {str(side) for precision in found for side in precision} == {"HIGHEST"}


def test_what_trains_follows_the_setting():
    def forward(params):
        return jinit.forward(NET, params, STATE, X, train=True)[0]

    assert products(forward, PARAMS) == (3, 0)
    with jax.default_matmul_precision("highest"):
        assert products(forward, PARAMS) == (3, 3)


def test_configure_sets_what_training_uses():
    before = jax.config.jax_default_matmul_precision
    try:
        configure(cpu_devices=1, matmul_precision="tensorfloat32")
        assert jax.config.jax_default_matmul_precision == "tensorfloat32"
        configure(cpu_devices=1)
        assert jax.config.jax_default_matmul_precision == "tensorfloat32"
    finally:
        jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["higest", 3, True, "float16x"])
def test_a_precision_that_jax_does_not_know(name):
    with pytest.raises(ValueError, match=r"matmul_precision must be one of 'default', .*, got "):
        configure(matmul_precision=name)


def test_ten_bits_make_a_deep_batch_normalised_net_another_one():
    """The figures of docs/decisions/precision.md, with TF32's rounding written out."""

    def tf32(x):
        bits = x.view(np.uint32)
        nearest_even = bits + np.uint32(0xFFF) + (bits >> np.uint32(13) & np.uint32(1))
        return (nearest_even & np.uint32(0xFFFFE000)).view(np.float32)

    def deep(x, rounded):
        for w in weights:
            z = rounded(x) @ rounded(w)
            z = (z - z.mean(0)) / np.sqrt(z.var(0) + np.float32(1e-5))
            x = np.maximum(z, 0)
            yield z

    rng = np.random.default_rng(0)
    weights = rng.normal(0, np.sqrt(2 / 128), (50, 128, 128)).astype("f4")
    x = rng.normal(size=(256, 128)).astype("f4")
    pairs = zip(deep(x, lambda a: a), deep(x, tf32), strict=True)
    apart = [np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in pairs]
    assert 2e-4 < apart[0] < 5e-4
    assert 0.5 < apart[-1] < 1.4
