"""A stored run, opened: to look at, to measure, and to hang branches off.

Arrays come back as they are stored, in dicts, without a network or an optimizer.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from lth import lottery, masks, results
from lth.lab import config, keeping, probes, runner, store
from lth.lab.build import assemble, branching, imported, names, naming, probing
from lth.lab.config import identity, parse, presets, validate
from lth.lab.keeping import Saving
from lth.lab.probes import Probe
from lth.lottery import Branch, Recipe
from lth.lottery import recipe as recipes


class State(NamedTuple):
    """Holds a stored state: dicts of arrays. The optimizer's is not among them."""

    step: np.ndarray
    params: dict[str, Any]
    stats: dict[str, Any]


class StoredTicket(NamedTuple):
    """A stored ticket: dicts of arrays, and curves as `train.fit` has them."""

    level: int
    mask: dict[str, Any]
    params: dict[str, Any]  # at the end of training
    stats: dict[str, Any]
    step: np.ndarray
    metrics: dict[str, np.ndarray]

    @property
    def failed(self) -> np.ndarray:
        """Where each replicate was first not finite: level and step, or -1 and -1."""
        return self.metrics["failed"]


def open_run(
    path: str | Path,
    recipe: Recipe | Callable[[], Recipe] | None = None,
    data_dir: str | Path | None = None,
) -> "Run":
    """Open the run in the directory `path`; arrays are read only when asked for.

    What trains or measures needs more: of a run that does not come from names its
    `recipe`, or a function that makes it; of one that does the folder of its data,
    where that is no usual one.
    Raises StoreError where `path` is no run or cannot be read.
    """
    run = Run(Path(path), recipe, data_dir)
    if run.config is not None:
        found = identity.identity(run.config)
        older = identity.of_kernels(identity.as_dict(run.config))
        if run.content["id"] not in (found, older):
            raise store.StoreError(
                f"{run.path / 'config.json'} was changed: its fields give the id "
                f"{found}, not {run.content['id']}. {store.UNDO}"
            )
    elif identity.of_fingerprint(run.content["fingerprint"]) != run.content["id"]:
        raise store.StoreError(
            f"{run.path / 'config.json'} was changed: its fingerprint gives another id "
            f"than {run.content['id']}. {store.UNDO}"
        )
    return run


def labels(runs: Sequence["Run"]) -> list[str]:
    """What to call runs that are shown together: by what differs among them."""
    known = [run.settings for run in runs]
    fields = list(dict.fromkeys(f for k in known for f in k))
    apart = [f for f in fields if len({str(k.get(f)) for k in known}) > 1]
    several = len({run.name for run in runs}) > 1
    told = []
    for run, k in zip(runs, known, strict=True):
        parts = [run.name] * several
        parts += [f"{f} {_said(k.get(f, ''))}" for f in apart[:3]]
        told.append(", ".join(parts) or run.path.name)
    if len(runs) == 1 or len(set(told)) < len(told):
        return [run.path.name for run in runs]
    return told


def _said(value: Any) -> str:
    """A setting in words: lists with commas, and what is empty as none."""
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    return "none" if value in ("", None) else str(value)


