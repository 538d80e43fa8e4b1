"""What a notebook shows its reader in words and tables, from the opening to the files written.

Results in words are Markdown, never printed lines; every table goes through `table`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown, display, update_display
from pandas.io.formats.style import Styler

from hsc_utils.files import from_root, shown_path
from hsc_utils.provenance import SIMULATED_NOTE
from hsc_utils.study import STARTS, Run, model_words

# how the banner begins, and the box that stands below it and again at the end; the book knows
# both by these
BANNER, IN_SHORT = "> ⚠️ ", "> **In short.** "
_BOX = "conclusion"
_SHORT = 12  # letters of a value that is never broken, such as LT-HSC
# columns and indices of tables, as a reader calls them; others lose their underscores
_WORDS = {
    "R": "mean red",
    "G": "mean green",
    "B": "mean blue",
    "AUROC R": "AUROC by red",
    "AUROC G": "AUROC by green",
    "AUROC B": "AUROC by blue",
    "architecture": "backbone",
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy (the paper's)",
    "balanced_accuracy_sklearn": "balanced accuracy (scikit-learn's)",
    "brier": "Brier score (0 is best)",
    "confidence": "probability",
    "channels": "slices seen",
    "ece": "calibration error",
    "coverage": "share called",
    "estimate": "value",
    "f1": "F1",
    "high": "interval to",
    "low": "interval from",
    "p_holm": "p (corrected)",
    "source": "file",
    "unlike": "cells unlike training's",
    "weights": "starts from",
}


def opening(
    *,
    dataset: str,
    simulated: bool,
    device: str = "",
    weights: str = "",
    models: Sequence[Run] = (),
) -> None:
    """Show what every notebook's results begin with, and the place of its conclusion.

    Parameters
    ----------
    dataset : str
        Name of the data set a reader would recognise.
    simulated : bool
        Whether any of the data came from the simulator; then a banner says so.
    device : str
        Where models run; empty where the step uses no model.
    weights : str
        The weights that training starts from, as actually used; empty where nothing is trained.
    models : sequence of Run
        Trained models that are used.
    """
    used = ", ".join(
        f"{model_words(run.model)} on {run.level}s (seed {run.seed})" for run in models
    )
    line = f"**Data:** {dataset}." + f" **Models:** {used}." * bool(used)
    line += f" **Runs on:** {device}." * bool(device)
    line += f" **Starts from:** {STARTS.get(weights, weights)}." * bool(weights)
    if simulated:
        line = (
            f"{BANNER}**{SIMULATED_NOTE}.** Every number and picture below shows that the code "
            f"works, and says nothing about blood stem cells.\n\n{line}"
        )
    display(Markdown(line))
    waiting = f"{IN_SHORT}*Stands here once the notebook has run to its end.*"
    display(Markdown(waiting), display_id=_BOX)


def conclude(*sentences: str) -> None:
    """Show a notebook's conclusion, Markdown, here and in the box at its top."""
    box = Markdown(IN_SHORT + _block(sentences).replace("\n", "\n> "))
    update_display(box, display_id=_BOX)
    display(box)


def say(*sentences: str) -> None:
    """Show findings in Markdown: one as a paragraph, several as a list, none not at all."""
    if sentences:
        display(Markdown(_block(sentences)))


def _block(sentences: Iterable[str]) -> str:
    """Lay out one sentence as a paragraph, and several as a list."""
    first, *others = sentences
    return "\n".join(["", "", *(f"- {one}" for one in (first, *others))]) if others else first


def table(rows: pd.DataFrame) -> Styler:
    """Lay out a table for a reader: names in words, sensible digits, no index without meaning.

    Parameters
    ----------
    rows : DataFrame
        Columns are named in words, models as the field writes them. Floats get three digits after
        the point (p-values say when they are below 0.001), counts none, truths become yes or no,
        and what is missing a dash. An index is shown only where it has a name or holds text.

    Returns
    -------
    Styler
        For display as the value of a cell.
    """
    if isinstance(rows.index, pd.MultiIndex):
        rows = rows.reset_index()
    elif rows.index.name or not pd.api.types.is_integer_dtype(rows.index):
        rows = rows.rename_axis(rows.index.name or "").reset_index()
    shown = pd.DataFrame({name: _column(rows[name]) for name in rows})
    shown.columns = [_words(name) for name in shown]
    digest = hashlib.sha256(shown.to_csv().encode()).hexdigest()[:10]  # not another one each time
    styles = {}
    for name, told in zip(rows, shown, strict=True):
        side = "right" if pd.api.types.is_numeric_dtype(rows[name]) else "left"
        aligned = f"text-align: {side}; vertical-align: top"
        unbroken = "; white-space: nowrap" * (max(map(len, shown[told]), default=0) <= _SHORT)
        styles[told] = [
            {"selector": "th", "props": aligned},
            {"selector": "td", "props": aligned + unbroken},
        ]
    styler = Styler(shown, uuid=digest, cell_ids=False, escape="html").hide(axis="index")
    styler = styler.format_index(escape="html", axis="columns")
    return styler.set_table_styles(styles).set_table_attributes('class="dataframe table"')


def _column(values: pd.Series) -> pd.Series:
    """Write the values of one column as text."""
    name, values = str(values.name), values.infer_objects()
    if values.dropna().map(lambda value: isinstance(value, bool | np.bool_)).all() and len(values):
        return values.map({True: "yes", False: "no"}).astype("object").fillna("–")
    if pd.api.types.is_float_dtype(values) and not (values.dropna() % 1 == 0).all():
        small = name in ("p", "p_holm")
        digits = 1 if values[np.isfinite(values.astype(float))].abs().max() >= 10 else 3
        return values.map(lambda v: _number(v, digits, small=small))
    if pd.api.types.is_numeric_dtype(values):
        return values.map(lambda v: "–" if pd.isna(v) else f"{v:,.0f}")
    texts = values.astype("object").where(values.notna(), "–").map(str)
    return texts.map(model_words) if name in ("model", "against", "architecture") else texts


def _number(value: float, digits: int, *, small: bool) -> str:
    """Write a number with so many digits after the point; a p-value is never written as 0."""
    if pd.isna(value):
        return "–"
    return "< 0.001" if small and value < 0.001 else f"{value:z,.{digits}f}"


def _words(name: object) -> str:
    """Name a column, a score or a setting as a reader would."""
    return _WORDS.get(str(name), str(name).replace("_", " "))


def written_files(*paths: str | Path) -> Styler:
    """List files a step wrote, with their sizes; a folder is one row that counts its files.

    Parameters
    ----------
    *paths : path
        Files or folders, relative ones anchored at the repository root.

    Returns
    -------
    Styler
        Columns ``file``, ``files`` and ``kB``, rounded up.

    Raises
    ------
    FileNotFoundError
        If one of them does not exist.
    """
    rows = []
    for path in map(from_root, paths):
        if not path.exists():
            raise FileNotFoundError(
                f"{shown_path(path)} was expected to be written, but is missing."
            )
        members = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        size = sum(member.stat().st_size for member in members)
        rows.append((shown_path(path), len(members), -(-size // 1000)))
    return table(pd.DataFrame(rows, columns=["file", "files", "kB"]))
