"""The book's page "Did it reproduce?": each claim of the paper beside what a study says to it.

``python -m hsc_utils.comparison.claims STUDY`` writes ``claims.md`` and ``claims.csv`` into the
study's folder ``tables``.
"""

import sys
from pathlib import Path

import pandas as pd

from hsc_utils import paper
from hsc_utils.comparison.answers import (
    AGREES,
    ANSWERS,
    BY_DESIGN,
    DISAGREES,
    PAPERS_MODEL,
    UNKNOWN,
    Answer,
    Evidence,
    UnansweredError,
    stand_in,
    table_of,
)
from hsc_utils.comparison.compare import ComparisonError
from hsc_utils.files import atomic_path, from_caller, shown_path, write_csv
from hsc_utils.manifest import read_cells
from hsc_utils.provenance import SIMULATED_NOTE
from hsc_utils.study import DamagedFileError, Study, model_words, tabulate_runs

# each verdict with its colour on the page, and how several are counted
VERDICTS = {
    AGREES: ("#009E73", "{} agree"),
    DISAGREES: ("#D55E00", "{} disagree"),
    UNKNOWN: ("#777777", "{} cannot be told from these data"),
    BY_DESIGN: ("#CC79A7", "{} that the paper's design cannot show"),
}


def write_claims(study: Study) -> pd.DataFrame:
    """Judge every claim of ``data/reference/claims.csv`` by a study, and write the page.

    Parameters
    ----------
    study : Study
        Read: its tables (`write_tables` comes first), the runs named there, ``cells.csv``, and
        what the other notebooks stored. What is missing leaves claims unanswered, with the
        reason. Written: ``tables/claims.md`` and ``tables/claims.csv``.

    Returns
    -------
    DataFrame
        ``claims.csv``: `paper.claims` with ``ours``, ``verdict`` (one of `VERDICTS`), ``why``.

    Raises
    ------
    FileNotFoundError
        If the study has no cells or its tables were not made.
    """
    listed = study.tables / "runs.csv"
    if not listed.exists():
        raise FileNotFoundError(
            f"{shown_path(listed)} is missing: make the tables first (hsc_utils.comparison."
            "paper_tables)."
        )
    named = pd.read_csv(listed)[["level", "model", "seed"]].itertuples(index=False)
    runs = tabulate_runs(study.run(*names) for names in named)
    evidence = Evidence(study, runs, bool(read_cells(study.cells)["simulated"].any()))
    claims = paper.claims()
    answers = [answer(evidence, key) for key in claims["answer"]]
    for name in ("ours", "verdict", "why"):
        claims[name] = [getattr(each, name) for each in answers]
    write_csv(study.tables / "claims.csv", claims.reset_index())
    with atomic_path(study.tables / "claims.md") as temporary:
        temporary.write_text(page(claims, evidence))
    return claims


def answer(evidence: Evidence, key: str) -> Answer:
    """Answer one claim; what is missing or damaged makes it one that cannot be told."""
    try:
        return ANSWERS[key](evidence)
    except (UnansweredError, ComparisonError, DamagedFileError, FileNotFoundError) as error:
        return Answer("no answer", UNKNOWN, str(error))


def page(claims: pd.DataFrame, evidence: Evidence) -> str:
    """Write the page of the book, in Markdown."""
    counts = claims["verdict"].value_counts()
    summary = " · ".join(
        _dotted(verdict, words.format(counts.get(verdict, 0)))
        for verdict, (_, words) in VERDICTS.items()
    )
    paragraphs = ["# Did it reproduce?"]
    if evidence.simulated:
        paragraphs.append(
            f":::{{warning}}\n{SIMULATED_NOTE}. A verdict below says whether the *simulated* cells "
            "behave as the claim says. It says nothing about the paper, nor about blood stem "
            "cells: with the paper's data, `make paper` fills this same page with the real "
            "answers.\n:::"
        )
    data = "these simulated data" if evidence.simulated else "these data"
    paragraphs.append(f"**Of {len(claims)} claims, on {data}:** {summary}.")
    if note := _stand_ins(evidence):
        paragraphs.append(note)
    attention = claims.set_index("answer").loc["attention_on_cells"]
    if attention["verdict"] == BY_DESIGN:
        finding = attention["why"].partition(". ")[0]
        paragraphs.append(f"**What follows from the design, whatever the data:** {finding}.")
    paragraphs.append(_markdown(claims, evidence.simulated))
    paragraphs += ["## Right for the wrong reason?", _audit(evidence.study)]
    paragraphs.append("## Claim by claim")
    for number, row in claims.iterrows():
        text = f'<a id="claim-{number}"></a>**{number}. {row["claim"]}.** '
        text += f"{row['why'].strip()} *Rule:* {row['rule']}. *Paper:* {row['place']}."
        paragraphs.append(text)
    paragraphs.append(
        "The claims are told in our words; the paper's values stand here only where its text gives "
        "them. Intervals cover 95 % and speak of other images like these, and of other days "
        "where days are known. A claim about architectures, levels or slices takes several "
        "trainings of each network: after one, it cannot be told."
    )
    return "\n\n".join(paragraphs) + "\n"


