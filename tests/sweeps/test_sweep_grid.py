"""Descriptions: what is counted, and one sentence for each mistake."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from swept import DESCEND, NOISY, descend, noisy

import jinit
from jinit import Sweep
from jinit.sweeps.blocks import blocks_of


def test_rows_are_in_one_order():
    plan = Sweep(noisy, **NOISY)
    assert plan.points == ({"size": 3}, {"size": 5})
    assert (plan.rows, plan.runs) == (24, 48)
    first, second = blocks_of(plan, 24)
    assert (first.point, second.point, first.rows, second.first) == (0, 1, 24, 0)
    at = [0, 1, 4, 8, 23]
    assert first.seeds[at].tolist() == [0, 1, 0, 0, 3]
    assert first.traced["shift"][at].tolist() == [0, 0, 1, 0, 1]
    assert first.traced["gain"][at].tolist() == [0.5, 0.5, 0.5, 1.0, 2.0]


def test_each_function_gets_what_its_signature_names():
    plan = Sweep(descend, **DESCEND)
    point = {"kind": "normal", "steps": 4}
    assert plan.arguments_of("prepare", point) == {"kind": "normal"}
    assert plan.arguments_of("fn", point) == {"steps": 4}
    assert plan.traced_of("prepare") == ("gain",)
    assert plan.traced_of("fn") == ("lr",)


def test_keyword_arguments_take_every_axis():
    def fn(key, **point):
        return {"sum": point["a"] + point["b"] + 0 * jax.random.uniform(key)}

    ds = jinit.sweep(fn, static={"a": [1, 2]}, traced={"b": [0.5]}, progress=False)
    assert ds["sum"].values.ravel().tolist() == [1.5, 2.5]


def f(key, *, depth=1, lr=0.1):
    return {"x": depth * lr + 0 * jax.random.uniform(key)}


BAD = {
    "unknown axis": ({"traced": {"leraning": [0.1]}}, "no function takes the axis 'leraning'"),
    "near axis": ({"static": {"dept": [1]}}, "did you mean 'depth'"),
    "empty static": ({"static": {"depth": []}}, "the static axis 'depth' is empty"),
    "empty traced": ({"traced": {"lr": []}}, "the traced axis 'lr' is empty"),
    "double static": ({"static": {"depth": [1, 1]}}, "holds 1 more than once"),
    "double traced": ({"traced": {"lr": [0.1, 0.2, 0.1]}}, "holds 0.1 more than once"),
    "text traced": ({"traced": {"lr": ["a", "b"]}}, "values that are no numbers are static axes"),
    "string": ({"static": {"depth": "12"}}, "must list its values"),
    "number": ({"traced": {"lr": 0.1}}, "must be a list of real numbers, got 0.1"),
    "NaN": ({"traced": {"lr": [float("nan")]}}, "got NaN"),
    "table": ({"traced": {"lr": [[0.1]]}}, r"got an array of shape \(1, 1\)"),
    "list value": ({"static": {"depth": [[1]]}}, "must be hashable"),
    "both": ({"static": {"lr": [1]}, "traced": {"lr": [1]}}, "both static and traced"),
    "reserved": ({"traced": {"seed": [1]}}, "an axis cannot be called 'seed'"),
    "not a name": ({"traced": {"a b": [1]}}, "needs a name that can be an argument"),
    "not a mapping": ({"static": [1]}, "static must map names to values"),
    "no seeds": ({"seeds": 0}, "seeds must be an integer of at least 1, got 0"),
    "negative seed": ({"seeds": [1, -1]}, "every seed must be an integer of at least 0, got -1"),
    "double seed": ({"seeds": [1, 2, 1]}, "seeds must differ, got 1 more than once"),
    "large seed": ({"seeds": [2**32]}, "every seed must be at most 4294967295"),
    "words for seeds": ({"seeds": "three"}, "seeds must be a count or a list"),
    "block": ({"seeds": 4, "block": 5}, "block must be at most the 4 networks of one static point"),
    "block 0": ({"block": 0}, "block must be an integer of at least 1, got 0"),
    "dims text": ({"dims": {"x": "layer"}}, r"dims\['x'\] must be a tuple of names"),
    "dims unknown": ({"dims": {"y": ("layer",)}}, "dims names the output 'y', but fn returns 'x'"),
    "dims rank": ({"dims": {"x": ("layer",)}}, r"names 1 dimensions, but the output has shape"),
    "shard": ({"shard": (2, 2)}, r"shard must be \(i, n\).*i goes from 0 to 1"),
    "shard alone": ({"shard": (0, 2)}, "a shard writes to a store that all share"),
    "store 3": ({"store": 3}, "store must be the path of a folder.* got 3"),
    "executor 4": ({"executor": 4}, "executor must be a concurrent.futures.Executor.* got 4"),
    "shard text": ({"shard": "1/2"}, r"shard must be \(i, n\), .* got '1/2'"),
}  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_answered_by_one_sentence(name):
    options, words = BAD[name]
    with pytest.raises((ValueError, TypeError), match=words):
        jinit.sweep(f, progress=False, **options)


@pytest.mark.bad_input
def test_functions_that_cannot_be_mapped():
    with pytest.raises(ValueError, match="the argument 'size' of fn has no axis"):
        jinit.sweep(noisy, traced={"gain": [1.0]}, progress=False)
    with pytest.raises(TypeError, match=r"fn must be a function \(key, \*, ...\), got 3"):
        jinit.sweep(3)
    with pytest.raises(TypeError, match=r"fn must take key and start first"):
        jinit.sweep(lambda key: {"x": 0.0}, prepare=lambda key: ())
    with pytest.raises(TypeError, match="fn must return a dict from names to arrays, got tuple"):
        jinit.sweep(lambda key: (1.0,))
    with pytest.raises(ValueError, match="fn returned an empty dict"):
        jinit.sweep(lambda key: {})
    with pytest.raises(TypeError, match="must return arrays of real numbers, got key<fry> for 'x'"):
        jinit.sweep(lambda key: {"x": key})
    with pytest.raises(TypeError, match="must return arrays of real numbers, got dict for 'x'"):
        jinit.sweep(lambda key: {"x": {"y": jnp.ones(2)}})


@pytest.mark.bad_input
@pytest.mark.parametrize("use", [
    lambda x: jnp.zeros(x), lambda x: float(x), lambda x: 1.0 if x > 1 else 0.0, np.sin, range,
])  # fmt: skip
def test_a_traced_value_that_is_used_as_a_number_is_named(use):
    with pytest.raises(TypeError, match=r"fn takes the value of .*; put that axis into static="):
        jinit.sweep(lambda key, *, n: {"x": jnp.sum(use(n))}, traced={"n": [1, 2]}, progress=False)


@pytest.mark.bad_input
def test_what_is_no_array_or_path_is_named():
    with pytest.raises(TypeError, match=r"fn must return arrays, got 'a' at fn\(...\)\['x'\]"):
        jinit.sweep(lambda key: {"x": "a"}, progress=False)
    for place in (None, 3):
        with pytest.raises(TypeError, match=f"store must be the path of a folder.* got {place}"):
            jinit.load(place)


def test_two_functions_of_one_name_are_two_values(tmp_path):
    ways = [lambda x: x, lambda x: 2 * x, jnp.tanh]
    ds = jinit.sweep(
        lambda key, *, way, gain: {"x": way(gain)}, static={"way": ways}, traced={"gain": [1.0]},
        store=tmp_path / "ways.zarr", progress=False,
    )  # fmt: skip
    assert ds.way.values.tolist() == ["<lambda>", "<lambda> 2", "tanh"]
    np.testing.assert_allclose(ds.x.values.ravel(), [1, 2, np.tanh(1)], rtol=1e-6)
    with pytest.raises(ValueError, match="more than once"):
        jinit.sweep(lambda key, *, way: {"x": 0.0}, static={"way": ways[:1] * 2}, progress=False)


def by_size(key, *, n):
    return {"v": jax.random.normal(key, (n,))}


@pytest.mark.bad_input
def test_outputs_that_do_not_fit_together():
    with pytest.raises(ValueError, match=r"shape of 'v' varies .* dims=\{'v': \('layer',\)\}"):
        jinit.sweep(by_size, static={"n": [2, 3]}, progress=False)
    with pytest.raises(ValueError, match=r"dims\['v'\] uses 'n', which is an axis"):
        jinit.sweep(by_size, static={"n": [2, 3]}, dims={"v": ("n",)}, progress=False)
    with pytest.raises(ValueError, match="the output 'a' has the name of an axis"):
        jinit.sweep(lambda key, *, a: {"a": a}, traced={"a": [1.0]}, progress=False)
    with pytest.raises(ValueError, match="must return the same names everywhere"):
        jinit.sweep(lambda key, *, n: {f"x{n}": 1.0 * n}, static={"n": [1, 2]}, progress=False)
    with pytest.raises(ValueError, match="the dimension 'd' is 2 long in 'x' and 3 in 'y'"):
        jinit.sweep(
            lambda key: {"x": jnp.ones(2), "y": jnp.ones(3)}, dims={"x": ("d",), "y": ("d",)}
        )


@pytest.mark.bad_input
def test_an_error_of_the_function_is_its_own_with_the_point():
    def fn(key, *, depth, lr):
        if depth == 3:
            raise ZeroDivisionError("mine")
        return {"x": lr}

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        jinit.sweep(fn, static={"depth": [1, 3]}, traced={"lr": [0.1]}, progress=False)
    assert caught.value.__notes__[-1] == (
        "jinit.sweep: fn raised this while it was traced at {'depth': 3}."
    )
