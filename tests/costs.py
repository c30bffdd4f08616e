"""What each test costs, and which of them `make test` leaves to `make test-all`.

    python -m pytest -p tests.costs        # writes what it measures to costs.csv
    python -m tests.costs costs.csv        # chooses, and writes tests/long.txt

The first test that needs something compiled pays for all that share it. So measure
twice, all tests and then those that are left, with `-m "not long"`, where the next one
pays: a test that is listed and was not measured stays long.

The processor's time is told, of a test and of the processes that it starts, so that
what else the machine does counts little. A test is long where it takes more than
`ONE` seconds; of one with many parameters the cheapest are kept, for `EACH` seconds
together, so that no function is left out whole for being asked often.
"""

import csv
import resource
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

LONG = Path(__file__).parent / "long.txt"
ONE, EACH = 2.0, 4.0
# Long as a whole: what their tests share costs most, whichever of them comes first.
SHARED = (
    "tests/test_devices.py",
    "tests/test_random_networks.py",
    "tests/test_ranking.py::test_every_criterion_scope_and_structure",
)
LITTLE = 0.6  # seconds, for which no test is left out
# Slow, and never left out all the same: what the README says, bits, and a kind stop.
ALWAYS = (
    "tests/test_readme.py",
    "tests/test_golden.py::test_the_bits_are_the_ones_recorded[digits]",
    "tests/test_cli.py::test_signals_end_a_run_cleanly[15]",
)


def spent() -> float:
    """Return the seconds of the processor, of this process and those that it ended."""
    each = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(who) for who in each]
    return sum(u.ru_utime + u.ru_stime for u in used)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Append what a test took to the file."""
    before = spent()
    result = yield
    with (item.config.rootpath / "costs.csv").open("a", newline="") as file:
        csv.writer(file).writerow([item.nodeid, round(spent() - before, 2)])
    return result


def chosen(costs: Mapping[str, float], always: Iterable[str] = ALWAYS) -> list[str]:
    """Return the tests that are long, in the order of the file.

    Args:
      costs: Seconds, by the id of a test.
      always: What ids begin with that are never long.
    """
    functions = defaultdict(list)
    for test in costs:
        functions[test.partition("[")[0]].append(test)
    kept = set()
    for tests in functions.values():
        left = EACH
        for test in sorted(tests, key=costs.__getitem__):
            left -= costs[test]
            if costs[test] <= (ONE if left >= 0 else LITTLE):
                kept.add(test)
    kept |= {test for test in costs if test.startswith(tuple(always))}
    return [test for test in costs if test not in kept]


def main(path: str) -> None:
    """Read what was measured, and write which tests are long."""
    with open(path, newline="") as file:
        costs = {test: float(seconds) for test, seconds in csv.reader(file)}
    found = chosen(costs)
    long = {*found, *LONG.read_text().split("\n")} - {""}
    long -= costs.keys() - {*found}
    LONG.write_text("".join(f"{test}\n" for test in sorted(long)))
    left = sum(costs.values()) - sum(costs[test] for test in found)
    print(f"{len(long)} tests are long; of those measured the others take {left:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1])