class Run:
    """Reads a run on disk. Arrays of its states and masks lead with the replicate."""

    def __init__(
        self,
        path: Path,
        recipe: "Recipe | Callable[[], Recipe] | None" = None,
        data_dir: str | Path | None = None,
    ):
        self.path = path
        self.content = store.read_config(path)
        self._recipe = recipe
        self._data_dir = data_dir

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def config(self) -> config.Experiment | None:
        """Its configuration, an `Experiment`; None of a run of one's own functions."""
        if "config" not in self.content:
            return None
        try:
            return identity.from_dict(self.content["config"])
        except config.ConfigError as error:
            raise store.StoreError(
                f"{self.path / 'config.json'} is damaged: {error}"
            ) from None

    @property
    def name(self) -> str:
        """What the run is called: its preset, or the name it was given."""
        return self.content["name"]

    @property
    def preset(self) -> str:
        """Return the preset it comes from, or an empty text."""
        return self.content.get("preset") or ""

    @property
    def finds_mask(self) -> bool:
        """Whether its mask is found in the first training, learned or moving."""
        e = self.config
        return e is not None and (e.learn.method, e.dynamic.rule) != ("none", "none")

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings by name: those of a configuration with dots, or its flags."""
        if self.config is not None:
            told = identity.as_dict(self.config)
        elif "imported" in self.content:
            told = self.content["imported"]["experiment"]
        else:
            return dict(self.content.get("flags") or {})
        return {**identity.flat(told), "replicates": len(self.replicates)}

    def described(self) -> list[str]:
        """When it was begun, what differs from its preset, how far it is, its best.

        The best is of its tickets, whatever its branches reached.
        """
        levels, changed = self.levels, self._changed()
        told = [store.begun(self.path)]
        told += [f"{name} {_said(value)}" for name, value in changed.items()]
        told.append(f"levels 0 to {max(levels)}" if levels else "no ticket yet")
        told.append(f"n = {len(self.replicates)}")
        if branches := ", ".join(self.variants[1:]):
            told.append(f"branches {branches}")
        if levels and not self.table.empty:
            score = results.score(self.table)
            tickets = self.table[self.table["variant"] == store.TRUNK]
            best = results.summary(tickets)["accuracy"].max()
            told.append(f"best test {score} {100 * best:.2f} %")
        return told

    def _changed(self) -> dict[str, Any]:
        """The settings that are not the preset's; all flags of a run of one's own."""
        preset, changed = presets.named(self.preset), self.settings
        if "imported" in self.content:
            changed = {"imported from": self.content["imported"]["from"]}
        if self.config is not None and preset is not None:
            changed = identity.apart(
                *map(identity.as_dict, (self.config, preset.experiment))
            )
        return {f: v for f, v in changed.items() if f not in ("levels", "replicates")}

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every measured value, tidy: columns `results.COLUMNS`.

        The trunk's rows and those of its branches, whose name is their `variant`.
        """
        tables = []
        for _, unit in self._units:
            tables.append(store.read_table(unit))
            tables += map(store.read_table, store.branches(unit).values())
        table = pd.concat([t for t in tables if len(t)] or tables[:1])
        if table.empty:
            found = "every replicate failed" if self.levels else "no ticket is stored"
            raise store.StoreError(f"{self.path} has no results: {found}")
        place = table["variant"].map(self.variants.index)
        table = table.assign(run=self.path.name, place=place)
        order = ["place", "level", "replicate"]
        table = table.sort_values(order, kind="stable", ignore_index=True)
        return table[list(results.COLUMNS)]

    @property
    def levels(self) -> list[int]:
        """The levels whose tickets are stored, of all replicates."""
        units = [store.stored(unit) for _, unit in self._units]
        return sorted(set.intersection(*units))

    @property
    def variants(self) -> list[str]:
        """Return `ticket`, and the branches that were trained."""
        found = {name for _, unit in self._units for name in store.branches(unit)}
        known = [name for name in config.CONTROLS if name in found]
        return [store.TRUNK, *known, *sorted(found - set(known))]

    @property
    def titles(self) -> dict[str, str]:
        """Say what tables and legends call each branch."""
        return {
            name: store.read_branch(folder)["title"]
            for _, unit in self._units
            for name, folder in store.branches(unit).items()
        }

    @property
    def apart(self) -> set[str]:
        """The branches of another task, whose scores are not those of the run's."""
        return {
            name
            for _, unit in self._units
            for name, folder in store.branches(unit).items()
            if store.read_branch(folder).get("apart")
        }

    @property
    def replicates(self) -> list[int]:
        """Return the numbers of the replicates, in the order of the arrays."""
        return [replicate for group, _ in self._units for replicate in group]

    @property
    def init(self) -> State:
        """Return the initialisation."""
        return self._state("init")

    @property
    def early(self) -> State:
        """The state that tickets are rewound to."""
        return self._state("early")

    def checkpoint(self, step: int) -> State:
        """Return the dense network at a step listed in `checkpoint_at`."""
        return self._state(f"step_{step}")

    def ticket(
        self,
        level: int,
        variant: str = store.TRUNK,
        replicate: int | None = None,
    ) -> StoredTicket:
        """Return the ticket of a level, or what a branch made of it.

        With `replicate`, the number of one, its ticket alone: arrays without the axis
        of replicates, as functions of one network take them.
        """
        if replicate is not None and replicate not in self.replicates:
            raise ValueError(
                f"replicate is one of {', '.join(map(str, self.replicates))}; "
                f"got {replicate}"
            )
        parts = []
        for group, unit in self._units:
            if replicate is None or replicate in group:
                parts.append(store.load(self._folder(unit, variant), level))
        whole = _concatenated([part[1:] for part in parts])
        if replicate is not None:
            (group,) = (g for g, _ in self._units if replicate in g)
            index = group.index(replicate)
            whole = jax.tree.map(lambda x: x[index], whole)
        mask, state, metrics = whole
        return StoredTicket(
            level, mask, state["params"], state["stats"], state["step"], metrics
        )

    @property
    def learned(self) -> State:
        """The scores that a mask was learned by, with the weights they belong to.

        Raises StoreError for a run that learned none.
        """
        if not store.has(self.path, "learned"):
            raise store.StoreError(f"{self.path} learned no masks")
        return self._state("learned")

    def recipe(self) -> Recipe:
        """The recipe of the run: the one it was opened with, or made from its names.

        Raises ValueError for a run of functions of one's own that was opened without.
        """
        if callable(self._recipe):  # what makes it, now that it is needed
            self._recipe = self._recipe()
        if self._recipe is not None:
            return self._recipe
        e = self.config
        if e is None and "imported" in self.content:
            self._recipe = imported.of_run(
                self.path, self.content, data_dir=self._data_dir
            )
            return self._recipe
        if e is None:
            raise ValueError(
                f"{self.path} is a run of functions of your own: give them to it, "
                "lth.open_run(path, recipe)"
            )
        if self.content["id"] != identity.identity(e):
            raise store.StoreError(
                f"{self.path} was made when --prune.structure {e.prune.structure} left "
                "the biases and norms of what it removed: it can be read, and not be "
                "continued or measured; run it again"
            )
        built = assemble.build(e, self._data_dir)
        if built.data != self.content["data"]:
            raise store.StoreError(
                f"{self.path} was trained on other data than is found now; give "
                "open_run(path, data_dir=…) the folder of the old files"
            )
        self._recipe = lottery.only(built.recipe, self.replicates)
        return self._recipe

    def branch(
        self,
        what: "str | Branch | Callable[..., Branch]",
        levels: Sequence[int] | None = None,
        *,
        name: str = "",
        watch: Callable[[Any], Any] = runner.ignore,
        save_every: str = "10min",
        stop: Callable[[], bool] = keeping.never,
        **amounts: Any,
    ) -> "Run":
        """Train what is missing of a branch off stored tickets; return this run.

        Args:
          what: A branch; the name of one that the run's recipe has or offers, such as
            `reinit`; or a function of your own that makes one, whose parameters with a
            default are its amounts.
          levels: Of the tickets; by default all that are stored and pruned.
          name: What to call a branch, in the table and on disk; by default its
            title; of a name or a function that, with the amounts that are not usual.
          watch: Is told where the training is, at each measurement.
          save_every: How often a training under way is saved, as `lth.run` has it.
          stop: Says whether to save at once and raise `keeping.Stopped`.
          **amounts: Of a name or a function, such as `scale=0.5` of noise.

        Returns:
          This run, whose table has the branch now.

        Raises:
          ValueError for a name that is not there and a level that is not stored;
          StoreError for a name that another branch has already.
        """
        saving = Saving(*parse.parse_saving(save_every, "save_every"), stop)
        recipe = self.recipe()
        made, called = self._made(recipe, what, amounts)
        name = name or called
        recipe = recipe._replace(branches={**recipe.branches, name: made})
        runner.branch(recipe, self.path, name, levels, watch, saving)
        self.__dict__.pop("table", None)
        return self

    def _made(
        self, recipe: Recipe, what: Any, amounts: dict[str, Any]
    ) -> tuple[Branch, str]:
        """A branch, and what it is called unless it is given a name."""
        if isinstance(what, Branch):
            if amounts:
                raise ValueError(
                    f"a branch of your own has its amounts; got {', '.join(amounts)}"
                )
            return what, what.title
        if callable(what):
            needed = [
                p.name
                for p in inspect.signature(what).parameters.values()
                if p.default is p.empty and p.kind is not p.VAR_KEYWORD
            ]
            if needed:
                raise ValueError(
                    "a function that makes a branch has parameters with a default "
                    f"only; {what.__name__} needs {', '.join(needed)}: if it is how a "
                    "branch starts, give lottery.Branch(function, title)"
                )
            return branching.by_name({what.__name__: what}, what.__name__, amounts)
        if what in recipe.branches and not amounts:
            return recipe.branches[what], what
        if what in recipe.branches and what not in recipe.offers:
            raise ValueError(
                f"the branch {what} of the recipe has its amounts; got "
                f"{', '.join(amounts)}"
            )
        if what not in recipe.offers:
            known = dict.fromkeys([*recipe.branches, *recipe.offers])
            told = f"branches by name are {', '.join(known)}; got {what!r}"
            why = self._unfit(what)
            raise ValueError(why or f"{told}{parse.perhaps(what, known)}")
        return branching.by_name(recipe.offers, what, amounts)

    def _unfit(self, name: str) -> str:
        """Why a branch that other runs have is not of this one; empty if none has."""
        e = self.config
        if e is None or name not in names.BRANCHES | names.CONTROLS:
            return ""
        found = (e.learn.method, e.dynamic.rule) != ("none", "none")
        why = validate.unfit(name, e.prune, e.model, found)
        why = why or f"it goes with --rewind.mode weights; got {e.rewind.mode}"
        return f"the branch {name} does not fit {self.path}: {why}"

    def measure(
        self,
        name: str,
        probe: Probe | None = None,
        levels: Sequence[int] | None = None,
        *,
        of: str = store.TRUNK,
        **amounts: Any,
    ) -> pd.DataFrame:
        """Measure stored tickets; what is measured once is kept beside them.

        Args:
          name: What the numbers are called, and of a probe that comes from a name,
            its name.
          probe: `(recipe, early, ticket) -> {metric: numbers [r]}`; with a fourth
            parameter, `stored`, it can load what else is stored of the same
            replicates: `stored(variant, level)`, by default what is measured, and this
            level (`lth.lab.probes.Stored`).
          levels: Of the tickets; by default all that are stored, and of two networks
            that are compared those that both have.
          of: The branch whose networks are measured in place of the tickets. `early` is
            then the state that they began at, and `recipe` the one they trained by.
          **amounts: Of a probe that comes from a name, such as `to="reinit"` of a
            barrier; those that are not usual are part of what it is called.

        Returns:
          Rows with the columns of `table`, the split being what the probe is called.

        Raises:
          ValueError for a name that no folder can have, a probe or a branch that is not
          there, an amount that it has not, a level that is not stored and numbers that
          are not one a replicate.
        """
        found: Any = probe
        if found is None:
            found, name = naming.made(names.PROBES, name, amounts, "probe")
        elif amounts:
            raise ValueError(
                f"a probe of your own has its amounts; got {', '.join(amounts)}"
            )
        recipes.check_name(name, "probe")
        recipe = self.recipe()
        if of != store.TRUNK:
            recipe = self._with(recipe, of)
        return probes.measure(recipe, self.path, name, found, levels, of)

    @property
    def measured(self) -> pd.DataFrame:
        """Return what probes measured so far, all of them, as `measure` returns it."""
        tables = [
            store.load_measured(folder, name, level)
            for _, unit in self._units
            for folder in (unit, *store.branches(unit).values())
            for name, levels in store.measured(folder).items()
            for level in levels
        ]
        empty = pd.DataFrame(columns=list(results.COLUMNS))
        found = pd.concat([t for t in tables if len(t)] or [empty])
        return found.assign(run=self.path.name).reset_index(drop=True)

    def _with(self, recipe: Recipe, name: str) -> Recipe:
        """The recipe with a stored branch in it, by its name and amounts if by those.

        Raises ValueError for a branch that is not stored or cannot be made again.
        """
        if name not in self.variants:
            there = ", ".join(self.variants[1:]) or "none"
            raise ValueError(f"{self.path} holds no branch {name}; it holds {there}")
        if name in recipe.branches:
            return recipe
        settings = self._settings(name)
        for offer in recipe.offers:
            known = naming.usual(recipe.offers[offer])
            amounts = {n: v for n, v in settings.items() if n in known}
            told = {n: v for n, v in amounts.items() if v != known[n]}
            if naming.called(offer, told, known) == name:
                made, _ = branching.by_name(recipe.offers, offer, amounts)
                return recipe._replace(branches={**recipe.branches, name: made})
        raise ValueError(
            f"the branch {name} was made by a function: put it into the branches of "
            "the recipe, and open the run with that"
        )

    def _settings(self, name: str) -> dict[str, Any]:
        (_, unit), *_ = self._units
        return store.read_branch(self._folder(unit, name)).get("settings", {})

    def costs(self) -> pd.DataFrame:
        """Return what each training took, as the log tells: the cost of the search.

        One row per variant and level, replicates together: `steps`, `seconds` without
        `compiling`, and that. Of a training that was killed and went on, the seconds
        are those after the last time, of one that was imported NaN. Added replicates
        count as more seconds.
        """
        columns = ["variant", "level", "steps", "seconds", "compiling"]
        lines = [
            {column: line[column] for column in columns}
            for _, unit in self._units
            for folder in (unit, *store.branches(unit).values())
            for line in store.logged(folder, "trained")
        ]
        table = pd.DataFrame(lines, columns=columns)
        table = table.astype({"seconds": float, "compiling": float})
        sums = {"steps": "max", "seconds": _whole_sum, "compiling": _whole_sum}
        return table.groupby(columns[:2], sort=False, as_index=False).agg(sums)

    def compare(self, other: "Run", metric: str | None = None) -> pd.DataFrame:
        """This run's scores less those of another, by variant and level.

        Differences are within replicates that both have; see `results.paired`.
        """
        return results.paired(self.table, other.table, metric)

    def empty_layers(self) -> list[tuple[int, int, str]]:
        """(level, replicate, path) of every layer of which a ticket keeps nothing."""
        return [
            (level, self.replicates[i], path)
            for level, kept in self._densities.items()
            for path, by_replicate in kept.items()
            for i in np.flatnonzero(by_replicate == 0)
        ]

    def cut_off(self) -> list[tuple[int, int, int, int]]:
        """List what no path from an input to an output goes through, at the last level.

        Of each replicate of which there is something: the level, the replicate, and how
        many layers and how many units are cut off. Nothing where it is not known what
        is learned, or how the network is put together; nor in one of several processes:
        asking runs the network, which they must all do together.
        """
        recipe, found = self.recipe(), []
        if recipe.objective is None or not self.levels or not self.levels[-1]:
            return []
        if jax.process_count() > 1:
            return []
        level, probe = self.levels[-1], probing.paths()
        for group, unit in self._units:
            part = lottery.only(recipe, group)
            early = runner.early(part, unit)
            ticket = store.load(unit, level, (part.mask, early))
            try:
                numbers = probe(part, early, ticket)
            except ValueError:
                return []
            for i, replicate in enumerate(group):
                counts = numbers["severed"][i], numbers["units"][i]
                found += [(level, replicate, *counts)] * any(counts)
        return found

    def densities(self) -> dict[int, dict[str, float]]:
        """Return the density of each layer at each level, mean over replicates."""
        return {
            level: {path: float(np.mean(d)) for path, d in kept.items()}
            for level, kept in self._densities.items()
        }

    def savings(self) -> dict[int, dict[str, float]]:
        """Return what each level's tickets save, mean over replicates.

        `weights` left of the whole network, `compression`, all over those left, and
        `speedup`, dense over kept multiply-accumulates, were zeros free to skip; NaN
        where it is not known how often weights are read.
        """
        first, dense = self.init.params, self.content.get("work", {})
        count = len(self.replicates)
        sizes = {
            masks.name(path): leaf.size // count
            for path, leaf in jax.tree_util.tree_leaves_with_path(first)
        }
        total, found = sum(sizes.values()), {}
        for level, kept in self.densities().items():
            gone = sum((1 - share) * sizes[path] for path, share in kept.items())
            macs = sum(reads * kept.get(path, 1) for path, reads in dense.items())
            found[level] = {
                "weights": total - gone,
                "compression": total / (total - gone),
                "speedup": sum(dense.values()) / macs if macs else float("nan"),
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

    @property
    def _units(self) -> list[tuple[list[int], Path]]:
        return store.units(self.path)

    def _folder(self, unit: Path, variant: str) -> Path:
        """Where the tickets of the trunk or of a branch lie."""
        if variant == store.TRUNK:
            return unit
        there = store.branches(unit)
        if variant not in there:
            raise store.StoreError(
                f"{unit} holds no branch {variant}; it holds "
                f"{', '.join(there) or 'none'}"
            )
        return there[variant]

    def _state(self, name: str) -> State:
        parts = [store.load_tree(unit, name)["state"] for _, unit in self._units]
        state = _concatenated(parts)
        return State(state["step"], state["params"], state["stats"])


def _whole_sum(values: pd.Series) -> float:
    """The sum, NaN where one is."""
    return values.sum(skipna=False)


def _concatenated(trees: list) -> Any:
    """Trees of one group of replicates each, as one of all."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *x: np.concatenate(x), *trees)
