"""Two hosts share a folder, and one is cut off: how soon the other says so and ends.

    python experiments/bench/two_hosts.py

The hosts are two network namespaces of this machine, joined by a virtual cable, so this
needs root and `ip`. One run is started in both; once level 0 is under way the cable is
cut. Both must end in under a minute, in words; the same command, on a cable that is
whole, must go on to the bits of a run of one process.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lth.lab import store

HOSTS = {"lth-a": "10.77.0.1", "lth-b": "10.77.0.2"}
RUN = "run digits --steps 3000it --eval-every 300it --levels 1 --replicates 2 --quiet"
FLAGS = "--save-every 5s --coordinator 10.77.0.1:34567 --processes 2 --process"
PATIENCE = 60.0  # seconds that the other may take


def ip(command: str, check: bool = True) -> None:
    subprocess.run(["ip", *command.split()], check=check, capture_output=not check)


def join_hosts() -> None:
    """Lay the cable."""
    for host, address in HOSTS.items():
        ip(f"netns add {host}")
        # Processes find each other by the address of their host's name.
        names = Path("/etc/netns") / host / "hosts"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
    ip("link add lth-va type veth peer name lth-vb")
    for (host, address), end in zip(HOSTS.items(), "ab", strict=True):
        ip(f"link set lth-v{end} netns {host}")
        ip(f"-n {host} addr add {address}/24 dev lth-v{end}")
        ip(f"-n {host} link set lth-v{end} up")
        ip(f"-n {host} link set lo up")


def start(host: str, number: int, runs: Path) -> subprocess.Popen:
    command = ["ip", "netns", "exec", host, sys.executable, "-m", "lth", *RUN.split()]
    command += [*FLAGS.split(), str(number), "--runs", str(runs)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def under_way(runs: Path) -> bool:
    return any(runs.glob("*/tickets/early"))


def cut_and_wait(runs: Path) -> None:
    """Cut the cable in midst of the run, and see both end."""
    both = [start(host, i, runs) for i, host in enumerate(HOSTS)]
    while not under_way(runs):
        if any(process.poll() is not None for process in both):
            sys.exit("it ended too soon: " + str([p.communicate() for p in both]))
        time.sleep(0.1)
    time.sleep(2)
    ip("-n lth-b link set lth-vb down")
    began = time.monotonic()
    for host, process in zip(HOSTS, both, strict=True):
        try:
            _, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            sys.exit(f"{host} still runs after {PATIENCE:.0f} s")
        spent, words = time.monotonic() - began, err.strip().splitlines()
        told = [line for line in words if "lth:" in line] or words[:1]
        code = process.returncode
        print(f"{host}: code {code} after {spent:.0f} s; {told[-1][:300]}")
        if not process.returncode:
            sys.exit("it ended as if all was well")


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    with tempfile.TemporaryDirectory() as folder:
        runs, alone = Path(folder) / "runs", Path(folder) / "alone"
        join_hosts()
        try:
            cut_and_wait(runs)
            ip("-n lth-b link set lth-vb up")
            both = [start(host, i, runs) for i, host in enumerate(HOSTS)]
            codes = [process.wait() for process in both]
            if any(codes):
                sys.exit("the run does not go on")
        finally:
            for host in HOSTS:
                ip(f"netns del {host}", check=False)
                shutil.rmtree(Path("/etc/netns") / host, ignore_errors=True)
        one = [sys.executable, "-m", "lth", *RUN.split(), "--runs", str(alone)]
        subprocess.run(one, check=True, stdout=subprocess.DEVNULL)
        if store.contents(runs) != store.contents(alone):
            sys.exit("the bits differ from those of one process")
    print("the run went on to the bits of one process")


if __name__ == "__main__":
    main()
