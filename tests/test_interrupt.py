"""Ctrl-C in a real terminal, at different moments, once or again and again."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import lth
from lth.lab import store

FLAGS = (
    "run digits --model.widths 16 --steps 400it --eval-every 100it --levels 4 "
    "--replicates 1 --rewind.to 5it"
).split()
# A job in the background is born deaf to Ctrl-C; this one must hear it.
CODE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from lth.cli import interrupt; interrupt.listen()\n"
    "print('listening', flush=True)\n"
    "from lth.__main__ import main; main()"
)


def in_terminal(runs, at="", after=0.0, times=0, number=signal.SIGINT):
    """Run in a terminal; Ctrl-C so often when it shows `at`: the exit code, the text.

    Another signal than SIGINT goes to the process itself.
    """
    command = [sys.executable, "-c", CODE, *FLAGS, "--runs", str(runs)]
    root = str(Path(lth.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "TERM": "xterm", "COLUMNS": "100"}
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, command, environment)
    text, pressed = "", False
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # closed, in Linux's words
            chunk = b""
        if not chunk:
            break
        text += chunk.decode(errors="replace")
        if times and not pressed and re.search(at, text):
            pressed = True
            time.sleep(after)
            for _ in range(times):
                if number == signal.SIGINT:
                    os.write(terminal, b"\x03")
                else:
                    os.kill(process, number)
                time.sleep(0.005)
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), text


MOMENTS = [  # in turn, on one run that each continues
    ("listening", 0.0, 20, signal.SIGINT),  # importing JAX
    ("listening", 0.3, 1, signal.SIGINT),
    ("compiling", 1.5, 20, signal.SIGINT),
    ("compiling", 1.0, 2, signal.SIGTERM),
    ("level 0 dense", 0.0, 20, signal.SIGINT),
    ("level 3 ticket", 0.0, 20, signal.SIGINT),
]
# Compiling may be over by then, and the training under way be saved.
STOPPED = (
    r"lth: stopped; what was finished is stored(, the training under way saved)?\. "
    "The same command continues:"
)


def test_ctrl_c_in_a_terminal_ends_cleanly_and_the_run_goes_on_to_the_same_bits(
    tmp_path,
):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    for at, after, times, number in MOMENTS:
        code, text = in_terminal(broken, at, after, times, number)
        assert code == 128 + number, text[-2000:]
        assert len(re.findall(STOPPED, text)) == 1
        assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is back
        assert "Traceback" not in text
        assert "Exception" not in text
    for runs in (broken, whole):
        code, text = in_terminal(runs)
        assert code == 0, text[-2000:]
    assert store.contents(broken) == store.contents(whole)


def test_a_program_in_which_python_hears_nothing_is_left_all_the_same():
    code = (
        "import hashlib; from lth.cli import interrupt\n"
        "interrupt.GRACE = 0.3; interrupt.listen(); print('listening', flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)  # an hour"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(lth.__file__).parents[1])},
    )
    assert process.stdout.readline() == b"listening\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert err == b"lth: stopped\n"


def test_a_warning_of_the_scheduler_saves_the_training_and_it_goes_on_from_there(
    tmp_path,
):
    flags = "run digits --model.widths 32 --steps 400000it --eval-every 200000it"
    flags += f" --levels 0 --replicates 1 --quiet --runs {tmp_path} --save-every 1s"
    command = [sys.executable, "-m", "lth", *flags.split()]
    root = str(Path(lth.__file__).parents[1])
    at = 0
    for number in (signal.SIGUSR1, signal.SIGTERM):
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
        )
        while saved(tmp_path) <= at and process.poll() is None:
            time.sleep(0.05)
        at = saved(tmp_path)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 143, err.decode()[-2000:]
        assert b"stored, the training under way saved. The same command" in err
        assert saved(tmp_path) >= at
        at = saved(tmp_path)
    (log,) = tmp_path.glob("*/log.jsonl")
    assert log.read_text().count('"resumed"') == 1


def saved(runs):
    """The step at which the training under way is saved; -1 if it is not yet."""
    there = [store.training(path.parent) for path in runs.glob("*/training")]
    return max((int(name.removeprefix("step_")) for name in there if name), default=-1)
