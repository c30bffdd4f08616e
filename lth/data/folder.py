"""Image folders laid out like ImageNet, streamed from disk in the stream's own order.

Which images make a batch is computed from (key, step), as for data on the device, so a
stream starts at any step and has nothing to save. Threads decode ahead of training.
Needs the extra `imagenet`: grain and pillow, which are imported where they are used.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth.data import stream
from lth.data.dataset import Dataset
from lth.data.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # one byte a channel
LARGEST = 2**26  # pixels of an image


class Folder(NamedTuple):
    """Holds labelled image files."""

    files: list[str]
    targets: np.ndarray  # [n], int32 in [0, classes)
    classes: list[str]  # names, in alphabetical order


class Part(NamedTuple):
    """Says what this process reads of some rows, and how all of them come together."""

    rows: np.ndarray  # which, in order; beyond the last one are zeros
    put: Callable[[Dataset, int], Dataset]  # (those, how many) -> so many, on a device


def alone(rows: int) -> Part:
    """Have this process read all rows."""

    def put(read, count):
        return jax.device_put(jax.tree.map(lambda x: x[:count], read))

    return Part(np.arange(rows), put)


class Block(NamedTuple):
    """Holds the batches of consecutive steps, of which only `steps` are filled in."""

    start: np.int32  # [], the step of the first batch
    steps: np.int32  # []
    data: Dataset  # [steps of a whole block * batch_size, ...]


def index(root: str | Path) -> tuple[Folder, Folder]:
    """List the images of root/train/<class>/ and of root/val/<class>/.

    Both must have the same classes and none without images. Images are .jpg, .jpeg or
    .png; files whose name begins with a dot are passed over. Raises DataError.
    """
    train, validation = (_listed(Path(root) / part) for part in ("train", "val"))
    if train.classes != validation.classes:
        differ = sorted(set(train.classes) ^ set(validation.classes))
        raise DataError(
            f"{root}: train has {len(train.classes)} classes, val "
            f"{len(validation.classes)}; in one alone: {', '.join(differ[:5])}"
        )
    return train, validation


SAMPLE = 256  # files whose contents are part of a digest


def digest(root: str | Path, files: Sequence[str]) -> str:
    """Return a hash of the names and sizes of files, and of the contents of some.

    Those are spread evenly, the first and the last among them: reading all would take
    as long as an epoch. What has the same size elsewhere may be other unnoticed.
    """
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        sizes = threads.map(os.path.getsize, files)
        known = [
            f"{Path(file).relative_to(root)} {size}"
            for file, size in zip(files, sizes, strict=True)
        ]
        places = np.linspace(0, len(files) - 1, min(SAMPLE, len(files)))
        chosen = [files[int(place)] for place in places.round()]
        bodies = threads.map(lambda file: Path(file).read_bytes(), chosen)
        total = hashlib.sha256("\n".join(known).encode())
        for body in bodies:
            total.update(hashlib.sha256(body).digest())
    return total.hexdigest()


def make_blocks(
    folder: Folder,
    batch_size: int,
    *,
    size: int,
    steps: int,
    threads: int = 16,
    part: Callable[[int], Part] = alone,
) -> Callable[[jax.Array, int, int], Iterator[Block]]:
    """Make `blocks(key, start, stop)`: the batches of those steps, several a block.

    Images are [size, size, 3] uint8. A block takes steps * batch_size * size**2 * 3
    bytes; up to three of them are on the device and two on the host. The last one has
    as many rows as any other, those beyond its steps all zero. Take batches out with
    `make_slice`; they are those `stream.make_sample` draws.

    Args:
      folder: the images.
      batch_size: from 1 to the number of images.
      size: of a decoded image, in pixels.
      steps: batches in a block.
      threads: that decode.
      part: of the rows of a block, what this process reads, one of several.

    Returns:
      A function that yields a `Block` after another.

    Raises:
      ValueError: for a batch that is no part of the images and, from the iterator, for
        steps that the stream does not reach.
    """
    examples, rows = len(folder.files), steps * batch_size
    stream.check_batch(batch_size, examples)
    own = part(rows)

    @jax.jit
    def order(key, first):
        each = first + jnp.arange(steps, dtype=jnp.uint32)
        one = functools.partial(stream.batch_index, key)
        return jax.vmap(lambda step: one(step, batch_size, examples))(each)

    def blocks(key, start, stop):
        if not 0 <= start <= stop or stop * batch_size >= 2**32:
            raise ValueError(f"steps {start} to {stop} of {batch_size} examples")
        key = jax.device_put(key, _host())

        @functools.lru_cache(maxsize=4)
        def files(block):
            return np.asarray(order(key, np.uint32(start + block * steps))).ravel()

        def example(position):
            return files(position // rows)[position % rows]

        def placed(item):
            i, read = item
            first = start + i * steps
            count = np.int32(min(steps, stop - first))
            return Block(np.int32(first), count, own.put(read, rows))

        count = (stop - start) * batch_size
        decoded = _decoded(folder, size, count, example, rows, own.rows, threads)
        yield from _ahead(map(placed, enumerate(decoded)))

    return blocks


def in_order(
    folder: Folder,
    *,
    size: int,
    rows: int,
    threads: int = 16,
    part: Callable[[int], Part] = alone,
) -> Iterator[Dataset]:
    """Decode all images once, as they are listed.

    Args:
      folder: the images.
      size: of a decoded image, in pixels.
      rows: images at a time; the last time they may be fewer.
      threads: that decode.
      part: of the rows, what this process reads, one of several.

    Returns:
      An iterator of datasets on the device, images [rows, size, size, 3] uint8.
    """
    own, count = part(rows), len(folder.files)

    def placed(item):
        i, read = item
        return own.put(read, min(rows, count - i * rows))

    decoded = _decoded(folder, size, count, lambda at: at, rows, own.rows, threads)
    return _ahead(map(placed, enumerate(decoded)))


def make_slice(batch_size: int, augment: Callable | None = None) -> Callable[..., Any]:
    """Make `sample(key, step, block)`: batch number `step`, which must be in the block.

    It is to a Block what `stream.make_sample` is to a Dataset.
    """

    def sample(key, step, block):
        start = (step - block.start) * batch_size
        batch = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, batch_size), block.data
        )
        return stream.augmented(augment, key, step, batch)

    return sample


def decode(path: str, size: int) -> np.ndarray:
    """Read the central square of an image file, resized to [size, size, 3] uint8.

    Random crops are taken of that, on the device, and so never show what lies beside
    it: a quarter of a picture of 4 x 3. Most trainings on ImageNet crop the whole one.
    A JPEG much larger than that is decoded at a half, a quarter or an eighth of its
    size, which is several times faster. Raises DataError.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            if image.mode not in MODES or image.width * image.height > LARGEST:
                raise ValueError(f"{image.width} x {image.height} of mode {image.mode}")
            image.draft("RGB", (size, size))
            left, top = ((n - min(image.size)) / 2 for n in image.size)
            box = (left, top, left + min(image.size), top + min(image.size))
            whole = image.convert("RGB")
            return np.array(whole.resize((size, size), Image.Resampling.BILINEAR, box))
    except Exception as error:  # a damaged image fails in every way there is
        raise DataError(f"{path}: not an image we can read ({error})") from None


