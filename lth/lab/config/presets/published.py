"""What the sources of presets say, by field of an experiment.

Steps are in iterations where a source trains on what is held out here: its epochs are
longer. A value that no field can have is text. `tests/test_presets.py` asks that the
note of a preset names each of these that it does not follow.
"""

from typing import Any

# Frankle & Carbin (2019), figure 2 and appendix G.
LENET = {
    "model.initialiser": "glorot_normal",
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1.2e-3,
    "prune.scope": "layer",
    "prune.rate": 0.2,
    "prune.rates": "output=0.1",
    "rewind.to": "0",
    "data.validation": 5000,
    "batch_size": 60,
    "steps": "50000it",
    "eval_every": "100it",
    "replicates": 5,
}
# The defaults of OpenLTH's mnist_lenet_300_100; 40 epochs of 60 000 images.
OPENLTH_LENET = {
    "data.validation": 0,
    "model.initialiser": "kaiming_normal",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.momentum": 0.0,
    "optimizer.weight_decay": 0.0,
    "prune.scope": "global",
    "prune.rate": 0.2,
    "prune.exclude": "output",
    "rewind.to": "0",
    "batch_size": 128,
    "steps": "18760it",
}


def _conv(rate: float, conv_rate: float, steps: int) -> dict[str, Any]:
    """A convolutional network of Frankle & Carbin (2019), figure 2."""
    return {
        "model.initialiser": "glorot_normal",
        "optimizer.name": "adam",
        "optimizer.learning_rate": rate,
        "prune.scope": "layer",
        "prune.rate": 0.2,
        "prune.rates": f"conv={conv_rate},output=0.1",
        "rewind.to": "0",
        "data.validation": 5000,
        "batch_size": 60,
        "steps": f"{steps}it",
        "replicates": 5,
    }


CONV = {
    "conv2": _conv(2e-4, 0.1, 20_000),
    "conv4": _conv(3e-4, 0.1, 25_000),
    "conv6": _conv(3e-4, 0.15, 30_000),
}
# OpenLTH's defaults of its CIFAR-10 networks; 160 epochs of 50 000 images.
OPENLTH_CIFAR = {
    "data.validation": 0,
    "data.pixels": "ImageNet's statistics",
    "data.augment": "crop_flip",
    "model.initialiser": "kaiming_normal",
    "model.norm_scale": "uniform",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.milestones": "80ep,120ep",
    "optimizer.drop": 0.1,
    "prune.scope": "global",
    "prune.rate": 0.2,
    "prune.exclude": "",
    "rewind.moments": "drop",
    "batch_size": 128,
    "steps": "62560it",
}
OPENLTH_VGG = OPENLTH_CIFAR | {"prune.exclude": "output"}
# Frankle & Carbin (2019), section 4, whose ResNet-18 is this network.
LOW_RATE = {
    "data.validation": 5000,
    "data.augment": "crop_flip",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.01,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.milestones": "20000it,25000it",
    "prune.rate": 0.2,
    "prune.exclude": "output|shortcut",
    "rewind.to": "0",
    "batch_size": 128,
    "steps": "30000it",
}
# The flags of rigl/cifar_resnet and its schedule.
RIGL = {
    "data.validation": 0,
    "data.augment": "crop_flip",
    "model.name": "wrn16_4",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 5e-4,
    "optimizer.milestones": "30000it,60000it,90000it",
    "optimizer.drop": 0.2,
    "prune.exclude": "stem",
    "batch_size": 128,
    "steps": "97656it",
}
# OpenLTH's defaults of its ImageNet networks; 90 epochs of 1 281 167 images.
OPENLTH_IMAGENET = {
    "data.validation": 0,
    "data.augment": "resized crops of the whole picture, flipped",
    "model.initialiser": "kaiming_normal",
    "model.norm_scale": "uniform",
    "model.compute": "float32",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.4,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.warmup": "5ep",
    "optimizer.milestones": "30ep,60ep,80ep",
    "optimizer.drop": 0.1,
    "prune.scope": "global",
    "prune.rate": 0.2,
    "rewind.moments": "drop",
    "batch_size": 1024,
    "steps": "112680it",
}

# The code of Zhou et al. (2019): train_supermask.py, for LeNet-300-100 on MNIST.
BERNOULLI = {
    "learn.optimizer.name": "sgd",
    "learn.optimizer.learning_rate": 100.0,
    "learn.optimizer.momentum": 0.9,
    "learn.optimizer.weight_decay": 0.0,
    "learn.optimizer.cosine": False,
    "learn.start": 0.5,
    "batch_size": 250,
    "steps": "2000ep",
}
# allenai/hidden-networks: SubnetConv of small networks.
EDGE_POPUP = {
    "learn.optimizer.name": "sgd",
    "learn.optimizer.learning_rate": 0.1,
    "learn.optimizer.momentum": 0.9,
    "learn.optimizer.weight_decay": 1e-4,
    "learn.optimizer.cosine": True,
    "learn.every": 1,
    "learn.rank": "magnitude",
    "batch_size": 128,
    "steps": "100ep",
}
# chrundle/biprop: configs/smallscale/conv2.
MULTI_PRIZE = {
    "learn.optimizer.name": "adam",
    "learn.optimizer.learning_rate": 0.1,
    "learn.optimizer.weight_decay": 1e-4,
    "learn.optimizer.cosine": True,
    "learn.every": 1,
    "learn.rank": "magnitude",
    "batch_size": 128,
    "steps": "100ep",
}
# AMLab-Amsterdam/L0_regularization: train_lenet5.py; one optimizer moves all.
HARD_CONCRETE = {
    "learn.optimizer.name": "adam",
    "learn.optimizer.learning_rate": 1e-3,
    "learn.optimizer.cosine": False,
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 5e-4,
    "batch_size": 100,
    "steps": "200ep",
}
# lolemacs/continuous-sparsification: main.py.
CONTINUOUS = {
    "learn.optimizer.name": "sgd",
    "learn.optimizer.learning_rate": 0.1,
    "optimizer.name": "sgd",
}
# huggingface/block_movement_pruning: SQuAD, BERT.
MOVEMENT = {
    "learn.optimizer.learning_rate": 1e-2,
    "learn.every": 1,
    "optimizer.learning_rate": 3e-5,
    "batch_size": 16,
    "steps": "10ep",
}
MOVEMENT_SOFT = MOVEMENT | {"learn.threshold": 0.1, "learn.penalty": 400.0}
