"""What an experiment is: its fields.

Nothing here imports JAX, so that the command line can answer before it is loaded.
"""

from dataclasses import dataclass, field
from typing import Literal


class ConfigError(ValueError):
    """A setting that cannot be run; the message names the flag and what is allowed."""


@dataclass(frozen=True)
class Data:
    """What is learned."""

    name: Literal[
        "digits",
        "mnist",
        "fashion_mnist",
        "kmnist",
        "emnist_balanced",
        "emnist_byclass",
        "emnist_bymerge",
        "emnist_digits",
        "emnist_letters",
        "emnist_mnist",
        "cifar10",
        "cifar100",
        "regression",
        "tinyshakespeare",
        "images",
    ] = "mnist"
    """digits comes with scikit-learn and regression is generated; images are folders
    of one class each, images/train/CLASS/ and images/val/CLASS/, read while training;
    the others are files of their published names."""
    validation: int = 5000
    """Examples held out of the training set, to choose by."""
    split_seed: int = 0
    """Which examples those are; the same for every replicate."""
    pixels: Literal["unit", "standard", "openlth"] = "unit"
    """Scale pixels to [0, 1]; or each channel to mean 0 and variance 1 over the
    training set (over ImageNet for images); or as OpenLTH does: MNIST by a mean of
    0.1307 and a deviation of 0.3081, CIFAR-10 by those of ImageNet."""
    augment: Literal["none", "flip", "crop_flip", "resized_crop_flip"] = "none"
    """Of training images: mirror half of them; after a random crop of the image padded
    by 4 pixels; after a crop of random area and aspect, resized (of images: of their
    central square, see --data.size, where others crop the whole picture)."""
    examples: int = 0
    """Train on so many of the training examples, drawn by split-seed; 0: on all."""
    classes: tuple[int, ...] = ()
    """Only these classes, renumbered in this order; none given: all."""
    label_noise: float = 0.0
    """Fraction of the training labels drawn anew, uniformly over the classes."""
    length: int = 128
    """Characters in an example of text."""
    size: int = 224
    """Pixels a side of streamed images; their central square is read 8/7 as large and
    cropped, and what lies beside it is never seen."""


@dataclass(frozen=True)
class Model:
    """The network that is trained."""

    name: Literal[
        "mlp",
        "lenet5",
        "conv2",
        "conv4",
        "conv6",
        "conv8",
        "vgg11",
        "vgg13",
        "vgg16",
        "vgg19",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet110",
        "wrn16_4",
        "wrn22_2",
        "resnet18_imagenet",
        "resnet50_imagenet",
        "vit",
        "transformer",
    ] = "mlp"
    """mlp is fully connected; transformer is for text, the others for images."""
    widths: tuple[int, ...] = (300, 100)
    """Of mlp: units of each hidden layer, hidden_0, hidden_1, … before `output`."""
    width: float = 1.0
    """Of the others: how many times as many channels as published."""
    depth: int = 0
    """Of vit and transformer: blocks; 0: 6 of a vit, 4 of a transformer."""
    initialiser: Literal[
        "glorot_normal",
        "kaiming_normal",
        "kaiming_uniform",
        "orthogonal",
        "signed_constant",
    ] = "glorot_normal"
    """How kernels are drawn; biases start at 0."""
    norm_scale: Literal["ones", "uniform"] = "ones"
    """Where the scales of normalisation start: at 1, or uniform in [0, 1)."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """What activations are computed in; weights are float32 always."""
    precision: Literal["default", "float32", "tensorfloat32", "bfloat16"] = "default"
    """How products of float32 numbers are computed. default is what the device does
    fastest: TF32 (10 bits of fraction, not 23) on NVIDIA GPUs, bfloat16 on TPUs;
    float32 on CPUs, where nothing else is to be had."""
    remat: bool = False
    """Compute the activations of each block again in the backward pass: less memory,
    more time. Not of mlp, lenet5 and conv."""


@dataclass(frozen=True)
class Optimizer:
    """How weights are moved."""

    name: Literal["adam", "sgd"] = "adam"
    """sgd has heavy-ball momentum; with adam, weight decay is decoupled (AdamW)."""
    learning_rate: float = 1.2e-3
    """Before any milestone."""
    momentum: float = 0.0
    """Of sgd, in [0, 1)."""
    nesterov: bool = False
    """Nesterov's momentum in place of the heavy ball."""
    weight_decay: float = 0.0
    """Times the weight: added to the gradient in sgd, to the update in adam."""
    warmup: str = "0"
    """Steps over which the learning rate rises linearly from 0."""
    milestones: str = ""
    """Steps at which the learning rate drops, such as 80ep,120ep."""
    drop: float = 0.1
    """Factor applied to the learning rate at each milestone."""
    cosine: bool = False
    """After the warmup, fall along half a cosine to 0 at the end of training."""


