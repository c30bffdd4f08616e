"""A guard against compilers that are known to compute wrong numbers.

It runs when `lth` is imported, before JAX is: XLA reads its flags once, when the first
program is compiled or the first device is looked for. Nothing here imports JAX unless
that has happened already.
"""

import os
import sys
import warnings
from importlib import metadata
from typing import NamedTuple


class Fault(NamedTuple):
    """What is wrong with a jaxlib on the CPU, and the flag that repairs it."""

    flag: str
    value: str
    issues: str


# With these jaxlibs, large reductions fused by YNN skip rows (39103: sums of
# 40 001 rows, 7 230 of them wrong) or kill the process (39257, 40412). Both were tried
# on 0.10.0 to 0.12.0.1: the others compute right. The flag takes reductions from YNN.
# A version that does not know a flag ends the process, so none is set for versions that
# are not listed.
_REDUCTIONS = ("--xla_cpu_experimental_ynn_fusion_type", "-reduce")
FAULTS = {
    "0.10.2": Fault(*_REDUCTIONS, "jax issues 39103, 39257, 40412"),
    "0.11.0": Fault(*_REDUCTIONS, "jax issue 39257"),
}


DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def guard() -> None:
    """Set the flag that repairs the installed jaxlib, or warn that it is too late.

    The environment variable `XLA_FLAGS` keeps what the user set; a user's own value of
    the same flag stays, with a warning where it does not repair.
    """
    fault = FAULTS.get(version())
    if fault is None or repaired(fault):
        return
    flags = os.environ.get("XLA_FLAGS", "")
    setting = f"{fault.flag}={fault.value}"
    if fault.flag in flags:
        wrong = f"XLA_FLAGS has another value of {fault.flag} than {fault.value}"
    elif started():
        wrong = (
            "JAX was used before lth was imported, too late to set a flag: import lth "
            f"first, or start Python with XLA_FLAGS={setting}"
        )
    else:
        os.environ["XLA_FLAGS"] = f"{flags} {setting}".strip()
        return
    warnings.warn(
        f"on CPUs, jaxlib {version()} computes wrong numbers in large reductions "
        f"({fault.issues}), and {wrong}",
        RuntimeWarning,
        stacklevel=3,
    )


def make_deterministic() -> None:
    """Have GPUs add up in a fixed order, so that they give the same bits again.

    Without it XLA may use atomic additions, whose order is that of chance. On CPUs
    nothing changes. Raises RuntimeError where JAX has read its flags already.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC in flags.split():
        return
    if started():
        raise RuntimeError(
            "JAX was used already, too late to set a flag: start Python with "
            f"XLA_FLAGS={DETERMINISTIC}"
        )
    os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()


def note() -> str:
    """What a run's record says of the compiler: nothing where no fault is known."""
    fault = FAULTS.get(version())
    if fault is None:
        return ""
    if repaired(fault):
        return f"reductions not fused by YNN, for {fault.issues}"
    return f"reductions on CPUs can be wrong: {fault.issues}"


def version() -> str:
    """The version of the installed jaxlib, or nothing where there is none."""
    try:
        return metadata.version("jaxlib")
    except metadata.PackageNotFoundError:
        return ""


def repaired(fault: Fault) -> bool:
    """Whether `XLA_FLAGS` takes reductions from YNN, alone or with all else."""
    for setting in os.environ.get("XLA_FLAGS", "").split():
        flag, _, value = setting.partition("=")
        if flag == fault.flag:
            return value == "" or fault.value in value.split(",")
    return False


def started() -> bool:
    """Whether JAX has a device already, and so has read the flags."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    initialized = getattr(bridge, "backends_are_initialized", None)
    return bool(initialized and initialized())
