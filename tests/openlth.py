"""A run directory as OpenLTH writes it, made without PyTorch: small, and honest.

Weights are drawn and never trained; masks come from OpenLTH's rule, restated here; and
the loggers hold the scores of PyTorch's network, restated in NumPy, on test images.
"""

import json
import math
import struct
import zipfile
from pathlib import Path

import numpy as np

from tests.test_known_data import write_idx

HEAD = b"\x80\x02"
LEGACY = 0x1950A86A20F9469CFC6C
SHAPES = {  # of mnist_lenet_12_8
    "fc_layers.0": (12, 784),
    "fc_layers.1": (8, 12),
    "fc": (10, 8),
}
KINDS = {"f": "torch FloatStorage", "i": "torch IntStorage"}
HPARAMS = """\
Dataset Hyperparameters
    * dataset_name => mnist
    * batch_size => 32
Model Hyperparameters
    * model_name => mnist_lenet_12_8
    * model_init => kaiming_normal
    * batchnorm_init => uniform
Pruning Hyperparameters
    * pruning_strategy => sparse_global
    * pruning_fraction => 0.2
    * pruning_layers_to_ignore => fc.weight
Training Hyperparameters
    * optimizer_name => sgd
    * lr => 0.1
    * training_steps => 8it"""
REWOUND = f"""{HPARAMS}
    * momentum => 0.9
Pretraining Dataset Hyperparameters
    * dataset_name => mnist
    * batch_size => 32
Pretraining Training Hyperparameters
    * optimizer_name => sgd
    * lr => 0.1
    * training_steps => 3it
    * momentum => 0.9"""


def word(text: str) -> bytes:
    body = text.encode()
    return b"X" + struct.pack("<I", len(body)) + body


def number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


def name(text: str) -> bytes:
    return b"c" + text.replace(" ", "\n").encode() + b"\n"


