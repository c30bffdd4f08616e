"""12 MB, 2 MB, half a MB: what pruning and int8 save of a file, and what they cost.

The post on TensorFlow's pruning API has a network for MNIST shrink from 12 MB to 2 MB
by pruning 90 % of its weights and to 0.5 MB by int8 after training; the tutorial of
tfmot has 3 and 10 times at 80 %. Both compress the files, which a mask alone needs:
zeros take as many bytes as other numbers until something codes them.

    python experiments/compressed.py --data-dir DATA

(Called `compression`, it would be what JAX imports by that name.)

Sizes are of the numbers alone, names left out: every leaf whole ("dense", zeros in
their places) or the kernels as a bit a place and the values kept ("sparse"), float32 or
int8 with one scale a leaf, and all of that deflated (zlib at its middle level) or by
lzma. The floor is the entropy of the mask and the values raw. `lth export` writes the
same forms. LeNet-300-100 on MNIST, 3 000 iterations of 60 (Adam, 1.2e-3 along a
cosine), the smallest 80 and then 90 % of all weights cut off, each time trained on
under the whole schedule; 4 replicates: 2 minutes on a busy core. Normal weights need no
data: a tenth of those of the network of 12 MB, by the tutorial 3 274 698.

What it gave (two CPU cores, jax 0.10.2, n = 4): bytes, and how many times fewer than of
the dense network, deflated too.

          run density        form      zlib      lzma     floor  times
LeNet-300-100    100%       dense   987,626   982,847 1,066,440   1.00
LeNet-300-100    100%  dense int8   216,588   216,690   267,840   4.56
LeNet-300-100     20%       dense   263,362   230,579   238,622   3.75
LeNet-300-100     20%  dense int8    91,808    79,903    78,902  10.76
LeNet-300-100     20%      sparse   222,438   216,301   238,622   4.44
LeNet-300-100     20% sparse int8    74,461    71,805    78,902  13.26
LeNet-300-100     10%       dense   141,751   124,121   123,726   6.97
LeNet-300-100     10%  dense int8    55,251    43,188    43,866  17.88
LeNet-300-100     10%      sparse   115,840   111,531   123,726   8.53
LeNet-300-100     10% sparse int8    44,212    40,677    43,866  22.34
       normal     20%       dense   319,263   278,488   291,523   3.80
       normal     20%  dense int8   106,415    93,708    95,044  11.40
       normal     20% sparse int8    82,905    82,120    95,044  14.63
       normal     10%       dense   173,005   147,532   150,181   7.01
       normal     10%  dense int8    64,264    51,968    51,943  18.88
       normal     10% sparse int8    48,722    45,868    51,943  24.90
       normal      5%       dense    92,334    80,056    77,215  13.14
       normal      5%  dense int8    37,723    29,428    28,096  32.16
       normal      5% sparse int8    29,383    26,788    28,096  41.29

The ratios of normal weights lie within 2 % of those measured elsewhere by the same
rules: 3.85, 11.4 and 14.6; 7.13, 18.9 and 24.9; 13.4, 32.2 and 41.4. At ten times their
size they are 12.1, 1.7 and 0.6 or 0.5 MB: deflating explains the post's 12, 2 and 0.5,
and the tutorial's 3 and 10. Not deflated, the pruned network takes all of its 1 066 440
bytes. Codes come below the floor, for the values that are kept are not equally likely.
Test accuracy in percent, differences in points within replicates, 95 % intervals:

density not trained on     accuracy  less dense int8 less float32
   100%   98.03 ± 0.22 98.03 ± 0.22 0.00 ± 0.00       0.01 ± 0.01
    20%   97.07 ± 0.88 98.25 ± 0.23 0.22 ± 0.07       0.01 ± 0.01
    10%   95.68 ± 2.56 98.32 ± 0.22 0.28 ± 0.24      -0.01 ± 0.02

22 times fewer bytes cost nothing here: trained on twice as long and thrice, the pruned
networks are the better ones, and int8 moves accuracy by a hundredth of a point.
"""

from typing import Any

import jax
import numpy as np
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import criteria, masks, plot, results
from lth.compress import storage

SIZE = 327_464  # a tenth of the weights of the network of 12 MB
KINDS: tuple[tuple[Any, Any], ...] = (("", "float32"), (" int8", "int8"))
FORMS: dict[str, Any] = {
    f + n: (f, kind) for f in ("dense", "sparse") for n, kind in KINDS
}


def lenet(flags: study.Flags) -> lth.lottery.Recipe:
    """Make the recipe of LeNet-300-100, pruned twice and trained on each time."""
    return lth.build(
        "lenet-mnist-fast",
        data_dir=flags.data_dir,
        prune={"densities": "0.2,0.1", "rates": "", "scope": "global"},
        optimizer={"cosine": True},
        rewind={"mode": "learning_rate"},
        levels=2,
        steps=f"{flags.steps or 3000}it",
        eval_every=f"{flags.steps or 3000}it",
        replicates=flags.replicates,
    )


CELLS = {"LeNet-300-100": lenet}


def sizes(params, stats, mask) -> dict[str, float]:
    """Measure the bytes of a network in every form, and the least they could take."""
    found = {}
    for name, how in FORMS.items():
        arrays = storage.stored(params, stats, mask, *how)
        for stage, count in storage.sizes(arrays, mask)._asdict().items():
            found[f"{name}, {stage}"] = count
    return found


