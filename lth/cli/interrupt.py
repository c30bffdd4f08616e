"""Ctrl-C and SIGTERM, which end the command from wherever it is.

A run directory is whole at any moment, so all that is left to do is to say how to go on
and to leave at once. An exception would not do: raised inside a callback it gets lost,
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
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_leaving = threading.Lock()


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


def close() -> None:
    """Take no more signals: the command is done, and its exit code stands."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _heard(number: int, _: Any) -> None:
    if not _leaving.acquire(blocking=False):
        return  # the first signal is being answered
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # in midst of a write
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, _words().encode(errors="replace"))
    os._exit(128 + number)


def _watch(pipe: int) -> None:
    while (number := os.read(pipe, 1)[0]) not in SIGNALS:
        continue
    waited = 0.0
    while waited < GRACE:
        time.sleep(0.1)
        # Another handler is that of a checkpoint which is being written.
        waited += 0.1 * (signal.getsignal(number) == _heard)
    _heard(number, None)


def _words() -> str:
    """What to say at the end; in a terminal, in place of the bar there may be."""
    text = "lth: stopped"
    if sys.argv[1:2] in (["run"], ["supermask"]):
        again = shlex.join(["lth", *sys.argv[1:]])
        text += f"; what was finished is stored. The same command continues:\n  {again}"
    clear = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""  # and show the cursor
    return f"{clear}{text}\n"
