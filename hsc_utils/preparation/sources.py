"""A tree of files → which class, and which given subset, each file belongs to.

Expected is ``<class>/**/<file>``. A folder named like a subset may stand above or right below
the class, as in ``train/<class>/<file>``; the subset of a file is then given by its place.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from hsc_utils import paper
from hsc_utils.files import from_root, shown_path

_SUFFIXES = (".oir", ".tif", ".tiff", ".png")

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
_COMPANION = re.compile(r"(.+)_\d{5}")


def list_sources(raw_dir: str | Path, class_names: Sequence[str] = ()) -> pd.DataFrame:
    """List every file of a tree with its class, sorted by path.

    Hidden files, the companions of a large ``.oir`` (``name_00001``), and files other than
    images right in `raw_dir` are no inputs and not listed.

    Parameters
    ----------
    raw_dir : path
        The tree.
    class_names : sequence of str
        The classes to use; folders match them in any usual spelling (``LT_HSC``, ``lthsc``
        and ``LT`` are LT-HSC), and files of other folders are refused. Empty: the paper's
        classes, or, in a tree with no folder of any of them, every folder as a class.

    Returns
    -------
    DataFrame
        Columns ``source`` (path relative to `raw_dir`), ``image_id``, ``class``, ``split``
        (empty where the tree does not give it) and ``reason`` (why the file cannot be used;
        empty where it can).

    Raises
    ------
    FileNotFoundError
        If `raw_dir` is missing or holds no image.
    ValueError
        If a class folder is empty, a wanted class has no folder, or only some files lie in
        a subset's folder.
    """
    root = from_root(raw_dir)
    names = sorted(path.relative_to(root).as_posix() for path in files_below(root))
    paths = [path for path in map(PurePosixPath, names) if _is_input(root, path)]
    if not any(path.suffix.lower() in _SUFFIXES for path in paths):
        what = "holds no .oir, .tif or .png file" if root.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"The folder {shown_path(root)} (parameter raw_dir) {what}. It should hold one folder "
            "a class with .oir, .tif or .png files."
        )
    splits, folders = zip(*(split_and_class(path.parent.parts) for path in paths), strict=True)
    known = known_classes(folders, class_names)
    reasons = [_reason(root, *file, known) for file in zip(paths, folders, strict=True)]
    table = pd.DataFrame({"source": map(str, paths), "split": splits, "reason": reasons})
    table["image_id"] = image_ids(table["source"])
    table["class"] = [known.get(folder, "") for folder in folders]
    _check_classes(root, table, class_names, known)
    usable = table[table["reason"] == ""]
    given = usable["split"] != ""
    if given.any() and not given.all():
        raise ValueError(
            f"In {shown_path(root)}, {given.sum()} files lie in train, validation or test "
            f"folders and {(~given).sum()} do not, first {usable.loc[~given, 'source'].iloc[0]}. "
            "Give the subset of all files or of none."
        )
    return table


def files_below(folder: Path) -> Iterator[Path]:
    """Go through all files below a folder, linked folders included, each folder once."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [f for f in folders if os.path.realpath(Path(place, f)) not in seen]
        yield from (Path(place, name) for name in files)


def split_and_class(folders: Sequence[str]) -> tuple[str, str]:
    """Tell from a file's folders its given subset and its class folder; either may be empty."""
    subsets = [_SUBSETS.get(_plain(folder), "") for folder in folders[:2]]
    pairs = itertools.zip_longest(folders, subsets)
    rest = (folder for folder, subset in pairs if not subset)
    return next(filter(None, subsets), ""), next(rest, "")


def known_classes(folders: Sequence[str], class_names: Sequence[str] = ()) -> dict[str, str]:
    """Map the folders that are a class, in whatever spelling, to the class's name."""
    spellings = {
        spelling + plural: name
        for name in class_names or paper.counts().index
        for spelling in {_plain(name)} | _SHORT_NAMES.get(name, set())
        for plural in ("", "s")
    }
    names = sorted(set(filter(None, folders)))
    known = {f: spellings[_plain(f)] for f in names if _plain(f) in spellings}
    return known if known or class_names else {folder: folder for folder in names}


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


def _plain(name: str) -> str:
    """Take the separators and capitals out of a name."""
    return re.sub(r"[\W_]", "", name.casefold())


def _is_input(root: Path, path: PurePosixPath) -> bool:
    """Tell a file to list from hidden ones, companions, and notes beside the folders."""
    if any(part.startswith((".", "__MACOSX")) for part in path.parts):
        return False
    companion = _COMPANION.fullmatch(path.name)
    if companion and (root / path.parent / f"{companion[1]}.oir").exists():
        return False
    return len(path.parts) > 1 or path.suffix.lower() in _SUFFIXES


def _reason(root: Path, path: PurePosixPath, folder: str, known: dict[str, str]) -> str:
    """Say why a file cannot be used by its place or name, or nothing."""
    if not (root / path).is_file():
        return f"{path.name}: It is no file, or a link to one that does not exist."
    if not folder:
        return f"{path.name}: It lies in no class folder. Move it into the folder of its class."
    if folder not in known:
        return (
            f"{path.name}: Its folder {folder} is no class "
            f"({', '.join(sorted(set(known.values())))} are). Name it in class_names to use it."
        )
    if path.suffix.lower() not in _SUFFIXES:
        return f"{path.name}: Its name does not end in {', '.join(_SUFFIXES)}."
    return ""


def _check_classes(
    root: Path, table: pd.DataFrame, class_names: Sequence[str], known: dict[str, str]
) -> None:
    """Refuse an empty class folder, and a wanted class without files."""
    tops = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    nested = [p for top in tops if not split_and_class([top.name])[1] for p in top.iterdir()]
    spelled = known_classes([p.name for p in tops], class_names) | known
    used = set(table.loc[table["reason"] == "", "class"])
    for folder in sorted([*tops, *nested]):
        within = folder.relative_to(root).as_posix() + "/"
        mine = table["source"].str.startswith(within) & (table["reason"] == "")
        if folder.is_dir() and folder.name in spelled and not mine.any():
            raise ValueError(
                f"The class folder {shown_path(folder)} holds no .oir, .tif or .png file. Add "
                "files, or remove the folder."
            )
    if absent := [name for name in class_names if name not in used]:
        raise ValueError(
            f"Class {absent[0]} (parameter class_names) has no folder with files in "
            f"{shown_path(root)}. Check its spelling, or take it out of class_names."
        )
