"""What a study answers to each of the paper's claims: our number, a verdict, and why.

Each function of `ANSWERS` reads stored results alone. What is missing makes a claim unanswered,
with the reason, and stops nothing.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import metrics, paper, training
from hsc_utils.comparison.compare import SCORES, compare, holm, leave_one_out_scores
from hsc_utils.comparison.compare import read_predictions as read_aligned
from hsc_utils.files import shown_path
from hsc_utils.manifest import read_cells, read_images
from hsc_utils.study import Run, Study, failure_of, model_words

AGREES, DISAGREES = "agrees", "disagrees"
UNKNOWN, BY_DESIGN = "cannot be told from these data", "the paper's design cannot show it"
PAPERS_MODEL = "densenet169"
# our readings of words that the paper leaves without a number
_WELL, _ALIKE, _ALMOST_ALL, _ALMOST_BLACK = 0.8, 0.05, 0.95, 0.2
_FEWEST_SQUARES = 3  # a side of a map with fewer cannot tell the middle of a patch from its rim
_USUAL_STRIDE = 32
_ONE_TRAINING = (
    "Each network was trained once, so this speaks of these trained networks and not of the "
    "architectures: train several seeds."
)


class UnansweredError(Exception):
    """Why a claim has no answer, in a sentence for the reader."""


@dataclass(frozen=True)
class Evidence:
    """A study, its runs as `study.tabulate_runs` gives them, and whether it is simulated."""

    study: Study
    runs: pd.DataFrame
    simulated: bool


@dataclass(frozen=True)
class Answer:
    """Our number in a few words, one of the four verdicts, and the reasons in sentences."""

    ours: str
    verdict: str
    why: str


def stand_in(evidence: Evidence, level: str) -> str:
    """Name the finished model that the paper's DenseNet-169 is answered by, at one level."""
    runs = evidence.runs
    ours = runs[(runs["level"] == level) & (runs["missing"] == "")]["model"].unique()
    dense = [name for name in ours if name.startswith("densenet") and "-slice" not in name]
    if not dense:
        raise UnansweredError(f"No DenseNet was trained on {level}s here, or all failed.")
    return PAPERS_MODEL if PAPERS_MODEL in dense else dense[0]


def _finished(evidence: Evidence, level: str, model: str = "") -> pd.DataFrame:
    """Return the finished runs of a level that see all slices, perhaps of one model alone."""
    runs = evidence.runs
    chosen = runs[(runs["level"] == level) & (runs["missing"] == "")]
    chosen = chosen[~chosen["model"].str.contains("-slice")]
    chosen = chosen[chosen["model"] == model] if model else chosen
    if chosen.empty:
        raise UnansweredError(f"No network was trained on {level}s here, or all failed.")
    if set(chosen["judged_on"]) != {"test"}:
        raise UnansweredError("There is no test subset, and the validation subset flatters.")
    return chosen


