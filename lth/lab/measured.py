"""The rows of a ticket: written when it is stored, and anew from the stored one."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lth import masks, results
from lth.lab import store
from lth.lottery import Ticket

Row = tuple[Any, ...]


def rows(
    run_name: str, variant: str, replicates: Sequence[int], ticket: Ticket
) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows of a ticket, and the facts that they are checked against later.

    Args:
      run_name: What the column `run` says.
      variant: `store.TRUNK`, or the name of a branch.
      replicates: Their numbers, [r].
      ticket: Mask and metrics lead with the replicate, [r, ...].

    Returns:
      Rows of the table, and what is stored beside the ticket to write them anew.
    """
    kept = np.asarray(jax.vmap(masks.count)(ticket.mask))
    density = kept / (masks.size(ticket.mask) // len(kept))
    made = results.rows(
        run_name, variant, ticket.level, replicates, density, ticket.metrics
    )
    found = list(made)
    return found, {
        "rows": results.digest(found),
        "run_name": run_name,
        "metrics": list(ticket.metrics),  # a checkpoint forgets their order
    }


def repair(path: Path) -> list[str]:
    """Write the tables of a run anew from its tickets; return those that were other.

    Raises StoreError for a ticket that is damaged, or of another run.
    """
    changed = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.claim(path))
        for replicates, unit in store.units(path):
            for variant, folder in {store.TRUNK: unit, **store.branches(unit)}.items():
                if folder != path:
                    stack.enter_context(store.claim(folder))
                store.mend_log(folder)
                if store.write_table(folder, _stored_rows(folder, variant, replicates)):
                    changed.append(str(folder / "table.csv"))
        if changed:
            store.log(path, "repaired", tables=changed)
    return changed


def _stored_rows(unit: Path, variant: str, replicates: Sequence[int]) -> Iterator[Row]:
    """The rows of all tickets of a unit, from what they hold themselves."""
    for level in sorted(store.stored(unit)):
        known = store.facts(unit, store.level_name(level))
        ticket = store.load(unit, level)
        metrics = {name: ticket.metrics[name] for name in known["metrics"]}
        ticket = ticket._replace(metrics=metrics)
        found, facts = rows(known["run_name"], variant, replicates, ticket)
        if facts["rows"] != known["rows"]:
            raise store.StoreError(
                f"the rows of {unit} at level {level} cannot be written as they were: "
                "another lth wrote them"
            )
        yield from found
