"""A tree of files → which class, and which given subset, each file belongs to.

Expected is ``<class>/**/<file>``. A folder named like a subset may stand above or right below
the class, as in ``train/<class>/<file>``; the subset of a file is then given by its place.
What systems leave in a tree (thumbnails, trash, hidden files) is no data.
"""

import difflib
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath

import pandas as pd

from hsc_utils import paper
from hsc_utils.files import from_root, shown_path

_SUFFIXES = (".oir", ".tif", ".tiff", ".png", ".jpg", ".jpeg")

_SHORT_NAMES = {
    "LT-HSC": {"lt", "lthsc", "longterm", "longtermhsc"},
    "ST-HSC": {"st", "sthsc", "shortterm", "shorttermhsc"},
    "MPP": {"mpp", "multipotentprogenitor"},
}
_SUBSETS = {
    **dict.fromkeys(("train", "training", "trainset", "trainingset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "validationset"), "validation"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
# What macOS, Windows, Linux, Synology and QNAP leave, beside names that begin with a dot.
_OF_SYSTEMS = re.compile(
    r"\..*|~\$.*|__macosx|network trash folder|temporary items|icon\r|\$recycle\.bin|recycle[rd]|"
    r"system volume information|found\.\d+|thumbs\.db|ehthumbs.*\.db|desktop\.ini|lost\+found|"
    r"trash-\d+|@eadir|#recycle|#snapshot|@recycle|@recently-snapshot|@__thumb|.*@syno.*|__pycache__",
    re.IGNORECASE,
)
_COMPANION = re.compile(r"(.+)_\d{5}")
_DAY = re.compile(r"(day|date|d)\W?_?\d+|\d{6}|\d{4}[\W_]?\d\d[\W_]?\d\d|\d\d?\W\d\d?\W\d+", re.I)
_CHANNEL = re.compile(
    r"(?<![A-Za-z0-9])(c\d{1,2}|ch\d{1,2}|channel[ _-]?\d{1,2}|w\d[A-Za-z]*|dic|bf|brightfield|"
    r"ph|phase|dapi|hoechst|gfp|rfp|yfp|cfp|fitc|tritc|cy[357]|af|autofluorescence|red|green|blue)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_NO_CLASS = r": Its folder (.+) is no class "
_MOST_CHANNELS = 6  # of a field; more files than that are numbered, not channels


def list_sources(
    raw_dir: str | Path,
    class_names: Sequence[str] = (),
    *,
    join: bool = False,
    parameter: str = "raw_dir",
) -> pd.DataFrame:
    """List every file of a tree with its class, sorted by path.

    Hidden files and those of systems, the companions of a large ``.oir`` (``name_00001``), and
    files other than images right in `raw_dir` are no inputs and not listed. A folder that is
    left out or cannot be listed has a row of its own, whose ``source`` ends in a slash.

    Parameters
    ----------
    raw_dir : path
        The tree.
    class_names : sequence of str
        The classes to use; folders match them in any usual spelling (``LT_HSC``, ``lthsc``
        and ``LT`` are LT-HSC), on whatever level most files have such a folder, and files of
        other folders are refused. Empty: the paper's classes, or, in a tree with no folder
        of any of them, every folder as a class.
    join : bool
        Whether files whose names differ in the channel alone (``f_C0.tif``, ``f_C1.tif``) are
        one image; all but the first then have that as their ``reason``.
    parameter : str
        What the caller calls `raw_dir`, for the messages.

    Returns
    -------
    DataFrame
        Columns ``source`` (path relative to `raw_dir`), ``image_id``, ``class``, ``split``
        (empty where the tree does not give it), ``reason`` (why the file cannot be used;
        empty where it can), ``field`` (the first of the files that differ in the channel
        alone; empty for others) and ``channels`` (names of the files joined to this one).

    Raises
    ------
    FileNotFoundError
        If `raw_dir` is missing or holds no image.
    ValueError
        If a class folder is empty, a wanted class has no folder, folders nearly match a
        class, look like days or are no class folders, or only some files lie in a subset's
        folder.
    """
    root = _folder(raw_dir, parameter)
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise ValueError(
            f"class_names is {class_names!r}, but a list of texts was expected (in YAML, quote "
            "names such as '007' and 'NO')."
        )
    walked = sorted((p.relative_to(root).as_posix() + "/" * bool(w), w) for p, w in _walk(root))
    names = {name.casefold() for name, _ in walked}
    kept = [(PurePosixPath(n), n, why) for n, why in walked if why or _is_input(n, names)]
    if not any(path.suffix.lower() in _SUFFIXES for path, _, why in kept if not why):
        raise FileNotFoundError(
            f"The folder {shown_path(root)} (parameter {parameter}) holds no .oir, .tif or .png "
            "file (nor .jpg). It should hold one folder a class with such files."
        )
    paths, sources, reasons = zip(*kept, strict=True)
    places = [path.parent.parts for path in paths]
    as_class = _subset_names_that_are_classes(places, class_names)
    splits, below = zip(*(_split_and_rest(place, as_class) for place in places), strict=True)
    used = [rest for rest, path in zip(below, paths, strict=True) if _is_utf8(path)]
    level = _class_level(used, class_names)
    folders = [rest[level] if len(rest) > level else "" for rest in below]
    known = known_classes([f for f in folders if _is_utf8(f)], class_names)
    reasons = [
        why or _reason(root, path, folder, known)
        for why, path, folder in zip(reasons, paths, folders, strict=True)
    ]
    usable = [path for path, why in zip(paths, reasons, strict=True) if not why]
    fields, joined = {}, {}
    for channels in channel_sets(usable):
        first, *others = channels.values()
        fields |= dict.fromkeys(map(str, channels.values()), str(first))
        joined[str(first)] = tuple(other.name for other in others)
    table = pd.DataFrame({"source": map(_printable, sources), "split": splits, "reason": reasons})
    table["image_id"] = image_ids(table["source"])
    table["class"] = [known.get(folder, "") for folder in folders]
    table["field"] = [fields.get(source, "") for source in table["source"]]
    table["channels"] = [joined.get(source, ()) if join else () for source in table["source"]]
    if join:
        others = (table["field"] != "") & (table["field"] != table["source"])
        said = "It is a channel of " + table["field"] + ", which is read with it."
        table["reason"] = table["reason"].mask(others, said)
    _check_classes(root, table, class_names, known, level)
    usable = table[table["reason"] == ""]
    given = usable["split"] != ""
    if given.any() and not given.all():
        raise ValueError(
            f"In {shown_path(root)}, {given.sum()} files lie in train, validation or test "
            f"folders and {(~given).sum()} do not, first {usable.loc[~given, 'source'].iloc[0]}. "
            "Give the subset of all files or of none; if a folder with such a name is a class, "
            "name all classes in class_names."
        )
    return table


def files_below(folder: Path) -> Iterator[Path]:
    """Go through the files below a folder, linked folders included, each folder once."""
    return (path for path, reason in _walk(folder) if not reason)


def split_and_class(folders: Sequence[str]) -> tuple[str, str]:
    """Tell from a file's folders its given subset and its class folder; either may be empty."""
    split, rest = _split_and_rest(folders)
    return split, next(iter(rest), "")


def known_classes(folders: Sequence[str], class_names: Sequence[str] = ()) -> dict[str, str]:
    """Map the folders that are a class, in whatever spelling, to the class's name."""
    spellings = _spellings(class_names)
    names = sorted(set(filter(None, folders)))
    known = {name: name for name in names if name in class_names}
    known |= {f: spellings[_plain(f)] for f in names if f not in known and _plain(f) in spellings}
    return known if known or class_names else {folder: folder for folder in names}


def channel_files(path: Path) -> dict[str, str]:
    """Return channel and name of each file that differs from `path` in the channel alone."""
    beside = (other for other in path.parent.iterdir() if other.suffix.lower() in _SUFFIXES)
    sets = channel_sets(beside)
    mine = next((channels for channels in sets if path in channels.values()), {})
    return {channel: member.name for channel, member in mine.items()}


def channel_sets(paths: Iterable[PurePath]) -> list[dict[str, PurePath]]:
    """Find the files of a folder whose names differ in a channel alone, by channel and in order."""
    sets = defaultdict(dict)
    for path in paths:
        if found := [*_CHANNEL.finditer(path.stem)]:
            (start, end), name = found[-1].span(), path.stem
            sets[path.parent, path.suffix.lower(), name[:start], name[end:]][name[start:end]] = path
    return [
        dict(sorted(channels.items(), key=lambda item: _natural(item[0])))
        for channels in sets.values()
        if 2 <= len(channels) <= _MOST_CHANNELS
    ]


def _natural(name: str) -> str:
    return re.sub(r"\d+", lambda digits: digits[0].zfill(4), name.casefold())


def _folder(raw_dir: str | Path, parameter: str) -> Path:
    """Return the folder of a tree; a sentence if it is none."""
    if not isinstance(raw_dir, str | Path):
        raise ValueError(f"{parameter} is {raw_dir!r}, but the path of a folder was expected.")
    root = from_root(raw_dir)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(
            f"The folder {shown_path(root)} (parameter {parameter}) {what}. It should hold one "
            "folder a class with .oir, .tif or .png files."
        )
    return root


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Go through the files of a tree; folders that are left out come with the reason."""
    seen, failed = set(), []
    for place, folders, files in os.walk(root, followlinks=True, onerror=failed.append):
        if (real := os.path.realpath(place)) in seen:  # linked twice; its files are listed once
            folders.clear()
            continue
        seen.add(real)
        for name in sorted(filter(_OF_SYSTEMS.fullmatch, folders)):
            folders.remove(name)
            yield Path(place, name), "A folder that a system or program made, left out."
        folders.sort()
        yield from ((Path(place, name), "") for name in files if not _OF_SYSTEMS.fullmatch(name))
    for error in failed:
        yield Path(error.filename), f"This folder cannot be listed ({error.strerror}). Allow it."


def _is_input(name: str, names: set[str]) -> bool:
    """Tell a file to list from companions, and from notes beside the folders."""
    companion = _COMPANION.fullmatch(name)
    if companion and f"{companion[1]}.oir".casefold() in names:
        return False
    return "/" in name or PurePosixPath(name).suffix.lower() in _SUFFIXES


def _is_utf8(name: str | PurePath) -> bool:
    return _printable(name) == str(name)


def _printable(name: str | PurePath) -> str:
    """Show what a CSV cannot hold, bytes that are no UTF-8 and carriage returns, by numbers."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace("\r", "\\x0d")


def _subset(folder: str) -> str:
    return _SUBSETS.get(_plain(folder), "")


def _split_and_rest(
    folders: Sequence[str], as_class: Sequence[str] = ()
) -> tuple[str, tuple[str, ...]]:
    """Take a subset's folder, if there is one, out of the first two folders of a file."""
    for k, folder in enumerate(folders[:2]):
        if folder not in as_class and _subset(folder):
            return _subset(folder), (*folders[:k], *folders[k + 1 :])
    return "", tuple(folders)


def _subset_names_that_are_classes(
    places: Sequence[Sequence[str]], class_names: Sequence[str]
) -> set[str]:
    """Name the folders called like a subset that are classes: named so, or as others lie there."""
    tops = {place[0] for place in places if place}
    named = {name for name in tops if _subset(name) and name in class_names}
    if all(map(_subset, tops)):
        return named
    deep = {place[0] for place in places if len(place) > 1}
    return named | {name for name in tops - deep if _subset(name)}


def _spellings(class_names: Sequence[str]) -> dict[str, str]:
    """Map spellings to classes, but for those that two classes share (CD34+ and CD34-)."""
    spellings = defaultdict(set)
    for name in class_names or paper.counts().index:
        for spelling in {_plain(name)} | _SHORT_NAMES.get(name, set()):
            spellings[spelling].add(name)
            spellings[f"{spelling}s"].add(name)
    return {spelling: names.pop() for spelling, names in spellings.items() if len(names) == 1}


def _class_level(places: Sequence[Sequence[str]], class_names: Sequence[str]) -> int:
    """Find the level on which most files lie in a known class; else the topmost."""
    spellings = _spellings(class_names)
    hits = Counter(
        level
        for place in places
        for level, folder in enumerate(place)
        if folder in class_names or _plain(folder) in spellings
    )
    if hits:
        return max(sorted(hits), key=hits.get)
    tops = sorted({place[0] for place in places if place})
    below = sorted({place[1] for place in places if len(place) > 1})
    if tops and all(map(_DAY.fullmatch, tops)) and not any(map(_DAY.fullmatch, below)) and below:
        raise ValueError(
            f"The topmost folders ({', '.join(tops[:4])}) look like days, not classes, and below "
            f"them lie {', '.join(below[:4])}. Name the classes in the parameter class_names; "
            "folders are then looked for on every level."
        )
    return 0


def image_ids(sources: Sequence[str]) -> list[str]:
    """Make a unique name, safe as a file name, from each path relative to the raw folder."""
    plain = [str(PurePosixPath(source).with_suffix("")).replace("/", "__") for source in sources]
    names = [re.sub(r"[^A-Za-z0-9._-]", "-", name) for name in plain]
    # Names that are now equal (a.tif and a.png) or too long get a short hash of their path.
    folded = pd.Series(names, dtype=str).str.casefold()
    hashed = folded.duplicated(keep=False) | (folded.str.len() > 180)
    return [
        f"{name[:180]}-{hashlib.sha256(source.encode()).hexdigest()[:8]}" if long else name
        for name, source, long in zip(names, sources, hashed, strict=True)
    ]


def _nearest(folder: str, class_names: Sequence[str]) -> str:
    """Name the class that a folder nearly matches, if there is one."""
    if not class_names:
        return ""
    spellings = {s: n for s, n in _spellings(class_names).items() if len(s) > 2}
    plain = _plain(folder)
    within = [spelling for spelling in spellings if spelling in plain]
    close = difflib.get_close_matches(plain, spellings, 1, 0.8)
    return spellings[max(within, key=len)] if within else spellings.get("".join(close), "")


def _reason(root: Path, path: PurePosixPath, folder: str, known: Mapping[str, str]) -> str:
    """Say why a file cannot be used by its place or name, or nothing."""
    if not _is_utf8(path):
        return (
            f"{_printable(path.name)}: Its path is not valid UTF-8 or has a carriage return, as "
            "names from another system may. Rename the file or its folder."
        )
    if not os.path.isfile(root / path):  # noqa: PTH113 -- Path's fails in a closed folder
        return f"{path.name}: It is no file, or a link to one that does not exist."
    if not folder:
        return f"{path.name}: It lies in no class folder. Move it into the folder of its class."
    if folder not in known:
        classes = sorted(set(known.values()))
        near = _nearest(folder, classes)
        return (
            f"{path.name}: Its folder {folder} is no class ({', '.join(classes)} are)"
            f"{f', though it nearly matches {near}: rename it if it is that' * bool(near)}. "
            "Name it in class_names to use it."
        )
    if companion := not path.suffix and _COMPANION.fullmatch(path.name):
        return f"{path.name}: It is a part of {companion[1]}.oir, which is missing. Copy that, too."
    if path.suffix.lower() not in _SUFFIXES:
        return f"{path.name}: Its name does not end in {', '.join(_SUFFIXES)}."
    return ""


def _check_classes(
    root: Path,
    table: pd.DataFrame,
    class_names: Sequence[str],
    known: Mapping[str, str],
    level: int,
) -> None:
    """Refuse an empty class folder, a class without files, and one that hides under a name."""
    used = set(table.loc[table["reason"] == "", "class"])
    if not known:
        raise ValueError(
            f"None of the {len(table)} files in {shown_path(root)} lies in a class folder. Put "
            "each into a folder with the name of its class, such as MPP."
        )
    if absent := [name for name in class_names if name not in used]:
        raise ValueError(
            f"Class {absent[0]} (parameter class_names) has no folder with files in "
            f"{shown_path(root)}. Check its spelling, or take it out of class_names."
        )
    others = folders_of_no_class(table).index
    missing = [name for name in paper.counts().index if name not in used]
    near = {folder: name for folder in others if (name := _nearest(folder, missing))}
    if not class_names and len(others) and (near or len(used) == 1):
        hidden = ", ".join(f"{folder} nearly matches {name}" for folder, name in near.items())
        raise ValueError(
            f"Only {', '.join(sorted(used))} would be used; {', '.join(others)} would not, being "
            f"none of the paper's classes{f' (but {hidden})' * bool(near)}. Rename the folders, or "
            "name all classes to use in the parameter class_names."
        )
    tops = [p for p in root.glob("*/") if not _OF_SYSTEMS.fullmatch(p.name)]
    nested = [p for top in tops if _subset(top.name) for p in top.glob("*/")]
    spelled = known_classes([p.name for p in tops], class_names) if level == 0 else {}
    for folder in sorted([*tops, *nested]):
        within = f"{_printable(folder.relative_to(root).as_posix())}/"
        reasons = table.loc[table["source"].str.startswith(within), "reason"]
        if folder.name in {**spelled, **known} and (reasons != "").all():
            raise ValueError(
                f"The class folder {_printable(shown_path(folder))} holds no .oir, .tif or .png "
                f"file that can be used. {'; '.join(reasons[:1])} Add files, or remove the folder."
            )


def folders_of_no_class(table: pd.DataFrame) -> pd.Series:
    """Count the image files by folder that were left out because their folder is no class."""
    images = table["source"].str.lower().str.endswith(_SUFFIXES)
    return table.loc[images, "reason"].str.extract(_NO_CLASS)[0].value_counts().sort_index()


def _plain(name: str) -> str:
    """Take the separators and capitals out of a name."""
    return re.sub(r"[\W_]", "", name.casefold())
