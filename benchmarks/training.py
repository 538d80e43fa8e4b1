"""Claim: training feeds the model at its own pace, and outruns the usual recipe.

Run `python benchmarks/training.py`; it writes ``benchmarks/results/training.csv`` (with a GPU
``training_gpu.csv``), a row as soon as it is measured. Training samples a second, medians of
interleaved runs, of

- *ours*: `training` as the notebooks call it: memory-mapped uint8 pixels, batches normalised and
  augmented on the device, Lightning's loop; from the first fetch on, once patches are resized and
  lie where they stay (`store_s` says how long that takes at the paper's size, once a run);
- *ceiling*: the same model, precision and optimiser, fed with one ready batch in a bare loop;
- *graphed*: the ceiling's step replayed as a CUDA graph, to know what that would bring;
- *usual*: PNG files, PIL, `torchvision.transforms` sample by sample, a `DataLoader` with two
  workers, float32, a bare loop. At 64 px the files are patches of 96 px, as step 02 exports them;
  at 512 px they are 2048 px wide, as step 01 writes them (and as the paper stored them);
- *usual_resized*: the same from files that have the input's size already.

With a GPU all of the paper's backbones are measured, with milliseconds a step, the peak of the
memory and the largest batch that would fit (extrapolated from two batches).
"""

import argparse
import logging
import platform
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import cv2
import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from machine import RESULTS
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from hsc_utils import paper
from hsc_utils.files import write_csv
from hsc_utils.study import RunConfig
from hsc_utils.training import PAPER_ARCHITECTURES, batches, build_model, device_name
from hsc_utils.training.device import is_out_of_memory, lightning_precision
from hsc_utils.training.fit import Classifier, keep_freed_memory

RUNS = 5
# backbone, side of the input in px, batch size and batches a run: on a CPU, and on a GPU
CPU_CASES = [
    ("resnet18", 64, 64, 5),
    ("resnet50", 64, 64, 2),
    ("densenet169", 64, 64, 2),
    ("resnet18", 512, 8, 2),
    ("densenet169", 512, 4, 2),
]
GPU_CASES = [
    (name, side, batch, 20)
    for side, batch in ((64, 256), (512, 32))
    for name in PAPER_ARCHITECTURES
]
QUICK_CASES = [("resnet18", 64, 8, 1)]
COMPARED = {case[:2] for case in CPU_CASES}
STORED_SIDE = {64: 96, 512: 512}  # of the arrays: patches.npy as paper.yaml cuts it, images cached
SOURCE_SIDE = {64: 96, 512: 2048}  # of the PNG files
FILES = {64: 512, 96: 512, 512: 16, 2048: 8}
USUAL_BATCHES = {64: 20, 512: 2}  # at most: a GPU's batch of 2048 px files takes a second to decode
CLASSES = ["LT-HSC", "ST-HSC", "MPP"]
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"


class Clock(Callback):
    """Seconds from before the first fetch to the end of the last step of a fit."""

    def on_train_start(self, *_: object) -> None:
        """Start."""
        self.started = now()

    def on_train_batch_end(self, *_: object) -> None:
        """Read the time; the last reading stays."""
        self.batches = getattr(self, "batches", 0) + 1
        if self.batches == self.expected:
            self.seconds = now() - self.started


def now() -> float:
    """Read the clock when the device has nothing left to do."""
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def config_of(name: str, side: int, batch: int) -> RunConfig:
    """Return the configuration of a run."""
    return RunConfig(
        architecture=name,
        weights="none",
        input_size=side,
        batch_size=batch,
        max_epochs=1,
        patience=1,
        learning_rate=1e-4,
        level="cell",
        class_names=CLASSES,
        weights_used="none",
        mean=[0.5] * 3,
        std=[0.2] * 3,
        samples_sha256="",
        code_sha256="",
    )


