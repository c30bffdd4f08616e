"""The commands that train: `run`, `supermask` and `branch`, and `measure`."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lth.cli import flags as typed
from lth.cli import interrupt, own, terminal
from lth.lab import compiler
from lth.lab.config import ConfigError, Experiment, Learn, parse
from lth.lab.config.presets import ALIASES, PRESETS, SUPERMASKS, Preset, named


@dataclass(frozen=True)
class RunFlags:
    """Flags of `lth run` and `lth supermask`."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    runs: Path = Path("runs")
    """Where run directories go."""
    name: str = ""
    """What to call the run, in place of its preset's name."""
    data_dir: Path | None = None
    """Where data files are, in folders such as mnist/; else LTH_DATA, else a cache."""
    dry_run: bool = False
    """Say what would be run, and what of it is stored, and train nothing."""
    quiet: bool = False
    """Print nothing but the path of the run directory."""
    deterministic: bool = False
    """Have a GPU add up in a fixed order: the same bits each time, for some speed; a
    CPU does so always."""
    save_every: str = "10min"
    """How often a training under way is saved, to go on from there if it is killed:
    a time such as 30s, 10min or 2h, steps such as 5000it, or never."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers to tell too, in folders of theirs in runs/trackers/; wandb offline."""
    over: Literal["replicates", "batch"] = "replicates"
    """What several devices share: the replicates, or each batch of a big network."""
    coordinator: str = ""
    """For one run in several processes, each given the same command: host:port of the
    first, or auto where the cluster tells (Slurm, TPU, MPI)."""
    processes: int = 1
    """How many processes there are, unless the coordinator is auto."""
    process: int = 0
    """Which of them this is."""


@dataclass(frozen=True)
class OwnFlags:
    """Flags of `lth run FILE.py:FUNCTION`, beside those of the function."""

    runs: Path = Path("runs")
    """Where run directories go."""
    name: str = ""
    """What to call the run, in place of its file and function."""
    dry_run: bool = False
    """Say what would be run, and what of it is stored, and train nothing."""
    quiet: bool = False
    """Print nothing but the path of the run directory."""
    save_every: str = "10min"
    """How often a training under way is saved: 30s, 10min, 2h, 5000it, or never."""
    deterministic: bool = False
    """Have a GPU add up in a fixed order: the same bits each time, for some speed; a
    CPU does so always."""


@dataclass(frozen=True)
class StoredFlags:
    """A stored run, what is asked of it, and for which of its tickets."""

    run: tyro.conf.Positional[Path]
    """A run directory, or the name of a run as 'lth list' prints it."""
    what: tyro.conf.Positional[str]
    """The name of a branch or of a probe."""
    levels: tuple[int, ...] = ()
    """Of the tickets; none given: all that are stored, for a branch all but the dense
    network."""
    source: str = ""
    """FILE.py:FUNCTION of a run of your own functions; else the one it was run by."""
    runs: Path = Path("runs")
    """Where a run is looked for that is given by its name."""
    data_dir: Path | None = None
    """Where data files are, in folders such as mnist/; else LTH_DATA, else a cache."""
    quiet: bool = False
    """Print nothing but the path of the run directory."""
    save_every: str = "10min"
    """How often a training under way is saved: 30s, 10min, 2h, 5000it, or never."""
    deterministic: bool = False
    """Have a GPU add up in a fixed order: the same bits each time, for some speed; a
    CPU does so always."""


@dataclass(frozen=True)
class MeasureFlags(StoredFlags):
    """A stored run, the probe that is asked for, and for which of its networks."""

    of: str = "ticket"
    """The branch whose networks are measured in place of the tickets."""


def run(args: list[str]) -> int:
    """lth run PRESET [flags], lth run FILE.py:FUNCTION [its flags], or lth run RUN"""
    if not args or args[0].startswith("-"):
        terminal.output.print(
            "usage: lth run PRESET [flags]\n"
            "       lth run FILE.py:FUNCTION [its flags]\n"
            "       lth run RUN [--levels N]\n",
            markup=False,
        )
        list_presets()
        return 0 if {"-h", "--help"} & set(args) else 2
    stored = (Path(args[0]) / "config.json").is_file()
    if not stored and (".py" in args[0] or ":" in args[0]):  # no preset has them
        return _run_own(args[0], args[1:])
    if stored or len(Path(args[0]).parts) > 1:
        from lth.cli import bringing

        return bringing.go_on(args)
    name = short(args[0])
    if name not in PRESETS:
        if named(name):
            preset, method = name.rsplit("-", 1)
            say = f"lth supermask {preset} {method}"
            return terminal.refuse(f"{name} learns its masks: {say}", 2)
        return terminal.refuse(no_preset(name, PRESETS), 2)
    return _run(name, PRESETS[name], args[1:], f"lth run {name}")


