"""A rehearsal of the paper's size on simulated data: what every step costs on this machine.

``python benchmarks/rehearsal.py`` writes ``benchmarks/results/rehearsal.csv``, a row as soon as
it is measured, and keeps rows that an earlier call measured with the same libraries; ``--part``
measures one part anew. `costs.py` turns the rows into the book's page "What it costs". The parts:

- *prepare*: step 01 on 50, 150 and 300 acquisitions of 2048² × 3, 12 bits, from the disk (what
  the system keeps of the files in memory is given back first);
- *cells*: step 02 on the same images, and its tuning on some of them;
- *images*: what step 03 does once, 2048 px images brought to 512 px, then one epoch on some;
- *train*: one epoch on as many patches as the paper has cells, in as many images, then the
  prediction and the scores of all;
- *scores*: the scores of the test subset, with their intervals;
- *explain*: Grad-CAM of 1000 cells a class at three depths, as notebook 06 measures it;
- *tables*: the paper's tables, notebook 05 and the page of claims, from made-up predictions of
  every run.

Acquisitions are a dozen simulated ones, turned, mirrored and moved; patches are simulated cells
over and over. Memory is that of a fresh process and of all that it starts, ten times a second:
resident, where files mapped into memory and shared libraries count for each, and without those.
So are the seconds of processor time, which tell whether others were at work: two cores give two
a second.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import oirfile
import pandas as pd
import psutil
import yaml
from joblib import Parallel, delayed
from machine import RESULTS, write_results
from safetensors.numpy import save_file

from hsc_utils import (
    comparison,
    detection,
    explanation,
    manifest,
    metrics,
    paper,
    preparation,
    simulation,
    training,
)
from hsc_utils.files import ROOT, reserved_array, write_csv, write_json
from hsc_utils.run import declared_parameters, find_notebook
from hsc_utils.study import (
    SLICES,
    Run,
    RunConfig,
    Study,
    TrainingSettings,
    model_name,
    parse_model_name,
)

PACKAGES = ("torch", "numpy", "pandas", "opencv-python-headless", "oirfile", "imagecodecs")
COLUMNS = ("part", "what", "count", "found", "seconds", "cpu_s")
COLUMNS += ("peak_rss_mb", "peak_own_mb", "disk_mb", "read_mb", "device")
SIDE, PATCH_SIDE, IMAGE_SIDE = 2048, 64, 512  # px: an acquisition, a patch, an image in training
SIMULATED = {"LT-HSC": 4, "ST-HSC": 4, "MPP": 4}
FIRST_DAY = datetime(2024, 3, 4, 9, tzinfo=UTC)
SETTINGS = yaml.safe_load((ROOT / "workflow/config/paper.yaml").read_text())


def timed(work: Callable[..., dict], *arguments: object) -> dict:
    """Call a function and add its seconds to what it returns."""
    started = time.perf_counter()
    found = work(*arguments)
    return {"seconds": round(time.perf_counter() - started, 2)} | found


def measured(work: Callable[..., dict], *arguments: object) -> dict:
    """Call a function in a fresh process; add seconds and peaks of memory to what it returns."""
    resident, own, processor = 0, 0, {}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        worker = psutil.Process(fresh.submit(os.getpid).result())
        job = fresh.submit(timed, work, *arguments)
        while not job.done():
            used = {p.pid: usage(p) for p in (worker, *worker.children(recursive=True))}
            resident = max(resident, sum(of_one[0] for of_one in used.values()))
            own = max(own, sum(of_one[1] for of_one in used.values()))
            processor |= {pid: of_one[2] for pid, of_one in used.items() if of_one[0]}
            time.sleep(0.1)
        found = job.result()
    found |= {"cpu_s": round(sum(processor.values()), 2)}
    return found | {"peak_rss_mb": round(resident / 1e6), "peak_own_mb": round(own / 1e6)}


def usage(process: psutil.Process) -> tuple[int, int, float]:
    """Return the bytes of a process that are resident, those its own alone, and its seconds."""
    try:
        memory, times = process.memory_info(), process.cpu_times()
    except psutil.NoSuchProcess:
        return 0, 0, 0.0
    return memory.rss, memory.rss - memory.shared, times.user + times.system


def megabytes(folder: Path) -> float:
    """Return the size of all files below a folder."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


