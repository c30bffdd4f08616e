"""The committed tables say what the studies and the README claim of them."""

from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import spearmanr

import lth
from lth import results

RESULTS = Path(lth.__file__).parents[1] / "experiments" / "results"


def table(name):
    return pd.read_csv(RESULTS / f"{name}.csv")


def test_validation_loss_has_its_minimum_near_95_percent_sparsity():
    found = table("overfitting_regression").set_index("run")
    ramp = found[found.index.str.startswith("0 to 960, ")]
    ramp.index = ramp.index.str.removeprefix("0 to 960, ").astype(float)
    validation, learned = ramp["end_validation"], ramp["end_learned"]
    best = validation.idxmin()
    assert 0.8 <= best < 0.99
    assert validation[best] <= 0.7 * validation[0]
    assert spearmanr(ramp.index, learned)[0] >= 0.9
    assert validation[0] >= 10 * learned[0]
    assert (found["end_ensemble"] < found["end_validation"]).all()
    late = found["end_validation"]
    assert late["fast, 780-800"] > late["slow, 0-800"]


def test_pruning_hardly_hurts_up_to_80_percent():
    found = table("gradual_pruning")
    dense = found[found["trial"] == "dense"]["accuracy"].item()
    assert dense >= 0.975
    constant = found[found["trial"].str.startswith("constant")]
    assert len(constant) == 4
    assert (constant["accuracy"] > dense - 0.01).all()


def test_sparse_and_large_beats_dense_and_small():
    found = table("gradual_pruning").pivot_table(
        index="density", columns="trial", values="accuracy"
    )
    both = found.dropna(subset=["during", "small and dense"])
    assert len(both) >= 4
    assert (both["during"] > both["small and dense"]).all()


def test_synflow_keeps_every_layer_where_others_lose_one():
    found = table("criteria_at_init").groupby(["criterion", "density"])["empty"].mean()
    assert (found["synflow"] == 0).all()
    assert found["magnitude"][0.001] >= 1
    assert found["snip, batch statistics"][0.001] >= 1


def test_gradients_grow_better_weights_than_chance_and_both_than_nothing():
    found = table("dynamic_sparsity").pivot_table(
        index="density", columns="method", values="accuracy"
    )
    for density in (0.1, 0.05):
        row = found.loc[density]
        assert row["RigL"] > row["SET"] > row["static"]
    assert (found["gradual"] > found["RigL"])[:3].all()


@pytest.mark.parametrize("rewound", ["reshuffled, signs kept", "signed constant"])
def test_signs_are_what_matters_of_an_initial_weight(rewound):
    found = table("zhou_criteria")
    gain = found.set_index(["name", "level"])["gain"]
    worst = gain[rewound].min()
    assert worst > -0.01
    assert gain["reshuffled"].min() < worst - 0.01


def test_rescaling_brings_a_learned_mask_to_95_percent():
    found = table("supermask").set_index("network")
    accuracy = found["accuracy"]
    assert (found["before"] < 0.2).all()
    assert accuracy["mask"] > 0.9
    assert accuracy[["mask, rescaled", "mask, both"]].min() > 0.95
    assert accuracy["edge-popup, signed constants"] > 0.97
    assert accuracy.idxmax() == "trained weights"


def test_edge_popup_is_best_in_the_middle_and_better_in_wider_networks():
    found = table("edge_popup")
    learned = found[found["method"] == "edge-popup"]
    by_keep = learned[learned["width"] == 1].set_index("keep")["accuracy"]
    assert 0.2 <= by_keep.idxmax() <= 0.6
    assert by_keep.max() > by_keep[[0.1, 0.9]].max() + 2
    by_width = learned[learned["keep"] == 0.5].sort_values("width")["accuracy"]
    assert by_width.is_monotonic_increasing
    tried = found[found["method"].isin(["random search", "hill climbing"])]
    assert (tried["accuracy"] < 40).all()


def test_movement_beats_magnitude_only_where_weights_learn_slowly():
    found = table("movement").set_index(["rate", "method", "target"])["gain"]
    found = found.sort_index()
    assert (found[1e-4, "hard"][[0.1, 0.05, 0.03]] > 2).all()
    assert (found[1e-3, "hard"].abs() < 0.5).all()


def test_twenty_tasks_in_one_network_and_none_forgotten():
    found = table("superposition")
    permuted = found[(found["problem"] == "permuted") & (found["outputs"] == 100)]
    given = permuted.set_index("metric")["mean"]
    assert permuted["tasks"].max() == 20
    assert given["right after"] == given["after all"] > 0.94
    tasks = permuted[permuted["metric"] == "task"]
    assert (tasks["mean"] > 0.9).all()
    forgets = found[found["network"] == "trained in turn"].set_index(
        ["problem", "metric"]
    )["mean"]
    assert forgets["permuted", "after all"] < 0.5


def test_learned_masks_are_not_the_pruned_ones():
    found = table("learned_or_pruned").set_index(["density", "mask"])
    popup = found.xs("edge-popup", level="mask")
    assert (popup["with pruned"] - popup["by chance"]).abs().max() < 0.05
    assert popup.loc[[0.5, 0.2], "untrained"].min() > 95
    pruned = found.xs("pruned", level="mask")
    assert (pruned["untrained"] < 80).all()
    assert (pruned["trained"] > popup["trained"]).all()


def test_a_metric_of_ones_own_is_compared_by_if_there_is_no_other():
    rows = [
        ("a", 0, "ticket", 0, 1.0, 5, split, metric, 0.5)
        for split in ("train", "test")
        for metric in ("loss", "hits", "misses")
    ]
    table = pd.DataFrame(rows, columns=list(results.COLUMNS))
    assert results.score(table) == "hits"
    assert results.score(pd.concat([table, table.assign(metric="r2")])) == "r2"
    with pytest.raises(ValueError, match="no measure: they have none"):
        results.score(table[table["metric"] == "loss"])