def _audit(study: Study) -> str:
    """Say what the audit of shortcuts (notebook 07) found, or why it found nothing."""
    try:
        audit = table_of(study.shortcuts / "audit.csv", "notebook 07")
    except UnansweredError as error:
        return f"No audit of shortcuts: {error}"
    counts = audit["verdict"].value_counts()
    text = f"The paper does not ask this. [Notebook 07](notebooks/07_shortcuts) asks {len(audit)} "
    text += "questions of the networks here: "
    text += ", ".join(f"{count} × {verdict}" for verdict, count in counts.items()) + "."
    alarms = audit[audit["verdict"] == "alarm"]
    for row in alarms.itertuples():
        said = f"{_cell(row.question)} {row.measured}: {row.estimate:.3f}"
        said += f" ({row.low:.3f} to {row.high:.3f})." if pd.notna(row.low) else "."
        text += f"\n- **Alarm, {row.level}s:** {said}"
    return text


def _stand_ins(evidence: Evidence) -> str:
    """Say which network answers for the paper's, where that was not trained."""
    used = {}
    for level in ("image", "cell"):
        try:
            used[level] = stand_in(evidence, level)
        except UnansweredError:
            continue
    others = {model: [] for model in used.values() if model != PAPERS_MODEL}
    for level, model in used.items():
        if model in others:
            others[model].append(f"{level}s")
    return " ".join(
        f"For {' and '.join(levels)}, {model_words(PAPERS_MODEL)} was not trained here; "
        f"{model_words(model)} stands in its place."
        for model, levels in others.items()
    )


def _markdown(claims: pd.DataFrame, simulated: bool) -> str:
    """Draw the table; each claim leads to its paragraph, and to the page that shows it."""
    where = [page_and_section.partition("#") for page_and_section in claims["shown"]]
    links = []
    for name, _, section in where:
        path = name if name == "tables" else f"notebooks/{name}"
        shown = "Tables" if name == "tables" else name[:2]
        links.append(f'<a href="{path}.html{f"#{section}" if section else ""}">{shown}</a>')
    marks = {AGREES: " (simulated)", DISAGREES: " (simulated)"} if simulated else {}
    columns = {
        "No.": [f'<a href="#claim-{number}">{number}</a>' for number in claims.index],
        "Claim": claims["claim"],
        "Verdict on these simulated data" if simulated else "Verdict": [
            _dotted(verdict, verdict + marks.get(verdict, "")) for verdict in claims["verdict"]
        ],
        "Simulated here" if simulated else "Here": claims["ours"].map(_cell),
        "The paper says": [_cell(text) or "no value" for text in claims["paper"]],
        "Shown in": links,
    }
    return pd.DataFrame(columns).to_markdown(index=False, disable_numparse=True)


def _dotted(verdict: str, words: str) -> str:
    """Write words behind a dot of a verdict's colour."""
    return f'<span style="color:{VERDICTS[verdict][0]}">●</span> {words}'


def _cell(text: str) -> str:
    """Keep what would end a cell of the table, or open a tag, out of it."""
    return " ".join(text.replace("|", "/").replace("<", "&lt;").split())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give the folder of the study.")
    write_claims(Study(Path(from_caller(sys.argv[1]))))