def supermask(args: list[str]) -> int:
    """lth supermask PRESET METHOD [flags]"""
    args = [ALIASES.get(arg, arg) for arg in args[:1]] + args[1:]
    if args and not args[0].startswith("-") and args[0] not in SUPERMASKS:
        return terminal.refuse(no_preset(args[0], map(short, SUPERMASKS)), 2)
    if len(args) < 2 or args[1].startswith("-"):
        terminal.output.print(
            "usage: lth supermask PRESET METHOD [flags]\n", markup=False
        )
        list_supermasks()
        return 0 if {"-h", "--help"} & set(args) else 2
    name, method, *rest = args
    methods = SUPERMASKS[name]
    if method not in methods:
        there = ", ".join(methods)
        return terminal.refuse(f"unknown method {method!r}; there are {there}", 2)
    prog = f"lth supermask {short(name)} {method}"
    return _run(f"{name}-{method}", methods[method], rest, prog)


def prune_filters(args: list[str]) -> int:
    """lth prune-filters PRESET [flags]"""
    helped = bool({"-h", "--help"} & set(args))
    if not helped and (not args or args[0].startswith("-")):
        usage = "usage: lth prune-filters PRESET [flags]\n"
        terminal.output.print(usage, markup=False)
        list_presets()
        return 2
    from lth.lab import filters

    if helped:
        return _run_own(filters.SOURCE, ["--help"])
    name = short(args[0])
    if name not in PRESETS:
        return terminal.refuse(no_preset(name, PRESETS), 2)
    return _run_own(filters.SOURCE, ["--preset", name, *args[1:]])


def branch(args: list[str]) -> int:
    """lth branch RUN NAME [--levels 3,7] [its amounts]"""
    from lth.lab.build import names

    flags, opened, amounts = _stored(args, "lth branch", names.BRANCHES, "branch")
    keep: Any = {"save_every": flags.save_every, "stop": interrupt.asked}
    with terminal.progress(flags.quiet) as watch, _leaving():
        try:
            options = {"watch": watch, **keep, **amounts}
            opened.branch(flags.what, flags.levels or None, **options)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return _conclude(opened, flags.quiet)


def measure(args: list[str]) -> int:
    """lth measure RUN PROBE [--levels 3,7] [its amounts]"""
    from lth.lab.build import names

    flags, opened, amounts = _stored(
        args, "lth measure", names.PROBES, "probe", MeasureFlags
    )
    try:
        levels = flags.levels or None
        table = opened.measure(flags.what, levels=levels, of=flags.of, **amounts)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    terminal.print_measured(table, opened.path.name)
    return 0


def _stored(
    args: list[str],
    prog: str,
    table: Mapping[str, Callable],
    what: str,
    kind: type = StoredFlags,
) -> tuple[Any, Any, dict[str, Any]]:
    """The flags of a command about a stored run, the run with its recipe, and amounts.

    `table` has, by name, what makes a branch or a probe; its parameters are flags.
    """
    ours, others = typed.parted(args, kind)
    asked = next((arg for arg in ours[1:] if arg in table), "")
    described = _described(asked, table[asked]) if asked else _amounts(table)
    flags = tyro.cli(
        kind,
        args=typed.read(ours, kind),
        prog=prog,
        description=described,
    )
    path = terminal.located(flags.run, flags.runs)
    if flags.deterministic:
        compiler.make_deterministic()
    from lth.lab import stored

    opened = stored.open_run(path, data_dir=flags.data_dir)
    source = flags.source or opened.content.get("source", "")
    own_functions = opened.config is None and "imported" not in opened.content
    if own_functions and not source:
        raise ConfigError(
            f"{path} is a run of functions of your own: give --source FILE.py:FUNCTION"
        )
    if own_functions and not flags.source and not own.is_there(source):
        raise ConfigError(
            f"{path} was run by {source}, which is not here: go to the folder it was "
            "run from, or give --source FILE.py:FUNCTION"
        )
    if own_functions:
        given = opened.content.get("arguments", [])
        made, _ = _made(own.function(source), source, given, prog)
        opened = stored.open_run(path, made)
        table = {**table, **made.offers} if what == "branch" else table
    amounts = _read_amounts(others, table.get(flags.what), f"{prog} RUN {flags.what}")
    return flags, opened, amounts


def _amounts(table: Mapping[str, Callable]) -> str:
    """Each name, and the flags that it has beside those of all."""
    from lth.lab.build import naming

    plain = [name for name, make in table.items() if not naming.usual(make)]
    lines = [f"By name there are {', '.join(plain)}, and with flags of their own:"]
    for name, make in table.items():
        known = [f"{_flag(n)} {v!r}" for n, v in naming.usual(make).items()]
        lines += [f"{name} {' '.join(known)}"] if known else []
    return "\n\n".join([*lines, "'NAME --help' says what they are."])


