"""Claim: training feeds the model at its own pace, and outruns the usual recipe.

Run `python benchmarks/training.py`; it writes ``benchmarks/results/training.csv``. Training samples
a second, medians of interleaved runs, of

- *ours*: `training` as the notebooks call it: memory-mapped uint8 pixels, batches normalised and
  augmented on the device, Lightning's loop;
- *ceiling*: the same model, precision and optimiser, fed with one ready batch in a bare loop;
- *usual*: PNG files, PIL, `torchvision.transforms` sample by sample, a `DataLoader` with two
  workers, float32, a bare loop. At 64 px the files are patches as step 02 exports them; at
  512 px they are 2048 px wide, as step 01 writes them (and as the paper stored them);
- *usual_resized*: the same from files that were resized to 512 px beforehand.

With a GPU the same table is made at the size of the paper's data, of random content, with the
hours that the paper's two tables would take.
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
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from hsc_utils import paper
from hsc_utils.files import ROOT, write_csv
from hsc_utils.study import RunConfig
from hsc_utils.training import PAPER_ARCHITECTURES, batches, build_model, device_name
from hsc_utils.training.fit import Classifier, keep_freed_memory, precision

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
COMPARED = {case[:2] for case in CPU_CASES}
SOURCE_SIDE = {64: 64, 512: 2048}  # of the PNG files
FILES = {64: 512, 512: 16, 2048: 8}
CLASSES = ["LT-HSC", "ST-HSC", "MPP"]
# hours to redo the tables: the seeds of workflow/config/paper.yaml, and epochs as we guess them
SEEDS, EPOCHS = 3, 40
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"


class Clock(Callback):
    """Seconds from the first fetch to the end of the last step of a fit."""

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


def ours(name: str, side: int, batch: int, count: int, folder: Path) -> float:
    """Train some batches by Lightning from the memory-mapped array."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    keep_freed_memory()
    arrays = np.load(folder / f"{side}.npy", mmap_mode="r")
    rows = np.random.default_rng(0).integers(0, len(arrays), batch * count)
    samples = pd.DataFrame({"class": np.array(CLASSES)[rows % 3], "row": rows})
    config = config_of(name, side, batch)
    loader = batches.training_batches(samples, arrays, config)
    clock = Clock()
    clock.expected = count
    trainer = lightning.Trainer(
        accelerator="gpu" if ON_GPU else "cpu",
        devices=1,
        precision=precision(),
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


def ceiling(name: str, side: int, batch: int, count: int, folder: Path) -> float:
    """Train on one ready batch, at the precision of `ours`."""
    keep_freed_memory()
    trained = classifier(config_of(name, side, batch)).to(DEVICE).train()
    images = torch.randn(batch, 3, side, side, device=DEVICE)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=DEVICE) % 3
    optimizer = trained.configure_optimizers()
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision())
    started = now()
    for _ in range(count):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, kind, enabled=kind is not None):
            loss = nn.functional.cross_entropy(trained.model(images), labels, trained.class_weights)
        loss.backward()
        optimizer.step()
    return batch * count / (now() - started)


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
    for side in sides | {SOURCE_SIDE[side] for side in sides}:
        (folder / str(side)).mkdir()
        pictures = []
        for number in range(FILES[side]):
            coarse = rng.integers(0, 200, (side // 16, side // 16, 3), dtype=np.uint8)
            picture = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
            picture = picture + rng.integers(0, 32, picture.shape, dtype=np.uint8)
            cv2.imwrite(str(folder / str(side) / f"{number:03d}.png"), picture)
            pictures.append(picture)
        if side in sides:
            write_array(folder / f"{side}.npy", np.stack(pictures), full_size(side))


def full_size(side: int) -> int:
    """Return the paper's number of samples on a GPU; on a CPU a few stand for them."""
    counts = paper.counts()
    return int(counts["cells" if side == 64 else "images"].sum()) if ON_GPU else FILES[side]


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
    ways = [ours, ceiling]
    if (name, side) in COMPARED:
        ways += [usual, usual_resized] if side != SOURCE_SIDE[side] else [usual]
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
    row["of_ceiling"] = row["ours"] / row["ceiling"]
    for key in ("usual", "usual_resized"):
        row[f"over_{key}"] = row["ours"] / row[key] if key in row else np.nan
    print(
        "  ".join(f"{key} {round(row[key], 2)}" for key in row if key != "model"), name, flush=True
    )
    return row


def hours(table: pd.DataFrame) -> float:
    """Estimate the hours of both tables: all backbones, seeds and epochs; validation is a third."""
    samples = {side: full_size(side) for side in (64, 512)}
    seconds = sum(samples[row.px] * (0.6 + 0.2 / 3) / row.ours for row in table.itertuples())
    return SEEDS * EPOCHS * seconds / 3600


def main() -> None:
    """Measure every case, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="timed runs of each way")
    parser.add_argument("--cases", type=int, nargs="+", help="only these rows of the table, from 0")
    options = parser.parse_args()
    cases = GPU_CASES if ON_GPU else CPU_CASES
    cases = [cases[number] for number in options.cases or range(len(cases))]
    started = time.perf_counter()
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        write_samples(Path(folder), {side for _, side, _, _ in cases})
        with ProcessPoolExecutor(1, spawn) as one, ProcessPoolExecutor(1, spawn) as other:
            workers = {"ours": one, "usual": other}
            rows = [measure(case, options.runs, Path(folder), workers) for case in cases]
    table = pd.DataFrame(rows)
    for key in ("of_ceiling", "over_usual", "over_usual_resized"):
        print(f"{key}: {table[key].mean():.2f} on average")
    if ON_GPU:
        print(f"both tables, {SEEDS} seeds of {EPOCHS} epochs: {hours(table):.1f} h")
    else:
        print("no GPU here: the table at full size was not measured")
    table = table.round(3).assign(
        runs=options.runs,
        device=device_name(),
        cores=torch.get_num_threads(),
        machine=platform.machine(),
        torch=torch.__version__,
        lightning=lightning.__version__,
    )
    write_csv(ROOT / f"benchmarks/results/training{'_gpu' if ON_GPU else ''}.csv", table)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
