"""Compare runs by their stored predictions: scores, and paired differences with intervals."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy

from hsc_utils import metrics
from hsc_utils.files import shown_path
from hsc_utils.study import (
    SLICES,
    Run,
    Study,
    model_words,
    parse_model_name,
    tabulate_runs,
)

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


def leave_one_out_scores(runs: pd.DataFrame, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Score every run on the test set, and without each image, and without each group in turn.

    Parameters
    ----------
    runs, tables
        From `find_runs` and `read_predictions`.

    Returns
    -------
    DataFrame
        Columns (model, seed, score): `SCORES` and ``auroc <class>``, for the classes that the
        test set holds. Index (unit, without): ``whole`` first; then ``image`` and, where groups
        count (see `metrics.sampling_units`), ``group``, a row per unit left out.
    """
    first = tables[0]
    codes, units = metrics.sampling_units(first["class"], first["image_id"], first.get("group"))
    weights = [np.ones((1, codes.max() + 1))] + [metrics.leave_one_out(u)[1:] for u in units]
    names = ["whole", "image", "group"][: len(weights)]
    index = [(name, k) for name, w in zip(names, weights, strict=True) for k in range(len(w))]
    class_names = list(runs["class_names"].iloc[0])
    scores = {}
    for run, table in zip(runs.itertuples(), tables, strict=True):
        truth = pd.Index(class_names).get_indexer(table["class"])
        sums = metrics.sums_by_image(truth, metrics.probability_matrix(table, class_names), codes)
        overall, by_class = metrics.weighted_scores(np.vstack(weights), sums)
        columns = {key: overall[key] for key in SCORES}
        columns |= {
            f"auroc {name}": by_class["auroc"][:, class_names.index(name)]
            for name in _classes_scored(runs, table)
        }
        scores[run.model, run.seed] = pd.DataFrame(columns)
    table = pd.concat(scores, axis=1, names=["model", "seed", "score"])
    return table.set_index(pd.MultiIndex.from_tuples(index, names=["unit", "without"]))


def _classes_scored(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Name the classes of which the test set holds samples, in the order of the models."""
    return [name for name in runs["class_names"].iloc[0] if name in set(table["class"])]


def compare(
    scores: pd.DataFrame, coverage: float = 0.95, baseline: str | None = None
) -> pd.DataFrame:
    """Put scores and differences into one table, with intervals over images, groups and seeds.

    The variance over images (or groups, if larger) of the mean over seeds is a jackknife's, laid
    about a score by `metrics.logit_interval`; to it comes the variance of that mean between seeds,
    if there are several; the degrees of freedom are Satterthwaite's. ``benchmarks/coverage.py``
    measures what the intervals cover and how often equal models are called different.

    Parameters
    ----------
    scores : DataFrame
        From `leave_one_out_scores`.
    coverage : float
        Of the intervals, in (0, 1).
    baseline : str, optional
        The model that is compared with each other one; by default every pair is compared.

    Returns
    -------
    DataFrame
        One row per model and score, ``against`` empty; then one row per pair of models and score of
        `SCORES`: ``estimate`` is model minus against, ``p`` the two-sided p-value of its t test
        (`holm` corrects several). ``seeds`` counts trainings, of a pair the fewer of the two; with
        one, interval and p-value speak of these trained models alone. ``seed_low`` and
        ``seed_high`` are a model's smallest and largest score of one seed. All NaN where a class
        has too few images (see `metrics.sampling_units`).
    """
    models = list(scores.columns.unique("model"))
    if baseline is not None and baseline not in models:
        raise ComparisonError(f"baseline: {baseline!r} is not one of {', '.join(models)}.")
    if baseline is None:
        pairs = list(itertools.combinations(models, 2))
    else:
        pairs = [(other, baseline) for other in models if other != baseline]
    rows = []
    for model, score in scores.columns.droplevel("seed").unique():
        by_seed = scores[model].xs(score, axis=1, level="score")
        rows.append({"model": model, "against": "", "score": score} | _score(by_seed, coverage))
    for score, (against, model) in itertools.product(SCORES, pairs):
        ours, theirs = (scores[name].xs(score, axis=1, level="score") for name in (model, against))
        row = {"model": model, "against": against, "score": score}
        rows.append(row | _difference(ours, theirs, coverage))
    return pd.DataFrame(rows)


def _score(by_seed: pd.DataFrame, coverage: float) -> dict[str, float]:
    """Describe one score of a model: its values (unit left out × seed)."""
    whole, mean = by_seed.loc["whole"].iloc[0], by_seed.mean(axis=1)
    estimate = mean.loc["whole"].iloc[0]
    parts = _widest(mean, _between_seeds(whole))
    width = metrics.half_width(parts, coverage) if parts else np.nan
    low, high = metrics.logit_interval(estimate, width)
    return {
        "estimate": estimate,
        "low": low,
        "high": high,
        "p": np.nan,
        "seeds": whole.count(),
        "seed_low": whole.min(),
        "seed_high": whole.max(),
    }


def _difference(ours: pd.DataFrame, theirs: pd.DataFrame, coverage: float) -> dict[str, float]:
    """Describe the difference of two models in one score, each (unit left out × seed)."""
    gap = ours.mean(axis=1) - theirs.mean(axis=1)
    estimate = gap.loc["whole"].iloc[0]
    seeds = [part for each in (ours, theirs) for part in _between_seeds(each.loc["whole"].iloc[0])]
    parts = _widest(gap, seeds)
    width = p_value = np.nan
    variance, freedom = metrics.summed(parts) if parts else (np.nan, np.nan)
    if variance > 0:
        width = metrics.half_width(parts, coverage)
        p_value = 2 * scipy.stats.t.sf(abs(estimate) / np.sqrt(variance), freedom)
    elif variance == 0 and estimate == 0:
        width, p_value = 0.0, 1.0
    return {
        "estimate": estimate,
        "low": estimate - width,
        "high": estimate + width,
        "p": p_value,
        "seeds": min(ours.shape[1], theirs.shape[1]),
        "seed_low": np.nan,
        "seed_high": np.nan,
    }


def _between_seeds(values: pd.Series) -> list[tuple[float, float]]:
    """Return the variance of a mean over seeds, with its degrees of freedom; nothing for one."""
    return [(values.var(ddof=1) / len(values), len(values) - 1)] if len(values) > 1 else []


def _widest(values: pd.Series, seeds: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the parts of a variance: the larger of images and groups, and that over seeds."""
    units = [unit for unit in ("image", "group") if unit in values.index.unique("unit")]
    choices = [[metrics.jackknife(values.loc[unit].to_numpy()), *seeds] for unit in units]
    return max(choices, key=lambda parts: metrics.half_width(parts, 0.95), default=[])


def holm(*tables: pd.DataFrame) -> list[pd.DataFrame]:
    """Correct the p-values of several tables for their number, all as one family (Holm 1979).

    Each table of `compare` is returned with a column ``p_holm``, NaN where ``p`` is.
    """
    together = pd.concat(tables, ignore_index=True)["p"]
    ordered = together.dropna().sort_values()
    corrected = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)
    ends = np.cumsum([len(table) for table in tables])[:-1]
    parts = np.split(corrected.reindex(together.index).to_numpy(), ends)
    return [table.assign(p_holm=part) for table, part in zip(tables, parts, strict=True)]


