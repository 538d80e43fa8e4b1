"""The audit: could a network be right for the wrong reason? What each question measures.

Each function ``ask_…`` asks some questions of one network, and returns findings, one row each:
``level``, ``key`` (of `verdicts.QUESTIONS`), ``estimate`` with its 95 % interval ``low`` and
``high``, the one-sided p-value ``p`` against "no shortcut" (NaN where nothing can be said), and
``why``.
`verdicts.closing_table` corrects the p-values for their number and turns them into verdicts.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.spatial import KDTree
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hsc_utils import manifest, metrics, training
from hsc_utils.files import from_root
from hsc_utils.shortcuts.baselines import predict_from, refuse_other_samples
from hsc_utils.shortcuts.features import hand_made
from hsc_utils.shortcuts.retrain import hold_out_days, train_on_surroundings
from hsc_utils.shortcuts.verdicts import ALARM_LEVEL, SMALLEST
from hsc_utils.shortcuts.views import (
    AS_IT_IS,
    OTHER_BACKGROUND,
    OWN_BACKGROUND,
    SURROUNDINGS,
    Surroundings,
    cell_views,
    find_cells,
)
from hsc_utils.study import Run, Study

_NO_IMAGES = "these cells came as images of their own, without the fields they lay in"
_UNKNOWN_DAY = "the column group of the table names no day (or mouse) for every image"
_UNKNOWN_TIME = "the column acquired_at of images.csv is empty for some image"
_FACTS_OF = {
    "acquisition": (
        "number of slices",
        "size of the image",
        "size of the file",
        "hour of acquisition",
    ),
    "day": ("day",),
    "count": ("number of cells",),
    "surroundings": ("brightness beside the cells", "sharpness beside the cells"),
}
_THIRDS = ("lowest", "middle", "highest")
_AT_ONCE = 2048  # cells whose views are in memory at a time
_BETRAYED = 0.3  # correlation from which a painted picture tells how much of it is painted
_REACH = 2  # sides of a patch within which another cell's centre makes it a neighbour
ONLY_CELLS, SAME_NUMBER = "only the cells", "the same number of cells"


class Subject(NamedTuple):
    """A finished run under audit, and the samples that it was trained on.

    `table` is ``images.csv`` or ``cells.csv``, `arrays` their pictures, `without` the same with
    every cell painted out, and `usable` says which of these show anything else, bool (N,);
    `facts` is what is known of each sample without a look at a cell, or why it is not. `betrayal`
    is a sentence where the pictures without cells betray what was painted out, otherwise empty.
    """

    run: Run
    table: pd.DataFrame
    arrays: np.ndarray
    without: np.ndarray
    usable: np.ndarray
    facts: Mapping[str, pd.DataFrame | str]
    betrayal: str

    @property
    def rows(self) -> np.ndarray:
        """Where the picture of each sample lies in `arrays`."""
        return self.table["row"].to_numpy() if "row" in self.table else np.arange(len(self.table))

    @property
    def judged(self) -> np.ndarray:
        """Which samples the run is judged on, bool (N,)."""
        return (self.table["split"] == self.run.judged_on).to_numpy()

    @property
    def predictions(self) -> pd.DataFrame:
        """What the run predicted for the samples that it is judged on."""
        return self.run.predictions[self.judged].reset_index(drop=True)


def subject_of(
    run: Run,
    table: pd.DataFrame,
    arrays: np.ndarray,
    surroundings: Surroundings,
    paths: Study,
) -> Subject:
    """Bring a finished run together with its samples, and with what is known of their images.

    Parameters
    ----------
    run : Run
        A finished run.
    table, arrays
        The samples that it was trained on, as `training.train` took them.
    surroundings : Surroundings
        From `write_surroundings`.
    paths : Study
        Its images, cells and raw files are looked at.

    Raises
    ------
    ValueError
        If `table` does not hold the run's samples.
    """
    refuse_other_samples(run, table)
    table, usable = table.reset_index(drop=True), np.ones(len(table), bool)
    without = surroundings.images
    if run.level == "cell":
        without, usable = surroundings.patches, surroundings.cells["usable"].to_numpy()
    subject = Subject(run, table, arrays, without, usable, {}, "")
    subject = subject._replace(facts=_facts(subject, paths))
    return subject._replace(betrayal=_betrayal(subject))


def _betrayal(subject: Subject) -> str:
    """Say whether the class shows in how much was painted out, and that in the painted picture."""
    painted = [
        (subject.arrays[row] != subject.without[row]).any(axis=-1).sum() for row in subject.rows
    ]
    area = pd.DataFrame({"area": np.log1p(painted)})
    classes, table = subject.run.config.class_names, subject.table
    told = _judge(_auroc(subject, predict_from(area, table, classes)), 0.5)
    if not told["p"] < ALARM_LEVEL:
        return ""
    known = pd.concat([subject.facts[name] for name in _FACTS_OF["surroundings"]], axis=1)
    # within classes: else a background that goes with the class would tell the area through it
    known = known.join(area).loc[subject.usable]
    known -= known.groupby([table["class"], table["split"]]).transform("mean")
    subset = table.loc[known.index, "split"]
    trained, judged = subset == "train", subset == subject.run.judged_on
    beside, size = known.drop(columns="area"), known["area"]
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 6)))
    model.fit(beside[trained], size[trained])
    guessed = model.predict(beside[judged])
    guessed += 1e-9 * np.arange(len(guessed))  # a constant guess correlates with nothing
    shown, chance = stats.pearsonr(guessed, size[judged])
    if shown <= _BETRAYED or chance > ALARM_LEVEL:
        return ""
    return (
        f"How much was painted out goes with the class (AUROC {told['estimate']:.2f}) and can be "
        f"guessed from the painted pictures (correlation {shown:.2f}), so an alarm would mean "
        "nothing."
    )


def _unless_betrayed(subject: Subject, found: dict) -> dict:
    """Withdraw an alarm that the painting itself may have caused."""
    if not subject.betrayal or not found["p"] < ALARM_LEVEL:
        return found
    return found | {"p": np.nan, "why": subject.betrayal}


def _facts(subject: Subject, paths: Study) -> dict[str, pd.DataFrame | str]:
    """List what is known of each sample (one row each) without a look at a cell."""
    beside = hand_made(subject.without, subject.rows, subject.run.config.channels)
    beside[~subject.usable] = np.nan
    known = {
        "day": _days(subject),
        "brightness beside the cells": beside.filter(regex="^mean "),
        "sharpness beside the cells": beside.filter(regex="^band "),
    }
    of_files = ("number of slices", "size of the image", "size of the file", "hour of acquisition")
    if not (paths.prepared / "images.csv").exists():
        return dict.fromkeys((*of_files, "number of cells"), _NO_IMAGES) | known
    images = manifest.read_images(paths.prepared).set_index("image_id")
    images = images.loc[subject.table["image_id"]].reset_index()
    counts = manifest.read_cells(paths.cells)["image_id"].value_counts()
    counted = images["image_id"].map(counts).fillna(0).to_frame("count")
    stated = pd.to_datetime(images["acquired_at"], errors="coerce", utc=True, format="ISO8601")
    hour = (stated.dt.hour + stated.dt.minute / 60).to_frame("hour")
    values = [images[["slices"]], images[["height", "width"]], _file_sizes(images, paths)]
    values.append(hour if stated.notna().all() else _UNKNOWN_TIME)
    return dict(zip(of_files, values, strict=True)) | {"number of cells": np.log1p(counted)} | known


def _days(subject: Subject) -> pd.DataFrame | str:
    """Return the day of each sample, one column per day, or why it tells nothing."""
    table = subject.table
    if (table["group"] == "").any():
        return _UNKNOWN_DAY
    learnt = table.loc[table["split"] == "train", "group"]
    if not table.loc[subject.judged, "group"].isin(learnt).any():
        return "no day of the samples judged was learnt from: the split keeps days whole"
    return pd.get_dummies(table["group"]).astype(float)


def _file_sizes(images: pd.DataFrame, paths: Study) -> pd.DataFrame | str:
    """Return the size of the file of each image, as a logarithm, or why it is not known."""
    try:
        record = json.loads((paths.prepared / "provenance.json").read_text())
        folder = from_root(record["parameters"]["raw_dir"])
        return pd.DataFrame({"bytes": [np.log((folder / s).stat().st_size) for s in images.source]})
    except (OSError, ValueError, LookupError, TypeError):
        return "the raw files do not lie where notebook 01 read them"


def ask_trivial(subject: Subject) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ask what can be told without looking at a cell, and what the network adds to that.

    Predictors are logistic regressions fitted on the training subset. What the network adds to
    them is judged by two further regressions, one with and one without the network's output,
    fitted on the validation subset, since its output on its own training samples is no evidence.

    Returns
    -------
    findings, alone : DataFrame
        Findings, and one row for each fact alone: ``known``, ``auroc``, ``low``, ``high`` and
        ``missing`` (why it was not tried, or empty).
    """
    alone = []
    for name, known in subject.facts.items():
        row = {"known": name, "missing": known if isinstance(known, str) else ""}
        if name in _FACTS_OF["surroundings"]:
            row["missing"] = subject.betrayal
        if not row["missing"]:
            row |= _judge(_auroc(subject, _chances(subject, [name])), 0.5)
        alone.append(row)
    columns = {"known": "known", "estimate": "auroc", "low": "low", "high": "high"}
    table = pd.DataFrame(alone).reindex(columns=[*columns, "missing"]).rename(columns=columns)
    findings = [_of_facts(subject, key, names) for key, names in _FACTS_OF.items()]
    return pd.DataFrame([*findings, _added(subject)]), table


