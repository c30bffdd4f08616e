"""Convolutional networks on CIFAR-10 and ImageNet."""

from dataclasses import replace

from lth.lab.config import Data, Experiment, Model, Optimizer, Prune, Rewind
from lth.lab.config.presets import published
from lth.lab.config.presets.preset import (
    COUNTS,
    HELD_OUT,
    LAST_BATCH,
    Preset,
    brief,
)


def _conv(depth: int, epochs: int, rate: float, conv_rate: float) -> Experiment:
    """Conv-2, 4 or 6 of Frankle & Carbin (2019), figure 2."""
    return Experiment(
        data=Data(name="cifar10", validation=5000, pixels="unit"),
        model=Model(name=f"conv{depth}", initialiser="glorot_normal"),  # type: ignore[arg-type]
        optimizer=Optimizer(name="adam", learning_rate=rate),
        prune=Prune(scope="layer", rate=0.2, rates=f"conv={conv_rate},output=0.1"),
        batch_size=60,
        steps=f"{epochs}ep",
        eval_every="500it",
        levels=20,
        replicates=5,
    )


_CONVS = {
    "conv2": _conv(2, 27, 2e-4, 0.1),
    "conv4": _conv(4, 34, 3e-4, 0.1),
    "conv6": _conv(6, 40, 3e-4, 0.15),
}
# Of each: our iterations, those of Frankle & Carbin (2019, figure 2), and a note.
_LENGTHS = {
    "conv2": ("20 250", "20 000", "27"),
    "conv4": ("25 500", "25 000", "34"),
    "conv6": ("30 000", "30 000", "40"),
}


def _length(name: str) -> str:
    ours, theirs, epochs = _LENGTHS[name]
    if ours == theirs:
        return f"{ours} iterations as in the paper"
    return (
        f"{ours} iterations, the {epochs} epochs of Zhou et al. (2019), where Frankle "
        f"& Carbin have {theirs}"
    )


CONV = {
    **{
        name: Preset(
            e,
            f"Conv-{name[4:]} on CIFAR-10 as in Frankle & Carbin (2019), figure 5",
            f"{_length(name)}, measured every 500; pixels are divided by 255, as by "
            f"Zhou et al.; {COUNTS}",
            published.CONV[name],
        )
        for name, e in _CONVS.items()
    },
    **{
        f"{name}-fast": Preset(
            replace(
                e,
                model=replace(e.model, width=0.25),
                optimizer=replace(e.optimizer, learning_rate=1e-3),
                steps="2000it",
                eval_every="250it",
                levels=levels,
                replicates=replicates,
                controls="reinit",
            ),
            f"{name} at a quarter of its width: tickets against fresh weights",
            "a quarter of the channels and units, 2 000 iterations measured every 250, "
            f"learning rate 1e-3, {replicates} replicate{'s' * (replicates > 1)}, "
            f"{levels} levels, and fresh weights (the control reinit) beside each "
            f"ticket; else as {name}",
        )
        for (name, e), (levels, replicates) in zip(
            _CONVS.items(), ((8, 2), (4, 1), (4, 1)), strict=True
        )
    },
}

_RESNET20 = Experiment(
    data=Data(name="cifar10", validation=5000, pixels="standard", augment="crop_flip"),
    model=Model(name="resnet20", initialiser="kaiming_normal", norm_scale="uniform"),
    optimizer=Optimizer(
        name="sgd",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        milestones="80ep,120ep",
    ),
    prune=Prune(scope="global", rate=0.2),
    rewind=Rewind(to="2000it"),
    batch_size=128,
    steps="160ep",
    eval_every="2ep",
    levels=15,
    replicates=3,
)
_MOMENTUM = (
    "the optimizer's momentum is rewound with the weights, where OpenLTH starts each "
    "level, the dense one too, from the rewind point with none (--rewind.moments drop "
    "does so for tickets)"
)
_OPENLTH = (
    f"{HELD_OUT}, where OpenLTH trains on all 50 000 and reports on test alone, so "
    "that an epoch is 352 iterations, not 391, and 160 are 56 320, not 62 560; pixels "
    f"are scaled by CIFAR-10's own statistics, not ImageNet's; {_MOMENTUM}; the rewind "
    "point is a flag there; biases start at 0, not uniform; counts are exact, where "
    f"OpenLTH drops one weight too many a level; {COUNTS}; {LAST_BATCH}"
)
_LOW_RATE = replace(
    _RESNET20,
    optimizer=replace(_RESNET20.optimizer, learning_rate=0.01),
    rewind=Rewind(to="0"),
)