def _decoded(folder, size, count, example, rows, own, threads) -> Iterator[Dataset]:
    """The rows `own` of each block of `rows` examples, until there are `count`.

    The file at each position is given by `example`. Every block has as many rows;
    those that stand for no example are zero.
    """
    try:
        import grain
        import PIL  # noqa: F401
    except ImportError as error:
        raise DataError(
            "image folders need the extra `imagenet` (grain and pillow): "
            f"pip install 'lth[imagenet]' ({error})"
        ) from None

    def one(place):
        block, row = divmod(place, len(own))
        position = block * rows + own[row]
        if own[row] >= rows or position >= count:
            return Dataset(np.zeros((size, size, 3), np.uint8), np.zeros((), np.int32))
        i = int(example(position))
        return Dataset(decode(folder.files[i], size), folder.targets[i])

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8 * threads)
    places = -(-count // rows) * len(own)
    images = grain.MapDataset.range(places).map(one).to_iter_dataset(options)
    grouped = images.batch(len(own), drop_remainder=True)
    early = grain.experimental.ThreadPrefetchIterDataset(
        grouped, prefetch_buffer_size=1
    )
    with contextlib.closing(iter(early)) as iterator:
        yield from iterator


def _ahead(blocks: Iterator[Any]) -> Iterator[Any]:
    """Blocks on the device, each put there while the one before it is in use."""
    ready = None
    for block in blocks:
        if ready is not None:
            yield ready
        ready = block
    if ready is not None:
        yield ready


def _host() -> Any:
    """A CPU device: on an accelerator the order would wait behind the training."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return jax.local_devices()[0]


def _listed(root: Path) -> Folder:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; images are in {root}/<class>/")
    files, labels, classes = [], [], []
    for entry in _entries(root):
        if not entry.is_dir():
            raise DataError(f"{entry.path}: not a folder; allowed are class folders")
        found = [image.path for image in _entries(entry.path)]
        for path in found:
            if not path.lower().endswith(SUFFIXES):
                raise DataError(f"{path}: allowed are {', '.join(SUFFIXES)}")
        if not found:
            raise DataError(f"{entry.path}: a class without images")
        files += found
        labels += [len(classes)] * len(found)
        classes.append(entry.name)
    if not classes:
        raise DataError(f"{root}: no class folders")
    return Folder(files, np.array(labels, np.int32), classes)


def _entries(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as found:
        shown = [entry for entry in found if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)
