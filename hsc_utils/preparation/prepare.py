"""A tree of microscope files → RGB images as PNG, ``images.csv`` and ``rejected.csv``.

Every file is worked on by itself, and what came of it is kept in ``records/`` beside the
images, so an interrupted run is completed by the next one. The tables are made from the
records at the end; memory does not grow with the number of files.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from hsc_utils import manifest, provenance
from hsc_utils.files import from_root, shown_path, write_csv
from hsc_utils.preparation import duplicates
from hsc_utils.preparation.conversion import ImageSettings, convert
from hsc_utils.preparation.sources import list_sources


def prepare_images(
    raw_dir: str | Path,
    prepared_dir: str | Path,
    settings: ImageSettings | None = None,
    *,
    dataset: str = "",
    class_names: Sequence[str] = (),
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    group: str = "day",
    keep_groups_whole: bool = False,
    small_classes: str = "error",
    workers: int | None = None,
    time_limit_s: float = 120,
) -> pd.DataFrame:
    """Turn every usable file of a tree into one RGB image, and list them with their split.

    Parameters
    ----------
    raw_dir : path
        ``<class>/**/*.oir|tif|png``. Where every file lies in a folder called train,
        validation or test (any usual spelling), that split is kept; otherwise images are
        split by `manifest.split_images`.
    prepared_dir : path
        Folder written: ``images/<image_id>.png``, ``images.csv``, ``rejected.csv``,
        ``provenance.json`` and ``records/``. What an earlier call made of files that are
        gone is deleted from it.
    settings : ImageSettings, optional
        Which slices to use, and how intensities become 8 bits.
    dataset : str
        Name of the data set, recorded for the notebooks that follow.
    class_names : sequence of str
        Classes to use; empty for the paper's, or for every folder where none is one of them.
    fractions, seed, small_classes
        As for `manifest.split_images`.
    group : str
        What the column ``group`` holds: ``day``, the day of the acquisition, or ``folder2``,
        the name of the second folder level (``folder1`` is the topmost).
    keep_groups_whole : bool
        Whether no group may be divided between subsets. The paper splits by image.
    workers : int, optional
        Processes that work side by side; by default all processors. With 1, everything
        happens in this process, and `time_limit_s` does not hold.
    time_limit_s : float
        A file that takes longer, or crashes its process twice, is refused.

    Returns
    -------
    DataFrame
        ``images.csv``, as `manifest.read_images` reads it.

    Raises
    ------
    FileNotFoundError
        If `raw_dir` is missing or without images.
    ValueError
        If a class folder is empty, all files of a class are refused, the same image lies
        under two classes or in two given subsets, or the images cannot be split.
    OSError
        If the disk is full; what is done is kept.
    """
    started = time.perf_counter()
    settings = settings or ImageSettings()
    raw, prepared = from_root(raw_dir), from_root(prepared_dir)
    sources = list_sources(raw, class_names)
    usable = sources[sources["reason"] == ""]
    records, read_now = convert(usable, raw, prepared, settings, workers, time_limit_s)
    # Refused files have none of these, which made them fractions and objects.
    whole = {name: kind for name, kind in manifest.IMAGE_COLUMNS.items() if kind in (int, bool)}
    images = records[records["reason"] == ""].astype(whole)
    copies = duplicates.copies(images)
    rejected = _rejected(sources, records, copies)
    images = images[copies == ""]
    _tidy(prepared, set(sources["image_id"]), set(images["image_id"]))
    changed = _write_if_changed(prepared / "rejected.csv", rejected)
    _check_totals(sources, images, rejected)

    looks = duplicates.similar_looks(images["look"], images["image_id"])
    images = images.assign(group=_groups(images, group), near_duplicate_of=looks)
    if (images["split"] == "").all():
        by = "group" if keep_groups_whole else None
        images = manifest.split_images(images, fractions, seed, by, small_classes=small_classes)
    pairs = manifest.near_duplicates(images)
    leaks = int((pairs["split"] != pairs["split_of_other"]).sum())
    changed |= _write_if_changed(prepared / "images.csv", images[[*manifest.IMAGE_COLUMNS]])
    named_anew = dataset not in ("", provenance.dataset_name(prepared))
    if changed or read_now or named_anew or not (prepared / "provenance.json").exists():
        provenance.write_provenance(
            prepared,
            parameters={
                "raw_dir": shown_path(raw_dir),
                **asdict(settings),
                "class_names": list(class_names),
                "fractions": list(fractions),
                "group": group,
                "keep_groups_whole": keep_groups_whole,
                "small_classes": small_classes,
            },
            seconds=time.perf_counter() - started,
            dataset=dataset,
            seed=seed,
            simulated=bool(images["simulated"].any()),
            files=len(sources),
            near_duplicates_across_given_subsets=leaks,
            files_converted_now=read_now,
        )
    print(
        f"{len(sources)} files: {len(images)} images in {images['class'].nunique()} classes, "
        f"{len(rejected)} refused; {read_now} files read now, {len(usable) - read_now} done before."
    )
    if leaks:
        print(
            f"Caution: {leaks} images look like one in another given subset (near_duplicate_of in "
            "images.csv). If they show the same field, test scores are too good."
        )
    return manifest.read_images(prepared)


def _rejected(sources: pd.DataFrame, records: pd.DataFrame, copies: pd.Series) -> pd.DataFrame:
    """List refused files with the reason: by their place, by their content, or as copies."""
    tables = [sources, records, duplicates.refused_copies(records, copies)]
    refused = pd.concat([table[["source", "reason"]] for table in tables])
    return refused[refused["reason"] != ""].sort_values("source", ignore_index=True)


def _tidy(prepared: Path, known: set[str], kept: set[str]) -> None:
    """Delete records of files that are gone, and images of those and of copies."""
    for pattern, names in (("images/*.png", kept), ("records/*.json", known), ("*/.*.part", set())):
        for path in prepared.glob(pattern):  # .part was left by a killed process
            if path.stem not in names:
                path.unlink()


def _check_totals(sources: pd.DataFrame, images: pd.DataFrame, rejected: pd.DataFrame) -> None:
    """Assert that every file ended in one table, and that no class was refused as a whole."""
    ends = sorted([*images["source"], *rejected["source"]])
    if ends != sorted(sources["source"]):
        raise RuntimeError(
            f"{len(sources)} files came in, but {len(images)} images and {len(rejected)} "
            "refusals came out; this is a fault of the program."
        )
    usable = sources[sources["reason"] == ""]
    for name in sorted(set(usable["class"]) - set(images["class"])):
        mine = rejected["source"].isin(usable.loc[usable["class"] == name, "source"])
        raise ValueError(
            f"All {mine.sum()} files of class {name} were refused (see rejected.csv). "
            f"The first: {rejected.loc[mine, 'reason'].iloc[0]}"
        )
    if images.empty:
        raise ValueError(f"All {len(sources)} files were refused: {rejected['reason'].iloc[0]}")


def _groups(images: pd.DataFrame, group: str) -> pd.Series:
    """Return the group of each image; see `prepare_images`."""
    if group == "day":
        return images["acquired_at"].str[:10]
    level = group.removeprefix("folder")
    if not group.startswith("folder") or not level.isdecimal() or level == "0":
        raise ValueError(
            f"group is {group!r}, but 'day' or a folder level such as 'folder2' was expected."
        )
    return images["source"].str.split("/").str[:-1].str[int(level) - 1].fillna("")


def _write_if_changed(path: Path, table: pd.DataFrame) -> bool:
    """Write a table unless the file holds it already, so that later steps need not rerun."""
    if path.exists() and path.read_text(encoding="utf-8") == table.to_csv(index=False):
        return False
    write_csv(path, table)
    return True
