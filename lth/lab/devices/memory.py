"""How much memory a device has, and what to say when that is too little."""

import os
import re
from pathlib import Path
from typing import Any

import jax

ADVICE = (
    "Lower --batch-size, --replicates, --model.width or --model.widths, or choose "
    "--model.remat or --model.compute bfloat16"
)

CGROUP = (  # what a container may use, by version 2 and 1 of control groups
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class MemoryTooSmallError(RuntimeError):
    """A program asks for more memory than its device has; the message says how much."""


def check_program(compiled: Any) -> None:
    """Refuse a compiled program that asks for more memory than the device has."""
    sizes = compiled.memory_analysis()
    if sizes is None:  # some devices do not say
        return
    asked = (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        + sizes.temp_size_in_bytes
        - sizes.alias_size_in_bytes
    )
    check_bytes(asked, "this program")


def check_bytes(asked: int, what: str) -> None:
    """Refuse what asks for more bytes than a device has."""
    most = limit()
    if most is not None and asked > most:
        raise MemoryTooSmallError(
            f"{what} asks for {asked} bytes ({asked / 2**30:.1f} GiB) of a device's "
            f"memory, which has {most} ({most / 2**30:.1f} GiB). {ADVICE}"
        )


def is_too_much(error: Exception) -> bool:
    """Whether an error says that a device has too little memory."""
    return isinstance(error, MemoryTooSmallError) or "RESOURCE_EXHAUSTED" in str(error)


def out_of_memory(error: Exception) -> str:
    """Say what became of a device's memory, in place of the error that it ran out."""
    asked = re.search(r"[\d.]+ ?(?:[KMGT]iB|[KMGT]B|bytes)\b", str(error))
    what = f"it asked for {asked[0]}, more than is left" if asked else str(error)
    return f"the device's memory is too small: {what}. {ADVICE}"


def limit() -> int | None:
    """The bytes of memory of a device, as far as it is known."""
    found = jax.local_devices()[0].memory_stats() or {}
    return found.get("bytes_limit", machine())


def machine() -> int | None:
    """The bytes of memory that processes of this machine may use, as far as known."""
    texts = [path.read_text().strip() for path in CGROUP if path.exists()]
    known = [int(text) for text in texts if text.isdigit()]  # else it is `max`
    if "SC_PHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known, default=None)


def resident() -> int:
    """The bytes of memory that this process holds; 0 where that is not told."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
