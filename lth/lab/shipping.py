"""A stored ticket as a file that others load, with a card that says what it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import lth
from lth import compress, masks
from lth.compress import storage
from lth.compress.packing import Kind
from lth.compress.storage import Form, Sizes
from lth.lab import store
from lth.lab.stored import Run, StoredTicket
from lth.lottery.recipe import Objective

Format = Literal["safetensors", "npz", "stablehlo"]
Weights = Literal["late", "early"]
ADVICE = "Choose another file with --out of 'lth export'"


class Shipped(NamedTuple):
    """Says where a ticket was written, and in how many bytes."""

    path: Path
    card: Path
    bytes: int
    sizes: Sizes  # of its arrays, in the form that was asked for


def export(
    run: Run,
    level: int,
    format: Format = "safetensors",
    *,
    variant: str = store.TRUNK,
    replicate: int | None = None,
    form: Form = "dense",
    kind: Kind = "float32",
    weights: Weights = "late",
    out: Path | None = None,
) -> Shipped:
    """Write a stored ticket to a file, and its card beside it.

    Args:
      run: The run, opened. Only a program needs its data, for the shape of an input.
      level: Of the ticket.
      format: `safetensors` or `npz`, arrays as `compress.storage` describes them; or
        `stablehlo`, a program, as `compress.program` does.
      variant: `ticket`, or the name of a branch.
      replicate: Its number; by default the first one.
      form: `dense`, zeros where nothing is kept, or `sparse`, the bits of the mask and
        the values kept. A program is dense.
      kind: Of the values, `float32` or `int8`. A program is float32.
      weights: Those at the end of training (`late`), or those of the run's rewind point
        (`early`), for who wants to train the ticket.
      out: The file; by default in the run directory, by level and replicate.

    Returns:
      Where it is, and its sizes. The card is JSON: the file's name and `.json`.

    Raises:
      ValueError: for what is not stored, a training that failed, and a form that the
        format has not.
      ModuleNotFoundError: where a package is lacking, with what to install.
      StoreError: for what cannot be written.
    """
    if format == "stablehlo" and (form, kind) != ("dense", "float32"):
        raise ValueError("a program of StableHLO is dense and float32")
    replicate = run.replicates[0] if replicate is None else replicate
    ticket = stored_ticket(run, level, replicate, variant)
    params, stats = _weights(run, ticket, replicate, weights)
    arrays = storage.stored(params, stats, ticket.mask, form, kind)
    card = _card(run, ticket) | {"variant": variant, "replicate": replicate}
    card |= {"weights": weights, "form": form, "kind": kind}
    card |= {"errors": storage.errors(arrays)} if kind == "int8" else {}
    if format == "stablehlo":
        card["inputs"] = inputs(run)
        pruned = masks.apply(params, ticket.mask)
        given = objective(run).apply, pruned, stats
        file = compress.program.written(*given, **inputs(run))
    elif format == "npz":
        file = compress.files.to_npz(arrays, card)
    else:
        file = compress.files.to_safetensors(arrays, card)
    path = out or run.path / f"{variant}-{level}-{replicate}.{format}"
    sizes = storage.sizes(arrays, ticket.mask)
    card |= {"bytes": {"file": len(file), **sizes._asdict()}}
    return Shipped(path, _put(path, file, card), len(file), sizes)


class Sliced(NamedTuple):
    """Says where a smaller ticket was written, and what it was proved by."""

    path: Path
    card: Path
    bytes: int
    shrunk: compress.Shrunk


def shrink(
    run: Run,
    level: int,
    format: Literal["safetensors", "npz"] = "npz",
    *,
    multiple: int = 1,
    variant: str = store.TRUNK,
    replicate: int | None = None,
    weights: Weights = "late",
    out: Path | None = None,
) -> Sliced:
    """Write a stored ticket without its dead units, and its card beside it.

    Of trained weights all dead units go, and constants into biases
    (`compress.shrink_masked`). Of those of the rewind point, to be trained, only the
    channels go of which the mask leaves nothing, which change no training.

    Args:
      run: The run, opened.
      level: Of the ticket.
      format: `npz` or `safetensors`.
      multiple: Widths are rounded up to multiples of it.
      variant: `ticket`, or the name of a branch.
      replicate: Its number; by default the first one.
      weights: Those at the end of training (`late`), or those of the rewind point.
      out: The file; by default in the run directory.

    Returns:
      Where it is, and the proof. The card holds the channels that are left, in the
      indices of the whole network, the widths, both sizes, and how far outputs differ.

    Raises:
      ValueError: as `export` does; `compress.ShrinkError` for a network that cannot be
        made smaller.
      ModuleNotFoundError: where a package is lacking, with what to install.
      StoreError: for what cannot be written.
    """
    replicate = run.replicates[0] if replicate is None else replicate
    ticket = stored_ticket(run, level, replicate, variant)
    params, stats = _weights(run, ticket, replicate, weights)
    known = objective(run)
    inputs = jax.device_get(next(iter(known.examples())).inputs[:64])
    given = known.apply, masks.apply(params, ticket.mask), stats
    if weights == "late":
        small = compress.shrink_masked(*given, ticket.mask, inputs, multiple=multiple)
    else:
        found = compress.find(*given, inputs)
        kept = compress.living(ticket.mask, found)
        small = compress.shrink(*given, inputs, kept, found, multiple=multiple)
    nothing = masks.unmasked(small.params)
    arrays = storage.stored(small.params, small.stats, nothing)
    card = _card(run, ticket) | {"variant": variant, "replicate": replicate}
    card |= {"weights": weights, "shrunk": _proof(small, multiple)}
    to = compress.files.to_npz if format == "npz" else compress.files.to_safetensors
    file = to(arrays, card)
    path = out or run.path / f"{variant}-{level}-{replicate}-shrunk.{format}"
    return Sliced(path, _put(path, file, card), len(file), small)


def _put(path: Path, file: bytes, card: Mapping[str, Any]) -> Path:
    """Write a file, and its card beside it; where that is."""
    beside = path.with_name(f"{path.name}.json")
    store.write(path, file, ADVICE)
    store.write(beside, json.dumps(card, indent=1) + "\n", ADVICE)
    return beside


def _proof(small: compress.Shrunk, multiple: int) -> dict[str, Any]:
    """What a card says of how a network was made smaller."""
    return {
        "kept": {name: index.tolist() for name, index in small.kept.items()},
        "multiple": multiple,
        "difference": small.difference,
        "weights": [small.before.params, small.after.params],
        "multiply_adds": [small.before.macs, small.after.macs],
    }


def stored_ticket(
    run: Run, level: int, replicate: int | None = None, variant: str = store.TRUNK
) -> StoredTicket:
    """Return the ticket of one replicate, whose training did not fail.

    Args:
      run: The run, opened.
      level, variant: Of the ticket.
      replicate: Its number; by default the first one.

    Returns:
      The ticket, without the axis of replicates.

    Raises:
      ValueError: for a level and a replicate that are not stored, and one that failed.
    """
    replicate = run.replicates[0] if replicate is None else replicate
    if variant == store.TRUNK and level not in run.levels:
        there = ", ".join(map(str, run.levels)) or "none"
        raise ValueError(f"levels stored of {run.path} are {there}; got {level}")
    ticket = run.ticket(level, variant, replicate)
    if ticket.failed[0] >= 0:
        raise ValueError(
            f"replicate {replicate} failed at level {ticket.failed[0]}, step "
            f"{ticket.failed[1]}: there are no weights to write"
        )
    return ticket


def _weights(
    run: Run, ticket: StoredTicket, replicate: int, weights: Weights
) -> tuple[Any, Any]:
    """The params and stats that are asked for."""
    if weights == "late":
        return ticket.params, ticket.stats
    index, early = run.replicates.index(replicate), run.early
    return jax.tree.map(lambda x: x[index], (early.params, early.stats))


def _card(run: Run, ticket: StoredTicket) -> dict[str, Any]:
    """What a ticket is, as JSON has it."""
    prunable, kept = masks.size(ticket.mask), int(masks.count(ticket.mask))
    ends = {
        name: float(curve[-1])
        for name, curve in ticket.metrics.items()
        if "_" in name and np.ndim(curve) == 1 and np.isfinite(curve[-1:]).any()
    }
    settings = run.settings
    model = {n: v for n, v in settings.items() if n.startswith("model.")}
    return {
        "format": "ticket 1",
        "run": run.content["id"],
        "name": run.name,
        "preset": run.preset,
        "data": settings.get("data.name", ""),
        "model": model or settings,
        "level": ticket.level,
        "density": kept / prunable if prunable else 1.0,
        "weights_in_all": sum(x.size for x in jax.tree.leaves(ticket.params)),
        "prunable": prunable,
        "kept": kept,
        "step": int(ticket.step),
        "metrics": ends,
        "layout": "kernels are [in, out] and [height, width, in, out], images [batch, "
        "height, width, channels]",
        "made_by": f"lth {lth.__version__}, jax {jax.__version__}",
    }


def objective(run: Run) -> Objective:
    """Return what a run's networks learn. Raises ValueError where it is not known."""
    found = run.recipe().objective
    if found is None:
        raise ValueError("the recipe does not say what its networks compute")
    return found


def inputs(run: Run) -> dict[str, Any]:
    """Return the `shape` of one input of a run's networks, and its `dtype`.

    Raises ValueError for examples that are not a pair of inputs and targets.
    """
    first = next(iter(objective(run).examples()))
    if not hasattr(first, "inputs"):
        raise ValueError("the examples of the run have no field `inputs`")
    return {"shape": list(first.inputs.shape[1:]), "dtype": str(first.inputs.dtype)}
