import json
import multiprocessing
import shutil
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, safe_open

from hsc_utils import metrics, training
from hsc_utils.study import NEVER_RUN, Run, tabulate_runs
from hsc_utils.training import TrainingSettings, batches, fit, models, train
from hsc_utils.training.judge import calibrate, score_predictions

CLASSES = ["LT-HSC", "ST-HSC", "MPP"]


# test_gpu.py interrupts and resumes there
no_fork_after_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="a process that has used a GPU cannot be forked"
)


@pytest.fixture(scope="module", autouse=True)
def repeatable():
    """One thread: on a busy machine two wait for each other. And cuDNN's repeatable ways."""
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    yield
    torch.set_num_threads(before[0])
    torch.backends.cudnn.deterministic = before[1]


def bright_squares(images=30, cells_per_image=4, side=32):
    """Patches whose class is the size of a square: learnable in a few steps."""
    rng = np.random.default_rng(0)
    count = images * cells_per_image
    image = np.repeat(np.arange(images), cells_per_image)
    label = image % 3
    arrays = rng.integers(0, 60, (count, side, side, 3), dtype=np.uint8)
    for row, k in enumerate(label):
        half = 3 + 4 * k
        arrays[row, side // 2 - half : side // 2 + half, side // 2 - half : side // 2 + half] += 99
    split = np.array(["train"] * 18 + ["validation"] * 6 + ["test"] * 6)[image]
    cells = pd.DataFrame(
        {
            "cell_id": [f"i{i}__{row:04d}" for row, i in enumerate(image)],
            "image_id": [f"i{i}" for i in image],
            "class": np.array(CLASSES)[label],
            "split": split,
            "row": np.arange(count),
            "simulated": True,
        }
    )
    return cells, arrays


def quick(**changes):
    return TrainingSettings(
        **{
            "architecture": "resnet18",
            "weights": "none",
            "input_size": 32,
            "batch_size": 24,
            "max_epochs": 4,
            "patience": 10,
            "learning_rate": 1e-3,
        }
        | changes
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    cells, arrays = bright_squares()
    run = Run(tmp_path_factory.mktemp("runs") / "cell" / "resnet18" / "seed0")
    # every cell of an image but one, out of order: row must be followed
    cells = cells.drop(index=5).sample(frac=1, random_state=0)
    assert train(cells, arrays, run.directory, quick()) == run.directory
    return cells, arrays, run


def test_a_run_directory_holds_what_others_need(finished):
    _, _, run = finished
    assert set(run.directory.iterdir()) == set(run.results) and run.failure is None
    config = run.config
    assert list(config.class_names) == CLASSES and config.level == run.level == "cell"
    with safe_open(run.weights_file, "pt") as file:
        assert json.loads(file.metadata()["config"]) == json.loads(json.dumps(asdict(config)))
    assert run.record["weights"] == "none" and run.record["simulated"] is True
    assert run.history["epoch"].tolist() == [1, 2, 3, 4]
    assert run.history["train_loss"].iloc[-1] < run.history["train_loss"].iloc[0]


def test_predictions_of_every_subset_can_be_repeated_from_the_stored_model(finished):
    cells, arrays, run = finished
    predictions = run.predictions
    assert predictions["id"].tolist() == cells["cell_id"].tolist()
    assert predictions["split"].value_counts().to_dict() == cells["split"].value_counts().to_dict()
    model, config = models.load_run(run.directory)
    with torch.inference_mode():
        logits = model(batches.to_input(arrays[cells["row"].to_numpy()], config))
    samples = predictions.assign(row=cells["row"].to_numpy())
    again, features = training.embed(model, samples, arrays, config)
    once = training.predict(model, samples, arrays, config)
    pd.testing.assert_frame_equal(again, once, check_exact=True)
    assert features.shape == (len(cells), 512) and features.dtype == np.float32
    head = model.fc.cpu()
    with torch.inference_mode():
        weighed = head(torch.from_numpy(features)).softmax(1).numpy()
    stored = metrics.probability_matrix(predictions, CLASSES)
    assert np.allclose(weighed, stored, atol=1e-4) and not head._forward_pre_hooks
    model.cpu()
    assert np.allclose(logits.softmax(1).numpy(), stored, atol=1e-4)
    assert json.loads(json.dumps(score_predictions(predictions, CLASSES))) == run.scores
    assert json.loads(json.dumps(calibrate(predictions, CLASSES))) == run.calibration
    assert run.calibration["temperature"] == 1
    assert run.calibration["reason"] == "6 validation images are too few: 20 are wanted"
    test = run.scores["test"]
    assert (
        "too few for an interval" in test["caution"] and np.isnan(test["intervals"]["auroc"]).all()
    )


def test_the_exported_weights_are_those_of_the_best_epoch(finished):
    cells, _, run = finished
    predictions = run.predictions.query("split == 'validation'")
    truth = pd.Index(CLASSES).get_indexer(predictions["class"])
    chosen = metrics.probability_matrix(predictions, CLASSES)[np.arange(len(truth)), truth]
    shares = cells.query("split == 'train'")["class"].value_counts(normalize=True)[CLASSES]
    weight = (1 / (3 * shares.to_numpy()))[truth]
    loss = -(weight * np.log(chosen)).sum() / weight.sum()
    # validation runs in bfloat16 where the processor has it, predictions in single precision
    assert loss == pytest.approx(run.history["val_loss"].min(), rel=0.05)


def state_of(run):
    return {file: file.stat().st_mtime_ns for file in run.results}


def test_a_finished_run_is_found_and_only_scored_again(finished, capsys):
    cells, arrays, run = finished
    before, scores = state_of(run), run.scores_file.read_text()
    train(cells, arrays, run.directory, quick())
    assert "finished earlier, nothing to do" in capsys.readouterr().out
    assert state_of(run) == before
    # as if the code that scores had changed since
    run.scores_file.write_text(json.dumps(run.scores | {"test": {"auroc": 2.0}}))
    train(cells, arrays, run.directory, quick())
    assert "its scores made anew" in capsys.readouterr().out
    assert run.scores_file.read_text() == scores
    assert state_of(run) | before == before | {run.scores_file: before[run.scores_file]}


def test_a_run_of_before_calibration_gets_the_missing_file_and_nothing_else(
    finished, tmp_path, monkeypatch, capsys
):
    cells, arrays, whole = finished
    run = Run(shutil.copytree(whole.directory, tmp_path / "run"))
    run.calibration_file.unlink()
    run.card_file.write_text("of this model")
    before = {file: file.stat().st_mtime_ns for file in run.directory.iterdir()}
    monkeypatch.setattr(fit, "fit", None)  # would fail if it were reached
    monkeypatch.setattr(fit, "predict", None)
    train(cells, arrays, run.directory, quick())
    assert "finished earlier, its calibration made anew" in capsys.readouterr().out
    after = {file: file.stat().st_mtime_ns for file in run.directory.iterdir()}
    assert after.keys() - before.keys() == {run.calibration_file}
    assert before.items() <= after.items()
    assert run.calibration == whole.calibration


def test_what_was_made_from_a_model_goes_when_another_takes_its_place(finished, tmp_path):
    cells, arrays, whole = finished
    run = Run(shutil.copytree(whole.directory, tmp_path / "run"))
    made = [run.baselines_file, run.folds_file, run.passport_file, run.features_file, run.card_file]
    for file in made:
        shutil.copy(run.predictions_file, file)
    train(cells, arrays, run.directory, quick(max_epochs=1))
    assert set(run.directory.iterdir()) == set(run.results)


@pytest.mark.parametrize("changed", ["settings", "code", "version"])
def test_other_settings_or_code_begin_anew(finished, tmp_path, changed):
    cells, arrays, whole = finished
    run = Run(shutil.copytree(whole.directory, tmp_path / "run"))
    if changed == "code":
        replace(run.config, code_sha256="of before").write(run.config_file)
    if changed == "version":
        run.config_file.write_text("{}")
    settings = quick(max_epochs=1) if changed == "settings" else quick()
    train(cells, arrays, run.directory, settings)
    assert len(run.history) == settings.max_epochs
    assert run.config.code_sha256 == whole.config.code_sha256
    assert run.weights_file.stat().st_mtime_ns > whole.weights_file.stat().st_mtime_ns


@pytest.mark.parametrize("changes", [{}, {"imbalance": "sampler"}, {"input_size": 24}])
def test_training_is_the_plain_recipe_to_the_last_bit(tmp_path, changes):
    """A bare loop without Lightning, threads or stores gives the very same weights."""
    cells, arrays = bright_squares(cells_per_image=2)
    settings = quick(precision="float32", max_epochs=1, batch_size=16, **changes)
    train(cells, arrays, tmp_path, settings)
    config, fitted = Run(tmp_path).config, cells[cells["split"] == "train"]
    torch.manual_seed(config.seed)
    model = models.build_model("resnet18", 3, "none").to(memory_format=torch.channels_last)
    model.to(training.find_device())
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    labels = pd.Index(config.class_names).get_indexer(fitted["class"])
    rng, count = np.random.default_rng((config.seed, 0)), len(fitted)
    chances = (1 / np.bincount(labels))[labels] / 3
    drawn = config.imbalance == "sampler"
    order = rng.choice(count, count, p=chances) if drawn else rng.permutation(count)
    with training.single_precision():
        for step, part in enumerate(np.array_split(order, -(-count // config.batch_size))):
            images = batches.to_input(arrays[fitted["row"].to_numpy()[part]], config)
            images = images.to(training.find_device())
            torch.manual_seed(hash((config.seed, step, 0)))
            images = batches.augment(images, **config.augmentation)
            chosen = torch.from_numpy(labels[part]).to(images.device)
            torch.nn.functional.cross_entropy(
                model(images), chosen, torch.ones(3).to(images)
            ).backward()
            optimizer.step()
            optimizer.zero_grad()
    found, expected = load_file(tmp_path / "model.safetensors"), model.cpu().state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("place", ["device", "pinned"])
def test_on_a_gpus_road_an_interrupted_run_ends_with_the_same_weights(
    tmp_path, monkeypatch, capsys, place
):
    """Its batches come from a store on the device, or from a thread that fetches ahead."""
    cells, arrays = bright_squares(cells_per_image=1, side=48)
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    train(cells, arrays, whole.directory, quick(max_epochs=3))
    monkeypatch.setattr(batches, "pixels_place", lambda needed: place)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    stopped_after(monkeypatch, 2, cells, arrays, run.directory, quick(max_epochs=3))
    train(cells, arrays, run.directory, quick(max_epochs=3))
    assert "continuing after epoch 2" in capsys.readouterr().out
    resumed, expected = load_file(run.weights_file), load_file(whole.weights_file)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    pd.testing.assert_frame_equal(run.predictions, whole.predictions)


@no_fork_after_cuda
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_training_killed_and_started_again_ends_with_the_same_weights(finished, tmp_path, capsys):
    """A process of its own is killed without warning after its second epoch."""
    cells, arrays, whole = finished
    run = Run(tmp_path / "run")
    # forked: another interpreter would import torch for longer than it trains
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(cells, arrays, run.directory, quick())
    )
    process.start()
    while process.is_alive():
        if run.history_file.exists() and len(run.history) > 1:
            break
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not run.weights_file.exists() and any(run.checkpoints.iterdir())

    train(cells, arrays, run.directory, quick())
    assert "resnet18 on cells, seed 0 · continuing after epoch" in capsys.readouterr().out
    resumed, expected = load_file(run.weights_file), load_file(whole.weights_file)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    columns = ["epoch", "train_loss", "val_loss"]
    pd.testing.assert_frame_equal(run.history[columns], whole.history[columns])


def test_patience_stops_and_a_run_cut_off_before_its_export_does_not_train_on(
    tmp_path, monkeypatch
):
    cells, arrays = bright_squares()
    settings = quick(learning_rate=1e-9, patience=1, max_epochs=50)
    # constant validation loss from the first epoch: nothing moves at this learning rate
    monkeypatch.setattr(fit.Classifier, "on_validation_epoch_end", constant_validation)
    with monkeypatch.context() as patched:
        patched.setattr(fit, "predict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(cells, arrays, tmp_path, settings)
    assert len(Run(tmp_path).history) == 2
    train(cells, arrays, tmp_path, settings)
    assert len(Run(tmp_path).history) == 2


def constant_validation(self):
    self.validated.clear()
    self.log_dict({"val_loss": 1.0, "val_balanced_accuracy": 0.5, "val_auroc": 0.5})


def interrupted(*arguments):
    raise KeyboardInterrupt


def losses_by_epoch(*losses):
    """Return a validation that finds these losses, one an epoch, whatever the model."""

    def validate(self):
        self.validated.clear()
        loss = losses[self.trainer.current_epoch]
        self.log_dict({"val_loss": loss, "val_balanced_accuracy": 0.5, "val_auroc": 0.5})

    return validate


def killed_after(epochs, *arguments):
    """Train in a process of its own, and kill it without warning once so many are recorded."""
    run = Run(arguments[2])
    process = multiprocessing.get_context("fork").Process(target=train, args=arguments)
    process.start()
    last = run.checkpoints / "last.ckpt"
    while process.is_alive():
        if last.exists() and len(run.history) >= epochs:
            break
        time.sleep(0.01)
    process.kill()
    process.join()


def stopped_after(monkeypatch, epochs, *arguments):
    """Train until Ctrl-C in the epoch after so many."""

    def stop(self, trainer, module):
        if trainer.current_epoch == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fit.EarlyStopping, "on_train_epoch_start", stop)
        with pytest.raises(KeyboardInterrupt, match="run it again to continue"):
            train(*arguments)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@no_fork_after_cuda
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize(
    ("losses", "schedule"),
    [((0.5, 0.6, 0.7, 0.8, 0.9), "constant"), ((0.5, 0.4, 0.6, 0.9, 0.8), "one-cycle")],
)
def test_training_continues_after_the_last_epoch_not_the_best(
    tmp_path, monkeypatch, capsys, losses, schedule
):
    cells, arrays = bright_squares(cells_per_image=1)
    monkeypatch.setattr(fit.Classifier, "on_validation_epoch_end", losses_by_epoch(*losses))
    settings = quick(max_epochs=5, schedule=schedule)
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    train(cells, arrays, whole.directory, settings)
    killed_after(3, cells, arrays, run.directory, settings)
    epochs = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["epoch"] + 1
    assert epochs >= len(run.history) - 1 and not run.weights_file.exists()
    capsys.readouterr()
    train(cells, arrays, run.directory, settings)
    assert f"continuing after epoch {epochs}\n" in capsys.readouterr().out
    resumed, expected = load_file(run.weights_file), load_file(whole.weights_file)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    columns = ["epoch", "train_loss", "val_loss"]
    pd.testing.assert_frame_equal(run.history[columns], whole.history[columns])


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def zero(path):
    """As some file systems leave a file after a power loss: its size, without its bytes."""
    path.write_bytes(bytes(path.stat().st_size))


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory):
    """A run stopped in its fourth epoch, whose second was the best."""
    cells, arrays = bright_squares(cells_per_image=1)
    run = Run(tmp_path_factory.mktemp("interrupted") / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            fit.Classifier, "on_validation_epoch_end", losses_by_epoch(0.5, 0.4, 0.6, 0.7, 0.8)
        )
        stopped_after(patched, 3, cells, arrays, run.directory, quick(max_epochs=5))
    return cells, arrays, run


@pytest.mark.parametrize("spoil", [halve, empty])
@pytest.mark.parametrize(
    ("damaged", "sentence"),
    [
        (("last.ckpt",), "continuing after epoch 2"),
        (("best.ckpt",), "the best epoch is lost, so training begins anew"),
        (("best.ckpt", "last.ckpt"), "best.ckpt is empty, cut short or damaged"),
    ],
)
def test_damaged_checkpoints_are_named_and_made_again(
    interrupted_run, tmp_path, monkeypatch, capsys, spoil, damaged, sentence
):
    cells, arrays, stopped = interrupted_run
    run = Run(shutil.copytree(stopped.directory, tmp_path / "run"))
    for name in damaged:
        spoil(run.checkpoints / name)
    monkeypatch.setattr(
        fit.Classifier, "on_validation_epoch_end", losses_by_epoch(0.5, 0.4, 0.6, 0.7, 0.8)
    )
    train(cells, arrays, run.directory, quick(max_epochs=5))
    said = capsys.readouterr().out
    assert sentence in said
    assert all(f"set aside as {name}.damaged" in said for name in damaged)
    assert run.history["epoch"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("spoil", [halve, empty, zero])
def test_a_damaged_configuration_begins_anew_and_says_so(interrupted_run, tmp_path, capsys, spoil):
    cells, arrays, stopped = interrupted_run
    run = Run(shutil.copytree(stopped.directory, tmp_path / "run"))
    spoil(run.config_file)
    train(cells, arrays, run.directory, quick(max_epochs=1))
    assert "config.json is empty, cut short or damaged" in capsys.readouterr().out
    assert len(run.history) == 1 and run.failure is None


@pytest.mark.parametrize("spoil", [halve, zero])
@pytest.mark.parametrize(
    "name",
    [
        *("predictions.parquet", "metrics.json", "calibration.json"),
        *("provenance.json", "model.safetensors"),
    ],
)
def test_a_damaged_result_is_named_set_aside_and_made_again(
    finished, tmp_path, capsys, name, spoil
):
    cells, arrays, whole = finished
    run = Run(shutil.copytree(whole.directory, tmp_path / "cell" / "resnet18" / "seed0"))
    spoil(run.directory / name)
    weights = run.weights_file.stat().st_mtime_ns
    assert [file.name for file in run.damaged().values()] == [name]
    if name not in ("calibration.json", "model.safetensors"):  # which no table of runs reads
        assert f"seed0/{name} is empty, cut short or damaged" in run.failure
        assert tabulate_runs([run, whole])["missing"].tolist() == [run.failure, ""]
    if name == "model.safetensors":
        with pytest.raises(ValueError, match=r"model\.safetensors .* damaged"):
            models.load_run(run.directory)
    train(cells, arrays, run.directory, quick())
    assert f"{name} is empty, cut short or damaged" in capsys.readouterr().out
    assert run.failure is None and (run.directory / f"{name}.damaged").exists()
    pd.testing.assert_frame_equal(run.predictions, whole.predictions)
    assert run.scores_file.read_text() == whole.scores_file.read_text()
    assert run.calibration == whole.calibration
    if name != "model.safetensors":
        assert run.weights_file.stat().st_mtime_ns == weights  # not trained again


def test_a_finished_model_stays_until_its_successor_is_finished(
    finished, tmp_path, monkeypatch, capsys
):
    cells, arrays, whole = finished
    run = Run(shutil.copytree(whole.directory, tmp_path / "cell" / "resnet18" / "seed0"))
    before = {file: file.read_bytes() for file in run.results}
    stopped_after(monkeypatch, 2, cells, arrays, run.directory, quick(learning_rate=2e-3))
    assert "finished earlier with other learning_rate. That model stays" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in run.results} == before and run.failure is None
    models.load_run(run.directory)
    # asked for again, the old one is at once there; and the new one goes on where it was
    train(cells, arrays, run.directory, quick())
    assert "finished earlier, nothing to do" in capsys.readouterr().out
    train(cells, arrays, run.directory, quick(learning_rate=2e-3))
    assert "continuing after epoch 2" in capsys.readouterr().out
    assert run.config.learning_rate == 2e-3 and run.failure is None
    assert set(run.directory.iterdir()) == set(run.results)


def test_a_successor_cut_off_while_it_takes_its_place_is_completed(finished, tmp_path, monkeypatch):
    """Readers meet no mixture: without its record a run is not finished."""
    cells, arrays, whole = finished
    run = Run(shutil.copytree(whole.directory, tmp_path / "run"))
    moved, replace_file = [], Path.replace

    def cut(self, target):
        if self.parent == run.successor and self.name in run_results:
            if len(moved) == 3:
                raise KeyboardInterrupt
            moved.append(self.name)
        return replace_file(self, target)

    run_results = {file.name for file in run.results}
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            train(cells, arrays, run.directory, quick(max_epochs=1))
    assert run.failure == NEVER_RUN
    train(cells, arrays, run.directory, quick(max_epochs=1))
    assert run.failure is None and len(run.history) == 1
    assert set(run.directory.iterdir()) == set(run.results)


def test_results_can_be_read_like_other_files(finished):
    _, _, run = finished
    assert len({file.stat().st_mode for file in run.results}) == 1


def test_images_one_channel_and_the_sampler(tmp_path):
    cells, arrays = bright_squares(cells_per_image=1)
    images = cells.drop(columns=["cell_id", "row"])
    settings = quick(channels=[1], imbalance="sampler", normalisation="imagenet", max_epochs=1)
    train(images, arrays, tmp_path, settings)
    model, config = models.load_run(tmp_path)
    assert config.level == "image" and config.channels == (1,)
    assert config.mean == (batches.IMAGENET_MEAN[1],)
    assert model.conv1.in_channels == 1
    assert Run(tmp_path).predictions["id"].tolist() == images["image_id"].tolist()


def test_the_rate_rises_and_falls_once_and_the_numbers_are_of_float32(tmp_path, monkeypatch):
    cells, arrays = bright_squares(cells_per_image=2)
    rates, kinds = [], set()

    def note_rate(self, trainer, module, outputs, batch, batch_idx):
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        kinds.add(trainer.precision)

    monkeypatch.setattr(fit.EarlyStopping, "on_train_batch_end", note_rate)
    settings = quick(max_epochs=5, schedule="one-cycle", precision="float32", batch_size=12)
    train(cells, arrays, tmp_path, settings)
    rates.pop()  # of a step that is never taken
    top = int(np.argmax(rates))
    assert max(rates) == pytest.approx(settings.learning_rate, rel=0.05)
    assert len(rates) == 5 * 3 - 1 and 2 < top < 8
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top:]) < 0).all()
    assert rates[-1] < 0.05 * settings.learning_rate
    assert kinds == {"32-true"} and "float32" in Run(tmp_path).record["device"]


