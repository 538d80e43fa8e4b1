"""The paper's own numbers, read from ``data/reference/*.csv``, the only place they are typed.

A number that the paper's text does not give is not in these tables and not known here.
"""

from collections.abc import Iterable

import pandas as pd

from hsc_utils.files import ROOT

REFERENCE_DIR = ROOT / "data" / "reference"


def counts() -> pd.DataFrame:
    """Return images and cells by class (index ``class``: LT-HSC, ST-HSC, MPP)."""
    return pd.read_csv(REFERENCE_DIR / "counts.csv", index_col="class")


def cells_per_image() -> pd.Series:
    """Return the mean number of cells of an image by class, derived from the paper's totals."""
    return counts()["cells"] / counts()["images"]


def beside(ours: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Set columns of counts by class beside the paper's.

    Parameters
    ----------
    ours : DataFrame
        One row per class.
    *names : str
        Its columns ``images``, ``cells`` or ``cells per image`` that the paper has, too; the last
        is derived from its totals.

    Returns
    -------
    DataFrame
        After each of these columns the paper's, missing for classes that it does not have; none
        where it has no class of `ours`.
    """
    reported = counts().assign(**{"cells per image": cells_per_image()})
    if reported.index.isin(ours.index).any():
        ours = ours.copy()
        for name in names:
            place = ours.columns.get_loc(name) + 1
            ours.insert(place, f"{name}, the paper's", reported[name].reindex(ours.index))
    return ours


def class_order(class_names: Iterable[str]) -> list[str]:
    """Order classes for a reader: the paper's as it names them, then any others by name."""
    names, paper = set(class_names), list(counts().index)
    return [name for name in paper if name in names] + sorted(names - set(paper))


def scores() -> pd.DataFrame:
    """Return the reported test scores, fractions in [0, 1], indexed by level and architecture."""
    return pd.read_csv(REFERENCE_DIR / "scores.csv", index_col=["level", "architecture"])


def backbones() -> pd.DataFrame:
    """Return the quoted parameter counts in millions (with the ImageNet head) by architecture."""
    return pd.read_csv(REFERENCE_DIR / "backbones.csv", index_col="architecture")


def claims() -> pd.DataFrame:
    """Return what the paper claims, in our words, indexed by number.

    Columns, all texts: ``claim``; ``place`` in the paper; ``paper``, the value it gives (empty
    where its text gives none); ``answer``, the key of `comparison.answers.ANSWERS`; ``rule`` for a
    verdict; ``shown``, the page of the book (and ``#section``) that shows it.
    """
    table = pd.read_csv(REFERENCE_DIR / "claims.csv", index_col="number", keep_default_na=False)
    return table.astype(str)
