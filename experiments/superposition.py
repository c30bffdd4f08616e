"""Supermasks in superposition: many tasks in one frozen network, and none forgotten.

Wortsman et al. (2020, arXiv:2006.14769): each task gets a mask of its own over weights
that are drawn once and never trained, so nothing learned is lost. Where the task of the
test inputs is not given, it is read off the entropy of the masks in superposition; one
gradient is often enough, and outputs that no task uses make it easier.

    python experiments/superposition.py --data-dir DATA [--tasks 20] [--replicates 5]

Permuted MNIST (each task has its own order of pixels) and split MNIST (0 or 1, 2 or 3,
…; the label says only which of the two). One LeNet-300-100 of signed constants, half of
each kernel kept by edge-popup: RMSprop at 1e-3 with a cosine, 600 batches of 128 per
task, masks chosen every 3. The paper keeps the scores above 0, trains at 1e-4 and has
2500 tasks. A batch of test inputs has one task, and the task is inferred from all of
the batch. The control is one network with trained weights (Adam, 1.2e-3) that meets the
tasks one after the other. Inputs, tasks, frozen weights and scores differ by replicate.
A task is a level of a run: its ticket has the scores, from which its mask follows.
14 minutes of processor time, 23 on a busy machine. What is learned is stored in
runs/superposition, and a call that was stopped goes on there with the next task; a
table and a figure go to experiments/results/.

What an earlier form of this study gave, with other draws (two CPU cores, jax 0.10.2, n
= 5, 95 % intervals): test accuracy in % where the task is given, which no later task
changed by one example; how often the task is found from 1, 16 and 128 inputs, and the
accuracy with the task found from 128.

                     given          algorithm    1 in   16 in  128 in  accuracy
    permuted, 20 tasks
      10 outputs  95.35 ± 0.03      one-shot     32.6    51.8    57.9   59.5 ± 7.3
                                    binary       48.3    86.8    93.3   89.7 ± 4.0
      100 outputs 95.14 ± 0.07      one-shot     94.5   100.0   100.0   95.1 ± 0.1
                                    binary       99.1   100.0   100.0   95.1 ± 0.1
      trained in turn: 96.54 ± 0.04 right after each, 42.1 ± 3.0 over all at the end
    split, 5 tasks
      2 outputs   99.66 ± 0.04      one-shot     59.9    76.2    78.3   92.7 ± 2.5
                                    binary       61.9    90.3    99.1   99.4 ± 0.6
      100 outputs 99.56 ± 0.07      one-shot     46.6    56.1    57.4   81.8 ± 6.0
                                    binary       56.5    67.5    71.4   84.9 ± 7.2
      trained in turn: 99.73 ± 0.03 right after each, 54.9 ± 1.2 over all at the end

As published: nothing is forgotten, a task costs 33 kB (its mask in bits, where the
weights take 1.07 MB), and with outputs that no task uses one input mostly tells which
of twenty tasks it is from. On split MNIST those outputs hurt, which is not as expected.

It takes gentle training, too. Permuted, 100 outputs, n = 3, one-shot from one input: at
--rate 3e-4 every task is found, and accuracy with the task given falls to 92.7 %; at
3e-3 that is 95.3 %, but 1 % of the tasks are found, fewer than by chance, and none from
128 inputs. The masks of the output layer are then alike (overlap 0.49; 0.35 at 1e-3 and
0.33 by chance; one network, two of its tasks), and other tasks' masks lower the entropy
faster than the right one: presumably by what all share, keeping unused outputs silent.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pandas as pd
import study
import tasks
from matplotlib.figure import Figure

import lth
from lth import masks, plot, results, supermask, train
from lth.supermask import superposition

SIZES = (1, 16, 128)  # of batches whose task is inferred
FINDERS = {"one_shot": superposition.one_shot, "binary": superposition.binary}


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    replicates: int = 5
    steps: int = 600  # batches that a task is learned from
    tasks: int = 20  # of permuted MNIST
    batches: int = 50  # of each task and size, whose task is inferred
    rate: float = 1e-3  # learning rate of scores


def in_turn(flags: Flags, problem: str, outputs: int, frozen: bool = True):
    """Make a recipe that learns a task at each level: a mask, or weights trained on."""
    count = flags.tasks if problem == "permuted" else 5
    kind, tx = "signed_constant" if frozen else "glorot_normal", optax.adam(1.2e-3)
    model = tasks.network(outputs, count, problem == "split", kind)
    if frozen:
        model = supermask.edge_popup(model, 0.5, every=3).model
        tx = optax.rmsprop(optax.cosine_decay_schedule(flags.rate, flags.steps))
    loss, measure = tasks.classification(model.apply, None if frozen else count)
    recipe = lth.make_recipe(
        model, tx, loss, measure, tasks.examples(flags.data_dir, problem == "split"),
        batch_size=128, replicates=flags.replicates, prunable=lambda *leaf: True,
        steps=flags.steps, eval_every=flags.steps, densities=[1.0] * (count - 1),
    )  # fmt: skip

    def next_task(early, late, key):
        own = tasks.after(late.stats)
        if not frozen:
            return late._replace(step=early.step, stats=own)
        new = train.init_state(model.init, tx, key)  # its scores, over the same weights
        stats = new.stats._replace(weights=early.stats.weights, inner=own)
        return new._replace(stats=stats)

    return recipe._replace(rewind=recipe.each(next_task))


MASKS = ("permuted", 10), ("permuted", 100), ("split", 2), ("split", 100)
CELLS = {f"{p}, {n} outputs": partial(in_turn, problem=p, outputs=n) for p, n in MASKS}
for p, n in MASKS[::2]:
    CELLS[f"{p}, trained in turn"] = partial(CELLS[f"{p}, {n} outputs"], frozen=False)


def inferred(flags: Flags, run, recipe, early, ticket) -> dict[str, jax.Array]:
    """Measure all masks over the frozen weights, with the task given and inferred."""

    def top(scores):
        return masks.keep_top(scores, jax.tree.map(jnp.isfinite, scores), 0.5, "layer")

    levels = [jax.vmap(top)(run.ticket(n).params) for n in run.levels]
    stacked = jax.tree.map(lambda *m: jnp.stack(m, 1), *levels)
    outputs = early.stats.weights["output"]["bias"].shape[-1]
    test = tasks.examples(flags.data_dir, "split" in run.name).test
    apply = tasks.network(outputs, 1, True, "signed_constant").apply

    def on(task, weights, stacked, own):
        def logits(params, inputs):
            return apply(params, own._replace(task=task), inputs, False, None)[0]

        def hits(number, batch):
            params = masks.apply(weights, jax.tree.map(lambda m: m[number], stacked))
            said = logits(params, batch.inputs).argmax(-1)
            return jnp.mean(said == tasks.mine(batch.targets, task))

        def guess(find, batch):
            number = find(logits, weights, stacked, batch.inputs)
            return number == task, hits(number, batch)

        found = {"after all": hits(task, test)}
        for size in SIZES:
            parts = tasks.batches(test, size, flags.batches)
            for name, find in FINDERS.items():
                each = jax.lax.map(partial(guess, find), parts, batch_size=25)
                found[f"{name} {size}"], found[f"{name} {size}, accuracy"] = each
        return jax.tree.map(lambda x: 100 * jnp.mean(x), found)

    def one(*own):
        each = jax.lax.map(lambda task: on(task, *own), jnp.arange(len(levels)))
        return jax.tree.map(jnp.mean, each)

    return recipe.each(one)(early.stats.weights, stacked, early.stats.inner)


def given_and_inferred(flags: Flags, folder) -> pd.DataFrame:
    """Measure the masks of the last ticket of each cell that learns masks."""
    tables = []
    for cell in list(CELLS)[: len(MASKS)]:
        run = lth.open_run(folder / cell, CELLS[cell](flags))
        found = run.measure("masks", partial(inferred, flags, run), [max(run.levels)])
        tables.append(found.assign(run=cell))
    return pd.concat(tables)


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return what each cell has after all its tasks, in %: means and intervals."""
    unit = ["run", "replicate"]
    last = results.final(table, metric="seen").sort_values("level").groupby(unit)
    right = results.final(table, metric="accuracy").groupby(unit)["value"].mean()
    wide = pd.DataFrame({"right after": right, "after all": last["value"].last()})
    of_masks = table[table["split"] == "masks"].pivot_table("value", unit, "metric")
    wide = (100 * wide).combine_first(of_masks)
    long = wide.melt(var_name="metric", ignore_index=False).dropna()
    return study.with_intervals(long, ["run", "metric"])


