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
14 minutes of processor time, 23 on a busy machine. Writes a table and a figure to
experiments/results/.

What it gave (two CPU cores, jax 0.10.2, n = 5, 95 % intervals): test accuracy in %
where the task is given, which no later task changed by one example; how often the task
is found from 1, 16 and 128 inputs, and the accuracy with the task found from 128.

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

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import tyro
from matplotlib.figure import Figure

from lth import data, masks, models, plot, results, supermask, train
from lth.supermask import superposition

RESULTS = Path(__file__).parent / "results"
WIDTHS = (300, 100)
BATCH = 128
SIZES = (1, 16, 128)  # of the batches whose task is inferred
ALGORITHMS = {"one_shot": superposition.one_shot, "binary": superposition.binary}
CASES = [("permuted", 10), ("permuted", 100), ("split", 2), ("split", 100)]
CLASSES = {"permuted": 10, "split": 2}
UNIT = ["problem", "outputs", "network", "tasks", "algorithm", "batch", "metric"]


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    out: Path = RESULTS
    steps: int = 600
    """Batches that a task is learned from."""
    tasks: int = 20
    """Of permuted MNIST."""
    replicates: int = 5
    batches: int = 50
    """Batches of each task and size whose task is inferred, if there are so many."""
    rate: float = 1e-3
    """Learning rate of scores."""


class Task(NamedTuple):
    """What makes a task of MNIST: arrays, so that one program learns all of them."""

    examples: jax.Array  # [m], places in the training set
    tests: jax.Array  # [n], places in the test set, in an order of its own
    pixels: jax.Array  # [784], the order in which pixels are read
    first: jax.Array  # [], the digit whose label is 0


def permuted(splits: data.Splits, count: int, seed: int) -> Task:
    """Tasks [count, ...] of all ten digits, each with its own order of pixels."""
    random = np.random.RandomState(seed)
    whole, test = len(splits.train.targets), len(splits.test.targets)
    examples = np.tile(np.arange(whole), (count, 1))
    tests = np.stack([random.permutation(test) for _ in range(count)])
    pixels = np.stack([random.permutation(784) for _ in range(count)])
    return Task(*map(jnp.asarray, (examples, tests, pixels, np.zeros(count, int))))


