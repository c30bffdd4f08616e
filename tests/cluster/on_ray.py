"""A sweep on a real Ray cluster of two nodes, of which workers and a node are killed.

    python tests/cluster/on_ray.py

Starts a head and a second node of one core each on this machine, kills the process of a
task (SIGKILL) and then the second node with all that is on it: the sweep is done, with
the bits of a serial one. It takes two minutes on two cores. Exit code 77 says what is
missing here.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import lth
from lth.lab import store
from tests import sweeps


def disturb(cluster, node, folder: Path, told: list[str]) -> None:
    """Kill a process that trains, then the second node."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        held = [store.holder(path.parent) for path in folder.glob("*/lock")]
        if any(held):
            break
        time.sleep(0.1)
    for holder in filter(None, held):
        os.kill(int(holder.split()[1]), signal.SIGKILL)
        told.append("killed")
        break
    time.sleep(4.0)
    cluster.remove_node(node, allow_graceful=False)
    told.append("node gone")


def main() -> int:
    """Sweep, disturb, compare; the exit code."""
    try:
        import ray
        from ray.cluster_utils import Cluster
    except ImportError:
        print("not run: ray not there")
        return 77
    root = str(Path(lth.__file__).parents[1])
    os.environ["PYTHONPATH"] = f"{root}:{os.environ.get('PYTHONPATH', '')}"
    cells = sweeps.grid(0, 2, 4)
    with tempfile.TemporaryDirectory(prefix="lth-ray-") as name:
        folder, told = Path(name), []
        try:
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
            node = cluster.add_node(num_cpus=1)
            ray.init(address=cluster.address, log_to_driver=False)
        except Exception as error:
            print(f"not run: Ray does not start here: {error}")
            return 77
        args = (cluster, node, folder / "ray", told)
        thread = threading.Thread(target=disturb, args=args)
        thread.start()
        try:
            runs = lth.sweep(cells, folder / "ray", submit=lth.lab.ray(num_cpus=1))
            thread.join()
        finally:
            ray.shutdown()
            cluster.shutdown()
        assert told == ["killed", "node gone"], told
        others = lth.sweep(cells, folder / "serial")
        wrong = {c: sweeps.differences(runs[c], others[c]) for c in cells}
        wrong = {cell: what for cell, what in wrong.items() if what}
        if wrong:
            print(f"not the bits of a serial sweep: {wrong}")
            return 1
        print(f"{', '.join(told)}: {len(runs)} cells, with the bits of a serial sweep")
    return 0


if __name__ == "__main__":
    sys.exit(main())
