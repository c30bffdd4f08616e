"""What a report says of how a run was pruned."""

from dataclasses import replace

import pytest

import lth
from lth.cli import report
from lth.lab import config
from lth.lab.config.presets import PRESETS
from tests.conftest import start

SMALL = replace(
    PRESETS["digits"].experiment,
    model=config.Model(widths=(8,)),
    prune=config.Prune(structure="filter", scope="layer", rate=0.5, exclude="output"),
    rewind=config.Rewind(to="5it"),
    steps="20it",
    eval_every="20it",
    levels=1,
    replicates=1,
)

SENTENCE = "its bias and its normalisation live on where they are not 0"


@pytest.fixture(scope="module")
def filters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return lth.open_run(start(SMALL, "filters", folder).path)


def test_a_pruned_filter_leaves_its_bias_alive_and_the_report_says_so(filters):
    ticket = filters.ticket(1)
    kernel, bias = (ticket.params["hidden_0"][name][0] for name in ("kernel", "bias"))
    removed = (kernel == 0).all(0)
    assert removed.sum() == 4
    assert (bias[removed] != 0).any()
    page = report.write([filters], filters.path / "report.html").read_text()
    assert f"Of each filter only weights in kernels are pruned: {SENTENCE}" in page


def test_a_report_of_single_weights_says_nothing_of_filters(tmp_path):
    e = replace(SMALL, prune=config.Prune(), levels=0)
    run = lth.open_run(start(e, "weights", tmp_path).path)
    assert SENTENCE not in report.write([run], tmp_path / "page.html").read_text()
