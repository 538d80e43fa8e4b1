"""A tree of files, ``<class>/**/<file>`` → the class, and the given subset, of each.

A folder named like a subset may stand above or right below the class, as in
``train/<class>/<file>``. What systems leave (thumbnails, trash, hidden files) is no data.
"""

import difflib
import hashlib
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath

import pandas as pd

from hsc_utils import paper
from hsc_utils.files import from_root, shown_path
from hsc_utils.manifest import expect

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

    What systems leave, the companions of a large ``.oir`` (``name_00001``), and files other
    than images right in `raw_dir` are not listed. A folder that is left out or cannot be
    listed has a row of its own, whose ``source`` ends in a slash.

    Parameters
    ----------
    raw_dir : path
        The tree; `parameter` is what the caller calls it, for the messages.
    class_names : sequence of str
        The classes to use; folders match them in any usual spelling (``LT_HSC``, ``lthsc``
        and ``LT`` are LT-HSC), on whatever level most files have such a folder. Empty: the
        paper's classes, or, in a tree with no folder of any of them, every folder as a class.
    join : bool
        Whether files whose names differ in the channel alone (``f_C0.tif``, ``f_C1.tif``) are
        one image; all but the first then have that as their ``reason``.

    Returns
    -------
    DataFrame
        Columns ``source`` (path relative to `raw_dir`), ``image_id``, ``class``, ``split``
        (empty where the tree does not give it), ``reason`` (why the file cannot be used;
        empty where it can), ``field`` (the first of the files that differ in the channel
        alone; empty for others) and ``channels`` (names of the files joined to this one).
    """
    expect(isinstance(raw_dir, str | Path), parameter, raw_dir, "the path of a folder")
    texts = not isinstance(class_names, str) and all(isinstance(n, str) for n in class_names)
    wanted = "a list of texts (in YAML, quote names such as '007' and 'NO')"
    expect(texts, "class_names", class_names, wanted)
    root = from_root(raw_dir)
    found = _inputs(root, parameter, "It should hold one folder per class with such files.")
    paths = [*map(PurePosixPath, found)]
    places = [path.parent.parts for path in paths]
    subsets = _subset_folders(places, class_names)
    splits, below = zip(*(_split_and_rest(place, subsets) for place in places), strict=True)
    used = [rest for rest, path in zip(below, paths, strict=True) if _is_utf8(path)]
    level = _class_level(used, class_names)
    folders = [rest[level] if len(rest) > level else "" for rest in below]
    known = known_classes([f for f in folders if _is_utf8(f)], class_names)
    for name, path, folder in zip(found, paths, folders, strict=True):
        found[name] = found[name] or _reason(root, path, folder, known)
    table = _table(found, join)
    table["split"] = splits
    table["class"] = [known.get(folder, "") for folder in folders]
    _check_classes(root, table, class_names, known, level)
    usable = table[table["reason"] == ""]
    given = usable["split"] != ""
    if given.any() and not given.all():
        raise ValueError(
            f"In {shown_path(root)}, {given.sum()} files lie in train, validation or test "
            f"folders and {(~given).sum()} do not, first {usable.loc[~given, 'source'].iloc[0]}. "
            "Give the subset of all or of none; if such a folder is a class, use class_names."
        )
    return table


def list_new_sources(
    raw_dir: str | Path, class_names: Sequence[str], *, join: bool = False
) -> pd.DataFrame:
    """List every file of a tree of new images, which need no class.

    Parameters
    ----------
    raw_dir : path
        Any tree of image files.
    class_names : sequence of str
        The classes that a model knows; a file in a folder of one of them, in any usual spelling
        and on any level, is labelled with it; one in folders of two of them is not.
    join : bool
        As for `list_sources`.

    Returns
    -------
    DataFrame
        As `list_sources`; ``class`` is empty where no folder names one, and ``split`` is empty.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no image file in it.
    """
    root = from_root(raw_dir)
    found = _inputs(root, "new_images_dir", "Name a folder that does, with any folders below.")
    paths = [*map(PurePosixPath, found)]
    known = _matching({part for path in paths for part in path.parent.parts}, class_names)
    for name, path in zip(found, paths, strict=True):
        found[name] = found[name] or _reason(root, path)
    table = _table(found, join).assign(split="")
    labels = [{known[part] for part in path.parent.parts if part in known} for path in paths]
    return table.assign(**{"class": [*map(_only, labels)]})


def _only(names: set[str]) -> str:
    """Return the only name of a set; nothing where there are several, or none."""
    return next(iter(names)) if len(names) == 1 else ""


def _inputs(root: Path, parameter: str, wanted: str) -> dict[str, str]:
    """Map every input of a tree to why it is left out, or to nothing; refuse a tree without one."""
    walked = sorted((p.relative_to(root).as_posix() + "/" * bool(w), w) for p, w in _walk(root))
    if not any(name.lower().endswith(_SUFFIXES) for name, why in walked if not why):
        what = "is a file, not a folder" if root.is_file() else "does not exist"
        what = "holds no .oir, .tif or .png file (nor .jpg)" if root.is_dir() else what
        raise FileNotFoundError(
            f"The folder {shown_path(root)} (parameter {parameter}) {what}. {wanted}"
        )
    # Neither companions of a file that is there nor notes beside the folders are inputs.
    names, found = {name.casefold() for name, _ in walked}, {}
    for name, why in walked:
        part = _COMPANION.fullmatch(name)
        of_other = part and f"{part[1]}.oir".casefold() in names
        if why or (not of_other and ("/" in name or name.lower().endswith(_SUFFIXES))):
            found[name] = why
    return found


def _table(found: dict[str, str], join: bool) -> pd.DataFrame:
    """Return source, image_id, reason, field and channels of each input; see `list_sources`."""
    fields, joined = {}, {}
    for channels in channel_sets(PurePosixPath(name) for name, why in found.items() if not why):
        first, *others = map(str, channels.values())
        fields |= dict.fromkeys([first, *others], first)
        if join:
            joined[first] = tuple(PurePosixPath(other).name for other in others)
            found |= dict.fromkeys(others, f"It is a channel of {first}, which is read with it.")
    table = pd.DataFrame({"source": map(_printable, found), "reason": list(found.values())})
    table["image_id"] = image_ids(table["source"])
    table["field"] = [fields.get(name, "") for name in found]
    table["channels"] = [joined.get(name, ()) for name in found]
    return table


def files_below(folder: Path) -> Iterator[Path]:
    """Go through the files below a folder, linked folders included, each folder once."""
    return (path for path, reason in _walk(folder) if not reason)


def known_classes(folders: Sequence[str], class_names: Sequence[str] = ()) -> dict[str, str]:
    """Map the folders that are a class, in whatever spelling, to the class's name."""
    names = sorted(set(filter(None, folders)))
    known = _matching(names, class_names)
    return known if known or class_names else {folder: folder for folder in names}


