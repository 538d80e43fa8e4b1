"""Look at a folder of images or cells: list all files, read a few."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hsc_utils import detection, paper, preparation
from hsc_utils.files import from_root, shown_path
from hsc_utils.preparation import AcquisitionError, ImageSettings

READ_PER_CLASS = 4  # files of each class
LEAST = 3  # images of a class that can be in every subset
_FIELDS = 4  # of the files read, images whose cells' sizes are looked for
_CELL = 256  # px: pictures no larger than that are single cells, cut out
_OFTEN = 2**14  # 16-bit pixels that stay below this are 12 or 14 bits of a camera


@dataclass(frozen=True)
class Sight:
    """What a folder holds, as far as a look tells.

    Attributes
    ----------
    folder : Path
        The folder.
    listed : DataFrame
        All its files, see `preparation.list_sources`.
    read : DataFrame
        One row per file read: ``class``, ``slices``, ``names``, ``bit_depth``, ``brightest``,
        ``height``, ``width``, ``pixel_size_um``, ``objective``, ``day`` and ``lossy``.
    refused : dict of str to str
        Why files that were read cannot be used, by their ``source``.
    ready_cells : bool
        Whether each file holds one cell, cut out.
    settings : ImageSettings
        How the files are to be read.
    sizes : Sizes or None
        Of the cells in the images; None for ready cells.
    """

    folder: Path
    listed: pd.DataFrame
    read: pd.DataFrame
    refused: dict[str, str]
    ready_cells: bool
    settings: ImageSettings
    sizes: "detection.sizes.Sizes | None"

    @property
    def usable(self) -> pd.DataFrame:
        """The files that nothing speaks against yet."""
        return _usable(self.listed)

    @property
    def folders(self) -> dict[str, list[str]]:
        """Folder levels that are neither classes nor subsets, such as ``folder2``, and names."""
        usable = self.usable
        places = usable["source"].str.split("/").str[:-1]
        levels = pd.DataFrame([*places], usable.index).fillna("")
        found = {}
        for level, names in levels.items():
            named = names[names != ""]
            known = [named.groupby(usable[column]).nunique() for column in ("class", "split")]
            if all(count.max() > 1 for count in known):
                found[f"folder{level + 1}"] = sorted(set(named))
        return found

    @property
    def counts(self) -> pd.Series:
        """Usable files by class, in the paper's order for its classes."""
        counts = self.usable["class"].value_counts()
        return counts.loc[[*paper.class_order(counts.index)]]


def look_at(
    folder: str | Path,
    ready_cells: bool | None = None,
    class_names: Sequence[str] = (),
    slices: Sequence[str] = (),
) -> Sight:
    """List a folder of images or cells, read a few files of each class, and look for cells.

    Parameters
    ----------
    folder : path
        ``<class>/**`` with acquisitions, or with one image per cell.
    ready_cells : bool, optional
        Whether each file holds one cell; by default as the size of the pictures says.
    class_names : sequence of str
        Folders to use as classes, see `preparation.list_sources`.
    slices : sequence of str
        Slices to use, see `preparation.read_acquisition`; by default all, or the first three.

    Raises
    ------
    FileNotFoundError, ValueError
        As `preparation.list_sources`; if none of the files read can be used; if there are
        no two classes with a few files each.
    """
    place = from_root(folder)
    listed = preparation.list_sources(place, class_names)
    apart = listed["field"] != ""
    chosen = [*slices]
    slices = chosen or (["files"] if apart.mean() > 0.5 else [])
    if "files" in slices:
        listed = preparation.list_sources(place, class_names, join=True)
    counts = _usable(listed)["class"].value_counts()
    if (counts >= LEAST).sum() < 2:
        held = ", ".join(f"{name} ({count})" for name, count in counts.items())
        raise ValueError(
            f"Training needs two classes or more with {LEAST} files each, but {shown_path(place)} "
            f"holds {held}."
        )
    rows, refused = [], {}
    for row in _drawn(listed).to_dict("records"):
        try:
            one = preparation.read_acquisition(place / row["source"], slices=slices)
        except AcquisitionError as error:
            refused[row["source"]] = str(error)
            continue
        rows.append({name: row[name] for name in ("source", "class")} | _facts(one))
    if not rows:
        raise _nothing_usable(refused)
    read = pd.DataFrame(rows)
    if ready_cells is None:
        ready_cells = read[["height", "width"]].min(axis=1).median() <= _CELL
    if not chosen:
        slices = _usable_slices(read, slices, ready_cells)
    settings = _settings(read, slices)
    fields, also_refused = _composed(place, read, settings, ready_cells)
    refused |= also_refused
    if refused.keys() >= {*read["source"]}:
        raise _nothing_usable(refused)
    sizes = detection.suggest_sizes(fields) if fields and not ready_cells else None
    return Sight(place, listed, read, refused, bool(ready_cells), settings, sizes)


