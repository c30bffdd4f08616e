"""What an experiment learns: its data, and its network wired to it."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lth import data, models, train
from lth.data import augment, fetch, folder, sources
from lth.lab.build import networks
from lth.lab.build.names import AUGMENTATIONS, Examples
from lth.lab.config import ConfigError, Data, Model, parse
from lth.lab.store import checkpoint

IMAGENET = (  # mean and deviation of pixels in [0, 255]
    255 * np.array([[[[0.485, 0.456, 0.406]]]]),
    255 * np.array([[[[0.229, 0.224, 0.225]]]]),
)
OPENLTH = {  # of `--data.pixels openlth`, by data set
    "mnist": (255 * np.array([[[[0.1307]]]]), 255 * np.array([[[[0.3081]]]])),
    "cifar10": IMAGENET,
}
BLOCK = 2**28  # bytes of a block of streamed images; the device holds up to three
ROWS = 256  # streamed images measured at a time


class Task(NamedTuple):
    """The data of an experiment, and how its network is trained and measured on it."""

    examples: Any  # `Examples` of data by name; else None
    size: int  # training examples
    digest: str  # tells this data from other data
    model: models.Model  # takes inputs as the data holds them
    loss: train.Loss
    measure: Callable
    sample: Callable  # (key, step, data) -> batch
    # Of steps [start, stop): what `sample` takes, with how many of the steps.
    blocks: Callable[[jax.Array, int, int], Iterator[tuple[Any, int]]]
    # The whole of each split that is measured, part after part.
    parts: dict[str, Callable[[], Iterator[data.Dataset]]]
    # The apply of a model -> loss and measure, as those above are of this model.
    objective: Callable = train.classification
    example: Any = None  # one of the data, as it is held
    streams: bool = False  # whether blocks are read in the order of one key
    piece: int = 1  # training may be cut after so many steps, and their multiples
    # The training examples in the order they are held in, part after part.
    learned: Callable[[], Iterator[Any]] = lambda: iter(())


def load(
    d: Data,
    m: Model,
    batch_size: int,
    data_dir: str | Path | None = None,
    *,
    place: Callable = jax.device_put,
    part: Callable[[int], folder.Part] = folder.alone,
    pause: str = "1ep",
) -> Task:
    """Make the Task of an experiment.

    Args:
      d: Which data, and what becomes of them.
      m: Which network.
      batch_size: Examples in a batch.
      data_dir: Where files are.
      place: Puts arrays on the devices of a run.
      part: Of rows that are read while training, what this process reads.
      pause: Steps that are trained without one, so that no more are read at once.

    Returns:
      The task.

    Raises:
      ConfigError and DataError.
    """
    if d.name == "images":
        return _streamed(d, m, batch_size, data_dir, part, pause)
    return _held(d, m, batch_size, data_dir, place)


def _held(d: Data, m: Model, batch_size: int, data_dir, place: Callable) -> Task:
    """Data that is read once and stays on the device."""
    source = _source(d)
    splits = _chosen(
        d,
        source,
        data.load(d.name, data_dir, d.validation, d.split_seed, source),
    )
    count = len(splits.train.targets)
    _check_batch(batch_size, count)
    classes = len(d.classes) or data.classes(source, splits)
    examples = Examples(source.shape, classes)
    model = _wired(d, source, splits.train, networks.network(m, examples))
    objective = _objective(source, splits.train)
    loss, measure = objective(model.apply)
    sample = data.make_sample(batch_size, count, _augmentation(d.augment, source.shape))

    return Task(
        examples=examples,
        size=count,
        digest=checkpoint.digest(splits),
        model=model,
        loss=loss,
        measure=measure,
        objective=objective,
        sample=sample,
        **resident(splits._asdict(), place),
    )


def resident(splits: Mapping[str, Any], place: Callable) -> dict[str, Any]:
    """Make the fields of a Task about data that stay on the device, once asked for.

    Args:
      splits: Trees of arrays, examples in front: `train`, and what is measured.
      place: Puts a tree on the devices of a run.

    Returns:
      `blocks`, `learned`, `parts` and `example`.
    """

    @cache
    def placed(name):
        return place(splits[name])

    def blocks(key, start, stop):
        yield placed("train"), stop - start

    return {
        "blocks": blocks,
        "learned": lambda: iter([placed("train")]),
        "parts": {
            name: lambda name=name: iter([placed(name)])
            for name in splits
            if name != "train"
        },
        "example": jax.tree.map(lambda x: x[:1], splits["train"]),
    }


def _streamed(d: Data, m: Model, batch_size: int, data_dir, part, pause: str) -> Task:
    """Image folders that are read while training."""
    root = _image_root(data_dir)
    listed, test = folder.index(root)
    rest, held = _held_out(listed, d.validation, d.split_seed)
    count, stored = len(rest.files), round(d.size * 8 / 7)
    _check_batch(batch_size, count)
    examples = Examples((d.size, d.size, 3), len(rest.classes))
    model = models.standardized(
        networks.network(m, examples),
        *(IMAGENET if d.pixels == "standard" else (0.0, 255.0)),
    )
    loss, measure = train.classification(model.apply)
    epoch = math.ceil(count / batch_size)
    steps = _block_steps(
        batch_size, stored, parse.parse_steps(pause, epoch, "--eval-every")
    )
    stream = folder.make_blocks(rest, batch_size, size=stored, steps=steps, part=part)
    each = partial(folder.in_order, size=stored, rows=ROWS, part=part)
    middle = augment.centre(d.size)

    def blocks(key, start, stop):
        for block in stream(key, start, stop):
            yield block, int(block.steps)

    def cropped(params, stats, batch):
        key = jax.random.key(0)  # nothing is drawn
        return measure(params, stats, batch._replace(inputs=middle(key, batch.inputs)))

    parts = {"validation": held, "test": test}
    files = [*rest.files, *held.files, *test.files]
    return Task(
        examples=examples,
        size=count,
        digest=folder.digest(root, files),
        model=model,
        loss=loss,
        measure=cropped,
        sample=folder.make_slice(
            batch_size, _augmentation(d.augment, (stored, stored, 3), d.size)
        ),
        blocks=blocks,
        learned=partial(each, rest),
        parts={name: partial(each, files) for name, files in parts.items()},
        example=data.Dataset(
            np.zeros((1, *examples.shape), np.uint8), rest.targets[:1]
        ),
        streams=True,
        piece=steps,
    )


def _image_root(data_dir: str | Path | None) -> Path:
    places = [p / "images" for p in fetch.folders(data_dir)]
    for place in places:
        if place.is_dir():
            return place
    raise data.DataError(
        f"no image folders in {', '.join(map(str, places))}: put images into "
        f"{places[0]}/train/CLASS/ and {places[0]}/val/CLASS/"
    )


def _block_steps(batch_size: int, stored: int, pause: int) -> int:
    """Steps in a block: what fits, and no more than are trained without a pause."""
    return max(1, min(BLOCK // (batch_size * stored**2 * 3), pause))


def _source(d: Data) -> data.Source:
    if d.name == "tinyshakespeare":
        return sources.tinyshakespeare(d.length)
    return data.SOURCES[d.name]


def _chosen(d: Data, source: data.Source, splits: data.Splits) -> data.Splits:
    """The splits with what the options of the experiment leave and change."""
    seed = d.split_seed
    if d.classes:
        splits = data.Splits(*(data.only_classes(s, d.classes) for s in splits))
    learned = splits.train
    if d.examples:
        learned = data.subsample(learned, d.examples, seed)
    if d.label_noise:
        classes = len(d.classes) or data.classes(source, splits)
        learned = data.label_noise(learned, d.label_noise, classes, seed)
    return splits._replace(train=learned)


def _check_batch(batch_size: int, count: int) -> None:
    if batch_size > count:
        raise ConfigError(
            f"--batch-size is at most the {count} training examples; got {batch_size}"
        )


def _wired(d, source, learned: data.Dataset, model: models.Model) -> models.Model:
    """The model on inputs as they are stored: pixels are scaled, the rest is not."""
    pixels: Any = learned.inputs
    if source.task != "classification":
        return model
    if not pixels.any():
        raise data.DataError(f"all pixels of the training images of {d.name} are 0")
    if d.pixels == "unit":
        return models.standardized(model, 0.0, float(pixels.max()))
    if d.pixels == "openlth":
        return models.standardized(model, *OPENLTH[d.name])
    mean, deviation = _statistics(pixels)
    return models.standardized(model, mean, np.where(deviation > 0, deviation, 1))


def _statistics(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel [1, 1, 1, c], by counting its 256 values.

    That is exact, and ten times as fast as a sum of them in float64.
    """
    channels = range(pixels.shape[-1])
    counts = [np.bincount(pixels[..., c].ravel(), minlength=256) for c in channels]
    share, value = np.stack(counts) / (pixels.size / len(counts)), np.arange(256)
    mean = share @ value
    variance = share @ np.square(value) - np.square(mean)
    return mean.reshape(1, 1, 1, -1), np.sqrt(variance).reshape(1, 1, 1, -1)


def _objective(source, learned: data.Dataset) -> Callable:
    if source.task != "regression":
        return train.classification
    label: Any = learned.targets
    mean, deviation = float(label.mean()), float(label.std())
    return partial(train.regression, mean=mean, deviation=deviation)


def _augmentation(
    name: str, shape: tuple[int, ...], size: int | None = None
) -> Callable | None:
    """What happens to the images of a batch; `size` is what they are cropped to."""
    size = size or shape[0]
    # A crop of random area chooses its own place.
    cut = size != shape[0] and name != "resized_crop_flip"
    parts = ([augment.centre(size)] if cut else []) + AUGMENTATIONS[name](size)
    return augment.compose(*parts) if parts else None


def _held_out(whole: folder.Folder, count: int, seed: int):
    """Split a folder's images into (rest, held out), as `data.hold_out` does."""
    places = data.Dataset(np.arange(len(whole.files)), whole.targets)
    return [
        whole._replace(
            files=[whole.files[i] for i in part.inputs], targets=part.targets
        )
        for part in data.hold_out(places, count, seed)
    ]
