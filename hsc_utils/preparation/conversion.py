"""Convert many files side by side, each by itself, and keep a record of each.

A file that crashes or hangs the process that reads it takes nothing else with it.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
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
from hsc_utils.files import (
    atomic_path,
    file_sha256,
    file_state,
    full_disk_explained,
    no_bar,
    write_json,
)
from hsc_utils.preparation.acquisition import (
    ImageSettings,
    fourth_slice_contrast,
    read_image,
)
from hsc_utils.preparation.duplicates import look
from hsc_utils.preparation.formats import AcquisitionError, other_files
from hsc_utils.provenance import code_digest

# What decides an image and its record.
_ROOMS = ("formats", "acquisition", "duplicates", "conversion")
# What a record tells of a file beside the columns of images.csv.
_ALSO = ("look", "reason", "beside", "brightest", "lossy", "damaged")
# Camera noise has no repeats to find: filtering and run lengths alone give files as small as
# Pillow's default in a twentieth of its time (2048 × 2048 RGB: 0.08 s for 1.7 s).
_PNG = {"strategy": imagecodecs.PNG.STRATEGY.RLE, "filter": imagecodecs.PNG.FILTER.AVG, "level": 1}


class _Job(NamedTuple):
    raw: Path
    image: Path
    record: Path
    settings: ImageSettings
    channels: tuple[str, ...]
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
    # As they come back from a record: tuples as lists.
    plain = json.loads(json.dumps(asdict(settings)))
    same = {"settings": plain, "code": code_digest(*(f"preparation.{room}" for room in _ROOMS))}
    jobs = []
    for row in sources.itertuples():
        image = prepared / "images" / f"{row.image_id}.png"
        record = prepared / "records" / f"{row.image_id}.json"
        made_from = {"file": file_state(raw / row.source), **same}
        jobs.append(_Job(raw / row.source, image, record, settings, row.channels, made_from))
    waiting, damaged = _waiting(jobs)
    for folder in ("images", "records"):
        (prepared / folder).mkdir(parents=True, exist_ok=True)
    if workers == 1:
        for job in _progress(waiting, len(waiting)):
            _convert_file(job)
    else:
        failed = waiting
        for _ in range(2):
            failed = _convert_in_processes(failed, workers or cpu_count(), time_limit_s)
        reason = f"Reading it crashed the program or took longer than {time_limit_s:g} s, twice. "
        for job in failed:
            why = f"{job.raw.name}: {reason}It seems damaged: copy it again."
            write_json(job.record, {"made_from": job.made_from, "beside": {}, "reason": why})
    known = sources.drop(columns="reason")
    columns = [*(c for c in manifest.IMAGE_COLUMNS if c not in known), *_ALSO]
    texts = [c for c in columns if manifest.IMAGE_COLUMNS.get(c, str) is str]
    records = pd.DataFrame([_read_record(job.record) for job in jobs], sources.index, columns)
    records["damaged"] = [damaged.get(job.raw, "") for job in jobs]
    records = records.astype(dict.fromkeys(texts, object)).fillna(dict.fromkeys(texts, ""))
    return known.join(records), len(waiting)


def _waiting(jobs: Sequence[_Job]) -> tuple[list[_Job], dict[Path, str]]:
    """List the jobs that are not done, and by file the damaged image or record of others."""
    contents, waiting, damaged = set(), [], {}
    for job in jobs:
        record = _read_record(job.record)
        beside = record.get("beside", {})
        same = all(file_state(job.raw.parent / name) == state for name, state in beside.items())
        done = record.get("made_from") == job.made_from and same and {*job.channels} <= {*beside}
        if done and not record["reason"]:
            # The image of a copy is not kept, so it need not be there.
            done = record["sha256"] in contents or job.image.exists()
            if job.image.exists() and not _is_whole(job.image, record["image_bytes"]):
                damaged[job.raw], done = f"images/{job.image.name}", False
            contents.add(record["sha256"])
        elif not record and job.record.exists():
            damaged[job.raw] = f"records/{job.record.name}"
        if not done:
            waiting.append(job)
    return waiting, damaged


def _read_record(path: Path) -> dict:
    """Read a record; one that is missing, damaged or of an older kind is empty."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    needed = {"made_from", "beside", "reason"}
    if isinstance(record, dict) and record.get("reason") == "":
        needed |= {"sha256", "path", "image_bytes", "brightest"}
    return record if isinstance(record, dict) and needed <= record.keys() else {}


def _is_whole(image: Path, size: int) -> bool:
    """Tell whether a PNG has its size, its beginning and its end, as a torn one has not."""
    with image.open("rb") as stream:
        begin = stream.read(8)
        stream.seek(max(size - 8, 0))
        end = stream.read()
    return begin == b"\x89PNG\r\n\x1a\n" and end == b"IEND\xaeB`\x82"


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
        # Before they are read, so that a later change is noticed.
        names = {*job.channels, *other_files(job.raw)}
        beside = {name: file_state(job.raw.parent / name) for name in sorted(names)}
        try:
            rgb, record = _image_and_record(job, [name for name in beside if beside[name]])
        except AcquisitionError as error:
            record = {"reason": str(error)}
        else:
            with atomic_path(job.image) as temporary:
                temporary.write_bytes(imagecodecs.png_encode(rgb, **_PNG))
            record["image_bytes"] = job.image.stat().st_size
        write_json(job.record, {"made_from": job.made_from, "beside": beside, **record})


def _image_and_record(job: _Job, beside: Sequence[str]) -> tuple[NDArray, dict]:
    rgb, acquisition = read_image(job.raw, job.settings)
    side = acquisition.pixel_size_um
    side = side and side * acquisition.slices.shape[1] / rgb.shape[0]
    contents = [file_sha256(path) for path in (job.raw, *(job.raw.parent / n for n in beside))]
    whole = hashlib.sha256("".join(contents).encode()).hexdigest() if beside else contents[0]
    contrast = fourth_slice_contrast(acquisition)
    moment = acquisition.acquired_at
    red, green, blue, _ = (round(mean, 4) for mean in cv2.mean(rgb))
    return rgb, {
        "reason": "",
        "path": f"images/{job.image.name}",
        "slices": len(acquisition.slices),
        "sha256": whole,
        "acquired_at": moment.isoformat() if moment else "",
        "pixel_size_um": side,
        "height": rgb.shape[0],
        "width": rgb.shape[1],
        "bit_depth": acquisition.bit_depth,
        "brightest": int(acquisition.slices.max()),
        "lossy": acquisition.lossy,
        "channel_names": ";".join(acquisition.channel_names),
        "objective": acquisition.objective,
        "simulated": acquisition.simulated,
        "fourth_slice_contrast": None if math.isnan(contrast) else round(contrast, 4),
        "look": look(rgb),
        **{"mean_r": red, "mean_g": green, "mean_b": blue},
    }
