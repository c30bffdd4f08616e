"""What an experiment is: its fields, what they may be, and the id they give a run.

Nothing here imports JAX, so that the command line can answer before it is loaded.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints


class ConfigError(ValueError):
    """A setting that cannot be run; the message names the flag and what is allowed."""


@dataclass(frozen=True)
class Data:
    """What is learned."""

    name: Literal["digits", "mnist", "fashion_mnist"] = "mnist"
    """digits comes with scikit-learn; the others are read from IDX files."""
    validation: int = 5000
    """Examples held out of the training set, to choose by."""
    split_seed: int = 0
    """Which examples those are; the same for every replicate."""
    pixels: Literal["unit", "standard"] = "unit"
    """Scale pixels to [0, 1], or to mean 0 and variance 1 over the training set."""


@dataclass(frozen=True)
class Model:
    """A fully connected network."""

    widths: tuple[int, ...] = (300, 100)
    """Units of each hidden layer: hidden_0, hidden_1, … before the layer `output`."""
    initialiser: Literal["glorot_normal", "kaiming_normal"] = "glorot_normal"
    """How kernels are drawn; biases start at 0."""


@dataclass(frozen=True)
class Optimizer:
    """How weights move."""

    name: Literal["adam", "sgd"] = "adam"
    """sgd has heavy-ball momentum; with adam, weight decay is decoupled (AdamW)."""
    learning_rate: float = 1.2e-3
    """Before any milestone."""
    momentum: float = 0.0
    """Of sgd, in [0, 1)."""
    weight_decay: float = 0.0
    """Times the weight: added to the gradient in sgd, to the update in adam."""
    warmup: str = "0"
    """Steps over which the learning rate rises linearly from 0."""
    milestones: str = ""
    """Steps at which the learning rate drops, such as 80ep,120ep."""
    drop: float = 0.1
    """Factor applied to the learning rate at each milestone."""


@dataclass(frozen=True)
class Prune:
    """Which weights go at each level."""

    criterion: Literal["magnitude", "random"] = "magnitude"
    """What ranks weights."""
    scope: Literal["global", "layer"] = "global"
    """All prunable weights compete with each other, or those of each layer."""
    rate: float = 0.2
    """Fraction of the surviving weights pruned at each level."""
    rates: str = ""
    """Other rates by path, PATTERN=RATE,…, such as output=0.1; needs scope layer."""
    exclude: str = ""
    """Regular expression: kernels whose path it matches are not prunable."""
    include: str = ""
    """Regular expression: leaves prunable beside the kernels, such as bias."""


@dataclass(frozen=True)
class Rewind:
    """What is retrained after pruning."""

    mode: Literal[
        "weights", "learning_rate", "finetune", "weights_low_rate", "reinit"
    ] = "weights"
    """Early weights; trained weights under the schedule again; trained weights at the
    last learning rate; early weights at the last learning rate; fresh weights. Without
    warmup or milestones the rate is constant: the second is the third, the first the
    fourth."""
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
    mask shuffled within layers, its starting weights), or reinit,shuffle."""
    checkpoint_at: str = ""
    """Steps of the dense training to store besides the rewind point: 0,100,500,1ep."""


# Fields that add to a run without changing what it already holds.
EXTENDING = ("levels", "controls", "checkpoint_at")
CONTROLS = ("reinit", "shuffle")
STEPS = re.compile(r"(?:(\d+)ep)?(?:(\d+)(?:it)?)?")
SEEDS = range(2**31)


def identity(experiment: Experiment) -> str:
    """The id of a run: a hash of every field that changes the numbers it gives.

    Spellings of one value (600 and 600it, 1 and 1.0) give one id; 10ep and the number
    of iterations it comes to do not, for that depends on the data.
    """
    fields = as_dict(experiment)
    for name in EXTENDING:
        del fields[name]
    for name in ("steps", "eval_every"):
        fields[name] = _spelling(fields[name])
    fields["rewind"]["to"] = _spelling(fields["rewind"]["to"])
    optimizer = fields["optimizer"]
    optimizer["warmup"] = _spelling(optimizer["warmup"])
    optimizer["milestones"] = [
        _spelling(m) for m in split_list(optimizer["milestones"])
    ]
    fields["prune"]["rates"] = sorted(parse_rates(fields["prune"]["rates"]).items())
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _spelling(steps: str) -> str:
    match = STEPS.fullmatch(steps)
    return f"{int(match[1] or 0)}ep{int(match[2] or 0)}it" if match else steps


def extended(new: Experiment, old: Experiment) -> Experiment:
    """`new` with what `old`, the same run asked for before, has beyond it."""

    def union(a: str, b: str) -> str:
        return ",".join(dict.fromkeys(split_list(a) + split_list(b)))

    return dataclasses.replace(
        new,
        levels=max(new.levels, old.levels),
        controls=union(old.controls, new.controls),
        checkpoint_at=union(old.checkpoint_at, new.checkpoint_at),
    )


def as_dict(experiment: Experiment) -> dict[str, Any]:
    """The fields as JSON holds them; `from_dict` reads them back."""
    return json.loads(json.dumps(dataclasses.asdict(_typed(experiment))))


