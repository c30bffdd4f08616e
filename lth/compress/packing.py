"""Sparse weights in bytes: what a file of them takes, against what it has to.

A mask of zeros saves nothing by itself. `pack` writes one bit a place and the kept
values; `encode` shares values between weights and Huffman-codes them and the gaps
between them, as Deep Compression does (Han et al. 2016, arXiv:1510.00149). `floor` is
what raw values and a perfectly coded mask take; codes of values get under it.
"""

import heapq
import itertools
import json
import math
import zlib
from collections import Counter
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from lth import masks
from lth.masks import Mask, Params

Kind = Literal["float32", "int8"]
LEVEL = 6  # of zlib, the middle that most tools take
GAP = 255  # zeros that one symbol can stand for


class Coded(NamedTuple):
    """Holds a leaf whose weights share values: Huffman-coded gaps and codes.

    The book has the values.
    """

    shape: tuple[int, ...]
    book: np.ndarray  # float32, the shared values
    bits: bytes  # symbol by symbol: a gap, and where a weight follows, its code
    gaps: dict[int, str]  # zeros -> its bits; GAP of them, and no weight follows
    codes: dict[int, str]  # place in the book -> its bits
    symbols: int  # how many gaps there are

    @property
    def nbytes(self) -> int:
        """Count the stream, the book and the lengths of all codes, a byte each."""
        return len(self.bits) + self.book.nbytes + len(self.gaps) + len(self.codes)


