"""A tree of microscope files → RGB images as PNG, ``images.csv`` and ``rejected.csv``.

Every file is worked on by itself, and what came of it is kept in ``records/`` beside the
images, so an interrupted run is completed by the next one. The tables are made from the
records at the end; memory does not grow with the number of files.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import pandas as pd

from hsc_utils import manifest, provenance
from hsc_utils.files import from_root, shown_path, write_csv
from hsc_utils.preparation import duplicates
from hsc_utils.preparation.acquisition import FILES, ImageSettings
from hsc_utils.preparation.conversion import convert
from hsc_utils.preparation.sources import folders_of_no_class, list_sources


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
        ``<class>/**/*.oir|tif|png|jpg``. Where every file lies in a folder called train,
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
        Classes to use, whose folders may lie on any level (``<day>/<class>/``); empty for the
        paper's, or for every topmost folder where none is one of them.
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
        If a parameter is not as described, a class folder is empty or nearly matches a class
        that is missing, all files of a class are refused, bit depths differ between classes,
        the same image lies under two classes or in two given subsets, or the images cannot
        be split.
    OSError
        If the disk is full; what is done is kept.
    """
    started = time.perf_counter()
    settings = settings or ImageSettings()
    _check_request(prepared_dir, settings, workers, time_limit_s)
    sources = list_sources(raw_dir, class_names, join=FILES in settings.slices)
    raw, prepared = from_root(raw_dir), from_root(prepared_dir)
    if prepared.resolve().is_relative_to(raw.resolve()):
        raise ValueError(
            f"{shown_path(prepared)} (prepared_dir) lies in {shown_path(raw)} (raw_dir), so its "
            "images would be taken for data. Choose another folder."
        )
    usable = sources[sources["reason"] == ""]
    records, read_now = convert(usable, raw, prepared, settings, workers, time_limit_s)
    records["reason"] = _in_sets(records)
    # Refused files have none of these, which made them fractions and objects.
    whole = {name: kind for name, kind in manifest.IMAGE_COLUMNS.items() if kind in (int, bool)}
    images = records[records["reason"] == ""].astype(whole)
    copies = duplicates.copies(images)
    rejected = _rejected(sources, records, copies)
    images = images[copies == ""]
    _tidy(prepared, set(sources["image_id"]), set(images["image_id"]))
    changed = _write_if_changed(prepared / "rejected.csv", rejected)
    _check_totals(sources, images, rejected)

    looks = duplicates.similar_looks(images["look"], images["image_id"], images["field"])
    images = images.assign(group=_groups(images, group), near_duplicate_of=looks)
    cautions = [*_cautions(sources, records, images, settings)]
    if (images["split"] == "").all():
        by = "group" if keep_groups_whole else None
        images = manifest.split_images(images, fractions, seed, by, small_classes=small_classes)
    pairs = manifest.near_duplicates(images)
    leaks = int((pairs["split"] != pairs["split_of_other"]).sum())
    if leaks:
        cautions.append(
            f"{leaks} images look like one in another given subset (near_duplicate_of in "
            "images.csv). If they show the same field, test scores are too good."
        )
    changed |= _write_if_changed(prepared / "images.csv", images[[*manifest.IMAGE_COLUMNS]])
    named = provenance.dataset_name(prepared)
    anew = changed or read_now or dataset not in ("", named) or named.endswith("is damaged")
    if anew or not (prepared / "provenance.json").exists():
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
            cautions=cautions,
            files_converted_now=read_now,
        )
    files = (~sources["source"].str.endswith("/")).sum()
    refused = (~rejected["source"].str.endswith("/")).sum()
    print(
        f"{files} files: {len(images)} images in {images['class'].nunique()} classes, "
        f"{refused} refused; {read_now} files read now, {len(usable) - read_now} done before."
    )
    for caution in cautions:
        print(f"Caution: {caution}")
    return manifest.read_images(prepared)


def _check_request(
    prepared_dir: str | Path, settings: ImageSettings, workers: int | None, time_limit_s: float
) -> None:
    if not isinstance(prepared_dir, str | Path):
        raise ValueError(f"prepared_dir is {prepared_dir!r}, but a folder was expected.")
    if not isinstance(settings, ImageSettings):
        raise ValueError(f"settings is {settings!r}, but ImageSettings were expected.")
    if settings.size is not None and not (isinstance(settings.size, int) and settings.size > 0):
        raise ValueError(f"size is {settings.size!r}, but a side in pixels was expected, or None.")
    if workers is not None and not (isinstance(workers, int) and workers > 0):
        raise ValueError(
            f"workers is {workers!r}, but a whole number from 1 was expected, or None."
        )
    if not time_limit_s > 0:
        raise ValueError(f"time_limit_s is {time_limit_s!r}, but seconds above 0 were expected.")


def _in_sets(records: pd.DataFrame) -> pd.Series:
    """Return the reasons; of files that belong to another's set, and one file a channel, anew."""
    owner = {}
    for source, beside in records.loc[records["reason"] == "", ["source", "beside"]].to_numpy():
        members = [str(PurePosixPath(source).parent / name) for name in beside]
        if source not in owner:
            owner |= {member: source for member in members if member not in owner}
    of_set = (
        "It belongs to the set of "
        + records["source"].map(owner).astype(object)
        + ", read as one image."
    )
    alone = (records["field"] != "") & records["reason"].str.contains("It holds 1 slice ")
    hint = " By its name it is one channel of several files: add files to `slices` to join them."
    reasons = records["reason"].mask(alone, records["reason"] + hint)
    return reasons.where(of_set.isna() | (reasons != ""), of_set)


