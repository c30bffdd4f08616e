"""Masks that are learned: each preset with each method."""

from dataclasses import replace

from lth.config import Data, Experiment, Learn, Model, Optimizer
from lth.presets.preset import Preset

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
# and how the preset differs from that.
_METHODS = {
    "bernoulli": (
        Learn(method="bernoulli", optimizer=_sgd(20.0), rescale=True),
        True,
        "Zhou et al. (2019), with dynamic rescaling and signed constants",
        "constants of sqrt(2 / fan_in), not the deviation of Glorot's distribution; "
        "fewer epochs, and a learning rate that falls",
    ),
    "edge_popup": (
        Learn(method="edge_popup", optimizer=_sgd(0.5), every=3, rescale=True),
        True,
        "edge-popup of Ramanujan et al. (2020), half of the weights kept",
        "the highest scores are chosen every 3 steps, not at each; scores do not "
        "decay; networks, epochs and learning rate",
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
        "the highest scores are chosen every 3 steps, not at each; activations are "
        "not binary; networks, without batch norm, epochs and optimizer",
    ),
    "hard_concrete": (
        Learn(method="hard_concrete", optimizer=_adam(1e-2), start=0.9, penalty=20.0),
        False,
        "the L0 penalty of Louizos et al. (2018), weights trained too",
        "a gate for each weight, not for each unit; networks and optimizer",
    ),
    "continuous": (
        Learn(method="continuous", optimizer=_adam(1e-2), penalty=0.3),
        False,
        "continuous sparsification of Savarese et al. (2020), weights trained too",
        "one round; networks and optimizer",
    ),
    "movement": (
        Learn(method="movement", optimizer=_adam(1e-2), keep=0.1, every=3),
        False,
        "movement pruning of Sanh et al. (2020) to 10 %, from initial weights",
        "the highest scores are chosen every 3 steps, not at each; weights start "
        "untrained, where the paper prunes a language model",
    ),
    "movement_soft": (
        Learn(method="movement_soft", optimizer=_adam(1e-2), penalty=30.0),
        False,
        "soft movement pruning of Sanh et al. (2020), from initial weights",
        "weights start untrained, where the paper prunes a language model",
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
    learn, signed, source, differs = _METHODS[method]
    model = replace(base.model, initialiser="signed_constant") if signed else base.model
    if model.name != "mlp":
        learn, source = _CONV_LEARN.get(method, (learn, source))
    return Preset(
        replace(base, model=model, learn=learn), f"{network}: {source}", differs
    )


SUPERMASKS = {
    name: {method: _preset(*base, method) for method in _METHODS}
    for name, base in _BASES.items()
}
