"""What needs no network: the commonest class, brightness, counts, hand-made features, the truth.

Each is set beside a trained network on the samples that the network is judged on, so that a
reader sees what the network adds.
"""

import json
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
from scipy.spatial import KDTree
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from hsc_utils import manifest, metrics
from hsc_utils.files import shown_path, write_csv
from hsc_utils.shortcuts.features import hand_made
from hsc_utils.study import Run, Study

NETWORK, COMMONEST, CEILING = "the network", "always the commonest class", "true traits (ceiling)"
_COUNT, _COUNT_AND_SIZE = "cell count", "cell count and size"
_INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1, 10, 100)  # scikit-learn's C
_REACH_PX = 8  # how far from its centre a detected cell's true one may lie
_COMPARED = ("auroc", "balanced_accuracy")


def score_baselines(
    run: Run, table: pd.DataFrame, arrays: np.ndarray, paths: Study, traits: Iterable[str] = ()
) -> pd.DataFrame:
    """Score predictors that need no network beside a run, on the samples that it is judged on.

    They are the commonest class; and, each a logistic regression fitted on the training subset
    (numbers standardised, classes weighted equally, the penalty chosen by the validation loss):
    brightness (the mean of each channel); for images the count of cells found in them, and count
    and mean blob size; for cells the blob size; `hand_made` features; and in simulated data the
    traits that the classes were drawn with. That last one knows every trait, also one that the
    slices of an acquisition do not show, so no model of pictures need reach it. Where there is no
    test subset, the penalty was chosen on the samples judged, as was the network's epoch.

    Parameters
    ----------
    run : Run
        A finished run; its channels are used.
    table, arrays
        The samples that it was trained on, as `training.train` took them.
    paths : Study
        For images, ``cells.csv`` is read if there is one; of simulated data ``truth/cells.csv``.
    traits : iterable of str
        Columns of ``truth/cells.csv``.

    Returns
    -------
    DataFrame
        One row per predictor, the network first; also written as ``baselines.csv`` into the run
        directory. ``predictor``; ``features``, how many numbers it knows of a sample (absent for
        the network); ``auroc``, ``balanced_accuracy`` (the paper's) and ``difference`` (AUROC,
        network minus predictor, on the same samples), each with ``…_low`` and ``…_high``, the
        95 % interval over images and groups (NaN where none can be given); and ``missing``, why
        a predictor could not be tried, or empty.

    Raises
    ------
    ValueError
        If `table` does not hold the run's samples.
    """
    samples, class_names = run.predictions, run.config.class_names
    refuse_other_samples(run, table)
    judged = (samples["split"] == run.judged_on).to_numpy()
    probabilities = metrics.probability_matrix(samples[judged], class_names)
    network, of_network = _scored(samples[judged], probabilities, class_names)
    rows = [{"predictor": NETWORK, **network}]
    for name, known in _knowledge(run, table, arrays, paths, list(traits)).items():
        if isinstance(known, str):
            rows.append({"predictor": name, "missing": known})
            continue
        predicted = predict_from(known, samples, class_names)[judged]
        scores, without = _scored(samples[judged], predicted, class_names)
        pairs = zip(of_network, without, strict=True)
        ends = metrics.widest_interval([a["auroc"] - b["auroc"] for a, b in pairs], 0.95)
        scores["difference"] = network["auroc"] - scores["auroc"]
        scores |= zip(("difference_low", "difference_high"), ends, strict=True)
        rows.append({"predictor": name, "features": known.shape[1], **scores})
    columns = ["predictor", "features"]
    columns += [
        f"{key}{end}" for key in (*_COMPARED, "difference") for end in ("", "_low", "_high")
    ]
    scored = pd.DataFrame(rows, columns=[*columns, "missing"])
    scored["features"] = scored["features"].astype("Int64")
    write_csv(run.baselines_file, scored)
    return scored


def refuse_other_samples(run: Run, table: pd.DataFrame) -> None:
    """Raise a ValueError unless a table holds the samples of a run, in their order."""
    if table[f"{run.level}_id"].tolist() != run.predictions["id"].tolist():
        raise ValueError(
            f"{run} was trained on another table of {run.level}s than the one given. Give the "
            "table and pictures that it was trained on, or train it again."
        )


