"""What only a GPU can show: the same numbers as a CPU's, and its own failures.

The road there is tested without one in test_device.py, test_batches.py and test_training.py. Run
by `make gpu`. Tolerances: float32 sums in another order differ by 1e-4 of a probability at most
here, and a few steps of Adam turn that into 1 % of a loss.
"""

import multiprocessing
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_training import CLASSES, bright_squares, quick, stopped_after

from hsc_utils import explanation, metrics, training
from hsc_utils.study import Run
from hsc_utils.training import batches, fit, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
STILL = {"flip": 0.0, "translation": 0.0, "rotation": 0.0, "zoom": 0.0}
# a GPU draws other augmentations than a CPU; small steps, since Adam enlarges the least difference
SAME = {"precision": "float32", "max_epochs": 2, "learning_rate": 1e-4, **STILL}


@pytest.fixture(scope="module", autouse=True)
def repeatable():
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


@pytest.fixture(scope="module", params=["resnet18", "densenet121"])
def finished(request, tmp_path_factory):
    cells, arrays = bright_squares()
    run = Run(tmp_path_factory.mktemp("runs") / "cell" / request.param / "seed0")
    train(cells, arrays, run.directory, quick(architecture=request.param, **SAME))
    return cells, arrays, run


def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_training_is_the_same_as_on_a_cpu(finished, tmp_path, monkeypatch):
    cells, arrays, run = finished
    assert torch.cuda.get_device_name() in run.record["device"]
    on_the_cpu(monkeypatch)
    train(cells, arrays, tmp_path, quick(architecture=run.config.architecture, **SAME))
    assert Run(tmp_path).record["device"].startswith("CPU")
    for column in ("train_loss", "val_loss"):
        here, there = Run(tmp_path).history[column], run.history[column]
        np.testing.assert_allclose(there, here, rtol=0.02, atol=0.01, err_msg=column)


def test_predictions_are_the_same_as_on_a_cpu(finished, monkeypatch):
    cells, arrays, run = finished
    samples = cells.rename(columns={"cell_id": "id"}).assign(group="")
    model, config = training.load_run(run.directory)
    on_the_cpu(monkeypatch)
    here = fit.predict(model, samples, arrays, config)
    matrices = [metrics.probability_matrix(table, CLASSES) for table in (here, run.predictions)]
    assert matrices[0].std(axis=0).max() > 0.01
    np.testing.assert_allclose(matrices[1], matrices[0], atol=1e-4)


