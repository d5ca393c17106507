"""Lists of variances are answered with tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit import theory

GRID = {"weight_var": [1.3, 1.5, 2.0], "bias_var": [0.05, 0.1]}


def test_a_table_holds_what_is_answered_one_by_one():
    table = theory.depth_scales("tanh", **GRID)
    ds, frame = table.to_xarray(), table.to_dataframe()
    assert dict(ds.sizes) == {"weight_var": 3, "bias_var": 2}
    assert len(frame) == 6
    for row in frame.itertuples():
        one = theory.depth_scales("tanh", weight_var=row.weight_var, bias_var=row.bias_var)
        assert tuple(getattr(row, name) for name in one._fields) == tuple(one)
        assert float(ds.xi_c.sel(weight_var=row.weight_var, bias_var=row.bias_var)) == one.xi_c
    assert table.xi_c.shape == (3, 2)
    assert "<table" in table._repr_html_()


def test_answers_of_every_kind_have_a_table():
    weights = np.array([1.3, 2.0])
    phases = theory.phase("tanh", weight_var=weights, bias_var=0.05)
    assert phases.to_dataframe().phase.tolist() == ["ordered", "chaotic"]
    settled = theory.length_fixed_point("tanh", weight_var=weights)
    assert settled.length_fixed_point.shape == (2,)
    layers = theory.trajectory("tanh", depth=3, weight_var=weights, width=100).to_xarray()
    assert layers.q.dims == ("weight_var", "layer")
    assert layers.log_act_band_std.shape == (2, 3)
    edge = theory.critical("tanh", bias_var=[0.01, 0.09, 0.3])
    np.testing.assert_allclose(edge.weight_var, [1.42420529, 1.94765463, 2.50512719], rtol=1e-8)
    assert list(edge.to_dataframe().bias_var) == [0.01, 0.09, 0.3]


@pytest.mark.bad_input
@pytest.mark.parametrize(("ask", "error", "message"), [
    (lambda: theory.Ensemble("tanh", weight_var=[1.0, 2.0]), TypeError,
     r"weight_var must be one finite real number, got .* shape \(2,\); the functions of jinit.the"),
    (lambda: theory.phase("tanh", weight_var=[]), ValueError, "weight_var .* got an empty list"),
    (lambda: theory.phase("tanh", weight_var=np.ones((2, 2))), TypeError, r"of shape \(2, 2\)"),
    (lambda: theory.phase("tanh", weight_var=[1.0, -2.0]), ValueError, "must not be negative"),
    (lambda: theory.gain("tanh", q=[1.0, 2.0]), TypeError, "q must be one .* in a Python loop"),
    (lambda: theory.length_fixed_point("tanh", weight_var=[1.0, 2.0], all_points=True), ValueError,
     "with all_points answers with as many points as there are"),
    (lambda: theory.depth_scales("tanh", weight_var=[1.5]).xic, AttributeError, "mean 'xi_c'"),
    (lambda: jax.vmap(lambda w: theory.phase("tanh", weight_var=w))(jnp.ones(3)), TypeError,
     "weight_var must be a known number, got a value traced by jax; .* outside of jit, vmap"),
])  # fmt: skip
def test_what_makes_no_table_is_one_sentence(ask, error, message):
    with pytest.raises(error, match=message) as caught:
        ask()
    assert "\n" not in str(caught.value)
    assert "jax.vmap" not in str(caught.value)