def figure(table: pd.DataFrame) -> Figure:
    """Draw what is remembered of the tasks so far, and how often one is inferred."""
    drawn = Figure(figsize=(11, 3.6), layout="constrained")
    left, *others = drawn.subplots(1, 3, subplot_kw={"ylim": (0, 104)})
    found = ends(table).set_index(["run", "metric"])["value"]
    for color, cell in zip([*plot.COLORS[:4], "0.2", "0.6"], CELLS, strict=True):
        of, masked = table[table["run"] == cell], "trained" not in cell
        rows = results.final(of, metric="accuracy" if masked else "seen")
        line = 100 * rows.groupby("level")["value"].mean()
        line = line.expanding().mean() if masked else line
        left.plot(line.index + 1, line, "o-", ms=3, color=color, label=cell)
        for name, style in zip(FINDERS, ("o-", "s--") if masked else (), strict=False):
            line = [found.get((cell, f"{name} {size}")) for size in SIZES]
            look = {"color": color, "label": f"{cell}, {name}"}
            others["split" in cell].semilogx(SIZES, line, style, **look)
    left.set(xlabel="tasks learned", ylabel="mean test accuracy over them (%)")
    others[0].set(xlabel="test inputs in a batch", ylabel="tasks found (%)")
    for axes in (left, *others):
        axes.legend(frameon=False, fontsize="x-small")
    return drawn


if __name__ == "__main__":
    more = {"beside": given_and_inferred, "written": ends, "flags": Flags}
    study.main(CELLS, None, figure, "superposition", **more)