def _scored(
    judged: pd.DataFrame, probabilities: np.ndarray, class_names: tuple[str, ...]
) -> tuple[dict[str, float], list[dict[str, np.ndarray]]]:
    """Score with intervals; and score without each image, and each group (see `metrics`)."""
    arguments = judged["class"], probabilities, class_names
    scores = metrics.score(*arguments)
    without = metrics.scores_without_each(*arguments, judged["image_id"], judged["group"])
    row = {"missing": ""}
    for key in _COMPARED:
        ends = metrics.widest_interval([each[key] for each in without], 0.95, logit=True)
        row |= {key: scores[key], f"{key}_low": ends[0], f"{key}_high": ends[1]}
    return row, without


def _knowledge(
    run: Run, table: pd.DataFrame, arrays: np.ndarray, paths: Study, traits: list[str]
) -> dict[str, pd.DataFrame | str]:
    """Return what each predictor knows of every sample (one row each), or why it knows nothing."""
    of_images = run.level == "image"
    rows = range(len(table)) if of_images else table["row"]
    features = hand_made(arrays, rows, run.config.channels)
    known = {
        COMMONEST: features[[]],
        "brightness": features.filter(regex="^mean "),
    }
    if of_images:
        counted = _or_why_not(lambda: _counts(table, paths))
        known[_COUNT] = counted if isinstance(counted, str) else counted[["count"]]
        known[_COUNT_AND_SIZE] = counted
    else:
        without_size = table["sigma"].isna().all()
        known["blob size"] = "these cells came without one" if without_size else table[["sigma"]]
    known["hand-made features"] = features
    if traits and table["simulated"].any():
        known[CEILING] = _or_why_not(lambda: _true_traits(table, paths, traits))
    return known


def _or_why_not(read: Callable[[], pd.DataFrame]) -> pd.DataFrame | str:
    """Return what was read, or the sentence that says why it cannot be."""
    try:
        return read()
    except (FileNotFoundError, ValueError) as error:
        return str(error)


def _counts(images: pd.DataFrame, paths: Study) -> pd.DataFrame:
    """Count the cells found in each image (as a logarithm), and average their size."""
    record = paths.cells / "provenance.json"
    if not record.exists():
        raise FileNotFoundError("no cells found yet: run notebook 02")
    cells = manifest.read_cells(paths.cells)
    empty = json.loads(record.read_text()).get("images_without_cells", [])
    if len(new := set(images["image_id"]) - set(cells["image_id"]) - set(empty)):
        raise ValueError(f"{len(new)} images were never searched for cells: run notebook 02 again")
    of_image = cells.groupby("image_id")["sigma"].agg(["size", "mean"])
    of_image = of_image.reindex(images["image_id"]).reset_index(drop=True)
    return pd.DataFrame({"count": np.log1p(of_image["size"].fillna(0)), "size": of_image["mean"]})


def _true_traits(table: pd.DataFrame, paths: Study, traits: list[str]) -> pd.DataFrame:
    """Return the simulated traits of each sample, standardised, and their squares.

    A cell's are those of the nearest true cell; an image's are mean and spread over its true
    cells, and their number. What is always above 0 enters with its logarithm as well.
    """
    path = paths.truth / "cells.csv"
    if not path.exists():
        raise FileNotFoundError(f"there is no {shown_path(path)}")
    truth = pd.read_csv(path)
    manifest.check_columns(truth, "source", "y", "x", *traits)
    truth = truth.merge(manifest.read_images(paths.prepared)[["image_id", "source"]], on="source")
    numbers = truth[traits]
    numbers = numbers.join(np.log(numbers.loc[:, (numbers > 0).all()]).add_prefix("log "))
    truth = truth[["image_id", "y", "x"]].join(numbers)
    if truth.empty or ("cell_id" in table and table["y"].isna().all()):
        raise ValueError(f"{shown_path(path)} cannot be brought together with these samples")
    if "cell_id" in table:
        known = _of_nearest(table, truth, [*numbers])
    else:
        of_image = truth.groupby("image_id")[[*numbers]]
        parts = [of_image.mean().add_suffix(" mean"), of_image.std().add_suffix(" spread")]
        known = pd.concat([*parts, np.log(of_image.size()).rename("log cells")], axis=1)
        known = known.reindex(table["image_id"]).reset_index(drop=True)
    trained = known[(table["split"] == "train").to_numpy()]
    known = (known - trained.mean()) / trained.std().replace(0, 1)
    return known.join((known**2).add_suffix(" squared"))


