"""Small programs that known versions of the compiler get wrong, or die of.

The configuration is judged that runs have: with what `lth.lab.compiler` repairs.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.extend import core

import lth
from lth import criteria, data, masks, models, train
from lth.lab import compiler
from lth.lab.doctor.check import Check, difference, judged

# jax issues 40412 and 39257: jaxlib 0.10.2 and 0.11.0 end the process without the flag.
DEADLY = """
import lth
import json, jax, jax.numpy as jnp
u = jnp.ones((3, 1, 2, 2, 8, 8, 8))
total = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(u, u)
print(json.dumps({"of all": float(total.sum()), "of one": float(total.max())}))
"""
RIGHT = {"of all": 6144.0, "of one": 2.0}
HELP = "XLA_FLAGS=--xla_disable_hlo_passes=algsimp"
UPDATES = ("dynamic_update_slice", "scatter")


def child(code: str) -> subprocess.CompletedProcess:
    """Run Python code on the CPU in a process of its own, which may die of it."""
    root = str(Path(lth.__file__).parents[1])
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([root, *([before] if before else [])])
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


def deadly(run: Callable[[str], subprocess.CompletedProcess] = child) -> Check:
    """Sums of products over a middle axis, in a process that may die of them."""
    done = run(DEADLY)
    fault = compiler.FAULTS.get(compiler.version())
    hint = f"; XLA_FLAGS={fault.flag}={fault.value} helps" if fault else ""
    if done.returncode:
        how = f"ended with code {done.returncode}"
        if done.returncode < 0:
            how = f"was killed by {signal.Signals(-done.returncode).name}"
        last = (done.stderr.strip().splitlines() or [""])[-1]
        told = f"a process that sums products {how}{hint}. {last}".strip()
        return Check("canary of sums", "FAILED", told)
    found = json.loads(done.stdout.splitlines()[-1])
    differences = [
        difference(f"sums of products, {name}{hint}", found.get(name, np.nan), right)
        for name, right in RIGHT.items()
    ]
    note = compiler.note() or "no fault is known"
    return judged("canary of sums", differences, f"jaxlib {compiler.version()}, {note}")


def overlapping(x: jax.Array) -> jax.Array:
    """Moves three of four numbers up by one, in the array that they are in."""
    b = x + 1
    return lax.dynamic_update_slice(b, b[:3], (1, 0, 0)).reshape(1, 4, 1)


def slices(
    function: Callable[[jax.Array], jax.Array] = overlapping,
    programs: Callable[[], Mapping[str, core.ClosedJaxpr]] | None = None,
) -> Check:
    """An update of an array by a slice of itself, and who in `lth` has one.

    Jaxlib 0.10.2 and 0.12.0 copy numbers over each other before they have read them
    (xla issue 49176). A number of ours is in danger only if a program of ours does so.
    """
    found = np.asarray(jax.jit(function)(jnp.arange(4.0).reshape(4, 1, 1))).ravel()
    right = np.array([1.0, 1.0, 2.0, 3.0])
    if not difference("", found, right).wrong:
        return Check("canary of slices", "ok", "an array is moved up in its own place")
    traced = (programs or typical)()
    users = [name for name, jaxpr in traced.items() if overlaps(jaxpr.jaxpr)]
    fact = (
        f"an array moved up in its own place is {found.tolist()}, not "
        f"{right.tolist()} (xla issue 49176; {HELP} helps)"
    )
    if users:
        told = f"{fact}, and {', '.join(users)} does that"
        return Check("canary of slices", "FAILED", told)
    told = f"{fact}; {', '.join(traced)} do no such thing, code of your own might"
    return Check("canary of slices", "warning", told)


def overlaps(jaxpr: core.Jaxpr) -> list[str]:
    """Find the updates of a program whose new numbers come from the array they go into.

    They come from it, or from an array of its size that it was made of and whose place
    it may have taken. One number alone is read before it is written.
    """
    above: dict[Any, set[Any]] = {}

    def behind(atom: Any) -> set[Any]:
        return set() if isinstance(atom, core.Literal) else above.get(atom, {atom})

    found = []
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in UPDATES:
            operand = equation.invars[0]
            update = equation.invars[1 if name == UPDATES[0] else 2]
            same = {v for v in behind(operand) if v.aval.size == operand.aval.size}  # type: ignore[attr-defined]
            if same & behind(update) and update.aval.size > 1:  # type: ignore[attr-defined]
                found.append(str(equation))
        for inner in _inner(equation.params.values()):
            found += overlaps(inner)
        sources = set().union(*map(behind, equation.invars))
        for out in equation.outvars:
            above[out] = sources | {out}
    return found


def _inner(values: Any) -> Iterator[core.Jaxpr]:
    """The programs inside the parameters of an equation."""
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)


def typical() -> dict[str, core.ClosedJaxpr]:
    """Programs that a run is made of, traced and not compiled."""
    small = models.MLP((8,)), (4, 4, 1)
    pictures = models.Conv(2, width=1 / 16), (8, 8, 3)
    params = {"kernel": jnp.ones((5, 7))}
    return {
        "training of an MLP": training(*small, optax.adam(1e-3)),
        "training of a convolutional network": training(
            *pictures, optax.sgd(1e-2, momentum=0.9)
        ),
        "selection": jax.make_jaxpr(lambda p, m: masks.keep_top(p, m, 0.2))(
            params, masks.ones(params)
        ),
        "ranking": jax.make_jaxpr(criteria.lamp)(params),
    }


def training(
    module: Any, shape: tuple[int, ...], tx: optax.GradientTransformation
) -> core.ClosedJaxpr:
    """The program that trains a Linen module on images."""
    model = models.from_linen(module, shape)
    loss, _ = train.classification(model.apply)
    step = train.make_train(loss, data.make_sample(4, 20), tx)
    like = jax.eval_shape(lambda: train.init_state(model.init, tx, jax.random.key(0)))
    mask = jax.eval_shape(lambda: masks.ones(like.params))
    examples = data.Dataset(np.zeros((20, *shape), np.float32), np.zeros(20, np.int32))
    return jax.make_jaxpr(step)(like, mask, examples, jax.random.key(0), np.int32(3))