def _matching(folders: Iterable[str], class_names: Sequence[str]) -> dict[str, str]:
    """Map the folders that match a class, one of the paper's where none are named, to its name."""
    spellings = _spellings(class_names or paper.counts().index)
    matches = {f: f if f in class_names else spellings.get(_plain(f)) for f in folders}
    return {folder: name for folder, name in matches.items() if name}


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
    in_order = {key: dict(sorted(found.items(), key=_natural)) for key, found in sets.items()}
    return [found for found in in_order.values() if 2 <= len(found) <= _MOST_CHANNELS]


def _natural(item: tuple[str, PurePath]) -> str:
    return re.sub(r"\d+", lambda digits: digits[0].zfill(4), item[0].casefold())


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


def _is_utf8(name: str | PurePath) -> bool:
    return _printable(name) == str(name)


def _printable(name: str | PurePath) -> str:
    """Show what a CSV cannot hold, bytes that are no UTF-8 and carriage returns, by numbers."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace("\r", "\\x0d")


def _subset_folders(places: Sequence[Sequence[str]], class_names: Sequence[str]) -> dict[str, str]:
    """Map folders called like a subset to it, but for classes: named so, or as others lie there."""
    tops = {place[0] for place in places if place}
    deep = {place[0] for place in places if len(place) > 1}
    named = {folder: _SUBSETS.get(_plain(folder)) for place in places for folder in place[:2]}
    classes = tops.intersection(class_names)
    if not all(named[top] for top in tops):
        classes |= tops - deep
    return {folder: name for folder, name in named.items() if name and folder not in classes}


def _split_and_rest(
    folders: Sequence[str], subsets: Mapping[str, str]
) -> tuple[str, tuple[str, ...]]:
    """Take a subset's folder, if there is one, out of the first two folders of a file."""
    for k, folder in enumerate(folders[:2]):
        if folder in subsets:
            return subsets[folder], (*folders[:k], *folders[k + 1 :])
    return "", tuple(folders)