# Criteria that compare the weights before and after a training (`criteria.history`).
Moved = Literal[
    "large_final",
    "small_final",
    "large_init",
    "small_init",
    "magnitude_increase",
    "movement",
    "large_init_large_final",
    "small_init_small_final",
    "large_final_same_sign",
    "large_final_diff_sign",
    "magnitude_increase_same_sign",
    "magnitude_increase_diff_sign",
]


@dataclass(frozen=True)
class Prune:
    """Which weights are pruned at each level."""

    criterion: Literal[
        "magnitude",
        "normalised_magnitude",
        "standardised_magnitude",
        "lamp",
        "random",
        "gradient_magnitude",
        "weight_gradient",
        "snip",
        "grasp",
        "synflow",
        "fisher",
        "hessian",
        "adam_second_moment",
        "wanda",
        "activation_magnitude",
        "mean_activation",
        "nonzero_share",
        Moved,
    ] = "magnitude"
    """What ranks weights; lth.criteria says what each is. From gradient_magnitude to
    hessian all but synflow ask the loss, by default in evaluation (--prune.mode); those
    from large_final on compare the weights before and after a training."""
    at: Literal["late", "early"] = "late"
    """Rank the trained weights, level by level, or those of the rewind point: with
    --rewind.to 0 pruning at initialisation, each level from the whole network."""
    rounds: int = 1
    """With at early: rounds to reach a level's density, which falls exponentially."""
    batches: int = 1
    """Batches of training examples that a criterion looks at, if it asks for any."""
    mode: Literal["evaluation", "training"] = "evaluation"
    """Of criteria that ask the loss: batch norm by its running averages and no dropout,
    or as in a step of training, by the statistics of each batch, as the code published
    for grasp has it. Not of fisher, which takes examples one by one."""
    precision: Literal["float32", "float64"] = "float32"
    """Of synflow: deep networks overflow float32."""
    scope: Literal["global", "layer", "er", "erk", "output"] = "global"
    """All prunable weights compete with each other; or those of each layer, with one
    density for all, or Erdős-Rényi's, of dense (er) or also of convolution kernels; or
    those of each output, as in Wanda."""
    dense: str = ""
    """With scope er and erk: regular expression of layers that stay dense."""
    structure: str = "weight"
    """What is pruned as a unit: weight, block:4x4, filter, channel, or 2:4, keep 2 of
    every 4 inputs, at once. A filter or channel goes with all that belongs to it:
    weights that make it and read it, bias, normalisation, and what a residual sum ties
    to it. It is ranked by the weights that make it (filter) or read it (channel)."""
    pool: Literal["default", "sum", "mean", "max", "l1", "l2"] = "default"
    """How the scores of a block, filter or channel become one: by default the mean of
    a block and the sum of a filter or channel (of scores of activations their mean).
    l2 of weights is the norm of columns."""
    along: Literal["inputs", "outputs"] = "inputs"
    """With structure N:M: where groups lie, along what a kernel reads or what it
    makes."""
    surgery: Literal["none", "obs", "sparse_gpt"] = "none"
    """Let the weights that stay make up for those that go, layer by layer (optimal
    brain surgery): one deletion at a time (obs), or in blocks (sparse_gpt, one level).
    Of dense kernels, with rewind.mode learning_rate or finetune, which train on from
    there."""
    reestimate: int = 0
    """Batches by which averages of batch norm are taken anew under each pruned mask,
    with rewind.mode learning_rate or finetune; 0: they stay."""
    cuts: str = ""
    """Instead of rate: what a score is above to stay, at each level, such as 0.01,0.02;
    or, of magnitudes, in standard deviations of each layer, such as 0.5sd,1sd. Which
    density comes of it is a result."""
    rate: float = 0.2
    """Fraction of the surviving weights pruned at each level."""
    densities: str = ""
    """Instead of rate: the density of each level, falling, such as 0.5,0.2,0.1."""
    rates: str = ""
    """Other rates by path, PATTERN=RATE,…, such as output=0.1; needs scope layer."""
    exclude: str = ""
    """Regular expression: kernels whose path it matches are not prunable."""
    include: str = ""
    """Regular expression: leaves prunable beside the kernels, such as bias."""


