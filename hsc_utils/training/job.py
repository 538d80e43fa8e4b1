"""Train one model: settle its configuration, fit, predict, score, and write the run directory."""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from hsc_utils import metrics, paper
from hsc_utils.files import from_root, shown_path, write_json
from hsc_utils.provenance import write_provenance
from hsc_utils.training import batches
from hsc_utils.training.fit import AUGMENTATION, best_model, device_name, fit, predict
from hsc_utils.training.models import starting_weights

SUBSETS = ("train", "validation", "test")
IMBALANCE = ("weights", "sampler", "none")
NORMALISATION = ("training", "imagenet")


@dataclass(frozen=True)
class TrainingSettings:
    """How one model is trained; the paper's values stand in ``workflow/config/paper.yaml``.

    Attributes
    ----------
    architecture : str
        Backbone, see `models.build_model`.
    weights : str
        ``imagenet``, ``none``, a path, or ``auto`` (see `weights.starting_weights`).
    seed : int
        Seed of the head, the order of samples and the augmentation.
    channels : tuple of int
        RGB channels (slices) the model sees.
    input_size : int
        Side of the model's input, in pixels.
    batch_size, max_epochs : int
        Samples a step, and the most epochs.
    patience : int
        Epochs without a lower validation loss after which training stops.
    learning_rate : float
        Adam's, constant.
    imbalance : str
        ``weights``: classes weighted in the loss by inverse frequency; ``sampler``: classes
        drawn equally often; ``none``.
    normalisation : str
        ``training``: mean and spread of the training subset; ``imagenet``: ImageNet's.
    flip, translation, rotation, scaling : float
        Ranges of the augmentation, see `augmentation.augment`.
    """

    architecture: str
    weights: str
    input_size: int
    batch_size: int
    max_epochs: int
    patience: int
    learning_rate: float
    seed: int = 0
    channels: tuple[int, ...] = (0, 1, 2)
    imbalance: str = "weights"
    normalisation: str = "training"
    flip: float = 0.5
    translation: float = 0.1
    rotation: float = 90.0
    scaling: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("input_size", "batch_size", "max_epochs", "patience", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not above 0.")
        for name, allowed in (("imbalance", IMBALANCE), ("normalisation", NORMALISATION)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} is not one of {', '.join(allowed)}."
                )
        if not self.channels or not set(self.channels) <= {0, 1, 2}:
            raise ValueError(
                f"channels: {list(self.channels)} must name one to three of 0 (red), 1 (green) "
                "and 2 (blue)."
            )

    def augmentation(self) -> dict[str, float]:
        """Return the ranges that `augmentation.augment` takes."""
        return {name: getattr(self, name) for name in AUGMENTATION}


def train(
    table: pd.DataFrame,
    arrays: np.ndarray,
    run_dir: str | Path,
    settings: TrainingSettings,
    *,
    inputs: Sequence[str | Path] = (),
) -> Path:
    """Train a model and write its run directory; find finished work, resume unfinished work.

    A directory that was finished with the same settings on the same samples is left as it
    is; one that was interrupted continues after its last whole epoch; anything else is
    begun anew.

    Parameters
    ----------
    table : DataFrame
        ``images.csv`` or ``cells.csv``: ``image_id``, ``class``, ``split``, ``simulated``, and
        for cells ``cell_id`` and ``row``.
    arrays : uint8 (N, H, W, 3)
        Patches by ``row``; images in the order of `table`.
    run_dir : path
        See `provenance.run_directory`.
    settings : TrainingSettings
        Everything that decides the result.
    inputs : sequence of path
        Files the samples came from, for the record.

    Returns
    -------
    Path
        The run directory, anchored at the repository root.

    Raises
    ------
    ValueError
        If a subset or a class has no training sample, or the loss is not finite.
    MemoryError
        If a batch does not fit; the message says which parameter to lower.
    """
    directory = from_root(run_dir)
    samples = _samples(table)
    config = _config(samples, arrays, settings)
    if is_finished(directory, config):
        print(f"{shown_path(directory)}: finished earlier, nothing to do")
        return directory
    _prepare(directory, config)
    started = time.perf_counter()
    fit(samples, arrays, directory, config)
    model = best_model(directory, config)
    predictions = predict(model, samples, arrays, config)
    class_names = config["class_names"]
    save_file(
        {name: tensor.contiguous() for name, tensor in model.cpu().state_dict().items()},
        directory / "model.safetensors",
        metadata={"config": json.dumps(config)},
    )
    predictions.to_parquet(directory / "predictions.parquet", index=False)
    write_json(directory / "metrics.json", score_predictions(predictions, class_names))
    shutil.rmtree(directory / "checkpoints")
    write_provenance(
        directory,
        parameters=config,
        inputs=inputs,
        seconds=time.perf_counter() - started,
        seed=settings.seed,
        device=device_name(),
        weights=config["weights_used"],
        simulated=bool(samples["simulated"].any()),
    )
    return directory


