"""Claim: Grad-CAM of 10,000 cells takes a minute or two on two cores, in bounded memory.

Run `python benchmarks/explain.py`; it writes ``benchmarks/results/explain.csv`` (with a GPU, which
the models then run on, ``explain_gpu.csv``), a row as soon as it is measured. Patches of 64 px,
random content, three classes, the layer at stride 16. For each backbone

- *ours*: `explanation.measure_cells`, as notebook 06 calls it: batches, one map a cell, and its
  shares inside the cell; cells a second are the median of `RUNS` runs;
- *plain*, the reference: captum's `LayerGradCam` on the model as it is, one image at a time, the
  map enlarged and divided by its maximum; run in turns with ours, and checked to give its maps;
- the whole 10,000 once, in a process of its own, and its peak memory beside that of 1,000.
"""

import argparse
import multiprocessing
import resource
import statistics
import time

import numpy as np
import pandas as pd
import torch
from captum.attr import LayerAttribution, LayerGradCam
from machine import write_results
from torch import nn

from hsc_utils import explanation, training
from hsc_utils.explanation.maps import normalise
from hsc_utils.study import RunConfig

BACKBONES = ("resnet18", "densenet121", "densenet169")
CELLS, FEW, OURS_SAMPLE, PLAIN_SAMPLE, RUNS = 10_000, 1_000, 256, 32, 5
SIDE, STRIDE = 64, 16
CONFIG = RunConfig(
    architecture="any",
    weights="none",
    input_size=SIDE,
    batch_size=64,
    max_epochs=1,
    patience=1,
    learning_rate=1e-3,
    level="cell",
    class_names=("LT-HSC", "ST-HSC", "MPP"),
    weights_used="none",
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    samples_sha256="",
    code_sha256="",
)
PACKAGES = ("torch", "torchvision", "captum", "numpy")
DEVICE = training.find_device()


def random_cells(count: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Return a thousand patches, and as many cells as asked that point at them."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (FEW, SIDE, SIDE, 3), dtype=np.uint8)
    names = rng.choice(CONFIG.class_names, count)
    return patches, pd.DataFrame({"row": np.arange(count) % FEW, "predicted": names})


def disc_labels(cells: pd.DataFrame, patches: np.ndarray) -> np.ndarray:
    """Return the same round cell for every patch."""
    y, x = np.indices(patches.shape[1:3]) - SIDE / 2
    return np.broadcast_to((y**2 + x**2 < 15**2).astype(np.int32), patches.shape[:3])


def ours(model: nn.Module, patches: np.ndarray, cells: pd.DataFrame) -> None:
    """Explain cells as notebook 06 does, at one stride."""
    layers = {STRIDE: explanation.layer_at_stride(model, STRIDE)}
    explanation.measure_cells(model, CONFIG, patches, cells, layers, disc_labels)


def plain_way(model: nn.Module, patches: np.ndarray, cells: pd.DataFrame) -> np.ndarray:
    """Explain cells one by one with captum alone."""
    layer = model.get_submodule(explanation.layer_at_stride(model, STRIDE))
    captum, maps = LayerGradCam(model, layer), []
    for row, name in zip(cells["row"], cells["predicted"], strict=True):
        image = training.to_input(patches[row : row + 1], CONFIG, DEVICE)
        target = CONFIG.class_names.index(name)
        coarse = captum.attribute(image, target=target, relu_attributions=True)
        fine = LayerAttribution.interpolate(coarse, (SIDE, SIDE), "bilinear")
        maps.append(fine[0, 0].detach().cpu().numpy())
    return normalise(np.stack(maps))


def compare(backbone: str) -> dict:
    """Time both ways in turns, and check that their maps are the same."""
    torch.manual_seed(0)
    model = training.build_model(backbone, weights="none").eval().to(DEVICE)
    patches, cells = random_cells(OURS_SAMPLE)
    few = cells.iloc[:PLAIN_SAMPLE]
    layer = explanation.layer_at_stride(model, STRIDE)
    inputs, targets = explanation.inputs_and_targets(patches[:PLAIN_SAMPLE], few, CONFIG)
    with training.single_precision():
        expected = plain_way(model, patches, few)
    maps = explanation.grad_cam(model, inputs, targets, layer)
    np.testing.assert_allclose(maps, expected, atol=1e-3)
    rates = {"plain": [], "ours": []}
    for _ in range(RUNS):
        for name, work, chosen in (("plain", plain_way, few), ("ours", ours, cells)):
            started = time.perf_counter()
            work(model, patches, chosen)
            rates[name].append(len(chosen) / (time.perf_counter() - started))
    plain, fast = (statistics.median(rates[name]) for name in ("plain", "ours"))
    return {
        "backbone": backbone,
        "plain_cells_a_second": round(plain, 1),
        "cells_a_second": round(fast, 1),
        "ratio": round(fast / plain, 2),
        "runs": RUNS,
    }


def whole_run(backbone: str, count: int) -> tuple[float, float, float]:
    """Return the seconds of explaining `count` cells, and the peaks of memory in MB: own, GPU's."""
    model = training.build_model(backbone, weights="none").eval().to(DEVICE)
    patches, cells = random_cells(count)
    started = time.perf_counter()
    ours(model, patches, cells)
    seconds = time.perf_counter() - started
    on_gpu = torch.cuda.max_memory_allocated() / 1e6 if DEVICE.type == "cuda" else np.nan
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, on_gpu


def measure(backbone: str, cells: int) -> dict:
    """Measure one backbone: the comparison, and the whole runs in fresh processes."""
    row = compare(backbone)
    print(
        f"{backbone}: {row['cells_a_second']} cells/s, plain {row['plain_cells_a_second']}",
        flush=True,
    )
    peaks = {}
    for count in (FEW, cells):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, peaks[count], on_gpu = pool.apply(whole_run, (backbone, count))
        print(
            f"{backbone}: {count} cells in {seconds:.0f} s, peak {peaks[count]:.0f} MB", flush=True
        )
    return row | {
        "cells": cells,
        "seconds": round(seconds, 1),
        "peak_mb": round(peaks[cells]),
        f"peak_mb_at_{FEW}": round(peaks[FEW]),
        "peak_mb_on_gpu": on_gpu,
        "device": training.device_name(),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Write the table, or with fewer cells only show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=CELLS, help="fewer for a trial, not written")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, help="only these")
    options, rows = parser.parse_args(), []
    for backbone in options.backbones:
        rows.append(measure(backbone, options.cells))
        if options.cells == CELLS:
            write_results("explain" + "_gpu" * (DEVICE.type == "cuda"), rows, PACKAGES)
        else:
            print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
