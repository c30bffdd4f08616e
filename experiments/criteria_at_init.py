"""Pruning before training: which criteria lose a layer, and what their masks are worth.

A, before training. Tanaka et al. (2020, arXiv:2006.05467), "Pruning neural networks
without any data by iteratively conserving synaptic flow": one-shot criteria empty whole
layers long before the last weight must go (layer collapse), SynFlow in 100 rounds does
not; its scores add up to the same in every layer. VGG-16 with batch norm for CIFAR-10.

B, trained after it. Frankle et al. (2021, arXiv:2009.08576), "Pruning neural networks
at initialization: why are we missing the mark?": shuffled within layers, or with fresh
weights, the masks are as good, so that they say little more than how many weights a
layer needs; GraSP's may even be inverted. LeNet-300-100 on MNIST.

    python experiments/criteria_at_init.py --data-dir DATA

A: a quarter of VGG-16's channels (921 008 prunable weights), Kaiming's weights, global
scope, 100 training images, 3 seeds: 4 minutes. B: 1 200 iterations of Adam at 1.2e-3, 4
replicates, 85 trainings of each: 13 minutes; both on two cores that others used too.
Stopped, it continues where it was. Writes a table and a figure to experiments/results/.
The numbers below are of an earlier form, under other keys; it wrote two tables.

The loss is that of evaluation, as in Tanaka et al.'s code: at initialisation batch norm
then is the identity (but for a factor of 1 + 5e-6). SNIP is also shown with batch
statistics, as in a step of training, because what it says changes.

A gave (jax 0.10.2, n = 3): layers without a weight, of 14, mean over seeds

     density  synflow   snip  snip, batch statistics  grasp  magnitude  random
       1.00%      0.0    0.0                     0.0    0.0        0.0     0.0
       0.50%      0.0    0.0                     2.3    0.0        0.0     0.0
       0.20%      0.0    0.0                     6.0    0.7        2.0     0.7
       0.10%      0.0    0.3                     7.3    4.0        5.0     1.0
       0.05%      0.0    1.7                     8.0    5.7        7.0     2.0
       0.01%      0.0    7.0                    10.3    7.7        9.3     4.0

SynFlow keeps every layer alive to the end, 92 weights; all others lose layers. What
does not come out is SNIP at 0.1 %: in evaluation it had lost one layer in one of three
networks there, and more only below. With batch statistics it is the first to collapse.
At full width (14 715 584 weights, one network, not in the table) SynFlow's least layer
density is 0.040 % at 0.1 % and 0.0039 % at 0.01 %; magnitude has lost 2 and 8 layers
there, random 0 and 1, and SNIP, of 256 images, none at 0.1 %.

SynFlow's layer sums are equal to 1.3e-6 (largest over smallest, less 1; biases and
averages are 0). Batch norm ends that once its averages have seen data, since |average|
is subtracted: 0.1 to 0.4 % after one batch, 0.8 to 2.8 % after twenty.

B gave (jax 0.10.2, n = 4, 95 % intervals): test accuracy at the end in %, dense 96.92 ±
0.14, and the controls less the mask itself in the same replicate, in points.

     density criterion         ticket        shuffle         reinit          invert
      20.00% synflow     95.74 ± 0.23   -0.32 ± 0.21   -0.23 ± 0.14   -84.39 ± 0.23
             snip        96.07 ± 0.28   -0.72 ± 0.22   -0.11 ± 0.35   -84.72 ± 0.28
             grasp       93.47 ± 0.81   +1.67 ± 0.56   +2.48 ± 0.71    +0.48 ± 0.61
             magnitude   95.58 ± 0.35   -0.27 ± 0.30   -0.36 ± 0.43    -2.84 ± 0.44
             random      94.32 ± 0.38   -0.11 ± 0.31   -0.09 ± 0.37    -0.19 ± 0.44
       5.00% synflow     93.46 ± 0.37   -0.91 ± 0.34   -0.31 ± 0.40   -82.11 ± 0.37
             snip        93.18 ± 0.62   -0.78 ± 0.36   +0.06 ± 0.41   -81.83 ± 0.62
             grasp       90.88 ± 0.43   +1.44 ± 0.48   +2.04 ± 0.33   -12.50 ± 14.26
             magnitude   92.78 ± 0.24   -0.46 ± 0.11   -0.47 ± 0.24   -45.45 ± 17.01
             random      91.14 ± 0.24   -0.24 ± 0.30   +0.28 ± 0.18    +0.29 ± 1.34
       2.00% synflow     91.00 ± 0.60   -0.45 ± 0.59   +0.08 ± 0.49   -79.65 ± 0.60
             snip        90.34 ± 0.70   +0.20 ± 0.94   +0.14 ± 0.28   -78.99 ± 0.70
             grasp       88.19 ± 0.82   +1.99 ± 1.35   +1.36 ± 0.92   -68.47 ± 11.29
             magnitude   11.35 ± 0.00    0.00           0.00           +3.93 ± 7.24
             random      66.04 ± 20.94  +9.21 ± 14.09  +2.45 ± 20.46   -1.41 ± 43.32
       0.50% synflow     82.14 ± 2.07  -20.43 ± 4.95   -1.59 ± 2.33   -70.79 ± 2.07
             snip        78.29 ± 2.67  -18.08 ± 7.99   -2.07 ± 1.40   -66.94 ± 2.67
             grasp       61.29 ± 11.80 -24.82 ± 19.17  -3.82 ± 3.28   -49.94 ± 11.80
             magnitude   11.35 ± 0.00    0.00           0.00            0.00
             random      15.57 ± 2.38   -2.96 ± 3.01   +0.22 ± 14.66   -3.81 ± 2.16

Down to 2 %, fresh weights cost at most half a point and shuffling less than one, and
GraSP gains by both: so far the claim. But shuffling is not free (at 20 and 5 %, of all
but random, the intervals leave out 0), and at 0.5 %, 1 331 weights, it costs 20 points:
so few no longer meet by chance. GraSP inverted is as good at 20 %, not below. SNIP and
SynFlow inverted keep weights of the first layer alone at any density, so that chance is
all they can reach. Below 5 % magnitude has lost the first layer and predicts one class.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import criteria, lottery, masks, models, plot, results, train
from lth.lab.config import Data, Experiment, Model
from lth.lottery import recipe as recipes

DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 1e-3, 5e-4, 2e-4, 1e-4)
CONTROLS = ("shuffle", "reinit", "invert")
VGG = Experiment(
    data=Data(name="cifar10", pixels="standard"),
    model=Model(name="vgg16", width=0.25, initialiser="kaiming_normal"),
    batch_size=100,  # 10 for each class, as in the code of Tanaka et al.
)
NETWORK = models.from_linen(models.VGG(depth=16, width=0.25), (32, 32, 3))
EARLY = {"at": "early", "scope": "global", "rates": ""}
CRITERIA = {  # of both parts, and how they differ from the defaults
    "synflow": {"criterion": "synflow", "rounds": 100},
    "snip": {"criterion": "snip"},
    "snip, batch statistics": {"criterion": "snip", "mode": "training"},  # of A alone
    **{name: {"criterion": name} for name in ("grasp", "magnitude", "random")},
}
DENSE = {"run": "B snip", "level": 0}
LEFT = "VGG-16 before training: lines end where a layer is lost"
RIGHT = "LeNet-300-100 trained; dashed: shuffled within layers"
TRAINED = [name for name in CRITERIA if "," not in name]  # in part B


def untrained(flags: study.Flags, prune: dict) -> lottery.Recipe:
    """Make the recipe of part A: networks pruned as they are drawn."""
    prune = {**EARLY, **prune, "densities": DENSITIES}
    recipe = vgg(flags, prune=prune, levels=flags.levels or len(DENSITIES))

    def stay(state, mask, n, order):
        sums = {"loss": np.zeros(len(order)), "diverged": [train.NEVER] * len(order)}
        return state._replace(step=state.step + n), sums

    return recipe._replace(train=stay, stops=(1,))


def vgg(flags: study.Flags, **settings) -> lottery.Recipe:
    """Make a recipe of VGG-16, nothing of which is measured but by probes."""
    settings["replicates"] = min(flags.replicates, 3)
    recipe = lth.build(VGG, data_dir=flags.data_dir, **settings)

    def measure(state):
        return dict.fromkeys(("loss", "accuracy"), np.zeros(len(state.step)))

    return recipe._replace(measures={"validation": measure, "test": measure})


def averages(flags: study.Flags) -> lottery.Recipe:
    """Make the recipe whose averages see 1 batch early and 20 late, weights at rest."""
    optimizer = {"name": "sgd", "learning_rate": 1e-30}
    still = {"optimizer": optimizer, "rewind": {"to": "1it"}, "steps": "20it"}
    return vgg(flags, levels=0, **still)


def trained(prune: dict) -> tuple[str, dict]:
    """Name part B: LeNet-300-100 pruned at initialisation, then trained."""
    prune = {**EARLY, **prune, "densities": (0.2, 0.05, 0.02, 0.005)}
    settings = {"prune": prune, "levels": 4, "controls": CONTROLS}
    return "lenet-mnist-fast", settings | {"steps": "1200it", "eval_every": "300it"}


CELLS: dict = {f"A {n}": partial(untrained, prune=p) for n, p in CRITERIA.items()}
CELLS["A averages"] = averages
CELLS |= {f"B {n}": trained(CRITERIA[n]) for n in TRAINED}


def layers(recipe, early, ticket) -> dict[str, np.ndarray]:
    """Measure the least density of a layer, and count layers without a weight."""
    left = np.array(list(jax.vmap(masks.densities)(ticket.mask).values()))
    return {"least": left.min(0), "empty": (left == 0).sum(0)}


def apart(network: models.Model, state: train.TrainState) -> jax.Array:
    """Return how far the sums of SynFlow's scores in layers are apart: ratio less 1."""
    inputs = state.params, state.stats, jnp.ones((1, 32, 32, 3))
    scores = criteria.synflow(network.apply, *inputs)
    sums = jnp.array([jnp.sum(s) for s in jax.tree.leaves(scores) if s.ndim > 1])
    return sums.max() / sums.min() - 1


