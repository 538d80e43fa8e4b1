"""A tree of microscope files → RGB images as PNG, ``images.csv`` and ``rejected.csv``.

What came of each file is kept in ``records/``, so that an interrupted run is completed by the
next one. The tables are made from the records at the end.
"""

import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import pandas as pd

from hsc_utils import manifest, provenance
from hsc_utils.files import from_root, shown_path, write_csv
from hsc_utils.manifest import expect
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
    """Turn every usable file of a tree into one RGB image; return ``images.csv``.

    Parameters
    ----------
    raw_dir : path
        ``<class>/**/*.oir|tif|png|jpg``. Where every file lies in a folder called train,
        validation or test (any usual spelling), that split is kept.
    prepared_dir : path
        Folder written. What an earlier call made there of files that are gone is deleted.
    dataset : str
        Name of the data set, recorded for the notebooks that follow.
    class_names : sequence of str
        Classes to use, whose folders may lie on any level; see `list_sources`.
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

    Raises
    ------
    FileNotFoundError, ValueError
        As `list_sources` and `manifest.split_images`; and if all files of a class are refused,
        bit depths tell the classes, or an image lies under two classes or in two subsets.
    """
    started = time.perf_counter()
    settings = settings or ImageSettings()
    expect(isinstance(prepared_dir, str | Path), "prepared_dir", prepared_dir, "a folder")
    expect(isinstance(settings, ImageSettings), "settings", settings, "an ImageSettings")
    for name, count in (("size", settings.size), ("workers", workers)):
        fits = count is None or (isinstance(count, int) and count > 0)
        expect(fits, name, count, "a whole number from 1, or None,")
    expect(time_limit_s > 0, "time_limit_s", time_limit_s, "a number of seconds above 0")
    sources = list_sources(raw_dir, class_names, join=FILES in settings.slices)
    raw, prepared = from_root(raw_dir), from_root(prepared_dir)
    if prepared.resolve().is_relative_to(raw.resolve()):
        place = f"{shown_path(prepared)} (prepared_dir) lies in {shown_path(raw)} (raw_dir)"
        raise ValueError(f"{place}, so its images would be taken for data. Choose another folder.")
    usable = sources[sources["reason"] == ""]
    records, read_now = convert(usable, raw, prepared, settings, workers, time_limit_s)
    records["reason"] = _in_sets(records)
    # Refused files have none of these, which made them fractions and objects.
    whole = {name: kind for name, kind in manifest.IMAGE_COLUMNS.items() if kind in (int, bool)}
    images = records[records["reason"] == ""].astype({**whole, "lossy": bool})
    copies = duplicates.copies(images)
    tables = [sources, records, duplicates.refused_copies(records, copies)]
    rejected = pd.concat([table[["source", "reason"]] for table in tables])
    rejected = rejected[rejected["reason"] != ""].sort_values("source", ignore_index=True)
    images = images[copies == ""]
    _tidy(prepared, set(sources["image_id"]), set(images["image_id"]))
    changed = _write_if_changed(prepared / "rejected.csv", rejected)
    _check_totals(sources, images, rejected)

    by_day = group == "day"
    groups = images["acquired_at"].str[:10] if by_day else folder_groups(images, group)
    looks = duplicates.similar_looks(images["look"], images["image_id"], images["field"])
    images = images.assign(group=groups, near_duplicate_of=looks)
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
        parameters = {"raw_dir": shown_path(raw_dir), **asdict(settings)}
        parameters |= {"class_names": list(class_names), "fractions": list(fractions)}
        parameters |= {"group": group, "keep_groups_whole": keep_groups_whole}
        provenance.write_provenance(
            prepared,
            parameters={**parameters, "small_classes": small_classes},
            seconds=time.perf_counter() - started,
            dataset=dataset,
            seed=seed,
            simulated=bool(images["simulated"].any()),
            files=len(sources),
            near_duplicates_across_given_subsets=leaks,
            cautions=cautions,
            files_converted_now=read_now,
        )
    files, refused = ((~t["source"].str.endswith("/")).sum() for t in (sources, rejected))
    print(
        f"{files} files: {len(images)} images in {images['class'].nunique()} classes, "
        f"{refused} refused; {read_now} files read now, {len(usable) - read_now} done before.",
        *(f"Caution: {caution}" for caution in cautions),
        sep="\n",
    )
    return manifest.read_images(prepared)