def _cautions(
    sources: pd.DataFrame, records: pd.DataFrame, images: pd.DataFrame, settings: ImageSettings
) -> Iterator[str]:
    """Say what may be wrong although nothing was refused for it."""
    if damaged := [*filter(None, records["damaged"])]:
        yield f"{len(damaged)} damaged files were made again: {_first(damaged)}."
    for row in sources[sources["source"].str.endswith("/")].itertuples():
        yield f"{row.source}: {row.reason}"
    for folder, count in folders_of_no_class(sources).items():
        yield f"{count} images in {folder} are left out: the folder is no class (see rejected.csv)."
    apart = sources[(sources["field"] != "") & (sources["reason"] == "")]
    if len(apart) and FILES not in settings.slices:
        yield (
            f"{len(apart)} files look like single channels of {apart['field'].nunique()} fields by "
            f"their names ({_first([*apart['source']])}). Add files to `slices` to join them; as "
            "they are, those of a field share a subset."
        )
    if (images["split"] != "").any():
        for subset in set(manifest.SUBSETS) - set(images["split"]):
            yield f"The tree gives a subset to every image, but none is for {subset}."
    if (lossy := images["lossy"] == True).any():  # noqa: E712 -- a column of objects
        yield (
            f"{lossy.sum()} images are JPEG, which loses fine detail and adds blocks of 8 × 8 "
            f"pixels ({_first([*images.loc[lossy, 'source']])}). Use the originals if you can."
        )
    yield from _depth_cautions(images, settings)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)


def _depth_cautions(images: pd.DataFrame, settings: ImageSettings) -> Iterator[str]:
    """Refuse bit depths that tell the classes apart; say where they differ or seem too large."""
    if settings.to_8_bit in ("image", "slice"):
        return
    files = images.groupby(["bit_depth", "class"])["source"].agg([len, "min"]).reset_index()
    listing = "; ".join(
        f"{depth} bits in {count} files of {name} (first {first})"
        for depth, name, count, first in files.to_numpy()
    )
    # Files of 8 bits fill their range; how much of theirs others fill is the question.
    depths = files[files["bit_depth"] > 8].groupby("class")["bit_depth"].agg(set)
    apart = any(not a & b for a, b in itertools.combinations(depths, 2))
    if len(set(files["bit_depth"])) > 1 and settings.to_8_bit != "own_depth":
        remedy = (
            "If all hold the same bits, say so with bit_depth; if each fills its own range, "
            "to_8_bit='own_depth'; or give the intensities that become 0 and 255: "
            "to_8_bit='fixed' with limits."
        )
        if apart and settings.to_8_bit == "bit_depth":
            raise ValueError(
                f"Bit depths differ between classes, which brightness alone could then tell: "
                f"{listing}. {remedy}"
            )
        yield f"Bit depths differ: {listing}. {remedy}"
    if settings.bit_depth is None and settings.to_8_bit != "fixed":
        brightest = images.groupby(["bit_depth", "class"])["brightest"].max().reset_index()
        full = brightest["bit_depth"].isin([8, 16])
        dark = brightest[full & (brightest["brightest"] < 2.0 ** (brightest["bit_depth"] - 2))]
        for depth, of_depth in dark.groupby("bit_depth"):
            yield (
                f"THE IMAGES OF {', '.join(of_depth['class'])} WILL BE ALMOST BLACK: nothing says "
                f"how many of their {depth} bits count, and no pixel exceeds "
                f"{of_depth['brightest'].max():.0f} of {(1 << depth) - 1}. Say it with bit_depth "
                "(often 12)."
            )


def _rejected(sources: pd.DataFrame, records: pd.DataFrame, copies: pd.Series) -> pd.DataFrame:
    """List refused files with the reason: by their place, by their content, or as copies."""
    tables = [sources, records, duplicates.refused_copies(records, copies)]
    refused = pd.concat([table[["source", "reason"]] for table in tables])
    return refused[refused["reason"] != ""].sort_values("source", ignore_index=True)


def _tidy(prepared: Path, known: set[str], kept: set[str]) -> None:
    """Delete images of files that are gone and of copies, if made here, and records of the gone."""
    for path in prepared.glob("images/*.png"):
        if path.stem not in kept and (prepared / "records" / f"{path.stem}.json").exists():
            path.unlink()
    for path in prepared.glob("records/*.json"):
        if path.stem not in known:
            path.unlink()
    for path in prepared.glob("*/.*.part"):  # left by a killed process
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
    level = str(group).removeprefix("folder")
    if not str(group).startswith("folder") or not level.isdecimal() or level == "0":
        raise ValueError(
            f"group is {group!r}, but 'day' or a folder level such as 'folder2' was expected."
        )
    return images["source"].str.split("/").str[:-1].str[int(level) - 1].fillna("")


def _write_if_changed(path: Path, table: pd.DataFrame) -> bool:
    """Write a table unless the file holds it already, so that later steps need not rerun."""
    if path.exists() and path.read_bytes() == table.to_csv(index=False).encode():
        return False
    write_csv(path, table)
    return True
