"""The configuration file of a study: a few commented lines, only what differs from the defaults."""

import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import yaml

from hsc_utils import manifest, metrics
from hsc_utils.files import atomic_path, from_caller, from_root, shown_path
from hsc_utils.new_study.look import LEAST, Sight
from hsc_utils.study import Study

# Shares of the split, of which the test subset's decides how well scores are known.
_OF_TEST = 0.2
_SMALL = round(metrics.ROUGH_IMAGES / _OF_TEST)  # images of a class, below which folds pay
_FOLDS = 5
_WIDTH = 100  # characters of a line
_SIDE = (32, 96)  # px, of patches of ready cells


def write_config(sight: Sight, study: str | Path, name: str, folder: Path) -> Path:
    """Write the configuration file of a study that nobody has described yet.

    Parameters
    ----------
    sight : Sight
        What was seen in its folder, see `look_at`.
    study : path
        The study's folder.
    name : str
        Name of the data set.
    folder : Path
        Where the file is written, as ``<name of the study's folder>.yaml``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileExistsError
        If there is one of that name; nothing is overwritten.
    """
    root = Study(study).root
    path = folder / f"{root.name}.yaml"
    if path.exists():
        raise FileExistsError(
            f"{shown_path(path)} is there already, and nothing is overwritten: give the study "
            "another name, or delete that file if it is yours."
        )
    heading = [
        f"A study of {_path(sight.folder)}. What was seen there:",
        *(f"  {line}" for line in seen(sight)),
        "What these data cannot tell:",
        *(f"  {line}" for line in limits(sight)),
        *next_steps(path, root),
        "Only what differs from the notebooks' defaults stands here; to see those:",
        "  python -m hsc_utils.run --list 02_blob_tuning",
    ]
    lines = [part for line in heading for part in _commented(line)]
    lines += [f"study: {_value(_path(root))}", ""]
    for section, settings in _sections(sight, name).items():
        lines.append(f"{section}:")
        for key, (value, comment) in settings.items():
            lines += _entry(f"  {key}: {_value(value)}", comment)
        lines.append("")
    lines += _example(sight)
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def next_steps(path: Path, root: Path) -> list[str]:
    """Say what to do with a configuration file."""
    shown = shlex.quote(_path(path))
    return [
        "Next:",
        f"  make run CONFIG={shown}",
        f"    all notebooks, and the book {_path(root)}/book/index.html",
        f"  make lab CONFIG={shown}",
        "    the notebooks on this study, in JupyterLab",
    ]


def _commented(line: str) -> list[str]:
    """Write a line as comments, broken where it is too long; names of folders may hold breaks."""
    indent = " " * (len(line) - len(line.lstrip()))
    if line.lstrip().startswith("make "):  # a command is copied as it stands
        return [f"# {line}"]
    how = {"break_long_words": False, "break_on_hyphens": False}
    how |= {"initial_indent": f"# {indent}", "subsequent_indent": f"# {indent}  "}
    return textwrap.wrap(" ".join(line.split()), _WIDTH, **how)


def _entry(setting: str, comment: str) -> list[str]:
    """Write a setting with its comment, above it where both are too long for a line."""
    line = f"{setting}   # {comment}" if comment else setting
    return [f"  # {comment}", setting] if comment and len(line) > _WIDTH else [line]


def _path(path: Path) -> str:
    """Write a path as a configuration file takes it: from the repository's root, or absolute."""
    return from_caller(from_root(path))


def _value(value: object) -> str:
    """Write a value as YAML in one line."""
    how = {"default_flow_style": True, "width": 10**6, "allow_unicode": True, "sort_keys": False}
    text = yaml.safe_dump(value, **how)
    return text.removesuffix("...\n").strip()


def _sections(sight: Sight, name: str) -> dict[str, dict[str, tuple[object, str]]]:
    """Return the settings, each with a comment, by section."""
    counts, read = sight.counts, sight.read
    several = int(read["slices"].max()) > 1 and [*sight.settings.slices] != ["0"]
    models = ["resnet18", *["resnet18-slice0"] * several, "densenet121"]
    shared, folds = {}, {}
    if counts.min() < LEAST:
        few = ", ".join(counts.index[counts < LEAST])
        shared["small_classes"] = ("train", f"{few}: too few for a test, so only learnt from")
    if counts[counts >= LEAST].min() < _SMALL:
        why = f"every image judged once: a class has fewer than {_SMALL} images"
        count = min(_FOLDS, int(counts.max()))
        folds = {"folds": (count, why)} if count >= manifest.MIN_FOLDS else {}
    reading = {}
    if sight.settings.slices:
        reading["slices"] = ([*sight.settings.slices], _why_slices(sight))
    if sight.settings.bit_depth:
        brightest = int(read["brightest"].max())
        reading["bit_depth"] = (sight.settings.bit_depth, f"a guess: no pixel exceeds {brightest}")
    if sight.settings.to_8_bit != "bit_depth":
        reading["to_8_bit"] = (sight.settings.to_8_bit, "bit depths differ between files")
    sections = _of_cells if sight.ready_cells else _of_images
    return sections(sight, name, shared | reading, folds, models)