def _described(name: str, make: Callable) -> str:
    """What a name stands for, and its own flags with their words."""
    from docstring_parser import parse_from_object  # a part of tyro

    from lth.lab.build import naming

    told = parse_from_object(make)
    words = {p.arg_name: " ".join((p.description or "").split()) for p in told.params}
    lines = [f"{name}. {told.short_description or ''}".strip()]
    for amount, value in naming.usual(make).items():
        lines.append(f"{_flag(amount)} {value!r}: {words.get(amount, '')}".rstrip(": "))
    return "\n\n".join(lines)


def _flag(amount: str) -> str:
    return f"--{amount.replace('_', '-')}"


def _read_amounts(args: list[str], make: Callable | None, prog: str) -> dict[str, Any]:
    """Read the flags that are the parameters of what makes a branch or a probe."""
    if not args:
        return {}
    from lth.lab.build import naming

    known = naming.usual(make) if make else {}
    for arg in args:
        if arg.startswith("--") and arg[2:].replace("-", "_") not in known:
            there = ", ".join(f"--{n.replace('_', '-')}" for n in known) or "none"
            raise ConfigError(
                f"there is no flag {arg}; the flags of {prog} are {there}"
            )
    assert make is not None
    return own.amounts(make, args, prog)


def no_preset(name: str, there: Iterable[str]) -> str:
    """Say that there is no such preset, and which there are."""
    there = list(there)
    guess = parse.perhaps(name, there)
    return f"unknown preset {name!r}{guess}; there are {', '.join(there)}"


def short(name: str) -> str:
    """What a preset of learned masks is called; its runs have its long name."""
    return {long: short for short, long in ALIASES.items()}.get(name, name)


