"""Masks that are learned: each preset with each method."""

from dataclasses import replace

from lth.lab.config import Data, Experiment, Learn, Model, Optimizer
from lth.lab.config.presets import published
from lth.lab.config.presets.preset import Preset

LENGTHS = {"digits": "2 000 iterations", "mnist": "20 epochs", "cifar10": "50 epochs"}
_DIGITS = Experiment(
    data=Data(name="digits", validation=180, pixels="unit"),
    model=Model(widths=(300, 100), initialiser="glorot_normal"),
    batch_size=60,
    steps="2000it",
    eval_every="200it",
    levels=0,
    replicates=5,
)
_LENET = replace(
    _DIGITS,
    data=Data(name="mnist", validation=5000, pixels="unit"),
    batch_size=250,
    steps="20ep",
    eval_every="2ep",
)
_CONV = replace(
    _LENET,
    data=Data(name="cifar10", validation=5000, pixels="standard"),
    batch_size=128,
    steps="50ep",
    eval_every="5ep",
    replicates=3,
)
_BASES = {
    "digits": (_DIGITS, "LeNet-300-100 on scikit-learn's digits"),
    "lenet-mnist": (_LENET, "LeNet-300-100 on MNIST"),
    **{
        f"conv{depth}-cifar10": (
            replace(_CONV, model=Model(name=f"conv{depth}")),  # type: ignore[arg-type]
            f"Conv-{depth} on CIFAR-10",
        )
        for depth in (2, 4, 6)
    },
}


def _sgd(rate: float, decay: float = 0.0) -> Optimizer:
    return Optimizer(
        name="sgd", learning_rate=rate, momentum=0.9, weight_decay=decay, cosine=True
    )


def _adam(rate: float) -> Optimizer:
    return Optimizer(name="adam", learning_rate=rate, cosine=True)


# Of each method: its settings, whether its weights are signed constants, its source,
# how the preset differs from that, and what the source has.
_METHODS = {
    "bernoulli": (
        Learn(method="bernoulli", optimizer=_sgd(20.0), rescale=True),
        True,
        "Zhou et al. (2019), with dynamic rescaling and signed constants",
        "constants of sqrt(2 / fan_in), not the deviation of Glorot's distribution; "
        "a learning rate of {rate}, which falls, where Zhou et al. have a constant 100 "
        "(on MNIST); {length}, where they have 2 000 epochs in batches of 250",
        published.BERNOULLI,
    ),
    "edge_popup": (
        Learn(method="edge_popup", optimizer=_sgd(0.5), every=3, rescale=True),
        True,
        "edge-popup of Ramanujan et al. (2020), half of the weights kept",
        "the highest scores are chosen every 3 steps, not every 1; scores are ranked "
        "as in the paper, not by magnitude as in its code, and do not decay (1e-4 "
        "there); a learning rate of {rate}, not 0.1; {length}, not 100 epochs in "
        "batches of 128; no augmentation, where CIFAR-10 is cropped and "
        "flipped; networks, without batch norm",
        published.EDGE_POPUP,
    ),
    "multi_prize": (
        Learn(
            method="multi_prize",
            optimizer=_adam(1e-3),
            rank="magnitude",
            every=3,
            rescale=True,
        ),
        True,
        "the binary weights of Diffenderfer & Kailkhura (2021), half of them kept",
        "the highest scores are chosen every 3 steps, not every 1; activations are not "
        "binary; a learning rate of {rate} without weight decay, where the authors' "
        "code has 0.1 and 1e-4; {length}, not 100 epochs in batches of 128; networks, "
        "without batch norm",
        published.MULTI_PRIZE,
    ),
    "hard_concrete": (
        Learn(method="hard_concrete", optimizer=_adam(1e-2), start=0.9, penalty=20.0),
        False,
        "the L0 penalty of Louizos et al. (2018), weights trained too",
        "a gate for each weight, not for each unit; scores have a learning rate of "
        "{rate}, which falls, not a constant 0.001, and weights one of 0.0012 without "
        "weight decay (0.001 and 5e-4 there); {length}, not 200 epochs in batches of "
        "100; weights are not averaged; networks",
        published.HARD_CONCRETE,
    ),
    "continuous": (
        Learn(method="continuous", optimizer=_adam(1e-2), penalty=0.3),
        False,
        "continuous sparsification of Savarese et al. (2020), weights trained too",
        "one round; Adam for scores, with a learning rate of {rate}, and for weights, "
        "where the authors' code has SGD with 0.1 for both; a penalty on the share of "
        "weights, not 1e-8 on their number; {length}; networks",
        published.CONTINUOUS,
    ),
    "movement": (
        Learn(method="movement", optimizer=_adam(1e-2), keep=0.1, every=3),
        False,
        "movement pruning of Sanh et al. (2020) to 10 %, from initial weights",
        "the highest scores are chosen every 3 steps, not every 1; weights start "
        "untrained, where the paper prunes a language model, and have a learning rate "
        "of 0.0012, not 3e-5; {length}, not 10 epochs in batches of 16",
        published.MOVEMENT,
    ),
    "movement_soft": (
        Learn(method="movement_soft", optimizer=_adam(1e-2), penalty=30.0),
        False,
        "soft movement pruning of Sanh et al. (2020), from initial weights",
        "weights start untrained, where the paper prunes a language model, and have a "
        "learning rate of 0.0012, not 3e-5; a penalty of 30, not 400; {length}, not 10 "
        "epochs in batches of 16",
        published.MOVEMENT_SOFT,
    ),
}


# Where these differ on convolutional networks, which stay at chance otherwise: there
# rescaling, which doubles the variance of signed constants layer after layer, and the
# rate at which scores of fully connected networks move.
_CONV_LEARN = {
    "bernoulli": (
        Learn(method="bernoulli", optimizer=_sgd(500.0)),
        "Zhou et al. (2019), with signed constants",
    ),
    "edge_popup": (
        replace(_METHODS["edge_popup"][0], optimizer=_sgd(0.05)),
        _METHODS["edge_popup"][2],
    ),
}


def _preset(base: Experiment, network: str, method: str) -> Preset:
    learn, signed, source, differs, known = _METHODS[method]
    model = replace(base.model, initialiser="signed_constant") if signed else base.model
    if model.name != "mlp":
        learn, source = _CONV_LEARN.get(method, (learn, source))
    length = f"{LENGTHS[base.data.name]} in batches of {base.batch_size}"
    rate = f"{learn.optimizer.learning_rate:g}"
    return Preset(
        replace(base, model=model, learn=learn),
        f"{network}: {source}",
        differs.format(rate=rate, length=length),
        known,
    )


SUPERMASKS = {
    name: {method: _preset(*base, method) for method in _METHODS}
    for name, base in _BASES.items()
}
