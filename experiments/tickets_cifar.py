"""Tickets on CIFAR-10: whether those of a VGG match where its training is stable.

Frankle et al. (2020, arXiv:1912.05671): on CIFAR-10, at the standard learning rate,
tickets of VGG-16 that are rewound to initialisation are unstable to the order of the
data, and do not match the dense network; rewound to a step early in training they are
stable, and match.

    python experiments/tickets_cifar.py --data-dir DATA

The network, data and training of `connectivity_cifar.py`: an eighth of the channels,
SGD at 0.1 that drops twice, 300 steps of 64. Three levels of 60 % pruned, rewound to
k = 0 and k = 30, each retrained for the 300 - k steps that are left; and a second child
of the last level's state, under its mask, in another order of the data. Barriers are on
test, in points, at 11 places on the line (error at the worst less the mean of the
ends), with the averages of batch norm taken anew at each place over 20 batches. An hour
of processor time; stopped, it continues where it was.

What it gave (two CPU cores, jax 0.10.2, n = 4, 95 % intervals); the barriers of the
dense network, of the same seeds and accuracies, are those of `connectivity_cifar.py`:

          k     dense barrier    barrier at 6.4 %    test %, dense         at 6.4 %
          0      21.64 ± 6.64         1.90 ± 1.68     36.70 ± 2.54     44.67 ± 2.23
         30       1.39 ± 1.28         0.57 ± 0.70     36.70 ± 2.54     44.99 ± 4.44

So the barrier falls with k, of the dense network and of the ticket, and both tickets
are stable (below 2 points) and match. That the one of k = 0 does not match fails here:
it is stable, although the dense network is far from it, and each level is better than
the one before, so that 300 steps are few for the dense network. To see tickets of k = 0
fail would take a training that goes on to its end: 63 000 steps of the preset, at full
width, for which a GPU is wanted.
"""

from functools import partial

import connectivity_cifar as dense
import linear_connectivity as linear
import study

LEVELS = {"levels": 3, "prune.rate": 0.6}  # 40, 16 and 6.4 % are left
CELLS = {
    f"k = {k}": ("vgg16", dense.SETTINGS | LEVELS | {"rewind.to": f"{k}it"})
    for k in dense.STEPS[:2]
}
TITLE = "VGG-16 at an eighth of its width on CIFAR-10"

if __name__ == "__main__":
    study.main(
        CELLS,
        linear.claims,
        partial(linear.figure, of=TITLE, limits=(None, None)),
        "tickets_cifar",
        branches=[("order", {"levels": (3,)})],
        probes={"barrier": {"to": "order", "batches": dense.BATCHES}},
    )
