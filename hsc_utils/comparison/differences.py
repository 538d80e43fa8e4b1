"""Compare runs by their stored predictions: scores, and paired differences with intervals."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from hsc_utils import metrics

SCORES = ("auroc", "balanced_accuracy")
_COLUMNS = (
    *("model", "against", "score", "estimate", "low", "high", "p", "p_holm"),
    *("seeds", "seed_low", "seed_high"),
)


def resampled_scores(
    runs: pd.DataFrame, tables: Sequence[pd.DataFrame], *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Score every run on the test set as it is and on bootstrap resamples of its images.

    Whole images are drawn, since cells of one image are not independent, and each resample
    is the same for all runs, so that differences between them are paired.

    Parameters
    ----------
    runs, tables
        From `runs.read_runs` and `runs.read_predictions`.
    resamples : int
        Number of resamples.
    seed : int
        Seed of the resampling.

    Returns
    -------
    DataFrame
        Indexed by ``resample`` (0 the test set itself), columns (model, seed, score):
        `SCORES` and ``auroc <class>``, for the classes that the test set holds.
    """
    images, codes = np.unique(tables[0]["image_id"], return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=resamples)
    weights = np.concatenate([np.ones((1, len(images)), int), drawn])
    scores = {
        (run.model, run.seed): _score(runs, table, codes, weights)
        for run, table in zip(runs.itertuples(), tables, strict=True)
    }
    return pd.concat(scores, axis=1, names=["model", "seed", "score"]).rename_axis("resample")


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
    present = classes_scored(runs, table)
    columns |= {f"auroc {n}": by_class[:, class_names.index(n)] for n in present}
    return pd.DataFrame(columns)


def classes_scored(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Name the classes of which the test set holds samples, in the order of the models."""
    return [name for name in runs["class_names"].iloc[0] if name in set(table["class"])]


def compare(
    scores: pd.DataFrame, level: float = 0.95, reference: str | None = None
) -> pd.DataFrame:
    """Put scores and paired differences into one table.

    Parameters
    ----------
    scores : DataFrame
        From `resampled_scores`. Repeats of a model are averaged within each resample.
    level : float
        Coverage of the percentile intervals, in (0, 1).
    reference : str, optional
        The model that is compared with each other one; by default every pair is compared.

    Returns
    -------
    DataFrame
        One row a model and score, ``against`` empty; then one row a pair of models and score
        of `SCORES`: ``estimate`` is model minus against, ``p`` the two-sided bootstrap
        p-value, and ``p_holm`` the same corrected for the number of pairs (Holm 1979), one
        family a score. These count the choice of images. ``seeds`` counts trainings (of a
        pair, the seeds that both have), and ``seed_low`` and ``seed_high`` are the smallest
        and largest estimate of one seed.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    averaged = scores.T.groupby(level=["model", "score"], sort=False).mean().T
    models = list(dict.fromkeys(scores.columns.get_level_values("model")))
    pairs = [
        (against, model)
        for against, model in itertools.combinations(models, 2)
        if reference in (None, against, model)
    ]
    # the reference is what the others are taken from
    pairs = [(a, m) if a != reference else (m, a) for a, m in pairs]
    rows = []
    for model, score in averaged:
        low, high = averaged[model, score].iloc[1:].quantile(tails)
        each = scores[model].xs(score, level="score", axis=1).iloc[0]
        estimate = averaged[model, score].iloc[0]
        rows.append((model, "", score, estimate, low, high, np.nan, *_spread(each)))
    for score, (against, model) in itertools.product(SCORES, pairs):
        gap = averaged[model, score] - averaged[against, score]
        low, high = gap.iloc[1:].quantile(tails)
        each = seed_differences(scores, model, against, score)
        p_value = _p_value(gap.iloc[1:])
        rows.append((model, against, score, gap.iloc[0], low, high, p_value, *_spread(each)))
    table = pd.DataFrame(rows, columns=[c for c in _COLUMNS if c != "p_holm"])
    table["p_holm"] = table.groupby("score")["p"].transform(holm)
    return table[list(_COLUMNS)]


def seed_differences(scores: pd.DataFrame, model: str, against: str, score: str) -> pd.Series:
    """Return model minus against on the test set, one value a seed that both have."""
    first, second = (
        scores[name].xs(score, level="score", axis=1).iloc[0] for name in (model, against)
    )
    return (first - second).dropna()


def _spread(each: pd.Series) -> tuple[int, float, float]:
    return len(each), each.min(), each.max()


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
        for name in classes_scored(runs, ours[0]):
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
    side = "higher" if row["estimate"] > 0 else "lower"
    one_sided = row["seed_low"] * row["seed_high"] > 0
    if row["p_holm"] >= alpha:
        end = "within the noise of these test images"
    elif row["seeds"] < 2:
        end = (
            f"{side} by more than chance in these test images explains, with one training each, "
            "so that another seed may differ"
        )
    elif one_sided:
        end = f"{side} by more than chance in these test images explains, and with every seed"
    else:
        end = "not the same way with every seed, so chance in training may explain it"
    seeds = ""
    if row["seeds"] > 1:
        seeds = f", {row['seed_low']:+.3f} to {row['seed_high']:+.3f} over {row['seeds']} seeds"
    return (
        f"{name} of {row['model']} minus {row['against']}: {gap}{seeds}, "
        f"corrected p = {row['p_holm']:.3g}: {end}."
    )
