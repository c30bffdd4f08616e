"""Random changes of images on the device, each a function of a key.

An augmentation is `(key, images [b, h, w, c]) -> images`, uint8 or float, and made by
calling one of these with what is fixed. Values are moved about or mixed, never scaled:
what is left empty is 0, a black pixel.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Augment = Callable[[jax.Array, jax.Array], jax.Array]
TRIES = 10  # draws of a box before the largest central one serves


def compose(*parts: Augment) -> Augment:
    """Do one after the other, each with a key of its own."""

    def augment(key, images):
        for i, part in enumerate(parts):
            images = part(jax.random.fold_in(key, i), images)
        return images

    return augment


def flip() -> Augment:
    """Exchange left and right of half of the images."""

    def augment(key, images):
        flipped = jax.random.bernoulli(key, shape=images.shape[:1])
        return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)

    return augment


def crop(padding: int) -> Augment:
    """Surround by `padding` black pixels and cut out the size it had, anywhere."""
    if padding < 1:
        raise ValueError(f"crop: padding is at least 1 pixel; got {padding}")

    def augment(key, images):
        b, *shape = images.shape
        border = ((padding, padding), (padding, padding), (0, 0))
        corners = jax.random.randint(key, (b, 2), 0, 2 * padding + 1)

        def cut(image, corner):
            wide = jnp.pad(image, border)
            return jax.lax.dynamic_slice(wide, (corner[0], corner[1], 0), shape)

        return jax.vmap(cut)(images, corners)

    return augment


def centre(size: int) -> Augment:
    """Cut out the central `size` x `size` pixels; nothing is random."""

    def augment(key, images):
        del key
        top, left = ((n - size) // 2 for n in images.shape[1:3])
        if min(top, left) < 0:
            raise ValueError(f"centre: {size} pixels of images {images.shape[1:3]}")
        return images[:, top : top + size, left : left + size]

    return augment


def resized_crop(
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Augment:
    """Cut out a random box and resize it to `size` x `size` (Szegedy et al. 2015).

    Interpolates linearly, over all pixels that a smaller one covers (antialiased).
    """
    if size < 1 or not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(
            "resized_crop: size is at least 1, scale two fractions in (0, 1] and ratio "
            f"two positive numbers, the lower first; got {size}, {scale}, {ratio}"
        )

    def augment(key, images):
        b, height, width, _ = images.shape
        top, left, tall, wide = boxes(key, b, (height, width), scale, ratio)
        rows = jax.vmap(lambda a, n: weights(a, n, height, size))(top, tall)
        columns = jax.vmap(lambda a, n: weights(a, n, width, size))(left, wide)
        exact = jax.lax.Precision.HIGHEST
        x = images.astype(jnp.float32)
        x = jnp.einsum("bsh,bhwc->bswc", rows, x, precision=exact)
        x = jnp.einsum("btw,bswc->bstc", columns, x, precision=exact)
        if jnp.issubdtype(images.dtype, jnp.integer):
            x = jnp.round(x)
        return x.astype(images.dtype)

    return augment


def boxes(key, count, shape, scale, ratio) -> tuple[jax.Array, ...]:
    """Draw random boxes in an image.

    A box that does not fit is drawn again; after ten of those it is the largest central
    one whose ratio is allowed.

    Args:
      key: of the draws.
      count: of the boxes.
      shape: of the image, (height, width), in pixels.
      scale: the area as a fraction of the image's, uniform between the two.
      ratio: width / height, uniform between the two in its logarithm.

    Returns:
      Top, left, height and width in pixels, int32 [count] each.
    """
    height, width = shape
    keys = jax.random.split(key, 4)
    draw = (count, TRIES)
    area = (
        height
        * width
        * jax.random.uniform(keys[0], draw, minval=scale[0], maxval=scale[1])
    )
    low, high = jnp.log(jnp.float32(ratio[0])), jnp.log(jnp.float32(ratio[1]))
    form = jnp.exp(jax.random.uniform(keys[1], draw, minval=low, maxval=high))
    wide = jnp.round(jnp.sqrt(area * form)).astype(jnp.int32)
    tall = jnp.round(jnp.sqrt(area / form)).astype(jnp.int32)
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first, found = fits.argmax(1)[:, None], fits.any(1)
    spare = _largest(height, width, ratio)
    tall = jnp.where(found, jnp.take_along_axis(tall, first, 1)[:, 0], spare[0])
    wide = jnp.where(found, jnp.take_along_axis(wide, first, 1)[:, 0], spare[1])

    def place(key, room):
        anywhere = jax.random.randint(key, (count,), 0, room + 1)
        return jnp.where(found, anywhere, room // 2)

    return place(keys[2], height - tall), place(keys[3], width - wide), tall, wide


def weights(start: jax.Array, length: jax.Array, pixels: int, size: int) -> jax.Array:
    """Weigh what each pixel gives to each of `size` pixels that span an interval.

    A triangle around the centre of the new pixel, as wide as the wider of an old and a
    new one to each side, over the pixels of [start, start + length) alone.

    Args:
      start: [], the first pixel of the interval.
      length: [], its length in pixels.
      pixels: how many old ones there are.
      size: how many new ones.

    Returns:
      [size, pixels]; each row sums to 1.
    """
    step = length / jnp.float32(size)
    middle = start + (jnp.arange(size) + 0.5) * step
    old = jnp.arange(pixels)
    away = jnp.abs(old[None] + 0.5 - middle[:, None]) / jnp.maximum(step, 1)
    inside = (old >= start) & (old < start + length)
    raw = jnp.where(inside[None], jnp.maximum(0, 1 - away), 0)
    return raw / raw.sum(1, keepdims=True)


def _largest(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    if width / height < ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return height, width
