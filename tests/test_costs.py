"""Which tests are long: those that cost most, and none that is no more."""

from pathlib import Path

from tests import costs

ROOT = Path(__file__).parents[1]


def test_what_costs_most_is_long_and_each_function_keeps_what_is_cheap():
    found = {
        "a.py::plain": 1.9,
        "a.py::slow": 2.1,
        "a.py::many[1]": 1.8,
        "a.py::many[2]": 1.5,
        "a.py::many[3]": 1.9,  # more than 4 s with the cheaper ones
        "a.py::many[4]": 0.5,
        "a.py::tiny[1]": 0.5,
        "b.py::always": 50.0,
    }
    assert costs.chosen(found, ["b.py"]) == ["a.py::slow", "a.py::many[3]"]
    found |= {f"a.py::tiny[{i}]": 0.5 for i in range(100)}
    assert not [test for test in costs.chosen(found) if "tiny" in test]


def test_what_is_called_long_is_there():
    long = costs.LONG.read_text().splitlines()
    assert len(long) > 100
    for test in long:
        file, function = test.partition("[")[0].split("::")
        assert f"def {function}(" in (ROOT / file).read_text(), test


def test_what_is_always_asked_for_is_not_long():
    long = set(costs.LONG.read_text().splitlines())
    for kept in costs.ALWAYS:
        assert not [test for test in long if test.startswith(kept)]
