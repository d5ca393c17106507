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
import jaxlib  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from jax._src import compiler  # noqa: E402

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


# Compiled as for users: drawing, training and sweeps, numbers at the edge of float32, and what is
# the same bit for bit, mapped or looped, eager or not. Folders, files or tests.
OPTIMISED = (
    "sweeps", "test_benchmarks.py", "test_runtime.py",
    "networks/test_batch_norm.py", "networks/test_linear_map.py", "networks/test_losses.py",
    "networks/test_mlp.py", "networks/test_params.py", "networks/test_scaled.py",
    "networks/test_training.py",
    "networks/test_correlations.py::test_mapped_over_seeds_and_gains_equals_one_by_one_in_one_trace",
    "networks/test_correlations.py::test_near_one_nothing_cancels",
    "networks/test_correlations.py::test_they_are_right_where_lengths_leave_float32",
    "networks/test_jacobian_measured.py::test_mapped_over_seeds_equals_one_by_one_in_one_trace",
    "networks/test_layer.py::test_a_branch_far_below_the_stream_has_its_gradient",
    "networks/test_network.py::test_mapped_equals_one_by_one_in_one_trace_with_records_and_dropout",
    "networks/test_network.py::test_a_run_in_two_parts_is_the_run_in_one",
    "networks/test_signals.py::test_mapped_equals_looped_and_eager_equals_jitted",
    "models/drawing/test_reinit.py::test_mapped_over_keys_is_a_loop",
    "models/drawing/test_reinit.py::test_many_gains_are_one_trace_and_mapped_gains_a_loop",
    "models/drawing/test_reinit.py::test_numbers_that_are_not_finite_change_no_draw",
    "models/drawing/test_reinit.py::test_the_automatic_gain_inside_a_jit",
)  # fmt: skip


def is_optimised(item: pytest.Item) -> bool:
    path = item.path.relative_to(Path(__file__).parent)
    test = f"{path.as_posix()}::{getattr(item, 'originalname', item.name)}"
    return test in OPTIMISED or any(path.is_relative_to(part) for part in OPTIMISED)


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


@pytest.fixture(scope="session", autouse=True)
def plain_loops():
    """Where XLA optimises little, jaxlib 0.10 also writes its loops itself instead of by MLIR.

    MLIR takes half of the time of compiling. Later versions have no other way.
    """
    if not jaxlib.__version__.startswith("0.10."):
        yield
        return
    options_of = compiler.get_compile_options

    def options(*args, **kwargs):
        made = options_of(*args, **kwargs)
        if jax.config.read("jax_disable_most_optimizations"):
            made.env_option_overrides = [
                *made.env_option_overrides,
                ("xla_cpu_use_fusion_emitters", False),
            ]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", options)
        yield


def pytest_unconfigure() -> None:
    """Only the process that made the cache removes it."""
    if CACHE:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Fixtures included; programs that a test starts are compiled as ever."""
    jax.config.update("jax_disable_most_optimizations", not is_optimised(item))
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
def optimised_paths() -> tuple[str, ...]:
    return OPTIMISED


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(20)