def split(splits: data.Splits, count: int, seed: int) -> Task:
    """Tasks [5, ...] of two digits each, all of the size of the smallest."""
    random = np.random.RandomState(seed)

    def pairs(label):
        places = [random.permutation(np.flatnonzero(label // 2 == i)) for i in range(5)]
        return np.stack([p[: min(map(len, places))] for p in places])

    examples, tests = (
        pairs(np.asarray(s.targets)) for s in (splits.train, splits.test)
    )
    pixels = np.tile(np.arange(784), (5, 1))
    return Task(*map(jnp.asarray, (examples, tests, pixels, 2 * np.arange(5))))


PROBLEMS: dict[str, Callable[..., Task]] = {"permuted": permuted, "split": split}


def seen(whole: data.Dataset, task: Task, places: jax.Array) -> data.Dataset:
    """Examples of MNIST as a task has them."""
    image = whole.inputs[places].reshape(len(places), -1)
    return data.Dataset(image[:, task.pixels], whole.targets[places] - task.first)


def make_accuracy(model: models.Model):
    """`accuracy(params, stats, test, task)`: on the whole test set of a task."""
    _, measure = train.classification(model.apply)
    evaluate = train.make_evaluate(measure)

    def accuracy(params, stats, test, task):
        return evaluate(params, stats, seen(test, task, task.tests))["accuracy"]

    return accuracy


def make_step(model: models.Model, tx: Any, examples: int):
    """Training whose data are (all of MNIST, a task)."""
    loss, _ = train.classification(model.apply)
    draw = data.make_sample(BATCH, examples)

    def sample(key, step, data):
        whole, task = data
        return seen(whole, task, draw(key, step, task.examples))

    return train.make_train(loss, sample, tx)


def network(outputs: int, initialiser: str) -> models.Model:
    module = models.MLP(widths=WIDTHS, classes=outputs, initialiser=initialiser)
    return models.standardized(models.from_linen(module, (784,)), 33.3, 78.6)


def make_learn(learned: supermask.Supermask, flags: Flags, examples: int):
    """`learn(key, keys, tasks, splits)`: masks [t, ...] and accuracies [t].

    The weights are those that `key` draws, for all tasks; scores start by `keys`.
    """
    tx = optax.rmsprop(optax.cosine_decay_schedule(flags.rate, flags.steps))
    step, accuracy = (
        make_step(learned.model, tx, examples),
        make_accuracy(learned.model),
    )

    @jax.jit
    def learn(key, keys, tasks, splits):
        early = train.init_state(learned.model.init, tx, key)

        def one(each):
            own, task = each
            scores, order = jax.random.split(own)
            start = early._replace(params=learned.model.init(scores)[0])
            nothing = masks.unmasked(start.params)
            state, _ = step(start, nothing, (splits.train, task), order, flags.steps)
            mask = learned.choose(state.params, state.stats, own)
            return mask, accuracy(state.params, state.stats, splits.test, task)

        return jax.lax.map(one, (keys, tasks))

    return learn


def make_sequential(outputs: int, flags: Flags, examples: int):
    """`run(key, keys, tasks, splits)`: accuracies [t, t], of each after each task."""
    model, tx = network(outputs, "glorot_normal"), optax.adam(1.2e-3)
    step, accuracy = make_step(model, tx, examples), make_accuracy(model)

    @jax.jit
    def run(key, keys, tasks, splits):
        state = train.init_state(model.init, tx, key)
        nothing = masks.unmasked(state.params)

        def one(state, each):
            own, task = each
            state, _ = step(state, nothing, (splits.train, task), own, flags.steps)

            def of(other):
                return accuracy(state.params, state.stats, splits.test, other)

            return state, jax.lax.map(of, tasks)

        return jax.lax.scan(one, state, (keys, tasks))[1]

    return run


def make_under(model: models.Model):
    """`under(weights, stacked, tasks, test)`: accuracies [t], the task given."""
    accuracy = make_accuracy(model)

    @jax.jit
    def under(weights, stacked, tasks, test):
        def one(each):
            mask, task = each
            return accuracy(masks.apply(weights, mask), {}, test, task)

        return jax.lax.map(one, (stacked, tasks))

    return under


def make_infer(algorithm: Callable, model: models.Model, size: int, batches: int):
    """`infer(weights, stacked, tasks, test)`: right tasks and labels, [t, batches]."""

    def outputs(params, inputs):
        return model.apply(params, {}, inputs, False, None)[0]

    @jax.jit
    def infer(weights, stacked, tasks, test):
        def of(each):
            number, task = each

            def one(places):
                batch = seen(test, task, places)
                guess = algorithm(outputs, weights, stacked, batch.inputs)
                params = masks.apply(weights, jax.tree.map(lambda m: m[guess], stacked))
                hits = outputs(params, batch.inputs).argmax(-1) == batch.targets
                return guess == number, jnp.mean(hits)

            count = min(len(task.tests) // size, batches)
            places = task.tests[: count * size].reshape(count, size)
            return jax.lax.map(one, places, batch_size=25)

        return jax.lax.map(of, (jnp.arange(len(tasks.first)), tasks))

    return infer


def packed(stacked: masks.Mask) -> list[np.ndarray]:
    """Masks as they are stored: a bit a weight, kernel by kernel, [t, bytes]."""
    leaves = jax.tree.leaves(stacked)
    return [np.packbits(np.asarray(m).reshape(len(m), -1), axis=1) for m in leaves]


def unpacked(stored: list[np.ndarray], like: masks.Mask) -> masks.Mask:
    leaves, structure = jax.tree.flatten(like)
    bits = [
        np.unpackbits(s, axis=1, count=m[0].size).astype(bool).reshape(m.shape)
        for s, m in zip(stored, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, bits)


def study(problem: str, outputs: int, splits: data.Splits, flags: Flags):
    """Rows of what masks over one frozen network do, of every replicate."""
    model = network(outputs, "signed_constant")
    learned = supermask.edge_popup(model, 0.5, every=3)
    sets = [PROBLEMS[problem](splits, flags.tasks, r) for r in range(flags.replicates)]
    learn = make_learn(learned, flags, sets[0].examples.shape[1])
    under = make_under(model)
    infer = {
        (name, size): make_infer(algorithm, model, size, flags.batches)
        for name, algorithm in ALGORITHMS.items()
        for size in SIZES
    }
    for replicate, tasks in enumerate(sets):
        key, *keys = jax.random.split(jax.random.key(replicate), 1 + len(tasks.first))
        found, right_after = learn(key, jnp.stack(keys), tasks, splits)
        stored = packed(found)
        # What is left of the learning: a key to draw the weights with, and bits.
        weights, stacked = model.init(key)[0], unpacked(stored, found)
        after_all = np.asarray(under(weights, stacked, tasks, splits.test))
        right_after = np.asarray(right_after)
        row = {"problem": problem, "outputs": outputs, "network": "supermasks"}
        row |= {"replicate": replicate, "tasks": len(tasks.first)}
        for metric, value in {
            "right after": right_after.mean(),
            "after all": after_all.mean(),
            "largest change": np.abs(after_all - right_after).max(),
            "bytes per task": sum(s[0].nbytes for s in stored),
        }.items():
            yield {**row, "metric": metric, "value": float(value)}
        for (name, batch), function in infer.items():
            values = function(weights, stacked, tasks, splits.test)
            for metric, value in zip(("task", "accuracy"), values, strict=True):
                at = {"algorithm": name, "batch": batch, "metric": metric}
                yield {**row, **at, "value": float(value.mean())}
        for count in range(1, len(after_all) + 1):
            value = float(after_all[:count].mean())
            yield {**row, "tasks": count, "metric": "seen", "value": value}


def control(problem: str, splits: data.Splits, flags: Flags):
    """Rows of one network with trained weights that meets the tasks in turn."""
    outputs = CLASSES[problem]
    sets = [PROBLEMS[problem](splits, flags.tasks, r) for r in range(flags.replicates)]
    run = make_sequential(outputs, flags, sets[0].examples.shape[1])
    params, _ = network(outputs, "glorot_normal").init(jax.random.key(0))
    for replicate, tasks in enumerate(sets):
        key, *keys = jax.random.split(jax.random.key(replicate), 1 + len(tasks.first))
        found = np.asarray(run(key, jnp.stack(keys), tasks, splits))
        row = {"problem": problem, "outputs": outputs, "network": "trained in turn"}
        row |= {"replicate": replicate, "tasks": len(found)}
        for metric, value in {
            "right after": found.diagonal().mean(),
            "after all": found[-1].mean(),
            "bytes": sum(w.nbytes for w in jax.tree.leaves(params)),
        }.items():
            yield {**row, "metric": metric, "value": float(value)}
        for count in range(1, len(found) + 1):
            value = float(found[count - 1, :count].mean())
            yield {**row, "tasks": count, "metric": "seen", "value": value}


def summarised(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Mean, 95 % half-width and number of replicates of every value."""
    found = []
    for unit, group in pd.DataFrame(rows).groupby(UNIT, sort=False, dropna=False):
        mean, half = results.interval(group["value"])
        new = {"n": len(group), "mean": mean, "ci": half}
        found.append(dict(zip(UNIT, unit, strict=True)) | new)
    table = pd.DataFrame(found).round(5)
    return table.astype({"batch": "Int64"})


def drawn(table: pd.DataFrame) -> Figure:
    """What is remembered of permuted MNIST, and how often the task is inferred."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, *others = figure.subplots(1, 3)
    of = (table["metric"] == "seen") & (table["problem"] == "permuted")
    lines = table[of].groupby(["network", "outputs"], sort=False)
    for color, (unit, rows) in zip(plot.COLORS, lines, strict=False):
        label = f"{unit[0]}, {unit[1]} outputs"
        values = 100 * rows["mean"]
        left.plot(rows["tasks"], values, "o-", ms=3, color=color, label=label)
    left.set(xlabel="tasks learned", ylabel="mean test accuracy over them (%)")
    left.set(title="permuted MNIST, the task given", ylim=(0, 104))
    for ax, problem in zip(others, PROBLEMS, strict=True):
        of = (table["metric"] == "task") & (table["problem"] == problem)
        lines = table[of].groupby(["outputs", "algorithm"], sort=False)
        for i, ((outputs, name), rows) in enumerate(lines):
            x = rows["batch"].astype(int) * 1.08 ** (i - 1.5)  # side by side
            style = {"fmt": ("o-", "s--")[i % 2], "color": plot.COLORS[i // 2]}
            style |= {"capsize": 2, "ms": 4, "label": f"{outputs} outputs, {name}"}
            ax.errorbar(x, 100 * rows["mean"], yerr=100 * rows["ci"], **style)
        chance = 100 / table.loc[of, "tasks"].iloc[0]
        ax.axhline(chance, color="0.5", lw=0.8, ls=":", zorder=0)
        ax.set_xscale("log", base=2)
        ax.set_xticks(SIZES, [str(size) for size in SIZES])
        ax.set(xlabel="test inputs in a batch", ylim=(0, 104))
        ax.set(ylabel="batches whose task is found (%)", title=f"{problem} MNIST")
    for ax in (left, *others):
        ax.legend(frameon=False, fontsize="x-small")
    return figure


def main() -> None:
    flags = tyro.cli(Flags)
    splits = jax.device_put(data.load("mnist", flags.data_dir, 5000, 0))
    rows: list[dict[str, Any]] = []
    parts = [study(*case, splits, flags) for case in CASES]
    for part in [*parts, *(control(problem, splits, flags) for problem in PROBLEMS)]:
        for row in part:
            rows.append(row)
            if row["metric"] != "seen":
                print(*(v for v in row.values() if v is not None), flush=True)
    flags.out.mkdir(parents=True, exist_ok=True)
    table = summarised(rows)
    table.to_csv(flags.out / "superposition.csv", index=False)
    drawn(table).savefig(flags.out / "superposition.png", dpi=80)


if __name__ == "__main__":
    main()
