"""LeNet-300-100, on which lottery tickets were found first."""

from dataclasses import replace

from lth.lab.config import Data, Experiment, Model, Optimizer, Prune
from lth.lab.config.presets import published
from lth.lab.config.presets.preset import COUNTS, HELD_OUT, LAST_BATCH, Preset

_LENET = Experiment(
    data=Data(name="mnist", validation=5000, pixels="unit"),
    model=Model(widths=(300, 100), initialiser="glorot_normal"),
    optimizer=Optimizer(name="adam", learning_rate=1.2e-3),
    prune=Prune(scope="layer", rate=0.2, rates="output=0.1"),
    batch_size=60,
    steps="50000it",
    eval_every="500it",
    levels=20,
    replicates=5,
)

_SGD = Experiment(
    data=Data(name="mnist", validation=5000, pixels="standard"),
    model=Model(widths=(300, 100), initialiser="kaiming_normal"),
    optimizer=Optimizer(name="sgd", learning_rate=0.1),
    prune=Prune(scope="global", rate=0.2, exclude="output"),
    batch_size=128,
    steps="40ep",
    eval_every="1ep",
    levels=20,
    replicates=5,
)


PRESETS = {
    "digits": Preset(
        replace(
            _LENET,
            data=Data(name="digits", validation=180, pixels="unit"),
            steps="600it",
            eval_every="20it",
            levels=12,
        ),
        "LeNet-300-100 on scikit-learn's 8x8 digits: no download, about a minute",
        "a small data set of ours, 600 iterations measured every 20, 12 levels, 180 "
        "images held out; network, optimizer and pruning follow lenet-mnist",
    ),
    "lenet-mnist": Preset(
        _LENET,
        "LeNet-300-100 on MNIST as in Frankle & Carbin (2019), figures 1, 3 and 4",
        "measured every 500 iterations instead of 100; pixels are divided by 255, "
        f"where the authors' code scales each image to length 1; {COUNTS}; "
        f"{LAST_BATCH}",
        published.LENET,
    ),
    "lenet-mnist-fast": Preset(
        replace(_LENET, steps="10000it", eval_every="200it", levels=15),
        "lenet-mnist with a fifth of the iterations",
        "10 000 iterations instead of 50 000, measured every 200, 15 levels; else as "
        "lenet-mnist",
    ),
    "lenet-mnist-sgd": Preset(
        _SGD,
        "LeNet-300-100 on MNIST with the defaults of OpenLTH",
        f"{HELD_OUT}, where OpenLTH trains on all 60 000 and reports on test alone, so "
        "that 40 epochs are 17 200 iterations, not 18 760; biases start at 0, not "
        "uniform; a density counts prunable weights, so the output layer is no part of "
        "it; counts are exact, where OpenLTH drops one weight too many a level; "
        f"{LAST_BATCH}",
        published.OPENLTH_LENET,
    ),
    "lenet-mnist-sgd-fast": Preset(
        replace(_SGD, steps="5ep", levels=15),
        "lenet-mnist-sgd with an eighth of the epochs",
        "5 epochs instead of 40, 15 levels; else as lenet-mnist-sgd",
    ),
}