def _compared(runs: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Score runs on the test subset and compare them, corrected for their number."""
    scores = leave_one_out_scores(runs, read_aligned(runs))
    return holm(compare(scores, baseline=baseline))[0]


def table_of(path: Path, made_by: str) -> pd.DataFrame:
    """Read a table that an earlier step wrote; one that failed, or has not run, is no answer."""
    if reason := failure_of(path.parent):
        raise UnansweredError(f"{made_by} failed: {reason}.")
    try:
        return pd.read_csv(path, keep_default_na=True)
    except FileNotFoundError:
        raise UnansweredError(f"{shown_path(path)} is missing: {made_by} makes it.") from None
    except ValueError as error:
        raise UnansweredError(f"{shown_path(path)} is damaged: {made_by} makes it anew.") from error


def _with_interval(estimate: float, low: float, high: float, sign: str = "") -> str:
    """Write a number with its interval."""
    if estimate == 0 and np.isnan(low):
        return "0 on every image"
    return metrics.with_interval(estimate, low, high, f"{sign}.3f")


def _direction(rows: pd.DataFrame) -> tuple[str, str]:
    """Judge the claim that every difference is above 0; give the verdict and why."""
    if rows["p_holm"].isna().any():
        raise UnansweredError("A class has too few independent test images for a verdict.")
    sure = rows["p_holm"] < 0.05
    if (sure & (rows["estimate"] < 0)).any():
        verdict, why = DISAGREES, "A difference lies on the other side, beyond chance."
    elif (sure & (rows["estimate"] > 0)).all():
        verdict, why = AGREES, "Every difference is larger than chance explains."
    else:
        return UNKNOWN, "Not every difference is larger than the choice of test images explains."
    return (verdict, why) if rows["seeds"].min() > 1 else (UNKNOWN, f"{why} {_ONE_TRAINING}")


def _best(evidence: Evidence, level: str) -> Answer:
    """Answer whether the paper's network is ahead of every other backbone of a level."""
    model = stand_in(evidence, level)
    table = table_of(evidence.study.tables / f"best_{level}.csv", "the tables' step")
    if table.empty or model not in {*table["model"], *table["against"]}:
        raise UnansweredError(f"{model_words(model)} has no other backbone beside it on {level}s.")
    if (table["against"] == model).all():  # written as the others minus the best
        ends = {"estimate": -table["estimate"], "low": -table["high"], "high": -table["low"]}
        rows = table.assign(other=table["model"], **ends)
    else:
        rows = table[table["model"] == model].assign(other=table["against"])
    nearest = rows[rows["score"] == "auroc"].sort_values("estimate").iloc[0]
    ends = _with_interval(nearest["estimate"], nearest["low"], nearest["high"], "+")
    verdict, why = _direction(rows)
    pair = f"{model_words(model)} minus {model_words(nearest['other'])}"
    return Answer(f"{pair}: AUROC {ends}", verdict, why)


def _score(evidence: Evidence, level: str) -> Answer:
    """Answer whether the paper's two scores lie in our intervals."""
    model = stand_in(evidence, level)
    table = _compared(_finished(evidence, level, model)).set_index("score")
    rows = table.loc[["balanced_accuracy", "auroc"], ["estimate", "low", "high"]]
    shown = [_with_interval(*row) for row in rows.itertuples(index=False)]
    ours = f"{model_words(model)}: balanced accuracy {shown[0]}; AUROC {shown[1]}"
    if evidence.simulated:
        why = f"A score on simulated {level}s neither confirms nor refutes one on real ones."
        return Answer(ours, UNKNOWN, why)
    if model != PAPERS_MODEL:
        return Answer(ours, UNKNOWN, f"{model_words(PAPERS_MODEL)} was not trained here.")
    if rows.isna().any(axis=None):
        raise UnansweredError("A class has too few independent test images for an interval.")
    reported = paper.scores().loc[(level, PAPERS_MODEL)]
    higher = [row.low > reported[row.Index] for row in rows.itertuples()]
    lower = [row.high < reported[row.Index] for row in rows.itertuples()]
    why = f"Of our two scores {sum(higher)} are surely higher than the paper's, {sum(lower)} lower."
    return Answer(ours, DISAGREES if any(higher + lower) else AGREES, why)


def _alike_image(evidence: Evidence) -> Answer:
    """Answer whether all backbones predict images well, and about equally well."""
    table = _compared(_finished(evidence, "image"))
    table = table[table["score"] == "auroc"]
    alone, pairs = table[table["against"] == ""], table[table["against"] != ""]
    if pairs.empty:
        raise UnansweredError("One backbone alone was trained on images here.")
    lowest = alone.loc[alone["estimate"].idxmin()]
    best = alone.loc[alone["estimate"].idxmax(), "model"]
    gaps = pairs[(pairs["model"] == best) | (pairs["against"] == best)]
    ends = _with_interval(lowest["estimate"], lowest["low"], lowest["high"])
    ours = f"{len(alone)} backbones; the lowest, {model_words(lowest['model'])}: AUROC {ends}"
    if table[["low", "high"]].isna().any(axis=None):
        raise UnansweredError("A class has too few independent test images for an interval.")
    apart = np.maximum(gaps["low"], -gaps["high"]).max()
    reach = np.maximum(gaps["high"], -gaps["low"]).max()
    why = f"Beside the best, {model_words(best)}, differences of up to {reach:.2f} remain possible."
    if (alone["high"] < _WELL).any() or apart > _ALIKE:
        return Answer(ours, DISAGREES, why)
    surely = alone["low"].min() > _WELL
    return Answer(ours, AGREES if surely and reach < _ALIKE else UNKNOWN, why)


def _cells_against_images(evidence: Evidence) -> Answer:
    """Answer whether cells that vote beat the image-level model on the same images."""
    tables, rows = [], []
    of_level = {}
    for level in ("cell", "image"):
        model = stand_in(evidence, level)
        of_level[level] = _finished(evidence, level, model).set_index("seed")["run"]
    for seed in of_level["cell"].index.intersection(of_level["image"].index):
        both = [training.vote(of_level[level][seed]) for level in ("cell", "image")]
        merged = both[0].merge(both[1], on="image_id", suffixes=("", "_other"))
        if (merged["split"] != merged["split_other"]).any():
            raise UnansweredError("The two levels were trained on different splits.")
        shared = merged.loc[merged["split"] == "test", "image_id"]
        for level, table in zip(of_level, both, strict=True):
            tables.append(table[table["image_id"].isin(shared)].sort_values("image_id"))
            names = of_level["cell"][seed].config.class_names
            rows.append({"model": level, "seed": seed, "class_names": names})
    if not rows:
        raise UnansweredError("No seed was trained on both levels.")
    scores = leave_one_out_scores(pd.DataFrame(rows), tables)
    table = holm(compare(scores, baseline="image"))[0]
    gaps = table[(table["against"] != "") & table["score"].isin(SCORES)]
    # written as images minus cells
    ends = {"estimate": -gaps["estimate"], "low": -gaps["high"], "high": -gaps["low"]}
    gaps = gaps.assign(**ends)
    first = gaps[gaps["score"] == "auroc"].iloc[0]
    ours = _with_interval(first["estimate"], first["low"], first["high"], "+")
    verdict, why = _direction(gaps)
    why += (
        " The paper sets scores of cells beside scores of images, which are different samples; "
        f"here {len(tables[0])} images are judged both ways. "
    )
    why += _density(evidence, of_level["image"].iloc[0])
    return Answer(f"voting cells minus images: AUROC {ours}", verdict, why)


def _sensitivities(evidence: Evidence) -> Answer:
    """Answer whether classes are recognised in the paper's order, on cells."""
    order = ["ST-HSC", "LT-HSC", "MPP"]
    runs = _finished(evidence, "cell", model := stand_in(evidence, "cell"))
    names, tables = list(runs["class_names"].iloc[0]), read_aligned(runs)
    if set(order) - set(names):
        raise UnansweredError("The classes are not the paper's.")
    first = tables[0]
    codes, units = metrics.sampling_units(first["class"], first["image_id"], first["group"])
    truth = pd.Index(names).get_indexer(first["class"])
    sums = [
        metrics.sums_by_image(truth, metrics.probability_matrix(table, names), codes)
        for table in tables
    ]
    columns = [names.index(name) for name in order]
    without = [
        np.mean(
            [metrics.weighted_scores(metrics.leave_one_out(u), s)[1]["sensitivity"] for s in sums],
            axis=0,
        )[:, columns]
        for u in units
    ]
    if not without:
        raise UnansweredError("A class has too few independent test images for a verdict.")
    whole = without[0][0]
    shown = " · ".join(f"{n} {v:.2f}" for n, v in zip(order, whole, strict=True))
    steps = [
        metrics.widest_interval([values[:, k] - values[:, k + 1] for values in without], 0.95)
        for k in (0, 1)
    ]
    words = "; ".join(
        f"{one} minus {other} {_with_interval(whole[k] - whole[k + 1], *steps[k], '+')}"
        for k, (one, other) in enumerate(itertools.pairwise(order))
    )
    why = f"Differences in sensitivity: {words}. The commonest class is also the easiest to guess."
    if any(high < 0 for _, high in steps):
        verdict = DISAGREES
    else:
        in_order = all(low > 0 for low, _ in steps) and whole[0] >= _ALMOST_ALL
        verdict = AGREES if in_order else UNKNOWN
    return Answer(f"{model_words(model)}: {shown}", verdict, why)


def _order_of_three(evidence: Evidence) -> Answer:
    """Answer whether one slice < all slices < DenseNet, by the table of notebook 05."""
    table = table_of(evidence.study.comparison / "comparison.csv", "notebook 05")
    table = table[table["score"] == "auroc"]
    models = table.loc[table["against"].isna(), "model"]
    single = next((name for name in models if "-slice" in name), "")
    several = single.partition("-slice")[0]
    dense = next((name for name in models if name.startswith("densenet")), "")
    if not single or not dense or several not in set(models):
        raise UnansweredError(
            "Notebook 05 did not compare one backbone on one slice and on all with a DenseNet."
        )
    rows = pd.DataFrame([_pair(table, several, single), _pair(table, dense, several)])
    shown = [_with_interval(row.estimate, row.low, row.high, "+") for row in rows.itertuples()]
    verdict, why = _direction(rows)
    first, second, third = map(model_words, (single, several, dense))
    why += f" The three here are {first}, {second} and {third}."
    return Answer(f"AUROC: all slices {shown[0]}; DenseNet {shown[1]}", verdict, why)


def _pair(table: pd.DataFrame, model: str, against: str) -> pd.Series:
    """Return the row of a difference, whichever of the two was written first."""
    same = table[(table["model"] == model) & (table["against"] == against)]
    if len(same):
        return same.iloc[0]
    other = table[(table["model"] == against) & (table["against"] == model)].iloc[0].copy()
    other[["estimate", "low", "high"]] = -other[["estimate", "high", "low"]].to_numpy()
    return other


def _slices(evidence: Evidence) -> Answer:
    """Answer whether all slices beat each slice alone."""
    table = table_of(evidence.study.comparison / "slices.csv", "notebook 05")
    rows = table[
        (table["score"] == "auroc") & table["against"].fillna("").str.fullmatch(r".*-slice\d")
    ]
    if rows.empty:
        raise UnansweredError("No backbone was trained on one slice alone.")
    subsets = rows["against"].str[-1]
    absent = sorted(set("012") - set(subsets))
    shown = [
        f"slice {subset} {_with_interval(row.estimate, row.low, row.high, '+')}"
        for subset, row in zip(subsets, rows.itertuples(), strict=True)
    ]
    verdict, why = _direction(rows)
    if absent:
        why += f" Not trained alone: slice {', '.join(absent)} (`make sweep` trains every choice)."
        verdict = verdict if verdict == DISAGREES else UNKNOWN
    return Answer(f"AUROC added to {'; '.join(shown)}", verdict, why)


def _imagenet(evidence: Evidence) -> Answer:
    """Say that a study starts all its networks alike, and how to get an answer."""
    started = evidence.runs.get("weights", pd.Series(dtype=str)).dropna()
    started = sorted(set(started.replace("none", "random numbers")))
    why = (
        "The text of the paper gives no network from a random start either. To find out, train "
        "the same configuration twice, with `weights: imagenet` and with `weights: none`, into two "
        "studies, and compare their scores on the same split."
    )
    ours = f"not tested: networks here start from {', '.join(started) or 'nothing yet'}"
    return Answer(ours, UNKNOWN, why)


def _differences_of_methods(evidence: Evidence, score: str) -> dict[tuple[str, str], pd.Series]:
    """Return the differences of each two detectors by score, written both ways."""
    table = table_of(evidence.study.cells / "method_differences.csv", "the tuning of notebook 02")
    if table.empty:
        raise UnansweredError(
            "Without true centres nobody can say which detector is right: mark the cells of some "
            "images by hand and give them as truth_csv in notebook 02."
        )
    if table["images"].min() < metrics.MIN_IMAGES:
        raise UnansweredError(f"The tuning tried fewer than {metrics.MIN_IMAGES} images.")
    table = table[table["score"] == score]
    names = set(table["method"]) | set(table["against"])
    if not {"log", "dog", "doh"} <= names:
        raise UnansweredError("Notebook 02 did not try all three detectors.")
    pairs = [(one, other) for one in names for other in names - {one}]
    return {pair: _pair(table.rename(columns={"method": "model"}), *pair) for pair in pairs}


def _reach(row: pd.Series) -> float:
    """Return how large a difference may be: 0 where all images say the same."""
    if row["estimate"] == 0 and np.isnan(row["low"]):
        return 0.0
    return max(-row["low"], row["high"])


def _detectors(evidence: Evidence) -> Answer:
    """Answer whether LoG and DoG are alike in F1 and beat DoH."""
    f1 = _differences_of_methods(evidence, "f1")
    alike, ahead = f1["log", "dog"], [f1["log", "doh"], f1["dog", "doh"]]
    ours = f"F1 of LoG minus DoG {_with_interval(*alike[['estimate', 'low', 'high']], '+')}"
    ours += f"; LoG minus DoH {_with_interval(*ahead[0][['estimate', 'low', 'high']], '+')}"
    why = f"Over the {alike['images']} images of the tuning, each detector at its best settings."
    if any(row["high"] < 0 for row in ahead) or max(alike["low"], -alike["high"]) > _ALIKE:
        return Answer(ours, DISAGREES, why)
    agrees = all(row["low"] > 0 for row in ahead) and _reach(alike) < _ALIKE
    return Answer(ours, AGREES if agrees else UNKNOWN, why)


def _false_alarms(evidence: Evidence) -> Answer:
    """Answer whether DoG's precision is below LoG's."""
    row = _differences_of_methods(evidence, "precision")["log", "dog"]
    methods = table_of(evidence.study.cells / "methods.csv", "notebook 02").set_index("method")
    ours = f"precision of LoG minus DoG {_with_interval(*row[['estimate', 'low', 'high']], '+')}"
    twice = methods["found_twice"]
    why = (
        f"Cells found twice: LoG {twice['log']:.0f}, DoG {twice['dog']:.0f}. Each detector has its "
        "own best settings here: how sensitive one is depends on its threshold as much as on the "
        "method, and the paper does not give its thresholds."
    )
    if row["low"] > 0:
        return Answer(ours, AGREES, why)
    high = 0.0 if row["estimate"] == 0 and np.isnan(row["high"]) else row["high"]
    return Answer(ours, DISAGREES if high < _ALIKE else UNKNOWN, why)


def _means(evidence: Evidence, level: str) -> pd.DataFrame:
    """Return notebook 06's means over all classes of one level."""
    table = table_of(evidence.study.grad_cam / "means.csv", "notebook 06")
    table = table[(table["level"] == level) & (table["class"] == "all classes")]
    if table.empty:
        raise UnansweredError(f"Notebook 06 explained no network of {level}s.")
    return table


def _explained(evidence: Evidence, level: str) -> Run:
    """Return the run that notebook 06 explained at one level."""
    record = evidence.study.grad_cam / "provenance.json"
    try:
        parts = [Path(name).parts[-4:-1] for name in json.loads(record.read_text())["inputs"]]
        own = next(part for part in parts if part[0] == level)
    except (OSError, ValueError, KeyError, StopIteration):
        raise UnansweredError(f"{shown_path(record)} does not say what was explained.") from None
    return evidence.study.run(*own[:2], int(own[2].removeprefix("seed")))


def _attention_on_cells(evidence: Evidence) -> Answer:
    """Answer whether attention lies inside cells, if the map is fine enough to tell."""
    table, run = _means(evidence, "cell"), _explained(evidence, "cell")
    side = run.config.input_size
    squares = side // _USUAL_STRIDE
    fine_enough = [s for s in table["stride"].unique() if side // s >= _FEWEST_SQUARES]
    stride = _USUAL_STRIDE if squares >= _FEWEST_SQUARES else max(fine_enough, default=np.nan)
    if np.isnan(stride):
        raise UnansweredError("No layer that was explained has a map finer than 2 × 2 squares.")
    rows = table[table["stride"] == stride].set_index("number")
    share, area, excess = (rows.loc[name] for name in ("share", "area", "excess"))
    ours = f"stride {stride:.0f}: {share['mean']:.2f} of it on {area['mean']:.2f} of the area, "
    ours += _with_interval(excess["mean"], excess["low"], excess["high"], "+")
    beside, room = rows["mean"]["share_neighbours"], rows["mean"]["area_neighbours"]
    why = f"{model_words(run.model)}. Neighbours get {beside:.3f} of the attention on {room:.3f} "
    why += f"of the area{', so they are not left out' if beside > room else ''}. "
    why += "That it is texture which decides, no share of area can show."
    if stride != _USUAL_STRIDE:
        first = (
            f"At {side} px the layer that Grad-CAM usually reads (stride {_USUAL_STRIDE}) is a "
            f"grid of {squares} × {squares} squares, on which inside and beside a cell cannot be "
            "told apart. The number is that of an earlier layer with a finer map. "
        )
        return Answer(ours, BY_DESIGN, first + why)
    if excess["high"] < 0:
        return Answer(ours, DISAGREES, why)
    agrees = excess["low"] > 0 and beside <= room
    return Answer(ours, AGREES if agrees else UNKNOWN, why)


def _attention_on_images(evidence: Evidence) -> Answer:
    """Answer whether attention in whole images gathers on particular cells."""
    rows = _means(evidence, "image").set_index("number")
    on_cells, uneven = (rows.loc[name] for name in ("excess", "gini_excess"))
    ours = f"on cells {_with_interval(on_cells['mean'], on_cells['low'], on_cells['high'], '+')}; "
    ours += f"Gini {_with_interval(uneven['mean'], uneven['low'], uneven['high'], '+')}"
    run = _explained(evidence, "image")
    why = f"{model_words(run.model)}, beyond area and moved maps. "
    if on_cells["high"] < 0 or uneven["high"] < 0:
        verdict = DISAGREES
    else:
        verdict = AGREES if on_cells["low"] > 0 and uneven["low"] > 0 else UNKNOWN
    return Answer(ours, verdict, why + _density(evidence, run))


def _density(evidence: Evidence, run: Run) -> str:
    """Say whether images of the classes differ in cells, and how far a count alone gets."""
    study = evidence.study
    cells = read_cells(study.cells)["class"].value_counts()
    per_image = (cells / read_images(study.prepared)["class"].value_counts()).dropna()
    if per_image.max() < 1.5 * per_image.min():
        return "The classes hold about as many cells per image, so that counting does not help."
    text = (
        f"{per_image.idxmax()} images hold {per_image.max():.0f} cells on average and "
        f"{per_image.idxmin()} images {per_image.min():.0f}, unlike each other as in the paper: a "
        "network of whole images can tell them by counting, so its scores alone cannot show that "
        "it looks at cells. "
    )
    try:
        table = table_of(run.baselines_file, "notebook 03").set_index("predictor")
        count = table.loc["cell count"]
    except (UnansweredError, KeyError):
        return f"{text}How far a count alone gets is not measured here."
    own = _with_interval(count["auroc"], count["auroc_low"], count["auroc_high"])
    ends = count[["difference", "difference_low", "difference_high"]]
    return (
        f"{text}The count alone reaches an AUROC of {own}; {model_words(run.model)} adds "
        f"{_with_interval(*ends, '+')}."
    )


def _fourth_slice(evidence: Evidence) -> Answer:
    """Answer whether fourth slices are almost black, by their contrast."""
    contrast = read_images(evidence.study.prepared)["fourth_slice_contrast"].dropna()
    if contrast.empty:
        raise UnansweredError("No acquisition here has a fourth slice.")
    ours = f"contrast {contrast.median():.2f} of the best slice's, at most {contrast.max():.2f}"
    why = f"Of {len(contrast)} acquisitions with four slices. Whether a network would gain from "
    why += "the fourth is not tested, by the paper or here."
    if contrast.max() < _ALMOST_BLACK:
        return Answer(ours, AGREES, why)
    return Answer(ours, DISAGREES if contrast.median() > _ALMOST_BLACK else UNKNOWN, why)


def _cutting_out(_: Evidence) -> Answer:
    """Say that nothing was compared: one way of finding cells, there and here."""
    why = (
        "The paper finds all cells of its comparison in one way, so nothing in it tells the "
        "finding from the network; and so does this study. To find out, cut out cells with another "
        "method into a second study, and compare."
    )
    return Answer("not tested: all cells were found in one way", BY_DESIGN, why)


ANSWERS: dict[str, Callable[[Evidence], Answer]] = {
    "best_image": partial(_best, level="image"),
    "score_image": partial(_score, level="image"),
    "best_cell": partial(_best, level="cell"),
    "score_cell": partial(_score, level="cell"),
    "alike_image": _alike_image,
    "cells_against_images": _cells_against_images,
    "sensitivities": _sensitivities,
    "order_of_three": _order_of_three,
    "slices": _slices,
    "imagenet": _imagenet,
    "detectors": _detectors,
    "false_alarms": _false_alarms,
    "attention_on_cells": _attention_on_cells,
    "attention_on_images": _attention_on_images,
    "fourth_slice": _fourth_slice,
    "cutting_out": _cutting_out,
}
