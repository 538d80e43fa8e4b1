"""What a run needs to be used on new images, written beside it: its passport.

A run directory that was copied elsewhere can be used there: how pictures and cells are made, what
the training images were like, and what the training samples look like to the network travel along.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save

from hsc_utils import detection, files, manifest, metrics, preparation
from hsc_utils.new_images import differences, familiar
from hsc_utils.provenance import code_digest, dataset_name
from hsc_utils.study import DamagedFileError, Run, Study

IMAGES, READY_CELLS = "images", "ready cells"
_SHARPNESS_OF = 100  # training images whose sharpness is measured
HEX = 16  # digits of a file's hash that are kept
_ROOMS = ("new_images.familiar", "training.features", "training.batches")


def write_passport(
    run: Run, table: pd.DataFrame, arrays: NDArray[np.uint8], paths: Study
) -> dict[str, object]:
    """Write the passport of a finished run, ``new_images.json`` and ``features.safetensors``.

    Parameters
    ----------
    run : Run
        A finished run of the study.
    table, arrays
        The samples that it was trained on, as for `training.train`.
    paths : Study
        Whose steps 01 and 02 made them.

    Returns
    -------
    dict
        The passport: ``level``, ``model``, ``class_names``, ``kind`` (``images``, or ``ready
        cells`` where the samples came cut out), ``preparation``, ``detection``, ``side`` and
        ``border`` (None where no cells are cut), ``temperature`` and ``vote_temperature``,
        ``training_images`` (see `differences.summary_of`), ``seen`` (the first digits of the
        SHA-256 of every file of the study, by subset), ``days`` of the training images, and
        ``unlike``: how often a sample lies beyond the threshold, by set of samples.
    """
    level = run.level
    samples = run.predictions.merge(_rows(table, level), on="id", validate="one_to_one")
    found = _familiar(run, samples, arrays)
    if (paths.prepared / "images.csv").exists():
        passport = _of_images(paths, cut=level == "cell")
    else:
        passport = _of_ready_cells(paths, table, arrays)
    shares = {
        name: round(float((values > 1).float().mean()), 4)
        for name, values in familiar.distances_by_set(found).items()
    }
    passport = {
        "level": level,
        "model": run.model,
        "seed": run.config.seed,
        "class_names": list(run.config.class_names),
        "dataset": dataset_name(paths.prepared, paths.cells),
        **passport,
        "temperature": run.calibration["temperature"],
        "vote_temperature": _vote_temperature(run),
        "unlike": shares,
    }
    files.write_json(run.passport_file, passport)
    return passport


def read_passport(run: Run) -> dict:
    """Read a run's passport, or say how to get one."""
    if not run.passport_file.exists():
        raise FileNotFoundError(
            f"{run} has no {run.passport_file.name}, which says how its pictures were made. Run "
            f"notebook {'04' if run.level == 'cell' else '03'} of its study again: the training is "
            "found finished, and the file is added."
        )
    try:
        return dict(json.loads(run.passport_file.read_text()))
    except ValueError as error:
        raise DamagedFileError(
            f"{files.shown_path(run.passport_file)} is damaged. Run notebook 03 or 04 again."
        ) from error


def _rows(table: pd.DataFrame, level: str) -> pd.DataFrame:
    """Map samples to the rows of their pictures."""
    rows = table["row"] if level == "cell" else np.arange(len(table))
    return pd.DataFrame({"id": table[f"{level}_id"], "row": rows})


def _familiar(run: Run, samples: pd.DataFrame, arrays: NDArray[np.uint8]) -> dict:
    """Return what `familiar.fit_familiar` gives, made once per model."""
    key = f"{files.file_sha256(run.weights_file)} {code_digest(*_ROOMS)}"
    if (stored := read_features(run, key)) is not None:
        return stored
    found = familiar.fit_familiar(run, samples, arrays)
    with files.atomic_path(run.features_file) as temporary:
        temporary.write_bytes(save(found, {"made_from": key}))
    return found


def read_features(run: Run, key: str = "") -> dict | None:
    """Read ``features.safetensors``; None where it is missing, damaged, or not made from `key`."""
    try:
        with safe_open(run.features_file, "pt") as stored:
            if key and (stored.metadata() or {}).get("made_from") != key:
                return None
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except Exception:  # a file that is missing, cut short or something else: made again
        return None