def _of_nearest(cells: pd.DataFrame, truth: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return columns of the true cell nearest to each cell; NaN where none is within reach."""
    known = np.full((len(cells), len(columns)), np.nan)
    true_cells = truth.groupby("image_id").indices
    for image_id, ours in cells.groupby("image_id").indices.items():
        true = truth.iloc[true_cells.get(image_id, [])]
        centres = cells[["y", "x"]].iloc[ours]
        distance, nearest = KDTree(true[["y", "x"]]).query(centres, distance_upper_bound=_REACH_PX)
        near = np.isfinite(distance)
        known[ours[near]] = true[columns].to_numpy()[nearest[near]]
    return pd.DataFrame(known, columns=columns)


def predict_from(
    known: pd.DataFrame, samples: pd.DataFrame, class_names: tuple[str, ...]
) -> np.ndarray:
    """Return the probabilities (N, K) that a logistic regression on some numbers gives samples.

    `samples` has the columns ``class`` and ``split``. Without any number the regression can but
    name the commonest class; a number that is absent counts as its mean in the training subset.
    """
    labels, values = pd.Index(class_names).get_indexer(samples["class"]), known.to_numpy(float)
    train, validation = ((samples["split"] == s).to_numpy() for s in ("train", "validation"))
    if not known.shape[1]:
        commonest = np.bincount(labels[train]).argmax()
        return np.eye(len(class_names))[np.full(len(samples), commonest)]
    weights = compute_sample_weight("balanced", labels[validation])
    models, losses = [], []
    for inverse_penalty in _INVERSE_PENALTIES:
        model = make_pipeline(
            SimpleImputer(keep_empty_features=True),
            StandardScaler(),
            LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=2000),
        )
        models.append(model.fit(values[train], labels[train]))
        chances = model.predict_proba(values[validation])
        every = range(len(class_names))
        losses.append(log_loss(labels[validation], chances, sample_weight=weights, labels=every))
    return models[np.argmin(losses)].predict_proba(values)


def baseline_table(scored: pd.DataFrame) -> pd.DataFrame:
    """Lay out what `score_baselines` returned for a reader: estimates with their 95 % intervals."""
    lines = {}
    for row in scored.to_dict("records"):
        known = "pixels" if row["predictor"] == NETWORK else row["features"]
        lines[row["predictor"]] = {
            "numbers known": "–" if row["missing"] else known,
            "AUROC": row["missing"] or _with_interval(row, "auroc"),
            "balanced accuracy (the paper's)": _with_interval(row, "balanced_accuracy"),
            "AUROC, network minus it": _with_interval(row, "difference", "+.3f"),
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("predictor")


def _with_interval(row: Mapping[str, float], key: str, form: str = ".3f") -> str:
    """Write an estimate with its interval, as far as there are such."""
    estimate, low, high = (row[f"{key}{end}"] for end in ("", "_low", "_high"))
    if np.isnan(estimate):
        return "–"
    return metrics.with_interval(estimate, low, high, form)


def sentence(scored: pd.DataFrame) -> str:
    """Say in plain words what the network adds to the best predictor that needs none.

    `scored` is what `score_baselines` returned. The best is that of highest AUROC on the samples
    judged, a choice that favours it a little; the ceiling is told apart.
    """
    lines = scored.set_index("predictor")
    missing = lines.loc[lines["missing"] != "", "missing"]
    rivals = lines.drop(index=[NETWORK, CEILING, *missing.index], errors="ignore")
    if rivals["auroc"].isna().all():
        return "The samples are of one class only, so nothing is known of telling classes apart."
    name = rivals["auroc"].idxmax()
    best, gap = rivals.loc[name], _with_interval(rivals.loc[name], "difference", "+.3f")
    reached = f"{name} with an AUROC of {best['auroc']:.3f}"
    equals = [other for other in rivals.index if not rivals.loc[other, "difference_low"] > 0]
    if np.isnan(best["difference_low"]):
        text = f"Too little to judge what the network adds to the best of the others, {reached}"
    elif best["difference_high"] < 0:
        text = f"Something that needs no network beats this network: {reached}"
    elif best["difference_low"] <= 0:
        text = (
            f"Nothing shows that a network is needed here: it is not told apart from a regression "
            f"on {reached}"
        )
    elif equals:
        text = (
            f"The network exceeds the best predictor that needs no network, {reached}, but is not "
            f"told apart from {', '.join(equals)}"
        )
    else:
        text = (
            f"The network exceeds every predictor that needs no network, the best being {reached}"
        )
    text += f"; the difference, network minus it, is {gap}."
    if CEILING in lines.index.difference(missing.index):
        ceiling = lines.loc[CEILING, "auroc"]
        text += f" A regression on the true traits of the simulated cells reaches {ceiling:.3f}."
    untried = "; ".join(f"{name} ({why.rstrip('.')})" for name, why in missing.items())
    return text + f" Not tried: {untried}." * bool(untried)
