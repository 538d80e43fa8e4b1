"""Compare runs by their stored predictions: scores, and paired differences with intervals."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from hsc_utils import metrics
from hsc_utils.files import shown_path
from hsc_utils.study import SLICES, Run, Study, tabulate_runs

SCORES = ("auroc", "balanced_accuracy")


class ComparisonError(ValueError):
    """Runs that cannot be compared fairly."""


def find_runs(study: Study, level: str, models: Sequence[str]) -> pd.DataFrame:
    """Tabulate every finished run that a study holds of some models.

    Parameters
    ----------
    study, level, models
        A study, ``image`` or ``cell``, and names as `study.model_name` gives them.

    Returns
    -------
    DataFrame
        From `study.tabulate_runs`, by model in the order given and by seed.

    Raises
    ------
    ComparisonError
        If a model has no finished run (the message names those that have), or runs do not
        belong together (`refuse_mixtures`). Other seeds without results are named in print.
    """
    if level not in ("image", "cell"):
        raise ComparisonError(f"level: {level!r} is not one of image, cell.")
    models, folder = list(dict.fromkeys(models)), study.root / "runs" / level
    found = [Run(path) for model in models for path in (folder / model).glob("seed*")]
    found.sort(key=lambda run: (models.index(run.model), run.seed))
    reasons = {run: run.failure for run in found}
    left_out = [f"Left out: {run}: {reason}" for run, reason in reasons.items() if reason]
    usable = [run for run, reason in reasons.items() if reason is None]
    if absent := [model for model in models if model not in {run.model for run in usable}]:
        known = [path.name for path in sorted(folder.glob("*"))]
        finished = [model for model in known if study.finished_runs(level, model)]
        raise ComparisonError(
            f"There is no finished {level} run of {', '.join(absent)}. Finished are: "
            f"{', '.join(finished) or 'none'}. Train the others with notebook 03 (images) or 04 "
            "(cells), or name other models (models and ablation in notebook 05). "
            f"{' '.join(left_out)}".strip()
        )
    print("\n".join(left_out), end="\n" * bool(left_out))
    table = tabulate_runs(usable)
    refuse_mixtures(table)
    return table


def refuse_mixtures(runs: pd.DataFrame) -> None:
    """Refuse no runs at all, and runs that do not belong together, naming two of them.

    Parameters
    ----------
    runs : DataFrame
        From `study.tabulate_runs`; those that are not finished are passed over.

    Raises
    ------
    ComparisonError
        If there is no run, or finished runs lie in several studies, or some learnt from
        simulated data and others from real.
    """
    if runs.empty:
        raise ComparisonError("No run was given: name at least one model with a finished run.")
    finished = list(runs[runs["missing"] == ""].itertuples())
    for one, two in itertools.pairwise(finished):
        studies = [shown_path(run.run.directory.parents[3]) for run in (one, two)]
        kinds = ["simulated" if run.simulated else "real" for run in (one, two)]
        if one.run.directory.parents[3] != two.run.directory.parents[3]:
            differs = f"lie in two studies, {studies[0]} and {studies[1]}"
        elif one.simulated != two.simulated:
            differs = f"learnt from {kinds[0]} and from {kinds[1]} data"
        else:
            continue
        raise ComparisonError(
            f"{one.run} and {two.run} {differs}: scores on different data do not compare. Give "
            "runs of one study, trained on the same tables."
        )


def find_runs_on_slices(study: Study, level: str, architecture: str) -> pd.DataFrame:
    """Tabulate, like `find_runs`, one backbone's runs on all slices and on any choice of fewer."""
    fewer = [f"{architecture}-slice{subset}" for subset in SLICES]
    found = [name for name in fewer if study.finished_runs(level, name)]
    return find_runs(study, level, [architecture, *found])


def missing_slices(runs: pd.DataFrame) -> list[str]:
    """Name the subsets of the three slices, such as ``0+2``, that no run has seen."""
    return [subset for subset in SLICES if subset not in set(runs["channels"])]


def scored_subset(run: Run, subset: str) -> str:
    """Return the subset to score: the one asked for, or in print validation for a missing test."""
    if subset != "test" or run.judged_on == "test":
        return subset
    print(
        f"{run} has no test subset, so its validation subset is used. It also decided when "
        "training stopped, so scores on it flatter."
    )
    return run.judged_on


