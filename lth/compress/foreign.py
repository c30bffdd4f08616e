"""Weights from elsewhere: a network that was trained in PyTorch, in the leaves of ours.

Names are given by a table, layouts are read off our network's computation. PyTorch
holds a dense kernel as [out, in], a convolution's as [out, in, height, width], and maps
as [channels, height, width], which is the order of places where they are flattened.
Ours are flattened in the order of the network's axes: which that is, its spaces know
(`compress.find`), so that no caller has to think of it, and none can forget it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.compress import spaces
from lth.compress.spaces import At, Space
from lth.models import axes

NAMES = {  # what Flax calls a leaf, and what PyTorch does
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
SPARE = "num_batches_tracked"  # which no network reads in evaluation


class Network(NamedTuple):
    """Holds what a network does with the axes of its leaves, by path."""

    spaces: tuple[Space, ...]
    frozen: Mapping[At, str]
    contracted: Mapping[str, axes.Axes | None]
    channels: int  # of an input: the length of its last axis, if there are several


def from_torch(
    apply: Callable,
    params: Any,
    stats: Any,
    inputs: Any,
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    orders: Mapping[str, np.ndarray] | None = None,
) -> tuple[Any, Any]:
    """Put PyTorch's tensors into the leaves of a network.

    Args:
      apply: as in `models.Model`.
      params, stats: of our network, arrays or shapes with dtypes.
      inputs: the same of its inputs, which lead with the batch.
      tensors: by PyTorch's names, as `files.read` or safetensors load them.
      names: of modules, ours to theirs: {"hidden_0": "fc1"} has fc1.weight become
        hidden_0/kernel; or of one leaf, {"hidden_0/kernel": "fc1.weight"}. In stats the
        names are those below the collection.
      orders: by path, for a kernel of whose inputs it is not known in which order they
        lie: the place in PyTorch's of each of ours.

    Returns:
      Params and stats, in the types of ours.

    Raises:
      ValueError: for tensors that are missing or not used, shapes that differ, both
        named; for kernels that are neither dense nor convolutions of images; and for an
        order that is not known.
    """
    return make_from_torch(apply, params, stats, inputs)(tensors, names, orders)


def make_from_torch(apply: Callable, params: Any, stats: Any, inputs: Any) -> Callable:
    """Make `from_torch` of one network, followed once for any number of files.

    Args:
      apply, params, stats, inputs: as in `from_torch`.

    Returns:
      `(tensors, names, orders=None) -> (params, stats)`.
    """
    network = _followed(apply, params, stats, inputs)
    tree = {"params": params, "stats": stats}

    def convert(
        tensors: Mapping[str, np.ndarray],
        names: Mapping[str, str],
        orders: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[Any, Any]:
        sources = _sources(tree, tensors, names)
        known = dict(orders or {})

        def leaf(path, like):
            name = masks.name(path)
            given = known.pop(name.removeprefix("params/"), None)
            return _leaf(name, sources[name], tensors, like, network, given)

        made = jax.tree_util.tree_map_with_path(leaf, tree)
        if known:
            raise ValueError(f"orders are given of no kernel: {', '.join(known)}")
        return made["params"], made["stats"]

    return convert


def _leaf(
    name: str,
    source: str,
    tensors: Mapping[str, np.ndarray],
    like: Any,
    network: Network,
    given: np.ndarray | None,
) -> jax.Array:
    """A tensor as a leaf of ours, its axes and what lies along them in our order."""
    tensor = tensors[source]
    if tensor.dtype.kind != "f":
        raise ValueError(f"{source} holds {tensor.dtype}, no weights")
    value = _turned(name, tensor, like, network)
    if value.shape != like.shape:
        raise ValueError(
            f"{name} is {list(like.shape)} here, and {source} is "
            f"{list(tensor.shape)}, which would make it {list(value.shape)}"
        )
    for axis in range(value.ndim):
        if given is not None and axis in _read(network, name):
            value = np.take(value, _permutation(name, given, value, axis), axis)
        else:
            order = _order(network, name, axis, value.shape)
            value = value if order is None else np.take(value, order, axis)
    return jnp.asarray(value, like.dtype)


def _followed(apply: Callable, params: Any, stats: Any, inputs: Any) -> Network:
    given = apply, params, stats, inputs
    leaves = jax.tree_util.tree_leaves_with_path(
        axes.contracted(*given), is_leaf=lambda x: x is None or isinstance(x, axes.Axes)
    )
    contracted = {f"params/{masks.name(path)}": found for path, found in leaves}
    shape = jax.tree.leaves(inputs)[0].shape
    channels = shape[-1] if len(shape) > 2 else 1
    return Network(spaces.find(*given), spaces.frozen(*given), contracted, channels)


def _sources(tree: Any, tensors: Mapping, names: Mapping[str, str]) -> dict[str, str]:
    """The tensor of each leaf, by paths; all of them are used and there."""
    found = {}
    for path in masks.paths(tree):
        kind, *rest = path.split("/")
        below = rest if kind == "params" else rest[1:]  # without the collection
        whole, module, own = "/".join(below), "/".join(below[:-1]), below[-1]
        theirs = f"{names.get(module, '')}.{NAMES.get(own, own)}".lstrip(".")
        found[path] = names.get(whole, theirs)
    missing = [f"{p} ({t})" for p, t in found.items() if t not in tensors]
    if missing:
        raise ValueError(
            f"there is no tensor for {', '.join(missing)}; there are "
            f"{', '.join(tensors)}"
        )
    used = set(found.values())
    spare = [n for n in tensors if n not in used and not n.endswith(SPARE)]
    if spare:
        raise ValueError(f"the network has no leaf for {', '.join(spare)}")
    return found


def _turned(name: str, tensor: np.ndarray, like: Any, network: Network) -> np.ndarray:
    """A tensor with its axes in our order."""
    if like.ndim < 2 or name.endswith("/embedding"):
        return tensor
    met = network.contracted.get(name)
    if met is not None and tensor.ndim == like.ndim:
        if like.ndim == 2 and met == axes.Axes((0,), (1,)):
            return tensor.T
        if like.ndim == 2 and met == axes.Axes((1,), (0,)):
            return tensor
        if like.ndim == 4 and 3 not in met.inputs:
            return tensor.transpose(2, 3, 1, 0)
    raise ValueError(
        f"{name} {list(like.shape)} is neither dense nor a convolution of images that "
        f"PyTorch's {list(tensor.shape)} could become"
    )


def _read(network: Network, name: str) -> tuple[int, ...]:
    """The axis along which a kernel reads channels."""
    met = network.contracted.get(name)
    return met.inputs[-1:] if met is not None else ()


def _order(network: Network, name: str, axis: int, shape: tuple) -> np.ndarray | None:
    """The place in PyTorch's tensor of each of ours along an axis; None: it is ours.

    Places of one channel are those of a map that was flattened, row by row in both.
    Raises ValueError for an axis that is read and of which that is not known.
    """
    size = shape[axis]
    if size == 1 or (len(shape) == 4 and axis < 2):  # of the window
        return None
    found = _channels(network, (name, axis), size)
    if found is not None:
        channel, members = found
        count = channel.max() + 1
        times = np.bincount(channel)
        if count == size:
            return None
        if np.ptp(times) == 0 and all(_of_maps(network, s) for s in members):
            order = np.empty(size, int)
            order[np.argsort(channel, kind="stable")] = np.arange(size)
            return order
    why = network.frozen.get((name, axis), "")
    images = why == "inputs" and (len(shape) == 4 or network.channels == 1)
    if found is None and (images or axis not in _read(network, name)):
        return None
    raise ValueError(
        f"in which order {name.removeprefix('params/')} reads its {size} inputs "
        f"is not known{f' ({why})' if why else ''}: say so with `orders`"
    )


def _channels(
    network: Network, at: At, size: int
) -> tuple[np.ndarray, list[Space]] | None:
    """The number of the channel at each place of an axis, and the spaces there.

    Spaces may lie end to end or cross, as groups and their width do: a channel is a
    place in all of them. None where no space has some place.
    """
    members = [space for space in network.spaces if at in space.members]
    keys = np.full((size, len(members)), -1)
    for column, space in enumerate(members):
        index = space.members[at]
        keys[index.ravel(), column] = np.repeat(np.arange(space.size), index.shape[1])
    if not members or (keys < 0).all(1).any():
        return None
    numbers: dict[tuple, int] = {}
    channel = [numbers.setdefault(tuple(key), len(numbers)) for key in keys.tolist()]
    return np.array(channel), members


def _of_maps(network: Network, space: Space) -> bool:
    """Whether its channels are those of maps, told apart where a convolution is."""
    for path, axis in space.members:
        met = network.contracted.get(path)
        if met is not None and len(met.inputs) == 3 and axis >= 2:
            size = max(int(index.max()) for index in _at(network, (path, axis))) + 1
            found = _channels(network, (path, axis), size)
            if found is not None and found[0].max() + 1 == size:
                return True
    return False


def _at(network: Network, at: At) -> list[np.ndarray]:
    return [space.members[at] for space in network.spaces if at in space.members]


def _permutation(
    name: str, given: np.ndarray, value: np.ndarray, axis: int
) -> np.ndarray:
    order, size = np.asarray(given), value.shape[axis]
    if sorted(order.tolist()) != list(range(size)):
        raise ValueError(f"the order of {name} is no permutation of {size} places")
    return order
