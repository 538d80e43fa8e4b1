"""Convert many files side by side, each by itself, and keep a record of each.

A process that crashes or hangs on a damaged file takes only that file with it.
"""

import faulthandler
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import imagecodecs
import joblib
import numpy as np
import pandas as pd
from joblib.externals.loky.process_executor import BrokenProcessPool
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hsc_utils.files import atomic_path, file_sha256, full_disk_explained, write_json
from hsc_utils.preparation import duplicates
from hsc_utils.preparation.acquisition import (
    AcquisitionError,
    compose_rgb,
    fourth_slice_contrast,
    read_acquisition,
)
from hsc_utils.provenance import no_bar

# Camera noise has no repeats to find: filtering and run lengths alone give files as small as
# Pillow's default in a twentieth of its time (2048 × 2048 RGB: 0.08 s for 1.7 s).
_PNG = {
    "strategy": imagecodecs.PNG.STRATEGY.RLE,
    "filter": imagecodecs.PNG.FILTER.AVG,
    "level": 1,
}


@dataclass(frozen=True)
class ImageSettings:
    """How an acquisition becomes an image; see `read_acquisition` and `compose_rgb`.

    Attributes
    ----------
    slices : tuple of int or str
        Which slices to use, in which order; empty for all.
    bit_depth : int, optional
        Significant bits of 16-bit files that do not say.
    scaling : {"bit_depth", "fixed", "image", "slice"}
        How more than 8 bits become 8.
    limits : (float, float), optional
        Raw intensities for ``fixed``, percentiles for ``image`` and ``slice``.
    size : int, optional
        Side in pixels that square images are resized to; None keeps their size.
    """

    slices: Sequence[int | str] = ()
    bit_depth: int | None = None
    scaling: str = "bit_depth"
    limits: Sequence[float] | None = None
    size: int | None = None


class _Job(NamedTuple):
    source: str
    raw: Path
    image: Path
    record: Path
    settings: ImageSettings


def outdated(
    sources: pd.DataFrame, raw: Path, prepared: Path, settings: ImageSettings
) -> pd.DataFrame:
    """Return the rows of files that are new, changed, or were made with other settings."""
    contents, waiting = set(), []
    for job in _jobs(sources, raw, prepared, settings):
        record = _read_record(job.record)
        done = record.get("made_from") == _made_from(job)
        if done and not record["reason"]:
            # The image of a copy is not kept, so it need not be there.
            done = record["sha256"] in contents or job.image.exists()
            contents.add(record["sha256"])
        waiting.append(not done)
    return sources[waiting]


def convert(
    sources: pd.DataFrame,
    raw: Path,
    prepared: Path,
    settings: ImageSettings,
    workers: int | None,
    time_limit_s: float,
) -> None:
    """Write image and record of each file in `sources`."""
    jobs = _jobs(sources, raw, prepared, settings)
    if not jobs:
        return
    for folder in ("images", "records"):
        (prepared / folder).mkdir(parents=True, exist_ok=True)
    for marker in (prepared / "records").glob("*.started"):
        marker.unlink()
    workers = min(workers or joblib.cpu_count(), len(jobs))
    progress = tqdm(total=len(jobs), desc="prepare", unit="file", disable=no_bar(), leave=False)
    with progress:
        if workers == 1:
            for job in jobs:
                _convert_file(job)
                progress.update()
        else:
            _convert_in_parallel(jobs, workers, time_limit_s, progress)


def read_records(sources: pd.DataFrame, prepared: Path) -> pd.DataFrame:
    """Return what came of each file: ``source``, ``reason``, and for images all columns."""
    records = [
        {"source": source, **_read_record(prepared / "records" / f"{image_id}.json")}
        for source, image_id in zip(sources["source"], sources["image_id"], strict=True)
    ]
    texts = ["path", "sha256", "acquired_at", "channel_names", "objective", "look"]
    numbers = ["slices", "height", "width", "bit_depth", "simulated"]
    numbers += ["pixel_size_um", "fourth_slice_contrast"]
    columns = ["source", "reason", *texts, *numbers]
    table = pd.DataFrame(records, columns=columns)
    return table.astype(dict.fromkeys(texts, object)).fillna(dict.fromkeys(texts, ""))


def tidy(prepared: Path, known: set[str], kept: set[str]) -> None:
    """Delete records of files that are gone, and images of those and of copies."""
    for path in (prepared / "images").glob("*.png"):
        if path.stem not in kept:
            path.unlink()
    for path in (prepared / "records").glob("*.json"):
        if path.stem not in known:
            path.unlink()
    for path in prepared.glob("*/.*.part"):  # left by a killed process
        path.unlink()