def _of_images(sight: Sight, name: str, special: dict, folds: dict, models: list[str]) -> dict:
    """Return the sections of a study that begins with acquisitions."""
    first = {
        "dataset": (name, "shown above all results"),
        "raw_dir": (_path(sight.folder), ""),
        "simulate_demo": (False, ""),
        "class_names": (sight.counts.index.tolist(), "folders, on any level"),
    }
    sizes = sight.sizes
    found = {}
    if sizes is not None and sizes.side:
        tried = {"smallest": [*sizes.smallest], "largest": [*sizes.largest]}
        why = "sigmas in px, as the images suggest; look at the pictures of 02"
        unclear = "NOT CLEAR in the images looked at: look at the pictures of 02 first"
        found["sizes"] = (tried, why if sizes.clear else unclear)
        found["side"] = (sizes.side, "px, of a patch")
    else:
        empty = {"smallest": [], "largest": []}
        why = (
            "NOTHING STOOD OUT: 02 looks again, and stops where it sees as little; then give sigmas"
        )
        found["sizes"] = (empty, why)
    found["tuning_images"] = (16, "tuned on so many")
    image = {
        "input_size": (256, "px; the paper's 512 takes a GPU"),
        "batch_size": (16, ""),
        "max_epochs": (30, "the demo's 7 are for a demo"),
        "patience": (10, ""),
    }
    cell = {"max_epochs": (20, "the demo's 6 are for a demo"), "patience": (8, "")}
    compared = _comparison(models)
    return {
        "01_data_preparation": first | special,
        "02_blob_tuning": found,
        "03_image_level_training": image | folds,
        "04_cell_level_training": cell | folds,
        **compared,
        "workflow": {
            "seeds": ([0], "more seeds for a spread: [0, 1, 2]"),
            "image_models": (["resnet18"], ""),
            "cell_models": (models, "" if len(models) < 3 else "-slice0: sees slice 0 alone"),
        },
    }


def _of_cells(sight: Sight, name: str, special: dict, folds: dict, models: list[str]) -> dict:
    """Return the sections of a study whose cells came cut out."""
    low, high = _SIDE
    usual = float(sight.read[["height", "width"]].max(axis=1).median())
    side = min(max(8 * round(usual / 8), low), high)
    how = {"dataset": name, "class_names": sight.counts.index.tolist()}
    how |= {key: value for key, (value, _) in special.items()}
    why = "; ".join(filter(None, (comment for _, comment in special.values())))
    nothing = {"image_model": (None, "cells came without their images")}
    training = {
        "input_size": (max(64, side), "px"),
        "max_epochs": (20, "the demo's 6 are for a demo"),
        "patience": (8, ""),
    }
    return {
        "02_blob_tuning": {
            "ready_cells_dir": (
                _path(sight.folder),
                "one picture per cell: 01 and 03 are left out",
            ),
            "ready_cells": (how, why),
            "side": (side, "px, of a patch; pictures are resized to it"),
        },
        "04_cell_level_training": training | nothing | folds,
        **_comparison(models),
        "06_grad_cam": nothing,
        "07_shortcuts": nothing,
        "workflow": {
            "seeds": ([0], "more seeds for a spread: [0, 1, 2]"),
            "image_models": ([], ""),
            "cell_models": (models, ""),
        },
    }


def _comparison(models: list[str]) -> dict:
    """Return notebook 05's section where no model sees a single slice of several."""
    if "resnet18-slice0" in models:
        return {}
    return {"05_comparison_wang_et_al": {"models": (models, "there is one slice alone")}}


def _why_slices(sight: Sight) -> str:
    """Say why slices are chosen."""
    if "files" in sight.settings.slices:
        return "each channel lies in a file of its own"
    if sight.read["slices"].max() == 1:
        return "one slice, which fills red"
    if sight.read["slices"].max() > 3:
        return f"of {sight.read['slices'].max()}: the first three; name others by number or name"
    return "as --slices said"


def _example(sight: Sight) -> list[str]:
    """Show how new images are named later."""
    models = ["image_model: null"] if sight.ready_cells else ["image_model: resnet18"]
    lines = ["08_new_images:              # once models are trained: tomorrow's images"]
    lines += ["  new_images_dir: /data/tomorrow", "  name: tomorrow", f"  {models[0]}"]
    return [f"# {line}" for line in lines]


