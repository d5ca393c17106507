"""Strictness for the whole session, and one cache of compiled programs for all its processes.

Warnings are errors (pyproject.toml). Here jax is told to refuse implicit promotion of dtypes and
of ranks, so that a float64 that slips in, or a [n, 1] that broadcasts against [n], is an error in
the library and not a surprise in somebody's figure.

Most of the time goes into compiling, and many tests, workers and scripts compile the same programs.
"""

import os
import shutil
import tempfile

CACHE = ""
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # before jax is imported, and for all children
    CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jinit-tests-")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile("jinit", deadline=None)  # a slow machine is no failure
hypothesis.settings.load_profile("jinit")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure() -> None:
    """Only the process that made the cache removes it."""
    if CACHE:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(20)