def read_predictions(runs: pd.DataFrame, subset: str = "test") -> list[pd.DataFrame]:
    """Read each run's stored predictions of one subset, aligned by id.

    Parameters
    ----------
    runs, subset
        From `find_runs`, and a value of the column ``split``.

    Returns
    -------
    list of DataFrame
        One table a run, rows sorted by ``id``, so that equal rows are the same sample.

    Raises
    ------
    FileNotFoundError
        If a run is not finished.
    ComparisonError
        If the runs have other levels or classes, did not predict the same samples with the
        same labels, or saw other pixels of them: the message names the difference. Also if
        there is nothing to score: no such subset, a single class in it, or damaged numbers.
    """
    _refuse_other_kinds(runs)
    tables = []
    for run, class_names in zip(runs["run"], runs["class_names"], strict=True):
        table = _checked(run, class_names)
        subsets = ", ".join(sorted(set(table["split"])))
        table = table[table["split"] == subset].sort_values("id", ignore_index=True)
        if table.empty:
            raise ComparisonError(
                f"{run} predicted nothing of subset '{subset}'. Choose one that it did: {subsets}."
            )
        if table["class"].nunique() < 2:
            raise ComparisonError(
                f"The {subset} set of {run} holds one class alone, {table['class'].iloc[0]}, which "
                f"leaves nothing to tell apart. Choose another subset ({subsets}), or add images."
            )
        tables.append(table)
        if unlike := _unlike(tables[0], table, str(runs["run"].iloc[0]), str(run)):
            raise ComparisonError(
                f"The {subset} sets of {runs['run'].iloc[0]} and {run} differ: "
                f"{'; '.join(unlike)}. Train both on the same tables, then compare."
            )
    _refuse_other_training(runs)
    return tables


def _refuse_other_training(runs: pd.DataFrame) -> None:
    """Refuse runs that tell the same test set but learnt from other samples, or other pixels."""
    firsts = {}
    for run in runs["run"]:
        config = run.config
        # of images, the pixels are hashed as resized
        size = config.input_size if config.level == "image" else None
        first, samples = firsts.setdefault(size, (run, config.samples_sha256))
        if samples != config.samples_sha256:
            raise ComparisonError(
                f"{first} and {run} were trained on two versions of the tables or their pixels, "
                "though they are tested on the same samples. Train both again, then compare."
            )


def _checked(run: Run, class_names: Sequence[str]) -> pd.DataFrame:
    """Read a run's predictions; refuse columns, classes or probabilities that cannot be scored."""
    table, columns = run.predictions, [f"p_{name}" for name in class_names]
    absent = {"id", "image_id", "class", "split", *columns} - set(table)
    unknown = set() if absent else set(table["class"]) - set(class_names)
    if absent or unknown or not np.isfinite(table[columns].to_numpy(float)).all():
        what = f"lacks {', '.join(sorted(absent))}" if absent else "holds no finite numbers"
        what = f"holds the classes {', '.join(sorted(map(str, unknown)))}" if unknown else what
        raise ComparisonError(
            f"{shown_path(run.predictions_file)} {what}, but its model's classes are "
            f"{', '.join(class_names)}. Delete it and train that model again."
        )
    return table


def _refuse_other_kinds(runs: pd.DataFrame) -> None:
    """Refuse unfinished or repeated runs, and other levels, classes or pixels than the first's."""
    refuse_mixtures(runs)
    first = runs.iloc[0]
    for run in runs.itertuples():
        run.run.check_finished()
        if run.missing:
            raise ComparisonError(f"{run.run} cannot be compared: {run.missing}")
        for key in ("level", "class_names"):
            if getattr(run, key) != first[key]:
                raise ComparisonError(
                    f"{key} of {run.run} is {getattr(run, key)}, but of {first['run']} it is "
                    f"{first[key]}: compare like with like."
                )
    if (twice := runs.duplicated(["model", "seed"])).any():
        raise ComparisonError(
            f"{runs.loc[twice, 'run'].iloc[0]} is given twice, or shares its name and seed."
        )
    other = runs.drop_duplicates("pixels").query("pixels != ''")
    if len(other) > 1:
        (one, two), (ours, theirs) = other["run"].iloc[:2], other["pixels"].iloc[:2]
        raise ComparisonError(
            f"{one} and {two} saw two versions of patches.npy (SHA-256 {ours[:8]}… and "
            f"{theirs[:8]}…), so the same cells need not look the same. Train both on the same "
            "patches, then compare."
        )


def _unlike(first: pd.DataFrame, second: pd.DataFrame, *names: str) -> list[str]:
    """Say how the samples of two tables of predictions differ; nothing if they do not."""
    sample = ["id", "image_id", "class"]
    if first[sample].equals(second[sample]):
        return []
    both = first.merge(second, "outer", "id", suffixes=("", "_second"), indicator="in")
    reasons = []
    for name, place in zip(names, ("left_only", "right_only"), strict=True):
        if len(only := both.loc[both["in"] == place, "id"]):
            reasons.append(f"{len(only)} only in {name}, such as {only.iloc[0]}")
    both = both[both["in"] == "both"]
    for column in ("class", "image_id"):
        if len(other := both[both[column] != both[f"{column}_second"]]):
            sample, ours, theirs = other[["id", column, f"{column}_second"]].iloc[0]
            reasons.append(
                f"{len(other)} with another {column}, such as {sample} ({ours} and {theirs})"
            )
    return reasons


