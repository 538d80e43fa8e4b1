"""New acquisitions in, through exactly a run's preparation and detection; probabilities out.

Images are worked on a few at a time and what came of each is kept in ``records/``, so that memory
stays flat, an interrupted run is completed by the next one, and tomorrow's images are added to
today's.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from joblib import cpu_count
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hsc_utils import detection, drawing, files, preparation, provenance, training
from hsc_utils.files import from_root, shown_path
from hsc_utils.new_images import differences, passport
from hsc_utils.new_images.members import Member, common_temperature, load_members, speak
from hsc_utils.new_images.tables import write_tables

_AT_ONCE = 64  # images converted, then predicted
_PICTURE_SIDE = 900  # px, of the longer side of a picture
_UNSURE = 0.5  # probability below which a cell is ringed in grey
# What decides a record beside the models and the file.
_ROOMS = (
    *(f"new_images.{room}" for room in ("predict", "members", "familiar", "differences")),
    *(f"preparation.{room}" for room in ("formats", "acquisition", "conversion")),
    *(f"detection.{room}" for room in ("contrast", "blobs", "fast_log", "cells")),
    *(f"training.{room}" for room in ("batches", "features", "fit", "models")),
)
# What a record tells of an image beside its cells.
_FACTS = ("slices", "channel_names", "bit_depth", "objective", "simulated", "pixel_size_um")
_FACTS += ("height", "width", "sha256", "acquired_at", "mean_r", "mean_g", "mean_b", "sharpness")


def predict_images(
    runs: Sequence[str | Path],
    folder: str | Path,
    target: str | Path,
    *,
    confidence: float = 0.8,
    workers: int | None = None,
    time_limit_s: float = 120,
) -> pd.DataFrame:
    """Predict the class of new images with trained runs; return ``predictions.csv``.

    Images are made, and cells found and cut out, with the settings that the runs were trained
    with. Probabilities are calibrated, averaged over an image's cells (and calibrated again as
    such votes), over runs of one level, and then over levels (and calibrated once more).

    Parameters
    ----------
    runs : sequence of path
        Run directories, see `load_members`.
    folder : path
        Any tree of acquisitions. A file in a folder of one of the classes is labelled with it;
        labels are written beside the predictions and used for nothing else here.
    target : path
        Folder written: ``predictions.csv``, ``cells.csv``, ``rejected.csv``, ``differences.csv``,
        ``pictures/``, ``records/`` and ``provenance.json``.
    confidence : float
        In [0, 1]: the probability from which on a class is called.
    workers, time_limit_s
        As for `preparation.prepare_images`.

    Returns
    -------
    DataFrame
        One row per image: ``image_id``, ``source``, ``class`` (empty where not known), ``p_…``
        (NaN where nothing could be said), ``predicted``, ``confidence``, ``called`` (``undecided``
        below `confidence`, and where most of the cells are unlike those of training), ``cells``,
        ``agreement`` (share of cells with the image's class), ``unlike`` (share of cells, or of
        the whole field, unlike those of training) and ``warnings``.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_members`; if the folder holds no image, or none that can be read; if `target`
        lies in it.
    """
    started = time.perf_counter()
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence: {confidence} is not from 0 to 1.")
    members = load_members(runs)
    temperature = common_temperature(members)
    raw, target = from_root(folder), from_root(target)
    if target.resolve().is_relative_to(raw.resolve()):
        raise ValueError(
            f"{shown_path(target)}, which is to be written, lies in {shown_path(raw)}, so its "
            "pictures would be taken for new images. Choose another folder."
        )
    known = members[0].passport
    join = "files" in known["preparation"]["slices"]
    sources = preparation.list_new_sources(raw, known["class_names"], join=join)
    _say_unknown_folders(sources, known["class_names"])
    _claim(target, raw)
    key = _key(members)
    usable = sources[sources["reason"] == ""]
    places = {name: target / "records" / f"{name}.json" for name in usable["image_id"]}
    named = zip(usable["source"], places.values(), strict=True)
    waiting = usable[[not _is_done(raw / source, place, key) for source, place in named]]
    _tidy(target, set(places))
    look_at = _read_ready if known["kind"] == passport.READY_CELLS else _convert_and_look
    bar = tqdm(total=len(waiting), desc="new images", unit="image", disable=files.no_bar())
    for start in range(0, len(waiting), _AT_ONCE):
        part = waiting.iloc[start : start + _AT_ONCE]
        looked, reasons = look_at(part, raw, target / ".work", members, workers, time_limit_s)
        records = dict(_records(looked, raw, target / "pictures", members, temperature))
        records |= {name: {"states": {}, "reason": reason} for name, reason in reasons.items()}
        for name, record in records.items():
            files.write_json(places[name], {"key": key, **record})
        bar.update(len(part))
        if files.no_bar():
            print(f"{start + len(part)} of {len(waiting)} new images are done.", flush=True)
    bar.close()
    shutil.rmtree(target / ".work", ignore_errors=True)
    records = {image_id: json.loads(place.read_text()) for image_id, place in places.items()}
    predictions = write_tables(sources, records, target, members, confidence)
    provenance.write_provenance(
        target,
        parameters={
            "runs": [str(m.run) for m in members],
            "confidence": confidence,
            "common_temperature": temperature,
        },
        inputs=[member.run.weights_file for member in members],
        seconds=time.perf_counter() - started,
        folder=shown_path(raw),
        images_predicted_now=len(waiting),
        key=key,
        simulated=any(_is_simulated(record) for record in records.values()),
        models_of_simulated_images=bool(members[0].run.record["simulated"]),
    )
    return predictions


def _say_unknown_folders(sources: pd.DataFrame, class_names: Sequence[str]) -> None:
    """Say whose label is not taken, where others are labelled by their folders."""
    unknown = sources[(sources["class"] == "") & (sources["reason"] == "")]
    folders = sorted({Path(source).parts[0] for source in unknown["source"] if "/" in source})
    if (sources["class"] != "").any() and folders:
        print(
            f"Caution: {len(unknown)} images lie in folders that are no class of these models "
            f"({', '.join(class_names)}), such as {folders[0]}. They are predicted without a label."
        )


def _is_simulated(record: Mapping) -> bool:
    return record.get("facts", {}).get("simulated") is True


def _claim(target: Path, raw: Path) -> None:
    """Mark a folder as that of these predictions; refuse another folder's, and anybody else's."""
    mark, place = target / "source.json", hashlib.sha256(os.fsencode(raw.resolve())).hexdigest()
    if mark.exists():
        try:
            stored = json.loads(mark.read_text()).get("sha256_of_path")
        except (ValueError, AttributeError):
            stored = place  # damaged, and written anew
        if stored != place:
            raise ValueError(
                f"{shown_path(target)} holds the predictions of another folder. Give these images "
                "a folder of their own (--to, or the parameter name), or delete that one."
            )
    elif foreign := [n for n in ("predictions.csv", "records") if (target / n).exists()]:
        raise ValueError(
            f"{shown_path(target / foreign[0])} was not written here and would be lost. Choose "
            "another folder."
        )
    files.write_json(mark, {"folder": shown_path(raw), "sha256_of_path": place})


def _key(members: Sequence[Member]) -> str:
    """Identify what decides a record beside its file."""
    of_models = [(m.run.weights_file, m.run.features_file) for m in members]
    decisive = [files.file_sha256(file) for pair in of_models for file in pair]
    decisive += [[member.passport for member in members], provenance.code_digest(*_ROOMS)]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]


def _is_done(source: Path, place: Path, key: str) -> bool:
    """Tell whether a record is there, whole, and of this file, these models and this code.

    What was refused is tried again: a part may have been copied since, or a disk have been busy.
    """
    try:
        record = dict(json.loads(place.read_text()))
        states = record["states"].items()
        same = all(files.file_state(source.parent / name) == state for name, state in states)
        picture = place.parents[1] / "pictures" / f"{place.stem}.jpg"
        shown = picture.exists() or not record.get("pictured")
        return record["key"] == key and same and shown and not record["reason"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _tidy(target: Path, known: set[str]) -> None:
    """Delete what an earlier call made here of files that are gone."""
    for path in target.glob("records/*.json"):
        if path.stem not in known:
            path.unlink()
            (target / "pictures" / f"{path.stem}.jpg").unlink(missing_ok=True)
    for name in ("predictions.csv", "cells.csv", "differences.csv"):  # until they are made anew
        (target / name).unlink(missing_ok=True)


def _convert_and_look(
    part: pd.DataFrame,
    raw: Path,
    work: Path,
    members: Sequence[Member],
    workers: int | None,
    time_limit_s: float,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Make images of a few acquisitions and look at them; return them, and why others cannot be."""
    how = passport.picture_settings(members[0].passport), workers, time_limit_s
    converted, _ = preparation.convert(part, raw, work, *how)
    refused = converted[converted["reason"] != ""].set_index("image_id")["reason"].to_dict()
    # beside refused files, which have none, whole numbers became fractions
    whole = dict.fromkeys(("slices", "bit_depth", "height", "width"), int)
    images = converted[converted["reason"] == ""].astype(whole)
    with ThreadPoolExecutor(workers or cpu_count()) as threads:
        seen = list(threads.map(lambda path: _look(work / path, members), images["path"]))
    shutil.rmtree(work)
    return images.join(pd.DataFrame(seen, images.index)), refused


def _read_ready(
    part: pd.DataFrame,
    raw: Path,
    _work: Path,
    members: Sequence[Member],
    _workers: int | None,
    _time_limit_s: float,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read files that hold one cell each, as `_convert_and_look` does acquisitions."""
    known, rows, refused = members[0].passport, [], {}
    for row in part.to_dict("records"):
        path = raw / row["source"]
        try:
            patch, one = detection.read_ready_patch(path, known["side"], **known["preparation"])
        except preparation.AcquisitionError as error:
            refused[row["image_id"]] = str(error)
            continue
        row |= {"found": np.full((1, 4), np.nan), "patches": patch[None], "whole": {}}
        row |= {"simulated": one.simulated, "sha256": files.file_sha256(path)}
        rows.append(
            row | passport.picture_facts(patch) | {"beside": dict.fromkeys(row["channels"])}
        )
    return pd.DataFrame(rows), refused


def _look(path: Path, members: Sequence[Member]) -> dict:
    """Find and cut out the cells of an image, and resize it to what models of images see."""
    rgb = files.read_rgb(path)
    found, patches = np.empty((0, 4)), None
    # all runs on cells find and cut them alike
    if known := next((m.passport for m in members if m.passport["level"] == "cell"), None):
        cells = detection.detect_cells(rgb, passport.finding_settings(known))
        found, patches = detection.cut_patches(rgb, cells, known["side"], known["border"])
    sizes = {m.config.input_size for m in members if m.passport["level"] == "image"}
    return {
        "found": found,
        "patches": patches,
        "whole": {size: training.resize(rgb[None], size)[0] for size in sizes},
        "small": _shrunk(rgb),
        "sharpness": differences.sharpness(rgb),
    }


def _shrunk(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image stretched for the eye, no larger than a picture."""
    scale = min(1, _PICTURE_SIDE / max(rgb.shape[:2]))
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return drawing.stretched(small)


def _records(
    looked: pd.DataFrame, raw: Path, pictures: Path, members: Sequence[Member], temperature: float
) -> Iterator[tuple[str, dict]]:
    """Let the models speak of images; give a record of each, and draw its picture."""
    if looked.empty:
        return
    spoken = speak(looked, members, temperature)
    for row, said in zip(looked.to_dict("records"), spoken, strict=True):
        names = [Path(row["source"]).name, *row["beside"]]
        states = {name: files.file_state((raw / row["source"]).with_name(name)) for name in names}
        facts = {name: row[name] for name in _FACTS if name in row}
        if "small" in row:
            _draw(row, said["cells"], pictures / f"{row['image_id']}.jpg", members)
        record = {"states": states, "reason": "", "pictured": "small" in row, "facts": facts}
        yield row["image_id"], record | said


def _draw(row: Mapping, cells: Sequence, place: Path, members: Sequence[Member]) -> None:
    """Save a picture of the field, each cell ringed in the colour of its class."""
    names = members[0].passport["class_names"]
    colours, picture = drawing.class_colours(names), row["small"].copy()
    scale = max(picture.shape[:2]) / max(row["height"], row["width"])
    for y, x, sigma, *probabilities, distance in cells:
        best = int(np.argmax(probabilities))
        colour = colours[names[best]] if probabilities[best] >= _UNSURE else "#999999"
        rgb = tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))
        centre = round(x * scale), round(y * scale)
        axes = (round(np.sqrt(2) * sigma * scale) + 2,) * 2
        for start in range(0, 360, 40):  # rings of cells unlike the training's are broken
            end = start + (20 if distance > 1 else 40)
            cv2.ellipse(picture, centre, axes, 0, start, end, rgb, 2, cv2.LINE_AA)
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    with files.atomic_path(place) as temporary:
        temporary.write_bytes(encoded.tobytes())
