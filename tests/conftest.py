"""Strictness for the whole session, and one cache of compiled programs for all its processes.

Warnings are errors (pyproject.toml). Here jax is told to refuse implicit promotion of dtypes and
of ranks, so that a float64 that slips in, or a [n, 1] that broadcasts against [n], is an error in
the library and not a surprise in somebody's figure.

Three quarters of the time go into compiling. Many tests, workers and scripts compile the same
programs, hence the cache; and where a test is about what is computed, and not about the program
that XLA makes of it, XLA optimises little (tests/selection.py lists where it does as for users).

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
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared by them
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxlib  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from jax._src import compiler  # noqa: E402

from tests.selection import ALWAYS, COLLECTED, CORE, LONG, OPTIMISED  # noqa: E402

hypothesis.settings.register_profile("jinit", deadline=None)  # a slow machine is no failure
hypothesis.settings.load_profile("jinit")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def name_of(item: pytest.Item) -> str:
    """Path from this folder and name, without the setting, as tests/selection.py writes it."""
    path = item.path.relative_to(Path(__file__).parent)
    return f"{path.as_posix()}::{getattr(item, 'originalname', item.name)}"


def setting_of(item: pytest.Item) -> str:
    """The same with the setting."""
    return f"{item.path.relative_to(Path(__file__).parent).as_posix()}::{item.name}"


def is_within(item: pytest.Item, places: tuple[str, ...]) -> bool:
    path = item.path.relative_to(Path(__file__).parent)
    return name_of(item) in places or any(path.is_relative_to(place) for place in places)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`core` and most of what is `long` are given by name; `long` and `public` are asked for."""
    config.stash[COLLECTED] = frozenset(map(setting_of, items))
    for item in items:
        always = ALWAYS.get(name_of(item))
        if always is not None and item.callspec.id not in always:
            item.add_marker("long")
        if name_of(item) in LONG or setting_of(item) in LONG:
            item.add_marker("long")
        if is_within(item, CORE) and not {"script", "long"} & {m.name for m in item.iter_markers()}:
            item.add_marker("core")
    for asked_for in ("long", "public"):
        if asked_for not in config.getoption("markexpr"):
            left_out = [item for item in items if item.get_closest_marker(asked_for)]
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session", autouse=True)
def compiled_quickly():
    """Compiling takes most of the time of the tests that are not `OPTIMISED`.

    There one thread writes a program's code, since two workers share the cores. jaxlib 0.10 also
    writes loops itself instead of by MLIR, which takes half of the time of compiling; later
    versions have no other way.
    """
    chosen = [("xla_cpu_parallel_codegen_split_count", 1)]
    if jaxlib.__version__.startswith("0.10."):
        chosen.append(("xla_cpu_use_fusion_emitters", False))
    if jax.default_backend() != "cpu":  # which multiplies float32 with fewer bits by default
        jax.config.update("jax_default_matmul_precision", "highest")
    options_of = compiler.get_compile_options

    def options(*args, **kwargs):
        made = options_of(*args, **kwargs)
        if jax.config.read("jax_disable_most_optimizations"):
            made.env_option_overrides = [*made.env_option_overrides, *chosen]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", options)
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cpu") is not None and jax.default_backend() != "cpu":
        pytest.skip("about what a CPU does")


def pytest_unconfigure() -> None:
    """Only the process that made the cache removes it."""
    if CACHE:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Fixtures included; programs that a test starts are compiled as ever."""
    jax.config.update("jax_disable_most_optimizations", not is_within(item, OPTIMISED))
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
def key() -> jax.Array:
    return jax.random.key(20)