@lru_cache(maxsize=1)
def classifier(config: RunConfig) -> Classifier:
    """Build a model in training as `fit.fit` does; the last one is kept."""
    model = build_model(config.architecture, len(CLASSES), "none")
    return Classifier(model.to(memory_format=torch.channels_last), config, np.full(3, 1 / 3))


def stored(side: int, folder: Path) -> np.ndarray:
    """Open the array that a model of this input is trained from."""
    return np.load(folder / f"{STORED_SIDE[side]}.npy", mmap_mode="r")


def store_seconds(side: int, batch: int, folder: Path) -> float:
    """Time what a run does once: bring all samples to the input's size, where they stay."""
    arrays = stored(side, folder)
    rows = np.arange(len(arrays))
    samples = pd.DataFrame({"class": np.array(CLASSES)[rows % 3], "row": rows})
    started = now()
    batches.training_batches(samples, arrays, config_of("resnet18", side, batch))
    return now() - started


def ours(name: str, side: int, batch: int, count: int, folder: Path) -> float:
    """Train some batches by Lightning from the memory-mapped array."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    keep_freed_memory()
    arrays = stored(side, folder)
    rows = np.random.default_rng(0).integers(0, len(arrays), batch * count)
    samples = pd.DataFrame({"class": np.array(CLASSES)[rows % 3], "row": rows})
    config = config_of(name, side, batch)
    loader = batches.training_batches(samples, arrays, config)
    clock = Clock()
    clock.expected = count
    trainer = lightning.Trainer(
        accelerator="gpu" if ON_GPU else "cpu",
        devices=1,
        precision=lightning_precision("auto"),
        max_epochs=1,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(classifier(config), loader)
    return batch * count / clock.seconds


def ready_batch(side: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make one batch on the device."""
    images = torch.randn(batch, 3, side, side, device=DEVICE)
    labels = torch.arange(batch, device=DEVICE) % 3
    return images.contiguous(memory_format=torch.channels_last), labels


