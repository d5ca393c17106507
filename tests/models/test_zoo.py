"""Roles of every model of the zoo, and that the matrices are what the models apply.

The matrices are held against computations that know nothing of them. Of a single layer it is the
Jacobian of its output by its input: its entries are the layer's weights, those that are zero show
what is summed for what, and counting the others gives the fans. Of a whole model it is the gradient
by a weight: each application adds one outer product of an input and a cotangent, so that with few
applications it has that rank in the matrix that is applied, and in hardly any other arrangement.
"""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.models import roles
from tests.zoo import entries as zoo

EVERY = pytest.mark.parametrize("entry", zoo.ENTRIES, ids=lambda e: e.name, scope="module")
"""One model after the other, so that hardly any is built in two processes."""
LAYERS = [
    e
    for e in zoo.ENTRIES
    if e.kind in (*zoo.CONVOLUTIONS, "dense-general", "linear-general", "einsum", "linear")
]
MODELS = [e for e in zoo.ENTRIES if e not in LAYERS and e.kind != "vector"]


@cache
def built(entry):
    return entry.build(jax.random.key(3))


@cache
def found(entry):
    apply, variables, inputs = built(entry)
    return {role.path: role for role in roles(apply, variables, *inputs)}


def leaves(variables):
    flat, _ = jax.tree_util.tree_flatten_with_path(variables)
    floating = [(p, leaf) for p, leaf in flat if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return {jax.tree_util.keystr(path): leaf for path, leaf in floating}


def is_weight(what):
    return what.role in ("weight", "tied")


# --- against what was written by hand -----------------------------------------------------------


def test_the_zoo_has_every_kind_in_every_framework_that_offers_it():
    everywhere = {
        "mlp", "gelu-silu", "by-hand", "mixed-precision", "dropout", *zoo.CONVOLUTIONS, "cnn",
        "resnet-train", "resnet-eval", "transformer", "lstm", "gru", "scan",
    }  # fmt: skip
    assert len({e.name for e in zoo.ENTRIES}) == len(zoo.ENTRIES)
    for framework in zoo.FRAMEWORKS:
        kinds = {e.kind for e in zoo.ENTRIES if e.framework == framework}
        assert everywhere <= kinds
        assert kinds & {"experts", "ensemble"}


@EVERY
def test_the_expectations_name_every_leaf_and_the_trace_finds_each(entry):
    assert set(entry.expected) == set(leaves(built(entry).variables))
    assert set(found(entry)) == set(entry.expected)


@EVERY
def test_roles_and_fans(entry):
    got = {p: (r.kind, r.fan_in, r.fan_out) for p, r in found(entry).items()}
    assert got == {p: (what.role, what.fan_in, what.fan_out) for p, what in entry.expected.items()}


@EVERY
def test_fields_groups_layers_and_how_often(entry):
    for path, what in entry.expected.items():
        got = found(entry)[path]
        if is_weight(what):
            assert got.receptive_field == what.receptive_field, path
            assert (got.groups, got.layers) == (what.groups, what.layers), path
        if what.times is not None:
            assert got.times == what.times, path
        if what.role == "unused":
            assert got.times == 0, path


@EVERY
def test_activations(entry):
    for path, what in entry.expected.items():
        right = what.activation
        if right is not None:
            right = right if isinstance(right, tuple) else (right,)
            assert found(entry)[path].activation in right, path


@EVERY
def test_a_matrix_holds_every_number_of_its_leaf_once_in_the_right_shape(entry):
    for path, what in entry.expected.items():
        if not is_weight(what):
            continue
        got = found(entry)[path]
        matrix = got.matrix()
        np.testing.assert_array_equal(np.sort(matrix, axis=None), np.arange(math.prod(got.shape)))
        # Taps of the field are summed over, and so lie in the rows.
        products = what.layers * what.groups * what.strides
        assert matrix.shape == (products, what.fan_in, what.fan_out // what.receptive_field), path


# --- single layers: the Jacobian ----------------------------------------------------------------


def jacobian(entry):
    """[places of the output, units, places of the input, channels], of one example."""
    apply, variables, (x,) = built(entry)
    one = lambda x: apply(variables, x[None])[0]  # noqa: E731
    found = jax.jacfwd(one)(x[0])
    out_rank = found.ndim - x[0].ndim
    if entry.kind in zoo.CONVOLUTIONS:
        channel = 0 if entry.framework == "equinox" else 2
        found = jnp.moveaxis(found, (channel, 3 + channel), (2, 5))
        shape = (math.prod(found.shape[:2]), found.shape[2], math.prod(found.shape[3:5]), -1)
    else:
        shape = (1, math.prod(found.shape[:out_rank]), 1, x[0].size)
    return np.asarray(found.reshape(shape))


def kernel(entry):
    return next((path, what) for path, what in entry.expected.items() if is_weight(what))


@pytest.mark.parametrize("entry", zoo.first_of_its_kind(LAYERS))
def test_the_fans_written_by_hand_are_those_that_the_jacobian_counts(entry):
    _, what = kernel(entry)
    taps = jacobian(entry) != 0
    # Where the image ends fewer are summed, so the most is what counts.
    assert taps.sum((2, 3)).max() == what.fan_in
    assert taps.sum((0, 1)).max() == what.fan_out


@pytest.mark.parametrize("entry", LAYERS, ids=lambda e: e.name)
def test_the_matrix_of_a_layer_is_its_jacobian(entry):
    """What one number contributes to the outputs of one place is a row of the matrix."""
    path, what = kernel(entry)
    w = np.asarray(leaves(built(entry).variables)[path]).ravel()
    matrix = w[found(entry)[path].matrix()]
    jac = jacobian(entry)
    units = jac.shape[1] // what.groups
    matrix = matrix.reshape(what.groups, -1, units)
    for group, own in enumerate(matrix):
        part = jac[:, group * units : (group + 1) * units]
        rows = part.transpose(0, 2, 3, 1).reshape(-1, units)
        rows = rows[np.any(rows != 0, axis=1)]
        assert {tuple(row) for row in rows} == {tuple(row) for row in own}


# --- whole models: the rank of the gradient -----------------------------------------------------


def few(entry):
    """Inputs of one example that apply each weight seldom, and how often at most."""
    inputs = built(entry).inputs
    x, rest = inputs[0], inputs[1:]
    if entry.kind == "cnn" or entry.kind.startswith("resnet"):  # two pixels, eight once scaled up
        x = x[:1, :, :1, :2] if entry.framework == "equinox" else x[:1, :1, :2]
        times = 8 if entry.kind == "cnn" else 2
    elif x.ndim == 3 or jnp.issubdtype(x.dtype, jnp.integer):  # two steps or tokens
        x, times = x[:1, :2], 2
    else:
        x, times = x[:1], 1
    return (x, *rest), times


def gradients(entry, inputs):
    apply, variables, _ = built(entry)
    flat, structure = jax.tree.flatten(variables)
    floating = [i for i, leaf in enumerate(flat) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def loss(own):
        every = list(flat)
        for i, leaf in zip(floating, own, strict=True):
            every[i] = leaf
        out = jax.tree.leaves(apply(structure.unflatten(every), *inputs))[0]
        weights = jax.random.normal(jax.random.key(5), out.shape)
        return jnp.sum(weights * out.astype(jnp.float32))

    grads = jax.jit(jax.grad(loss))([flat[i] for i in floating])
    every = list(flat)
    for i, leaf in zip(floating, grads, strict=True):
        every[i] = leaf
    return {p: np.asarray(g) for p, g in leaves(structure.unflatten(every)).items()}


def excess(grad, matrix, rank):
    """The largest singular value that a matrix of that rank has not, relative to the norm."""
    every = grad.ravel()[matrix].astype(np.float64)
    norms = np.linalg.norm(every, axis=(1, 2))
    values = np.linalg.svd(every, compute_uv=False)[:, rank]
    return np.max(values / np.where(norms == 0, 1, norms))


def rounding(entry, times):
    """Every number of a sum of so many products is off by half an ulp for each product and sum, and
    twice that where both passes round; no singular value moves by more than the error's norm."""
    eps = jnp.finfo(jnp.bfloat16 if entry.kind == "mixed-precision" else jnp.float32).eps
    return 4 * times * float(eps)


@pytest.mark.parametrize("entry", zoo.first_of_its_kind(MODELS))
def test_the_gradient_has_the_rank_of_its_applications_in_the_matrix(entry):
    inputs, times = few(entry)
    grads, looked = gradients(entry, inputs), 0
    for path, what in entry.expected.items():
        # A tied table has one row more for every token that is looked up.
        rank = 2 * times if what.role == "tied" else times
        if not is_weight(what):
            continue
        matrix = found(entry)[path].matrix()
        if min(matrix.shape[1:]) <= rank:
            continue  # any matrix has that rank
        assert np.any(grads[path]), path
        assert excess(grads[path], matrix, rank) < rounding(entry, rank), path
        looked += 1
    assert looked >= 2


def test_another_arrangement_would_be_noticed():
    """The same numbers in a matrix that is not the one applied have full rank."""
    for name, path in (
        ("linen-mlp", zoo.linen_path("Dense_1/kernel")),
        ("jax-scan", zoo.plain_path("layers/up")),
        (
            "linen-transformer",
            zoo.linen_path("LinenLayer_0/MultiHeadDotProductAttention_0/out/kernel"),
        ),
    ):
        (entry,) = [e for e in zoo.ENTRIES if e.name == name]
        inputs, times = few(entry)
        grad = gradients(entry, inputs)[path]
        matrix = found(entry)[path].matrix()
        layers, m, n = matrix.shape
        transposed = matrix.reshape(layers, n, m).transpose(0, 2, 1)
        assert excess(grad, transposed, times) > 0.05


# --- healthy models -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "resnet", "transformer", "lstm"])
def test_healthy_models_have_roles_and_signals_that_live(name):
    """Outputs of order one that tell examples apart, and a gradient at the first weight that is
    neither small nor large beside the last one's."""
    apply, variables, inputs = zoo.healthy()[name](jax.random.key(0))
    got = roles(apply, variables, *inputs)
    allowed = {"weight", "bias", "scale", "embedding", "statistic"}
    assert {role.kind for role in got} <= allowed
    weights = sorted((r for r in got if r.kind == "weight"), key=lambda r: r.order)
    assert len(weights) >= 12

    def loss(variables):
        out = apply(variables, *inputs)
        return jnp.sum(out * jax.random.normal(jax.random.key(1), out.shape))

    out = jax.jit(apply)(variables, *inputs)
    assert 0.1 < float(jnp.std(out)) < 10
    assert float(jnp.std(out, axis=0).min()) > 0.01
    grads = leaves(jax.jit(jax.grad(loss))(variables))
    sizes = [float(jnp.sqrt(jnp.mean(grads[r.path] ** 2))) for r in weights]
    assert 0.02 < sizes[0] / sizes[-1] < 50
    assert min(sizes) > 0
