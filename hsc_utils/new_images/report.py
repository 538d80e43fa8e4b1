"""What notebook 08 says of new images: tables and sentences made from stored files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from hsc_utils import detection, manifest, metrics, preparation
from hsc_utils.files import from_root
from hsc_utils.new_images import familiar, passport
from hsc_utils.new_images.members import Member, common_temperature, own_predictions
from hsc_utils.new_images.tables import UNDECIDED
from hsc_utils.study import model_words

_CONFIDENCES = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_SHOWN = 8  # cells of each class that are sure, and that are not
_SCORE_NAMES = {
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy (the paper's)",
    "accuracy": "accuracy",
    "brier": "Brier score (0 best)",
}
_SETS = {"validation": "validation subset (sets the threshold)", "test": "test subset"}


def internal_predictions(members: Sequence[Member]) -> pd.DataFrame:
    """Predict the study's own judged images in the way that new images are predicted.

    Parameters
    ----------
    members : sequence of Member
        From `load_members`.

    Returns
    -------
    DataFrame
        One row per image of the test subset (or of validation where there is none): ``image_id``,
        ``class``, ``group``, ``split`` and ``p_…``, calibrated and averaged.
    """
    names = members[0].passport["class_names"]
    columns = [f"p_{name}" for name in names]
    images = own_predictions(members, members[0].run.judged_on)
    images[columns] = metrics.tempered(images[columns].to_numpy(), common_temperature(members))
    return images


def coverage(internal: pd.DataFrame, class_names: Sequence[str], confidence: float) -> pd.DataFrame:
    """Set how many images get a class against how many of these get the right one.

    Parameters
    ----------
    internal : DataFrame
        From `internal_predictions`, or labelled new images.
    class_names : sequence of str
        In the order of the runs.
    confidence : float
        The one chosen, which has a row, too.

    Returns
    -------
    DataFrame
        One row per confidence asked for: ``confidence``, ``called`` (count), ``coverage`` and
        ``accuracy`` in [0, 1] with its 95 % interval over images (Wilson's) as ``low``, ``high``;
        NaN where none is called.
    """
    matrix = metrics.probability_matrix(internal, class_names)
    right = np.array(class_names)[matrix.argmax(axis=1)] == internal["class"].to_numpy()
    rows = []
    for asked in sorted({*_CONFIDENCES, confidence}):
        called = matrix.max(axis=1) >= asked
        count, hits = int(called.sum()), int(right[called].sum())
        ends = (np.nan, np.nan)
        if count:
            ends = tuple(binomtest(hits, count).proportion_ci(method="wilson"))
        accuracy = hits / count if count else np.nan
        rows.append((asked, count, count / max(len(called), 1), accuracy, *ends))
    columns = ["confidence", "called", "coverage", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def scores_side_by_side(
    predictions: pd.DataFrame, internal: pd.DataFrame, class_names: Sequence[str]
) -> pd.DataFrame:
    """Score labelled new images as an external test set, beside the study's own test images.

    Parameters
    ----------
    predictions : DataFrame
        ``predictions.csv``; rows without a label or without probabilities are left out, and so
        are files of the study itself, and copies.
    internal : DataFrame
        From `internal_predictions`.
    class_names : sequence of str
        In the order of the runs.

    Returns
    -------
    DataFrame
        One row per score, by name: ``the study's test images`` and ``these new images`` with 95 %
        intervals in words, counts, and for whom the intervals speak. Empty if no new image is
        labelled.
    """
    columns = [f"p_{name}" for name in class_names]
    labelled = predictions[predictions["class"].isin(class_names)]
    labelled = labelled[labelled["known_file"] == ""]
    if labelled[columns].dropna().empty:
        return pd.DataFrame()
    sets = {"the study's test images": internal, "these new images": labelled}
    told = {}
    for name, images in sets.items():
        table = images.dropna(subset=columns)
        arguments = table["class"], metrics.probability_matrix(table, class_names), class_names
        scores = metrics.score(*arguments)
        intervals = metrics.intervals(*arguments, table["image_id"], table["group"])
        told[name] = {
            words: _in_words(scores[key], intervals[key]) for key, words in _SCORE_NAMES.items()
        } | {"images": str(len(table)), "without a prediction": str(len(images) - len(table))}
        told[name]["for whom"] = metrics.caution(table["class"], table["image_id"], table["group"])
    return pd.DataFrame(told).rename_axis("score")


def _in_words(value: float, interval: tuple[float, float]) -> str:
    if np.isnan(value):
        return "not defined (one class only)"
    return metrics.with_interval(value, *interval)


def differing_questions(differences: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows of ``differences.csv`` in which images differ, and a sentence on others."""
    differ = differences["images that differ"] > 0
    same = "; ".join(differences.loc[~differ, "question"])
    return differences[differ], f"No image differs in: {same}." if same else ""


def read_tables(target: str | Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Read ``cells.csv``, ``rejected.csv`` and ``differences.csv`` of a folder of predictions."""
    folder = from_root(target)
    texts = dict.fromkeys(("cell_id", "image_id", "predicted"), str)
    missing = {name: [""] for name in ("y", "x", "sigma")}  # of ready cells
    how = {"keep_default_na": False}
    cells = pd.read_csv(folder / "cells.csv", dtype=texts, na_values=missing, **how)
    return cells, manifest.read_rejected(folder), pd.read_csv(folder / "differences.csv", **how)


def surest_and_least_sure(cells: pd.DataFrame) -> pd.DataFrame:
    """Choose the cells of each predicted class with the highest and the lowest probability."""
    ordered = cells.sort_values("confidence", kind="stable").groupby("predicted", sort=False)
    chosen = pd.concat([ordered.head(_SHOWN), ordered.tail(_SHOWN)])
    return chosen.drop_duplicates("cell_id").reset_index(drop=True)


def unlike_rates(members: Sequence[Member]) -> pd.DataFrame:
    """Tabulate how often each run calls a sample unlike those of training, in %, by set.

    Rows are sets of the study's own samples: validation (5 % by construction), test, and changed
    copies of test samples; columns are the runs.
    """
    shares = {
        f"{model_words(p['model'])} on {p['level']}s, seed {p['seed']} (%)": p["unlike"]
        for p in (member.passport for member in members)
    }
    table = 100 * pd.DataFrame(shares)
    return table.rename(index=_SETS | {how: f"{how} (changed copies)" for how in familiar.CHANGES})


def unnoticed(members: Sequence[Member]) -> list[str]:
    """Name the changes that a run gives away no oftener than twice as often as unchanged samples.

    Then nothing but the questions asked of the files themselves can warn.
    """
    said = []
    for p in (member.passport for member in members):
        usual = 2 * max(p["unlike"].get(name, 0) for name in _SETS)
        missed = [f"{how} ({p['unlike'][how]:.1%})" for how in familiar.CHANGES]
        missed = [
            m for m, how in zip(missed, familiar.CHANGES, strict=True) if p["unlike"][how] <= usual
        ]
        if missed:
            model = f"{model_words(p['model'])} on {p['level']}s"
            said.append(f"{model} would hardly notice changed pictures: {', '.join(missed)}.")
    return said


def distances_by_set(member: Member, cells: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return distances, in multiples of the threshold, of a run's own sets and of new cells."""
    stored = familiar.distances_by_set(member.familiar)
    sets = {name: values.double().numpy() for name, values in stored.items()}
    if member.passport["level"] == "cell" and len(cells):
        sets["new images"] = cells["distance"].to_numpy(float)
    return sets


def field_picture(known: Mapping, folder: str | Path, source: str) -> NDArray[np.uint8]:
    """Make the image of one new acquisition again, as the models saw it: RGB (Y, X, 3)."""
    place = from_root(folder) / source
    return preparation.read_image(place, passport.picture_settings(known))[0]


def cell_pictures(
    known: Mapping, folder: str | Path, predictions: pd.DataFrame, cells: pd.DataFrame
) -> NDArray[np.uint8]:
    """Cut cells out of new images again, uint8 (N, side, side, 3), in the order of `cells`."""
    sources = predictions.set_index("image_id")["source"]
    side = known["side"]
    pictures = np.zeros((len(cells), side, side, 3), np.uint8)
    for image_id, of_image in cells.reset_index(drop=True).groupby("image_id"):
        place = from_root(folder) / sources[image_id]
        if known["kind"] == passport.READY_CELLS:
            pictures[of_image.index] = detection.read_ready_patch(
                place, side, **known["preparation"]
            )[0]
            continue
        rgb = field_picture(known, folder, sources[image_id])
        at = of_image[["y", "x", "sigma"]].to_numpy()
        pictures[of_image.index] = detection.cut_patches(rgb, at, side, "reflect")[1]
    return pictures


def sentences(predictions: pd.DataFrame, rejected: pd.DataFrame, confidence: float) -> list[str]:
    """Say in plain words what became of the files, and how far to trust it."""
    count, undecided = len(predictions), int((predictions["called"] == UNDECIDED).sum())
    calls = predictions["called"].value_counts().drop(UNDECIDED, errors="ignore")
    listed = ", ".join(f"{number} × {name}" for name, number in calls.items()) or "none"
    warned = int((predictions["differences"] > 0).sum())
    said = [
        f"Of {count + len(rejected)} files, {count} could be read. At a probability of "
        f"{confidence:.0%} or more a class is called for {count - undecided} ({listed}); "
        f"{undecided} stay{'s' * (undecided == 1)} undecided."
    ]
    labelled = predictions[(predictions["class"] != "") & (predictions["called"] != UNDECIDED)]
    labelled = labelled[labelled["known_file"] == ""]
    if len(labelled):
        right = int((labelled["called"] == labelled["class"]).sum())
        said.append(f"Of those called whose class is known, {right} of {len(labelled)} are right.")
    if warned > count / 2:
        said.append(
            f"**{warned} of {count} images differ from those the models were trained on: read no "
            "probability here as the truth.**"
        )
    elif warned:
        differ = "image differs" if warned == 1 else "images differ"
        said.append(f"{warned} {differ} from those of training: see the column of warnings.")
    return said
