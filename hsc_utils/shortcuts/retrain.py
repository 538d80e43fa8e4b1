"""Networks trained again as a run was: on surroundings alone, and with whole days held out."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import manifest, training
from hsc_utils.study import Run, RunConfig

# from any seed of the split itself, whose order of images would put whole subsets into one half
_APART = 10_000
_SEEN = 0.9  # share of test images whose day must occur among the others, to hold it out


def train_on_surroundings(
    run: Run, table: pd.DataFrame, without: np.ndarray, folder: Path, epochs: int | None = None
) -> Run:
    """Train a run's network by its recipe on the same samples, but with every cell painted out.

    Parameters
    ----------
    run : Run
        A finished run.
    table, without
        The samples that it was trained on, and their pictures without cells (see
        `write_surroundings`).
    folder : Path
        Where run directories are written; what is finished there is found again.
    epochs : int, optional
        The most epochs; by default the run's.

    Returns
    -------
    Run
        The new run. Above 0.5, its AUROC says that the class can be told without a cell.
    """
    chosen = _directory(run, folder / "surroundings")
    training.train(table, without, chosen.directory, _recipe(run.config, epochs))
    return chosen


def hold_out_days(
    run: Run, table: pd.DataFrame, arrays: np.ndarray, folder: Path, epochs: int | None = None
) -> dict[str, pd.DataFrame]:
    """Train a run's network on one half of the images and judge it on the other, in two ways.

    The halves hold whole groups (days) in one way, and in the other as many images of each class
    and subset, drawn evenly from all days; each test image of the run is judged by the network of
    the half that it is not in. So both ways learn from as many images and are judged on the same
    ones, and differ in one thing: whether the day of a test image was learnt from.

    Parameters
    ----------
    run, table, arrays, folder, epochs
        As for `train_on_surroundings`, with the pictures as they are.

    Returns
    -------
    dict of str to DataFrame
        Predictions of the run's test samples, as `Run.predictions`: ``by_day``, ``by_image``.

    Raises
    ------
    ValueError
        If groups are not known, a class lies in a single one, so that days and classes cannot be
        told apart, the split holds whole days out already, or a half would lack a class.
    """
    halves = _halves(run, table)
    samples, settings = run.predictions, _recipe(run.config, epochs)
    tested, predictions = samples.loc[samples["split"] == "test", "id"], {}
    for arm, half in halves.items():
        parts = []
        for place in ("train", "test"):
            # judged are test samples of this half, and learnt from are the others of the other
            chosen = (half == place) == (table["split"] == "test")
            pictures = arrays if run.level == "cell" else arrays[np.flatnonzero(chosen)]
            again = _directory(run, folder / f"{arm}_{place}")
            part = table[chosen].reset_index(drop=True)
            training.train(part, pictures, again.directory, settings)
            judged = again.predictions
            parts.append(judged[judged["split"] == "test"])
        predictions[arm] = pd.concat(parts).set_index("id").loc[tested].reset_index()
    return predictions


def _halves(run: Run, table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the half of each sample, ``train`` or ``test``, by whole days and by images."""
    images = table.drop_duplicates("image_id")
    if run.judged_on != "test":
        raise ValueError("there is no test subset to judge on")
    if (images["group"] == "").any():
        raise ValueError("the column group of the table names no day (or mouse) for every image")
    groups = images.groupby("class")["group"].nunique()
    if groups.min() < 2:
        raise ValueError(f"all images of {groups.idxmin()} are of one day (or group)")
    tested = images["split"] == "test"
    seen = images.loc[tested, "group"].isin(images.loc[~tested, "group"]).mean()
    if seen < _SEEN:
        raise ValueError(
            f"only {seen:.0%} of the test images are of a day that other subsets hold (was the "
            "study split by whole days?), so there is nothing to compare with"
        )
    by_day = manifest.split_images(images, (0.5, 0, 0.5), run.seed + _APART, "group")["split"]
    # as many of each class and subset, spread evenly over the days: chance would leave a class that
    # is common among one day's training images rare among those it is judged on
    drawn = np.random.default_rng(run.seed).permutation(len(images))
    ordered = images.assign(drawn=drawn, half=by_day).sort_values(["group", "drawn"])
    by_image = ordered.groupby(["class", "split"])["half"].transform(_spread).loc[images.index]
    halves = {}
    for arm, of_images in {"by_day": by_day, "by_image": by_image}.items():
        half = table["image_id"].map(dict(zip(images["image_id"], of_images, strict=True)))
        for place in ("train", "test"):
            ours = table[half == place]
            learnt = set(ours.loc[ours["split"] == "train", "class"])
            if lost := sorted(set(table["class"]) - learnt):
                raise ValueError(f"a half of the images would train without {', '.join(lost)}")
            if not (ours["split"] == "validation").any():
                raise ValueError("a half of the images would have none for validation")
        halves[arm] = half
    return halves


def _spread(half: pd.Series) -> np.ndarray:
    """Give the halves anew, as often as before and at even distances."""
    share, places = (half == "train").mean(), np.arange(len(half) + 1)
    steps = np.diff(np.floor(places * share + 0.5))
    return np.where(steps > 0, "train", "test")


def _directory(run: Run, folder: Path) -> Run:
    """Name the directory of a run's network trained in another way."""
    return Run(folder / run.level / run.model / f"seed{run.seed}")


def _recipe(config: RunConfig, epochs: int | None) -> training.TrainingSettings:
    """Return the settings that a run was trained with, perhaps for fewer epochs."""
    names = [field.name for field in dataclasses.fields(training.TrainingSettings)]
    settings = {name: getattr(config, name) for name in names}
    settings["weights"] = config.weights_used
    if epochs is not None:
        settings["max_epochs"] = min(epochs, config.max_epochs)
    return training.TrainingSettings(**settings)
