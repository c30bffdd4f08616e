"""The networks of OpenLTH: which of ours each is, and what its modules are called."""

import re
from collections.abc import Mapping
from typing import Any

from lth.lab.config.fields import ConfigError, Model
from lth.lab.config.openlth import groups

INITIALISERS = {
    "kaiming_normal": "kaiming_normal",
    "kaiming_uniform": "kaiming_uniform",
    "orthogonal": "orthogonal",
    "binary": "signed_constant",
}
SCALES = {"uniform": "uniform", "fixed": "ones", "oneone": "ones"}
CONVOLUTIONS = {  # of each segment of a VGG, between which there is max pooling
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def network(group: Mapping[str, str], data: str) -> tuple[Model, dict[str, str]]:
    """Return the network, and its modules, ours to theirs.

    Raises ConfigError for one that lth has not.
    """
    name = group.get("model_name", "")
    drawn = INITIALISERS[groups.one(group, "model_init", INITIALISERS)]
    scale = SCALES[groups.one(group, "batchnorm_init", SCALES)]
    match = re.fullmatch(r"(mnist_lenet|cifar_resnet|cifar_vgg)((?:_[1-9]\d*)+)", name)
    family, sizes = "", [0]
    if match and match[1].startswith(data[:5]):
        family, sizes = match[1], [int(n) for n in match[2].split("_")[1:]]
    options: dict[str, Any] = {"initialiser": drawn}
    names = {"output": "fc"}
    if family == "mnist_lenet":
        names |= {f"hidden_{i}": f"fc_layers.{i}" for i in range(len(sizes))}
        return Model(name="mlp", widths=tuple(sizes), **options), names
    options["norm_scale"] = scale
    depth, *width = sizes
    if family == "cifar_resnet" and depth in (20, 32, 44, 56, 110) and len(width) < 2:
        options["width"] = width[0] / 16 if width else 1.0
        return Model(name=f"resnet{depth}", **options), names | _resnet(depth)  # type: ignore[arg-type]
    if family == "cifar_vgg" and depth in CONVOLUTIONS and not width:
        return Model(name=f"vgg{depth}", **options), names | _vgg(depth)  # type: ignore[arg-type]
    raise ConfigError(
        f"OpenLTH's model_name {name} on {data} cannot be imported; mnist_lenet_N_M on "
        "mnist, and cifar_resnet_N, cifar_resnet_N_W and cifar_vgg_N on cifar10 can, "
        "of the depths that lth has"
    )


def _resnet(depth: int) -> dict[str, str]:
    names = {"stem": "conv", "stem_norm": "bn"}
    each = depth // 6
    for segment in range(3):
        for i in range(each):
            ours = f"block_{segment}_{i}"
            theirs = f"blocks.{segment * each + i}"
            for j in range(2):
                names[f"{ours}/conv_{j}"] = f"{theirs}.conv{j + 1}"
                names[f"{ours}/norm_{j}"] = f"{theirs}.bn{j + 1}"
        if segment:
            first = f"blocks.{segment * each}.shortcut"
            names[f"block_{segment}_0/shortcut"] = f"{first}.0"
            names[f"block_{segment}_0/shortcut_norm"] = f"{first}.1"
    return names


def _vgg(depth: int) -> dict[str, str]:
    names, at = {}, 0
    for segment, count in enumerate(CONVOLUTIONS[depth]):
        for i in range(count):
            names[f"block_{segment}_{i}/conv_0"] = f"layers.{at}.conv"
            names[f"block_{segment}_{i}/norm_0"] = f"layers.{at}.bn"
            at += 1
        at += 1  # a pooling has a number too
    return names


def ignored(group: Mapping[str, str], names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tensors that are never pruned. Raises ConfigError for a name."""
    text = group.get("pruning_layers_to_ignore", "")
    listed = [item for item in text.split(",") if item]
    known = [f"{theirs}.weight" for theirs in names.values()]
    for tensor in listed:
        if tensor not in known:
            raise ConfigError(
                f"OpenLTH's pruning_layers_to_ignore names {tensor}; the network has "
                f"{', '.join(known)}"
            )
    return tuple(listed)
