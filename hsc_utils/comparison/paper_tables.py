"""The runs of a sweep, finished and failed, as the paper's Tables 1 and 2.

``python -m hsc_utils.comparison.paper_tables FOLDER RUN…`` writes them into a folder: ``runs.csv``,
one table a file, and ``tables.md``, the page of the book.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import paper
from hsc_utils.comparison.compare import (
    ComparisonError,
    compare,
    holm,
    leave_one_out_scores,
    read_predictions,
    refuse_mixtures,
    trained_once,
    verdict,
)
from hsc_utils.files import atomic_path, from_caller, from_root, write_csv
from hsc_utils.provenance import SIMULATED_NOTE
from hsc_utils.study import STARTS, Run, model_words, tabulate_runs

SHOWN_SCORES = {"balanced_accuracy": "Balanced accuracy", "auroc": "AUROC"}
TITLES = {
    "image": "Table 1: whole images",
    "cell": "Table 2: single cells",
    "slices": "Which slices the model sees (single cells)",
}
_COLUMNS = ["level", "model", "seed", "judged_on", *SHOWN_SCORES]
_COLUMNS += ["seconds", "weights", "simulated", "missing"]


def write_tables(folder: str | Path, runs: Iterable[str | Path]) -> None:
    """Write all tables of a sweep.

    Parameters
    ----------
    folder : path
        Written: ``runs.csv``, a CSV for each of `TITLES` with runs, for each level
        ``best_<level>.csv`` (`against_the_best`), and ``tables.md``.
    runs : iterable of path
        Run directories of one study, finished, damaged or not there.

    Raises
    ------
    ComparisonError
        If there are none, or they do not belong together (`refuse_mixtures`).
    """
    folder = from_root(folder)
    table = tabulate_runs(map(Run, runs))
    refuse_mixtures(table)
    best = {level: against_the_best(part) for level, part in table.groupby("level", sort=False)}
    for level, differences in best.items():
        write_csv(folder / f"best_{level}.csv", differences)
    table = table.reindex(columns=_COLUMNS)
    write_csv(folder / "runs.csv", table)
    for name, part in summarise(table).groupby("table"):
        write_csv(folder / f"{name}.csv", part.drop(columns="table"))
    with atomic_path(folder / "tables.md") as temporary:
        temporary.write_text(page(table, best))


def against_the_best(runs: pd.DataFrame) -> pd.DataFrame:
    """Compare every backbone of a level that sees all slices with the best of them by AUROC.

    The best of several flatters: it is the best partly by luck. So all pairs count in the
    correction (Holm, both scores), not only those that are shown. Empty where fewer than two
    models have finished, or their test sets differ.
    """
    columns = ["model", "against", "score", "estimate", "low", "high", "p_holm", "seeds"]
    finished = runs[(runs["missing"] == "") & ~runs["model"].str.contains("-slice")]
    if finished["model"].nunique() < 2:
        return pd.DataFrame(columns=columns)
    try:
        predictions = read_predictions(finished, finished["judged_on"].iloc[0])
    except (ComparisonError, FileNotFoundError) as error:
        print(f"The backbones are not compared with the best: {error}")
        return pd.DataFrame(columns=columns)
    (table,) = holm(compare(leave_one_out_scores(finished, predictions)))
    alone = table[(table["against"] == "") & (table["score"] == "auroc")].set_index("model")
    best = alone["estimate"].idxmax()
    rows = table[(table["against"] != "") & ((table["model"] == best) | (table["against"] == best))]
    # the best is what the others are taken from
    turned = rows["model"] == best
    other_way = -rows[["estimate", "high", "low"]].to_numpy()
    signed = rows[["estimate", "low", "high"]].where(~turned, other_way)
    others = rows["against"].where(turned, rows["model"])
    return rows.assign(model=others, against=best, **signed)[columns].reset_index(drop=True)


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Give mean and standard deviation over seeds of each model, beside the paper's figure.

    A model that sees fewer than all slices stands in the table ``slices``, where its backbone
    with all slices is repeated; ``missing`` gives by seed the reasons why there are no scores.
    """
    reported = paper.scores()
    rows = []
    for (level, model), repeats in runs.groupby(["level", "model"], sort=False):
        row = {"table": level, "model": model, "seeds": len(repeats)}
        row["finished"] = int((repeats["missing"] == "").sum())
        for key in SHOWN_SCORES:
            row[key], row[f"{key}_sd"] = repeats[key].mean(), repeats[key].std(ddof=1)
            known = (level, model) in reported.index
            row[f"{key}_paper"] = reported.loc[(level, model), key] if known else np.nan
        failed = repeats[repeats["missing"] != ""]
        reasons = failed.groupby("missing", sort=False)["seed"].agg(list)
        row["missing"] = "; ".join(
            f"seed {', '.join(map(str, seeds))}: {reason}" for reason, seeds in reasons.items()
        )
        rows.append(row)
    table = pd.DataFrame(rows)
    fewer = table["model"].str.contains("-slice")
    table.loc[fewer, "table"] = "slices"
    whole = table["table"].eq("cell") & table["model"].isin(
        table.loc[fewer, "model"].str.split("-slice").str[0]
    )
    return pd.concat([table, table[whole].assign(table="slices")], ignore_index=True)


