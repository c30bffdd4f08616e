"""The page of presets, from the presets themselves."""

from typing import Any

from lth.lab.config import Experiment, identity
from lth.lab.config.presets import PRESETS, SUPERMASKS, Preset
from making import table

HEAD = """\
# Presets

A preset is an experiment that has a name. Every setting below is a flag, so that a
preset is a place to start from: `lth run lenet-mnist --levels 6 --replicates 3`.
Settings that are not listed are at their defaults
([fields](reference/configuration.rst)). Where the source of a preset is published code
or a paper, its own values stand beside ours, as far as they are known, and what differs
is said.
"""


def pages() -> dict[str, str]:
    """Return the page of presets, and that of masks that are learned."""
    return {"presets.md": trained(), "learned_masks.md": learned()}


def trained() -> str:
    """Return the page of networks that are trained and pruned."""
    parts = [_one(n, f"lth run {n}", preset) for n, preset in PRESETS.items()]
    return "\n".join([HEAD, *parts])


def learned() -> str:
    """Return the page of masks that are learned."""
    head = (
        "# Presets of learned masks\n\n`lth supermask NETWORK METHOD`: each network "
        "with each method.\n"
    )
    parts = [
        _one(f"{name} {method}", f"lth supermask {name} {method}", preset)
        for name, methods in SUPERMASKS.items()
        for method, preset in methods.items()
    ]
    return "\n".join([head, *parts])


def _one(name: str, command: str, preset: Preset) -> str:
    differs = [f"- {part}" for part in preset.differs.split("; ")]
    title = preset.title[:1].upper() + preset.title[1:]
    parts = [
        f"## {name}\n",
        f"{title}.\n",
        f"```shell\n{command}\n```\n",
        "It differs from its source by this:\n",
        "\n".join(differs) + "\n",
        table(["setting", "here", "source"], _settings(preset)),
    ]
    return "\n".join(parts)


def _settings(preset: Preset) -> list[list[str]]:
    here = _flat(identity.as_dict(preset.experiment))
    usual = _flat(identity.as_dict(Experiment()))
    changed = {name for name, value in here.items() if value != usual[name]}
    names = [name for name in here if name in changed | set(preset.published)]
    return [[f"`{n}`", _text(here[n]), _source(preset, n)] for n in names]


def _source(preset: Preset, name: str) -> str:
    known = preset.published
    return _text(known[name]) if name in known else ""


def _flat(fields: dict[str, Any], before: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in fields.items():
        inner = isinstance(value, dict)
        whole = f"{before}{name}"
        result |= _flat(value, f"{whole}.") if inner else {whole: value}
    return result


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    return "nothing" if value == "" else f"`{value}`"
