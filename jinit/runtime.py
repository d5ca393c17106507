"""The machine: what it is called, how programs are compiled for it, trouble known in jax."""

import ctypes
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp

from jinit import checks

P = ParamSpec("P")
T = TypeVar("T")


def device_name() -> str:
    """The device that jax computes on, in words: `cpu (2 cores)` or `NVIDIA H200`."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        number = cores()
        return f"cpu ({number} core{'s' if number != 1 else ''})"
    return f"{device.device_kind} ({device.platform})"


def device_trouble() -> str:
    """Why jax cannot start on any device, as a sentence; "" where it can."""
    try:
        device_name()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS")
        where = f"the device that JAX_PLATFORMS={asked} asks for" if asked else "any device"
        said = str(error).splitlines()[0] if str(error) else "there is none"
        return (
            f"jax cannot start on {where} ({said}); use JAX_PLATFORMS=cpu, or install jinit[cuda] "
            f"or jinit[tpu]."
        )
    return ""


def check_device() -> None:
    """There is a device to compute on.

    Raises:
        RuntimeError: with what to do.
    """
    if trouble := device_trouble():
        raise RuntimeError(trouble)


def memory_limit(device: jax.Device) -> int | None:
    """Bytes that this process may take of an accelerator's memory; None where it does not tell."""
    if device.platform == "cpu":
        return None
    return (device.memory_stats() or {}).get("bytes_limit")


_DEVICES = "--xla_force_host_platform_device_count"
_THREADS = "--xla_cpu_multi_thread_eigen"


def configure(*, cpu_devices: int | None = None, matmul_precision: str | None = None) -> None:
    """Give jax one device per CPU core, each with single-threaded products.

    For many small networks this is faster than threads inside one product: `jinit.sweep` then runs
    as many groups at a time as there are cores. Call it before anything is computed; accelerators
    are left as they are, and so is what XLA_FLAGS says already.

    On Linux the process also keeps memory that is freed, up to its highest need, until it ends. A
    compiled program asks for its temporaries anew at every call, and of large ones every page would
    be made, zeroed and given back each time: half of the time of a gradient through 300 layers.

    Args:
        cpu_devices: how many; None is the number of cores this process may use.
        matmul_precision: of products where a network is trained, as jax's setting
            `jax_default_matmul_precision` has it ("highest" is float32 on every chip); None leaves
            that as it is. What jinit measures is in full float32 whatever is set.

    Raises:
        RuntimeError: jax has started with other settings.
        ValueError: a precision that jax does not know.
    """
    if matmul_precision is not None:
        _set_precision(matmul_precision)
    _keep_freed_memory()
    wanted = cores() if cpu_devices is None else checks.count("cpu_devices", cpu_devices)
    flags = os.environ.get("XLA_FLAGS", "")
    config: Any = jax.config  # whose settings the type checker does not know
    try:
        if _DEVICES not in flags and config.jax_num_cpu_devices != wanted:
            config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:
        if jax.default_backend() == "cpu" and jax.local_device_count() != wanted:
            raise RuntimeError(
                f"jinit.configure must be called before jax computes anything, got a jax that has "
                f"started with {jax.local_device_count()} devices instead of {wanted}; call it "
                f"right after the imports."
            ) from None
        return
    if _THREADS not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_THREADS}=false".strip()


_PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")
"""those that jax knows on every platform"""


def _set_precision(name: str) -> None:
    config: Any = jax.config
    try:
        config.update("jax_default_matmul_precision", name)
    except (ValueError, TypeError):
        raise ValueError(
            f"matmul_precision must be one of {', '.join(map(repr, _PRECISIONS))}, or another that "
            f"jax_default_matmul_precision takes, got {checks.shown(name)}"
            f"{checks.suggestion(name, _PRECISIONS)} 'highest' is full float32."
        ) from None


def _keep_freed_memory() -> None:
    """Take large arrays from the heap, and give none of it back: glibc's mallopt."""
    if sys.platform != "linux" or any(name in os.environ for name in _MALLOC):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    trim_threshold, mmap_max = -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