def sums(recipe, early, ticket) -> dict[str, jax.Array]:
    """Measure the layer sums before batch norm has seen data, and after batches."""
    if recipe.rewind_to != 1:
        return {}
    states = {0: recipes.drawn(recipe), 1: early, 20: ticket.state}
    program = jax.jit(jax.vmap(partial(apart, NETWORK)))
    return {f"after_{n}": program(s._replace(opt_state=())) for n, s in states.items()}


def claims(table: pd.DataFrame) -> str:
    """Write who loses layers, and controls less the masks they control."""
    empty = table[(table["metric"] == "empty") & table["run"].str.startswith("A ")]
    lost = empty.pivot_table("value", empty["density"].round(4), "run", sort=False)
    ratios = table[table["split"] == "sums"].groupby("metric")["value"]
    equal = ratios.agg(["min", "max"])
    rows = []
    for level in range(1, 1 + table.loc[table["run"] == "B snip", "level"].max()):
        for name in TRAINED:
            where = {"run": f"B {name}", "level": level}
            row = {"ticket": results.mean(table, where)}
            row |= {
                c: results.gap(table, {**where, "variant": c}, where) for c in CONTROLS
            }
            row = {column: results.around(*pair) for column, pair in row.items()}
            rows.append({"level": level, "criterion": name, **row})
    dense = results.around(*results.mean(table, DENSE))
    return (
        f"layers without a weight:\n{lost.round(1).to_string()}\nlayer sums apart:\n"
        f"{equal.to_string()}\ndense {dense}\n{results.text(pd.DataFrame(rows))}"
    )