def _of_facts(subject: Subject, key: str, names: Sequence[str]) -> dict:
    """Judge some facts together; those that are not known are named."""
    missing = [subject.facts[name] for name in names if isinstance(subject.facts[name], str)]
    if len(missing) == len(names):
        return _finding(subject, key, [], 0.5, f"Not known: {missing[0]}.")
    why = f"Without {'; '.join(missing)}." if missing else ""
    why = _shown_days(subject) if key == "day" else why
    found = _finding(subject, key, _auroc(subject, _chances(subject, names)), 0.5, why)
    return _unless_betrayed(subject, found) if key == "surroundings" else found


def _shown_days(subject: Subject) -> str:
    """Say how well the surroundings tell the day itself."""
    days = tuple(sorted(set(subject.table.loc[subject.table["split"] == "train", "group"])))
    known = subject.table["group"].isin(days)
    table = subject.table[known].assign(**{"class": subject.table["group"]})
    beside = pd.concat([subject.facts[name] for name in _FACTS_OF["surroundings"]], axis=1)[known]
    if len(days) < 2 or not (table["split"] == "validation").any():
        return ""
    judged = (table["split"] == subject.run.judged_on).to_numpy()
    chances = predict_from(beside, table, days)[judged]
    shown = metrics.score(table["class"][judged], chances, days)["auroc"]
    return f"The surroundings tell the day with an AUROC of {shown:.2f}."


