"""Augmentation: legal changes and no other, each a function of (key, step)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lth import data
from lth.data import augment

IMAGES = np.random.default_rng(0).integers(1, 256, (40, 6, 5, 3), dtype=np.uint8)
PARTS = {
    "crop": jax.jit(augment.crop(2)),
    "flip": jax.jit(augment.flip()),
    "both": jax.jit(augment.compose(augment.crop(2), augment.flip())),
    "resized": jax.jit(augment.resized_crop(6)),
    "centre": jax.jit(augment.centre(4)),
}
seeds = st.integers(0, 2**32 - 1)


def crops(image, padding):
    """Every legal crop of an image, as NumPy makes them."""
    height, width, _ = image.shape
    wide = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    places = range(2 * padding + 1)
    return [wide[y : y + height, x : x + width] for y in places for x in places]


def which(image, legal) -> int:
    (found,) = [i for i, one in enumerate(legal) if (one == image).all()]
    return found


@given(seeds)
@settings(max_examples=10)
def test_a_crop_is_one_of_the_legal_ones(seed):
    out = np.asarray(PARTS["crop"](jax.random.key(seed), IMAGES))
    assert out.dtype == np.uint8
    for before, after in zip(IMAGES, out, strict=True):
        which(after, crops(before, 2))


@given(seeds)
@settings(max_examples=10)
def test_a_flip_is_the_image_or_its_mirror(seed):
    out = np.asarray(PARTS["flip"](jax.random.key(seed), IMAGES))
    for before, after in zip(IMAGES, out, strict=True):
        which(after, [before, before[:, ::-1]])


def test_crops_and_flips_come_equally_often_and_independently():
    many = np.broadcast_to(IMAGES[:1], (9000, *IMAGES.shape[1:]))
    legal = crops(IMAGES[0], 2)
    legal = legal + [one[:, ::-1] for one in legal]
    out = np.asarray(PARTS["both"](jax.random.key(1), many))
    names = {one.tobytes(): i for i, one in enumerate(legal)}
    counts = np.bincount([names[one.tobytes()] for one in out], minlength=50)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_centre_is_the_centre():
    out = PARTS["centre"](jax.random.key(0), IMAGES)
    np.testing.assert_array_equal(out, IMAGES[:, 1:5, 0:4])
    with pytest.raises(ValueError, match=r"7 pixels of images \(6, 5\)"):
        augment.centre(7)(jax.random.key(0), IMAGES)


LIMITS = {
    "usual": ((24, 32), (0.08, 1.0), (3 / 4, 4 / 3)),
    "tall": ((30, 5), (0.5, 1.0), (3 / 4, 4 / 3)),
    "flat": ((5, 30), (0.9, 1.0), (3 / 4, 4 / 3)),
    "square": ((16, 16), (0.25, 0.25), (1.0, 1.0)),
}


@pytest.mark.parametrize("case", LIMITS)
def test_boxes_lie_inside_and_have_the_size_and_ratio_asked_for(case):
    shape, scale, ratio = LIMITS[case]
    draw = jax.jit(augment.boxes, static_argnums=(1, 2, 3, 4))
    found = draw(jax.random.key(3), 500, shape, scale, ratio)
    top, left, tall, wide = (np.asarray(x) for x in found)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= shape[0]).all()
    assert (left + wide <= shape[1]).all()
    # Sides are rounded to whole pixels, by half of one at most.
    assert ((wide + 0.5) / (tall - 0.5) >= ratio[0]).all()
    assert ((wide - 0.5) / (tall + 0.5) <= ratio[1]).all()
    if case == "usual":
        area = np.prod(shape)
        assert ((wide + 0.5) * (tall + 0.5) >= scale[0] * area).all()
        assert len(set(zip(top, left, tall, wide, strict=True))) > 400
    if case == "tall":  # no box of half the area fits: the largest central one
        assert set(zip(top, left, tall, wide, strict=True)) == {(11, 0, 7, 5)}
    if case == "square":
        assert set(zip(tall, wide, strict=True)) == {(8, 8)}


def test_a_crop_of_everything_is_the_image_itself():
    whole = jax.jit(augment.resized_crop(6, scale=(1.0, 1.0), ratio=(1.0, 1.0)))
    square = np.concatenate([IMAGES, IMAGES[:, :, :1]], 2)
    np.testing.assert_array_equal(whole(jax.random.key(0), square), square)


def test_a_crop_of_one_colour_keeps_it():
    out = PARTS["resized"](jax.random.key(0), np.full((9, 11, 7, 3), 201, np.uint8))
    assert out.shape == (9, 6, 6, 3)
    assert (out == 201).all()
    floats = PARTS["resized"](
        jax.random.key(0), np.full((9, 11, 7, 3), 0.5, np.float32)
    )
    np.testing.assert_allclose(floats, 0.5, rtol=1e-6)


@pytest.mark.parametrize("size", [4, 9, 20])
def test_resizing_is_that_of_pillow(size):
    image = pytest.importorskip("PIL.Image", reason="the extra imagenet")
    rng, (top, left, tall, wide) = np.random.default_rng(1), (3, 1, 9, 11)
    pixels = rng.integers(0, 256, (15, 13, 3), dtype=np.uint8)
    weights = jax.jit(augment.weights, static_argnums=(2, 3))
    rows, columns = weights(top, tall, 15, size), weights(left, wide, 13, size)
    ours = np.einsum("sh,hwc,tw->stc", rows, pixels.astype(float), columns)
    cut = image.fromarray(pixels[top : top + tall, left : left + wide])
    theirs = np.asarray(cut.resize((size, size), image.Resampling.BILINEAR))
    assert np.abs(ours - theirs).max() <= 1.01  # Pillow rounds after each axis


@pytest.mark.parametrize("part", PARTS)
def test_the_key_decides_and_vmap_changes_nothing(part):
    keys = jax.random.split(jax.random.key(7), 3)
    one = np.stack([PARTS[part](key, IMAGES) for key in keys])
    together = jax.jit(jax.vmap(PARTS[part], (0, None)))(keys, IMAGES)
    np.testing.assert_array_equal(together, one)
    if part != "centre":
        assert (one[0] != one[1]).any()


DATA = data.Dataset(IMAGES, np.arange(40, dtype=np.int32))


@given(seeds, st.integers(0, 10**6))
@settings(max_examples=20)
def test_augmentation_leaves_the_order_as_it_was(seed, step):
    key = jax.random.key(seed)
    np.testing.assert_array_equal(
        AUGMENTED(key, step, DATA).targets, PLAIN(key, step, DATA).targets
    )


PLAIN = jax.jit(data.make_sample(8, 40))
AUGMENTED = jax.jit(data.make_sample(8, 40, augment.crop(2)))


def test_augmented_batches_are_a_function_of_key_and_step():
    key = jax.random.key(2)
    forty = [np.asarray(AUGMENTED(key, step, DATA).inputs) for step in range(40)]
    again = [AUGMENTED(key, jnp.int32(step), DATA).inputs for step in range(27, 40)]
    np.testing.assert_array_equal(forty[27:], again)
    seen = {image.tobytes() for images in forty for image in images}
    # Of 25 crops eight draws find 7 different ones on average.
    assert len(seen) > 6 * 40
    other = AUGMENTED(jax.random.key(3), 0, DATA).inputs
    assert (np.asarray(other) != forty[0]).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: augment.crop(0),
        lambda: augment.resized_crop(0),
        lambda: augment.resized_crop(8, scale=(0.5, 1.5)),
        lambda: augment.resized_crop(8, ratio=(2.0, 1.0)),
    ],
)
def test_impossible_augmentations_are_refused(make):
    with pytest.raises(ValueError, match="at least 1.*; got"):
        make()
