"""Figures of masks, every weight in its place; of barriers, by numbers from hand."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lth import analysis, plot, results

MASK = {"conv": {"kernel": jnp.zeros((2, 1, 3, 4), bool).at[1, 0, 2, 3].set(True)}}


def test_a_frame_shows_each_weight_in_its_place():
    ax = plot.kept(MASK, "conv/kernel", Figure().subplots())
    (image,) = ax.images
    shown = np.asarray(image.get_array())
    assert shown.shape == (6, 4)
    assert shown[5, 3] == 1
    assert shown.sum() == 1
    assert ax.get_title() == "4.2% kept"
    with pytest.raises(ValueError, match="no leaf 'dense'; it has conv/kernel"):
        plot.kept(MASK, "dense", Figure().subplots())


def test_a_picture_of_inputs_is_of_one_network():
    mask = {"kernel": jnp.zeros((6, 4), bool).at[5, :3].set(True)}
    ax = plot.inputs(mask, "kernel", (2, 3), Figure().subplots())
    assert np.asarray(ax.images[0].get_array()).tolist() == [[0, 0, 0], [0, 0, 3]]
    for shape, wrong in (((2, 6, 4), (2, 3)), ((6, 4), (2, 2)), ((2, 3, 4), (2, 3))):
        stacked = {"kernel": jnp.zeros(shape, bool)}
        with pytest.raises(ValueError, match=r"kernel is \[.*replicate=0") as caught:
            plot.inputs(stacked, "kernel", wrong, Figure().subplots())
        assert f"got {shape}" in str(caught.value)


T2 = 4.302652729911275  # Student's t for three values, at 97.5 %
# One pair, three points, three replicates: in the middle the error is larger by 30, 20
# and 10 points than at both ends.
ACCURACY = np.array([[[0.9, 0.8, 0.7], [0.6, 0.6, 0.6], [0.9, 0.8, 0.7]]])


def edges(band):
    """Return the places of a band, and its lower and upper edge there."""
    corners = pd.DataFrame(band.get_paths()[0].vertices).groupby(0)[1]
    return [*corners.groups], corners.min().to_numpy(), corners.max().to_numpy()


def test_a_barrier_is_the_mean_error_along_the_line_in_its_interval():
    ax = plot.barrier({"accuracy": ACCURACY}, Figure().subplots(), label="two")
    along, ends = ax.lines
    assert along.get_xdata() == pytest.approx([0, 0.5, 1])
    assert along.get_ydata() == pytest.approx([20, 40, 20])
    assert ends.get_ydata() == pytest.approx([20, 20])
    places, low, high = edges(ax.collections[0])
    half = T2 * 10 / np.sqrt(3)  # errors of 10, 20 and 30 % deviate by 10
    assert places == pytest.approx([0, 0.5, 1])
    assert low == pytest.approx([20 - half, 40, 20 - half])
    assert high == pytest.approx([20 + half, 40, 20 + half])
    assert ax.get_ylabel() == "error (%)"
    # What rises above the dotted line is what is called a barrier.
    height = 100 * analysis.barriers({"accuracy": ACCURACY})["accuracy"].mean()
    drawn = np.max(along.get_ydata()) - np.mean(np.asarray(ends.get_ydata()))
    assert drawn == pytest.approx(height)


def test_a_loss_is_drawn_as_it_is_and_pairs_are_averaged_in_a_replicate_first():
    # The pairs differ by far, their means by nothing: so the interval is nothing.
    pairs = np.array([[[1.0, 9.0], [2.0, 6.0]], [[9.0, 1.0], [6.0, 2.0]]])
    curves = {"loss": pairs, "accuracy": pairs / 10}
    ax = plot.barrier(curves, Figure().subplots(), metric="loss")
    assert ax.lines[0].get_ydata() == pytest.approx([5, 4])
    _, low, high = edges(ax.collections[0])
    assert low == pytest.approx([5, 4])
    assert high == pytest.approx([5, 4])
    assert ax.get_ylabel() == "loss"
    assert ax.get_legend() is None
    of_score = plot.barrier(curves, Figure().subplots())  # not the loss, if not asked
    assert of_score.lines[0].get_ydata() == pytest.approx([50, 60])


def test_one_replicate_has_no_interval_and_lines_take_colours_in_turn():
    ax = Figure().subplots()
    for label in ("one", "costs $1 or $2"):
        plot.barrier({"loss": np.ones((1, 4, 1))}, ax, label=label)
    assert not ax.collections
    drawn = [line.get_color() for line in ax.lines]
    assert drawn == [plot.COLORS[0]] * 2 + [plot.COLORS[1]] * 2
    said = [text.get_text() for text in ax.get_legend().get_texts()]
    assert said == ["one", r"costs \$1 or \$2"]


def test_what_was_not_measured_is_not_drawn():
    with pytest.raises(ValueError, match="metric is one of loss; got 'accuracy'"):
        plot.barrier(
            {"loss": np.ones((1, 4, 1))}, Figure().subplots(), metric="accuracy"
        )
    with pytest.raises(ValueError, match=r"\[pairs, points, r\]; got \(4, 1\)"):
        plot.barrier({"loss": np.ones((4, 1))}, Figure().subplots())
    with pytest.raises(ValueError, match="no rows of signs top_1.*barrier accuracy"):
        plot.against_level(measured(), Figure().subplots(), "signs", "top_1")


def measured(run="mine", more=0.0):
    """Return rows of a probe at levels 3 and 1, of three replicates."""
    rows = [
        (run, r, "ticket", level, 0.5**level, 100, "barrier", "accuracy", value + more)
        for level, values in ((3, (0.01, 0.02, 0.03)), (1, (0.05, 0.05, 0.05)))
        for r, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=list(results.COLUMNS))


def test_a_probe_is_drawn_by_level_with_its_interval():
    ax = Figure().subplots()
    plot.against_level(measured(), ax, "barrier", "accuracy", percent=True, label="own")
    (line,) = ax.lines
    assert [*line.get_xdata()] == [1, 3]
    assert line.get_ydata() == pytest.approx([5, 2])
    places, low, high = edges(ax.collections[0])
    half = T2 * 1 / np.sqrt(3)
    assert places == [1, 3]
    assert low == pytest.approx([5, 2 - half])
    assert high == pytest.approx([5, 2 + half])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["own"]
    assert ax.get_ylabel() == "barrier accuracy (%)"
    plot.against_level(measured(more=1), ax, "barrier", "accuracy")
    assert ax.lines[1].get_ydata() == pytest.approx([1.05, 1.02])
    assert ax.lines[1].get_color() == plot.COLORS[1]


def test_runs_and_variants_have_lines_of_their_own_and_curves_their_ends():
    early = measured().assign(step=50, value=0.9)  # a curve's, before the end
    table = pd.concat([early, measured(), measured("other", 0.1)])
    fresh = measured().assign(variant="reinit", value=0.5)
    table = pd.concat([table, fresh], ignore_index=True)
    ax = plot.against_level(table, Figure().subplots(), "barrier", "accuracy")
    drawn = {line.get_label(): [*line.get_ydata()] for line in ax.lines}
    assert drawn == {
        "mine: ticket": pytest.approx([0.05, 0.02]),
        "mine: fresh initialisation": pytest.approx([0.5, 0.5]),
        "other: ticket": pytest.approx([0.15, 0.12]),
    }


def densities(count, halves):
    """A table of so many variants whose means are 1 % apart, of two replicates each."""
    rows = [
        ("r", i, f"v{v:02d}", level, 0.5**level, 10, split, metric, value)
        for v in range(count)
        for level in (1, 2)
        for i, sign in enumerate((-1, 1))
        for split, metric, value in (
            ("test", "accuracy", 0.5 + v / 100 + sign * halves),
            ("validation", "loss", 1.0),
        )
    ]
    return pd.DataFrame(rows, columns=list(results.COLUMNS))


def test_more_than_six_lines_are_told_apart_without_colour_too():
    ax = plot.accuracy(densities(14, 0.001), Figure().subplots())
    looks = [
        (line.get_color(), line.get_linestyle(), line.get_marker())
        for line in ax.lines
        if len(np.asarray(line.get_xdata())) == 2 and line.get_marker() != "None"
    ]
    looks = looks[:14]
    assert len(set(looks)) == 14
    assert len({color for color, _, _ in looks}) == 6
    for _, dash, marker in looks[:6]:
        assert (dash, marker) == ("-", "o")
    assert {look[1:] for look in looks[6:12]} == {("--", "s")}


@pytest.mark.parametrize("deviation", [0.0001, 0.02])
def test_the_axis_is_of_the_means_and_not_of_intervals_of_two(deviation):
    ax = plot.accuracy(densities(4, deviation), Figure().subplots())
    low, high = ax.get_ylim()
    # Means are 50 to 53 %. An interval of two is 12.7 times its standard error, which
    # is the deviation: 0.13 points, and 25.4.
    reach = min(12.706 * 100 * deviation, 1.5)
    margin = (3 + 2 * reach) / 20
    assert low == pytest.approx(50 - reach - margin, abs=1e-3)
    assert high == pytest.approx(53 + reach + margin, abs=1e-3)