@dataclass(frozen=True)
class Learn:
    """A mask that is learned, in place of the dense training."""

    method: Literal[
        "none",
        "bernoulli",
        "edge_popup",
        "multi_prize",
        "hard_concrete",
        "continuous",
        "movement",
        "movement_soft",
    ] = "none"
    """Of untrained weights: masks drawn (bernoulli), the highest scores (edge_popup),
    these of binary weights (multi_prize). Beside weights that are trained too: gates
    drawn (hard_concrete) or hardening (continuous), the highest scores (movement) or
    all above a threshold (movement_soft). lth.supermask says what each is."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """Of scores. Weights that are trained beside them have --optimizer."""
    keep: float = 0.5
    """Fraction of weights kept: of edge_popup, multi_prize, and of movement at the
    end."""
    scope: Literal["layer", "global"] = "layer"
    """What competes with what where `keep` is given."""
    rank: Literal["score", "magnitude"] = "score"
    """Of edge_popup and multi_prize: the highest scores, or the highest magnitudes of
    scores."""
    every: int = 1
    """Of edge_popup, multi_prize and movement: choose the highest scores every so many
    steps."""
    rescale: bool = False
    """Of bernoulli: weights times size / kept of each drawn mask; of edge_popup and
    multi_prize: over the root of `keep`."""
    start: float = 0.5
    """Of bernoulli and hard_concrete: the sigmoid of what gates begin with."""
    threshold: float = 0.1
    """Of movement_soft: weights stay whose score has a sigmoid above it. It rises from
    0 to this, and scores start at 0, whose sigmoid is 0.5."""
    penalty: float = 0.0
    """Of hard_concrete, continuous and movement_soft: added to the loss times the
    expected share of weights that stay."""


@dataclass(frozen=True)
class Dynamic:
    """A mask that changes while the network trains, in place of the dense training."""

    rule: Literal[
        "none",
        "static",
        "gradual",
        "rigl",
        "sparse_evolution",
        "ac_dc",
        "straight_through",
        "top_kast",
        "soft_threshold",
    ] = "none"
    """A random mask that stays (static); magnitude pruning along a cubic schedule
    (gradual); small weights dropped and others grown, by gradient (rigl) or at random
    (sparse_evolution); dense and sparse phases in turn (ac_dc). Forward with the
    largest weights while all train (straight_through) or more of them (top_kast), or
    above thresholds that are learned (soft_threshold). lth.dynamic says what each
    is."""
    density: float = 0.1
    """Fraction of the weights kept in the end; of soft_threshold it is a result."""
    scope: Literal["layer", "er", "erk", "global"] = "layer"
    """One density for all layers, or Erdős-Rényi's, of dense (er) or also of
    convolution kernels; or all weights compete (global: of gradual, straight_through
    and top_kast; ac_dc always does so)."""
    begin: str = "100it"
    """First update of the mask; of ac_dc, where the first sparse phase begins."""
    end: str = ""
    """Where updates end, such as 1500it; none given: after three quarters of the
    training. Of gradual, rigl and sparse_evolution."""
    every: str = "100it"
    """Steps between updates; of ac_dc, of a phase. Of straight_through and top_kast 1
    is usual."""
    drop: float = 0.3
    """Fraction of a layer's weights dropped at the first update: of rigl, which lowers
    it along a cosine, and of sparse_evolution, which does not."""
    backward: float = 0.5
    """Of top_kast: fraction of the weights that gradients reach."""
    decay: float = 0.0001
    """Of top_kast: its penalty is added to the loss times this."""
    start: float = -10.0
    """Of soft_threshold: where the thresholds' parameter begins; a threshold is its
    sigmoid, and --optimizer.weight-decay moves it."""


@dataclass(frozen=True)
class Rewind:
    """What is retrained after pruning."""

    mode: Literal[
        "weights", "learning_rate", "finetune", "weights_low_rate", "reinit"
    ] = "weights"
    """Early weights; trained weights under the schedule again; trained weights at the
    last learning rate that trained; early weights at that rate; fresh weights. The
    second and the fourth need a rate that changes (warmup, milestones or cosine)."""
    to: str = "0"
    """The rewind point: a step of the dense training, such as 500it or 1ep."""
    moments: Literal["keep", "drop"] = "keep"
    """Whether the optimizer's moments are rewound too or start from 0."""


