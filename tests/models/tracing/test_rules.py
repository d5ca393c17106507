"""Every row of the table of rules meets its primitive, on a signal and on a parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jinit.models.tracing import curves
from jinit.models.tracing.jaxprs import inner_jaxprs
from jinit.models.tracing.roles import judge
from jinit.models.tracing.rules import RULES
from jinit.models.tracing.trace import trace_model

KEY = jax.random.key(0)

# name of a primitive -> a function of [4, 4] that uses it
SHAPES = {
    "reshape": lambda a: lax.reshape(a, (2, 8)),
    "broadcast_in_dim": lambda a: lax.broadcast_in_dim(a, (3, 4, 4), (1, 2)),
    "transpose": lambda a: lax.transpose(a, (1, 0)),
    "rev": lambda a: lax.rev(a, (0,)),
    "squeeze": lambda a: lax.squeeze(lax.slice(a, (1, 0), (2, 4)), (0,)),
    "slice": lambda a: lax.slice(a, (0, 1), (4, 3)),
    "tile": lambda a: jnp.tile(a, (1, 2)),
    "unstack": lambda a: jnp.unstack(a)[1],
    "split": lambda a: lax.split(a, (1, 3), 1)[0],
}
CURVES = {
    "abs": jnp.abs, "add": lambda a: a + jnp.tanh(a), "add_any": None,
    "atan2": lambda a: lax.atan2(a, a * 2),
    "cbrt": jnp.cbrt, "clamp": lambda a: lax.clamp(0.0, a, 1.0),
    "convert_element_type": lambda a: jnp.tanh(a.astype(jnp.bfloat16).astype(jnp.float32)),
    "copy": lambda a: jnp.copy(jnp.tanh(a)), "cos": jnp.cos, "cosh": jnp.cosh,
    "div": lambda a: a / (1 + jnp.square(a)),
    "erf": lax.erf, "erf_inv": lambda a: lax.erf_inv(a / 9), "erfc": lax.erfc, "exp": jnp.exp,
    "exp2": lax.exp2, "expm1": jnp.expm1, "integer_pow": lambda a: a**3,
    "log": lambda a: jnp.log(9 + a), "log1p": lambda a: jnp.log1p(9 + a), "logistic": lax.logistic,
    "max": lambda a: jnp.maximum(a, 0), "min": lambda a: jnp.minimum(a, 1),
    "mul": lambda a: a * lax.logistic(a), "neg": lambda a: -jnp.tanh(a),
    "pow": lambda a: lax.pow(9 + a, jnp.float32(1.5)),
    "reduce_precision": lambda a: jnp.tanh(lax.reduce_precision(a, 8, 10)),
    "rsqrt": lambda a: lax.rsqrt(9 + a), "select_n": lambda a: jnp.where(a > 0, a, 0.5 * a),
    "sign": lambda a: a * jnp.sign(a), "sin": jnp.sin, "sinh": jnp.sinh,
    "sqrt": lambda a: jnp.sqrt(9 + a), "square": jnp.square, "sub": lambda a: jnp.tanh(a) - 1,
    "tan": lambda a: jnp.tan(a / 9), "tanh": jnp.tanh,
    "and": lambda a: jnp.where((a > 0) & (a < 1), a, 0), "or": lambda a: jnp.where(
        (a > 0) | (a < -1), a, 0), "xor": lambda a: jnp.where((a > 0) ^ (a < 1), a, 0),
    "not": lambda a: jnp.where(~(a > 0), a, 0), "eq": lambda a: jnp.where(a == 0, 1.0, a**2),
    "ne": lambda a: jnp.where(a != 0, a**2, 1.0), "ge": lambda a: jnp.where(a >= 0, a, 0),
    "gt": lambda a: jnp.where(a > 0, a, 0), "le": lambda a: jnp.where(a <= 0, a, 0),
    "lt": lambda a: jnp.where(a < 0, a, 0),
    "is_finite": lambda a: jnp.where(jnp.isfinite(a), a**2, 0),
}  # fmt: skip
OTHERS = {
    "dot_general": lambda a: a @ a, "gather": lambda a: a[jnp.arange(2)],
    "conv_general_dilated": lambda a: jnp.convolve(a[0], a[1]),
    "dynamic_slice": lambda a: lax.dynamic_slice(a, (jnp.argmax(a[0]), 0), (1, 4)),
    "concatenate": lambda a: jnp.concatenate([a, a]), "stack": lambda a: jnp.stack([a, a]),
    "ragged_dot_general": lambda a: lax.ragged_dot(a, a[None], jnp.array([4])), "ragged_dot": None,
    "pad": lambda a: lax.pad(a, 0.0, ((1, 0, 0), (0, 0, 0))),
    "dynamic_update_slice": lambda a: lax.dynamic_update_slice(jnp.zeros((5, 4)), a, (1, 0)),
    "scatter": lambda a: jnp.zeros((5, 4)).at[:4].set(a),
    "scatter-add": lambda a: jnp.zeros((5, 4)).at[jnp.arange(4)].add(a),
    "copy_p": None, "expand_dims": None, "sharding_constraint": None, "stop_gradient": None,
    "optimization_barrier": lax.optimization_barrier,
    "reduce_sum": jnp.sum, "reduce_max": jnp.max, "reduce_min": jnp.min, "reduce_prod": jnp.prod,
    "reduce_and": lambda a: jnp.all(a > 0), "reduce_or": lambda a: jnp.any(a > 0),
    "reduce_xor": None,
    "reduce_window_sum": lambda a: lax.reduce_window(a, 0.0, lax.add, (2, 2), (1, 1), "VALID"),
    "reduce_window_max": lambda a: lax.reduce_window(a, -jnp.inf, lax.max, (2, 2), (1, 1), "VALID"),
    "reduce_window_min": lambda a: lax.reduce_window(a, jnp.inf, lax.min, (2, 2), (1, 1), "VALID"),
    "cumsum": jnp.cumsum, "cumprod": jnp.cumprod, "cummax": lax.cummax, "cummin": lax.cummin,
    "cumlogsumexp": lax.cumlogsumexp,
    "random_bits": lambda a: jax.random.bits(KEY, a.shape), "random_clone": None,
    "random_fold_in": lambda a: jax.random.fold_in(KEY, 1),
    "random_seed": lambda a: jax.random.key(1), "random_split": lambda a: jax.random.split(KEY),
    "random_unwrap": lambda a: jax.random.key_data(KEY),
    "random_wrap": lambda a: jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32)),
    "rng_bit_generator": lambda a: lax.rng_bit_generator(jnp.zeros(4, jnp.uint32), (3,)),
    "rng_uniform": None, "threefry2x32": None,
}  # fmt: skip
# Names of other versions of jax, or that public functions do not bind.
UNMADE = {name for table in (CURVES, OTHERS) for name, f in table.items() if f is None}
EVERY = {name: f for name, f in {**SHAPES, **CURVES, **OTHERS}.items() if f is not None}
SAMPLE = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in inner_jaxprs(equation) or ():
            yield from primitives(inner)


def test_every_rule_has_an_example():
    assert {*EVERY, *UNMADE} == {*RULES}
    assert set(CURVES) == {name for name, rule in RULES.items() if rule.pointwise}


@pytest.mark.parametrize("name", sorted(EVERY))
def test_the_example_uses_the_primitive(name):
    assert name in set(primitives(jax.make_jaxpr(EVERY[name])(SAMPLE).jaxpr))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_rule_meets_a_signal_and_a_parameter(name):
    """Nothing is raised, the weight before keeps its fans, and no parameter is lost."""

    def of_signal(p, x):
        out = EVERY[name](x @ p["w"])
        return out, x @ p["v"]

    found = {
        role.path: role for role in judge(trace_model(of_signal, WEIGHTS, SAMPLE), strict=False)
    }
    used = found["['w']"]
    assert (used.fan_in, used.fan_out) == (4, 4) or RULES[name].random
    of_parameter = trace_model(lambda p, x: (EVERY[name](p["w"]), x @ p["v"]), WEIGHTS, SAMPLE)
    assert len(judge(of_parameter, strict=False)) == 2


WEIGHTS = {"w": SAMPLE, "v": SAMPLE}


@pytest.mark.parametrize("name", sorted(set(CURVES) - UNMADE))
def test_pointwise_rules_follow_the_curve(name):
    f = CURVES[name]
    traced = trace_model(lambda p, x: f(x @ p["w"]) @ p["v"], WEIGHTS, SAMPLE)
    (activation,) = traced.activations
    expected = np.asarray(f(jnp.asarray(curves.GRID)))
    near = 2**-7 if RULES[name].same else 1e-5  # a curve is followed in float32
    np.testing.assert_allclose(activation.curve, expected, rtol=near, atol=near)
    (use,) = activation.uses
    assert traced.paths[traced.uses[use].leaf] == "['w']"


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_rules_of_shape_lead_to_the_entries_that_are_read(name):
    """What the role calls the matrix is what the product really reads."""

    def apply(p, x):
        read = SHAPES[name](p["w"])
        matrix = read.reshape(-1, read.shape[-1])
        return x[:, : matrix.shape[0]] @ matrix

    width = SHAPES[name](jnp.ones((4, 4))).size
    x = jax.ShapeDtypeStruct((2, width), jnp.float32)
    (role,) = judge(trace_model(apply, {"w": SAMPLE}, x), {"['w']": "weight"})
    leaf = jnp.arange(16.0).reshape(4, 4)
    read = SHAPES[name](leaf)
    np.testing.assert_array_equal(
        np.asarray(leaf).ravel()[role.matrix()[0]], np.asarray(read).reshape(-1, read.shape[-1])
    )
