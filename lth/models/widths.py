"""Linen layers at the widths of their params, whatever their modules say.

A network whose channels were sliced off runs through the module that it was written as:
where a layer asks how wide it is, its params answer. Functions that take their widths
from the shapes of arrays need nothing of this, NNX modules among them.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn


@functools.lru_cache(maxsize=64)  # the same function is compiled once
def resizable(apply: Callable) -> Callable:
    """Make `apply` of a network one that also takes params with channels sliced off.

    With params as wide as its modules say, it is the same program. Layers known are
    Linen's dense layers, convolutions, embeddings, attention and what has no width.
    Others, and reshapes to widths that are written down, fail as they do on any params
    that do not fit them, or compute something else, which `compress.shrink` finds out.

    Args:
      apply: as in `Model`, of Linen modules or anything else.

    Returns:
      The function, of the same arguments.
    """

    def resized(*args: Any, **named: Any) -> Any:
        with nn.intercept_methods(_sized):
            return apply(*args, **named)

    return resized


def _sized(method: Callable, args: tuple, named: dict, context: Any) -> Any:
    """A method of a module, while its widths are those of its params."""
    module = context.module
    fields = _widths(module, args) if module.scope is not None else {}
    before = {name: getattr(module, name) for name in fields}
    try:
        for name, value in fields.items():
            # A module is bound anew each time it is applied: this one is not shared.
            object.__setattr__(module, name, value)
        return method(*args, **named)
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)


def _widths(module: nn.Module, args: tuple) -> dict[str, Any]:
    """The fields of a layer that its params answer for; none while they are made."""
    if isinstance(module, nn.MultiHeadDotProductAttention):
        return _attention(module)
    name = "embedding" if isinstance(module, nn.Embed) else "kernel"
    assert module.scope is not None
    if not module.scope.has_variable("params", name):
        return {}
    shape = module.scope.get_variable("params", name).shape
    if isinstance(module, nn.Dense | nn.Embed):
        return {"features": shape[-1]}
    if isinstance(module, nn.DenseGeneral):
        count = module.features
        count = len(count) if isinstance(count, tuple | list) else 1
        return {"features": shape[-count:]}
    if isinstance(module, nn.Conv):
        groups = args[0].shape[-1] // shape[-2] if args else 1
        return {"features": shape[-1], "feature_group_count": groups}
    if isinstance(module, nn.ConvTranspose):
        return {"features": shape[-2 if module.transpose_kernel else -1]}
    return {}


def _attention(module: nn.MultiHeadDotProductAttention) -> dict[str, Any]:
    assert module.scope is not None
    params = module.scope.variables().get("params", {})
    if "query" not in params:
        return {}
    heads, width = params["query"]["kernel"].shape[-2:]
    features = params["out"]["kernel"].shape[-1]
    return {
        "num_heads": heads,
        "qkv_features": heads * width,
        "out_features": features,
    }
