"""A stored run, opened to look at: for notebooks, reports and the command line."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from lth import masks, results, train
from lth.analysis import cost
from lth.lab import config, store
from lth.lab.build import assemble, learners, networks, targets
from lth.lab.config import Experiment, identity
from lth.lottery import Ticket


def open_run(path: str | Path) -> "Run":
    """The run in the directory `path`; its arrays are read only when asked for.

    Raises StoreError where `path` is no run or cannot be read.
    """
    path = Path(path)
    content = store.read_config(path)
    try:
        experiment = identity.from_dict(content["config"])
    except config.ConfigError as error:
        raise store.StoreError(f"{path / 'config.json'} is damaged: {error}") from None
    if identity.identity(experiment) != content["id"]:
        raise store.StoreError(
            f"{path / 'config.json'} was changed: its fields give the id "
            f"{identity.identity(experiment)}, not {content['id']}"
        )
    shape, classes = content["examples"]
    examples = networks.Examples(tuple(shape), classes)
    return Run(path, content["preset"], experiment, examples)


@dataclass(frozen=True)
class Run:
    """A run on disk. Arrays of its states and masks lead with the replicate."""

    path: Path
    preset: str
    config: Experiment
    examples: networks.Examples

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every measured value, tidy: columns `results.COLUMNS`."""
        table = store.read_table(self.path)
        if table.empty:
            found = "every replicate failed" if self.levels else "no ticket is stored"
            raise store.StoreError(f"{self.path} has no results: {found}")
        return table

    @property
    def levels(self) -> list[int]:
        """The levels whose tickets are stored."""
        pairs = store.stored(self.path)
        return sorted(level for variant, level in pairs if variant == results.TICKET)

    @property
    def variants(self) -> list[str]:
        """`ticket`, and the controls trained with it."""
        found = {variant for variant, _ in store.stored(self.path)}
        return [v for v in (results.TICKET, *config.CONTROLS) if v in found]

    @property
    def replicates(self) -> list[int]:
        """The numbers of the replicates, in the order of the arrays."""
        first = self.config.first_replicate
        return list(range(first, first + self.config.replicates))

    @property
    def early(self) -> train.TrainState:
        """The state that tickets are rewound to."""
        return store.load_tree(self.path, "early", {"state": self._like})["state"]

    def checkpoint(self, step: int) -> train.TrainState:
        """The dense network at a step listed in `checkpoint_at`."""
        name = f"step_{step}"
        return store.load_tree(self.path, name, {"state": self._like})["state"]

    def ticket(
        self,
        level: int,
        variant: str = results.TICKET,
        replicate: int | None = None,
    ) -> Ticket:
        """The ticket of a level, or one of its controls (`config.CONTROLS`).

        With `replicate`, the number of one, its ticket alone: arrays without the axis
        of replicates, as functions of one network take them.
        """
        if replicate is not None and replicate not in self.replicates:
            raise ValueError(
                f"replicate is one of {', '.join(map(str, self.replicates))}; "
                f"got {replicate}"
            )
        ticket = store.load(self.path, level, (self._mask_like, self._like), variant)
        if replicate is None:
            return ticket
        index = self.replicates.index(replicate)
        mask, state, metrics = jax.tree.map(lambda x: x[index], tuple(ticket[1:]))
        return Ticket(ticket.level, mask, state, metrics)

    @property
    def learned(self) -> train.TrainState:
        """The scores that a mask was learned by, with the weights they belong to.

        Raises StoreError for a run that learned none.
        """
        if self.config.learn.method == "none":
            raise store.StoreError(f"{self.path} learned no masks")
        return store.load_tree(self.path, "learned", {"state": self._scores_like})[
            "state"
        ]

    def empty_layers(self) -> list[tuple[int, int, str]]:
        """(level, replicate, path) of every layer of which a ticket keeps nothing."""
        return [
            (level, self.replicates[i], path)
            for level, kept in self._densities.items()
            for path, by_replicate in kept.items()
            for i in np.flatnonzero(by_replicate == 0)
        ]

    def densities(self) -> dict[int, dict[str, float]]:
        """The density of each layer at each level, mean over replicates."""
        return {
            level: {path: float(np.mean(d)) for path, d in kept.items()}
            for level, kept in self._densities.items()
        }

    def savings(self) -> dict[int, dict[str, float]]:
        """What each level's tickets save, mean over replicates.

        `weights` left of the whole network, `compression`, all over those left, and
        `speedup`, dense over kept multiply-accumulates, were zeros free to skip.
        """
        model = networks.network(self.config.model, self.examples)
        params, stats = jax.eval_shape(model.init, jax.random.key(0))
        ones = targets.prunable(self.config, params)
        dtype = np.int32 if self.config.model.name == "transformer" else np.float32
        dense = cost.work(model, params, stats, self.examples.shape, ones, dtype).dense
        sizes = dict(zip(masks.paths(ones), jax.tree.leaves(ones), strict=True))
        total = cost.size(params, ones).total
        found = {}
        for level, kept in self.densities().items():
            gone = sum((1 - kept[path]) * leaf.size for path, leaf in sizes.items())
            macs = sum(count * kept.get(path, 1) for path, count in dense.items())
            found[level] = {
                "weights": total - gone,
                "compression": total / (total - gone),
                "speedup": sum(dense.values()) / macs,
            }
        return found

    @cached_property
    def _densities(self) -> dict[int, dict[str, np.ndarray]]:
        """The density [r] of each layer at each level."""
        found = {}
        for level in self.levels:
            kept = jax.vmap(masks.densities)(self.ticket(level).mask)
            found[level] = {path: np.asarray(d) for path, d in kept.items()}
        return found

    @cached_property
    def _like(self) -> Any:
        """The shapes of a stored state."""
        model = networks.network(self.config.model, self.examples)
        tx = networks.optimizer(self.config.optimizer, 1, 1)
        init = jax.vmap(partial(train.init_state, model.init, tx))
        keys = jax.eval_shape(partial(assemble.keys, self.replicates, assemble.INIT))
        return jax.eval_shape(init, keys)

    @cached_property
    def _scores_like(self) -> Any:
        """The shapes of the stored scores."""
        model = networks.network(self.config.model, self.examples)
        tx = learners.optimizer(self.config, 1, 1)

        def init(key):
            params, _ = model.init(key)
            mask = targets.prunable(self.config, params)
            learned = learners.learner(self.config, model, mask, 1)
            return train.init_state(learned.model.init, tx, key)

        keys = jax.eval_shape(partial(assemble.keys, self.replicates, assemble.INIT))
        return jax.eval_shape(jax.vmap(init), keys)

    @cached_property
    def _mask_like(self) -> Any:
        def one(params):
            return targets.prunable(self.config, params)

        return jax.eval_shape(jax.vmap(one), self._like.params)