def test_a_class_without_a_test_sample_is_scored_around(tmp_path):
    cells, arrays = bright_squares(cells_per_image=1)
    rare = cells["class"].eq("MPP") & cells["split"].ne("train")
    train(cells[~rare], arrays, tmp_path, quick(max_epochs=1))
    assert Run(tmp_path).scores["test"]["left_out"] == ["MPP"]
    assert "MPP" in Run(tmp_path).config.class_names


def test_class_weights_balance_the_loss(finished):
    config = finished[2].config
    shares = np.array([0.5, 0.25, 0.25])
    weights = fit.Classifier(torch.nn.Identity(), config, shares).class_weights
    assert (weights * torch.tensor(shares)).tolist() == pytest.approx([1 / 3] * 3)
    even = fit.Classifier(
        torch.nn.Identity(), replace(config, imbalance="none"), shares
    ).class_weights
    assert even.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imbalance": "oversample"}, "imbalance: 'oversample' is not one of weights"),
        ({"normalisation": "minmax"}, "normalisation: 'minmax'"),
        ({"schedule": "cosine"}, "schedule: 'cosine' is not one of constant, one-cycle"),
        ({"precision": "float16"}, "precision: 'float16'"),
        ({"batch_size": 0}, "batch_size: 0 is not above 0"),
        ({"channels": []}, "channels:"),
        ({"channels": [3]}, r"channels: \[3\] must name"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        quick(**changes)


def test_a_subset_or_class_that_is_missing_is_named(tmp_path):
    cells, arrays = bright_squares(cells_per_image=1)
    with pytest.raises(ValueError, match="No training sample of ST-HSC"):
        untrained = cells["class"].eq("ST-HSC") & cells["split"].eq("train")
        train(cells[~untrained], arrays, tmp_path, quick())
    with pytest.raises(ValueError, match="No validation sample"):
        train(cells[cells["split"] != "validation"], arrays, tmp_path, quick())


def test_running_out_of_memory_says_what_to_lower(tmp_path, monkeypatch):
    def fill(self, batch, batch_idx):
        raise torch.OutOfMemoryError("CUDA out of memory")

    cells, arrays = bright_squares(cells_per_image=1)
    monkeypatch.setattr(fit.Classifier, "training_step", fill)
    with pytest.raises(MemoryError, match=r"batch of 24 at 32 px .* lower batch_size"):
        train(cells, arrays, tmp_path, quick())


def test_a_loss_that_is_never_finite_says_so(tmp_path):
    cells, arrays = bright_squares(cells_per_image=1)
    with pytest.raises(ValueError, match="lower learning_rate"):
        train(cells, arrays, tmp_path, quick(learning_rate=1e30, max_epochs=2))