def _chances(subject: Subject, names: Iterable[str]) -> np.ndarray:
    """Return the probabilities (N, K) that a regression on facts gives every sample."""
    known = [subject.facts[name] for name in names]
    known = pd.concat([part for part in known if not isinstance(part, str)], axis=1)
    return predict_from(known, subject.table, subject.run.config.class_names)


def _added(subject: Subject) -> dict:
    """Judge what the network's output adds to all that is known without it."""
    classes = subject.run.config.class_names
    leaking = _FACTS_OF["surroundings"] if subject.betrayal else ()
    names = [
        name
        for name, known in subject.facts.items()
        if not isinstance(known, str) and name not in leaking
    ]
    if subject.run.judged_on != "test" or not names:
        why = "Nothing of the kind is known." if not names else "There is no test subset."
        return _finding(subject, "added", [], 0.0, why)
    outputs = [
        _chances(subject, names),
        metrics.probability_matrix(subject.run.predictions, classes),
    ]
    known = np.log(np.clip(np.hstack(outputs), 1e-6, None))
    fitted = (subject.table["split"] == "validation").to_numpy()
    if subject.table.loc[fitted, "class"].nunique() < len(classes):
        return _finding(subject, "added", [], 0.0, "A class has no validation sample.")
    scored = []
    for part in (known[:, : len(classes)], known):
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        model.fit(part[fitted], pd.Index(classes).get_indexer(subject.table["class"][fitted]))
        scored.append(_auroc(subject, model.predict_proba(part)))
    base, gain = _judge(scored[0], 0.5), _paired(scored[1], scored[0])
    found = _finding(subject, "added", gain, 0.0, f"Without it they reach {base['estimate']:.3f}.")
    # alarming is here that nothing is gained, as surely as there was something to know
    alarming = base["p"] < ALARM_LEVEL <= found["p"]
    too_few = np.isnan(found["p"]) or (alarming and found["high"] > SMALLEST[0.0])
    return found | {"p": np.nan if too_few else base["p"] if alarming else 1.0}


