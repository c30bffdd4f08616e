"""Models: a pair of functions over trees, wherever they come from.

`lth` trains any `Model`. A Flax Linen module becomes one with `from_linen`, a Flax NNX
module with `from_nnx`; a plain pair of functions is one already. No model knows about
masks.

The families are Linen modules, called as `module(inputs, train)`. They share fields:
`classes`; `width`, which multiplies the channel counts; `initialiser`, of the kernels;
`dtype`, of the arithmetic (weights, statistics and outputs are float32 in any case);
and where they have them, `norm_scale`, how the scales of normalisations start, and
`remat`, which trades time for memory and changes nothing else.
"""

from lth.models.adapters import Model, from_linen, from_nnx, standardized
from lth.models.conv import Conv
from lth.models.initialisers import INITIALISERS, NORM_SCALES
from lth.models.lenet5 import LeNet5
from lth.models.mlp import MLP
from lth.models.resnet import ImageNetResNet, ResNet
from lth.models.taps import Inputs, Unseen
from lth.models.transformer import Transformer
from lth.models.vgg import VGG
from lth.models.vit import ViT
from lth.models.widths import resizable
from lth.models.wrn import WideResNet

__all__ = [
    "INITIALISERS",
    "MLP",
    "NORM_SCALES",
    "VGG",
    "Conv",
    "ImageNetResNet",
    "Inputs",
    "LeNet5",
    "Model",
    "ResNet",
    "Transformer",
    "Unseen",
    "ViT",
    "WideResNet",
    "from_linen",
    "from_nnx",
    "resizable",
    "standardized",
]