def page(runs: pd.DataFrame, best: Mapping[str, pd.DataFrame] | None = None) -> str:
    """Write the tables as a page of the book, in Markdown; the best of each column is bold."""
    summary = summarise(runs)
    finished = runs[runs["missing"] == ""]
    repeated = len(set(runs["seed"])) > 1
    weights = ", ".join(sorted(set(finished["weights"]))) or "unknown, since no run is finished"
    subsets = " or ".join(sorted(set(finished["judged_on"]))) or "test"
    paragraphs = ["# Tables 1 and 2: every backbone at both levels"]
    if finished["simulated"].eq(True).any():
        note = f"{SIMULATED_NOTE}: the tables show that the sweep works."
        paragraphs.append(f":::{{warning}}\n{note}\n:::")
    paragraphs.append(
        f"Scores on the {subsets} subset: mean ± standard deviation over seeds"
        f"{', each seed a training of its own' if repeated else ''}. The best mean is **bold**; "
        "the paper's scores, on its own data, stand below where its text gives them. All networks "
        f"start from {STARTS.get(weights, weights)}."
    )
    if "validation" in subsets:
        paragraphs.append(
            "Where there is no test subset, the validation subset was scored. It also decided when "
            "training stopped, so those scores flatter."
        )
    if not repeated:
        paragraphs.append("One seed was trained here, so there is no spread to show.")
    for name, title in TITLES.items():
        if (summary["table"] == name).any():
            paragraphs += [f"## {title}", _markdown(summary[summary["table"] == name])]
        if len(differences := (best or {}).get(name, [])):
            paragraphs += [
                "**Is the best better than the others?** The best of several is the best partly by "
                "luck, so every pair and both scores enter the correction (Holm).",
                "\n".join(
                    f"- {line}"
                    for line in [
                        *map(verdict, differences.to_dict("records")),
                        *trained_once(differences),
                    ]
                ),
            ]
    if failed := len(runs) - len(finished):
        paragraphs.append(
            f"{failed} of {len(runs)} runs are missing, for the reasons given; the same command "
            "tries them again."
        )
    paragraphs.append(
        "*Caution:* the spread says how much chance in training moves a score, not how much "
        "other images, days or mice would; the intervals of the notebooks say for whom they speak."
    )
    return "\n\n".join(paragraphs) + "\n"


def _markdown(table: pd.DataFrame) -> str:
    """Draw one table, the paper's scores in rows of their own below.

    A column of reasons is there only where something is missing.
    """
    complete = table["finished"] == table["seeds"]
    of_all = table["finished"].astype(str) + " of " + table["seeds"].astype(str)
    columns = {
        "Model": table["model"].map(model_words),
        "Seeds": table["seeds"].astype(str).where(complete, of_all),
    }
    rivals = table["finished"].gt(0).sum() > 1
    for key, name in SHOWN_SCORES.items():
        best = table[key].round(3).max() if rivals else np.nan
        columns[name] = table.apply(_score_cell, axis=1, key=key, best=best)
    if table["missing"].any():
        columns["Missing"] = table["missing"].map(_in_a_cell)
    drawn = pd.DataFrame(columns)
    level, reported = table["table"].iloc[0], paper.scores()
    theirs = reported[reported.index.get_level_values("level") == level].droplevel("level")
    for model, scores in theirs.iterrows():
        told = {"Model": f"{model_words(model)} in the paper, on its own data", "Seeds": "–"}
        told |= {name: f"{scores[key]:.3f}" for key, name in SHOWN_SCORES.items()}
        drawn = pd.concat([drawn, pd.DataFrame([told])]).fillna("")
    sides = ["left", *["right"] * 3, "left"][: drawn.shape[1]]
    return drawn.to_markdown(index=False, colalign=sides, disable_numparse=True)


def _score_cell(row: pd.Series, key: str, best: float) -> str:
    """Write a mean with its standard deviation, bold if it is the best."""
    if np.isnan(row[key]):
        return "missing"
    text = f"{row[key]:.3f}"
    if not np.isnan(row[f"{key}_sd"]):
        text += f" ± {row[f'{key}_sd']:.3f}"
    return f"**{text}**" if round(row[key], 3) == best else text


def _in_a_cell(reasons: str) -> str:
    """Shorten reasons to their first sentences; a bar or a line's end would end the cell."""
    each = reasons.replace("|", "/").split("; seed ")
    return " ".join("; seed ".join(reason.split(". ")[0] for reason in each).split())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("Give the folder to write, and the run directories: FOLDER RUN…")
    target, *directories = map(from_caller, sys.argv[1:])
    write_tables(target, directories)