def quantised(w: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Return int8 values and their scale: w ≈ scale * value, and 0 stays 0.

    The range is symmetric. No scale is below the smallest normal number: of those
    there are too few for 127 steps to reach the largest weight.
    """
    largest = np.abs(w).max(initial=0)
    least = np.finfo(np.float32).tiny
    scale = np.float32(max(largest / 127, least) if largest else 1)
    return np.round(w / scale).astype(np.int8), scale


def pack(params: Params, mask: Mask, kind: Kind = "float32") -> bytes:
    """Write all leaves to one deflated file; of prunable ones a mask and kept values.

    A mask takes a bit a place. With int8 the kept values are `quantised`, leaf by leaf;
    other leaves stay float32.
    """
    header, body = [], []

    def leaf(path, w, keep):
        w = np.asarray(w, np.float32)
        entry: dict[str, Any] = {"path": masks.name(path), "shape": list(w.shape)}
        if keep is None:
            body.append(w.tobytes())
        else:
            keep = np.asarray(keep)
            values = w[keep]
            entry["kept"] = len(values)
            if kind == "int8":
                values, scale = quantised(values)
                entry["scale"] = float(scale)
            body.extend([np.packbits(keep).tobytes(), values.tobytes()])
        header.append(entry)

    jax.tree_util.tree_map_with_path(leaf, params, mask)
    head = json.dumps(header, separators=(",", ":")).encode()
    return zlib.compress(
        b"".join([len(head).to_bytes(4, "little"), head, *body]), LEVEL
    )


def unpack(file: bytes) -> dict[str, np.ndarray]:
    """Read the leaves of a packed file by path, zeros where nothing was kept.

    Raises ValueError for a file that is cut short or is none.
    """
    try:
        data = zlib.decompress(file)
        start = 4 + int.from_bytes(data[:4], "little")
        header = json.loads(data[4:start])
        found = {}
        for entry in header:
            shape, size = entry["shape"], math.prod(entry["shape"])
            if "kept" not in entry:
                found[entry["path"]] = np.frombuffer(
                    data, np.float32, size, start
                ).reshape(shape)
                start += 4 * size
                continue
            bits = np.frombuffer(data, np.uint8, -(-size // 8), start)
            keep = np.unpackbits(bits, count=size).astype(bool).reshape(shape)
            start += len(bits)
            dtype = np.dtype(np.int8 if "scale" in entry else np.float32)
            values = np.frombuffer(data, dtype, entry["kept"], start)
            start += values.nbytes
            leaf = np.zeros(shape, np.float32)
            leaf[keep] = values * np.float32(entry.get("scale", 1))
            found[entry["path"]] = leaf
    except (zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"this is no file of packed weights: {error}") from None
    return found


def deflated(params: Params) -> int:
    """Count the bytes of the weights as they are, float32 and deflated.

    That is what sparsity competes with.
    """
    leaves = [np.asarray(w, np.float32).tobytes() for w in jax.tree.leaves(params)]
    return len(zlib.compress(b"".join(leaves), LEVEL))


def floor(size: int, density: float, bits: float) -> float:
    """Add up the entropy of a mask and the raw bits of the values it keeps, in bytes.

    No code gets under it that spends `bits` on each kept value, of `size` places that
    are kept independently, each with probability `density`. A code of the values does:
    the bits of a float32 are far from equally likely (the exponents of weights are a
    few of 256), so that `pack`, which deflates them, takes 0.92 of `floor` with 32 bits
    at a density of 20 % of normal weights, and with int8 0.87 of it with 8.
    """
    p = density
    places = 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)
    return size * (p * bits + places) / 8


def encode(w: np.ndarray, keep: np.ndarray, bits: int, rounds: int = 20) -> Coded:
    """Move a leaf's kept weights to 2**bits shared values, and code it.

    The values are found by k-means from evenly spaced ones, the start that the paper
    found best.

    Args:
      w: the leaf.
      keep: its mask, of the same shape.
      bits: of a place in the book of values.
      rounds: of k-means.

    Returns:
      The leaf, as `decode` reads it.
    """
    kept = np.flatnonzero(keep)
    values = np.asarray(w, np.float32).ravel()[kept]
    book = np.linspace(*_range(values), 2**bits, dtype=np.float32)
    for _ in range(rounds):
        near = _nearest(values, book)
        sums = np.bincount(near, values, len(book))
        counts = np.bincount(near, minlength=len(book))
        book = np.sort(np.where(counts > 0, sums / np.maximum(counts, 1), book))
        book = book.astype(np.float32)
    near = _nearest(values, book)
    gaps = _gaps(kept)
    gap_code = _huffman(Counter(gaps))
    code = _huffman(Counter(near.tolist()))
    weights = iter(near.tolist())
    text = "".join(
        gap_code[gap] + (code[next(weights)] if gap < GAP else "") for gap in gaps
    )
    stream = np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tobytes()
    return Coded(w.shape, book, stream, gap_code, code, len(gaps))


def decode(coded: Coded) -> np.ndarray:
    """Read the leaf that `encode` wrote, its kept weights at their shared values."""
    text = iter(np.unpackbits(np.frombuffer(coded.bits, np.uint8)).tolist())
    gap_of = {bits: gap for gap, bits in coded.gaps.items()}
    value_of = {bits: place for place, bits in coded.codes.items()}
    flat, at = np.zeros(math.prod(coded.shape), np.float32), 0
    for _ in range(coded.symbols):
        gap = _read(text, gap_of)
        at += gap
        if gap < GAP:
            flat[at] = coded.book[_read(text, value_of)]
            at += 1
    return flat.reshape(coded.shape)


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min(initial=0)), float(values.max(initial=0))


def _nearest(values: np.ndarray, book: np.ndarray) -> np.ndarray:
    return np.searchsorted((book[1:] + book[:-1]) / 2, values)


def _gaps(kept: np.ndarray) -> list[int]:
    """The zeros before each kept weight, GAP by GAP and then the rest, below it."""
    zeros = np.diff(kept, prepend=-1) - 1
    return [
        symbol
        for jumps, rest in zip(*np.divmod(zeros, GAP), strict=True)
        for symbol in [GAP] * int(jumps) + [int(rest)]
    ]


def _huffman(counts: Counter) -> dict[int, str]:
    """The bits of each symbol in a Huffman code; one symbol alone has one bit."""
    if len(counts) < 2:
        return dict.fromkeys(counts, "0")
    tie = itertools.count()
    heap = [
        (count, next(tie), {symbol: ""}) for symbol, count in sorted(counts.items())
    ]
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, _, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        merged = {s: "0" + bits for s, bits in left.items()}
        merged |= {s: "1" + bits for s, bits in right.items()}
        heapq.heappush(heap, (a + b, next(tie), merged))
    return heap[0][2]


def _read(text: Any, symbols: dict[str, int]) -> int:
    bits = ""
    while bits not in symbols:
        bits += str(next(text))
    return symbols[bits]