def predict_cell_views(
    subject: Subject, surroundings: Surroundings, paths: Study, masks: Path | None, seed: int
) -> dict[str, pd.DataFrame]:
    """Give each of `cell_views` of the cells that a run is judged on the network's probabilities.

    Views are made for some thousand cells at a time, so that memory stays bounded; a patch that
    shows nothing but cells is left out. `masks` and `seed` are as in `cell_views`.
    """
    network, config = training.load_run(subject.run.directory)
    usable, parts = subject.usable[subject.judged], {}
    table, every = subject.table[subject.judged][usable], subject.predictions[usable]
    for start in range(0, len(table), _AT_ONCE):
        some, samples = (rows.iloc[start : start + _AT_ONCE] for rows in (table, every))
        labels = find_cells(paths, some, subject.arrays, masks, surroundings)
        views = cell_views(some, subject.arrays, surroundings, labels, seed)
        for name, pictures in views.items():
            rows = samples.assign(row=np.arange(len(some)))
            parts.setdefault(name, []).append(training.predict(network, rows, pictures, config))
    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}


def image_views(arrays: np.ndarray, surroundings: Surroundings) -> dict[str, np.ndarray]:
    """Name the views of whole images, uint8 (N, H, W, 3) each, `arrays` being the images."""
    return {
        AS_IT_IS: arrays,
        SURROUNDINGS: surroundings.images,
        ONLY_CELLS: surroundings.only_cells,
        SAME_NUMBER: surroundings.same_number,
    }


def predict_image_views(subject: Subject, surroundings: Surroundings) -> dict[str, pd.DataFrame]:
    """Give each of `image_views` of the images that a run is judged on the network's probabilities.

    Images that hold fewer cells than the others are reduced to are left out of that view.
    """
    network, config = training.load_run(subject.run.directory)
    samples = subject.predictions.assign(row=np.flatnonzero(subject.judged))
    enough = samples[~surroundings.counts["too_few"].to_numpy()[samples["row"]]]
    return {
        name: training.predict(network, enough if name == SAME_NUMBER else samples, view, config)
        for name, view in image_views(subject.arrays, surroundings).items()
    }