def _vgg(depth: int) -> Experiment:
    return replace(
        _RESNET20,
        model=replace(_RESNET20.model, name=f"vgg{depth}"),
        prune=Prune(scope="global", rate=0.2, exclude="output"),
    )


_WRN = replace(
    _RESNET20,
    model=Model(name="wrn16_4", initialiser="kaiming_normal"),
    optimizer=Optimizer(
        name="sgd",
        learning_rate=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        milestones="30000it,60000it,90000it",
        drop=0.2,
    ),
    steps="97656it",
    eval_every="1000it",
)
HALF = "at half its width", "half the channels"
DEEP = {
    "resnet20": Preset(
        _RESNET20,
        "ResNet-20 on CIFAR-10 as in OpenLTH, rewound to iteration 2 000 (Frankle et "
        "al. 2020)",
        _OPENLTH,
        published.OPENLTH_CIFAR,
    ),
    "resnet20-fast": brief(_RESNET20, "resnet20", *HALF, width=0.5),
    "resnet20-low-lr": Preset(
        _LOW_RATE,
        "ResNet-20 at a low learning rate and rewound to 0, from where tickets match "
        "too (Frankle & Carbin 2019, section 4)",
        "the network and schedule of OpenLTH, with milestones at 80 and 120 of 160 "
        "epochs, 56 320 iterations, where Frankle & Carbin have 30 000 with milestones "
        "at 20 000 and 25 000; they leave the output layer and the shortcuts dense; "
        f"batch-norm scales start uniform in [0, 1); biases start at 0; {COUNTS}; "
        f"{LAST_BATCH}",
        published.LOW_RATE,
    ),
    "resnet20-low-lr-fast": brief(_LOW_RATE, "resnet20-low-lr", *HALF, width=0.5),
    **{
        f"vgg{n}": Preset(
            _vgg(n),
            f"VGG-{n} with batch norm on CIFAR-10 as in OpenLTH, rewound to iteration "
            "2 000",
            _OPENLTH,
            published.OPENLTH_VGG,
        )
        for n in (16, 19)
    },
    **{
        f"vgg{n}-fast": brief(
            _vgg(n),
            f"vgg{n}",
            "at an eighth of its width",
            "an eighth of the channels",
            width=0.125,
        )
        for n in (16, 19)
    },
    "wrn": Preset(
        _WRN,
        "WRN-16-4 on CIFAR-10 with RigL's training (Evci et al. 2020)",
        "pruned in rounds and rewound to iteration 2 000, where RigL trains sparse "
        "from the start; the network that RigL's code has by default, where the paper "
        "takes WRN-22-2 (--model.name wrn22_2); the first layer (stem) is pruned too; "
        f"weight decay on every parameter, not on kernels alone; {HELD_OUT}; {COUNTS}; "
        f"{LAST_BATCH}",
        published.RIGL,
    ),
    "wrn-fast": brief(
        _WRN,
        "wrn",
        "at a quarter of its width",
        "a quarter of the channels, the first layer's too",
        width=0.25,
    ),
    "resnet50-imagenet": Preset(
        Experiment(
            data=Data(
                name="images",
                validation=10000,
                pixels="standard",
                augment="resized_crop_flip",
            ),
            model=Model(
                name="resnet50_imagenet",
                initialiser="kaiming_normal",
                compute="bfloat16",
            ),
            optimizer=Optimizer(
                name="sgd",
                learning_rate=0.4,
                momentum=0.9,
                weight_decay=1e-4,
                warmup="5ep",
                milestones="30ep,60ep,80ep",
            ),
            prune=Prune(scope="global", rate=0.2),
            rewind=Rewind(to="5ep"),
            batch_size=1024,
            steps="90ep",
            eval_every="5ep",
            levels=10,
            replicates=1,
        ),
        "ResNet-50 on ImageNet as in OpenLTH, rewound to epoch 5; images/train/CLASS/ "
        "and images/val/CLASS/ hold the pictures",
        "random crops are of the central square of a picture, shrunk to 256 pixels, "
        "where OpenLTH crops the whole picture: they are coarser and never show its "
        "ends; activations in bfloat16, not float32; 10 000 training images are held "
        "out for validation, so that an epoch is 1 242 iterations, not 1 252, and 90 "
        "are 111 780, not 112 680; batch-norm scales start at 1, not uniform; biases "
        f"start at 0, not uniform; {_MOMENTUM}; the rewind point is a flag there; "
        f"{COUNTS}; {LAST_BATCH}; it has no fast form on two cores: one step takes "
        "minutes there",
        published.OPENLTH_IMAGENET,
    ),
}


PRESETS = {**CONV, **DEEP}