def bare_step(
    trained: Classifier,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> None:
    """Take one step at the precision of `ours`."""
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    kind = kinds.get(lightning_precision("auto"))
    optimizer.zero_grad()
    with torch.autocast(DEVICE, kind, enabled=kind is not None, cache_enabled=False):
        loss = nn.functional.cross_entropy(trained.model(images), labels, trained.class_weights)
    loss.backward()
    optimizer.step()


def bare_training(name: str, side: int, batch: int) -> tuple[Classifier, torch.optim.Optimizer]:
    """Give the model of `ours` and an optimiser like its own, which a CUDA graph can hold."""
    keep_freed_memory()
    torch.backends.cudnn.benchmark = ON_GPU and side >= 256
    trained = classifier(config_of(name, side, batch)).to(DEVICE).train()
    return trained, torch.optim.Adam(trained.parameters(), fused=True, capturable=ON_GPU)


def ceiling(name: str, side: int, batch: int, count: int, folder: Path) -> float:
    """Train on one ready batch in a bare loop."""
    training, ready = bare_training(name, side, batch), ready_batch(side, batch)
    started = now()
    for _ in range(count):
        bare_step(*training, *ready)
    return batch * count / (now() - started)


def graphed(name: str, side: int, batch: int, count: int, folder: Path) -> float:
    """Train on one ready batch, the step captured once and replayed; NaN where that fails."""
    training, ready = bare_training(name, side, batch), ready_batch(side, batch)
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # as CUDA asks: some steps on another stream first
        for _ in range(3):
            bare_step(*training, *ready)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            bare_step(*training, *ready)
    except RuntimeError as error:
        print(f"no CUDA graph of {name}: {str(error).splitlines()[0]}", flush=True)
        return np.nan
    started = now()
    for _ in range(count):
        graph.replay()
    return batch * count / (now() - started)


def memory(name: str, side: int, batch: int) -> dict[str, float]:
    """Measure a step's peak of GPU memory, and from a second batch the largest that would fit."""
    peaks = {}
    for size in (batch, batch // 2):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        bare_step(*bare_training(name, side, batch), *ready_batch(side, size))
        torch.cuda.synchronize()
        peaks[size] = torch.cuda.max_memory_allocated()
    a_sample = (peaks[batch] - peaks[batch // 2]) / (batch - batch // 2)
    total = torch.cuda.get_device_properties(0).total_memory
    return {
        "peak_gb": peaks[batch] / 1e9,
        "largest_batch": int(batch + (0.95 * total - peaks[batch]) / a_sample),
    }


class Files(Dataset):
    """PNG files read and augmented one by one, as tutorials do it."""

    def __init__(self, paths: list[Path], side: int, count: int):
        self.paths, self.count = paths, count
        self.transform = transforms.Compose(
            [
                *([transforms.Resize((side, side))] if side != Image.open(paths[0]).width else []),
                transforms.RandomHorizontalFlip(),
                transforms.RandomVerticalFlip(),
                transforms.RandomAffine(
                    90,
                    translate=(0.1, 0.1),
                    scale=(0.8, 1.2),
                    interpolation=transforms.InterpolationMode.BILINEAR,
                ),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.2] * 3),
            ]
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.open(self.paths[index % len(self.paths)]).convert("RGB")
        return self.transform(image), index % 3


@lru_cache(maxsize=1)
def usual_model(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Build a model as tutorials do; the last one is kept."""
    model = build_model(name, len(CLASSES), "none").to(DEVICE).train()
    return model, torch.optim.Adam(model.parameters(), lr=1e-4)


def usual(
    name: str, side: int, batch: int, count: int, folder: Path, source: int | None = None
) -> float:
    """Train from PNG files; the clock starts when the workers have their first batch ready.

    By then they have begun the next batches, so two batches more are in their queue: as much is
    decoded while the clock runs as is trained on.
    """
    count = min(count, USUAL_BATCHES[side])
    paths = sorted((folder / f"{source or SOURCE_SIDE[side]}").glob("*.png"))
    model, optimizer = usual_model(name)
    files = Files(paths, side, batch * (count + 2))
    # "fork" is what a notebook or script has on Linux; the processes of this one are spawned
    loader = DataLoader(
        files,
        batch_size=batch,
        shuffle=True,
        num_workers=2,
        pin_memory=ON_GPU,
        multiprocessing_context="fork",
    )
    loss_of, started = nn.CrossEntropyLoss(), 0.0
    for images, labels in islice(loader, count):
        started = started or now()
        optimizer.zero_grad()
        loss = loss_of(model(images.to(DEVICE)), labels.to(DEVICE))
        loss.backward()
        optimizer.step()
    return batch * count / (now() - started)


def usual_resized(name: str, side: int, batch: int, count: int, folder: Path) -> float:
    """Train from PNG files that have the model's size already."""
    return usual(name, side, batch, count, folder, source=side)


def write_samples(folder: Path, sides: set[int]) -> None:
    """Write an array for each side of input, and PNG files: coarse noise with fine noise on it."""
    print("writing samples", flush=True)
    rng = np.random.default_rng(0)
    for side in sides | {at[side] for side in sides for at in (STORED_SIDE, SOURCE_SIDE)}:
        (folder / str(side)).mkdir()
        pictures = []
        for number in range(FILES[side]):
            coarse = rng.integers(0, 200, (side // 16, side // 16, 3), dtype=np.uint8)
            picture = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
            picture = picture + rng.integers(0, 32, picture.shape, dtype=np.uint8)
            cv2.imwrite(str(folder / str(side) / f"{number:03d}.png"), picture)
            pictures.append(picture)
        if side in STORED_SIDE.values():
            write_array(folder / f"{side}.npy", np.stack(pictures), full_size(side))


def full_size(stored_side: int) -> int:
    """Return the paper's number of samples on a GPU; on a CPU a few stand for them."""
    level = "images" if stored_side == STORED_SIDE[512] else "cells"
    return int(paper.counts()[level].sum()) if ON_GPU else FILES[stored_side]


def write_array(path: Path, pictures: np.ndarray, count: int) -> None:
    """Fill an array on disk with pictures over and over."""
    array = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint8, shape=(count, *pictures.shape[1:])
    )
    for start in range(0, count, len(pictures)):
        array[start : start + len(pictures)] = pictures[: count - start]


def measure(case: tuple, runs: int, folder: Path, workers: dict) -> dict:
    """Time one case, the ways taking turns; a first run of each warms up."""
    name, side, batch, count = case
    ways = [ours, ceiling, graphed] if ON_GPU else [ours, ceiling]
    if (name, side) in COMPARED:
        ways += [usual, usual_resized]
    rates = {way.__name__: [] for way in ways}
    for run in range(runs + 1):
        for way in ways:
            worker = workers["usual" if way.__name__.startswith("usual") else "ours"]
            batches_run = count if run else 1
            rate = worker.submit(way, name, side, batch, batches_run, folder).result()
            if run:
                rates[way.__name__].append(rate)
    row = {"model": name, "px": side, "batch": batch}
    row |= {key: float(np.median(found)) for key, found in rates.items()}
    row |= {"of_ceiling": row["ours"] / row["ceiling"], "step_ms": 1000 * batch / row["ours"]}
    for key in ("usual", "usual_resized"):
        row[f"over_{key}"] = row["ours"] / row[key] if key in row else np.nan
    if ON_GPU:
        row |= workers["ours"].submit(memory, name, side, batch).result()
    if name == PAPER_ARCHITECTURES[0]:  # it is the same for all
        row["store_s"] = workers["ours"].submit(store_seconds, side, batch, folder).result()
    print(
        "  ".join(f"{key} {round(row[key], 2)}" for key in row if key != "model"), name, flush=True
    )
    return row


def main() -> None:
    """Measure every case; write the table anew after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="timed runs of each way")
    parser.add_argument("--cases", type=int, nargs="+", help="only these rows of the table, from 0")
    parser.add_argument("--resume", action="store_true", help="keep rows measured on this device")
    parser.add_argument("--quick", action="store_true", help="one tiny case, to try the script")
    options = parser.parse_args()
    cases = QUICK_CASES if options.quick else GPU_CASES if ON_GPU else CPU_CASES
    cases = [cases[number] for number in options.cases or range(len(cases))]
    machine = {
        "runs": options.runs,
        "device": device_name("auto"),
        "cores": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
    path = RESULTS / f"training{'_quick' if options.quick else '_gpu' if ON_GPU else ''}.csv"
    table = earlier_rows(path, machine) if options.resume else pd.DataFrame()
    done = set() if table.empty else set(zip(table["model"], table["px"], strict=True))
    cases = [case for case in cases if case[:2] not in done]
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        write_samples(Path(folder), {side for _, side, _, _ in cases})
        with ProcessPoolExecutor(1, spawn) as one, ProcessPoolExecutor(1, spawn) as other:
            workers = {"ours": one, "usual": other}
            for case in cases:
                try:
                    row = measure(case, options.runs, Path(folder), workers)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    row = {"model": case[0], "px": case[1], "batch": case[2]}
                    print(f"{case[0]} at {case[1]} px: out of memory", flush=True)
                row = pd.DataFrame([row]).round(3).assign(**machine)
                table = pd.concat([table, row], ignore_index=True)
                write_csv(path, table)
    for key in ("of_ceiling", "over_usual", "over_usual_resized"):
        print(f"{key}: {table[key].mean():.2f} on average")


def earlier_rows(path: Path, machine: dict) -> pd.DataFrame:
    """Read the rows that an earlier call measured on the same device with the same PyTorch."""
    if not path.exists():
        return pd.DataFrame()
    table = pd.read_csv(path)
    same = (table["device"] == machine["device"]) & (table["torch"] == machine["torch"])
    return table[same]


if __name__ == "__main__":
    main()
