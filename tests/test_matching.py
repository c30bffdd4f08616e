"""Which tickets match the dense network: by hand, and what holds of every table."""

import math
import statistics

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lth import plot, results
from lth.cli import conclusion, report


def table(levels, metric="accuracy", run="r", variant="ticket"):
    """A tidy table from {level: (density, [test score of each replicate])}."""
    rows = [
        (run, i, variant, level, density, step, split, name, value)
        for level, (density, values) in levels.items()
        for i, score in enumerate(values)
        for step, split, name, value in (
            (10, "test", metric, 0.01),  # what was before the end does not count
            (20, "test", metric, score),
            (20, "validation", "loss", 0.5),
            (20, "validation", metric, 0.0),
        )
    ]
    return pd.DataFrame(rows, columns=list(results.COLUMNS))


DENSE = (1.0, [0.90, 0.92, 0.94])  # mean 0.92, deviation 0.02


def matches(rows):
    return dict(zip(rows["level"], rows["matches"], strict=True))


def test_by_hand():
    tickets = {
        0: DENSE,
        1: (0.8, [0.91, 0.90, 0.895]),  # mean 0.90167, above 0.90
        2: (0.64, [0.80, 0.90, 0.9997]),  # 0.8999, below
        3: (0.512, [0.99, 0.99, 0.99]),  # better than dense
    }
    rows = results.matching(table(tickets))
    assert matches(rows) == {1: True, 2: False, 3: True}
    assert rows["deviation"].unique() == pytest.approx(0.02)
    assert rows["dense"].unique() == pytest.approx(0.92)
    assert rows["accuracy"].tolist() == pytest.approx([0.9016667, 0.8999, 0.99])
    assert (rows["n"] == 3).all()
    assert results.down_to(rows) == (1, 0.8)
    assert conclusion.sentences(table(tickets)) == [
        "Tickets match the dense network (test accuracy 92.00 ± 2.00 %, one standard "
        "deviation, n = 3) down to a density of 80 % (level 1), and again at 51.2 % "
        "(level 3)."
    ]


def test_another_task_is_compared_with_its_own_dense_network():
    moved = table({0: (1.0, [0.5, 0.6, 0.7]), 1: (0.8, [0.51] * 3)}, variant="moved")
    alone = table({1: (0.8, [0.99] * 3)}, variant="alone")
    all_three = pd.concat([table({0: DENSE, 1: (0.8, [0.92] * 3)}), moved, alone])
    found = results.matching(all_three, {"moved", "alone"})
    rows = found.set_index(["variant", "level"])
    assert [*rows.index] == [("ticket", 1), ("moved", 1)]
    assert rows["dense"].tolist() == pytest.approx([0.92, 0.6])
    assert rows["deviation"].tolist() == pytest.approx([0.02, 0.1])
    assert rows["matches"].all()  # 0.51 is above 0.5
    told = conclusion.sentences(all_three, {"moved": "on cats"}, {"moved", "alone"})
    assert told[1:] == [
        "“on cats” matches its own dense network (test accuracy 60.00 ± 10.00 %, one "
        "standard deviation, n = 3) down to a density of 80 % (level 1), the last.",
        "“alone” is of another task and has no dense network of its own to match: its "
        "level 0 is not trained.",
    ]
    ax = plot.accuracy(all_three, Figure().subplots(), apart={"moved", "alone"})
    assert len(ax.patches) == 2  # a strip of each dense network


def test_controls_are_compared_with_the_same_dense_network():
    both = pd.concat(
        [
            table({0: DENSE, 1: (0.8, [0.92] * 3), 2: (0.64, [0.92] * 3)}),
            table({1: (0.8, [0.5] * 3), 2: (0.64, [0.95] * 3)}, variant="reinit"),
            table({1: (0.8, [0.5] * 3), 2: (0.64, [0.5] * 3)}, variant="shuffle"),
        ]
    )
    _, reinit, shuffle = conclusion.sentences(both)
    assert reinit == (
        "The control “fresh initialisation” matches it only at 64 % (level 2)."
    )
    assert shuffle.startswith("The control “mask shuffled in layers” matches it at no")
    of_reinit = results.matching(both).query("variant == 'reinit'")
    assert results.down_to(of_reinit) is None


