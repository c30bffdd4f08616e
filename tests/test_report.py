"""What a report says of how a run was pruned."""

from dataclasses import replace

import lth
from lth import results
from lth.cli import report
from lth.lab import config
from lth.lab.config.presets import PRESETS
from tests.conftest import start

SMALL = replace(
    PRESETS["digits"].experiment,
    model=config.Model(widths=(8,)),
    rewind=config.Rewind(to="5it"),
    steps="20it",
    eval_every="20it",
    levels=1,
    replicates=1,
)

SENTENCE = "its bias and its normalisation live on where they are not 0"


def test_a_report_of_single_weights_says_nothing_of_filters(tmp_path):
    e = replace(SMALL, prune=config.Prune(), levels=0)
    run = lth.open_run(start(e, "weights", tmp_path).path)
    assert SENTENCE not in report.write([run], tmp_path / "page.html").read_text()


def test_the_cost_of_the_search_stands_beside_its_gain(tmp_path):
    changes = {"levels": 2, "replicates": 2, "steps": "8it", "eval_every": "8it"}
    run = lth.run("digits", runs=tmp_path, controls=("reinit",), **changes)
    costs = run.costs().set_index(["variant", "level"])
    assert [*costs.index] == [
        *(("ticket", level) for level in (0, 1, 2)),
        *(("reinit", level) for level in (1, 2)),
    ]
    assert (costs["steps"] == 8).all()
    assert (costs["seconds"] > 0).all()
    ends = results.final(run.table[run.table["variant"] == "ticket"])
    by_level = ends.pivot(index="replicate", columns="level")["value"]
    gains = 100 * (by_level[2] - by_level[0])
    wanted = results.around(*results.interval(gains))
    text = report.write([run], tmp_path / "r.html").read_text()
    seconds = costs["seconds"]["ticket", 2]
    row = f"<td>2</td><td>8</td><td>3.00</td><td>{seconds:.1f}</td>"
    assert f"{row}<td>{wanted}</td>" in text