def parsed(preset: Preset, args: list[str], prog: str) -> RunFlags:
    """Read the flags after the name of a preset."""
    return tyro.cli(
        RunFlags,
        args=typed.read(args, RunFlags),
        default=RunFlags(preset.experiment),
        prog=prog,
        description=f"{preset.title}. Differs from its source: {preset.differs}.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _run(name: str, preset: Preset, args: list[str], prog: str) -> int:
    """Run an experiment from the flags after its name, and say what it found."""
    flags = parsed(preset, args, prog)
    if flags.deterministic:
        compiler.make_deterministic()
    keep = saving(flags.save_every)
    from lth.lab import devices, front, store
    from lth.lab.build import assemble

    devices.join(flags.coordinator, flags.processes, flags.process)
    devices.use_cores(flags.experiment.replicates)
    if flags.processes == 1:  # of several, the first fails for all, later
        store.check_writable(flags.runs)
    built = assemble.build(flags.experiment, flags.data_dir, flags.over)
    if flags.dry_run:
        path, _ = front.place(built, flags.runs, flags.name or name)
        terminal.print_facts(front.described(built.recipe, path))
        return 0
    first = "dense" if built.recipe.first is None else "mask"

    def start(watch):
        path, _ = front.place(built, flags.runs, flags.name or name)
        with _tracked(flags.track, path, watch) as tell:
            options = {"name": flags.name, "watch": tell, "saving": keep}
            return front.train(built, name, flags.runs, **options)

    return trained(start, flags.quiet, first, built.recipe)


@contextlib.contextmanager
def _tracked(names: Sequence[str], path: Path, watch: Any) -> Iterator[Any]:
    """Tell trackers of a run too; what they keep lies beside runs, in none of them."""
    if not names:
        yield watch
        return
    from lth.lab import trackers

    folder = path.parent / "trackers" / path.name
    with _refused(), trackers.together(names, folder, watch) as tell:
        yield tell


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Say as a refusal what is not installed."""
    from lth.lab import trackers

    try:
        yield
    except trackers.MissingError as error:
        raise ConfigError(str(error)) from None


def _run_own(source: str, args: list[str]) -> int:
    """Run what a function of a user's own file makes."""
    if "--deterministic" in args:  # before the file may use JAX
        compiler.make_deterministic()
    make, prog = own.function(source), f"lth run {source}"
    asked = {"-h", "--help"} & set(args)
    flags, rest = OwnFlags(), args
    if asked:
        terminal.output.print(
            "beside the flags of the function there are --runs, --name, --dry-run, "
            "--quiet, --save-every and --deterministic, as of any run\n",
            markup=False,
        )
    else:
        flags, rest = tyro.cli(OwnFlags, args=args, prog=prog, return_unknown_args=True)
    keep = saving(flags.save_every)
    recipe, given = _made(make, source, rest, prog)
    path = flags.runs / own.folder(source, given, flags.name)
    from lth.lab import front

    if flags.dry_run:
        terminal.print_facts(front.described(recipe, path))
        return 0

    def start(watch):
        facts = {"flags": own.told(given), "arguments": rest, "source": source}
        options = {"about": facts, "watch": watch, "saving": keep}
        return front.train_own(recipe, path, **options)

    return trained(start, flags.quiet, "dense", recipe)


def saving(text: str) -> Any:
    """When trainings under way are saved, and that a signal ends them."""
    seconds, steps = parse.parse_saving(text)
    from lth.lab import keeping

    return keeping.Saving(seconds, steps, interrupt.asked)


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """Leave the process where a signal has stopped its training."""
    from lth.lab import keeping

    try:
        yield
    except keeping.Stopped:
        interrupt.leave(", the training under way saved")
        raise


def _made(make: Callable, source: str, args: list[str], prog: str) -> tuple[Any, dict]:
    """The recipe that a file's function makes, and its flags that are not usual."""
    try:
        recipe, given = own.called(make, args, prog)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    return _checked(recipe, source), given


def _checked(made: Any, source: str) -> Any:
    from lth import lottery

    if not isinstance(made, lottery.Recipe):
        raise ConfigError(
            f"{source} returned {type(made).__name__}, not a recipe: return what "
            "lth.make_recipe or lth.build gives"
        )
    try:
        lottery.check(made)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    return made


def trained(start: Callable[[Any], Any], quiet: bool, first: str, recipe: Any) -> int:
    """Train by a recipe, and say what came of it.

    Args:
      start: `(watch) -> Outcome`: trains.
      quiet: Whether to print the path alone.
      first: What level 0 is called.
      recipe: Of the run.

    Returns:
      The exit code.
    """
    from lth.lab import devices, stored

    with terminal.progress(quiet, first) as watch, _leaving():
        outcome = start(watch)
    if not devices.first_process():
        return 3 if outcome.failed else 0
    opened = stored.open_run(outcome.path, recipe)
    code = _conclude(opened, quiet)
    if not quiet:
        spent, compiling = outcome.seconds, outcome.compiling
        terminal.output.print(
            f"time    {spent - compiling:.1f} s, and {compiling:.1f} s of compiling",
            markup=False,
        )
    return code


def _conclude(opened: Any, quiet: bool) -> int:
    """Write the report of a run and say what it found; the exit code."""
    from lth.cli import report
    from lth.lab import runner

    written = None
    if (opened.path / "table.csv").exists():
        page = opened.path / "report.html"
        written = report.write([opened], page, make_script=False)
    if quiet:
        print(opened.path)
    else:
        if written:
            terminal.print_summary(opened)
            terminal.output.print(f"report  {written}", markup=False)
        terminal.output.print(f"run     {opened.path}", markup=False)
    failed = runner.failures(opened.path)
    _complain(opened, failed)
    return 3 if failed else 0


def _complain(found: Any, all_failed: dict) -> None:
    """Say which layers of a run are empty, and which replicates failed, and why."""
    failed = {replicate for _, replicate in all_failed}
    for level, replicate, path in found.empty_layers():
        if replicate in failed:
            continue
        terminal.errors.print(
            f"lth: the mask of replicate {replicate} keeps nothing of {path} at level "
            f"{level}"
        )
    for level, replicate, layers, units in found.cut_off():
        if replicate not in failed and units:
            also = f", and {layers} layers are cut off" if layers else ""
            terminal.errors.print(
                f"lth: in replicate {replicate} at level {level} no path from an input "
                f"to an output goes through {units} units{also}"
            )
    learn = found.config.learn if found.config else Learn()
    charged = (
        f", or --learn.penalty {learn.penalty:g} of {learn.method} left no weight"
        if learn.penalty
        else ""
    )
    for (variant, replicate), (level, step) in all_failed.items():
        why = charged if variant == "ticket" else ""
        terminal.refuse(
            f"replicate {replicate} of {variant} stopped: its loss or its weights were "
            f"not finite{why} at level {level}, step {step}",
            3,
        )


def list_presets() -> None:
    """Print the presets."""
    terminal.output.print("presets ('lth run PRESET --help' says what each differs by)")
    width = max(map(len, PRESETS))
    for name, preset in PRESETS.items():
        terminal.output.print(f"  {name:{width}}  {preset.title}", markup=False)


def list_supermasks() -> None:
    """Print the presets of learned masks, and the methods."""
    there = ", ".join(map(short, SUPERMASKS))
    terminal.output.print(f"presets  {there}", markup=False)
    methods = next(iter(SUPERMASKS.values()))
    terminal.output.print(f"methods  {', '.join(methods)}", markup=False)
