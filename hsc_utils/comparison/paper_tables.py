"""A sweep's runs, finished and failed, as the paper's Tables 1 and 2.

``python -m hsc_utils.sweep FOLDER RUN…`` writes them into a folder: ``runs.csv``, one table a file,
and ``tables.md``, the page of the book. A run directory is named ``<level>/<model>/seed<k>``.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import paper
from hsc_utils.files import atomic_path, from_root, write_csv
from hsc_utils.provenance import SIMULATED_NOTE

SHOWN_SCORES = ("balanced_accuracy", "auroc")
TITLES = {
    "image": "Table 1: whole images",
    "cell": "Table 2: single cells",
    "slices": "Which slices the model sees (single cells)",
}
_NEVER_RUN = "not trained yet, or interrupted"


def read_sweep(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Read how each run of a sweep ended.

    Parameters
    ----------
    run_dirs : sequence of path
        Run directories, ``…/<level>/<model>/seed<k>``. A ``status.json`` beside the results
        says whether the last attempt failed, and why (``workflow/attempt.py``).

    Returns
    -------
    DataFrame
        One row a run, in the order given: ``level``, ``model``, ``seed``, the test scores
        `SCORES` in [0, 1], ``seconds``, ``weights`` (those actually used), ``simulated`` and
        ``missing``, the reason why there are no scores (empty for a finished run).
    """
    rows = []
    for run_dir in map(from_root, run_dirs):
        level, model, seed = run_dir.parts[-3:]
        row = {"level": level, "model": model, "seed": int(seed.removeprefix("seed"))}
        row["missing"] = _why_missing(run_dir)
        if not row["missing"]:
            test = json.loads((run_dir / "metrics.json").read_text())["test"]
            made_by = json.loads((run_dir / "provenance.json").read_text())
            row |= {key: test[key] for key in SHOWN_SCORES}
            row |= {key: made_by[key] for key in ("seconds", "weights", "simulated")}
        rows.append(row)
    columns = [
        "level",
        "model",
        "seed",
        *SHOWN_SCORES,
        "seconds",
        "weights",
        "simulated",
        "missing",
    ]
    return pd.DataFrame(rows).reindex(columns=columns)


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Give mean and spread over seeds of each model, beside the paper's figure.

    Parameters
    ----------
    runs : DataFrame
        From `read_runs`.

    Returns
    -------
    DataFrame
        One row a model of a table: ``table`` (``image``, ``cell`` or ``slices``), ``model``,
        ``seeds`` (planned), ``finished``; for each of `SCORES` the mean, ``…_sd`` (standard
        deviation over seeds, NaN for a single one) and ``…_paper`` (NaN where the paper's
        text gives none); and ``missing``, the reasons by seed. A model that sees fewer than
        all slices stands in ``slices``, where its backbone with all slices is repeated.
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


def page(runs: pd.DataFrame) -> str:
    """Write the tables as a page of the book, in Markdown; the best of each column is bold."""
    summary = summarise(runs)
    finished = runs[runs["missing"] == ""]
    repeated = len(set(runs["seed"])) > 1
    lines = ["# Tables 1 and 2: every backbone at both levels", ""]
    if finished["simulated"].eq(True).any():
        lines += [f":::{{warning}}\n{SIMULATED_NOTE}: the tables show that the sweep works.\n:::"]
    lines += [
        "",
        "Scores on the test subset: mean ± standard deviation over seeds"
        + (", each seed a training of its own" if repeated else "")
        + ". The best mean is **bold**; the paper's figures, on its own data, stand beside where "
        f"its text gives them. Starting weights: {_listed(finished['weights'])}.",
        "",
    ]
    if not repeated:
        lines += ["One seed was trained here, so there is no spread to show.", ""]
    for name, title in TITLES.items():
        if (summary["table"] == name).any():
            lines += [f"## {title}", "", _markdown(summary[summary["table"] == name]), ""]
    failed = int((runs["missing"] != "").sum())
    if failed:
        lines += [
            f"{failed} of {len(runs)} runs are missing, for the reasons given; the same command "
            "tries them again.",
            "",
        ]
    lines += [
        "*Caution:* the spread says how much chance in training moves a score, not how much "
        "another set of mice would; for that see the intervals in the notebooks.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Write all tables of a sweep into a folder."""
    folder = from_root(arguments[0])
    runs = read_sweep(arguments[1:])
    write_csv(folder / "runs.csv", runs)
    for name, table in summarise(runs).groupby("table"):
        write_csv(folder / f"{name}.csv", table.drop(columns="table"))
    with atomic_path(folder / "tables.md") as temporary:
        temporary.write_text(page(runs))


def _why_missing(run_dir: Path) -> str:
    """Return the reason why a run has no scores, or nothing for a finished one."""
    status = run_dir / "status.json"
    if status.exists():
        reason = json.loads(status.read_text())["failed"]
        if reason:
            return reason
    return "" if (run_dir / "provenance.json").exists() else _NEVER_RUN


def _markdown(table: pd.DataFrame) -> str:
    """Draw one table; a column of reasons is there only where something is missing."""
    header = ["Model", "Seeds", "Balanced accuracy", "the paper's", "AUROC", "the paper's"]
    incomplete = bool(table["missing"].ne("").any())
    lines = [header + ["Missing"] * incomplete]
    lines.append(["---", *["---:"] * 5, *["---"] * incomplete])
    rivals = table["finished"].gt(0).sum() > 1
    best = {key: table[key].round(3).max() if rivals else np.nan for key in SHOWN_SCORES}
    for _, row in table.iterrows():
        seeds = f"{row['seeds']}"
        if row["finished"] < row["seeds"]:
            seeds = f"{row['finished']} of {row['seeds']}"
        cells = [row["model"], seeds]
        for key in SHOWN_SCORES:
            cells += [_score_cell(row, key, best[key]), _known(row[f"{key}_paper"])]
        lines.append(cells + [_in_a_cell(row["missing"])] * incomplete)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _in_a_cell(reasons: str) -> str:
    """Shorten reasons to their first sentences; a bar or a line's end would end the cell."""
    each = reasons.replace("|", "/").split("; seed ")
    return " ".join("; seed ".join(reason.split(". ")[0] for reason in each).split())


def _score_cell(row: pd.Series, key: str, best: float) -> str:
    if np.isnan(row[key]):
        return "missing"
    text = f"{row[key]:.3f}"
    if not np.isnan(row[f"{key}_sd"]):
        text += f" ± {row[f'{key}_sd']:.3f}"
    return f"**{text}**" if round(row[key], 3) == best else text


def _known(value: float) -> str:
    return "not given" if np.isnan(value) else f"{value:.3f}"


def _listed(weights: pd.Series) -> str:
    return ", ".join(sorted(set(weights))) or "unknown, since no run is finished"


if __name__ == "__main__":
    main(sys.argv[1:])
