"""The command that brings runs from elsewhere; and a stored run, trained on."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from lth.cli import flags as typed
from lth.cli import running, terminal
from lth.lab import compiler
from lth.lab.config import ConfigError

USAGE = "usage: lth import openlth DIR [flags]"


@dataclass(frozen=True)
class ImportFlags:
    """Makes a run of OpenLTH one of ours, which goes on from where that one ended."""

    folder: tyro.conf.Positional[Path]
    """The folder lottery_… of the run. Its files are read, and nothing in them run."""
    runs: Path = Path("runs")
    """Where run directories go."""
    name: str = "openlth"
    """What to call the run, before the hash that OpenLTH knows it by."""
    validation: int = 0
    """Training examples to hold out for the levels to come, where OpenLTH has none; 0:
    as many as leave an epoch as many iterations as it had, too few to choose by."""
    data_dir: Path | None = None
    """Where data files are, in folders such as mnist/; else LTH_DATA, else a cache."""
    quiet: bool = False
    """Print nothing but the path of the run directory."""


@dataclass(frozen=True)
class GoOnFlags:
    """Trains a stored run on: more levels, or controls beside its tickets."""

    run: tyro.conf.Positional[Path]
    """A run directory."""
    levels: int | None = None
    """Pruning rounds in all; by default as many as it was asked for before."""
    controls: str = ""
    """Controls to train beside each ticket, as of any run."""
    data_dir: Path | None = None
    """Where data files are, in folders such as mnist/; else LTH_DATA, else a cache."""
    dry_run: bool = False
    """Say what would be run, and what of it is stored, and train nothing."""
    quiet: bool = False
    """Print nothing but the path of the run directory."""
    save_every: str = "10min"
    """How often a training under way is saved: 30s, 10min, 2h, 5000it, or never."""
    deterministic: bool = False
    """Have a GPU add up in a fixed order: the same bits each time, for some speed; a
    CPU does so always."""


def import_run(args: list[str]) -> int:
    """lth import openlth DIR [flags]"""
    if not args or args[0] != "openlth":
        said = f"{USAGE}\n\nRuns of OpenLTH are what can be imported."
        if {"-h", "--help"} & set(args):
            terminal.output.print(said, markup=False)
            return 0
        return terminal.refuse(said, 2)
    read = typed.read(args[1:], ImportFlags)
    flags = tyro.cli(ImportFlags, args=read, prog="lth import openlth")
    if flags.validation < 0:
        raise ConfigError(f"--validation is at least 0; got {flags.validation}")
    from lth.lab import openlth, stored

    made = openlth.import_run(
        flags.folder,
        flags.runs,
        name=flags.name,
        validation=flags.validation,
        data_dir=flags.data_dir,
    )
    if flags.quiet:
        print(made.path)
        return 0
    terminal.print_summary(stored.open_run(made.path))
    there = ", ".join(map(str, made.levels)) or "none that was not there"
    terminal.print_facts(
        [
            ("levels", there),
            ("measured", _off(made.off) if made.levels else "nothing anew"),
            *(("left out", told) for told in made.left_out),
            ("run", str(made.path)),
        ]
    )
    terminal.output.print("Levels to come differ from OpenLTH's own:", markup=False)
    for sentence in made.differs:
        terminal.output.print(f"  {sentence}", markup=False)
    return 0


def _off(off: float) -> str:
    """How the networks scored here, beside what the log says."""
    if off < 1e-6:
        return "each network scores on the test set here what its log says"
    return f"test accuracies here are up to {100 * off:.2f} points from the log's"


def go_on(args: list[str]) -> int:
    """lth run RUN [--levels 5]"""
    read = typed.read(args, GoOnFlags)
    flags = tyro.cli(GoOnFlags, args=read, prog="lth run RUN")
    if flags.deterministic:
        compiler.make_deterministic()
    saving = running.saving(flags.save_every)
    from lth.lab import continuing, front

    controls = flags.controls
    options = {"levels": flags.levels, "controls": controls, "data_dir": flags.data_dir}
    found = continuing.continued(flags.run, **options)
    if flags.dry_run:
        terminal.print_facts(front.described(found.recipe, flags.run))
        return 0

    def start(watch):
        return found.train(watch=watch, saving=saving)

    return running.trained(start, flags.quiet, found.first, found.recipe)
