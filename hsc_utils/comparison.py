"""Compare runs from their stored predictions: scores, and paired differences with intervals.

No model is loaded. Runs are comparable only on the same test set, so anything else is refused.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from hsc_utils import metrics
from hsc_utils.provenance import from_root, shown_path

SCORES = ("auroc", "balanced_accuracy")
_COLUMNS = ("model", "against", "score", "estimate", "low", "high", "p", "p_holm", "seeds")


class ComparisonError(ValueError):
    """Runs that cannot be compared fairly."""


def slice_runs(runs_dir: str | Path, architecture: str) -> list[Path]:
    """Find the finished runs of one architecture, whichever slices and seeds there are."""
    found = from_root(runs_dir).glob("*/seed*/predictions.parquet")
    names = (path.parent for path in sorted(found))
    return [path for path in names if path.parent.name.split("-slice")[0] == architecture]


def missing_slices(runs: pd.DataFrame) -> list[str]:
    """Name the subsets of the three slices, such as ``0+2``, that no run has seen."""
    subsets = (
        "+".join(chosen) for size in (1, 2, 3) for chosen in itertools.combinations("012", size)
    )
    return [subset for subset in subsets if subset not in set(runs["channels"])]


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
        actually used), ``simulated``, ``class_names`` (a list) and ``run_dir``.

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
        If the runs did not predict the same samples with the same labels: the message names
        the difference.
    """
    tables = []
    for run_dir in runs["run_dir"]:
        table = pd.read_parquet(run_dir / "predictions.parquet")
        table = table[table["split"] == subset].sort_values("id", ignore_index=True)
        if table.empty:
            raise ComparisonError(f"{shown_path(run_dir)} predicted nothing of subset '{subset}'.")
        tables.append(table)
        _refuse_other_samples(tables[0], table, runs["run_dir"].iloc[0], run_dir, subset)
    return tables


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


def resampled_scores(
    runs: pd.DataFrame, tables: Sequence[pd.DataFrame], *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Score every model on the test set as it is and on bootstrap resamples of its images.

    Whole images are drawn, since cells of one image are not independent, and each resample
    is the same for all models, so that differences between them are paired. Repeats of a
    model are averaged within each resample.

    Parameters
    ----------
    runs, tables
        From `read_runs` and `read_predictions`.
    resamples : int
        Number of resamples.
    seed : int
        Seed of the resampling.

    Returns
    -------
    DataFrame
        Indexed by ``resample`` (0 the test set itself), columns (model, score): `SCORES`
        and ``auroc <class>``.
    """
    images, codes = np.unique(tables[0]["image_id"], return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=resamples)
    weights = np.concatenate([np.ones((1, len(images)), int), drawn])
    scores = {}
    for model, repeats in runs.groupby("model", sort=False):
        scored = [_score(runs, tables[index], codes, weights) for index in repeats.index]
        scores[model] = sum(scored) / len(scored)
    return pd.concat(scores, axis=1, names=["model", "score"]).rename_axis("resample")


def _score(
    runs: pd.DataFrame, table: pd.DataFrame, codes: np.ndarray, weights: np.ndarray
) -> pd.DataFrame:
    class_names = runs["class_names"].iloc[0]
    truth = pd.Index(class_names).get_indexer(table["class"])
    probabilities = metrics.probability_matrix(table, class_names)
    sums = metrics.sums_by_image(truth, probabilities, codes)
    chunks = np.array_split(weights, -(-len(weights) // 500))
    scored = [metrics.weighted_scores(chunk, sums) for chunk in chunks]
    columns = {key: np.concatenate([overall[key] for overall, _ in scored]) for key in SCORES}
    by_class = np.concatenate([classes["auroc"] for _, classes in scored])
    columns |= {f"auroc {name}": by_class[:, k] for k, name in enumerate(class_names)}
    return pd.DataFrame(columns)


def compare(runs: pd.DataFrame, scores: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Put scores and paired differences into one table.

    Parameters
    ----------
    runs, scores
        From `read_runs` and `resampled_scores`.
    level : float
        Coverage of the percentile intervals, in (0, 1).

    Returns
    -------
    DataFrame
        One row a model and score, ``against`` empty; then one row a pair of models and score
        of `SCORES`: ``estimate`` is model minus against, ``p`` the two-sided bootstrap
        p-value, and ``p_holm`` the same corrected for the number of pairs (Holm 1979), one
        family a score.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    seeds = runs.groupby("model", sort=False).size()
    rows = []
    for model, score in scores:
        low, high = scores[model, score].iloc[1:].quantile(tails)
        rows.append((model, "", score, scores[model, score].iloc[0], low, high, np.nan))
    for score, (against, model) in itertools.product(
        SCORES, itertools.combinations(seeds.index, 2)
    ):
        gap = scores[model, score] - scores[against, score]
        low, high = gap.iloc[1:].quantile(tails)
        rows.append((model, against, score, gap.iloc[0], low, high, _p_value(gap.iloc[1:])))
    table = pd.DataFrame(rows, columns=_COLUMNS[:7])
    table["p_holm"] = table.groupby("score")["p"].transform(holm)
    return table.assign(seeds=table["model"].map(seeds))[list(_COLUMNS)]


def roc_curves(
    runs: pd.DataFrame, tables: Sequence[pd.DataFrame]
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Return false and true positive rates by (model, class), repeats of a model averaged.

    Curves of repeats are averaged at equal false positive rates.
    """
    grid = np.linspace(0, 1, 501)
    curves = {}
    for model, repeats in runs.groupby("model", sort=False):
        ours = [tables[index] for index in repeats.index]
        for name in runs["class_names"].iloc[0]:
            drawn = [roc_curve(t["class"] == name, t[f"p_{name}"]) for t in ours]
            if len(drawn) == 1:
                curves[model, name] = drawn[0][:2]
            else:
                heights = [np.interp(grid, false, true) for false, true, _ in drawn]
                curves[model, name] = grid, np.mean(heights, axis=0)
    return curves


def _p_value(gaps: pd.Series) -> float:
    """Twice the smaller share of resamples on either side of no difference, at most 1."""
    gaps = gaps.dropna()
    fewer = min((gaps <= 0).sum(), (gaps >= 0).sum())
    return min(1.0, 2 * (fewer + 1) / (len(gaps) + 1))


def holm(p_values: pd.Series) -> pd.Series:
    """Correct p-values for their number by Holm's step-down method; NaN stay NaN."""
    ordered = p_values.dropna().sort_values()
    factors = np.arange(len(ordered), 0, -1)
    return (ordered * factors).cummax().clip(upper=1).reindex(p_values.index)


def verdict(row: pd.Series, alpha: float = 0.05) -> str:
    """Say in a sentence what a row of differences lets a fair reader conclude."""
    name = row["score"].replace("_", " ").replace("auroc", "AUROC")
    gap = f"{row['estimate']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
    if row["p_holm"] < alpha:
        side = "higher" if row["estimate"] > 0 else "lower"
        end = f"{side} by more than chance in these test images explains"
    else:
        end = "within the noise of these test images"
    return (
        f"{name} of {row['model']} minus {row['against']}: {gap}, "
        f"corrected p = {row['p_holm']:.3g}: {end}."
    )