def files(recipe, early, ticket, stored) -> dict[str, np.ndarray]:
    """Measure a ticket's bytes, and its accuracy before training on and as int8."""
    state, each = ticket.state, []
    trees = state.params, state.stats, ticket.mask
    for r in range(len(recipe.replicates)):
        each.append(sizes(*jax.tree.map(lambda x, r=r: x[r], trees)))
    found = {name: np.array([row[name] for row in each]) for name in each[0]}

    def tested(params):
        new = state._replace(params=masks.apply(params, ticket.mask))
        return recipe.measures["test"](new)["accuracy"]

    dense, before = stored(level=0).state, max(ticket.level - 1, 0)
    accuracy = tested(state.params)
    found["cut"] = tested(stored(level=before).state.params)
    found["less dense"] = accuracy - recipe.measures["test"](dense)["accuracy"]
    found["int8 less float32"] = tested(recipe.each(rounded)(state.params)) - accuracy
    return found


def rounded(params: masks.Params) -> masks.Params:
    """Round kernels to steps of 127 to the largest weight, as int8 has them."""

    def leaf(w):
        scale = jax.numpy.abs(w).max() / 127
        return w if w.ndim < 2 else jax.numpy.round(w / scale) * scale

    return jax.tree.map(leaf, params)


def normal(flags: study.Flags, folder) -> pd.DataFrame:
    """Return the bytes of normal weights, of which the smallest are cut off."""
    w = {"kernel": np.random.default_rng(0).normal(size=SIZE).astype(np.float32)}
    ones, rows = {"kernel": np.ones(SIZE, bool)}, []
    for level, sparsity in enumerate((0.0, 0.8, 0.9, 0.95)):
        mask = masks.keep_top(criteria.magnitude(w), ones, 1 - sparsity)
        where: tuple = ("normal", 0, "ticket", level, 1 - sparsity, 0, "files")
        rows += [(*where, *pair) for pair in sizes(w, {}, mask).items()]
    return pd.DataFrame(rows, columns=list(results.COLUMNS))


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return, by network, density and form, bytes in means and how many times fewer."""
    found: Any = table[table["split"] == "files"]
    means = found.groupby(["run", "level", "metric"])["value"].mean()
    densities = found.groupby(["run", "level"])["density"].mean()
    rows = []
    for (run, level), density in densities.items():
        for name in FORMS:
            row = {"run": run, "density": density, "form": name}
            for stage in storage.Sizes._fields:
                row[stage] = means[run, level, f"{name}, {stage}"]
            first = means[run, 0, "dense, zlib"]
            rows.append(row | {"times": first / row["zlib"]})
    return pd.DataFrame(rows)


def accuracies(table: pd.DataFrame) -> pd.DataFrame:
    """Return test accuracies in percent by level, and differences in points."""
    found = study.summary(table[table["run"] == "LeNet-300-100"])
    names = {"files_cut": "not trained on", "accuracy": "accuracy"}
    names |= {f"files_{n}": n for n in ("less dense", "int8 less float32")}
    names |= {f"{theirs}_ci": f"{ours}_ci" for theirs, ours in names.items()}
    return 100 * found[["density", *names]].rename(columns=names)


def claims(table: pd.DataFrame) -> str:
    """Write bytes and accuracies."""
    shown = ends(table).drop(columns=["raw", "stored"])
    shown["density"] = shown["density"].map("{:.0%}".format)
    for name in ("zlib", "lzma", "floor"):
        shown[name] = shown[name].map("{:,.0f}".format)
    told = [results.text(shown), ""]
    told += [f"test accuracy in percent, n = {table['replicate'].nunique()}"]
    return "\n".join([*told, results.text(accuracies(table))])


def figure(table: pd.DataFrame) -> Figure:
    """Draw the bytes of each stage, beside the floors."""
    drawn = Figure(figsize=(6.2, 3.4), layout="constrained")
    axes, found = drawn.subplots(), ends(table)
    found = found[found["run"] == "LeNet-300-100"]
    dense, thin = (found[found["density"] == d] for d in (1, found["density"].min()))
    bars = {"dense": dense.iloc[0]["raw"], "dense, deflated": dense.iloc[0]["zlib"]}
    for _, row in thin.iterrows():
        bars[f"90 %, {row['form']}, deflated"] = row["zlib"]
    sizes = [size / 1000 for size in bars.values()]
    drawn_bars = axes.barh([*bars], sizes, color=plot.COLORS[0])
    axes.bar_label(drawn_bars, fmt="%.0f", padding=3, size="small")
    for i, kind in ((3, "int8"), (0, "float32")):
        floor = thin.iloc[i]["floor"] / 1000
        label = f"floor of {kind}, {floor:.0f} kB"
        axes.axvline(floor, color=plot.COLORS[1 + i // 3], ls=":", label=label)
    axes.set(xlabel="kB", title="LeNet-300-100 on MNIST", xlim=(0, 1180))
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    return drawn


if __name__ == "__main__":
    more = {"probes": [("files", files)], "beside": normal}
    study.main(CELLS, claims, figure, "compressed", written=ends, **more)
