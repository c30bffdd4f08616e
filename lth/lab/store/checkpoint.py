"""One checkpoint on disk: a tree of arrays, whole or not at all, with a digest.

A checkpoint appears under its name only when it is whole, and is never written again.
Its digest is checked when it is read.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as v0
from orbax.checkpoint import v1 as ocp

# Words of the system's errors that others say too, of what is no storage.
UNTOLD = {errno.EINVAL, errno.EDOM, errno.ERANGE, errno.ENOENT}


# Where Orbax puts what is said of a checkpoint; reading it through Orbax takes 10 ms.
METADATA = "_CHECKPOINT_METADATA"
EMPTY: Mapping[str, Any] = MappingProxyType({})

# Who tells the tracebacks of Orbax's threads, and of callbacks that come too late.
LOGGERS = ("absl", "asyncio", "concurrent.futures")


class StoreError(RuntimeError):
    """A run directory is damaged, or cannot be read or written: which and why."""


class ForeignError(StoreError):
    """A checkpoint is in another's place."""


def save(path: Path, tree: dict[str, Any], about: Mapping[str, Any] = EMPTY) -> None:
    """Store a dict of trees of arrays under `path`, and what it is `about`."""
    path = path.absolute()  # Orbax wants it so
    write = _write if jax.process_count() == 1 else _write_alone
    with writing(path), _alone(), _storage_errors():
        write(path, tree, _sealed(tree, about))


def save_later(
    path: Path, tree: dict[str, Any], about: Mapping[str, Any] = EMPTY
) -> Callable[[], None]:
    """Begin to store NumPy arrays as `save` does; return what waits until it is done.

    It raises what `save` raises.
    """
    if jax.process_count() > 1:
        save(path, tree, about)
        return lambda: None
    path, quiet = path.absolute(), contextlib.ExitStack()
    quiet.enter_context(_quiet())  # its threads tell what they meet, until it is done
    with writing(path), _alone(), _storage_errors():
        meta = _sealed(tree, about)
        response = ocp.save_async(str(path), tree, custom_metadata=meta)

    def wait() -> None:
        with quiet, writing(path), _alone(), _storage_errors():
            response.result()

    return wait


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Turn what the writer makes of a storage error back into that."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # storage errors come out of the writer's own types
        number = _system_error(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number)) from error


