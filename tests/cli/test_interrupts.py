"""Ctrl-C at any instant: one line, status 130, nothing half written."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from jinit.cli import interrupts
from tests.shell import command

pytestmark = pytest.mark.script


@pytest.fixture(autouse=True)
def as_in_the_foreground():
    """A shell that runs a suite in the background lets it ignore Ctrl-C, and all that it starts."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(arguments, seconds, folder, number=signal.SIGINT):
    """A process that gets the signal after so long; its status and what it said of it."""
    begun = subprocess.Popen(
        command(*arguments), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    time.sleep(seconds)
    begun.send_signal(number)
    said = begun.communicate(timeout=300)[1]
    return begun.returncode, [own for own in said.splitlines() if not own.startswith("jinit.")]


SWALLOWS = """
import sys, time

def make():
    print("ready", file=sys.stderr, flush=True)
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
"""


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_no_except_swallows_it(number, tmp_path):
    (tmp_path / "mine.py").write_text(SWALLOWS)
    begun = subprocess.Popen(
        command("diagnose", "mine:make"), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert begun.stderr.readline() == "ready\n"
    begun.send_signal(number)
    said = begun.communicate(timeout=60)[1]
    assert begun.returncode == 128 + number
    assert said == (
        "jinit: interrupted; nothing of this run is kept. To begin again: "
        "python -m jinit diagnose mine:make\n"
    )


def test_it_does_not_wait_for_compiled_code(tmp_path):
    """A call of C that a signal does not end: the watcher ends the process a second later."""
    program = (
        "import ctypes, os, signal, threading\n"
        "from jinit.cli import interrupts\n"
        "interrupts.guard()\n"
        "threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "libc = ctypes.CDLL(None)\n"
        "mutex = ctypes.create_string_buffer(64)\n"
        "libc.pthread_mutex_init(mutex, None)\n"
        "libc.pthread_mutex_lock(mutex)\n"
        "libc.pthread_mutex_lock(mutex)\n"  # for ever, without the interpreter's lock
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 130
    assert done.stderr.startswith("jinit: interrupted; ")
    assert time.monotonic() - started < 30


def test_the_line_says_what_is_kept_and_how_to_go_on(monkeypatch):
    monkeypatch.setattr("sys.argv", ["jinit", "tour", "--out", "my tour", "--overwrite"])
    kept = interrupts.Kept("two chapters are kept", "go on", ("--resume",), ("--overwrite",))
    with interrupts.keeping(lambda: kept):
        assert interrupts.line() == (
            "jinit: interrupted; two chapters are kept. To go on: "
            "jinit tour --out 'my tour' --resume"
        )
    with interrupts.keeping(lambda: 1 / 0):
        assert interrupts.line().startswith("jinit: interrupted; finished work is kept. To go on: ")


COMMANDS = {
    "theory": ("theory", "gelu", "--plot", "a.png", "--overwrite"),
    "map": ("map", "--depth", "2", "--gain", "0.5", "2", "3", "--seeds", "2", "--store", "s.zarr"),
    "training": ("map", "--depth", "2", "--gain", "0.5", "2", "3", "--seeds", "2", "--steps", "5"),
    "tour": ("tour", "--quick", "--out", "tour", "--overwrite"),
    "schemes": ("schemes",),
}


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_at_any_instant(name, tmp_path):
    """From the imports on: before them it is Python's own."""
    chosen = random.Random(name)
    for _ in range(4):
        seconds = 0.2 + 10 ** chosen.uniform(-1.5, 1.5 if name == "tour" else 0.8)
        shutil.rmtree(tmp_path / "tour", ignore_errors=True)
        status, said = interrupted(COMMANDS[name], seconds, tmp_path)
        if status == 0:  # it was faster
            continue
        assert status == 130
        assert len(said) == 1
        assert said[0].startswith("jinit: interrupted; ")
        assert not [file for file in tmp_path.rglob("*") if "partial" in file.name]
        if name == "tour" and (tmp_path / "tour/tour.json").exists():
            kept = json.loads((tmp_path / "tour/tour.json").read_text())["chapters"]
            assert f"of 6 {'is' if len(kept) == 1 else 'are'} kept in tour. To go on: " in said[0]
            assert said[0].endswith("jinit tour --quick --out tour --resume")