# --- 01 and 02: acquisitions to cells ---------------------------------------------------------


def write_acquisitions(folder: Path, count: int) -> list[Path]:
    """Write as many acquisitions as asked, each made from one of a dozen simulated ones."""
    simulated = folder / "simulated"
    simulation.write_demo(simulated, folder / "truth", SIMULATED, size=SIDE, days=2)
    found = sorted(simulated.rglob("field_*.oir"))
    sources = [path for path in found if len(oirfile.imread(path)) == 3]
    targets = []
    for number in range(count):
        source = sources[number % len(sources)]
        day = FIRST_DAY + timedelta(days=number % 20)
        name = f"{source.relative_to(simulated).parts[0]}/{day:%Y-%m-%d}/field_{number:03d}.oir"
        targets.append(folder / "raw" / name)
    jobs = (
        delayed(vary)(sources[number % len(sources)], target, number)
        for number, target in enumerate(targets)
        if not target.exists()
    )
    Parallel(2)(jobs)
    return targets


def vary(source: Path, target: Path, number: int) -> None:
    """Write a simulated acquisition turned, mirrored and moved."""
    rng = np.random.default_rng(number)
    pixels = np.rot90(oirfile.imread(source), rng.integers(4), axes=(1, 2))
    pixels = np.roll(pixels[:, :: rng.choice([1, -1])], rng.integers(SIDE, size=2), axis=(1, 2))
    simulation.write_oir(
        target,
        pixels,
        channel_names=("DIC", "Brightfield", "Autofluorescence"),
        acquired_at=FIRST_DAY + timedelta(days=number % 20, minutes=number),
        pixel_size_um=0.2,
        comment="SIMULATED by hsc_utils.simulation, then turned and moved",
    )


def first_acquisitions(folder: Path, count: int) -> Path:
    """Give the first acquisitions a folder of their own, as hard links, none kept in memory."""
    chosen = folder / f"raw_{count}"
    for path in write_acquisitions(folder, count):
        link = chosen / path.relative_to(folder / "raw")
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.hardlink_to(path)
    os.sync()
    for path in chosen.rglob("*.oir"):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return chosen


def prepare(raw: Path, prepared: Path) -> dict:
    """Run step 01."""
    return {"count": len(preparation.prepare_images(raw, prepared))}


def tune(prepared: Path, count: int) -> dict:
    """Try the settings that paper.yaml lists, as notebook 02 does without truth."""
    declared = declared_parameters(find_notebook("02_blob_tuning"))
    given = {name: usual for name, (_, usual) in declared.items()} | SETTINGS["02_blob_tuning"]
    images = manifest.sample_images(manifest.read_images(prepared), count, 0)
    sizes = given["sizes"]["smallest"], given["sizes"]["largest"]
    grid = detection.make_grid(given["thresholds"], *sizes, detection.DetectionSettings())
    trials = detection.run_trials(images, prepared, grid)
    scores = detection.score_trials(trials, None, given["max_distance"])
    detection.method_differences(trials, scores, None, given["max_distance"])
    return {"count": len(images), "found": len(grid)}


def extract(prepared: Path, cells_dir: Path) -> dict:
    """Run step 02 with given settings."""
    side = SETTINGS["02_blob_tuning"]["side"]
    cells = detection.extract_cells(prepared, cells_dir, detection.DetectionSettings(), side)
    return {"count": len(manifest.read_images(prepared)), "found": len(cells)}


def to_arrays(prepared: Path, cache: Path) -> dict:
    """Bring whole images to the size of the model's input."""
    images = manifest.read_images(prepared)
    return {"count": len(training.image_arrays(images, prepared, cache, IMAGE_SIDE))}


