"""Constant fan-in: sparse from the first step, and every output reads as many weights.

Lasby et al. (2024, arXiv:2305.02299), SRigL: RigL (Evci et al. 2020, arXiv:1911.11134)
under constant fan-in is as good as RigL without a structure, if units may be ablated of
which too few weights are salient; that matters where few weights are left. What is
constant in fan-in can be stored as two dense arrays and is fast without sparse kernels.
(How fast: experiments/bench/condensed.py.)

    python experiments/constant_fan_in.py --data-dir DATA

LeNet-300-100 on 5 000 images of MNIST, 800 iterations of 60 (10 epochs; Adam, 1.2e-3
along a cosine to 0), Erdős-Rényi densities by layer, by which the output layer is whole
at 10 % and keeps 37 % at 2 %; 30 % of the weights exchanged every 25 steps from 50 to
600, fewer along a cosine; 4 replicates that share weights and batches across methods: 3
minutes on a busy core. Stopped, it continues where it was. Writes a table and a figure
to experiments/results/.

Units of which less than 0.3 of the fan-in is salient are ablated, or none, or those
below 0.5 ("more ablated"). What is ablated stays so.

What it gave (two CPU cores, jax 0.10.2, n = 4, 95 % intervals): test accuracy at the
end in %, dense 94.73 ± 0.27; less RigL's and less SRigL's without ablation, in points,
within replicates; the fan-in of living units of the first layer, and how many hidden
units live.

    density  rule                  accuracy     less RigL  less none abl.   fan-in  live
       10 %  RigL                91.60 ± 0.09                             20 - 228  100%
             SRigL               91.62 ± 0.05   0.02 ± 0.13   0.00              62  100%
             SRigL, none ablated 91.62 ± 0.05   0.02 ± 0.13                     62  100%
             SRigL, more ablated 91.58 ± 0.10  -0.02 ± 0.16  -0.04 ± 0.05       62   99%
        2 %  RigL                88.09 ± 0.19                              1 - 201  100%
             SRigL               86.92 ± 0.68  -1.17 ± 0.85   0.19 ± 0.27       13   91%
             SRigL, none ablated 86.73 ± 0.45  -1.37 ± 0.62                     12  100%
             SRigL, more ablated 87.43 ± 0.28  -0.66 ± 0.44   0.70 ± 0.42       20   61%

At 10 % the claim holds: constant fan-in costs RigL nothing, where RigL's own fan-ins
differ tenfold. At 2 % it costs more than a point, and ablation gives half of that back
where it is let take four units of ten; at 0.3 it takes too few to tell. RigL itself has
ablated none. (SRigL keeps 1.92 to 1.98 % there, since fan-ins are whole.) A threshold
of 0.8 ends with 1 % of the units and 20 to 23 % accuracy: what takes the place of
ablated weights starts at 0, and is the smallest at an update 25 steps later.
"""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pandas as pd
import study
from matplotlib.figure import Figure

from lth import dynamic, lottery, masks, results
from lth.masks import allocation

DENSITIES, DENSE = (0.1, 0.02), {"run": "dense"}
RULES: dict[str, Any] = {
    "RigL": dynamic.rigl,
    "SRigL": partial(dynamic.srigl, ablate=0.3),
    "SRigL, none ablated": partial(dynamic.srigl, ablate=0.0),
    "SRigL, more ablated": partial(dynamic.srigl, ablate=0.5),
}
OTHERS = {"RigL": "RigL", "none ablated": "SRigL, none ablated"}
EACH = list(itertools.product(DENSITIES, RULES))
COLUMNS = ("fan_in_least", "fan_in_most", "living")


def made(flags, rule: str = "", density: float = 1.0) -> lottery.Recipe:
    """Make the recipe of a rule in training; of none it is the dense network."""
    adam = optax.adam(optax.cosine_decay_schedule(1.2e-3, flags.steps))
    ones = masks.ones(jax.eval_shape(study.LENET.init, jax.random.key(0))[0])
    by_layer = allocation.erdos_renyi(ones, density, kernel=True)
    times = {"begin_step": 50, "end_step": 3 * flags.steps // 4, "frequency": 25}

    def sparse(key):
        return dynamic.sparsify(adam, RULES[rule](by_layer, **times), key=key)

    return study.lenet(flags, sparse if rule else adam)


CELLS: dict = {f"{n} {d}": partial(made, rule=n, density=d) for d, n in EACH}
CELLS["dense"] = made


def reads(recipe, early, ticket) -> dict[str, jax.Array]:
    """Measure fan-in of living units of the first layer, and how many live of all."""
    *hidden, _ = (jnp.sum(m, 1) for m in jax.tree.leaves(ticket.mask))
    first = hidden[0]
    least = jnp.where(first > 0, first, first.max()).min(1)
    living = jnp.mean(jnp.concatenate(hidden, 1) > 0, 1)
    return {"fan_in_least": least, "fan_in_most": first.max(1), "living": living}


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies, differences to RigL in points, and what the units read."""
    # Any: the type stubs of pandas do not know what a cell holds.
    measured: Any = study.summary(table).set_index("run")
    rows = []
    for density, name in EACH:
        run, row = f"{name} {density}", {"density": f"{density:.0%}", "rule": name}
        others = {o: {"run": f"{rule} {density}"} for o, rule in OTHERS.items()}
        row |= study.compared(table, {"run": run}, others)
        row |= {column: measured.loc[run, f"reads_{column}"] for column in COLUMNS}
        rows.append(row | {"kept %": 100 * measured.loc[run, "density"]})
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy by rule and density."""
    rules, n = ends(table).groupby("rule", sort=False), table["replicate"].nunique()
    lines = {name: study.line(rows, "accuracy", [10, 2]) for name, rows in rules}
    titled = {f"LeNet-300-100 on MNIST, n = {n}": lines}
    looks = {"size": (5.4, 3.7), "dotted": results.mean(table, DENSE)[:1]}
    return study.panels(titled, "test accuracy (%)", apart=0.03, **looks)


if __name__ == "__main__":
    claims = partial(study.told, rows=ends, dense=DENSE)
    more = {"probes": {"reads": reads}, "flags": study.Flags(steps=800)}
    study.main(CELLS, claims, figure, "constant_fan_in", written=ends, **more)