def _jobs(sources: pd.DataFrame, raw: Path, prepared: Path, settings: ImageSettings) -> list[_Job]:
    return [
        _Job(
            source,
            raw / source,
            prepared / "images" / f"{image_id}.png",
            prepared / "records" / f"{image_id}.json",
            settings,
        )
        for source, image_id in zip(sources["source"], sources["image_id"], strict=True)
    ]


def _made_from(job: _Job) -> dict:
    """Tell one state of a file and settings from another without reading the file."""
    state = job.raw.stat()
    settings = json.loads(json.dumps(asdict(job.settings)))
    return {"bytes": state.st_size, "modified_ns": state.st_mtime_ns, "settings": settings}


def _read_record(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def _convert_in_parallel(
    jobs: list[_Job], workers: int, time_limit_s: float, progress: tqdm
) -> None:
    """Work through the jobs; after a crash, try again those that ran then, each alone."""
    while jobs:
        try:
            for _ in _in_processes(jobs, workers, time_limit_s):
                progress.update()
            return
        except BrokenProcessPool:
            for job in jobs:
                if _marker(job).exists():
                    _convert_suspect(job, time_limit_s)
                    progress.update()
            jobs = [
                job for job in jobs if _read_record(job.record).get("made_from") != _made_from(job)
            ]


def _in_processes(jobs: list[_Job], workers: int, time_limit_s: float):
    tasks = (joblib.delayed(_convert_within_limit)(job, time_limit_s) for job in jobs)
    return joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(tasks)


def _convert_suspect(job: _Job, time_limit_s: float) -> None:
    try:
        # Two processes, because joblib starts none for one; the second has nothing to do.
        list(_in_processes([job], 2, time_limit_s))
    except BrokenProcessPool:
        reason = (
            f"{job.raw.name}: Reading it crashed the program or took longer than "
            f"{time_limit_s:g} s, twice. It seems damaged: copy it again."
        )
        write_json(job.record, {"made_from": _made_from(job), "reason": reason})
        _marker(job).unlink(missing_ok=True)


def _marker(job: _Job) -> Path:
    return job.record.with_suffix(".started")


def _convert_within_limit(job: _Job, time_limit_s: float) -> None:
    """Convert a file, or end this process when it takes too long, even inside a library."""
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(time_limit_s, exit=True, file=nowhere)
        try:
            _convert_file(job)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _convert_file(job: _Job) -> None:
    made_from = _made_from(job)
    with full_disk_explained(job.record.parent):
        _marker(job).touch()
        try:
            rgb, record = _image_and_record(job)
        except AcquisitionError as error:
            write_json(job.record, {"made_from": made_from, "reason": str(error)})
        else:
            with atomic_path(job.image) as temporary:
                temporary.write_bytes(imagecodecs.png_encode(rgb, **_PNG))
            write_json(job.record, {"made_from": made_from, **record})
        _marker(job).unlink()


def _image_and_record(job: _Job) -> tuple[NDArray[np.uint8], dict]:
    settings = job.settings
    acquisition = read_acquisition(job.raw, slices=settings.slices, bit_depth=settings.bit_depth)
    try:
        rgb = compose_rgb(acquisition, scaling=settings.scaling, limits=settings.limits)
        rgb, pixel_size_um = _resized(rgb, settings.size, acquisition.pixel_size_um)
    except AcquisitionError as error:
        raise AcquisitionError(f"{job.raw.name}: {error}") from None
    contrast = fourth_slice_contrast(acquisition)
    moment = acquisition.acquired_at
    return rgb, {
        "reason": "",
        "path": f"images/{job.image.name}",
        "slices": len(acquisition.slices),
        "sha256": file_sha256(job.raw),
        "acquired_at": moment.isoformat() if moment else "",
        "pixel_size_um": pixel_size_um,
        "height": rgb.shape[0],
        "width": rgb.shape[1],
        "bit_depth": acquisition.bit_depth,
        "channel_names": ";".join(acquisition.channel_names),
        "objective": acquisition.objective,
        "simulated": acquisition.simulated,
        "fourth_slice_contrast": None if math.isnan(contrast) else round(contrast, 4),
        "look": duplicates.look(rgb),
    }


def _resized(
    rgb: NDArray[np.uint8], size: int | None, pixel_size_um: float | None
) -> tuple[NDArray[np.uint8], float | None]:
    height, width = rgb.shape[:2]
    if size is None or (height, width) == (size, size):
        return rgb, pixel_size_um
    if height != width:
        raise AcquisitionError(
            f"It is {height} × {width} pixels, not square, so it cannot be resized to {size} × "
            f"{size} without distortion. Set size to None to keep images as they are."
        )
    resized = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA)
    return resized, pixel_size_um and pixel_size_um * height / size
