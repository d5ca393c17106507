"""Strictness for the whole session, at no cost in run time.

Warnings are errors (pyproject.toml). Here jax is told to refuse implicit promotion of dtypes and
of ranks, so that a float64 that slips in, or a [n, 1] that broadcasts against [n], is an error in
the library and not a surprise in somebody's figure.
"""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(20)
