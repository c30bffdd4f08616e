"""Ctrl-C, SIGTERM and SIGUSR1, which end the command from wherever it is.

A training under way asks again and again whether it is to stop (`asked`); it is given
the time to save where it stands, unless a second signal comes. Anywhere else the run
directory is whole, and all that is left to do is to say how to go on and to leave at
once. An exception would not do: raised inside a callback it gets lost,
inside a module written in C++ it may abort, and at its own end Python takes JAX apart
while programs of it are still running, which now and then is a segmentation fault.

Only the writing of a checkpoint is waited for; it holds signals back. A long compiled
program is not: there a thread leaves in place of Python, which hears signals only
between its own instructions.
"""

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from typing import Any

GRACE = 5.0  # seconds that Python has to hear a signal
PATIENCE = 20.0  # seconds that a training has to save where it stands
ASKS = 10.0  # seconds after which a training that has not asked is not under way
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is Slurm's warning

SAVING = b"lth: saving the training under way; a second signal leaves at once\n"

_leaving = threading.Lock()
_signals: list[int] = []  # those that came
_asked: list[float] = [float("-inf")]  # when a training asked last


def listen() -> None:
    """End the process at a signal from here on, and say how to go on.

    A process that was born deaf to Ctrl-C, in the background of a shell, stays so.
    """
    if signal.getsignal(signal.SIGTERM) == _heard:
        return  # it listens already
    pipe, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _heard)


def asked() -> bool:
    """Return whether a signal came, asked by a training that will save and stop."""
    _asked[0] = time.monotonic()
    return bool(_signals)


def signalled() -> bool:
    """Return whether a signal came."""
    return bool(_signals)


def leave(saved: str = "") -> None:
    """End the process as the signal that came has it; `saved` says what was."""
    _end(_signals[0], saved)


def close() -> None:
    """Take no more signals: the command is done, and its exit code stands."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _heard(number: int, _: Any) -> None:
    _signals.append(number)
    training = time.monotonic() - _asked[0] < ASKS
    if len(_signals) == 1 and training:
        with contextlib.suppress(OSError):
            os.write(2, b"\r\x1b[2K" * os.isatty(2) + SAVING)
        return  # the training asks soon; `_watch` leaves if it does not
    _end(_signals[0], "")


def _end(number: int, saved: str) -> None:
    if not _leaving.acquire(blocking=False):
        return  # the first signal is being answered
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # in midst of a write
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, _words(saved).encode(errors="replace"))
    # A job that is warned is one that is ended: Slurm knows the code of that.
    os._exit(128 + (signal.SIGTERM if number == signal.SIGUSR1 else number))


def _watch(pipe: int) -> None:
    while (number := os.read(pipe, 1)[0]) not in SIGNALS:
        continue
    waited = 0.0
    while waited < (PATIENCE if _signals else GRACE):
        time.sleep(0.1)
        # Another handler is that of a checkpoint which is being written.
        waited += 0.1 * (signal.getsignal(number) == _heard)
    _end(number, "")


def _words(saved: str) -> str:
    """What to say at the end; in a terminal, in place of the bar there may be."""
    text = "lth: stopped"
    if sys.argv[1:2] in (["run"], ["supermask"], ["branch"], ["sweep"]):
        again = shlex.join(["lth", *sys.argv[1:]])
        text += f"; what was finished is stored{saved}. The same command continues:\n"
        text += f"  {again}"
    clear = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""  # and show the cursor
    return f"{clear}{text}\n"