def _sealed(tree: dict[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored beside the arrays: their digest, and one over all of it."""
    content = {"about": dict(about), "digest": digest(tree)}
    return {**content, "seal": _seal(content)}


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def about(path: Path) -> dict[str, Any]:
    """What the checkpoint `path` is about; its arrays are not read."""
    path = path.absolute()
    with _reading(path):
        meta = json.loads((path / METADATA).read_text())["custom_metadata"]
    return _opened(path, meta)["about"]


def _opened(path: Path, meta: Any) -> dict[str, Any]:
    """The content of what was sealed, whole."""
    fields = ("about", "digest", "seal")
    if not isinstance(meta, dict) or not all(field in meta for field in fields):
        raise StoreError(_damaged(path, "it has no digest"))
    content = {"about": meta["about"], "digest": meta["digest"]}
    if _seal(content) != meta["seal"] or not isinstance(meta["about"], dict):
        raise StoreError(_damaged(path, "what it says of itself was changed"))
    return content


def _system_error(error: BaseException | None) -> int | None:
    """The number of the system's error that an error, or its cause, tells of."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        for number in set(errno.errorcode) - UNTOLD:
            if os.strerror(number) in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None


def _write(path: Path, tree: dict[str, Any], metadata: dict[str, Any]) -> None:
    ocp.save(str(path), tree, custom_metadata=metadata)


def _write_alone(path: Path, tree: dict[str, Any], metadata: dict[str, Any]) -> None:
    """`_write` by one of several processes; `load` reads both alike.

    Orbax's v1 (0.12.8) compares the path with all other processes, whatever its options
    say, so this is its older interface, which does not take arrays of one process.
    """
    options = v0.options.MultiprocessingOptions(**_me())
    handler = v0.PyTreeCheckpointHandler(multiprocessing_options=options)
    args = v0.args.PyTreeSave(jax.tree.map(np.asarray, tree))
    with v0.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        checkpointer.save(path, args, custom_metadata=metadata)


def _me() -> dict[str, Any]:
    """What keeps Orbax from waiting for other processes."""
    return {
        "primary_host": jax.process_index(),
        "active_processes": {jax.process_index()},
    }


def load(path: Path, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read the checkpoint `path`; see `load_with_about`."""
    return load_with_about(path, like)[0]


def load_with_about(
    path: Path, like: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The checkpoint `path`, checked against its digest, and what it is about.

    `like` gives entries the structure, shapes and types to expect; those it does not
    mention come back as NumPy arrays, in lists where there were tuples of any kind.
    """
    path = path.absolute()
    if "\\" in str(path):
        raise StoreError(
            f"{path} cannot be read: a backslash in a folder's name is taken for a "
            "slash; rename the folder"
        )
    with _reading(path), _alone():
        meta: Any = ocp.metadata(str(path))
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def device(leaf):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

        def host(leaf):
            return np.empty(leaf.shape, leaf.dtype)

        target = jax.tree.map(host, dict(meta.metadata))
        target |= jax.tree.map(device, like or {})
        tree = ocp.load(str(path), target)
    content = _opened(path, meta.custom_metadata)
    if digest(tree) != content["digest"]:
        raise StoreError(_damaged(path, "its content does not match its digest"))
    return tree, content["about"]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn any failure to read into a StoreError that says why, and what to do."""
    try:
        yield
    except Exception as error:  # a damaged file can fail anywhere in the reader
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        number = _system_error(error)
        if number is not None:
            raise StoreError(f"{path} cannot be read: {os.strerror(number)}") from error
        if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
            raise StoreError(f"{path} cannot be read: {reason}") from error
        raise StoreError(_damaged(path, reason)) from error


def _damaged(path: Path, reason: str) -> str:
    return (
        f"{path} cannot be read: {reason}\n"
        "Delete that folder and give the same command again: what is missing is "
        "trained anew"
    )


def digest(tree: Any) -> str:
    """Return a hash of the paths, shapes, types and bits of all leaves.

    Leaves are taken in the order of their paths, so it is the same for a tuple with
    named fields and for the dict of them that is read back.
    """
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    result = hashlib.sha256()
    for path, leaf in sorted(leaves.items()):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        ):
            leaf = jax.random.key_data(leaf)  # of optimizers that add noise
        array = np.asarray(leaf)
        result.update(f"{path} {array.dtype} {array.shape} ".encode())
        result.update(np.ascontiguousarray(array).tobytes())
    return result.hexdigest()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let Orbax work in peace and quiet, and wait for no other process.

    It works in threads of its own, which Ctrl-C or SIGTERM would leave behind, so these
    wait until the block is done.
    """
    options = ocp.options.MultiprocessingOptions(**_me())
    with (
        _quiet(),
        _uninterrupted(),
        ocp.Context(multiprocessing_options=options),
    ):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax's threads from telling of errors that are raised here all the same.

    Each logs a traceback, some of them later, so after an error they stay shut.
    """
    stderr = sys.stderr
    sys.stderr = _Muted(stderr)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except Exception:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")
        raise
    sys.stderr = stderr
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


class _Muted:
    """Standard error, without what threads that Python did not start write to it.

    Those of a failed reader find its event loop closed, and print that, each for
    itself, past `sys.excepthook`.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith("Dummy-"):
            return len(text)
        return self._stream.write(text)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C, SIGTERM and SIGUSR1 until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are delivered elsewhere
        return
    held: list[tuple[int, Any]] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {n: signal.signal(n, lambda *now: held.append(now)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number, _ in held[:1]:
            signal.raise_signal(number)


GO_ON = (
    "What is stored is whole; make room or choose another folder with --runs, then "
    "give the same command"
)


@contextlib.contextmanager
def writing(path: Path, advice: str = GO_ON) -> Iterator[None]:
    """Turn a failure to write into a StoreError that says where and how to go on."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}. {advice}"
        ) from error


def write(path: Path, content: str | bytes, advice: str = GO_ON) -> None:
    """Write a file whole or not at all; `advice` is what to do where that fails."""
    with writing(path, advice):
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        if isinstance(content, str):
            temporary.write_text(content)
        else:
            temporary.write_bytes(content)
        os.replace(temporary, path)
