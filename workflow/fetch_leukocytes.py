"""Fetch 300 real stained leukocytes, each picture checked, into ``data/leukocytes``.

``python workflow/fetch_leukocytes.py`` takes them from the folder that ``--from`` names, or from
``HSC_TEST_DATA`` if that is set, or downloads them. Each picture must have the pixels that
``data/leukocytes.csv`` lists, whatever format it comes in; only then it is stored, so that an
interrupted call goes on where it stopped.
"""

import argparse
import hashlib
import io
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
import pandas as pd
from PIL import Image

from hsc_utils.files import ROOT, atomic_path, from_caller, from_root, shown_path

LIST = ROOT / "data" / "leukocytes.csv"
TARGET = ROOT / "data" / "leukocytes"
ADDRESS = "https://raw.githubusercontent.com/zxaoyou/segmentation_WBC"
COMMIT = "56e0b0aac0f6111b05c5699e2d8e97911a9611fe"
LABELS = "Class Labels of Dataset 1.csv"  # of the same repository; its classes are numbers
CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")  # from 1 on
NOTICE = """\
Dataset 1 of github.com/zxaoyou/segmentation_WBC: 300 stained leukocytes with masks, in 5 classes.
Licence: GPL-3.0. Cite: Zheng X., Wang Y., Wang G., Liu J. (2018). Fast and robust segmentation of
white blood cell images by self-supervised learning. Micron 107, 55-71.
"""
AT_A_TIME = 8  # downloads
SECONDS = 30  # without an answer until a download counts as failed

# reads the bytes of a picture, by the number, the class and what it is: "image" or "mask"
Source = Callable[[int, str, str], bytes]


class LeukocyteError(ValueError):
    """Pictures that are missing or others than expected, said in one sentence."""


def arrange(read: Source, target: Path, missing: pd.DataFrame) -> None:
    """Take pictures from a source, check them, and store them as ``cells`` and ``masks``."""

    def take(row: tuple) -> None:
        for kind in ("image", "mask"):
            place = place_of(target, row, kind)
            pixels = decoded(read(row.number, row.class_name, kind), row, kind)
            with atomic_path(place) as temporary:
                Image.fromarray(pixels).save(temporary, format="png")

    with ThreadPoolExecutor(AT_A_TIME) as threads:
        ends = [threads.submit(take, row) for row in missing.itertuples()]
        try:
            for end in ends:
                end.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def place_of(target: Path, row: tuple, kind: str) -> Path:
    """Return where a picture is stored."""
    folder = target / "cells" / row.class_name if kind == "image" else target / "masks"
    return folder / f"{row.number:03d}.png"


def decoded(content: bytes, row: tuple, kind: str) -> np.ndarray:
    """Return the pixels of a picture, and refuse others than those listed."""
    try:
        picture = Image.open(io.BytesIO(content))
        pixels = np.asarray(picture.convert("RGB" if kind == "image" else "L"))
    except (OSError, SyntaxError) as error:
        raise LeukocyteError(
            f"The {kind} of leukocyte {row.number} is no picture that can be read ({error}). "
            "Fetch or copy it again."
        ) from error
    if digest(pixels) != getattr(row, f"{kind}_sha256"):
        raise LeukocyteError(
            f"The {kind} of leukocyte {row.number} has other pixels than {shown_path(LIST)} lists, "
            "so it is damaged or of another data set. Fetch or copy it again."
        )
    return pixels


def digest(pixels: np.ndarray) -> str:
    """Hash a picture's shape and pixels."""
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def is_there(target: Path, row: tuple) -> bool:
    """Tell whether both pictures of a leukocyte are stored, undamaged."""
    places = {kind: place_of(target, row, kind) for kind in ("image", "mask")}
    try:
        for kind, place in places.items():
            decoded(place.read_bytes(), row, kind)
    except (FileNotFoundError, LeukocyteError):
        return False
    return True


def folder_source(folder: Path, listed: pd.DataFrame) -> Source:
    """Read from a folder: the original repository's, or classes as folders beside masks."""
    original = folder / "Dataset 1"
    if original.is_dir():
        check_labels(folder / LABELS, listed)
        suffix = {"image": "bmp", "mask": "png"}
        return lambda number, _, kind: read(original / f"{number:03d}.{suffix[kind]}")
    if (folder / "white_blood_cells").is_dir():
        images, masks = folder / "white_blood_cells", folder / "white_blood_cells_masks"
        folders = {"image": lambda name: images / name, "mask": lambda _: masks}
        return lambda number, name, kind: read(folders[kind](name) / f"{number:03d}.png")
    raise LeukocyteError(
        f"{shown_path(folder)} holds neither 'Dataset 1' with '{LABELS}', as the repository does, "
        "nor white_blood_cells/<class>/NNN.png with white_blood_cells_masks/NNN.png."
    )


def read(path: Path) -> bytes:
    """Read a file, or say which one is missing."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise LeukocyteError(f"{shown_path(path)} cannot be read: {error.strerror}.") from error


def check_labels(path: Path, listed: pd.DataFrame) -> None:
    """Refuse class labels that are not those listed."""
    labels = pd.read_csv(io.BytesIO(read(path)))
    names = labels.set_index("image ID")["class label"].map(dict(enumerate(CLASSES, 1)))
    expected = listed.set_index("number")["class_name"]
    if not names.reindex(expected.index).equals(expected.rename("class label")):
        raise LeukocyteError(
            f"{shown_path(path)} gives other classes than {shown_path(LIST)}: the data set has "
            f"changed. Take it from commit {COMMIT[:12]}."
        )


def download(number: int, _: str, kind: str) -> bytes:
    """Fetch a picture from the public repository."""
    name = f"Dataset 1/{number:03d}.{'bmp' if kind == 'image' else 'png'}"
    try:
        with urlopen(f"{ADDRESS}/{COMMIT}/{quote(name)}", timeout=SECONDS) as answer:
            return answer.read()
    except (OSError, HTTPException) as error:
        raise LeukocyteError(
            f"{name} could not be fetched from {ADDRESS} ({error}). What was fetched is kept: try "
            "again, or clone github.com/zxaoyou/segmentation_WBC where there is a network and "
            "say make leukocytes LEUKOCYTES=<that folder>."
        ) from error


def source_of(given: str | None, listed: pd.DataFrame) -> tuple[str, Source]:
    """Say in words where pictures are taken from, and give what reads them there."""
    tests = Path(os.environ.get("HSC_TEST_DATA") or "nowhere") / "cells"
    if given or (tests / "white_blood_cells").is_dir():
        folder = from_root(given or tests)
        return f"from {shown_path(folder)}", folder_source(folder, listed)
    return f"from {ADDRESS}", download


def fetch(given: str | None, target: Path = TARGET) -> None:
    """Store what is missing of the data set in a folder, and say where from, and its licence."""
    listed = pd.read_csv(LIST).rename(columns={"class": "class_name"})
    missing = listed[[not is_there(target, row) for row in listed.itertuples()]]
    print(NOTICE, end="")
    if len(missing):
        where, source = source_of(given, listed)
        print(f"Taking {len(missing)} of {len(listed)} leukocytes {where}", flush=True)
        arrange(source, target, missing)
        with atomic_path(target / "SOURCE.txt") as temporary:
            temporary.write_text(NOTICE)
    print(f"{len(listed)} leukocytes lie in {shown_path(target)}, each with the pixels expected.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="given", type=from_caller, help="folder where they lie")
    try:
        fetch(parser.parse_args().given)
    except (LeukocyteError, OSError) as error:
        sys.exit(f"error: {error}")
