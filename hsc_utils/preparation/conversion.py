"""Convert many files side by side, each by itself, and keep a record of each.

A file that crashes or hangs the process that reads it takes nothing else with it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import cv2
import imagecodecs
import pandas as pd

# Unlike the standard library's, these processes do not run the caller's script again.
from joblib.externals.loky import ProcessPoolExecutor, cpu_count
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hsc_utils import manifest
from hsc_utils.files import atomic_path, file_sha256, full_disk_explained, no_bar, write_json
from hsc_utils.preparation.acquisition import compose_rgb, fourth_slice_contrast, read_acquisition
from hsc_utils.preparation.duplicates import look
from hsc_utils.preparation.formats import AcquisitionError, file_named
from hsc_utils.provenance import code_digest

# What decides an image and its record.
_ROOMS = ("formats", "acquisition", "duplicates", "conversion")
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
    to_8_bit : {"bit_depth", "fixed", "image", "slice"}
        How more than 8 bits become 8.
    limits : (float, float), optional
        Raw intensities for ``fixed``, percentiles for ``image`` and ``slice``.
    size : int, optional
        Side in pixels that square images are resized to; None keeps their size.
    """

    slices: Sequence[int | str] = ()
    bit_depth: int | None = None
    to_8_bit: str = "bit_depth"
    limits: Sequence[float] | None = None
    size: int | None = None


class _Job(NamedTuple):
    raw: Path
    image: Path
    record: Path
    settings: ImageSettings
    made_from: dict


def convert(
    sources: pd.DataFrame,
    raw: Path,
    prepared: Path,
    settings: ImageSettings,
    workers: int | None,
    time_limit_s: float,
) -> tuple[pd.DataFrame, int]:
    """Bring image and record of each file up to date; return all records, and how many are new."""
    jobs = [*_jobs(sources, raw, prepared, settings)]
    waiting = [*_waiting(jobs)]
    for folder in ("images", "records"):
        (prepared / folder).mkdir(parents=True, exist_ok=True)
    if workers == 1:
        for job in _progress(waiting, len(waiting)):
            _convert_file(job)
    else:
        failed = _convert_in_processes(waiting, workers or cpu_count(), time_limit_s)
        for job in _convert_in_processes(failed, workers or cpu_count(), time_limit_s):
            reason = (
                f"{job.raw.name}: Reading it crashed the program or took longer than "
                f"{time_limit_s:g} s, twice. It seems damaged: copy it again."
            )
            write_json(job.record, {"made_from": job.made_from, "reason": reason})
    known = sources.drop(columns="reason")
    columns = [*(c for c in manifest.IMAGE_COLUMNS if c not in known), "look", "reason"]
    texts = [c for c in columns if manifest.IMAGE_COLUMNS.get(c, str) is str]
    records = pd.DataFrame([_read_record(job) for job in jobs], sources.index, columns)
    records = records.astype(dict.fromkeys(texts, object)).fillna(dict.fromkeys(texts, ""))
    return known.join(records), len(waiting)


def _jobs(
    sources: pd.DataFrame, raw: Path, prepared: Path, settings: ImageSettings
) -> Iterator[_Job]:
    """Say of each file where it goes, and what tells its state from another unread."""
    # As they come back from a record: tuples as lists.
    plain = json.loads(json.dumps(asdict(settings)))
    same = {"settings": plain, "code": code_digest(*(f"preparation.{room}" for room in _ROOMS))}
    for source, image_id in zip(sources["source"], sources["image_id"], strict=True):
        image = prepared / "images" / f"{image_id}.png"
        record = prepared / "records" / f"{image_id}.json"
        state = (raw / source).stat()
        made_from = {"bytes": state.st_size, "modified_ns": state.st_mtime_ns, **same}
        yield _Job(raw / source, image, record, settings, made_from)


def _waiting(jobs: Sequence[_Job]) -> Iterator[_Job]:
    """Go through the jobs that are not done."""
    contents = set()
    for job in jobs:
        record = _read_record(job)
        done = record.get("made_from") == job.made_from
        if done and not record["reason"]:
            # The image of a copy is not kept, so it need not be there.
            done = record["sha256"] in contents or job.image.exists()
            contents.add(record["sha256"])
        if not done:
            yield job


def _read_record(job: _Job) -> dict:
    return json.loads(job.record.read_text()) if job.record.exists() else {}


def _convert_in_processes(jobs: list[_Job], workers: int, time_limit_s: float) -> list[_Job]:
    """Share jobs out to processes that hold one file each; return those that ended theirs."""
    processes = [ProcessPoolExecutor(1) for _ in range(min(workers, len(jobs)))]
    idle = SimpleQueue()
    for k in range(len(processes)):
        idle.put(k)

    def attempt(job: _Job) -> _Job | None:
        k = idle.get()
        try:
            # Making an object starts the process and its imports, which the limit is not for.
            processes[k].submit(ImageSettings).result()
            processes[k].submit(_convert_file, job).result(time_limit_s)
        except (BrokenProcessPool, TimeoutError):
            processes[k].shutdown(kill_workers=True)
            processes[k] = ProcessPoolExecutor(1)
            return job
        finally:
            idle.put(k)

    with ThreadPoolExecutor(max(len(processes), 1)) as threads:
        try:
            return [*filter(None, _progress(threads.map(attempt, jobs), len(jobs)))]
        finally:  # also when interrupted, or when the disk is full
            threads.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.shutdown(kill_workers=True)


def _progress(items: Iterable, total: int) -> Iterable:
    return tqdm(items, "prepare", total, unit="file", disable=no_bar() or not total, leave=False)


def _convert_file(job: _Job) -> None:
    """Write image and record of one file, or a record of why it cannot be used."""
    with full_disk_explained(job.record.parent):
        try:
            rgb, record = _image_and_record(job)
        except AcquisitionError as error:
            record = {"reason": str(error)}
        else:
            with atomic_path(job.image) as temporary:
                temporary.write_bytes(imagecodecs.png_encode(rgb, **_PNG))
        write_json(job.record, {"made_from": job.made_from, **record})


def _image_and_record(job: _Job) -> tuple[NDArray, dict]:
    settings = job.settings
    acquisition = read_acquisition(job.raw, slices=settings.slices, bit_depth=settings.bit_depth)
    with file_named(job.raw):
        rgb = compose_rgb(acquisition, to_8_bit=settings.to_8_bit, limits=settings.limits)
        rgb, pixel_size_um = _resized(rgb, settings.size, acquisition.pixel_size_um)
    contrast = fourth_slice_contrast(acquisition)
    moment = acquisition.acquired_at
    means = zip(("mean_r", "mean_g", "mean_b"), cv2.mean(rgb), strict=False)
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
        "look": look(rgb),
        **{name: round(mean, 4) for name, mean in means},
    }


def _resized(
    rgb: NDArray, size: int | None, pixel_size_um: float | None
) -> tuple[NDArray, float | None]:
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
