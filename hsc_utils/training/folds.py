"""Cross-validation: every image judged once, by one of several networks that has not seen it."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import manifest
from hsc_utils.files import atomic_path, from_root
from hsc_utils.study import Run, TrainingSettings
from hsc_utils.training import train
from hsc_utils.training.samples import check_samples, settle_config, tidy_samples


def cross_validate(
    table: pd.DataFrame,
    arrays: np.ndarray,
    run_dir: str | Path,
    settings: TrainingSettings,
    folds: int,
    prepared_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Train as many networks as there are folds, each judged on one of them, and pool the verdicts.

    A network learns nothing from the fold that it is judged on, and stops by the next one (or a
    later one, where the next holds all that is left of a class). Whole days (or groups) stay
    together where they allow it (`manifest.fold_group`), near-duplicates always. What is finished
    is found again, and what was interrupted continues.

    Parameters
    ----------
    table, arrays, settings
        As for `train`; subsets that the table names are not looked at.
    run_dir : path
        Directory of the run that the networks are like; theirs lie in its ``folds``.
    folds : int
        From `manifest.MIN_FOLDS`.
    prepared_dir : path, optional
        Folder of the ``images.csv`` that the cells come from, where there is one: it knows the
        near-duplicates.

    Returns
    -------
    DataFrame
        As `Run.predictions`, every sample once, with ``fold``, and ``split`` always ``test``. Not
        among them are samples of a class's only image (see `manifest.fold_images`), which every
        network learns from. `Run.folds_file` holds the same. ``attrs``: ``folds``, ``group`` (what
        stays together, empty for single images), ``said`` (how the folds were made) and ``key``.

    Raises
    ------
    ValueError
        Before the first epoch, if the images do not fill the folds, a network would train without
        a class, or the samples are unfit for `train`.
    """
    check_samples(table)
    images = _images(table, prepared_dir)
    group, why = manifest.fold_group(images, folds)
    of_image = manifest.fold_images(images, folds, settings.seed, group)
    fold = table["image_id"].map(dict(zip(images["image_id"], of_image, strict=True)))
    splits = [_split(table["class"], fold, place, folds) for place in range(folds)]
    said = (
        f"Cross-validation: {folds} folds, {why}. {_exceptions(images['class'], of_image, folds)}"
    )
    print(said.strip())
    level = "cell" if "cell_id" in table else "image"
    config = settle_config(level, tidy_samples(table, arrays), arrays, settings)
    decided = json.dumps([asdict(config), folds, fold.tolist()])
    key = hashlib.sha256(decided.encode()).hexdigest()
    run = Run(run_dir)
    stored = run.folds
    if stored is not None and stored.attrs.get("key") == key:
        print(f"{run}: cross-validated earlier, nothing to do")
        return stored
    parts = []
    for place, split in enumerate(splits):
        print(f"fold {place + 1} of {folds}: {(split == 'test').sum()} {level}s judged", flush=True)
        folder = run.directory / "folds" / f"fold{place}" / level / config.model
        again = Run(folder / f"seed{settings.seed}")
        train(table.assign(split=split), arrays, again.directory, settings)
        parts.append(again.predictions.query("split == 'test'").assign(fold=place))
    pooled = pd.concat(parts).sort_index().reset_index(drop=True)
    pooled.attrs = {"folds": folds, "group": group or "", "said": said.strip(), "key": key}
    with atomic_path(run.folds_file) as temporary:
        pooled.to_parquet(temporary, index=False)
    return pooled


def _images(table: pd.DataFrame, prepared_dir: str | Path | None) -> pd.DataFrame:
    """Return one row per image, with what it nearly duplicates where that is known."""
    images = table.drop_duplicates("image_id")
    if "near_duplicate_of" in table or prepared_dir is None:
        return images
    if not (from_root(prepared_dir) / "images.csv").exists():
        return images
    looks = manifest.read_images(prepared_dir).set_index("image_id")["near_duplicate_of"]
    return images.assign(near_duplicate_of=images["image_id"].map(looks).fillna(""))


def _split(classes: pd.Series, fold: pd.Series, judged: int, folds: int) -> np.ndarray:
    """Return the subset of each sample where a fold is judged."""
    for step in range(1, folds):
        stopping = (judged + step) % folds
        learnt = ~fold.isin([judged, stopping])
        lost = sorted(set(classes) - set(classes[learnt]))
        if not lost:
            return np.select([fold == judged, fold == stopping], ["test", "validation"], "train")
    raise ValueError(
        f"folds: the network of fold {judged + 1} of {folds} would train without {lost[0]}, whose "
        "images lie in too few folds. Ask for more folds, or 0 for none, or add images of that "
        "class."
    )


def _exceptions(classes: pd.Series, fold: pd.Series, folds: int) -> str:
    """Say which classes some networks, or all, are not judged on."""
    never = classes[fold < 0].value_counts()
    in_folds = fold[fold >= 0].groupby(classes).nunique().reindex(classes.unique(), fill_value=0)
    text = ""
    if few := [f"{name} ({count})" for name, count in in_folds.items() if 0 < count < folds]:
        text += f"Classes with images in fewer folds: {', '.join(few)}. "
    if len(never):
        text += (
            f"Never judged, always learnt from: {never.sum()} image(s) of "
            f"{', '.join(never.index)}, since a class would have no other. "
        )
    return text
