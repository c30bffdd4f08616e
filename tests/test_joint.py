"""Runs that train together: one call for all of them, and each as if it were alone."""

import threading
from functools import partial

import numpy as np
import pytest

import lth
from lth import lab, lottery
from lth.cli import main
from lth.lab import cells, front, joint, keeping, runner, store, submit, sweep
from lth.lab.devices.memory import MemoryTooSmallError
from lth.lottery import recipe as recipes
from tests import own, sweeps

LEVELS = 2


def counted(recipe, calls):
    """A recipe that notes how many replicates are trained in each call, and how far."""

    def train(state, mask, n, order, sums=None):
        calls.append((len(order), int(n)))
        return recipe.train(state, mask, n, order, *([] if sums is None else [sums]))

    return recipe._replace(train=train)


def run(recipe, path, join, **named):
    return front.train_own(join(recipe), path, **named)


def of(replicates, **changes):
    return recipes.only(own.recipe(), replicates)._replace(**changes)


def test_runs_are_trained_by_one_call_each_with_its_own_bits(tmp_path):
    calls: list = []
    one = counted(of((0, 1)), calls)
    two = recipes.only(one, (5, 6))
    joint.train_together([
        partial(run, one, tmp_path / "one"), partial(run, two, tmp_path / "two")
    ])  # fmt: skip
    assert {size for size, _ in calls} == {4}
    for recipe, name in (one, "one"), (two, "two"):
        alone = lth.run(recipe, tmp_path / "alone" / name)
        assert not sweeps.differences(lth.lab.stored.open_run(tmp_path / name), alone)


def test_runs_that_stand_elsewhere_meet_where_they_can(tmp_path):
    """Of another rewind point, and other levels: what is trained alike is joined."""
    calls: list = []
    usual = own.recipe()
    late = usual.stops[-1] // 2
    one = counted(of((0, 1)), calls)
    two = one._replace(replicates=(3, 4), rewind_to=late, densities=one.densities[:1])
    joint.train_together([
        partial(run, one, tmp_path / "one"), partial(run, two, tmp_path / "two")
    ])  # fmt: skip
    assert {size for size, _ in calls} == {2, 4}
    for recipe, name in (one, "one"), (two, "two"):
        alone = lth.run(recipe, tmp_path / "alone" / name)
        assert not sweeps.differences(lth.lab.stored.open_run(tmp_path / name), alone)


class Short:
    """What trains adds the steps up; nothing is a network."""

    def __init__(self, most=99):
        self.calls, self.most = [], most

    def train(self, state, mask, n, order, sums=None):
        self.calls.append((len(order), n))
        if len(order) > self.most:
            raise MemoryTooSmallError("too many")
        added = np.full(len(order), n) + (0 if sums is None else sums)
        return state._replace(step=state.step + n), added


def asks(recipe, short, wanted, join):
    joined = join(recipe._replace(train=short.train))
    state = lottery.recipe.drawn(joined)
    order = lottery.recipe.keys(joined.replicates, lottery.recipe.TRAIN)
    ends = []
    for n in wanted:
        state, sums = joined.train(state, joined.mask, n, order)
        ends.append((int(state.step[0]), sums.tolist()))
    return ends


def test_those_who_want_fewer_steps_do_not_wait_for_the_others():
    short, recipe = Short(), of((0,))
    wanted = ([4, 6], [10], [7, 3])
    ends = joint.train_together([partial(asks, recipe, short, w) for w in wanted])
    assert ends == [[(4, [4]), (10, [6])], [(10, [10])], [(7, [7]), (10, [3])]]
    assert short.calls[0] == (3, 4)
    assert sum(size * n for size, n in short.calls) == 30


def test_what_has_no_room_is_done_in_halves():
    short, recipe = Short(most=2), of((0,))
    runs = [partial(asks, recipe, short, [5]) for _ in range(5)]
    assert joint.train_together(runs) == [[(5, [5])]] * 5
    assert [size for size, _ in short.calls] == [5, 2, 3, 1, 2]


def test_what_has_no_room_even_alone_fails():
    runs = [partial(asks, of((0,)), Short(most=0), [5]) for _ in range(2)]
    with pytest.raises(MemoryTooSmallError, match="too many"):
        joint.train_together(runs)


def test_one_that_fails_keeps_no_other_from_its_end():
    def fails(join):
        raise OSError("no disk")

    short, ends = Short(), []

    def ended(join):
        ends.append(asks(of((0,)), short, [5, 5], join))

    with pytest.raises(OSError, match="no disk"):
        joint.train_together([ended, fails, ended])
    assert ends == [[(5, [5]), (10, [5])]] * 2
    assert {size for size, _ in short.calls} == {2}


def test_recipes_of_other_functions_are_trained_apart():
    one, two, recipe = Short(), Short(), of((0,))
    joint.train_together(
        [partial(asks, recipe, one, [5]), partial(asks, recipe, two, [5])]
    )
    assert one.calls == two.calls == [(1, 5)]


