"""In what levels to come differ from those that OpenLTH would train, in sentences."""

from lth.lab.config.openlth.groups import Groups


def of_data(groups: Groups, held: int, examples: int) -> list[str]:
    """Say what differs of the data; `held` of `examples` are held out."""
    data, training = groups["Dataset"], groups["Training"]
    seed = training.get("data_order_seed")
    drawn = f"by the seed {seed}" if seed else "by no seed"
    told = [
        f"The order of the data: OpenLTH had PyTorch draw it, {drawn}; levels to come "
        "see the batches that a replicate of lth draws by its number. The last short "
        "batch of an epoch is filled from the next one.",
        f"Training examples: OpenLTH learned all {examples}; for "
        f"levels to come {held} are held out, which the imported weights and masks "
        "have seen.",
    ]
    if data["dataset_name"] == "cifar10" and not data.get("do_not_augment"):
        told.append(
            "Augmentation: the same flips and crops by 4 pixels, drawn by lth, not by "
            "PyTorch."
        )
    return told


def of_training(groups: Groups, ignored: tuple[str, ...], to: int) -> list[str]:
    """Say what differs of weights, masks and trainings, rewound to step `to`."""
    model, training = groups["Model"], groups["Training"]
    told = [
        "Replicates: OpenLTH drew initial weights by no seed; they are taken from its "
        "files, so no replicate can be added. Branches that draw anew, such as reinit, "
        "have biases of 0, which PyTorch draws."
    ]
    if model["model_init"] == "binary":
        told.append("They draw signs times a constant, not times a sample's deviation.")
    if ignored:
        told.append(
            f"Densities: shares of the weights that may be pruned, without those of "
            f"{', '.join(ignored)}, which OpenLTH counts. Levels to come keep as many "
            "as its rule would, also its one too few a level."
        )
    else:
        told.append(
            "Densities: levels to come keep as many as OpenLTH's rule would, also its "
            "one too few a level."
        )
    if training["optimizer_name"] == "adam" or training.get("momentum"):
        told.append(
            "Moments: OpenLTH keeps none at the end of a training; a branch that goes "
            "on from there begins with moments of 0"
            + (
                ", as each level does at the rewind point, here and there."
                if to
                else "."
            )
        )
    if not model["model_name"].startswith("mnist_lenet"):
        told.append(
            "Batch norm: averages take the variance of a batch as it is, PyTorch's "
            "times n / (n - 1)."
        )
    if training.get("apex_fp16"):
        told.append("Precision: OpenLTH trained in float16 (Apex), lth in float32.")
    return told