_MALLOC = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def jit_once(function: Callable[..., T], *, level: int = 2) -> Callable[..., T]:
    """`jax.jit` for a program that runs once: less optimisation, for half the compile time.

    On a GPU nothing is tried out to find the fastest kernels either, which takes longest there.

    Args:
        function: what to compile.
        level: XLA's and LLVM's optimisation level, 0 to 3; jax's own is 3. Measured on two cores,
            level 1 draws a network after 0.8 s of compiling instead of 4.6 s, in the same time.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> T:
        return jitted(_platform())(*args, **kwargs)

    @functools.cache
    def jitted(platform: str) -> Callable[..., T]:
        options = {"xla_backend_optimization_level": level} | _ONCE.get(platform, {})
        return cast("Callable[..., T]", jax.jit(function, compiler_options=options))

    return call


_ONCE: dict[str, dict[str, bool | int | str]] = {"gpu": {"xla_gpu_autotune_level": 0}}
"""options of the compiler for what runs once, by platform"""


def _platform() -> str:
    """Where jax computes now, as far as nobody has placed an array elsewhere."""
    config: Any = jax.config
    device = config.jax_default_device
    return str(getattr(device, "platform", device) or jax.default_backend())


def measured(function: Callable[P, T]) -> Callable[P, T]:
    """The function with its products in full float32, whatever jax is set to.

    On GPUs and TPUs jax multiplies float32 with 10-bit mantissas, or fewer, unless told otherwise,
    which adds up over layers (docs/decisions/precision.md). Also within somebody's `jit` or `vmap`.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return call


_HARMLESS = (_DEVICES, _THREADS)
"""how many devices and threads there are changes no bit"""


def numerics() -> dict[str, Any]:
    """The settings that the numbers of a program depend on, beside the device and jax itself."""
    config: Any = jax.config  # whose settings the type checker does not know
    flags = os.environ.get("XLA_FLAGS", "").split()
    return {
        "x64": bool(config.jax_enable_x64),
        "matmul_precision": str(config.jax_default_matmul_precision),
        "threefry_partitionable": bool(config.jax_threefry_partitionable),
        "xla_flags": sorted(flag for flag in flags if not flag.startswith(_HARMLESS)),
    }


class Pace(NamedTuple):
    """How fast this machine is, by one small network that is trained."""

    compile_seconds: float
    flops: float
    """per second, of all devices together"""


def pace() -> Pace:
    """Compile and run fifty steps of a small network, within a second."""
    devices = jax.local_device_count()
    side, steps, networks = 64, 50, 8 if jax.default_backend() == "cpu" else 2048

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(x @ w @ w))

    def train(w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, steps, lambda _, w: w - 1e-4 * jax.grad(loss)(w), w)

    x = jnp.ones((side, side), jnp.float32)
    ws = jnp.zeros((networks, side, side), jnp.float32)
    started = time.perf_counter()
    with _unkept():
        program = jax.jit(jax.vmap(train)).lower(ws).compile()
    compiled = time.perf_counter()
    program(ws).block_until_ready()  # the first call also loads it
    loaded = time.perf_counter()
    program(ws).block_until_ready()
    seconds = time.perf_counter() - loaded
    return Pace(compiled - started, devices * networks * steps * 12 * side**3 / seconds)


@contextmanager
def _unkept() -> Iterator[None]:
    """What is compiled within is not kept by jax's cache on disk, and so is never found there.

    But on a GPU for how it was tuned, which is kept apart: there a second pace is too fast.
    """
    config: Any = jax.config
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(config, name)
    config.update(name, math.inf)
    try:
        yield
    finally:
        config.update(name, before)


def keys_after(keys: jax.Array, draws: jax.Array) -> jax.Array:
    """The same keys, but not before `draws` are finished.

    jaxlib 0.10 on CPU now and then never returns from two batched QR decompositions that run at
    the same time (seen with 0.10.2 on two cores within a few hundred calls, not with 0.12.0), as
    two runs of orthogonal layers do under vmap. A false dependence puts one behind the other.
    """
    if jax.__version_info__ >= (0, 12):
        return keys
    first = jnp.ravel(draws)[0]
    never = (jnp.isnan(first) & jnp.isinf(first)).astype(jnp.uint32)
    impl = jax.random.key_impl(keys)
    return jax.random.wrap_key_data(jax.random.key_data(keys) + never, impl=impl)
