"""The table of claims is what its rows give, and every study has rows."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def claims():
    spec = importlib.util.spec_from_file_location("claims", EXPERIMENTS / "claims.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_rows_give(claims, tmp_path):
    assert (EXPERIMENTS / "README.md").read_text() == claims.text()
    script = [sys.executable, str(EXPERIMENTS / "claims.py"), "--check"]
    assert subprocess.run(script, check=False).returncode == 0


def test_every_study_has_rows_and_every_row_a_study(claims):
    table = claims.rows()
    studies = {
        path.stem
        for path in EXPERIMENTS.glob("*.py")
        if "study.main(" in path.read_text()
    }
    assert len(studies) > 15
    assert set(table["study"]) == studies
    assert len(table) >= 40


def test_rows_are_whole(claims):
    table = claims.rows()
    assert set(table["verdict"]) <= set(claims.VERDICTS)
    assert (table["verdict"] != "holds").any()  # failures are among them
    assert (pd.to_numeric(table["n"]) >= 2).all()
    assert (pd.to_numeric(table["minutes"]) > 0).all()
    for _, row in table.iterrows():
        assert row["claim"], row
        assert re.search(r"\d", row["ours"]), row["ours"]
        assert row["command"].startswith(f"python experiments/{row['study']}.py")
