"""SWAMP: a LeNet-100-50 on MNIST; particles, averages over steps, and both.

Choi et al. (2024, arXiv:2305.14852): particles that train from one matching state, each
averaging its weights over steps, and are averaged and pruned in each round, do better
than IMP, and as well as an ensemble of two of its solutions.

    python experiments/swamp.py --data-dir DATA

The data, network and levels of sparse_soups.py, but rewound to iteration 60 of 600, and
with a rate that halves at 300 (a cosine ends at 0, where averages over steps have
nothing to average; plain IMP is run under both). Weights are collected every 15 steps
over the last quarter. The ensemble is the mean of what plain solutions of two seeds
predict, which differ more than two of one initialisation. The paper has ResNets on
CIFAR, and more and longer rounds. 3 replicates: 3 minutes on a busy core. Writes a
table and a figure to experiments/results/.

What it gave (n = 3, jax 0.10.2, one CPU; test accuracy at the end in percent, and how
far it lies above others, replicate by replicate, with 95 % intervals):

    SWAMP of 3
    density       average  mean particle  best particle          plain  ensemble of 2
     100.00  93.04 ± 0.41   -0.54 ± 0.25   -0.62 ± 0.31   -0.42 ± 0.25   -1.19 ± 0.34
      40.00  94.14 ± 0.26    0.17 ± 0.11   -0.03 ± 0.21    0.16 ± 0.25   -0.73 ± 0.33
      16.00  94.25 ± 0.36    0.24 ± 0.27    0.15 ± 0.37    0.19 ± 0.42   -0.55 ± 0.49
       6.40  93.88 ± 0.10    0.18 ± 0.26    0.09 ± 0.41   -0.03 ± 0.39   -0.93 ± 0.18
       2.56  92.97 ± 0.36    0.07 ± 0.16   -0.04 ± 0.24    0.13 ± 0.31   -1.24 ± 0.45

    3 particles, averaged at the end alone
     100.00  92.96 ± 0.29   -0.26 ± 0.35   -0.50 ± 0.46   -0.50 ± 0.46   -1.27 ± 0.18
      40.00  94.21 ± 0.10    0.37 ± 0.25    0.26 ± 0.31    0.23 ± 0.41   -0.66 ± 0.29
      16.00  94.37 ± 0.38    0.25 ± 0.07    0.11 ± 0.17    0.32 ± 0.81   -0.42 ± 0.46
       6.40  93.96 ± 0.14    0.14 ± 0.18   -0.01 ± 0.04    0.06 ± 0.30   -0.85 ± 0.14
       2.56  92.95 ± 0.24    0.22 ± 0.02    0.09 ± 0.28    0.12 ± 0.32   -1.25 ± 0.29

The claims do not show here. No average of a pruned network is told from plain IMP of
the same schedule, and averages over steps add nothing to particles; all lie below the
ensemble. Above IMP under a cosine 3 particles are, by 0.27 ± 0.14 to 0.66 ± 0.32 at
all pruned densities, and so, at 6.4 %, is IMP under this schedule with its weights
averaged over steps (`SWA`: 0.44 ± 0.39): that is the schedule's. What averages gain is
over their own particles: 0.1 to 0.4. The dense network loses by them, all differences
below 0: at iteration 60 it is not yet stable to the order of the data, so that the
state is no matching one; once pruned, the same state is no worse averaged. A round has
3 times the steps; by the clock of that core 1.8 s (plain), 6.1 s (SWAMP of 3),
measuring too.
"""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import sparse_soups
import study
from sparse_soups import Flags

import lth
from lth import results
from lth.lottery import averaging


def plain(flags: Flags, cosine: bool = False) -> lth.lottery.Recipe:
    """Make the recipe of IMP with weight rewinding: a cosine, or a rate that halves."""
    halves = {"drop": 0.5, "milestones": f"{flags.steps // 2}it"}
    falls = {"cosine": True} if cosine else halves
    moves = {"learning_rate": 0.1, "momentum": 0.9, **falls}
    early = {"to": f"{flags.steps // 10}it"}
    return sparse_soups.plain(flags, optimizer=moves, rewind=early)


def swamp(flags: Flags, m: int, swa_from: float) -> lth.lottery.Recipe:
    """Make the recipe of m particles that collect from a share of training on."""
    return averaging.swamp(plain(flags), m, swa_from=swa_from, every=15)


CELLS = {
    "plain": plain,
    "plain, cosine": partial(plain, cosine=True),
    "SWA": partial(swamp, m=1, swa_from=0.75),
    "3 particles": partial(swamp, m=3, swa_from=0.999),
    "SWAMP of 3": partial(swamp, m=3, swa_from=0.75),
}
RIVALS = ("plain", "plain, cosine", "ensemble of 2")


def ensembles(flags: Flags, folder: Path) -> pd.DataFrame:
    """Measure the mean of what each two plain IMP solutions, of two seeds, predict."""
    run, recipe = lth.open_run(folder / "plain"), plain(flags)
    test = lth.data.load("mnist", flags.data_dir, 1000, 0).test
    rows = []

    @jax.jit
    @jax.vmap
    def predicted(params, stats):
        outputs, _ = recipe.objective.apply(params, stats, test.inputs, False, None)
        return jax.nn.softmax(outputs)

    for level in run.levels:
        ticket = run.ticket(level)
        each = np.asarray(predicted(ticket.params, ticket.stats))
        both = each + np.roll(each, 1, 0)
        scores = (both.argmax(-1) == test.targets).mean(1)
        density = 0.4**level
        for replicate, score in zip(run.replicates, scores, strict=True):
            where = ("ensemble of 2", replicate, "ticket", level, density, flags.steps)
            rows.append((*where, "test", "accuracy", score))
    return pd.DataFrame(rows, columns=list(results.COLUMNS))


def beside(flags: Flags, folder: Path) -> pd.DataFrame:
    """Return the rows of ensembles, and the clock's."""
    return pd.concat([ensembles(flags, folder), study.seconds(CELLS, flags, folder)])


if __name__ == "__main__":
    claims = partial(sparse_soups.claims, rivals=RIVALS)
    more = {"beside": beside, "written": sparse_soups.written}
    study.main(CELLS, claims, sparse_soups.figure, "swamp", flags=Flags, **more)
