"""The commands that take tickets elsewhere: `export`, and `cost`, what they save."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from lth.cli import flags as typed
from lth.cli import terminal
from lth.lab.config import ConfigError


@dataclass(frozen=True)
class ExportFlags:
    """Writes a ticket to a file that is read without lth, and its card beside it."""

    run: tyro.conf.Positional[Path]
    """A run directory, or the name of a run as 'lth list' prints it."""
    level: int
    """Of the ticket; 0 is the dense network."""
    format: Literal["safetensors", "npz", "stablehlo"] = "safetensors"
    """Arrays by name (safetensors; npz, deflated), or a program with its weights for
    jax.export, any batch, on CPU, GPU and TPU (stablehlo)."""
    form: Literal["dense", "sparse"] = "dense"
    """Zeros where nothing is kept, or the bits of the mask and the values kept."""
    kind: Literal["float32", "int8"] = "float32"
    """Of the values: as they are, or whole steps of a scale for each leaf; zeros stay
    zeros."""
    weights: Literal["late", "early"] = "late"
    """Those at the end of training, or those of the rewind point, to train anew."""
    variant: str = "ticket"
    """The ticket, or the name of a branch of the run."""
    replicate: int | None = None
    """The number of the replicate; by default the first."""
    out: Path | None = None
    """The file to write; by default in the run directory. Its card is FILE.json."""
    runs: Path = Path("runs")
    """Where a run is looked for that is given by its name."""
    data_dir: Path | None = None
    """Where data files are, in folders such as mnist/; else LTH_DATA, else a cache."""


def export(args: list[str]) -> int:
    """lth export RUN --level L [flags]"""
    read = typed.read(args, ExportFlags)
    flags = tyro.cli(ExportFlags, args=read, prog="lth export")
    path = terminal.located(flags.run, flags.runs)
    if flags.out and flags.out.is_dir():
        inside = flags.out / f"{flags.variant}-{flags.level}.{flags.format}"
        raise ConfigError(f"--out {flags.out} is a folder; give --out {inside}")
    from lth.lab import shipping, stored

    run = stored.open_run(path, data_dir=flags.data_dir)
    names = ("format", "variant", "replicate", "form", "kind", "weights", "out")
    asked = {name: getattr(flags, name) for name in names}
    try:
        made = shipping.export(run, flags.level, **asked)
    except (ValueError, ModuleNotFoundError) as error:
        raise ConfigError(str(error)) from error
    terminal.output.print(str(made.path), markup=False)
    facts = [("card", str(made.card)), ("file", _bytes(made.bytes))]
    sizes = made.sizes
    facts += [
        ("dense", f"{_bytes(sizes.raw)}, {sizes.raw / made.bytes:.3g} times the file"),
        ("arrays", _bytes(sizes.stored)),
        ("deflated", f"{_bytes(sizes.zlib)}; by lzma {_bytes(sizes.lzma)}"),
        ("floor", f"{_bytes(sizes.floor)}: the mask's entropy, and the values raw"),
    ]
    terminal.print_facts(facts)
    return 0


def _bytes(count: float) -> str:
    return f"{count:,.0f} bytes"


def cost(args: list[str]) -> int:
    """lth cost RUN [--level L]"""
    raise NotImplementedError