def test_grad_cam_and_its_checks_are_the_same_as_on_a_cpu(finished):
    cells, arrays, run = finished
    few = cells.iloc[:16].assign(predicted=cells["class"].iloc[:16])
    pixels = arrays[few["row"].to_numpy()]
    model, config = training.load_run(run.directory)
    images, targets = explanation.inputs_and_targets(pixels, few, config)
    layer, found = explanation.layer_at_stride(model, 16), []
    for device in ("cpu", "cuda"):
        model.to(device)
        maps = explanation.grad_cam(model, images, targets, layer)
        curves, _ = explanation.erasure(model, images, targets, maps, few, (0.0, 0.2, 0.5))
        correlations = explanation.scrambled_correlations(
            model, images, targets, layer, few["image_id"], scramblings=1
        )
        erased = np.concatenate([curve["mean"] for curve in curves.values()])
        found.append((maps, erased, correlations.groupby("layer")["correlation"].mean()))
    for name, here, there, tolerance in zip(
        ("maps", "erasing", "scrambling"), *found, (2e-3, 5e-3, 0.05), strict=True
    ):
        np.testing.assert_allclose(there, here, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("place", ["device", "pinned"])
def test_an_interrupted_run_sees_what_an_uninterrupted_one_does(
    tmp_path, monkeypatch, capsys, place
):
    cells, arrays = bright_squares(cells_per_image=2, side=48)
    monkeypatch.setattr(batches, "pixels_place", lambda needed: place)
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    train(cells, arrays, whole.directory, quick(max_epochs=3))
    stopped_after(monkeypatch, 2, cells, arrays, run.directory, quick(max_epochs=3))
    train(cells, arrays, run.directory, quick(max_epochs=3))
    assert "continuing after epoch 2" in capsys.readouterr().out
    columns = ["train_loss", "val_loss"]
    np.testing.assert_allclose(run.history[columns], whole.history[columns], rtol=0.02, atol=0.01)
    resumed, expected = load_file(run.weights_file), load_file(whole.weights_file)
    apart = max((resumed[k].float() - expected[k].float()).abs().max() for k in expected)
    assert apart < 0.02


def test_a_run_that_is_killed_is_continued(tmp_path, capsys):
    """A process of its own, spawned because one that has used a GPU cannot be forked."""
    cells, arrays = bright_squares()
    run, settings = Run(tmp_path), quick(max_epochs=40, patience=40)
    process = multiprocessing.get_context("spawn").Process(
        target=train, args=(cells, arrays, run.directory, settings)
    )
    process.start()
    last = run.checkpoints / "last.ckpt"
    while process.is_alive() and not (last.exists() and len(run.history) > 1):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not run.weights_file.exists()
    train(cells, arrays, run.directory, settings)
    assert "continuing after epoch" in capsys.readouterr().out
    assert run.history["epoch"].tolist() == list(range(1, 41)) and run.failure is None


@pytest.mark.parametrize("place", ["device", "pinned"])
def test_batches_on_their_way_to_the_model_wait_for_nothing(finished, monkeypatch, place):
    """Any operation for which the processor waits for the GPU is an error here."""
    cells, arrays, run = finished
    monkeypatch.setattr(batches, "pixels_place", lambda needed: place)
    samples = cells[cells["split"] == "train"]
    loader = batches.training_batches(samples, arrays, run.config)
    normalise = batches.Normalise(run.config).cuda()
    served = list(loader)  # the first use of a kernel may wait
    batches.augment(normalise(served[0][0].cuda()), **quick().augmentation)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for pixels, labels in loader:
            images = normalise(pixels.to("cuda", non_blocking=True))
            batches.augment(images, **quick().augmentation)
            labels.to("cuda", non_blocking=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("native", "kind"), [(True, "bfloat16"), (False, "float16")], ids=["bfloat16", "float16"]
)
def test_16_bits_of_either_kind_learn(tmp_path, monkeypatch, native, kind):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    cells, arrays = bright_squares()
    train(cells, arrays, tmp_path, quick(max_epochs=8))
    run = Run(tmp_path)
    assert kind in run.record["device"]
    assert run.history["val_loss"].min() < 0.8 and np.isfinite(run.history["train_loss"]).all()


@pytest.mark.parametrize("while_predicting", [False, True])
def test_a_full_card_is_explained(finished, tmp_path, while_predicting):
    count = 4096
    cells = pd.concat([bright_squares(cells_per_image=1)[0]] * (count // 30), ignore_index=True)
    cells = cells.assign(row=range(len(cells)), cell_id=[f"c{k}" for k in range(len(cells))])
    arrays = np.random.default_rng(0).integers(0, 256, (len(cells), 64, 64, 3), dtype=np.uint8)
    settings = quick(batch_size=count, input_size=64, max_epochs=1, architecture="densenet121")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.4e9 / total))
    try:
        with pytest.raises(MemoryError, match=r"batch of 4096 at 64 px .*of its .* GB.*nvidia-smi"):
            if while_predicting:
                model = training.build_model("densenet121", 3, "none")
                samples = cells.rename(columns={"cell_id": "id"}).assign(group="")
                config = replace(finished[2].config, batch_size=count, input_size=64)
                fit.predict(model, samples, arrays, config)
            else:
                train(cells, arrays, tmp_path, settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
