"""`lth export`: what it writes is loaded without `lth`, to the same outputs."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import lth
from lth import masks
from lth.cli import main
from lth.lab import shipping

# What someone writes who has NumPy, safetensors or JAX, and the card.
READER = """
import json, math, pathlib, sys
sys.modules["lth"] = None  # importing it fails
import numpy as np

folder = pathlib.Path(sys.argv[1])
held = np.load(folder / "case.npz")


def leaf(a, path):
    if path in a:
        return a[path] * a.get(f"{path}.scale", np.float32(1))
    shape = a[f"{path}.shape"]
    bits = np.unpackbits(a[f"{path}.bits"], count=math.prod(shape))
    whole = np.zeros(shape, np.float32)
    scale = a.get(f"{path}.scale", np.float32(1))
    whole[bits.astype(bool).reshape(shape)] = a[f"{path}.values"] * scale
    return whole


def outputs(a, pixels):
    x = pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(16)
    for layer in ("hidden_0", "hidden_1", "output"):
        kernel, bias = (leaf(a, f"params/{layer}/{n}") for n in ("kernel", "bias"))
        x = x @ kernel + bias
        x = x if layer == "output" else np.maximum(x, 0)
    return x


for path in sorted(folder.glob("*.npz")):
    if path.stem != "case":
        with np.load(path) as file:
            card = json.loads(str(file["card"]))
            found = outputs(dict(file), held["inputs"])
            np.savez(folder / f"found-{path.name}", y=found)
        print(path.stem, card["level"])
assert "jax" not in sys.modules
from safetensors import safe_open
from safetensors.numpy import load_file

for path in sorted(folder.glob("*.safetensors")):
    with safe_open(path, "numpy") as file:
        card = json.loads(file.metadata()["card"])
    found = outputs(load_file(path), held["inputs"])
    np.savez(folder / f"found-{path.name}.npz", y=found)
    print(path.stem, card["level"])
import jax.export

for path in sorted(folder.glob("*.stablehlo")):
    network = jax.export.deserialize(bytearray(path.read_bytes()))
    found = network.call(held["inputs"])
    np.savez(folder / f"found-{path.name}.npz", y=found)
    print(path.stem, json.loads(pathlib.Path(f"{path}.json").read_text())["level"])
"""
FILES = {  # name -> format and flags
    "a.npz": ("npz", {}),
    "b.npz": ("npz", {"form": "sparse"}),
    "c.npz": ("npz", {"kind": "int8"}),
    "d.npz": ("npz", {"form": "sparse", "kind": "int8"}),
    "e.safetensors": ("safetensors", {}),
    "f.safetensors": ("safetensors", {"form": "sparse"}),
    "g.stablehlo": ("stablehlo", {}),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = {"steps": "20it", "eval_every": "20it", "levels": 2, "replicates": 2}
    few = {"prune": {"rate": 0.6}, "model": {"widths": (30, 20)}}
    return lth.run("digits", runs=tmp_path_factory.mktemp("runs"), **settings, **few)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """All files of replicate 1 at level 2, and what the network says of some inputs."""
    path = tmp_path_factory.mktemp("files")
    for name, (format, flags) in FILES.items():
        flags = {"form": "dense", "kind": "float32"} | flags
        args = [f"--{n}={value}" for n, value in flags.items()]
        out = ["--format", format, "--out", str(path / name), "--replicate", "1"]
        assert main.command(["export", str(run.path), "--level", "2", *args, *out]) == 0
    ticket = run.ticket(2, replicate=1)
    pixels = next(iter(run.recipe().objective.examples())).inputs[:7]
    params = masks.apply(ticket.params, ticket.mask)
    apply = run.recipe().objective.apply
    outputs, _ = apply(params, ticket.stats, pixels, False, None)
    np.savez(path / "case.npz", inputs=pixels, outputs=outputs)
    return path


def test_others_load_them_to_the_same_outputs(folder):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", READER, str(folder)]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [f"{n.partition('.')[0]} 2" for n in FILES]
    outputs = np.load(folder / "case.npz")["outputs"]
    exact = np.load(folder / "found-a.npz")["y"]
    for name in FILES:
        suffix = "" if name.endswith(".npz") else ".npz"
        found = np.load(folder / f"found-{name}{suffix}")["y"]
        if name in ("c.npz", "d.npz"):  # int8: near, and not the same
            assert 0 < np.abs(found - outputs).max() < 0.1
        else:
            np.testing.assert_allclose(found, outputs, rtol=1e-5, atol=1e-5)
        if name in ("b.npz", "e.safetensors", "f.safetensors"):
            np.testing.assert_array_equal(found, exact)  # the same weights, bit for bit


def test_the_card_says_what_it_is(folder, run):
    card = json.loads((folder / "d.npz.json").read_text())
    rows = run.table[(run.table["level"] == 2) & (run.table["replicate"] == 1)]
    test = rows[(rows["split"] == "test") & (rows["metric"] == "accuracy")]
    assert card["metrics"]["test_accuracy"] == pytest.approx(
        float(test["value"].iloc[-1])
    )
    assert card["run"] == run.content["id"]
    assert (card["level"], card["replicate"], card["step"]) == (2, 1, 20)
    assert card["prunable"] == 64 * 30 + 30 * 20 + 20 * 10
    assert card["density"] == pytest.approx(card["kept"] / card["prunable"])
    assert card["density"] == pytest.approx(float(test["density"].iloc[-1]))
    assert card["bytes"]["file"] == (folder / "d.npz").stat().st_size
    assert card["bytes"]["raw"] == 4 * card["weights_in_all"]


def test_files_may_be_read_by_all(folder):
    umask = os.umask(0)
    os.umask(umask)
    for name in FILES:
        assert (folder / name).stat().st_mode & 0o777 == 0o666 & ~umask
    assert not list(folder.glob(".*"))


def test_early_weights_are_those_of_the_rewind_point(run, tmp_path):
    made = shipping.export(run, 2, "npz", weights="early", out=tmp_path / "e.npz")
    with np.load(made.path) as file:
        found = file["params/hidden_0/kernel"]
    keep = run.ticket(2, replicate=0).mask["hidden_0"]["kernel"]
    early = jax.tree.map(lambda x: x[0], run.early.params)["hidden_0"]["kernel"]
    np.testing.assert_array_equal(found, np.where(keep, early, 0))
    assert json.loads(made.card.read_text())["weights"] == "early"


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["--level", "9"], 2, "are 0, 1, 2; got 9"),
        (["--level", "1", "--replicate", "5"], 2, "replicate is one of 0, 1; got 5"),
        (["--level", "1", "--format", "stablehlo", "--form", "sparse"], 2, "is dense"),
        (["--level", "1", "--out", "."], 2, "is a folder"),
        (["--level", "1", "--out", "missing/x.npz"], 5, "cannot write missing/x"),
        (["--level", "1", "--variant", "reinit"], 5, "holds no branch reinit"),
    ],
)
def test_what_cannot_be_is_refused(
    run, args, code, told, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main.command(["export", str(run.path.resolve()), *args]) == code
    assert told in capsys.readouterr().err


def test_a_missing_package_is_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    args = ["export", str(run.path), "--level", "1", "--out", str(tmp_path / "x")]
    assert main.command(args) == 2
    assert "pip install 'lth[export]'" in capsys.readouterr().err