@pytest.mark.parametrize(("backend", "calls"), [("gpu", [2, 2]), ("cpu", [1] * 4)])
def test_only_on_a_cpu_each_is_measured_by_itself(backend, calls, monkeypatch):
    sizes = []

    def measure(state):
        sizes.append(len(state.step))
        return {"step": state.step}

    recipe = of((0,))._replace(measures={"test": measure, "train": measure})
    state = lottery.recipe.drawn(recipe)
    monkeypatch.setattr(joint.jax, "default_backend", lambda: backend)

    def asks(steps, join):
        measures = join(recipe).measures
        at = state._replace(step=state.step + steps)
        return [int(measures[split](at)["step"][0]) for split in ("test", "train")]

    ends = joint.train_together([partial(asks, 1), partial(asks, 2)])
    assert ends == [[1, 1], [2, 2]]
    assert sizes == calls


def test_an_interrupted_wait_ends_the_runs_at_their_next_training(monkeypatch):
    """Ctrl-C in a notebook, where no signal is asked for."""
    ended, join = [], threading.Thread.join

    def interrupted(thread, *args):
        monkeypatch.setattr(threading.Thread, "join", join)
        raise KeyboardInterrupt

    def endless(join):
        try:
            asks(of((0,)), Short(), [1] * 10**6, join)
        except keeping.Stopped:
            ended.append(True)
            raise

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        joint.train_together([endless, endless])
    assert ended == [True, True]


def test_cells_of_one_program_are_grouped_whatever_they_prune(tmp_path):
    grid = sweeps.grid(0, 2) | {
        "wider": sweeps.cell(model__widths=[9]),
        "own": sweeps.small,
        "again": sweeps.small,
    }
    due = list(sweep.plan(grid, tmp_path).values())
    names = [[job.cell for job in group] for group in submit.together().groups(due)]
    four = ["magnitude, 0", "magnitude, 2", "random, 0", "random, 2"]
    assert names == [four, ["wider"], ["own", "again"]]
    names = [[job.cell for job in group] for group in submit.together(3).groups(due)]
    assert names == [four[:3], four[3:], ["wider"], ["own", "again"]]
    assert all(len(group) == 1 for group in lab.serial.groups(due))


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """The grid as one cell after another has it."""
    return lth.sweep(sweeps.grid(0, 2), tmp_path_factory.mktemp("serial"))


def test_a_sweep_trained_together_has_the_bits_of_one_cell_after_another(
    one_by_one, tmp_path, monkeypatch
):
    grid, sizes = sweeps.grid(0, 2), []
    served = joint._serve

    def counting(group):
        sizes.append(len(group))
        served(group)

    monkeypatch.setattr(joint, "_serve", counting)
    told: list = []
    both = lth.sweep(
        grid, tmp_path / "both", submit=lab.together(), ended=told.append,
        save_every="5it",
    )  # fmt: skip
    assert set(sizes) == {4}
    assert [one.state for one in told] == ["finished"] * 4
    assert not any(sweeps.differences(both[c], one_by_one[c]) for c in grid)
    assert len(cells._built) == 1  # the others hold memory, and are not kept


BASE: list = []


def pruned(keep: float):
    """A cell of one's own: another density under the functions of the others."""
    return BASE[0]._replace(densities=(keep,))


def test_cells_of_functions_of_ones_own_train_together(tmp_path):
    calls: list = []
    BASE[:] = [counted(of((0, 1)), calls)]
    grid = {f"{keep}": partial(pruned, keep) for keep in (0.5, 0.25)}
    both = lth.sweep(grid, tmp_path / "both", submit=lab.together())
    assert {size for size, _ in calls} == {4}
    alone = lth.sweep(grid, tmp_path / "alone")
    assert not any(sweeps.differences(both[c], alone[c]) for c in grid)


def test_cells_that_are_stopped_together_go_on_apart(one_by_one, tmp_path):
    asked = iter([False] * 9)
    grid = sweeps.grid(0, 2)
    named = {"submit": lab.together(), "save_every": "5it"}
    with pytest.raises(sweep.SweepError) as caught:
        lth.sweep(grid, tmp_path, stop=lambda: next(asked, True), **named)
    states = {one.state for one in caught.value.done.values()}
    assert states == {"stopped"}
    assert [store.training(job.path) for job in sweep.plan(grid, tmp_path).values()]
    runs = lth.sweep(grid, tmp_path)
    assert not any(sweeps.differences(runs[c], one_by_one[c]) for c in grid)


def test_a_cell_that_fails_lets_the_others_end(tmp_path):
    grid = sweeps.grid(0, 2)
    busy = sweep.plan(grid, tmp_path)["magnitude, 2"].path
    with store.claim(busy), pytest.raises(sweep.SweepError) as caught:
        lth.sweep(grid, tmp_path, submit=lab.together())
    assert [*caught.value.done] == ["magnitude, 2"]
    assert caught.value.done["magnitude, 2"].state == "busy"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--together", "-1"], "--together is at least 0; got -1"),
        (["--together", "4", "--jobs", "2"], "--together is of one process"),
        (["--together", "0", "--cluster", "ray"], "--together is of one process"),
    ],
)
def test_together_is_refused_where_it_cannot_be(flags, told, tmp_path, capsys):
    args = ["sweep", "digits", "--over", "first_replicate=0,5", "--runs", str(tmp_path)]
    assert main.command([*args, *flags]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_runner_is_told_nothing_of_it():
    assert "joint" not in vars(runner)