@dataclass(frozen=True)
class Experiment:
    """One run: a dense training and the tickets found from it, for some replicates.

    Steps are written 500it, 10ep, 2ep50it or plain 500; an epoch is the number of
    batches that covers the training set.
    """

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    prune: Prune = field(default_factory=Prune)
    rewind: Rewind = field(default_factory=Rewind)
    learn: Learn = field(default_factory=Learn)
    dynamic: Dynamic = field(default_factory=Dynamic)
    batch_size: int = 60
    """Examples in a batch."""
    steps: str = "50000it"
    """Length of the dense training; a ticket trains from the rewind point to here."""
    eval_every: str = "500it"
    """Measure on validation and test sets this often, and at the end."""
    levels: int = 12
    """Pruning rounds. A finished run continues when asked for more."""
    replicates: int = 5
    """Trained together; each derives everything random from its own number."""
    first_replicate: int = 0
    """Number of the first replicate."""
    controls: str = ""
    """Trained beside each ticket: reinit (its mask, fresh initialisation), shuffle (its
    mask shuffled within layers, its starting weights), shuffle_global (the same, but
    shuffled over all prunable weights), with prune.at early also invert
    (the weights that the criterion ranks lowest), with a mask that is learned or
    changes in training also rewind (its mask, the run's initial weights, as shuffle has
    them) and train (on from the weights it was found for or beside); such as
    reinit,shuffle.
    What kept weights start from: signs_kept, permuted, reshuffled,
    reshuffled_signs_kept, signed_constant, random_signed_constant, rescaled; what
    pruned weights are held at: freeze_init, freeze_init_zero_shrunk,
    freeze_init_zero_grown, freeze_init_zero_reshuffled (lth.lottery.starts says what
    each is); mix: some of all, in shares by layer chosen on validation data.
    And random_mask (as many of each layer), order (other data order), noise (on the
    starting weights), norms_late and norms_early (batch norm of the end on starting
    weights, and the reverse), continued (from the end of its training), steps (half as
    many), early_bird (the mask of the rewind point); 'lth branch --help' lists their
    amounts, and more that need some."""
    checkpoint_at: str = ""
    """Steps of the dense training to store besides the rewind point: 0,100,500,1ep."""
    shrink: bool = False
    """Train tickets of prune.structure filter and channel in the shapes that are left:
    as fast as the smaller network is, to the same numbers but for the order of sums."""


# Fields that add to a run without changing what it already holds.
EXTENDING = ("levels", "controls", "checkpoint_at")
MASK_1 = (  # where kept weights start (Zhou et al. 2019)
    "signs_kept",
    "permuted",
    "reshuffled",
    "reshuffled_signs_kept",
    "signed_constant",
    "random_signed_constant",
    "rescaled",
)
MASK_0 = (  # what pruned weights are held at
    "freeze_init",
    "freeze_init_zero_shrunk",
    "freeze_init_zero_grown",
    "freeze_init_zero_reshuffled",
    "mix",
)
NORMS = ("norms_late", "norms_early")  # of networks that normalise
ABLATIONS = (  # of which each changes one thing
    *("random_mask", "order", "noise"),
    *NORMS,
    *("continued", "steps", "early_bird"),
)
CONTROLS = (
    *("reinit", "shuffle", "invert", "rewind", "train", "shuffle_global"),
    *MASK_1,
    *MASK_0,
    *ABLATIONS,
)
SEEDS = range(2**31)