def test_one_replicate_is_compared_with_the_dense_value_itself():
    levels = {0: (1.0, [0.9]), 1: (0.8, [0.9]), 2: (0.64, [math.nextafter(0.9, 0)])}
    rows = results.matching(table(levels))
    assert matches(rows) == {1: True, 2: False}
    assert rows["deviation"].isna().all()
    assert conclusion.sentences(table(levels)) == [
        "Tickets match the dense network (test accuracy 90.00 %, n = 1: compared with "
        "the dense value itself) down to a density of 80 % (level 1)."
    ]


def test_no_ticket_matches():
    (told,) = conclusion.sentences(table({0: DENSE, 1: (0.8, [0.5] * 3)}))
    assert told == (
        "No ticket matches the dense network (test accuracy 92.00 ± 2.00 %, one "
        "standard deviation, n = 3)."
    )


def test_the_score_of_a_regression_is_named():
    levels = {0: (1.0, [0.7, 0.72]), 1: (0.5, [0.72, 0.7])}
    (told,) = conclusion.sentences(table(levels, metric="r2"))
    assert "test r2 71.00 ± 1.41 %" in told
    assert told.endswith("down to a density of 50 % (level 1), the last.")
    assert "mean test r2 at the end" in conclusion.meaning(table(levels, metric="r2"))


def test_levels_that_are_not_there_leave_no_gap():
    levels = {0: DENSE, 2: (0.64, [0.92] * 3), 5: (0.33, [0.92] * 3), 6: (0.26, [0.1])}
    rows = results.matching(table(levels))
    assert results.down_to(rows) == (5, 0.33)
    (told,) = conclusion.sentences(table(levels))
    assert told.endswith("33 % (level 5); n = 1 at level 6.")


def test_stretches_after_a_first_level_that_does_not_match():
    good, bad = [0.93] * 3, [0.1] * 3
    scores = [bad, good, good, bad, good]
    levels = {i: (0.8**i, s) for i, s in enumerate(scores, 1)} | {0: DENSE}
    (told,) = conclusion.sentences(table(levels))
    assert told.endswith(
        "only from 64 % to 51.2 % (levels 2 to 3) and at 32.8 % (level 5)."
    )


def test_a_learned_mask_has_no_dense_network():
    learned = table({0: (0.5, [0.9, 0.91])})
    assert results.matching(learned).empty
    (told,) = conclusion.sentences(learned)
    assert told == "No dense network was trained, so there is none to match."
    assert conclusion.meaning(learned) == ""
    assert conclusion.sentences(table({0: DENSE})) == []


def test_runs_are_compared_with_their_own_dense_network():
    both = pd.concat(
        [
            table({0: (1.0, [0.5, 0.5]), 1: (0.5, [0.5, 0.5])}, run="a"),
            table({0: (1.0, [0.9, 0.9]), 1: (0.5, [0.5, 0.5])}, run="b"),
        ]
    )
    assert results.matching(both)["matches"].tolist() == [True, False]


def test_only_what_matches_is_called_winning():
    levels = {0: DENSE, 1: (0.8, [0.93] * 3), 2: (0.1, [0.108] * 3)}
    names = [row[1] for row in report.cells(table(levels))]
    assert names == ["dense network", "winning ticket", "ticket"]
    ax = plot.accuracy(table(levels), Figure().subplots())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ticket"]
    hollow = [line for line in ax.lines if line.get_color() == "white"]
    assert [tuple(line.get_xdata()) for line in hollow] == [(10.0,)]


share = st.floats(0, 1, width=32)


@given(st.lists(share, min_size=1, max_size=6), st.data())
def test_whatever_the_values(dense, data):
    scores = st.lists(share, min_size=len(dense), max_size=len(dense))
    tickets = data.draw(st.lists(scores, min_size=1, max_size=5))
    levels = {i: (0.8**i, s) for i, s in enumerate([dense, *tickets])}
    rows = results.matching(table(levels))
    mean = statistics.mean(dense)
    least = mean - (statistics.stdev(dense) if len(dense) > 1 else 0)
    known = [statistics.mean(s) for s in tickets]
    for row, score in zip(rows.to_dict("records"), known, strict=True):
        if abs(score - least) > 1e-12:
            assert row["matches"] == (score >= least)
    end = results.down_to(rows)
    count = 0 if end is None else end[0]
    assert rows["matches"][:count].all()
    assert count == len(rows) or not rows["matches"][count]
    same = results.matching(table({0: (1.0, dense), 1: (0.5, dense)}))
    assert same["matches"].all()  # as good as dense is good enough
    shuffled = results.matching(table(levels).sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(shuffled[["level", "n"]], rows[["level", "n"]])
