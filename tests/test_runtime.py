"""The machine: its name, programs that run once, and the way round a hang in jaxlib 0.10."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.runtime import _MALLOC, _platform, configure, device_name, jit_once, keys_after, pace

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def in_fresh_python(code, timeout=120):
    root = str(Path(jinit.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_device_has_a_name():
    name = device_name()
    assert jax.devices()[0].platform in name
    if jax.default_backend() == "cpu":
        assert name.split("(")[1].split()[0].isdigit()


def test_waiting_changes_no_key():
    keys = jax.random.split(jax.random.key(0), 3)
    for draws in (jnp.ones((2, 2)), jnp.full((1,), jnp.inf)):
        after = jax.jit(keys_after)(keys, draws)
        np.testing.assert_array_equal(jax.random.key_data(after), jax.random.key_data(keys))
        assert jax.random.key_impl(after) == jax.random.key_impl(keys)


@pytest.mark.parametrize("level", [0, 2])
def test_a_program_compiled_once_computes_the_same(level):
    def f(key):
        params, state = jinit.init(key, jinit.MLP((3, 4, 2), norm="batch"), "he")
        return jinit.forward(jinit.MLP((3, 4, 2), norm="batch"), params, state, X, train=True)[0]

    key = jax.random.key(0)
    np.testing.assert_allclose(jit_once(f, level=level)(key), jax.jit(f)(key), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("platform", "options"),
    [("cpu", {"xla_backend_optimization_level": 1}), ("tpu", {"xla_backend_optimization_level": 1}),
     ("gpu", {"xla_backend_optimization_level": 1, "xla_gpu_autotune_level": 0})],
)  # fmt: skip
def test_what_runs_once_is_compiled_with_the_options_of_its_platform(
    platform, options, monkeypatch
):
    """XLA knows every name of them, on any platform."""
    given, real = [], jax.jit
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "jit", lambda f, **how: given.append(how) or real(f, **how))
    once = jit_once(lambda x: x + 1, level=1)
    assert given == []  # the platform is asked for when there is something to compute
    assert [float(once(jnp.float32(i))) for i in range(2)] == [1, 2]
    assert given == [{"compiler_options": options}]


def test_the_pace_of_compiling_is_never_that_of_a_cache(caplog):
    """What a map would take is told from it, also when nothing of the map is kept."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    with caplog.at_level(logging.DEBUG, "jax._src.compiler"):
        for _ in range(2):
            assert pace().compile_seconds > 0
    said = [each.getMessage() for each in caplog.records if "'jit_train'" in each.getMessage()]
    assert any("MISS" in each or "Not writing" in each for each in said)
    assert not [each for each in said if "cache hit" in each]
    assert jax.config.jax_persistent_cache_min_compile_time_secs == before


def test_a_default_device_tells_the_platform():
    assert _platform() == jax.default_backend()
    with jax.default_device(jax.devices()[0]):
        assert _platform() == jax.devices()[0].platform


@pytest.mark.script
def test_many_calls_of_mapped_orthogonal_layers_return():
    """On jaxlib 0.10.2 two batched QR decompositions at once now and then never return.

    Without `keys_after` this very program hung in every trial.
    """
    out = in_fresh_python(
        "import jax, jinit\n"
        "net = jinit.MLP((32, 64, 64, 64, 64, 10))\n"
        "f = jax.jit(jax.vmap(lambda k: jinit.init(k, net, 'orthogonal')[0]))\n"
        "keys = jax.random.split(jax.random.key(0), 33)\n"
        "for _ in range(200): jax.block_until_ready(f(keys))\n"
        "print('done')",
        timeout=150,
    )
    assert out == "done"


@pytest.mark.script
def test_configure_gives_every_core_a_device_and_may_be_called_again():
    out = in_fresh_python(
        "import jinit\njinit.configure(cpu_devices=3)\nimport jax\n"
        "print(jax.local_device_count())\njinit.configure(cpu_devices=3)\n"
        "import os; print(os.environ['XLA_FLAGS'])"
    )
    assert out.splitlines()[0] == "3"
    assert out.splitlines()[1].split().count("--xla_cpu_multi_thread_eigen=false") == 1


@pytest.mark.cpu
@pytest.mark.bad_input
def test_configure_after_jax_has_started_says_so(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # and restore it afterwards
    assert jax.local_device_count() == 1
    with pytest.raises(
        RuntimeError, match=r"started with 1 devices instead of 7; call it right af"
    ):
        configure(cpu_devices=7)
    configure(cpu_devices=1)  # as it is already
    with pytest.raises(ValueError, match="cpu_devices must be an integer of at least 1, got 0"):
        configure(cpu_devices=0)


@pytest.mark.script
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
@pytest.mark.parametrize(
    ("before", "setting", "kept"),
    [
        ("", {}, False),
        ("jinit.configure()", {}, True),
        # Dask's Nanny leaves this one in the environment of every process that it starts.
        ("jinit.configure()", {"MALLOC_TRIM_THRESHOLD_": "65536"}, False),
    ],
)
def test_configure_keeps_memory_that_is_freed(monkeypatch, before, setting, kept):
    for name in _MALLOC:
        monkeypatch.delenv(name, raising=False)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    out = in_fresh_python(
        f"import jinit, numpy as np, resource\n{before}\n"
        "pages = lambda: int(open('/proc/self/statm').read().split()[1])\n"
        "made = np.ones(2**26)\nheld = pages()\ndel made\n"
        "print((held - pages()) * resource.getpagesize())"
    )
    given_back = int(out)
    assert (given_back < 2**28) == kept  # of 2**29; the system may take some by itself
