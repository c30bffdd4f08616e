"""Where programs run: replicates spread over devices, or each batch over all of them.

What goes in and comes out lies whole on each process's first device, so nothing else in
`lth` has to know how many devices or processes there are. With several processes
(`jax.distributed`) all run the same program on the same values.
"""

import contextlib
import itertools
import math
import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lth.lab.devices import memory

SHUTDOWN = (
    60  # seconds a process waits for the others at its end, then takes them along
)


HEARTBEAT = (
    30  # seconds without a sign of another process, after which JAX ends this one
)


class Plan(NamedTuple):
    """The devices of a run, and what is spread over them."""

    mesh: Mesh
    over: str  # replicates or batch
    replicates: int
    precision: str = "default"  # of products of float32 numbers


def plan(replicates: int, over: str = "replicates", precision: str = "default") -> Plan:
    """Spread `replicates`, or each batch of each of them, over all devices.

    Devices that would get no replicate are left out, but for one of each process: all
    must take part. `precision` is that of products of float32 numbers, as
    `jax.default_matmul_precision` names it.
    """
    check_types()
    devices = jax.devices()
    if over == "replicates":
        rows = math.ceil(replicates / len(devices))
        needed = max(math.ceil(replicates / rows), jax.process_count())
        devices = _in_turn(devices)[:needed]
    return Plan(Mesh(np.array(devices), (over,)), over, replicates, precision)


def _in_turn(devices: list[Any]) -> list[Any]:
    """The first device of each process, then the second of each."""
    processes = range(jax.process_count())
    own = [[d for d in devices if d.process_index == i] for i in processes]
    return [d for row in itertools.zip_longest(*own) for d in row if d is not None]


def share(plan: Plan, tree: Any) -> Any:
    """Copy a tree of arrays to every device of the plan."""
    return _placed(tree, NamedSharding(plan.mesh, P()))