def roc_curves(
    runs: pd.DataFrame, tables: Sequence[pd.DataFrame]
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Return false and true positive rates by (model, class), from runs and their predictions.

    Curves of a model's repeats are averaged at equal false positive rates.
    """
    from sklearn.metrics import roc_curve  # all else is done without its library

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


def trained_once(table: pd.DataFrame) -> list[str]:
    """Say, where it is so, that differences of `compare` speak of single trainings alone."""
    if (table["seeds"] >= 2).all():
        return []
    return [
        "Models were trained once each: whether their architectures differ takes several trainings."
    ]


def conclusions(pairs: pd.DataFrame, added: pd.DataFrame, slice_names: Sequence[str]) -> list[str]:
    """Say in few sentences what differences in AUROC show: of slices, of networks, and for whom.

    Parameters
    ----------
    pairs, added : DataFrame
        Differences of `compare`, corrected by `holm`: of models, and of all slices against fewer.
    slice_names : sequence of str
        From `manifest.slice_names`.
    """
    said, gains = [], added[added["score"] == "auroc"]
    if len(gains):
        listed = [
            f"{row['estimate']:+.3f} over {_slices_seen(row['against'], slice_names)}"
            for row in gains.to_dict("records")
        ]
        sure = int(((gains["p_holm"] < 0.05) & (gains["estimate"] > 0)).sum())
        beyond = "each" if sure == len(gains) else f"{sure} of {len(gains)}"
        said.append(
            f"{model_words(gains['model'].iloc[0])} on all slices against the same on fewer, by "
            f"AUROC: {', '.join(listed)}; {beyond} beyond chance."
        )
    both = pairs[(pairs["score"] == "auroc") & ~pairs["against"].str.contains("-slice")]
    said += [verdict(row) for row in both.to_dict("records")]
    return said + trained_once(pd.concat([pairs, added])) if said else said


def _slices_seen(model: str, slice_names: Sequence[str]) -> str:
    """Name the slices of a model that sees fewer, such as DIC (slice 0)."""
    seen = []
    for channel in parse_model_name(model)[1]:
        number, _, name = slice_names[channel].partition(", ")
        seen.append(f"{name} ({number.lower()})" if name else number.lower())
    return " and ".join(seen)


def verdict(row: Mapping[str, object]) -> str:
    """Say in a sentence what a row of `compare` with ``against`` lets a fair reader conclude."""
    text = f"{_score_words(row['score'])} of {_compared(row)}: {row['estimate']:+.3f}"
    if np.isnan(row["p_holm"]):
        return (
            f"{text}. No interval and no verdict: a class has fewer than {metrics.MIN_IMAGES} "
            "independent test images, or no image moves the scores."
        )
    text += f" ({row['low']:+.3f} to {row['high']:+.3f}), corrected p {_p_value(row['p_holm'])}: "
    side = "higher" if row["estimate"] > 0 else "lower"
    if row["p_holm"] >= 0.05:
        return f"{text}not told apart."
    if row["seeds"] < 2:
        return f"{text}{side} for these two trained models."
    return f"{text}{side}, by more than the choice of images and of seeds explains."


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out rows of `compare`, corrected by `holm`, for a reader: one row per number, as text."""
    lines = [
        {
            "model, or difference": _compared(row),
            "score": _score_words(row["score"]),
            "value (95 % interval)": metrics.with_interval(
                row["estimate"], row["low"], row["high"], "+.3f" if row["against"] else ".3f"
            ),
            "p (corrected)": _p_value(row["p_holm"]).removeprefix("= "),
            "trainings": str(row["seeds"]),
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(lines)


def _compared(row: Mapping) -> str:
    """Name a model, or which is taken from which."""
    model = model_words(row["model"])
    return f"{model} minus {model_words(row['against'])}" if row["against"] else model


def _score_words(score: str) -> str:
    return score.replace("_", " ").replace("auroc", "AUROC")


def _p_value(p: float) -> str:
    """Write a p-value with an equals sign, or as below 0.001; a dash where there is none."""
    if np.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