def measure_prepare(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    """Prepare more and more acquisitions."""
    for count in options.acquisitions:
        raw, prepared = first_acquisitions(folder, count), emptied(folder / f"prepared_{count}")
        row = {"what": f"{count} acquisitions to images"} | measured(prepare, raw, prepared)
        yield row | {"disk_mb": megabytes(prepared), "read_mb": megabytes(raw)}


def measure_cells(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    """Find the cells of more and more images; tune on a few."""
    for count in options.acquisitions:
        prepared, cells_dir = folder / f"prepared_{count}", emptied(folder / f"cells_{count}")
        row = {"what": f"cells of {count} images"} | measured(extract, prepared, cells_dir)
        yield row | {"disk_mb": megabytes(cells_dir)}
    for count in options.tuning:
        yield {"what": f"tuning on {count} images"} | measured(tune, prepared, count)


def emptied(folder: Path) -> Path:
    """Return a folder without files."""
    for path in folder.rglob("*") if folder.exists() else ():
        if path.is_file():
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- 03 to 06: the paper's number of cells, in its number of images ---------------------------


def paper_images(share: float) -> pd.DataFrame:
    """List images as many as the paper's in each class, split as it splits them, on 30 days."""
    counts = (paper.counts()["images"] * share).astype(int)
    images = pd.DataFrame({"class": np.repeat(counts.index, counts)})
    images["image_id"] = [f"made-up__{number:04d}" for number in images.index]
    images["group"] = [f"day {number % 30:02d}" for number in images.index]
    return manifest.split_images(images).assign(simulated=True)


def paper_cells(share: float) -> pd.DataFrame:
    """List cells as many as the paper's in each class, spread at random over its images."""
    rng, images, parts = np.random.default_rng(0), paper_images(share), []
    for name, count in (paper.counts()["cells"] * share).astype(int).items():
        owners = images.index[images["class"] == name]
        parts.append(images.loc[np.sort(rng.choice(owners, count))])
    cells = pd.concat(parts, ignore_index=True)
    cells["cell_id"] = [f"made-up__cell{number:05d}" for number in cells.index]
    places = {"y": 100.0, "x": 100.0, "sigma": 10.0, "row": np.arange(len(cells))}
    return cells.assign(**places, touches=False)[list(manifest.CELL_COLUMNS)]


def write_cells(study: Study, options: argparse.Namespace) -> pd.DataFrame:
    """Write as many patches as the paper has cells, simulated ones over and over."""
    cells = paper_cells(options.share)
    if (study.cells / "cells.csv").exists():
        return cells
    few = Study(study.root / "few")
    simulation.write_demo(few.raw, few.truth, dict.fromkeys(SIMULATED, 20), days=2)
    preparation.prepare_images(few.raw, few.prepared)
    settings = detection.DetectionSettings()
    made = detection.extract_cells(few.prepared, few.cells, settings, PATCH_SIDE)
    pixels = detection.read_patches(few.cells, made)
    study.cells.mkdir(parents=True, exist_ok=True)
    patches = reserved_array(study.cells / "patches.npy", (len(cells), PATCH_SIDE, PATCH_SIDE, 3))
    for name, of_class in cells.groupby("class"):
        own = made.loc[made["class"] == name, "row"].to_numpy()
        patches[of_class["row"]] = pixels[np.resize(own, len(of_class))]
    patches.flush()
    write_csv(study.cells / "cells.csv", cells)
    return cells


def paper_settings(level: str, architecture: str, **other: object) -> TrainingSettings:
    """Return paper.yaml's settings of a level, from random weights."""
    section = dict(SETTINGS[f"{'03_image' if level == 'image' else '04_cell'}_level_training"])
    section |= section.pop("augmentation") | {"weights": "none"} | other
    section.pop("image_model", None)
    return TrainingSettings(architecture=architecture, **section)


def train(level: str, architecture: str, folder: Path, prepared: Path, count: int) -> dict:
    """Train for one epoch, predict and score as paper.yaml says; tell what each took."""
    study = Study(folder)
    if level == "cell":
        samples = manifest.read_cells(study.cells)
        arrays = detection.read_patches(study.cells, samples)
    else:
        samples = manifest.read_images(prepared).sample(count, random_state=0)
        arrays = training.image_arrays(samples, prepared, study.cache, IMAGE_SIDE)
    run = study.run(level, architecture, 0)
    settings = paper_settings(level, architecture, max_epochs=1)
    training.train(samples, arrays, run.directory, settings)
    files = run.weights_file, run.predictions_file, run.scores_file
    predict_s, score_s = np.diff([file.stat().st_mtime for file in files]).round(2).tolist()
    epoch_s = float(run.history["seconds"].sum())
    return {"count": len(samples), "epoch": epoch_s, "predict": predict_s, "score": score_s}


def measure_run(name: str, *arguments: object) -> Iterator[dict]:
    """Train once; the rows are the run and its parts, all in one process."""
    level, architecture, folder, *_ = arguments
    directory = emptied(Study(folder).run(level, architecture, 0).directory)
    whole = measured(train, *arguments) | {"device": training.device_name("auto")}
    epoch, predict, score = (whole.pop(part) for part in ("epoch", "predict", "score"))
    named = f"{name} on {level}s"
    yield whole | {"what": f"{named}, a run of one epoch", "disk_mb": megabytes(directory)}
    whole["cpu_s"] = ""  # known of the run alone
    yield whole | {"what": f"{named}, the epoch", "seconds": epoch}
    whole["device"] = training.device_name("float32")
    yield whole | {"what": f"{named}, the prediction of all", "seconds": predict}
    yield whole | {"what": f"{named}, the scores", "seconds": score}


def measure_train(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    """Train on cells as many as the paper's."""
    study = Study(folder / "paper")
    write_cells(study, options)
    yield from measure_run("ResNet-18", "cell", "resnet18", study.root, study.prepared, 0)


def measure_images(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    """Bring all images to the size of the model's input, and train on some of them."""
    count = options.acquisitions[-1]
    prepared, cache = folder / f"prepared_{count}", emptied(folder / "cache")
    row = {"what": f"{count} images to {IMAGE_SIDE} px"} | measured(to_arrays, prepared, cache)
    yield row | {"disk_mb": megabytes(cache)}
    study = folder / "images"
    yield from measure_run("DenseNet-169", "image", "densenet169", study, prepared, options.trained)


def made_up(samples: pd.DataFrame, strength: float, seed: int) -> pd.DataFrame:
    """Make up a model's predictions: the true class is likelier the greater its strength."""
    rng, names = np.random.default_rng(seed), list(paper.counts().index)
    key = "cell_id" if "cell_id" in samples else "image_id"
    truth = samples["class"].to_numpy()[:, None] == names
    # cells of an image err together
    of_image = rng.normal(size=(samples["image_id"].nunique(), len(names)))
    logits = strength * truth + rng.normal(size=truth.shape)
    logits += of_image[pd.factorize(samples["image_id"])[0]]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = samples.rename(columns={key: "id"}).assign(image_id=samples["image_id"])
    table = table[["id", "image_id", "class", "split", "group"]].reset_index(drop=True)
    return table.join(pd.DataFrame(shares.astype(np.float32), columns=[f"p_{n}" for n in names]))


def score(predictions: pd.DataFrame) -> dict:
    """Score the test subset with intervals, as after every training."""
    test, names = predictions[predictions["split"] == "test"], list(paper.counts().index)
    arguments = test["class"], metrics.probability_matrix(test, names), names
    units = test["image_id"], test["group"]
    scores = metrics.score(*arguments) | {"intervals": metrics.intervals(*arguments, *units)}
    return scores | {"caution": metrics.caution(test["class"], *units)}


def score_samples(predictions: pd.DataFrame) -> dict:
    """Count what `score` scores."""
    return {"count": score(predictions)["samples"]}


def measure_scores(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    """Score made-up predictions of both levels."""
    for level, samples in samples_by_level(options.share).items():
        row = measured(score_samples, made_up(samples, 2, 0))
        yield {"what": f"scores of the test {level}s with intervals"} | row


def samples_by_level(share: float) -> dict[str, pd.DataFrame]:
    """Return the paper's images and cells, made up, by level."""
    return {"image": paper_images(share), "cell": paper_cells(share)}


def explain(study: Study, backbone: str, per_class: int) -> dict:
    """Measure Grad-CAM maps at three depths, of cells that are segmented."""
    cells = manifest.read_cells(study.cells)
    patches = detection.read_patches(study.cells, cells)
    test = cells[cells["split"] == "test"].assign(predicted=lambda table: table["class"])
    drawn = test.groupby("class").head(per_class).reset_index(drop=True)
    model = training.build_model(backbone, weights="none").eval().to(training.find_device())
    config = RunConfig(
        **vars(paper_settings("cell", backbone)),
        level="cell",
        class_names=list(paper.counts().index),
        weights_used="none",
        mean=[0.5] * 3,
        std=[0.2] * 3,
        samples_sha256="",
        code_sha256="",
    )
    layers = {stride: explanation.layer_at_stride(model, stride) for stride in (32, 16, 8)}
    find_labels = partial(explanation.find_labels, prepared_dir=study.prepared, masks=None)
    explanation.measure_cells(model, config, patches, drawn, layers, find_labels)
    return {"count": len(drawn)}


def measure_explain(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    """Explain a tenth of the cells, then all: memory must not grow."""
    study = Study(folder / "paper")
    write_cells(study, options)
    backbone = SETTINGS["06_grad_cam"]["cell_model"]
    for per_class in (options.explained // 10, options.explained):
        row = measured(explain, study, backbone, per_class)
        what = f"{backbone}, {per_class} cells a class at three depths"
        yield {"what": what} | row | {"device": training.device_name("float32")}


def write_made_up_runs(study: Study, share: float) -> list[Path]:
    """Write a run directory for each run of paper.yaml, its predictions made up and marked so."""
    sweep, folders = SETTINGS["workflow"], []
    for level, samples in samples_by_level(share).items():
        models = list(sweep[f"{level}_models"])
        if level == "cell":
            slices = [parse_model_name(f"x-slice{subset}")[1] for subset in SLICES[:-1]]
            models += [model_name(sweep["slices"], subset) for subset in slices]
        for place, model in enumerate(models):
            for seed in sweep["seeds"]:
                run = study.run(level, model, seed)
                predictions = made_up(samples, 2 - place / 20, 100 * place + seed)
                folders.append(write_made_up_run(run, predictions, share))
    return folders


def write_made_up_run(run: Run, predictions: pd.DataFrame, share: float) -> Path:
    """Write what a finished run holds."""
    architecture, channels = parse_model_name(run.model)
    config = RunConfig(
        **vars(paper_settings(run.level, architecture, channels=channels, seed=run.seed)),
        level=run.level,
        class_names=list(paper.counts().index),
        weights_used="none",
        mean=[0.5] * len(channels),
        std=[0.2] * len(channels),
        samples_sha256="made up",
        code_sha256="made up",
    )
    run.directory.mkdir(parents=True, exist_ok=True)
    config.write(run.config_file)
    write_csv(run.history_file, pd.DataFrame({"epoch": [1], "seconds": [0.0]}))
    predictions.to_parquet(run.predictions_file, index=False)
    write_json(run.scores_file, {"test": score(predictions)})
    save_file({"made_up": np.zeros(1)}, run.weights_file)
    record = {"simulated": True, "dataset": "made-up predictions of no model", "seconds": 0.0}
    write_json(run.record_file, record | {"weights": "none: predictions are made up", "inputs": {}})
    return run.directory


def write_runs(study: Study, share: float) -> dict:
    """Write and score the predictions of all runs."""
    return {"count": len(write_made_up_runs(study, share))}


def write_tables(study: Study, directories: list[Path]) -> dict:
    """Make the paper's tables."""
    comparison.write_tables(study.tables, directories)
    return {"count": len(directories)}


def write_claims(study: Study) -> dict:
    """Answer the paper's claims."""
    return {"count": len(comparison.write_claims(study))}


def compare(study: Study) -> dict:
    """Run notebook 05."""
    command = [sys.executable, "-m", "hsc_utils.run", "05_comparison_wang_et_al"]
    command += ["--config", "workflow/config/paper.yaml", "-p", "study", str(study.root)]
    subprocess.run(command, cwd=ROOT, check=True)
    return {"count": 1}


def measure_tables(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    """Compare models, make the tables and the page of claims, all from made-up predictions."""
    study = Study(folder / "made-up")
    yield (
        {"what": "made-up predictions of all runs, scored"}
        | measured(write_runs, study, options.share)
        | {"disk_mb": megabytes(study.root / "runs")}
    )
    runs = sorted(path.parent for path in study.root.rglob("predictions.parquet"))
    yield {"what": "the paper's tables"} | measured(write_tables, study, runs)
    link_images(study, options.share)
    yield {"what": "notebook 05"} | measured(compare, study)
    yield {"what": "the page of claims"} | measured(write_claims, study)


def link_images(study: Study, share: float) -> None:
    """Write ``images.csv`` of the paper's size; all images are one file of 8 × 8 px."""
    images = paper_images(share)
    images["path"] = "images/" + images["image_id"] + ".png"
    texts = [name for name, kind in manifest.IMAGE_COLUMNS.items() if kind is str]
    blank = dict.fromkeys(set(texts) - set(images), "")
    numbers = dict.fromkeys(set(manifest.IMAGE_COLUMNS) - set(texts) - set(images), 8)
    (study.prepared / "images").mkdir(parents=True, exist_ok=True)
    for path in images["path"]:
        (study.prepared / path).touch()
    write_csv(
        study.prepared / "images.csv",
        images.assign(**blank, **numbers)[list(manifest.IMAGE_COLUMNS)],
    )


MEASURES = {
    "prepare": measure_prepare,
    "cells": measure_cells,
    "images": measure_images,
    "train": measure_train,
    "scores": measure_scores,
    "explain": measure_explain,
    "tables": measure_tables,
}


def earlier_rows() -> list[dict]:
    """Read the rows that an earlier call measured with the same libraries."""
    path = RESULTS / "rehearsal.csv"
    if not path.exists():
        return []
    same = "; ".join(f"{package} {version(package)}" for package in PACKAGES)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)  # to be written as they were
    table = table[table["versions"] == same]
    return table.drop(columns=["cores", "processor", "versions"]).to_dict("records")


def main() -> None:
    """Measure what is asked for, otherwise what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=MEASURES, help="measure this one anew; default: missing")
    parser.add_argument("--acquisitions", type=int, nargs="+", default=[50, 150, 300])
    parser.add_argument("--tuning", type=int, nargs="*", default=[4], help="images")
    parser.add_argument("--trained", type=int, default=96, help="images")
    parser.add_argument("--explained", type=int, default=1000, help="cells a class")
    parser.add_argument("--share", type=float, default=1.0, help="of the paper's numbers")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "rehearsal")
    options = parser.parse_args()
    done = {row["part"] for row in earlier_rows()}
    for part in [options.part] if options.part else [name for name in MEASURES if name not in done]:
        for row in MEASURES[part](options.folder, options):
            row = dict.fromkeys(COLUMNS, "") | {"part": part} | row
            print(json.dumps(row), flush=True)
            others = [other for other in earlier_rows() if other["what"] != row["what"]]
            write_results("rehearsal", [*others, row], PACKAGES)


if __name__ == "__main__":
    main()