def divided(plan: Plan, rows: int) -> tuple[np.ndarray, Callable]:
    """Divide the reading of rows among the processes, each for its own devices.

    Args:
      plan: Says which devices there are.
      rows: How many rows all read together, at a time.

    Returns:
      The numbers of the rows this process reads, some beyond the last one where they do
      not divide evenly; and `put(read, count)`, which brings what all have read
      together: the first `count` rows on every device. All processes must call it.
    """
    if jax.process_count() == 1:

        def place(read, count):
            return share(plan, jax.tree.map(lambda x: x[:count], read))

        return np.arange(rows), place
    many, devices = plan.mesh.size, plan.mesh.devices.ravel()
    here = [i for i, d in enumerate(devices) if d.process_index == jax.process_index()]
    # Each device has every so many-th row, so that the last ones are shared out too.
    numbers = np.arange(-(-rows // many) * many).reshape(-1, many)
    each, own = len(numbers), numbers[:, here].T.ravel()
    split = NamedSharding(plan.mesh, P(plan.over))
    whole = NamedSharding(plan.mesh, P())

    @partial(jax.jit, static_argnums=1, out_shardings=whole)
    def gathered(tree, count):
        def leaf(x):
            of_devices = x.reshape(many, each, *x.shape[1:])
            return of_devices.swapaxes(0, 1).reshape(x.shape)[:count]

        return jax.tree.map(leaf, tree)

    def put(read, count):
        def leaf(x):
            def device(index):
                first = here.index((index[0].start or 0) // each) * each
                return x[first : first + each]

            shape = (each * many, *x.shape[1:])
            return jax.make_array_from_callback(shape, split, device)

        return gathered(jax.tree.map(leaf, read), count)

    return own, put


def split_batch(plan: Plan, sample: Callable) -> Callable:
    """`sample` whose batches are spread over the devices, if the plan says so.

    Raises ValueError for a batch that does not divide among them.
    """
    if plan.over != "batch" or plan.mesh.size == 1:
        return sample
    sharding = NamedSharding(plan.mesh, P("batch"))

    def spread(key, step, data):
        batch = sample(key, step, data)
        return jax.tree.map(lambda x: _constrained(x, sharding), batch)

    return spread


def _constrained(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    if x.shape[0] % sharding.mesh.size:
        count = sharding.mesh.size
        raise ValueError(f"a batch of {len(x)} does not divide among {count} devices")
    return jax.lax.with_sharding_constraint(x, sharding)


def spread(
    plan: Plan, function: Callable, axes: tuple[int | None, ...], donate: bool = False
) -> Callable:
    """Compile `function` of one replicate for all of them on the plan's devices.

    Compiled at the first call for each set of shapes. What leads with more or fewer
    replicates than the plan has, is spread by a plan of its own.

    Args:
      plan: Says which devices.
      function: Of one replicate.
      axes: 0 for the arguments that lead with the replicate and None for those all
        share, which are best put in place by `share` beforehand.
      donate: Whether the first argument's memory is given up to the result.

    Returns:
      The function of all replicates.

    Raises:
      MemoryTooSmallError when that asks for more memory than the device has.
    """
    programs = {plan.replicates: _program(plan, function, axes, donate)}

    def call(*args):
        led = next(a for a, axis in zip(args, axes, strict=True) if axis == 0)
        size = len(jax.tree.leaves(led)[0])
        if size not in programs:
            other = replanned(plan, size)
            programs[size] = _program(other, function, axes, donate, True)
        return programs[size](*args)

    return call


def replanned(old: Plan, replicates: int) -> Plan:
    """Return the plan of another number of replicates."""
    return plan(replicates, old.over, old.precision)


def _program(
    plan: Plan,
    function: Callable,
    axes: tuple[int | None, ...],
    donate: bool,
    moves: bool = False,
) -> Callable:
    """What `spread` calls for a number of replicates; `moves` if data lie elsewhere."""
    several = moves or plan.mesh.size > 1 or jax.process_count() > 1
    whole = NamedSharding(plan.mesh, P())
    split = NamedSharding(plan.mesh, P("replicates")) if _splits(plan) else whole
    fill = -plan.replicates % plan.mesh.size if _splits(plan) else 0
    options: Any = {"out_shardings": split} if several else {}
    options["donate_argnums"] = (0,) if donate else ()
    program = jax.jit(_mapped(plan, function, axes), **options)
    gather = jax.jit(lambda tree: tree, out_shardings=whole)
    built: dict[Any, Any] = {}
    last: dict[int, tuple[Any, Any]] = {}  # shared arguments, and where they lie now

    def shared(i, tree):
        if i not in last or last[i][0] is not tree:
            last[i] = (tree, _placed(tree, whole))
        return last[i][1]

    def call(*args):
        if several:
            args = tuple(
                _placed(_filled(a, fill), split) if axis == 0 else shared(i, a)
                for i, (a, axis) in enumerate(zip(args, axes, strict=True))
            )
        shapes = jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), args)
        key = (jax.tree.structure(args), str(shapes))
        if key not in built:
            built[key] = program.lower(*args).compile()
            memory.check_program(built[key])
        result = built[key](*args)
        if not several:
            return result
        here = jax.tree.map(lambda x: x.addressable_data(0), gather(result))
        return jax.tree.map(lambda x: x[: plan.replicates], here) if fill else here

    return call


def _splits(plan: Plan) -> bool:
    return plan.over == "replicates" and plan.mesh.size > 1


def _mapped(plan: Plan, function: Callable, axes: tuple[int | None, ...]) -> Callable:
    each = _each(_precise(plan, function), axes)
    if not _splits(plan):
        return each
    specs = tuple(P("replicates") if axis == 0 else P() for axis in axes)
    return jax.shard_map(
        each,
        mesh=plan.mesh,
        in_specs=specs,
        out_specs=P("replicates"),
        check_vma=False,
    )


def _precise(plan: Plan, function: Callable) -> Callable:
    """`function` with the plan's precision, in its gradients too."""
    if plan.precision == "default":
        return function

    def precise(*args):
        with jax.default_matmul_precision(plan.precision):
            return function(*args)

    return precise


def _each(function: Callable, axes: tuple[int | None, ...]) -> Callable:
    """`function` for the replicates of one device.

    On a CPU one after another, each with its weights in the cache; elsewhere all at
    once. One alone is no loop: its weights have the same bits, a mean that is measured
    of it may have another last one.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(function, axes)

    def run(*args):
        led = [a for a, axis in zip(args, axes, strict=True) if axis == 0]

        def one(led):
            own = iter(led)
            pairs = zip(args, axes, strict=True)
            return function(*(next(own) if axis == 0 else a for a, axis in pairs))

        if jax.tree.leaves(led)[0].shape[0] > 1:
            return jax.lax.map(one, led)
        result = one(jax.tree.map(lambda x: x[0], led))
        return jax.tree.map(lambda x: x[None], result)

    return run


def _filled(tree: Any, fill: int) -> Any:
    """The tree with its last replicate repeated until the devices are full."""
    if not fill:
        return tree

    def leaf(x):
        return jnp.concatenate([x, jnp.repeat(x[-1:], fill, axis=0)])

    return jax.tree.map(leaf, tree)


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    """The tree, the same in each process, laid out over devices of all processes."""

    def leaf(x):
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(leaf(jax.random.key_data(x)))
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    return jax.tree.map(leaf, tree)


def use_cores(replicates: int) -> None:
    """Let JAX see as many CPU devices as there are cores and replicates to use them.

    Replicates of a small network train fastest one to a core. Without effect where
    the number was chosen (`jax_num_cpu_devices`, `XLA_FLAGS`) or JAX has started.
    """
    chosen = "device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or jax.config.jax_num_cpu_devices > 0:  # type: ignore[attr-defined]
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", max(1, min(cores, replicates)))


class TypesError(ValueError):
    """JAX is set to types, or to a way to work, that nothing here is made for."""


def check_types() -> None:
    """Refuse to compute in 64 bits or without compiling, as JAX can be asked to."""
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise TypesError(
            "JAX is set to 64 bits (jax_enable_x64), and lth computes in 32: unset "
            "JAX_ENABLE_X64, or jax.config.update('jax_enable_x64', False)"
        )
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        raise TypesError(
            "JAX is set to compile nothing (jax_disable_jit), and lth trains compiled "
            "programs: unset JAX_DISABLE_JIT, or "
            "jax.config.update('jax_disable_jit', False)"
        )


class JoinError(ValueError):
    """Numbers of processes that do not fit; the message names the flag."""


def join(coordinator: str, processes: int, process: int) -> None:
    """Make this process one of several; without a coordinator it is alone.

    Raises JoinError for numbers that do not fit. JAX ends the process if it does not
    reach the others in five minutes.
    """
    if not coordinator:
        if processes != 1 or process != 0:
            raise JoinError("--processes and --process need --coordinator host:port")
        return
    # Else JAX would take SIGTERM for itself and do nothing with it.
    jax.config.update("jax_enable_preemption_service", False)
    start = partial(
        jax.distributed.initialize,
        shutdown_timeout_seconds=SHUTDOWN,
        heartbeat_timeout_seconds=HEARTBEAT,
    )
    if coordinator == "auto":
        start()
        return
    if not re.fullmatch(r".+:\d+", coordinator):
        raise JoinError(f"--coordinator is host:port or auto; got {coordinator!r}")
    if not 0 <= process < processes:
        raise JoinError(
            f"--process is in [0, --processes); got {process} of {processes}"
        )
    start(coordinator, processes, process)


def first_process() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def same(number: int) -> int:
    """The number of the first process, once all processes are here."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def agree(flags: list[bool]) -> list[bool]:
    """What the first process says, once all processes are here."""
    if jax.process_count() == 1:
        return flags
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(np.array(flags)).tolist()