def _of_images(paths: Study, cut: bool) -> dict:
    """Say how the study made images, and cells if `cut`, and what its training images were like."""
    images = manifest.read_images(paths.prepared)
    learnt = images[images["split"] == "train"]
    record = json.loads((paths.prepared / "provenance.json").read_text())["parameters"]
    names = [field.name for field in fields(preparation.ImageSettings)]
    passport = {
        "kind": IMAGES,
        "preparation": {name: record[name] for name in names},
        "detection": None,
        "side": None,
        "border": None,
    }
    facts = differences.facts_of(learnt)
    looked = learnt.sample(min(_SHARPNESS_OF, len(learnt)), random_state=0)["path"]
    facts["sharpness"] = pd.Series(
        {
            k: differences.sharpness(files.read_rgb(paths.prepared / path))
            for k, path in looked.items()
        }
    )
    if cut:
        how = json.loads((paths.cells / "provenance.json").read_text())["parameters"]
        settings = detection.DetectionSettings(**how["detection"])
        passport |= {"detection": asdict(settings), "side": how["side"], "border": how["border"]}
        counts = manifest.read_cells(paths.cells)["image_id"].value_counts()
        pixels = learnt["height"] * learnt["width"] / 1e6
        facts["density"] = learnt["image_id"].map(counts).fillna(0) / pixels
    days = learnt["acquired_at"].str[:10]
    return passport | {
        "training_images": differences.summary_of(facts, learnt["class"]),
        "seen": _seen(images),
        "days": sorted(set(days[days != ""])),
    }


def _of_ready_cells(paths: Study, cells: pd.DataFrame, arrays: NDArray[np.uint8]) -> dict:
    """Say how ready cells were read, and what those for training were like."""
    learnt = cells[cells["split"] == "train"]
    how = json.loads((paths.cells / "provenance.json").read_text())["parameters"]
    chosen = learnt.sample(min(len(learnt), _SHARPNESS_OF * 10), random_state=0)
    chosen = chosen.sort_values("row")  # as they lie on the disk
    patches = arrays[chosen["row"].to_numpy()]
    facts = pd.DataFrame([picture_facts(patch) for patch in patches])
    facts["simulated"] = chosen["simulated"].to_numpy()
    return {
        "kind": READY_CELLS,
        "preparation": {name: how[name] for name in ("slices", "bit_depth", "to_8_bit")},
        "detection": None,
        "side": how["side"],
        "border": None,
        "training_images": differences.summary_of(differences.facts_of(facts), chosen["class"]),
        "seen": _seen(cells) if "sha256" in cells else {},
        "days": [],
    }


def _seen(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return the first digits of the SHA-256 of every file, by subset."""
    return table["sha256"].str[:HEX].groupby(table["split"]).agg(list).to_dict()


def picture_facts(rgb: NDArray[np.uint8]) -> dict[str, float]:
    """Measure what `differences` compares in the pixels of a picture."""
    means = dict(zip(("mean_r", "mean_g", "mean_b"), rgb.mean(axis=(0, 1)).tolist(), strict=True))
    return means | {"sharpness": differences.sharpness(rgb)}


def _vote_temperature(run: Run) -> float:
    """Fit the temperature of the votes of an image's cells; that of an image's own model is set."""
    if run.level == "image":
        return 1.0
    names = list(run.config.class_names)
    votes = votes_of(run.predictions, names, run.calibration["temperature"])
    return fitted_temperature(votes[votes["split"] == "validation"], names)


def fitted_temperature(images: pd.DataFrame, class_names: list[str]) -> float:
    """Fit a temperature to images; 1 where they are too few, or of one class, as in training."""
    if metrics.why_uncalibrated(images["class"], images.index):  # one row per image
        return 1.0
    truth = pd.Index(class_names).get_indexer(images["class"])
    return metrics.fit_temperature(truth, metrics.probability_matrix(images, class_names))


def votes_of(predictions: pd.DataFrame, class_names: list[str], temperature: float) -> pd.DataFrame:
    """Average the calibrated probabilities of each image's samples; one row per image."""
    columns = [f"p_{name}" for name in class_names]
    honest = metrics.tempered(metrics.probability_matrix(predictions, class_names), temperature)
    return metrics.votes(
        predictions.assign(**dict(zip(columns, honest.T, strict=True))), class_names
    )


def picture_settings(passport: Mapping) -> preparation.ImageSettings:
    """Return how a run's pictures are made of acquisitions."""
    return preparation.ImageSettings(**passport["preparation"])


def finding_settings(passport: Mapping) -> detection.DetectionSettings:
    """Return how a run's cells are found."""
    return detection.DetectionSettings(**passport["detection"])


def run_at(place: str | Path) -> Run:
    """Return the run that a user names by its directory, or say what such a directory holds."""
    run = Run(files.from_root(place))
    try:
        run.check_finished()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} A run directory looks like results/mine/runs/cell/resnet18/seed0."
        ) from error
    return run
