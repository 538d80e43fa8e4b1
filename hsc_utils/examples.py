"""Which samples to explain and show, with what a run predicted for them."""

from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import batches
from hsc_utils.patches import read_rgb
from hsc_utils.provenance import from_root, shown_path


def read_pictures(images: pd.DataFrame, prepared_dir: str | Path, size: int) -> np.ndarray:
    """Read prepared images as a model sees them before normalisation.

    Parameters
    ----------
    images : DataFrame
        Rows of ``images.csv``; ``path`` is relative to `prepared_dir`.
    prepared_dir : path
        Folder of step 01.
    size : int
        Side to resize to, pixels.

    Returns
    -------
    ndarray
        uint8 (N, size, size, 3), RGB.
    """
    folder = from_root(prepared_dir)
    return np.stack([batches.resize(read_rgb(folder / p)[None], size)[0] for p in images["path"]])


def draw_predicted(
    run_dir: str | Path, table: pd.DataFrame, subset: str, per_class: int, seed: int = 0
) -> pd.DataFrame:
    """Draw samples of a subset at random, with what a run predicted for them.

    Parameters
    ----------
    run_dir : path
        A finished run.
    table : DataFrame
        ``cells.csv``, or ``images.csv`` for a run on whole images.
    subset : str
        Value of the column ``split``.
    per_class : int
        Samples of each class at most.
    seed : int
        Seed of the drawing.

    Returns
    -------
    DataFrame
        The rows drawn, by class and then in the order of `table`, with ``predicted`` (a
        class) and ``probability`` (of that class).

    Raises
    ------
    ValueError
        If the run's predictions and the table are of different samples.
    """
    key = "cell_id" if "cell_id" in table else "image_id"
    predictions = pd.read_parquet(from_root(run_dir) / "predictions.parquet").set_index("id")
    rows = table[table["split"] == subset]
    unknown = rows.loc[~rows[key].isin(predictions.index), key]
    if rows.empty or len(unknown):
        what = f"{len(unknown)} {subset} samples such as {unknown.iloc[0]}" if len(rows) else subset
        raise ValueError(
            f"{shown_path(run_dir)} holds no predictions of {what}: it was trained on other "
            "tables. Give the tables of that run, or train it again."
        )
    drawn = rows.groupby("class", sort=False)[key].apply(
        lambda keys: keys.sample(min(per_class, len(keys)), random_state=seed)
    )
    rows = rows[rows[key].isin(drawn)].sort_values("class", kind="stable")
    probabilities = predictions.loc[rows[key]].filter(regex="^p_")
    return rows.assign(
        predicted=probabilities.idxmax(axis=1).str.removeprefix("p_").to_numpy(),
        probability=probabilities.max(axis=1).to_numpy(),
    ).reset_index(drop=True)


def pick_examples(drawn: pd.DataFrame, each: int = 1) -> np.ndarray:
    """Return positions of `each` correct, then `each` wrong samples of every class, in order.

    The first in the table are taken, not the most striking; a class that has no wrong
    prediction gives only correct ones.
    """
    correct = drawn["class"] == drawn["predicted"]
    order = drawn.assign(position=np.arange(len(drawn)), wrong=~correct)
    picked = order.groupby(["class", "wrong"], sort=False)["position"].head(each)
    return order.loc[picked.index].sort_values(["class", "wrong"])["position"].to_numpy()
