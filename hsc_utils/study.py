"""Read finished runs that are to be compared, and refuse those that cannot be.

No model is loaded. Runs are comparable only on the same test set, so anything else is refused.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hsc_utils.files import from_root, shown_path


def run_directory(
    runs_dir: str | Path, architecture: str, seed: int, channels: Sequence[int] = (0, 1, 2)
) -> Path:
    """Name the directory of one training run.

    Parameters
    ----------
    runs_dir : path
        Directory of all runs of one level, such as ``results/demo/runs/cell``.
    architecture : str
        Backbone, such as ``densenet169``.
    seed : int
        Seed of the run.
    channels : sequence of int
        RGB channels (slices) the model sees. All three give ``<architecture>``; fewer
        give ``<architecture>-slice0`` or ``<architecture>-slice0+2``.

    Returns
    -------
    Path
        ``<runs_dir>/<architecture>[-slice…]/seed<k>``, anchored at the repository root.
    """
    name = architecture
    if list(channels) != [0, 1, 2]:
        name += "-slice" + "+".join(str(channel) for channel in channels)
    return from_root(runs_dir) / name / f"seed{seed}"


# every choice of the three slices: each alone, each pair, all
SLICES = tuple(
    "+".join(chosen) for size in (1, 2, 3) for chosen in itertools.combinations("012", size)
)


class ComparisonError(ValueError):
    """Runs that cannot be compared fairly."""


def slice_runs(runs_dir: str | Path, architecture: str) -> list[Path]:
    """Find the finished runs of one architecture, whichever slices and seeds there are."""
    found = sorted(from_root(runs_dir).glob("*/seed*/predictions.parquet"))
    runs = [path.parent for path in found]
    runs = [run for run in runs if run.parent.name.partition("-slice")[0] == architecture]
    if not runs:
        raise FileNotFoundError(
            f"{shown_path(runs_dir)} holds no finished run of {architecture}: train one with "
            "notebook 04, or name another folder or backbone."
        )
    return runs


def missing_slices(runs: pd.DataFrame) -> list[str]:
    """Name the subsets of the three slices, such as ``0+2``, that no run has seen."""
    return [subset for subset in SLICES if subset not in set(runs["channels"])]


def read_runs(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Read the settings of finished runs.

    Parameters
    ----------
    run_dirs : sequence of path
        Run directories, each with ``config.json``, ``predictions.parquet`` and
        ``provenance.json``. Runs that differ in nothing but their seed are repeats of one
        model.

    Returns
    -------
    DataFrame
        One row a run, in the order given: ``model`` (such as ``resnet18-slice0``), ``seed``,
        ``level``, ``architecture``, ``channels`` (such as ``0+2``), ``weights`` (those
        actually used), ``simulated``, ``class_names`` (a list), ``pixels`` (SHA-256 of the
        patches it saw; empty for images) and ``run_dir``.

    Raises
    ------
    FileNotFoundError
        If a run is missing or unfinished.
    ComparisonError
        If runs are of different levels or classes, or one is given twice.
    """
    rows = []
    for run_dir in map(from_root, run_dirs):
        for name in ("config.json", "predictions.parquet", "provenance.json"):
            if not (run_dir / name).exists():
                raise FileNotFoundError(
                    f"{shown_path(run_dir)} holds no {name}: train that model first, or take the "
                    "run out of the list."
                )
        config = json.loads((run_dir / "config.json").read_text())
        provenance = json.loads((run_dir / "provenance.json").read_text())
        rows.append(
            {
                "model": run_dir.parent.name,
                "channels": "+".join(str(channel) for channel in config["channels"]),
                "run_dir": run_dir,
                **{key: config[key] for key in ("seed", "level", "architecture")},
                **{key: provenance[key] for key in ("weights", "simulated")},
                "pixels": _sha256_of_patches(provenance),
                "class_names": config["class_names"],
            }
        )
    if not rows:
        raise ComparisonError("No run was given: name at least one run directory.")
    for key in ("level", "class_names"):
        for row in rows[1:]:
            if row[key] != rows[0][key]:
                raise ComparisonError(
                    f"{key} of {shown_path(row['run_dir'])} is {row[key]}, but of "
                    f"{shown_path(rows[0]['run_dir'])} it is {rows[0][key]}: compare like with "
                    "like."
                )
    runs = pd.DataFrame(rows)
    if runs.duplicated(["model", "seed"]).any():
        twice = runs.loc[runs.duplicated(["model", "seed"]), "run_dir"].iloc[0]
        raise ComparisonError(f"{shown_path(twice)} is given twice, or shares its name and seed.")
    return runs


def _sha256_of_patches(provenance: dict) -> str:
    hashes = provenance.get("inputs", {}).items()
    return next((sha for name, sha in hashes if name.endswith("patches.npy")), "")


def read_predictions(runs: pd.DataFrame, subset: str = "test") -> list[pd.DataFrame]:
    """Read each run's stored predictions of one subset, aligned by id.

    Parameters
    ----------
    runs : DataFrame
        From `read_runs`.
    subset : str
        Value of the column ``split``.

    Returns
    -------
    list of DataFrame
        One table a run, rows sorted by ``id``, so that equal rows are the same sample.

    Raises
    ------
    ComparisonError
        If the runs did not predict the same samples with the same labels, or saw other
        pixels of them: the message names the difference.
    """
    tables = []
    _refuse_other_pixels(runs)
    for run_dir in runs["run_dir"]:
        table = pd.read_parquet(run_dir / "predictions.parquet")
        table = table[table["split"] == subset].sort_values("id", ignore_index=True)
        if table.empty:
            raise ComparisonError(f"{shown_path(run_dir)} predicted nothing of subset '{subset}'.")
        tables.append(table)
        _refuse_other_samples(tables[0], table, runs["run_dir"].iloc[0], run_dir, subset)
    return tables


def _refuse_other_pixels(runs: pd.DataFrame) -> None:
    known = runs[runs["pixels"] != ""]
    for run in known.itertuples():
        if run.pixels != known["pixels"].iloc[0]:
            raise ComparisonError(
                f"{shown_path(known['run_dir'].iloc[0])} and {shown_path(run.run_dir)} saw two "
                f"versions of patches.npy (SHA-256 {known['pixels'].iloc[0][:8]}… and "
                f"{run.pixels[:8]}…), so the same cells need not look the same. Train both on the "
                "same patches, then compare."
            )


def _refuse_other_samples(
    first: pd.DataFrame, second: pd.DataFrame, first_dir: Path, second_dir: Path, subset: str
) -> None:
    sample = ["id", "image_id", "class"]
    hashes = [pd.util.hash_pandas_object(t[sample], index=False).sum() for t in (first, second)]
    if hashes[0] == hashes[1] and len(first) == len(second):
        return
    names = shown_path(first_dir), shown_path(second_dir)
    reasons = []
    for name, ours, theirs in ((names[0], first, second), (names[1], second, first)):
        only = ours.loc[~ours["id"].isin(theirs["id"]), "id"]
        if len(only):
            reasons.append(f"{len(only)} only in {name}, such as {only.iloc[0]}")
    both = first.merge(second, on="id", suffixes=("", "_second"))
    for column in ("class", "image_id"):
        differs = both[both[column] != both[f"{column}_second"]]
        if len(differs):
            row = differs.iloc[0]
            reasons.append(
                f"{len(differs)} with another {column}, such as {row['id']} "
                f"({row[column]} and {row[column + '_second']})"
            )
    raise ComparisonError(
        f"The {subset} sets of {names[0]} and {names[1]} differ: {'; '.join(reasons)}. "
        "Train both on the same tables, then compare."
    )