def numbers(values) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def described(key: str, array: np.ndarray, *, legacy: bool = False) -> bytes:
    """The instructions of a tensor that is a whole storage."""
    strides = [s // array.itemsize for s in array.strides]
    kind = KINDS[array.dtype.kind]
    parts = [word("storage"), name(kind), word(key), word("cpu"), number(array.size)]
    storage = b"(" + b"".join(parts) + b"N" * legacy + b"tQ"
    hooks = name("collections OrderedDict") + b")R"
    view = number(0) + numbers(array.shape) + numbers(strides) + b"\x89" + hooks
    return name("torch._utils _rebuild_tensor_v2") + b"(" + storage + view + b"tR"


def pickled(tensors, *, legacy: bool = False) -> bytes:
    items = [
        word(key) + described(str(i), array, legacy=legacy)
        for i, (key, array) in enumerate(tensors.items())
    ]
    return HEAD + b"}(" + b"".join(items) + b"u."


def save(path: Path, tensors) -> None:
    """Write the archive that `torch.save` writes of a dict of tensors."""
    archive(path, pickled(tensors), [a.tobytes() for a in tensors.values()])


def archive(path: Path, body: bytes, storages, compression=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as members:
        members.writestr("model/data.pkl", body)
        members.writestr("model/byteorder", "little")
        for i, storage in enumerate(storages):
            members.writestr(f"model/data/{i}", storage)


def save_legacy(path: Path, tensors) -> None:
    """Write the file that `torch.save` wrote before PyTorch 1.6."""
    magic = LEGACY.to_bytes(10, "little")
    system = word("little_endian") + b"\x88"
    keys = b"".join(word(str(i)) for i in range(len(tensors)))
    parts = [
        HEAD + b"\x8a\x0a" + magic + b".",
        HEAD + number(1001) + b".",
        HEAD + b"}(" + system + b"u.",
        pickled(tensors, legacy=True),
        HEAD + b"](" + keys + b"e.",
    ]
    for array in tensors.values():
        parts.append(struct.pack("<q", array.size) + array.tobytes())
    path.write_bytes(b"".join(parts))


def drawn(rng) -> dict[str, np.ndarray]:
    """Weights and biases of the network."""
    return {
        f"{module}.{leaf}": (rng.normal(size=shape[:n]) / math.sqrt(shape[1])).astype(
            np.float32
        )
        for module, shape in SHAPES.items()
        for leaf, n in (("weight", 2), ("bias", 1))
    }


def pruned(weights, mask, fraction=0.2, ignored=("fc.weight",)):
    """The next mask by OpenLTH's rule: at most one weight too many goes."""
    left = sum(int(m.sum()) for m in mask.values())
    names = [n for n in mask if n not in ignored]
    alive = np.concatenate([np.abs(weights[n])[mask[n] == 1] for n in names])
    cut = np.sort(alive)[math.ceil(fraction * left)]
    new = {n: (np.abs(weights[n]) > cut) * mask[n] for n in names}
    return {n: new.get(n, mask[n]).astype(np.int32) for n in mask}


def accuracy(weights, images, labels) -> float:
    """The test accuracy of PyTorch's network, in NumPy."""
    x = (images.reshape(len(images), -1) / 255 - 0.1307) / 0.3081
    for module in SHAPES:
        x = x @ weights[f"{module}.weight"].T.astype(float)
        x = x + weights[f"{module}.bias"]
        x = x if module == "fc" else np.maximum(x, 0)
    return float((x.argmax(1) == labels).mean())


def data(folder: Path, *, train: int = 200, test: int = 50):
    """Write small IDX files in the place of MNIST's; return the test examples."""
    rng, place = np.random.default_rng(5), folder / "mnist"
    place.mkdir(parents=True)
    images = labels = np.zeros(0, np.uint8)
    for split, count in (("train", train), ("t10k", test)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(place / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(place / f"{split}-labels-idx1-ubyte.gz", labels)
    return images, labels


def write(folder: Path, images, labels, *, levels=2, replicates=2, rewound=False):
    """Write a run; return the masks by replicate and level."""
    start, end = (f"model_ep0_it{n}.pth" for n in (3 * rewound, 8))
    masks: dict[tuple[int, int], dict] = {}
    for replicate in range(1, replicates + 1):
        rng = np.random.default_rng(replicate)
        home = folder / f"replicate_{replicate}"
        early = drawn(rng)
        mask = {f"{m}.weight": np.ones(s, np.int32) for m, s in SHAPES.items()}
        if rewound:
            main = home / "level_pretrain" / "main"
            main.mkdir(parents=True)
            save(main / "model_ep0_it0.pth", drawn(rng))
        for level in range(levels + 1):
            main = home / f"level_{level}" / "main"
            main.mkdir(parents=True)
            late = {k: v + rng.normal(size=v.shape) / 20 for k, v in early.items()}
            late = {k: (v * mask.get(k, 1)).astype(np.float32) for k, v in late.items()}
            begin = {k: v * mask.get(k, np.int32(1)) for k, v in early.items()}
            save(main / start, {k: v.astype(np.float32) for k, v in begin.items()})
            (save if level else save_legacy)(main / end, late)
            save(main / "mask.pth", mask)
            kept = sum(int(m.sum()) for m in mask.values())
            total = sum(m.size for m in mask.values())
            told = json.dumps({"total": float(total), "unpruned": float(kept)})
            (main / "sparsity_report.json").write_text(told)
            lines = [
                f"test_{what},{at},{value}"
                for at, value in (
                    (3 * rewound, 0.125),
                    (8, accuracy(late, images, labels)),
                )
                for what in ("loss", "accuracy")
            ]
            (main / "logger").write_text("\n".join([*lines, "test_examples,8,50.0"]))
            masks[replicate, level] = mask
            mask = pruned(late, mask)
        text = REWOUND if rewound else HPARAMS
        (home / "level_0" / "main" / "hparams.log").write_text(text)
    return masks