def seen(sight: Sight) -> Iterator[str]:
    """Say what a folder holds, a line each."""
    counts, read, listed = sight.counts, sight.read, sight.listed
    classes = ", ".join(f"{name} ({count})" for name, count in counts.items())
    kind = "pictures of single cells" if sight.ready_cells else "images"
    yield f"{counts.sum()} {kind} in {len(counts)} classes: {classes}"
    given = sight.usable["split"]
    if (given != "").any():
        yield f"given subsets: {', '.join(f'{k} ({n})' for k, n in given.value_counts().items())}"
    yield f"of these {len({*read['source'], *sight.refused})} were read:"
    yield f"  slices {_listed(read['slices'])}: {_listed(read['names'].replace('', 'no names'))}"
    yield f"  bits {_listed(read['bit_depth'])}, up to {read['brightest'].max()}"
    yield f"  size {_listed(read['height'].astype(str) + ' × ' + read['width'].astype(str))} px"
    size = read["pixel_size_um"].dropna()
    yield (
        f"  a pixel is {_listed(size)} µm" if len(size) else "  the size of a pixel is not recorded"
    )
    days = read.loc[read["day"] != "", "day"].nunique()
    yield f"  days among the files read: {days}" if days else "  the day is not recorded"
    for level, names in () if days else sight.folders.items():  # a day in the file is known
        some = ", ".join(names[:3]) + ", …" * (len(names) > 3)
        yield f"  {len(names)} folders on one level ({some}): days, slides or animals?"
        where = "ready_cells of 02_blob_tuning" if sight.ready_cells else "01_data_preparation"
        yield f"    then add to {where} below: group: {level}"
    if read["lossy"].any():
        yield "  JPEG, which loses fine detail: use the originals if you can"
    if sight.sizes is not None:
        yield from (f"  {line}" for line in _cells_seen(sight))
    # refused only as files of their own
    joined = (
        (listed["reason"] != "") & (listed["field"] != "") & (listed["field"] != listed["source"])
    )
    if joined.any():
        yield f"{joined.sum()} more files are channels of these, and are read with them"
    refused = listed.loc[(listed["reason"] != "") & ~joined, "reason"]
    if len(refused):
        yield f"{len(refused)} files would be refused, the first: {refused.iloc[0]}"
    if sight.refused:
        first = next(iter(sight.refused.values()))
        yield f"CAUTION: of the files read {len(sight.refused)} cannot be used, the first: {first}"
    tried = listed[listed["source"].isin([*sight.refused, *read["source"]])]
    bad = tried["source"].isin(sight.refused).groupby(tried["class"]).all()
    for name in bad.index[bad]:
        yield f"CAUTION: every file read of class {name} cannot be used. Mend them first."


def _cells_seen(sight: Sight) -> Iterator[str]:
    """Say what cells a first look saw."""
    sizes = sight.sizes
    if sizes.side:
        yield (
            f"cells: about {sizes.cells_per_image:.0f} per image, sigma {sizes.sigma_low:.1f} to "
            f"{sizes.sigma_high:.1f} px"
        )
    yield from sizes.warnings


def _listed(values: pd.Series) -> str:
    """List the values that occur, the most frequent first."""
    known = values.value_counts().index
    return " or ".join(
        f"{value:g}" if isinstance(value, float) else str(value) for value in known[:3]
    ) + (" or others" * (len(known) > 3))


def limits(sight: Sight) -> Iterator[str]:
    """Say what such a study cannot tell, whatever its models score."""
    counts, read = sight.counts, sight.read
    usable = sight.usable
    tested = (counts * _OF_TEST).round().astype(int)
    if (usable["split"] != "").any():
        in_test = usable.loc[usable["split"] == "test", "class"].value_counts()
        tested = in_test.reindex(counts.index, fill_value=0)
    for name, count in counts[counts < LEAST].items():
        yield f"whether {name} is recognised: with {count} it is learnt from, and never judged"
    few = tested[(counts >= LEAST) & (tested < metrics.MIN_IMAGES)]
    if len(few):
        yield (
            f"how well {', '.join(few.index)} is told on the test subset: fewer than "
            f"{metrics.MIN_IMAGES} images there, so no interval (the folds judge all images)"
        )
    rough = tested[(tested >= metrics.MIN_IMAGES) & (tested < metrics.ROUGH_IMAGES)]
    if len(rough):
        yield (
            f"more than roughly how well {', '.join(rough.index)} is told: fewer than "
            f"{metrics.ROUGH_IMAGES} images in the test subset"
        )
    days = read[read["day"] != ""].groupby("class")["day"].agg(set)
    if days.empty and sight.folders:
        yield "anything about other days or animals, unless folders name them and group says so"
    elif days.empty:
        yield "anything about other days or animals: neither is recorded"
    elif len(set.union(*days)) == 1:
        yield "anything about other days: the files read are all of one"
    elif len(days) == len(counts) > 1 and all(
        not a & b for k, a in enumerate(days) for b in days[k + 1 :]
    ):
        yield "class from day: in the files read no two classes share a day"
    yield "whether a model is right for the wrong reason: notebook 07 asks that"