def figure(table: pd.DataFrame) -> Figure:
    """Draw the least density of a layer before training, and accuracy after it."""
    drawn = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = drawn.subplots(1, 2)
    found = study.summary(table[table["level"] > 0])
    least = table[table["metric"] == "least"].groupby(["run", "level"])["value"].min()
    for name, color in zip(CRITERIA, plot.COLORS, strict=True):
        rows = found[found["run"] == f"A {name}"]
        y = 100 * least[f"A {name}"].loc[rows["level"]].where(lambda y: y > 0)
        left.plot(100 * rows["density"], y, "o-", ms=3, color=color, label=name)
        for variant, line in (("ticket", "-"), ("shuffle", "--")):
            rows = found[(found["run"] == f"B {name}") & (found["variant"] == variant)]
            x, y, half = (100 * rows[["density", "accuracy", "accuracy_ci"]]).values.T
            right.errorbar(x, y, half, ls=line, color=color)
    right.axhline(results.mean(table, DENSE)[0], color="0.5", lw=0.8, ls=":")
    for axes in (left, right):
        plot.density_axis(axes)
    left.legend(frameon=False, fontsize="x-small")
    left.set(ylabel="least density of a layer (%)", yscale="log", title=LEFT)
    right.set(ylabel="test accuracy (%)", title=RIGHT)
    return drawn


if __name__ == "__main__":
    probes = {"layers": layers, "sums": sums}
    study.main(CELLS, claims, figure, "criteria_at_init", probes=probes)
