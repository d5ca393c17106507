"""Stacked parameters read as a sequence of layers, wherever the stack came from."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jinit
from jinit.networks.params import _RANKS, stack

DIMS = (3, 4, 4, 4, 5, 2)  # runs of length 1, 2, 1 and the readout
NET = jinit.MLP(DIMS, norm="batch")
SHAPES = list(pairwise(DIMS))


@pytest.fixture(scope="module")
def drawn():
    return jax.jit(lambda k: jinit.init(k, NET, "he", bias_var=0.1))(jax.random.key(0))


@pytest.fixture(scope="module")
def mapped():
    """Four networks at once, and each alone."""
    keys = jax.random.split(jax.random.key(1), 4)
    draw = jax.jit(lambda k: jinit.init(k, NET, "he", bias_var=0.1)[0])
    return jax.jit(jax.vmap(draw))(keys), [draw(k) for k in keys]


def assert_trees_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_is_a_sequence_of_layers(drawn):
    params, state = drawn
    assert len(params) == 5
    assert [layer.w.shape for layer in params] == SHAPES
    assert [layer.b.shape for layer in params] == [(n,) for _, n in SHAPES]
    assert [layer.gamma is None for layer in params] == [False] * 4 + [True]
    assert_trees_equal(params[-1], params[4])
    assert_trees_equal(params[-5], params[0])
    for wrong in (5, -6):
        with pytest.raises(IndexError):
            params[wrong]
    assert len(state) == 4  # the readout has no batch norm
    assert [stats.mean.shape for stats in state] == [(n,) for _, n in SHAPES[:-1]]


def test_the_layers_are_those_of_the_runs(drawn):
    params, _ = drawn
    assert [run.w.shape[0] for run in params.runs] == [1, 2, 1, 1]
    np.testing.assert_array_equal(params[1].w, params.runs[1].w[0])
    np.testing.assert_array_equal(params[2].w, params.runs[1].w[1])
    # A layer of a run is not the run's first by mistake: they differ.
    assert not np.array_equal(params[1].w, params[2].w)


def test_it_is_a_pytree_that_survives_a_round_trip(drawn):
    params, _ = drawn
    leaves, structure = jax.tree.flatten(params)
    assert all(hasattr(leaf, "shape") for leaf in leaves)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, jinit.Params)
    assert_trees_equal(params, again)


def test_a_mapped_stack_reads_the_same_way(mapped):
    params, alone = mapped
    assert len(params) == 5
    for i, layer in enumerate(params):
        assert layer.w.shape == (4, *SHAPES[i])
        for row in range(4):
            np.testing.assert_allclose(layer.w[row], alone[row][i].w, rtol=1e-6)
            np.testing.assert_allclose(layer.b[row], alone[row][i].b, rtol=1e-6)


def test_gradients_and_optimiser_moments_read_the_same_way(drawn):
    params, _ = drawn
    gradient = jax.grad(lambda p: sum(jnp.sum((i + 1) * p[i].w) for i in range(len(p))))(params)
    for i, layer in enumerate(gradient):
        np.testing.assert_array_equal(layer.w, np.full(SHAPES[i], i + 1.0))
        assert not np.any(layer.b)
    moments = optax.adam(0.1).init(params)[0]
    for name in ("mu", "nu"):
        assert [layer.w.shape for layer in getattr(moments, name)] == SHAPES


def test_indexing_works_under_vmap_and_jit(mapped):
    params, alone = mapped
    last = jax.jit(jax.vmap(lambda p: p[-1].w))(params)
    np.testing.assert_allclose(last, np.stack([p[-1].w for p in alone]), rtol=1e-6)


def test_skipinit_scalars_and_norm_only_fields_index_too():
    net = jinit.MLP((4, 4, 4, 2), residual="skipinit", bias=False)
    params, state = jax.eval_shape(lambda k: jinit.init(k, net), jax.random.key(0))
    assert [layer.alpha is None for layer in params.runs] == [False, True]
    drawn = jax.tree.map(lambda s: np.zeros(s.shape), params)
    assert [np.shape(layer.alpha) for layer in drawn][:2] == [(), ()]
    assert drawn[0].b is None
    assert len(state) == 0
    with pytest.raises(IndexError):
        state[0]


def test_stack_inverts_reading(drawn):
    params, state = drawn
    assert_trees_equal(stack(list(params), [1, 2, 1, 1]), params.runs)
    assert_trees_equal(stack(list(state), [1, 2, 1]), state.runs[:-1])


def test_every_field_has_a_rank():
    for kind, ranks in _RANKS.items():
        assert set(ranks) == set(kind._fields)


def test_slices_are_lists_of_layers():
    params = jinit.init_params(jax.random.key(0), [4, 4, 4, 2])
    assert [layer.w.shape for layer in params[1:]] == [(4, 4), (4, 2)]
    with pytest.raises(IndexError, match="layer 3 of a net of 3 layers"):
        params[3]