def resampled_scores(
    runs: pd.DataFrame, tables: Sequence[pd.DataFrame], *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Score every run on the test set as it is and on bootstrap resamples of its images.

    Whole images are drawn, since cells of one image are not independent, and each resample
    is the same for all runs, so that differences between them are paired.

    Parameters
    ----------
    runs, tables
        From `find_runs` and `read_predictions`.
    resamples, seed : int
        Number of resamples, and their seed.

    Returns
    -------
    DataFrame
        Indexed by ``resample`` (0 the test set itself), columns (model, seed, score):
        `SCORES` and ``auroc <class>``, for the classes that the test set holds.
    """
    images, codes = np.unique(tables[0]["image_id"], return_inverse=True)
    drawn = metrics.resampled_images(len(images), resamples, np.random.default_rng(seed))
    weights = [np.ones((1, len(images))), *drawn]
    class_names = runs["class_names"].iloc[0]
    scores = {}
    for run, table in zip(runs.itertuples(), tables, strict=True):
        truth = pd.Index(class_names).get_indexer(table["class"])
        sums = metrics.sums_by_image(truth, metrics.probability_matrix(table, class_names), codes)
        scored = [metrics.weighted_scores(chunk, sums) for chunk in weights]
        columns = {key: np.concatenate([overall[key] for overall, _ in scored]) for key in SCORES}
        by_class = np.concatenate([classes["auroc"] for _, classes in scored])
        columns |= {
            f"auroc {name}": by_class[:, class_names.index(name)]
            for name in _classes_scored(runs, table)
        }
        scores[run.model, run.seed] = pd.DataFrame(columns)
    return pd.concat(scores, axis=1, names=["model", "seed", "score"]).rename_axis("resample")


def _classes_scored(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Name the classes of which the test set holds samples, in the order of the models."""
    return [name for name in runs["class_names"].iloc[0] if name in set(table["class"])]


def compare(
    scores: pd.DataFrame, coverage: float = 0.95, baseline: str | None = None
) -> pd.DataFrame:
    """Put scores and paired differences into one table.

    Parameters
    ----------
    scores : DataFrame
        From `resampled_scores`. Repeats of a model are averaged within each resample.
    coverage : float
        Of the percentile intervals, in (0, 1).
    baseline : str, optional
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
    averaged = scores.T.groupby(level=["model", "score"], sort=False).mean().T
    whole = scores.iloc[0]
    models = list(scores.columns.unique("model"))
    if baseline is not None and baseline not in models:
        raise ComparisonError(f"baseline: {baseline!r} is not one of {', '.join(models)}.")
    if baseline is None:
        pairs = list(itertools.combinations(models, 2))
    else:
        pairs = [(other, baseline) for other in models if other != baseline]
    rows = [
        _row(model, "", score, averaged[model, score], whole.loc[model, :, score], coverage)
        for model, score in averaged
    ]
    for score, (against, model) in itertools.product(SCORES, pairs):
        gap = averaged[model, score] - averaged[against, score]
        gap_by_seed = whole.loc[model, :, score] - whole.loc[against, :, score]
        rows.append(_row(model, against, score, gap, gap_by_seed, coverage))
    table = pd.DataFrame(rows)
    return table.assign(p_holm=table.groupby("score")["p"].transform(holm))


def _row(
    model: str, against: str, score: str, values: pd.Series, by_seed: pd.Series, coverage: float
) -> dict[str, object]:
    """Describe a score or a difference by its values on the resamples and its values by seed."""
    low, high = metrics.interval(values.iloc[1:].to_numpy(), coverage)
    return {
        "model": model,
        "against": against,
        "score": score,
        "estimate": values.iloc[0],
        "low": low,
        "high": high,
        "p": _p_value(values.iloc[1:]) if against else np.nan,
        "p_holm": np.nan,
        "seeds": by_seed.count(),
        "seed_low": by_seed.min(),
        "seed_high": by_seed.max(),
    }


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


def roc_curves(
    runs: pd.DataFrame, tables: Sequence[pd.DataFrame]
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Return false and true positive rates by (model, class), from what `resampled_scores` takes.

    Curves of a model's repeats are averaged at equal false positive rates.
    """
    grid = np.linspace(0, 1, 501)
    curves = {}
    for model in runs["model"].unique():
        ours = [tables[index] for index in np.flatnonzero(runs["model"] == model)]
        for name in _classes_scored(runs, ours[0]):
            drawn = [roc_curve(t["class"] == name, t[f"p_{name}"]) for t in ours]
            if len(drawn) == 1:
                curves[model, name] = drawn[0][:2]
            else:
                heights = [np.interp(grid, false, true) for false, true, _ in drawn]
                curves[model, name] = grid, np.mean(heights, axis=0)
    return curves


def verdict(row: pd.Series) -> str:
    """Say in a sentence what a row of `compare` with ``against`` lets a fair reader conclude."""
    name = row["score"].replace("_", " ").replace("auroc", "AUROC")
    gap = f"{row['estimate']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
    side = "higher" if row["estimate"] > 0 else "lower"
    if row["p_holm"] >= 0.05:
        end = "within the noise of these test images"
    elif row["seeds"] < 2:
        end = (
            f"{side} by more than chance in these test images explains, with one training each, "
            "so that another seed may differ"
        )
    elif row["seed_low"] * row["seed_high"] > 0:
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