def _spellings(class_names: Sequence[str]) -> dict[str, str]:
    """Map spellings to classes, but for those that two classes share (CD34+ and CD34-)."""
    spellings = defaultdict(set)
    for name in class_names:
        for spelling in {_plain(name)} | _SHORT_NAMES.get(name, set()):
            spellings[spelling].add(name)
            spellings[f"{spelling}s"].add(name)
    return {spelling: names.pop() for spelling, names in spellings.items() if len(names) == 1}


def _class_level(places: Sequence[Sequence[str]], class_names: Sequence[str]) -> int:
    """Find the level on which most files lie in a known class; else the topmost."""
    known = _matching(itertools.chain(*places), class_names)
    hits = Counter(k for place in places for k, folder in enumerate(place) if folder in known)
    if hits:
        return max(sorted(hits), key=hits.get)
    tops = sorted({place[0] for place in places if place})
    below = sorted({place[1] for place in places if len(place) > 1})
    if tops and all(map(_DAY.fullmatch, tops)) and not any(map(_DAY.fullmatch, below)) and below:
        raise ValueError(
            f"The topmost folders ({', '.join(tops[:4])}) look like days, not classes, and below "
            f"them lie {', '.join(below[:4])}. Name the classes, on any level, in class_names."
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
    spellings = {s: n for s, n in _spellings(class_names).items() if len(s) > 2}
    plain = _plain(folder)
    within = [spelling for spelling in spellings if spelling in plain]
    close = difflib.get_close_matches(plain, spellings, 1, 0.8)
    return spellings[max(within, key=len)] if within else spellings.get("".join(close), "")


def _reason(
    root: Path, path: PurePosixPath, folder: str | None = None, known: Mapping[str, str] = {}
) -> str:
    """Say why a file cannot be used by its name, or its place where classes matter, or nothing."""
    part, of_class = _COMPANION.fullmatch(path.name), folder is not None
    classes = sorted(set(known.values()))
    near = _nearest(folder, classes) if folder and folder not in known else ""
    hint = f", though it nearly matches {near}: rename it if it is that" * bool(near)
    rules = (
        (not _is_utf8(path), "Its path is not valid UTF-8 or has a carriage return. Rename it."),
        # Path's own is_file fails in a closed folder.
        (not os.path.isfile(root / path), "It is no file, or a link to one that does not exist."),  # noqa: PTH113
        (
            of_class and not folder,
            "It lies in no class folder. Move it into the folder of its class.",
        ),
        (
            of_class and folder not in known,
            f"Its folder {folder} is no class ({', '.join(classes)} are){hint}. Name it in "
            "class_names to use it.",
        ),
        (part, f"It is a part of {part and part[1]}.oir, which is missing. Copy that, too."),
        (path.suffix.lower() not in _SUFFIXES, f"Its name does not end in {', '.join(_SUFFIXES)}."),
    )
    why = next((sentence for holds, sentence in rules if holds), "")
    return why and f"{_printable(path.name)}: {why}"


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
            "each into the folder of its class, such as MPP."
        )
    if absent := [name for name in class_names if name not in used]:
        raise ValueError(
            f"Class {absent[0]} (parameter class_names) has no folder with files in "
            f"{shown_path(root)}. Check its spelling, or take it out."
        )
    others = folders_of_no_class(table).index
    missing = [name for name in paper.counts().index if name not in used]
    near = {folder: name for folder in others if (name := _nearest(folder, missing))}
    if not class_names and len(others) and (near or len(used) == 1):
        hidden = ", ".join(f"{folder} nearly matches {name}" for folder, name in near.items())
        raise ValueError(
            f"Only {', '.join(sorted(used))} would be used; {', '.join(others)} would not, being "
            f"none of the paper's classes{f' (but {hidden})' * bool(near)}. Rename the folders, or "
            "name all classes in class_names."
        )
    tops = [p for p in root.glob("*/") if not _OF_SYSTEMS.fullmatch(p.name)]
    nested = [p for top in tops if _plain(top.name) in _SUBSETS for p in top.glob("*/")]
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
