"""The verdicts of the audit: what is asked, what counts as an alarm, and the closing table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

ALARM, NO_SIGN, CANNOT = "alarm", "no sign", "cannot be told"
ALARM_LEVEL = 0.05  # of all questions together, after Holm
# our reading of what matters: an AUROC by this much above 0.5, a difference of two by this much
SMALLEST = {0.5: 0.05, 0.0: 0.03}
# where an interval reaches further than this beyond "no shortcut", its data are too few
_TOO_WIDE = {0.5: 0.25, 0.0: 0.15}
# alarms that hang on a second condition, so that a wide interval leaves nothing open
_BY_RULE = ("added", "same_number")
# by question: what is asked, what is measured, and what to do about an alarm
QUESTIONS = {
    "acquisition": (
        "Do slices, sizes or the hour give the class away?",
        "AUROC of number of slices, size of image and file, and hour",
        "Acquire all classes alike; leave out images that differ, and train again.",
    ),
    "day": (
        "Does the day alone give the class away?",
        "AUROC of the day (or group)",
        "Acquire every class on every day; until then report scores with whole days held out.",
    ),
    "count": (
        "Does the number of cells in a field give the class away?",
        "AUROC of the number of cells found",
        "Dilute to equal densities, or report scores at an equal number of cells.",
    ),
    "surroundings": (
        "Do brightness and sharpness beside the cells give the class away?",
        "AUROC of mean and grain of each slice, cells painted out",
        "Equalise exposure and focus, subtract the background, and train again.",
    ),
    "added": (
        "Does the network know no more than all of these?",
        "AUROC of these numbers with the network's output, minus without",
        "A network is not needed here: report these numbers beside it.",
    ),
    "surroundings_seen": (
        "Shown surroundings alone, does the network still tell the class?",
        "AUROC on the same samples, every cell painted out",
        "The network reads the background: mask or vary the background, and train again.",
    ),
    "background_swapped": (
        "Does it matter whose background a cell lies on?",
        "AUROC on a background of its own class, minus on one of another",
        "The network reads the background: mask or vary the background, and train again.",
    ),
    "same_number": (
        "Does the network lean on the number of cells?",
        "AUROC as it is, minus with equally many cells in every image",
        "Report the score at an equal number of cells, and train on such images.",
    ),
    "surroundings_trained": (
        "Can a network learn the class from surroundings alone?",
        "AUROC of the same network, trained with every cell painted out",
        "The class shows beside the cells: find out how (day, medium, field), and acquire anew.",
    ),
    "day_held_out": (
        "Does the score fall on days that were never seen?",
        "AUROC with the day seen in training, minus with whole days held out",
        "Report the score with whole days held out; acquire every class on more days.",
    ),
    "blur": (
        "Are blurred samples recognised better than sharp ones?",
        "AUROC in the third of least sharpness, minus of most",
        "What needs no sharp picture is no texture of a cell: look at the blurred ones.",
    ),
    "border": (
        "Are cells near the border of a field recognised better?",
        "AUROC in the third nearest to the border, minus farthest",
        "Crop the border off, or leave cells near it out, and train again.",
    ),
    "neighbours": (
        "Are cells with neighbours recognised better than lone ones?",
        "AUROC in the third of most neighbours, minus of fewest",
        "Cut closer around cells, or paint neighbours out, and train again.",
    ),
}


def closing_table(*findings: pd.DataFrame) -> pd.DataFrame:
    """Turn findings into verdicts, corrected for their number (Holm 1979).

    An alarm is a p-value below 0.05 after correction and an effect that matters by our reading:
    an AUROC of 0.55, or a difference of 0.03, at least. *Cannot be told* is what lacks samples or
    a column, and what an interval leaves so open that a large effect is not excluded.

    Returns
    -------
    DataFrame
        One row per question: ``level``, ``key``, ``question``, ``measured``, ``estimate``, ``low``,
        ``high``, ``p_holm``, ``verdict`` (`ALARM`, `NO_SIGN` or `CANNOT`), ``why`` and ``advice``.
    """
    table = pd.concat(findings, ignore_index=True)
    ordered = table["p"].dropna().sort_values()
    corrected = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)
    table["p_holm"] = corrected.reindex(table.index)
    for name, column in (("question", 0), ("measured", 1), ("advice", 2)):
        table[name] = [QUESTIONS[key][column] for key in table["key"]]
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    unsaid = (table["verdict"] == CANNOT) & (table["why"] == "")
    table.loc[unsaid & table["p"].isna(), "why"] = "Too few images of a class for an interval."
    table.loc[unsaid & table["p"].notna(), "why"] = "Too few images to exclude a large effect."
    numbers = ["reference", "estimate", "low", "high", "p_holm"]
    return table[["level", "key", "question", "measured", *numbers, "verdict", "why", "advice"]]


def summary(audit: pd.DataFrame) -> str:
    """Say in Markdown how a `closing_table` ends: alarms by name, the rest by number."""
    counts = audit["verdict"].value_counts()
    alarms = audit[audit["verdict"] == ALARM]
    lines = [
        f"**{counts.get(ALARM, 0)} of {len(audit)} questions ring an alarm**; "
        f"{counts.get(NO_SIGN, 0)} show no sign, {counts.get(CANNOT, 0)} cannot be told."
    ]
    for row in alarms.itertuples():
        lines.append(
            f"- {row.level.capitalize()}s: {row.question} {row.measured}: {_with_interval(row)}. "
            f"*{row.advice}*"
        )
    return "\n".join(lines)


def readable(audit: pd.DataFrame) -> pd.DataFrame:
    """Lay out a `closing_table` for a reader, one row per question; advice stands with alarms."""
    columns = {
        "level": audit["level"],
        "question": audit["question"],
        "measured": audit["measured"],
        "value (95 % interval)": [_with_interval(row) for row in audit.itertuples()],
        "verdict": audit["verdict"],
        "why, and what to do": audit["why"].str.cat(
            audit["advice"].where(audit["verdict"] == ALARM, ""), sep=" "
        ),
    }
    return pd.DataFrame(columns)


def _with_interval(row: tuple) -> str:
    """Write the number of a question with its interval, as far as there are such."""
    if np.isnan(row.estimate):
        return "–"
    form = ".3f" if row.reference else "+.3f"
    interval = "" if np.isnan(row.low) else f" ({row.low:{form}} to {row.high:{form}})"
    return f"{row.estimate:{form}}{interval}"


def _verdict(row: Mapping) -> str:
    """Judge one finding, its p-value corrected."""
    if np.isnan(row["p_holm"]):
        return CANNOT
    effect = row["estimate"] - row["reference"]
    matters = row["key"] == "added" or effect >= SMALLEST[row["reference"]]
    if row["p_holm"] < ALARM_LEVEL and matters:
        return ALARM
    open_ = row["high"] - row["reference"] > _TOO_WIDE[row["reference"]]
    return CANNOT if open_ and row["key"] not in _BY_RULE else NO_SIGN