def _typed(values: Any) -> Any:
    """The dataclass with whole numbers in fields of type float made floats."""
    changes = {}
    for name, hint in get_type_hints(type(values)).items():
        value = getattr(values, name)
        if dataclasses.is_dataclass(value):
            changes[name] = _typed(value)
        elif hint is float:
            changes[name] = float(value)
    return dataclasses.replace(values, **changes)


def parse_steps(text: str, epoch: int, flag: str) -> int:
    """The steps in text such as 500it, 10ep, 2ep50it or 500; an epoch has `epoch`."""
    match = STEPS.fullmatch(text)
    if not text or not match:
        raise ConfigError(
            f"{flag} is a number of steps such as 500it, 10ep, 2ep50it or 500; "
            f"got {text!r}"
        )
    return int(match[1] or 0) * epoch + int(match[2] or 0)


def split_list(text: str) -> list[str]:
    """The items of a comma-separated list; none of an empty text."""
    return [item.strip() for item in text.split(",")] if text else []


def parse_rates(text: str) -> dict[str, float]:
    """Pruning rates by path pattern from PATTERN=RATE,…"""
    rates = {}
    for item in split_list(text):
        pattern, _, rate = item.rpartition("=")
        try:
            rates[pattern] = float(rate)
        except ValueError:
            pattern = ""
        if not pattern or not 0 <= rates[pattern] < 1:
            raise ConfigError(
                f"--prune.rates is PATTERN=RATE,… with rates in [0, 1); got {item!r}"
            )
    return rates


def check(e: Experiment) -> None:
    """Refuse what can be seen to be wrong before any data is read."""
    for flag, value, good, allowed in _limits(e):
        if not good:
            raise ConfigError(f"{flag} is {allowed}; got {value}")
    controls = split_list(e.controls)
    for control in controls:
        if control not in CONTROLS or controls.count(control) > 1:
            raise ConfigError(
                f"--controls is a list of {', '.join(CONTROLS)}, each once; "
                f"got {e.controls!r}"
            )
    if controls and e.rewind.mode != "weights":
        raise ConfigError(
            "--controls are trained from the rewind point, so they compare with "
            f"--rewind.mode weights alone; got {e.rewind.mode}"
        )
    if parse_rates(e.prune.rates) and e.prune.scope == "global":
        raise ConfigError(
            "--prune.rates gives layers rates of their own, but with --prune.scope "
            "global all weights compete; choose --prune.scope layer or --prune.rates ''"
        )
    if e.optimizer.name == "adam" and e.optimizer.momentum:
        raise ConfigError("--optimizer.momentum belongs to sgd; adam has its own")


def _limits(e: Experiment) -> list[tuple[str, Any, bool, str]]:
    """Of each flag that is a number: its value, whether it is good, what is allowed."""
    o, d, infinity = e.optimizer, e.data, float("inf")
    last = e.first_replicate + e.replicates - 1
    first, seed = "--first-replicate", "--data.split-seed"
    rate, decay = "--optimizer.learning-rate", "--optimizer.weight-decay"
    widths = all(width >= 1 for width in e.model.widths)
    return [
        ("--levels", e.levels, e.levels >= 0, "at least 0"),
        ("--replicates", e.replicates, e.replicates >= 1, "at least 1"),
        (first, e.first_replicate, e.first_replicate in SEEDS, "in [0, 2**31)"),
        ("the last replicate", last, last in SEEDS, "in [0, 2**31)"),
        ("--batch-size", e.batch_size, e.batch_size >= 1, "at least 1"),
        ("--model.widths", e.model.widths, widths, "at least 1"),
        ("--data.validation", d.validation, d.validation >= 1, "at least 1"),
        (seed, d.split_seed, d.split_seed in SEEDS, "in [0, 2**31)"),
        ("--prune.rate", e.prune.rate, 0 < e.prune.rate < 1, "in (0, 1)"),
        (rate, o.learning_rate, 0 < o.learning_rate < infinity, "above 0"),
        ("--optimizer.momentum", o.momentum, 0 <= o.momentum < 1, "in [0, 1)"),
        (decay, o.weight_decay, 0 <= o.weight_decay < infinity, "at least 0"),
        ("--optimizer.drop", o.drop, 0 < o.drop <= 1, "in (0, 1]"),
    ]


def from_dict(values: Any, kind: type = Experiment, where: str = "config") -> Any:
    """A dataclass from JSON; unknown, missing and mistyped fields are errors."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is a table of fields; got {values!r}")
    hints = get_type_hints(kind)
    odd = set(values) ^ set(hints)
    if odd:
        raise ConfigError(
            f"{where} has unknown or lacks known fields: {', '.join(sorted(odd))}"
        )
    built = {}
    for name, hint in hints.items():
        value = values[name]
        if dataclasses.is_dataclass(hint):
            built[name] = from_dict(value, hint, f"{where}.{name}")  # type: ignore[arg-type]
            continue
        good = {
            int: isinstance(value, int),
            float: isinstance(value, int | float),
            str: isinstance(value, str),
            tuple[int, ...]: isinstance(value, list)
            and all(isinstance(v, int) for v in value),
        }.get(hint, value in getattr(hint, "__args__", ()))
        if not good:
            raise ConfigError(f"{where}.{name} cannot be {value!r}")
        built[name] = tuple(value) if isinstance(value, list) else value
    return kind(**built)