def ask_views(
    subject: Subject, views: Mapping[str, pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ask how the network, as it is, fares on other views of the samples that it is judged on.

    Parameters
    ----------
    subject : Subject
        From `subject_of`.
    views : mapping of str to DataFrame
        Predictions by view, from `predict_cell_views` or `predict_image_views`.

    Returns
    -------
    findings, scores : DataFrame
        Findings, and one row per view: ``view``, ``samples``, ``auroc`` with ``low`` and ``high``,
        ``difference`` (from the same samples as they are) with ``difference_low`` and ``…_high``.
    """
    scored = {name: _scored(predictions, subject) for name, predictions in views.items()}
    rows = []
    for name, predictions in views.items():
        found = _judge(scored[name], 0.5)
        row = {"view": name, "samples": len(predictions), "auroc": found["estimate"]}
        row |= {"low": found["low"], "high": found["high"]}
        if name != AS_IT_IS:
            whole = _scored(_same_samples(views[AS_IT_IS], predictions), subject)
            gap = _judge(_paired(scored[name], whole), 0.0)
            row |= {"difference": gap["estimate"]}
            row |= {f"difference_{end}": gap[end] for end in ("low", "high")}
        rows.append(row)
    seen = _finding(subject, "surroundings_seen", scored[SURROUNDINGS], 0.5)
    findings = [_unless_betrayed(subject, seen)]
    if OTHER_BACKGROUND in views:
        gap = _paired(scored[OWN_BACKGROUND], scored[OTHER_BACKGROUND])
        findings.append(_finding(subject, "background_swapped", gap, 0.0))
    if SAME_NUMBER in views:
        whole = _scored(_same_samples(views[AS_IT_IS], views[SAME_NUMBER]), subject)
        found = _finding(subject, "same_number", _paired(whole, scored[SAME_NUMBER]), 0.0)
        counted = _of_facts(subject, "count", ["number of cells"])["p"]
        found["why"] = "Part of a loss is one of evidence: fewer cells tell less."
        if counted >= ALARM_LEVEL:
            found["why"] = "Their number gives no class away, so a loss is one of evidence."
            found["p"] = max(found["p"], 1.0)  # NaN stays
        elif np.isnan(counted):
            found |= {"p": np.nan, "why": "Whether their number gives it away is not known."}
        findings.append(found)
    return pd.DataFrame(findings), pd.DataFrame(rows)


def _same_samples(predictions: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions of the samples that others hold."""
    return predictions[predictions["id"].isin(others["id"])]


def ask_surroundings(subject: Subject, folder: Path, epochs: int | None = None) -> pd.DataFrame:
    """Ask whether the run's network can learn the class from surroundings alone; findings.

    `folder` and `epochs` are those of `train_on_surroundings`.
    """
    run, table = subject.run, subject.table[subject.usable].reset_index(drop=True)
    learnt = set(table.loc[table["split"] == "train", "class"])
    if lost := sorted(set(subject.table["class"]) - learnt):
        why = f"No training patch of {', '.join(lost)} shows anything but cells."
        return pd.DataFrame([_finding(subject, "surroundings_trained", [], 0.5, why)])
    again = train_on_surroundings(run, table, subject.without, folder, epochs).predictions
    values = _scored(again[again["split"] == run.judged_on], subject)
    found = _finding(subject, "surroundings_trained", values, 0.5)
    return pd.DataFrame([_unless_betrayed(subject, found)])


def ask_days(subject: Subject, folder: Path, epochs: int | None = None) -> pd.DataFrame:
    """Ask whether the score falls where whole days are held out; findings.

    `folder` and `epochs` are those of `hold_out_days`.
    """
    try:
        arms = hold_out_days(subject.run, subject.table, subject.arrays, folder, epochs)
    except ValueError as error:
        reason = f"{str(error)[0].upper()}{str(error)[1:].rstrip('.')}."
        return pd.DataFrame([_finding(subject, "day_held_out", [], 0.0, reason)])
    scored = {arm: _scored(predictions, subject) for arm, predictions in arms.items()}
    reached = {arm: _judge(values, 0.5)["estimate"] for arm, values in scored.items()}
    why = (
        f"{reached['by_image']:.3f} with the day seen and {reached['by_day']:.3f} with it held "
        "out, both trained on half of the images."
    )
    gap = _paired(scored["by_image"], scored["by_day"])
    return pd.DataFrame([_finding(subject, "day_held_out", gap, 0.0, why)])


def ask_where(subject: Subject, cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ask where the score comes from: sharp or blurred samples, near the border, in company.

    A shortcut would do best where a cell itself shows least: blurred, at the border, crowded.

    Parameters
    ----------
    subject : Subject
        From `subject_of`.
    cells : DataFrame
        ``cells.csv``.

    Returns
    -------
    findings, thirds : DataFrame
        Findings, and one row for each third of every class by each property: ``property``,
        ``third``, ``samples``, ``auroc``, ``low`` and ``high``.
    """
    rows, findings = [], []
    for key, (name, values, suspect) in _properties(subject, cells).items():
        # within its class: else classes of crowded fields would fill the last third alone
        within = pd.Series(values).groupby(subject.predictions["class"])
        third = within.rank(method="first", pct=True).mul(3).sub(1e-9).astype(int)
        parts = [subject.predictions[third == number] for number in range(3)]
        scored = [_scored(part, subject) for part in parts]
        for words, part, values_of_third in zip(_THIRDS, parts, scored, strict=True):
            row = {"property": name, "third": words, "samples": len(part)}
            rows.append(row | _judge(values_of_third, 0.5))
        gap = _judge_apart(scored[suspect], scored[2 - suspect])
        findings.append({"level": subject.run.level, "key": key, "why": ""} | gap)
    columns = ["property", "third", "samples", "estimate", "low", "high"]
    thirds = pd.DataFrame(rows)[columns].rename(columns={"estimate": "auroc"})
    return pd.DataFrame(findings), thirds


def _properties(subject: Subject, cells: pd.DataFrame) -> dict[str, tuple[str, np.ndarray, int]]:
    """Return properties of the samples judged, and the third in which a shortcut would do best."""
    judged, channels = subject.table[subject.judged], subject.run.config.channels
    numbers = hand_made(subject.arrays, subject.rows[subject.judged], channels)
    found = {"blur": ("sharpness", numbers.filter(regex="^edges 1 px").sum(axis=1).to_numpy(), 0)}
    if subject.run.level == "image" or judged["y"].isna().any():
        return found
    images = subject.facts["size of the image"][subject.judged].to_numpy()
    places = judged[["y", "x"]].to_numpy()
    distance = np.minimum(places, images - 1 - places).min(axis=1)
    reach = _REACH * subject.arrays.shape[1]
    company = pd.Series(0, judged.index)
    for image_id, ours in judged.groupby("image_id"):
        tree = KDTree(cells.loc[cells["image_id"] == image_id, ["y", "x"]])
        company[ours.index] = tree.query_ball_point(ours[["y", "x"]], reach, return_length=True)
    return found | {
        "border": ("distance from the border", distance, 0),
        "neighbours": ("neighbours", company.to_numpy(), 2),
    }


def _finding(
    subject: Subject, key: str, values: Sequence[np.ndarray], reference: float, why: str = ""
) -> dict:
    """Write a finding from a score without each image, and group, in turn."""
    return {"level": subject.run.level, "key": key, "why": why} | _judge(values, reference)


def _judge(values: Sequence[np.ndarray], reference: float) -> dict[str, float]:
    """Set a score beside its reference: ``estimate``, ``low``, ``high`` and one-sided ``p``."""
    nothing = {"reference": reference, "estimate": np.nan, "low": np.nan, "high": np.nan}
    if not values or np.isnan(values[0][0]):
        return nothing | {"p": np.nan}
    low, high = metrics.widest_interval(values, 0.95, logit=reference == 0.5)
    parts = [[metrics.jackknife(each[1:])] for each in values]
    estimate = float(values[0][0])
    found = {"estimate": estimate, "low": low, "high": high}
    return nothing | found | {"p": _p_value(estimate - reference, parts, len(values[0]) - 1)}


def _judge_apart(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> dict[str, float]:
    """Judge the difference of two scores on different samples, as if these were independent."""
    found = _judge([], 0.0)
    if not ours or not theirs or np.isnan(ours[0][0] - theirs[0][0]):
        return found
    parts = [  # of the units that both have: images, and perhaps groups
        [metrics.jackknife(values[1:]) for values in pair]
        for pair in zip(ours, theirs, strict=False)
    ]
    estimate = float(ours[0][0] - theirs[0][0])
    width = max(metrics.half_width(each, 0.95) for each in parts)
    ends = {"low": estimate - width, "high": estimate + width}
    return found | {"estimate": estimate, "p": _p_value(estimate, parts, len(ours[0]) - 1)} | ends


def _p_value(effect: float, parts: Sequence[Sequence[tuple[float, float]]], images: int) -> float:
    """Return the p-value of an effect above 0 by a t test, the least certain of several units."""
    found = []
    for variance, freedom in map(metrics.summed, parts):
        if variance == 0:
            # the same whatever is left out, such as a perfect order; which chance makes of so few
            least = 1 / math.comb(images, metrics.MIN_IMAGES)
            found.append(least if effect > 1e-9 else 1.0)
        else:
            found.append(stats.t.sf(effect / np.sqrt(variance), freedom))
    return float(np.max(found))


def _scored(predictions: pd.DataFrame, subject: Subject) -> list[np.ndarray]:
    """Return the AUROC of predictions, and without each image (and group) in turn.

    Nothing where a class of the samples judged is not among them: it would be another question.
    """
    classes = subject.run.config.class_names
    if set(predictions["class"]) < set(subject.predictions["class"]):
        return []
    arguments = predictions["class"], metrics.probability_matrix(predictions, classes), classes
    units = predictions["image_id"], predictions["group"]
    scored = metrics.scores_without_each(*arguments, *units)
    # too few images leave an estimate without an interval
    return [x["auroc"] for x in scored] or [np.array([metrics.score(*arguments)["auroc"]])]


def _auroc(subject: Subject, chances: np.ndarray) -> list[np.ndarray]:
    """Return the AUROC of probabilities (N, K) of all samples, as `_scored` does."""
    classes = subject.run.config.class_names
    named = [f"p_{name}" for name in classes]
    known = subject.predictions.drop(columns=named)
    return _scored(known.join(pd.DataFrame(chances[subject.judged], columns=named)), subject)


def _paired(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Subtract two scores on the same samples."""
    return [a - b for a, b in zip(ours, theirs, strict=False)]
