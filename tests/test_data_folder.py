"""Image folders streamed from disk: the same batches as from the device."""

import functools
import sys

import jax
import numpy as np
import pytest

from lth import data
from lth.data import augment, folder, stream

pytest.importorskip("grain", reason="the extra imagenet is not installed")
image = pytest.importorskip("PIL.Image", reason="the extra imagenet is not installed")

CLASSES, BATCH, SIZE = ("ant", "bee", "cat"), 5, 8


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Twelve training and six validation images, each of one grey, sizes mixed."""
    root, grey = tmp_path_factory.mktemp("images"), 0
    for part, each in (("train", 4), ("val", 2)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for i in range(each):
                grey += 9
                pixels = np.full((20 + i, 40 - 7 * i, 3), grey, np.uint8)
                suffix = ("png", "JPEG", "jpg")[i % 3]
                path = root / part / name / f"{i}.{suffix}"
                image.fromarray(pixels).save(path, quality=95)
    (root / "train" / ".hidden").write_text("passed over")
    return root


@pytest.fixture(scope="module")
def train(root):
    return folder.index(root)[0]


def in_memory(files) -> data.Dataset:
    pixels = [folder.decode(path, SIZE) for path in files.files]
    return data.Dataset(np.stack(pixels), files.targets)


def make_blocks(files, **options):
    options = {"size": SIZE, "steps": 3, "threads": 2, **options}
    return folder.make_blocks(files, BATCH, **options)


def test_the_index_is_sorted_and_labelled(root, train):
    _, validation = folder.index(root)
    assert train.classes == validation.classes == list(CLASSES)
    assert train.files == sorted(train.files)
    assert train.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert validation.targets.tolist() == [0, 0, 1, 1, 2, 2]


def test_batches_from_disk_are_those_from_the_device(train):
    key, whole = jax.random.key(4), in_memory(train)
    change = augment.crop(2)
    direct = jax.jit(stream.make_sample(BATCH, 12, change))
    sliced = jax.jit(folder.make_slice(BATCH, change))
    found = list(make_blocks(train)(key, 2, 10))
    assert [(int(b.start), int(b.steps)) for b in found] == [(2, 3), (5, 3), (8, 2)]
    assert len({b.data.inputs.shape for b in found}) == 1  # so nothing compiles again
    for block in found:
        assert isinstance(block.data.inputs, jax.Array)
        assert block.data.targets.dtype == np.int32
        for step in range(block.start, block.start + block.steps):
            batch = sliced(key, np.int32(step), block)
            for ours, theirs in zip(batch, direct(key, step, whole), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_a_stream_starts_at_any_step_and_may_be_left(train):
    key, blocks = jax.random.key(4), make_blocks(train, steps=4)
    whole = next(blocks(key, 0, 10**6))  # a million steps: only some are read
    late = next(blocks(key, 3, 4))
    rows = slice(3 * BATCH, 4 * BATCH)
    np.testing.assert_array_equal(late.data.targets[:BATCH], whole.data.targets[rows])
    np.testing.assert_array_equal(late.data.inputs[:BATCH], whole.data.inputs[rows])
    assert not late.data.inputs[BATCH:].any()
    assert list(blocks(key, 5, 5)) == []


def test_every_image_comes_once_in_order(root):
    _, validation = folder.index(root)
    parts = list(folder.in_order(validation, size=SIZE, rows=4, threads=2))
    assert [len(part.targets) for part in parts] == [4, 2]
    labels = np.concatenate([part.targets for part in parts])
    np.testing.assert_array_equal(labels, validation.targets)
    greys = np.concatenate([np.asarray(part.inputs)[:, 0, 0, 0] for part in parts])
    np.testing.assert_allclose(greys, np.arange(13, 19) * 9, atol=2)


def test_processes_read_a_share_each_and_put_them_together(train):
    """Three of them, six rows each of fifteen: three of the last are not there."""
    read, key = [[], [], []], jax.random.key(4)

    def part(process):
        def put(rows, count):
            read[process].append(np.asarray(rows.targets))
            assert count == 3 * BATCH
            return rows

        return lambda rows: folder.Part(np.arange(6 * process, 6 * process + 6), put)

    for process in range(3):
        list(make_blocks(train, part=part(process))(key, 2, 10))
    whole = [block.data.targets for block in make_blocks(train)(key, 2, 10)]
    for i, targets in enumerate(whole):
        together = np.concatenate([parts[i] for parts in read])
        np.testing.assert_array_equal(together[: len(targets)], targets)
        assert not together[len(targets) :].any()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P", "1"])
def test_every_kind_of_image_becomes_three_channels(tmp_path, mode):
    suffix = "jpg" if mode in ("RGB", "L", "CMYK") else "png"
    path = tmp_path / f"i.{suffix}"
    image.new("RGB", (30, 20), (255, 255, 255)).convert(mode).save(path)
    pixels = folder.decode(str(path), 10)
    assert pixels.shape == (10, 10, 3)
    assert pixels.min() >= 254


def test_the_square_is_central_and_the_shorter_side_is_whole(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    image.fromarray(pixels).save(tmp_path / "i.png")
    assert (folder.decode(str(tmp_path / "i.png"), 20) == 255).all()
    large = image.fromarray(pixels.repeat(8, 0).repeat(8, 1))
    large.save(tmp_path / "i.jpg", quality=95)
    assert folder.decode(str(tmp_path / "i.jpg"), 20)[:, 1:-1].min() > 250


def test_an_unreadable_image_is_named(tmp_path):
    for name in ("a", "b"):
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
            pixels = np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8)
            image.fromarray(pixels).save(tmp_path / part / name / "i.png")
    files, _ = folder.index(tmp_path)
    blocks = folder.make_blocks(files, 2, size=4, steps=1, threads=1)
    good = (tmp_path / "train" / "b" / "i.png").read_bytes()
    for bad in (b"", b"GIF89a", good[:40], good[:-50]):
        (tmp_path / "train" / "b" / "i.png").write_bytes(bad)
        with pytest.raises(data.DataError, match="b/i.png: not an image we can read"):
            list(blocks(jax.random.key(0), 0, 1))


def test_images_of_wide_numbers_or_of_great_size_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "i.png"
    image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    with pytest.raises(data.DataError, match="4 x 4 of mode I"):
        folder.decode(str(path), 4)
    image.new("RGB", (30, 20)).save(path)
    monkeypatch.setattr(folder, "LARGEST", 599)
    with pytest.raises(data.DataError, match="i.png: .*30 x 20 of mode RGB"):
        folder.decode(str(path), 4)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


LAYOUTS = {
    "nothing": ((), "train: no such folder"),
    "no validation": (("train/a/1.png",), "val: no such folder"),
    "other classes": (
        ("train/a/1.png", "train/b/1.png", "val/a/1.png"),
        "train has 2 classes, val 1; in one alone: b",
    ),
    "an empty class": (
        ("train/a/1.png", "train/b/.keep", "val/a/1.png"),
        "train/b: a class without images",
    ),
    "no classes": (("train/.keep", "val/.keep"), "train: no class folders"),
    "a file among classes": (("train/1.png", "val/a/1.png"), "1.png: not a folder"),
    "another type": (("train/a/1.tif", "val/a/1.png"), "1.tif: allowed are .jpg"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_folders_laid_out_otherwise_are_refused(tmp_path, case):
    names, message = LAYOUTS[case]
    touch(tmp_path, *names)
    with pytest.raises(data.DataError, match=message):
        folder.index(tmp_path)


def test_wrong_steps_and_batches_are_refused(train):
    with pytest.raises(ValueError, match="1 to 12 examples.*got 13"):
        folder.make_blocks(train, 13, size=8, steps=1)
    for start, stop in ((-1, 3), (4, 3), (0, 2**31)):
        with pytest.raises(ValueError, match=f"steps {start} to {stop}"):
            next(make_blocks(train)(jax.random.key(0), start, stop))


def test_without_the_extra_the_error_names_it(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(data.DataError, match=r"pip install 'lth\[imagenet\]'"):
        next(make_blocks(train)(jax.random.key(0), 0, 1))
    read = functools.partial(folder.in_order, train, size=8, rows=4)
    with pytest.raises(data.DataError, match="grain and pillow"):
        next(read())