def _in_sets(records: pd.DataFrame) -> pd.Series:
    """Return the reasons; of files that belong to another's set, and one file per channel, anew."""
    owner = {}
    for source, beside in records.loc[records["reason"] == "", ["source", "beside"]].to_numpy():
        if source not in owner:
            members = [str(PurePosixPath(source).parent / name) for name in beside]
            owner = dict.fromkeys(members, source) | owner
    alone = (records["field"] != "") & records["reason"].str.contains("It holds 1 slice ")
    hint = " By its name it is one channel of several files: add files to `slices` to join them."
    reasons = records["reason"].mask(alone, records["reason"] + hint)
    owners = records["source"].map(owner).astype(object)
    of_set = "It belongs to the set of " + owners + ", read as one image."
    return reasons.where(owners.isna() | (reasons != ""), of_set)


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
            f"{len(apart)} files look like single channels of {apart['field'].nunique()} fields "
            f"({_first([*apart['source']])}), which now share a subset. Add files to `slices` to "
            "join them."
        )
    if (images["split"] != "").any():
        for subset in set(manifest.SUBSETS) - set(images["split"]):
            yield f"The tree gives a subset to every image, but none is for {subset}."
    if lossy := [*images.loc[images["lossy"], "source"]]:
        yield (
            f"{len(lossy)} images are JPEG, which loses fine detail and adds blocks of 8 × 8 "
            f"pixels ({_first(lossy)}). Use the originals if you can."
        )
    if settings.to_8_bit not in ("image", "slice"):
        yield from _depth_cautions(images, settings)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)


def _depth_cautions(images: pd.DataFrame, settings: ImageSettings) -> Iterator[str]:
    """Refuse bit depths that tell the classes apart; say where they differ or seem too large."""
    files = images.groupby(["bit_depth", "class"]).agg(
        count=("source", len), first=("source", "min"), brightest=("brightest", "max")
    )
    files = files.reset_index(names=["depth", "name"])
    listing = "; ".join(
        f"{each.depth} bits in {each.count} files of {each.name} (first {each.first})"
        for each in files.itertuples()
    )
    # Files of 8 bits fill their range; how much of theirs others fill is the question.
    depths = files[files["depth"] > 8].groupby("name")["depth"].agg(set)
    apart = any(not a & b for a, b in itertools.combinations(depths, 2))
    if len(set(files["depth"])) > 1 and settings.to_8_bit != "own_depth":
        told = (
            f"{listing}. If all hold the same bits, say so with bit_depth; if each fills its own "
            "range, to_8_bit='own_depth'; or give the intensities that become 0 and 255: "
            "to_8_bit='fixed' with limits."
        )
        if apart and settings.to_8_bit == "bit_depth":
            raise ValueError(
                f"Bit depths differ between classes, which brightness alone could then tell: {told}"
            )
        yield f"Bit depths differ: {told}"
    if settings.bit_depth is None and settings.to_8_bit != "fixed":
        full = files["depth"].isin([8, 16])
        dark = files[full & (files["brightest"] < 2.0 ** (files["depth"] - 2))]
        for depth, those in dark.groupby("depth"):
            yield (
                f"THE IMAGES OF {', '.join(those['name'])} WILL BE ALMOST BLACK: nothing says how "
                f"many of their {depth} bits count, and no pixel exceeds "
                f"{those['brightest'].max():.0f} of {(1 << depth) - 1}. Say it with bit_depth "
                "(often 12)."
            )


def _tidy(prepared: Path, known: set[str], kept: set[str]) -> None:
    """Delete images of files that are gone and of copies, if made here, and records of the gone."""
    records = prepared / "records"
    gone = [p for p in prepared.glob("images/*.png") if p.stem not in kept]
    gone = [p for p in gone if (records / f"{p.stem}.json").exists()]
    gone += [p for p in records.glob("*.json") if p.stem not in known]
    gone += prepared.glob("*/.*.part")  # left by a killed process
    for path in gone:
        path.unlink()


def _check_totals(sources: pd.DataFrame, images: pd.DataFrame, rejected: pd.DataFrame) -> None:
    """Assert that every file ended in one table, and that no class was refused as a whole."""
    if sorted([*images["source"], *rejected["source"]]) != sorted(sources["source"]):
        raise RuntimeError(
            f"Of {len(sources)} files, {len(images)} became images and {len(rejected)} refusals; "
            "this is a fault of the program."
        )
    usable = sources[sources["reason"] == ""]
    for name in sorted(set(usable["class"]) - set(images["class"])):
        reasons = rejected[rejected["source"].isin(usable.loc[usable["class"] == name, "source"])]
        raise ValueError(
            f"All {len(reasons)} files of class {name} were refused (see rejected.csv). "
            f"The first: {reasons['reason'].iloc[0]}"
        )
    if images.empty:
        raise ValueError(f"All {len(sources)} files were refused: {rejected['reason'].iloc[0]}")


def folder_groups(images: pd.DataFrame, group: str) -> pd.Series:
    """Return the name of a folder level, such as ``folder2``, of each image's ``source``."""
    level = re.fullmatch(r"folder0*([1-9]\d*)", str(group))
    expect(bool(level), "group", group, "'day' or a folder level such as 'folder2'")
    return images["source"].str.split("/").str[:-1].str[int(level[1]) - 1].fillna("")


def _write_if_changed(path: Path, table: pd.DataFrame) -> bool:
    """Write a table unless the file holds it already, so that later steps need not rerun."""
    if path.exists() and path.read_bytes() == table.to_csv(index=False).encode():
        return False
    write_csv(path, table)
    return True