def _nothing_usable(refused: dict[str, str]) -> ValueError:
    """Return the error that says why no file read can be used."""
    first = next(iter(refused.values()))
    return ValueError(f"None of the {len(refused)} files read can be used. The first: {first}")


def _usable(listed: pd.DataFrame) -> pd.DataFrame:
    return listed[listed["reason"] == ""]


def _drawn(listed: pd.DataFrame) -> pd.DataFrame:
    """Draw a few usable files of each class, spread evenly over its list."""
    parts = []
    for _, of_class in _usable(listed).groupby("class"):
        count = min(READ_PER_CLASS, len(of_class))
        parts.append(of_class.iloc[np.linspace(0, len(of_class) - 1, count).astype(int)])
    return pd.concat(parts)


def _facts(one: preparation.Acquisition) -> dict:
    """Tell what one file holds."""
    return {
        "slices": len(one.slices),
        "names": ", ".join(one.channel_names),
        "bit_depth": one.bit_depth,
        "brightest": int(one.slices.max()),
        "height": one.slices.shape[1],
        "width": one.slices.shape[2],
        "pixel_size_um": one.pixel_size_um,
        "objective": one.objective,
        "day": one.acquired_at.date().isoformat() if one.acquired_at else "",
        "lossy": one.lossy,
    }


def _usable_slices(read: pd.DataFrame, slices: list[str], ready_cells: bool) -> list[str]:
    """Add slices to use where all of a file's are too few, or too many, for an image."""
    counts = set(read["slices"])
    if counts == {1} and not ready_cells:
        return [*slices, "0"]
    if max(counts) > 4 or (ready_cells and max(counts) > 3):
        return [*slices, "0", "1", "2"]
    return slices


def _settings(read: pd.DataFrame, slices: Sequence[str]) -> ImageSettings:
    """Choose how files are read, where the defaults would refuse or darken them."""
    depths = set(read["bit_depth"])
    brightest = (
        int(read.loc[read["bit_depth"] == 16, "brightest"].max()) if 16 in depths else _OFTEN
    )
    bits = None if brightest >= _OFTEN else 12 if brightest < 2**12 else 14
    return ImageSettings(slices, bits, "bit_depth" if len(depths) == 1 else "own_depth")


def _composed(
    place: Path, read: pd.DataFrame, settings: ImageSettings, ready_cells: bool
) -> tuple[list[NDArray[np.uint8]], dict[str, str]]:
    """Make images of the files read; return a few, of each class first, and why others fail."""
    turn = read.groupby("class").cumcount().sort_values(kind="stable").index
    fields, refused = [], {}
    for source in read.loc[turn, "source"]:
        try:
            if ready_cells:
                how = settings.slices, settings.bit_depth, settings.to_8_bit
                detection.read_ready_patch(place / source, 32, *how)
                continue
            field, _ = preparation.read_image(place / source, settings)
            fields = [*fields, field][:_FIELDS]
        except AcquisitionError as error:
            refused[source] = str(error)
    return fields, refused
