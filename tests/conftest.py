"""Strictness for the whole session, and one cache of compiled programs for all its processes.

Warnings are errors (pyproject.toml). Here jax is told to refuse implicit promotion of dtypes and
of ranks, so that a float64 that slips in, or a [n, 1] that broadcasts against [n], is an error in
the library and not a surprise in somebody's figure.

Three quarters of the time go into compiling. Many tests, workers and scripts compile the same
programs, hence the cache; and where a test is about what is computed, and not about the program
that XLA makes of it, XLA optimises little (`OPTIMISED` lists where it does as for users).

Every annotation of jinit is checked while the tests run (pyproject.toml gives the option to
jaxtyping's plugin), except in the body of a test marked `bad_input`, which would meet the checker
before jinit's own sentence. A test marked `script` starts programs of its own; no checker runs
there. So each test runs once.
"""

import os
import shutil
import tempfile
from pathlib import Path

CACHE = ""
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # before jax is imported, and for all children
    CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jinit-tests-")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile("jinit", deadline=None)  # a slow machine is no failure
hypothesis.settings.load_profile("jinit")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# A minute of tests, `pytest -m core`: files, or folders, that say most for their time.
CORE = (
    "test_house.py", "test_suite.py", "test_checks.py", "test_activations.py", "test_schemes.py",
    "test_data.py", "networks/test_linear_map.py", "networks/test_losses.py",
    "networks/test_scaled.py", "theory/moments/test_expectation.py", "theory/moments/test_roots.py",
    "theory/test_ensemble.py", "models/tracing/test_rules.py", "sweeps/test_sweep_grid.py",
)  # fmt: skip


# Compiled as for users: training, signals, sweeps, and what is compared with eager evaluation.
OPTIMISED = (
    "networks", "sweeps", "models/drawing/test_reinit.py", "test_benchmarks.py", "test_runtime.py",
    "test_tour.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`core` is given by path; what is `long` waits until it is asked for."""
    here = Path(__file__).parent
    slow = {"script", "long"}
    for item in items:
        path = item.path.relative_to(here)
        quick = slow.isdisjoint(mark.name for mark in item.iter_markers())
        if quick and any(path.is_relative_to(part) for part in CORE):
            item.add_marker("core")
    if "long" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_unconfigure() -> None:
    """Only the process that made the cache removes it."""
    if CACHE:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Fixtures included; programs that a test starts are compiled as ever."""
    path = item.path.relative_to(Path(__file__).parent)
    little = not any(path.is_relative_to(part) for part in OPTIMISED)
    jax.config.update("jax_disable_most_optimizations", little)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Forbidden input is met without the checker; fixtures have been made with it."""
    if item.get_closest_marker("bad_input") is None:
        return (yield)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def core_paths() -> tuple[str, ...]:
    return CORE


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(20)
