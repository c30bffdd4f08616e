"""Tickets taken elsewhere: `export`, `shrink`, and `cost`, what they save."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from lth.cli import flags as typed
from lth.cli import terminal
from lth.lab.config import ConfigError


@dataclass(frozen=True)
class TicketFlags:
    """Which ticket is written, and where."""

    run: tyro.conf.Positional[Path]
    """A run directory, or the name of a run as 'lth list' prints it."""
    level: int
    """Of the ticket; 0 is the dense network."""
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


@dataclass(frozen=True)
class ExportFlags(TicketFlags):
    """Writes a ticket to a file that is read without lth, and its card beside it."""

    format: Literal["safetensors", "npz", "stablehlo"] = "safetensors"
    """Arrays by name (safetensors; npz, deflated), or a program with its weights for
    jax.export, any batch, on CPU, GPU and TPU (stablehlo)."""
    form: Literal["dense", "sparse"] = "dense"
    """Zeros where nothing is kept, or the bits of the mask and the values kept."""
    kind: Literal["float32", "int8"] = "float32"
    """Of the values: as they are, or whole steps of a scale for each leaf; zeros stay
    zeros."""


def export(args: list[str]) -> int:
    """lth export RUN --level L [flags]"""
    read = typed.read(args, ExportFlags)
    flags = tyro.cli(ExportFlags, args=read, prog="lth export")
    made, facts = _written(flags, "export", ("format", "form", "kind"))
    sizes = made.sizes
    facts += [
        ("dense", f"{_bytes(sizes.raw)}, {sizes.raw / made.bytes:.3g} times the file"),
        ("arrays", _bytes(sizes.stored)),
        ("deflated", f"{_bytes(sizes.zlib)}; by lzma {_bytes(sizes.lzma)}"),
        ("floor", f"{_bytes(sizes.floor)}: the mask's entropy, and the values raw"),
    ]
    terminal.print_facts(facts)
    return 0


def _written(flags: Any, how: str, own: tuple[str, ...]) -> tuple[Any, list]:
    """What a function of `shipping` wrote, printed, and the facts that all have."""
    path = terminal.located(flags.run, flags.runs)
    if flags.out and flags.out.is_dir():
        inside = flags.out / f"{flags.variant}-{flags.level}.{flags.format}"
        raise ConfigError(f"--out {flags.out} is a folder; give --out {inside}")
    from lth.lab import shipping, stored

    run = stored.open_run(path, data_dir=flags.data_dir)
    names = (*own, "weights", "variant", "replicate", "out")
    asked = {name: getattr(flags, name) for name in names}
    try:
        made = getattr(shipping, how)(run, flags.level, **asked)
    except (ValueError, ModuleNotFoundError) as error:
        raise ConfigError(str(error)) from error
    terminal.output.print(str(made.path), markup=False)
    return made, [("card", str(made.card)), ("file", _bytes(made.bytes))]


def _bytes(count: float) -> str:
    return f"{count:,.0f} bytes"


@dataclass(frozen=True)
class ShrinkFlags(TicketFlags):
    """Slices the dead units off a ticket, proves it, and writes the smaller network.

    From weights of the rewind point only goes what the mask leaves nothing of.
    """

    multiple: int = 1
    """Round widths up to multiples of it, such as 8, with channels that are 0."""
    format: Literal["npz", "safetensors"] = "npz"
    """Arrays by name, which NumPy or safetensors read."""


def shrink(args: list[str]) -> int:
    """lth shrink RUN --level L [--multiple 8]"""
    read = typed.read(args, ShrinkFlags)
    flags = tyro.cli(ShrinkFlags, args=read, prog="lth shrink")
    made, facts = _written(flags, "shrink", ("format", "multiple"))
    before, after = made.shrunk.before, made.shrunk.after
    facts.append(("weights", _fewer(before.params, after.params)))
    if before.macs is not None and after.macs is not None:
        facts.append(("multiply-adds", _fewer(before.macs, after.macs)))
    known = f"differ by {made.shrunk.difference:.1g} of the largest on 64 examples"
    terminal.print_facts([*facts, ("outputs", known)])
    return 0


def _fewer(before: int, after: int) -> str:
    return f"{before:,} before, {after:,} after: {before / after:.3g} times fewer"


@dataclass(frozen=True)
class CostFlags:
    """Counts and measures what a ticket costs, and what its zeros save or do not."""

    run: tyro.conf.Positional[Path]
    """A run directory, or the name of a run as 'lth list' prints it."""
    level: int | None = None
    """Of the ticket; by default the last one."""
    replicate: int | None = None
    """The number of the replicate; by default the first."""
    runs: Path = Path("runs")
    """Where a run is looked for that is given by its name."""
    data_dir: Path | None = None
    """Where data files are, in folders such as mnist/; else LTH_DATA, else a cache."""


def cost(args: list[str]) -> int:
    """lth cost RUN [--level L]"""
    read = typed.read(args, CostFlags)
    flags = tyro.cli(CostFlags, args=read, prog="lth cost")
    path = terminal.located(flags.run, flags.runs)
    from lth.lab import costing, stored

    run = stored.open_run(path, data_dir=flags.data_dir)
    level = max(run.levels, default=0) if flags.level is None else flags.level
    try:
        found = costing.measured(run, level, flags.replicate)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    title = f"{path.name}, level {level}: {100 * found.density:.3g} % of the weights"
    terminal.output.print(title, markup=False)
    terminal.print_facts([*_counts(found), *_measured(found)])
    return 0


def _counts(found: Any) -> list[tuple[str, str]]:
    """What was counted: weights, multiplications and bytes."""
    size, work = found.size, found.work
    facts = [
        (
            "weights",
            f"{size.remaining:,} of {size.total:,}: {size.compression:.3g} times fewer",
        )
    ]
    if work is None:
        facts.append(("multiply-adds", "not known how inputs meet the weights"))
    else:
        dense, kept = sum(work.dense.values()), sum(work.kept.values())
        also = f", and {work.other:,} that read no weight" if work.other else ""
        facts += [
            (
                "multiply-adds",
                f"{kept:,} of {dense:,} an example, were zeros skipped{also}",
            ),
            (
                "",
                f"{found.told[1].flops / 2:,.0f} are done, by the compiler, what is "
                "done place by place counted as halves",
            ),
        ]
    for name, sizes in (("float32", found.bytes), ("int8", found.int8)):
        facts.append(
            (
                name,
                f"{sizes.raw:,} bytes dense; sparse {sizes.stored:,}, deflated "
                f"{sizes.zlib:,}, floor {sizes.floor:,.0f}",
            )
        )
    return facts


def _measured(found: Any) -> list[tuple[str, str]]:
    """What the clock and the compiler say, by the size of the batch."""
    facts = []
    for batch, seconds in found.seconds.items():
        facts.append(
            (
                f"batch {batch}",
                f"{1e3 * seconds.median:.3g} ms ({1e3 * seconds.low:.3g} to "
                f"{1e3 * seconds.high:.3g}), {found.told[batch].memory:,} bytes of "
                "memory; the dense network's own: zeros are multiplied",
            )
        )
    for batch, even in found.even.items():
        where = f"below {100 * even.density:.2g} % of its weights"
        where = "at no density tried" if even.density == 0 else where
        where = "at every density tried" if even.density == 1 else where
        shape = " x ".join(map(str, found.kernel))
        facts.append(
            (
                "break-even",
                f"a sparse product of its {shape} kernel (SciPy, one core, batch "
                f"{batch}) is faster than a dense one {where}",
            )
        )
    return facts
