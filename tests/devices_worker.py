"""What needs devices or processes of its own, run by test_devices.py.

    python -m tests.devices_worker many FOLDER         with eight host devices
    python -m tests.devices_worker joined I PORT FOLDER   one of two processes

Experiments are run under FOLDER; facts about them are printed as one line of JSON.
"""

import itertools
import json
import math
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lth import models
from lth.cli import main
from lth.data import folder as images
from lth.lab import config, devices, front
from lth.lab.build import assemble, networks
from lth.lab.config.presets import PRESETS
from lth.masks import topk

SMALL = replace(
    PRESETS["digits"].experiment,
    model=config.Model(widths=(8,)),
    optimizer=config.Optimizer(name="sgd", learning_rate=0.2, momentum=0.9),
    rewind=config.Rewind(to="2it"),
    batch_size=64,
    steps="8it",
    eval_every="4it",
    levels=1,
    replicates=2,
)
FLAGS = (
    "--model.widths 8 --optimizer.name sgd --optimizer.learning-rate 0.2 "
    "--optimizer.momentum 0.9 --rewind.to 2it --batch-size 64 --steps 8it "
    "--eval-every 4it --levels 1 --replicates 2"
)
CONTROLLED = replace(SMALL, replicates=3, controls="reinit,shuffle")
LEARNED = replace(
    SMALL,
    optimizer=config.Optimizer(),
    prune=config.Prune(),
    rewind=config.Rewind(),
    learn=config.Learn(method="bernoulli", optimizer=SMALL.optimizer),
    levels=0,
    replicates=3,
)
STREAMED = replace(
    SMALL,
    data=config.Data(
        name="images",
        size=16,
        validation=6,
        pixels="standard",
        augment="resized_crop_flip",
    ),
    model=config.Model(name="conv2", width=0.1),
    batch_size=8,
    replicates=1,
)


def paint(data: Path) -> None:
    """Write 36 images of three classes, told apart by their colour."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for (part, each), label in itertools.product({"train": 8, "val": 4}.items(), "rgb"):
        folder = data / "images" / part / label
        folder.mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 99, (20 + i, 24, 3), np.uint8)
            pixels[..., "rgb".index(label)] += 150
            Image.fromarray(pixels).save(folder / f"{i}.png")


class ConvNet(nn.Module):
    """As small as a convolution with batch norm can be."""

    @nn.compact
    def __call__(self, inputs, train):
        x = nn.Conv(4, (3, 3), name="conv")(inputs)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(10, name="output")(nn.relu(x).mean((1, 2)))


def start(
    e, preset, runs, *, data=None, over="replicates", watch=lambda progress: None
):
    """Run an experiment as the command does."""
    devices.use_cores(e.replicates)
    return front.train(assemble.build(e, data, over), preset, runs, watch=watch)


def run(e, folder, over="replicates", only=8):
    """The run's path, on the first `only` devices."""
    first = jax.devices()[:only]
    with mock.patch.object(jax, "devices", return_value=first):
        return str(start(e, "small", folder, over=over).path)


def many(folder):
    hits = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event.endswith("/cache_hits"))
    )
    dense = replace(CONTROLLED, levels=0)
    facts = {
        "devices": [devices.plan(r).mesh.size for r in (1, 3, 8, 9, 13)],
        "one": run(replace(CONTROLLED, replicates=8), folder / "one", only=1),
        "three": run(CONTROLLED, folder / "three"),
        "eight": run(replace(dense, replicates=8), folder / "eight"),
        "padded": run(dense, folder / "padded", only=2),
    }
    facts |= {
        "learned_one": run(LEARNED, folder / "learned_one", only=1),
        "learned_spread": run(LEARNED, folder / "learned_spread"),
        "learned_batch": run(LEARNED, folder / "learned_batch", over="batch"),
    }
    before = sum(hits)
    run(CONTROLLED, folder / "again")
    return facts | {"hits": sum(hits) - before} | batches(folder) | selected()


def selected():
    """Of a mask chosen among weights that lie on eight devices: its facts."""
    mesh = jax.sharding.Mesh(jax.devices(), ("weights",))
    place = jax.NamedSharding(mesh, jax.P("weights"))
    values = np.random.default_rng(0).integers(0, 2**18, (2**10, 2**10))
    whole = [np.float32(values)], [np.ones(values.shape, bool)]
    spread = jax.device_put(whole, place)
    (one,), *_ = topk.top(*whole, 2**18)
    (all_of,), *_ = topk.top(*spread, 2**18)
    program = topk.top.lower(*spread, 2**18).compile().as_text()
    found = re.findall(r"= \w+\[([\d,]+)\]\S* all-(?:gather|to-all)\(", program)
    return {
        "selected": bool((np.asarray(one) == np.asarray(all_of)).all()),
        "stays": all_of.sharding == place,
        "gathered": [math.prod(map(int, shape.split(","))) for shape in found],
    }


def batches(folder):
    e = replace(SMALL, replicates=1)
    net = models.from_linen(ConvNet(), (8, 8, 1))
    with mock.patch.object(networks, "network", return_value=net):
        facts = {
            "batch_one": run(e, folder / "batch_one", only=1),
            "batch_eight": run(e, folder / "batch_eight", over="batch"),
        }
    try:
        run(replace(SMALL, batch_size=60), folder / "refused", over="batch")
    except config.ConfigError as error:
        facts["refused"] = str(error)
    sample = devices.split_batch(devices.plan(1, "batch"), lambda *_: jnp.zeros((6, 1)))
    try:
        sample(None, 0, None)
    except ValueError as error:
        facts["not_split"] = str(error)
    return facts


def joined(process, port, folder):
    shared = f"--coordinator localhost:{port} --processes 2 --process {process}"
    runs = ["--runs", str(folder / "joined"), "--quiet"]
    facts = {
        "code": main.command(["run", "digits", *f"{FLAGS} {shared}".split(), *runs])
    }
    facts["processes"] = jax.process_count()
    facts["used"] = [d.process_index for d in devices.plan(2).mesh.devices]
    seen = []
    again = start(SMALL, "digits", folder / "joined", watch=seen.append)
    facts |= {"path": str(again.path), "trained_again": len(seen)}
    spread = start(SMALL, "digits", folder / "spread", over="batch")
    facts["spread"] = str(spread.path)
    facts |= streamed(folder)
    (folder / "file").touch()
    try:
        start(SMALL, "digits", folder / "file")
    except RuntimeError as error:
        facts["failure"] = f"{type(error).__name__}: {error}"
    return facts


def streamed(folder):
    """Runs on images that are read while training, and how many this process read."""
    facts = {}
    for over in ("replicates", "batch"):
        runs = folder / f"images-{over}"
        with mock.patch.object(images, "decode", side_effect=images.decode) as decode:
            run = start(STREAMED, "small", runs, data=folder / "data", over=over)
        facts[f"images_{over}"] = str(run.path)
        facts[f"read_{over}"] = decode.call_count
    return facts


def work():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if sys.argv[1] == "many":
            facts = many(Path(sys.argv[2]))
        else:
            facts = joined(int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    facts["donation"] = [str(w.message) for w in caught if "donat" in str(w.message)]
    print(json.dumps(facts))


if __name__ == "__main__":
    work()
