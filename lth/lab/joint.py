"""Runs that train together: the replicates of several as those of one program.

Each run goes on by itself, in a thread of its own, with its own folder, checkpoints and
way to prune. One thread works at a time. When all have come to where they train or
measure, those that want the same are served by one call on the device.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from lth.lab.devices import memory
from lth.lab.keeping import Stopped
from lth.lottery import Recipe
from lth.train import step_of

T = TypeVar("T")
Join = Callable[[Recipe], Recipe]  # makes a recipe one that trains with the others


def alone(recipe: Recipe) -> Recipe:
    """Train with no other run."""
    return recipe


def train_together(runs: Sequence[Callable[[Join], T]]) -> list[T]:
    """Let runs train together.

    A program of many replicates may add up in another order than one of a few. On a
    CPU, where it has them one after another, weights keep their bits, and so does all
    that is measured, but for means over the training of a run of one replicate.

    Args:
      runs: Each is called with `join`, which it applies to its recipe before it trains,
        and is one of `join`'s to the end. Together are trained those whose `train` is
        the same function, in states of the same shapes; how they prune, rewind and
        branch is their own.

    Returns:
      What they returned.

    Raises:
      What the first of them raised, once all have ended. Where this thread is
      interrupted, they end by `Stopped` at their next training.
    """
    meeting = _Meeting(len(runs))
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def attend(i: int, run: Callable[[Join], T]) -> None:
        with meeting.turn:
            try:
                results[i] = run(meeting.joined)
            except BaseException as error:
                errors[i] = error
            finally:
                meeting.leave()

    threads = [
        threading.Thread(target=attend, args=pair, name=f"run {pair[0]}")
        for pair in enumerate(runs)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        meeting.over = True  # they see it once it is their turn
        for thread in threads:
            thread.join()
        raise
    for i in sorted(errors):
        raise errors[i]
    return [results[i] for i in range(len(runs))]


@dataclass
class _Wish:
    """What a run waits for: to be trained so many steps, or, with none, measured."""

    function: Callable  # of a recipe
    args: tuple  # trees that lead with the replicates: (state, …)
    steps: int = 0
    done: bool = False
    result: Any = None
    error: Exception | None = None

    def kind(self) -> tuple:
        """What it has in common with those that are served with it."""
        shapes = jax.tree.map(lambda x: f"{x.shape[1:]} {x.dtype}", self.args)
        at = step_of(self.args[0]) if self.steps else -1
        tree = jax.tree.structure(self.args)
        return self.function, at, tree, str(shapes)


class _Meeting:
    """Where runs wait for each other."""

    def __init__(self, count: int):
        self.turn = threading.Condition()  # who works holds it, who waits does not
        self.working = count
        self.wishes: list[_Wish] = []
        self.over = False

    def joined(self, recipe: Recipe) -> Recipe:
        """The recipe, to be trained and measured with those of the others."""

        def train(state, mask, n, order, sums=None):
            return self.asked(_Wish(recipe.train, (state, mask, order, sums), int(n)))

        def measure(own, state):
            return self.asked(_Wish(own, (state,)))

        if jax.default_backend() == "cpu":  # measuring alone loses little, and no bit
            return recipe._replace(train=train)
        own = recipe.measures.items()
        measures = {split: partial(measure, function) for split, function in own}
        return recipe._replace(train=train, measures=measures)

    def asked(self, wish: _Wish) -> Any:
        """What comes of a wish, once all others wait too."""
        self.wishes.append(wish)
        self.leave()
        self.turn.wait_for(lambda: wish.done or self.over)
        if not wish.done:
            raise Stopped
        if wish.error is not None:
            raise wish.error
        return wish.result

    def leave(self) -> None:
        """Work no more, for now or for good; the last to do so serves who waits."""
        self.working -= 1
        while self.wishes and not self.working and not self.over:
            alike: dict[tuple, list[_Wish]] = {}
            for wish in self.wishes:
                alike.setdefault(wish.kind(), []).append(wish)
            _serve(max(alike.values(), key=len))
            self.working = sum(wish.done for wish in self.wishes)
            self.wishes = [wish for wish in self.wishes if not wish.done]
        self.turn.notify_all()


def _serve(group: list[_Wish]) -> None:
    """Do what wishes of one kind want by one call.

    Where they want different numbers of steps, all are trained for the fewest, and some
    want the others still. What is too much at once for the device is done in two calls.
    """
    first, steps = group[0], min(wish.steps for wish in group)
    try:
        args = first.args
        if len(group) > 1:
            every = [wish.args for wish in group]
            args = jax.tree.map(lambda *x: jnp.concatenate(x), *every)
        if steps:
            state, mask, order, sums = args
            more = () if sums is None else (sums,)
            result = first.function(state, mask, steps, order, *more)
        else:
            result = first.function(*args)
    except Exception as error:
        if len(group) > 1 and memory.is_too_much(error):
            half = len(group) // 2
            _serve(group[:half])
            _serve(group[half:])
            return
        for wish in group:
            wish.done, wish.error = True, error
        return
    at = 0
    for wish in group:
        end = at + len(jax.tree.leaves(wish.args)[0])
        part = jax.tree.map(lambda x, at=at, end=end: x[at:end], result)
        at = end
        if wish.steps > steps:
            state, sums = part
            wish.args, wish.steps = (state, *wish.args[1:3], sums), wish.steps - steps
        else:
            wish.done, wish.result = True, part
