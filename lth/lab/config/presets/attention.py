"""Transformers on images and text, and a regression."""

from dataclasses import replace

from lth.lab.config import Data, Experiment, Model, Optimizer, Prune, Rewind
from lth.lab.config.presets.preset import Preset, brief

_VIT = Experiment(
    data=Data(name="cifar10", validation=5000, pixels="standard", augment="crop_flip"),
    model=Model(name="vit", initialiser="glorot_normal"),
    optimizer=Optimizer(
        name="adam", learning_rate=1e-3, weight_decay=0.05, warmup="10ep", cosine=True
    ),
    prune=Prune(scope="global", rate=0.2),
    rewind=Rewind(to="2000it"),
    batch_size=128,
    steps="200ep",
    eval_every="2ep",
    levels=12,
    replicates=3,
)
_TEXT = Experiment(
    data=Data(name="tinyshakespeare", validation=400, length=128),
    model=Model(name="transformer", initialiser="glorot_normal"),
    optimizer=Optimizer(
        name="adam", learning_rate=1e-3, weight_decay=0.01, warmup="100it", cosine=True
    ),
    prune=Prune(scope="global", rate=0.2),
    rewind=Rewind(to="200it"),
    batch_size=64,
    steps="5000it",
    eval_every="250it",
    levels=12,
    replicates=3,
)
PRESETS = {
    "vit-cifar10": Preset(
        _VIT,
        "a small ViT (patches of 4, 6 blocks of 192) on CIFAR-10, rewound to 2 000",
        "no paper's: a common training of small ViTs, without mixing of images; weight "
        "decay on every parameter",
    ),
    "vit-cifar10-fast": brief(
        _VIT,
        "vit-cifar10",
        "with 3 blocks of 96",
        "half the blocks and width",
        width=0.5,
        depth=3,
    ),
    "transformer-text": Preset(
        _TEXT,
        "a small transformer on the characters of Shakespeare, rewound to 200",
        "no paper's: the tiny Shakespeare corpus in windows of 128, a common exercise",
    ),
    "transformer-text-fast": Preset(
        replace(
            _TEXT,
            data=replace(_TEXT.data, length=64, validation=400),
            model=replace(_TEXT.model, width=0.5, depth=2),
            rewind=Rewind(to="100it"),
            steps="1500it",
            eval_every="250it",
            levels=6,
            replicates=1,
        ),
        "transformer-text with 2 blocks of half the width, briefly",
        "half the blocks, width and window (64 characters), 1 500 iterations, rewound "
        "to 100, 1 replicate, 6 levels; else as transformer-text",
    ),
    "regression": Preset(
        Experiment(
            data=Data(name="regression", validation=1000),
            model=Model(widths=(128, 64), initialiser="kaiming_normal"),
            optimizer=Optimizer(name="adam", learning_rate=1e-3),
            prune=Prune(scope="global", rate=0.2),
            batch_size=64,
            steps="2000it",
            eval_every="100it",
            levels=15,
            replicates=5,
        ),
        "a small network on scikit-learn's noisy regression problem: 10 of 100 "
        "features matter",
        "no paper's: a data set of ours on which the right sparsity is known",
    ),
}
