"""A tree of files → which class, and which given subset, each file belongs to.

Expected is ``<class>/**/<file>``. A folder named like a subset may stand above or right below
the class, as in ``train/<class>/<file>``; the subset of a file is then given by its place.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from hsc_utils import paper
from hsc_utils.files import from_root, shown_path

SUFFIXES = (".oir", ".tif", ".tiff", ".png")

_SHORT_NAMES = {
    "LT-HSC": {"lt", "lthsc", "longterm", "longtermhsc"},
    "ST-HSC": {"st", "sthsc", "shortterm", "shorttermhsc"},
    "MPP": {"mpp", "multipotentprogenitor"},
}
_SUBSET_NAMES = {
    "train": {"train", "training", "trainset", "trainingset"},
    "validation": {"val", "valid", "validation", "valset", "validationset"},
    "test": {"test", "testing", "testset"},
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
    if not root.is_dir():
        raise FileNotFoundError(
            f"The folder {shown_path(root)} (parameter raw_dir) does not exist. It should hold "
            "one folder a class with .oir, .tif or .png files."
        )
    paths = sorted(path.relative_to(root).as_posix() for path in files_below(root))
    paths = [path for path in paths if _is_input(root, PurePosixPath(path))]
    if not any(PurePosixPath(path).suffix.lower() in SUFFIXES for path in paths):
        raise FileNotFoundError(
            f"The folder {shown_path(root)} (parameter raw_dir) holds no .oir, .tif or .png "
            "file. It should hold one folder a class with such files."
        )
    folders = [split_and_class(PurePosixPath(path).parent.parts) for path in paths]
    known = known_classes([name for _, name in folders], class_names)
    table = pd.DataFrame({"source": paths, "image_id": image_ids(paths)})
    table["class"] = [known.get(name, "") for _, name in folders]
    table["split"] = [subset for subset, _ in folders]
    table["reason"] = [
        _reason(root, PurePosixPath(path), name, known)
        for path, (_, name) in zip(paths, folders, strict=True)
    ]
    _check_classes(root, table, class_names, known)
    _check_given_splits(root, table)
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
    subsets = [
        next((s for s, names in _SUBSET_NAMES.items() if _plain(folder) in names), "")
        for folder in folders[:2]
    ]
    subset = next(filter(None, subsets), "")
    rest = [f for k, f in enumerate(folders) if k >= len(subsets) or not subsets[k]]
    return subset, rest[0] if rest else ""


def known_classes(folders: Sequence[str], class_names: Sequence[str] = ()) -> dict[str, str]:
    """Match class folders with class names, whatever their spelling.

    Parameters
    ----------
    folders : sequence of str
        Names of class folders; empty ones are skipped.
    class_names : sequence of str
        As for `list_sources`.

    Returns
    -------
    dict of str to str
        Folder name to class name, for the folders that are a class.
    """
    wanted = list(class_names) or list(paper.counts().index)
    spellings = {
        spelling: name
        for name in wanted
        for spelling in {_plain(name), _plain(name) + "s"}
        | _SHORT_NAMES.get(name, set())
        | {short + "s" for short in _SHORT_NAMES.get(name, set())}
    }
    names = sorted(set(filter(None, folders)))
    known = {f: spellings[_plain(f)] for f in names if _plain(f) in spellings}
    if not known and not class_names:
        return {folder: folder for folder in names}
    return known


def image_ids(sources: Sequence[str]) -> list[str]:
    """Make a unique name, safe as a file name, from each path relative to the raw folder.

    The suffix goes, separators become ``__`` and unsafe characters ``-``. Names that would
    then be equal (``a.tif`` and ``a.png``) or too long get a short hash of their path.
    """
    names = [
        re.sub(
            r"[^A-Za-z0-9._-]", "-", str(PurePosixPath(source).with_suffix("")).replace("/", "__")
        )
        for source in sources
    ]
    folded = pd.Series(names, dtype=str).str.casefold()
    hashed = folded.duplicated(keep=False) | (folded.str.len() > 180)
    return [
        f"{name[:180]}-{hashlib.sha256(source.encode()).hexdigest()[:8]}" if long else name
        for name, source, long in zip(names, sources, hashed, strict=True)
    ]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _is_input(root: Path, path: PurePosixPath) -> bool:
    if any(part.startswith((".", "__MACOSX")) for part in path.parts):
        return False
    companion = _COMPANION.fullmatch(path.name)
    if companion and (root / path.parent / f"{companion[1]}.oir").exists():
        return False
    return len(path.parts) > 1 or path.suffix.lower() in SUFFIXES


def _reason(root: Path, path: PurePosixPath, folder: str, known: dict[str, str]) -> str:
    if not (root / path).is_file():
        return f"{path.name}: It is no file, or a link to one that does not exist."
    if not folder:
        return f"{path.name}: It lies in no class folder. Move it into the folder of its class."
    if folder not in known:
        return (
            f"{path.name}: Its folder {folder} is no class "
            f"({', '.join(sorted(set(known.values())))} are). Name it in class_names to use it."
        )
    if path.suffix.lower() not in SUFFIXES:
        return f"{path.name}: Its name does not end in {', '.join(SUFFIXES)}."
    return ""


def _check_classes(
    root: Path, table: pd.DataFrame, class_names: Sequence[str], known: dict[str, str]
) -> None:
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
    absent = [name for name in class_names if name not in used]
    if absent:
        raise ValueError(
            f"Class {absent[0]} (parameter class_names) has no folder with files in "
            f"{shown_path(root)}. Check its spelling, or take it out of class_names."
        )


def _check_given_splits(root: Path, table: pd.DataFrame) -> None:
    usable = table[table["reason"] == ""]
    given = usable["split"] != ""
    if given.any() and not given.all():
        raise ValueError(
            f"In {shown_path(root)}, {given.sum()} files lie in train, validation or test "
            f"folders and {(~given).sum()} do not, first {usable.loc[~given, 'source'].iloc[0]}. "
            "Give the subset of all files or of none."
        )