def score_predictions(predictions: pd.DataFrame, class_names: Sequence[str]) -> dict:
    """Score every subset of a table of predictions, with 95 % intervals over images for the test.

    Returns
    -------
    dict
        `metrics.score` by subset; the test's also holds ``intervals``, ``[low, high]`` by score.
    """
    scores = {}
    for subset in SUBSETS:
        chosen = predictions[predictions["split"] == subset]
        if chosen.empty:
            continue
        arguments = (chosen["class"], metrics.probability_matrix(chosen, class_names), class_names)
        scores[subset] = metrics.score(*arguments)
        if subset == "test":
            scores[subset]["intervals"] = metrics.intervals(*arguments, chosen["image_id"])
    return scores


def is_finished(run_dir: str | Path, config: dict) -> bool:
    """Tell whether a run directory holds everything, made with this very configuration."""
    directory = from_root(run_dir)
    return (directory / "provenance.json").exists() and _stored_config(directory) == config


def _samples(table: pd.DataFrame) -> pd.DataFrame:
    """Bring images or cells to one form: id, image_id, class, split, row, simulated."""
    level = "cell" if "cell_id" in table else "image"
    samples = pd.DataFrame(
        {
            "id": table[f"{level}_id"],
            **{name: table[name] for name in ("image_id", "class", "split", "simulated")},
            "row": table["row"] if level == "cell" else np.arange(len(table)),
        }
    ).reset_index(drop=True)
    samples.attrs["level"] = level
    trained = samples[samples["split"] == "train"]
    untrained = sorted(set(samples["class"]) - set(trained["class"]))
    if untrained:
        raise ValueError(
            f"No training sample of {', '.join(untrained)}: every class of the table needs one."
        )
    if not (samples["split"] == "validation").any():
        raise ValueError("No validation sample: the split needs one, to know when to stop.")
    return samples


def _config(samples: pd.DataFrame, arrays: np.ndarray, settings: TrainingSettings) -> dict:
    """Say everything that decides a run, and what its model needs to be used."""
    paper_order = {name: index for index, name in enumerate(paper.counts().index)}
    class_names = sorted(set(samples["class"]), key=lambda name: (paper_order.get(name, 9), name))
    identity = hashlib.sha256(samples.to_csv(index=False).encode())
    identity.update(np.ascontiguousarray(arrays))
    mean, std = batches.IMAGENET_MEAN, batches.IMAGENET_STD
    if settings.normalisation == "training":
        rows = samples.loc[samples["split"] == "train", "row"].to_numpy()
        mean, std = batches.channel_statistics(arrays, rows)
    return {
        "level": samples.attrs["level"],
        "class_names": class_names,
        **asdict(settings),
        "channels": list(settings.channels),
        "weights_used": starting_weights(settings.weights, settings.architecture),
        "mean": [mean[channel] for channel in settings.channels],
        "std": [std[channel] for channel in settings.channels],
        "samples_sha256": identity.hexdigest(),
    }


def _stored_config(directory: Path) -> dict | None:
    path = directory / "config.json"
    return json.loads(path.read_text()) if path.exists() else None


def _prepare(directory: Path, config: dict) -> None:
    """Make the run directory, and clear what other settings or samples left there."""
    directory.mkdir(parents=True, exist_ok=True)
    if _stored_config(directory) != config:
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        for name in ("history.csv", "predictions.parquet", "metrics.json", "model.safetensors"):
            (directory / name).unlink(missing_ok=True)
    (directory / "provenance.json").unlink(missing_ok=True)
    write_json(directory / "config.json", config)
