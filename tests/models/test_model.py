"""A model traced once, and every tool on it, beside the functions of the same names."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit import models
from jinit.models.tracing.model import TracedModel

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (16, 8))
LABELS = jnp.arange(16) % 4


def draw(key):
    shapes = {"in": (8, 12), "up": (12, 12), "down": (12, 12), "out": (12, 4)}
    weights = {
        name: jax.random.normal(own, s) / s[0] ** 0.5
        for own, (name, s) in zip(jax.random.split(key, 4), shapes.items(), strict=True)
    }
    return weights | {"count": jnp.int32(3)}


def apply(p, x):
    h = jnp.tanh(x @ p["in"])
    return (h + jnp.tanh(h @ p["up"]) @ p["down"]) @ p["out"] * p["count"].astype(jnp.float32)


def loss(output, targets):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(output), targets[:, None], 1))


def narrow(p, factor=2):
    return {k: v[tuple(slice(n // factor if n == 12 else n) for n in v.shape)] if v.ndim else v
            for k, v in p.items()}  # fmt: skip


# name -> (whether it takes a key, options)
TOOLS = {
    "roles": (False, {}),
    "audit": (False, {"conventions": "torch"}),
    "diagnose": (False, {"targets": LABELS}),
    "reinit": (True, {"scheme": "xavier"}),
    "lsuv": (True, {"std": 2.0}),
    "fixup": (True, {"scheme": "xavier"}),
    "skipinit": (True, {"alpha": 0.5}),
    "metainit": (True, {"targets": LABELS, "steps": 2}),
    "gradinit": (False, {"targets": LABELS, "steps": 2}),
    "gradient_quotient": (False, {"targets": LABELS}),
    "sharpness": (True, {"targets": LABELS, "rates": True}),
    "labels": (False, {}),
    "weight_decay_mask": (False, {"embeddings": True}),
    "muon_dimension_numbers": (False, {"readout": True}),
    "layer_numbers": (False, {}),
    "mup": (False, {"base_variables": narrow(draw(KEY))}),
}


def same(a, b):
    leaves = jax.tree.leaves(a), jax.tree.leaves(b)
    for x, y in zip(*leaves, strict=True):
        if hasattr(x, "dtype"):
            np.testing.assert_array_equal(x, y)
        else:
            assert str(x) == str(y)


def test_every_tool_of_a_model_is_tried():
    public = {name for name in dir(models.Model) if not name.startswith("_")}
    own = {name for name in dir(TracedModel) if not name.startswith("_")}
    assert public - own == {*TOOLS}


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_a_tool_is_the_function_of_its_name_and_the_model_is_called_once(name):
    calls = []

    def counted(p, x):
        calls.append(1)
        return apply(p, x)

    keyed, options = TOOLS[name]
    key = (KEY,) if keyed else ()
    first, other = draw(KEY), draw(jax.random.key(7))
    model = models.Model(counted, first, X, loss=loss)
    tool, function = getattr(model, name), getattr(models, name)
    about = {"loss": loss} if "targets" in options else {}
    asked = [(first, ())] + [(other, (other,))] * (name != "roles")
    both = [
        (tool(*key, *given, **options), function(*key, apply, p, X, **about, **options))
        for p, given in asked
    ]
    # The base of mup is a model of its own; sharpness needs a trace of another precision.
    more = name in ("mup", "sharpness")
    assert len(calls) == 1 + 2 * more
    for one, two in both:
        same(one, two)
    before = len(calls)
    function(*key, counted, first, X, **about, **options)
    assert len(calls) == before + 1 + more


def test_a_face_has_the_names_of_its_tool_and_of_a_model():
    signature = list(inspect.signature(jinit.reinit).parameters)
    assert signature == [
        "key", "apply", "variables", "inputs", "rules", "in_axes", "scheme", "gain", "start",
        "start_options", "options",
    ]  # fmt: skip
    assert jinit.reinit.__name__ == "reinit"
    assert "drawn anew" in (jinit.reinit.__doc__ or "")
    fresh = jinit.reinit(KEY, lambda p, x: x @ p["w"], {"w": jnp.eye(3)}, jnp.ones((2, 3)))
    assert fresh["w"].shape == (3, 3)


def test_shapes_are_enough_for_roles_fans_and_draws():
    shapes = jax.eval_shape(draw, KEY)
    shapes["count"] = jnp.int32(3)
    model = jinit.Model(apply, shapes, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert [role.fan_in for role in model.roles()] == [12, 8, 12, 12]
    found = model.audit()
    assert [row.fan_out for row in found.rows] == [12, 12, 4, 12]
    assert all(row.matches == () and row.odd == () and np.isnan(row.std) for row in found.rows)
    assert "4 of 4 parameters have a shape and no numbers to audit." in str(found)
    assert "Nothing odd" not in str(found) + found.to_html()
    drawn = model.reinit(KEY)
    same(drawn, jinit.reinit(KEY, apply, draw(KEY), X))
    assert "have a shape" not in str(model.audit(drawn))


def test_it_is_frozen_and_rules_are_its_own():
    rules = {"['in']": "other"}
    model = jinit.Model(apply, draw(KEY), X, rules=rules)
    rules.clear()
    assert {role.path: role for role in model.roles()}["['in']"].kind == "other"
    with pytest.raises(AttributeError, match="cannot assign"):
        model.loss = loss
    with pytest.raises(TypeError):
        model.rules["['in']"] = "weight"


def test_numbers_that_the_trace_holds_as_constants_are_those_of_the_variables():
    model = jinit.Model(apply, draw(KEY), X)
    more = draw(KEY) | {"count": jnp.int32(300)}
    assert model.of(draw(KEY)).trace is model.trace
    expected = jinit.diagnose(apply, more, X)
    assert str(model.diagnose(more)) == str(expected)
    assert str(model.diagnose()) != str(expected)


def test_a_model_in_a_program_that_is_compiled_and_mapped():
    model = jinit.Model(apply, draw(KEY), X)
    keys = jax.random.split(KEY, 3)
    mapped = jax.jit(jax.vmap(lambda key: model.lsuv(key)["out"]))(keys)
    np.testing.assert_allclose(mapped[1], model.lsuv(keys[1])["out"], rtol=1e-4, atol=1e-6)


@pytest.mark.bad_input
def test_what_does_not_fit_is_one_sentence():
    shapes = jax.eval_shape(draw, KEY)
    shapes["count"] = jnp.int32(3)
    model = jinit.Model(apply, draw(KEY), X)
    with pytest.raises(ValueError, match=r"must be the same tree .* make another Model"):
        model.diagnose({"in": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"got \[8, 13\] for \['in'\], which was \[8, 12\]"):
        model.audit(draw(KEY) | {"in": jnp.ones((8, 13))})
    with pytest.raises(TypeError, match=r"diagnose needs variables with numbers, got only a shape"):
        jinit.Model(apply, shapes, X).diagnose()
    with pytest.raises(TypeError, match="inputs must be arrays with numbers, got only a shape"):
        jinit.Model(apply, draw(KEY), jax.ShapeDtypeStruct(X.shape, X.dtype)).diagnose()
    with pytest.raises(TypeError, match="loss must be a function of the model's output, got None"):
        model.gradient_quotient()
    with pytest.raises(TypeError, match="needs the parameters and a batch of inputs"):
        jinit.audit(apply)
    with pytest.raises(TypeError, match="unexpected keyword argument 'convention'"):
        jinit.audit(apply, draw(KEY), X, convention="torch")
