"""Cross-validation: each image judged once, by a network that has seen nothing of its fold."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hsc_utils import training
from hsc_utils.study import Run, TrainingSettings
from hsc_utils.training import folds as room

SETTINGS = TrainingSettings(
    architecture="resnet18",
    weights="none",
    input_size=32,
    batch_size=16,
    max_epochs=1,
    patience=1,
    learning_rate=1e-3,
    seed=2,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cells_of(counts, each=2, **columns):
    """Cells of so many images of each class, in an order in which classes alternate."""
    names = [(name, k) for name, count in counts.items() for k in range(count)]
    rows = [(f"{name}{k}", name, cell) for name, k in names for cell in range(each)]
    table = pd.DataFrame(rows, columns=["image_id", "class", "cell"])
    table = table.sort_values(["cell", "image_id"], ignore_index=True)
    split = {f"{name}{k}": "validation" if k == 1 else "train" for name, k in names}
    table["split"] = table["image_id"].map(split)
    table["cell_id"] = table["image_id"] + "__" + table.pop("cell").astype(str)
    return table.assign(row=range(len(table)), simulated=False, **columns)


def pixels_of(table):
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 60, (len(table), 32, 32, 3), dtype=np.uint8)
    arrays[table["class"] == "a", 10:22, 10:22] += 120
    return arrays


@pytest.fixture
def trained(monkeypatch):
    """Stand in for training: note what each network learns from, and predict at random."""
    seen = []

    def note(table, arrays, run_dir, settings):
        seen.append(table)
        run = Run(run_dir)
        run.directory.mkdir(parents=True)
        named = table.rename(columns={"cell_id": "id"})[["id", "image_id", "class", "split"]]
        names = sorted(set(table["class"]))
        drawn = np.random.default_rng(len(seen)).dirichlet(np.ones(len(names)), len(table))
        named = named.join(pd.DataFrame(drawn, columns=[f"p_{name}" for name in names]))
        named.to_parquet(run.predictions_file)

    monkeypatch.setattr(room, "train", note)
    return seen


def test_pooled_predictions_are_of_networks_that_saw_nothing_of_the_image(tmp_path, capsys):
    table = cells_of({"a": 9, "b": 9})
    run, arrays = Run(tmp_path / "cell" / "resnet18" / "seed2"), pixels_of(table)
    training.train(table, arrays, run.directory, SETTINGS)
    alone = training.score_table(run)
    pooled = training.cross_validate(table, arrays, run.directory, SETTINGS, 3)
    assert "Cross-validation: 3 folds, image by image" in capsys.readouterr().out
    assert pooled["id"].tolist() == table["cell_id"].tolist()
    assert set(pooled["split"]) == {"test"} and set(pooled["fold"]) == {0, 1, 2}
    assert pooled.groupby("image_id")["fold"].nunique().max() == 1
    pd.testing.assert_frame_equal(run.folds, pooled)
    assert run.folds.attrs["group"] == "" and run.folds.attrs["folds"] == 3
    for fold, judged in pooled.groupby("fold"):
        again = Run(run.directory / "folds" / f"fold{fold}" / "cell" / "resnet18" / "seed2")
        again.check_finished()
        assert (again.level, again.model, again.seed) == ("cell", "resnet18", 2)
        split = again.predictions.set_index("id")["split"]
        assert (split[judged["id"]] == "test").all() and (split == "test").sum() == len(judged)
        assert split.value_counts().min() >= 12
    both = training.score_table(run)
    assert both[alone.columns].equals(alone) and "cross-validated" not in alone
    assert both["cross-validated"].str.contains(" to ").sum() >= 3
    assert "each of 36 cells judged by a network that saw nothing of its fold" in (
        " ".join(training.sentences(run))
    )
    written = run.folds_file.stat().st_mtime_ns
    training.cross_validate(table, arrays, run.directory, SETTINGS, 3)
    assert "cross-validated earlier, nothing to do" in capsys.readouterr().out
    assert run.folds_file.stat().st_mtime_ns == written
    # a folder of before, whose pooled file was lost: nothing is trained again
    run.folds_file.unlink()
    found = training.cross_validate(table, arrays, run.directory, SETTINGS, 3)
    said = capsys.readouterr().out
    assert said.count("finished earlier, nothing to do") == 3 and "epoch" not in said
    pd.testing.assert_frame_equal(found, pooled)


def test_other_settings_samples_or_folds_are_judged_anew(tmp_path, trained):
    table = cells_of({"a": 6, "b": 6})
    arrays = pixels_of(table)
    for place, (settings, count, given) in enumerate(
        [
            (SETTINGS, 3, arrays),
            (replace(SETTINGS, max_epochs=2), 3, arrays),
            (SETTINGS, 4, arrays),
            (SETTINGS, 4, 255 - arrays),
        ]
    ):
        # beside the others, since the stand-in for training finds nothing again
        run = Run(tmp_path / str(place))
        if place:
            run.directory.mkdir()
            Run(tmp_path / str(place - 1)).folds_file.rename(run.folds_file)
        before = len(trained)
        training.cross_validate(table, given, run.directory, settings, count)
        assert len(trained) == before + count


def test_days_and_look_alikes_are_kept_from_the_network_that_judges_them(tmp_path, trained, capsys):
    table = cells_of({"a": 12, "b": 12})
    days = table["image_id"].str[1:].astype(int) % 6
    table["group"] = days.map("day {}".format)
    training.cross_validate(table, pixels_of(table), tmp_path, SETTINGS, 3)
    assert "3 folds, by whole days (or groups)." in capsys.readouterr().out
    for seen in trained:
        days_of = seen.groupby("split")["group"].agg(set)
        assert not days_of["test"] & (days_of["train"] | days_of["validation"])
        assert not days_of["train"] & days_of["validation"]
    assert Run(tmp_path).folds.attrs["group"] == "group"


def test_cells_learn_of_look_alikes_from_their_images(tmp_path, trained, monkeypatch):
    table = cells_of({"a": 8, "b": 8})
    looks = pd.DataFrame({"image_id": table["image_id"].unique()})
    looks["near_duplicate_of"] = np.where(looks["image_id"].isin(["a3", "b5"]), "a0", "")
    (tmp_path / "images.csv").touch()
    monkeypatch.setattr(room.manifest, "read_images", lambda folder: looks)
    pooled = training.cross_validate(
        table, pixels_of(table), tmp_path / "run", SETTINGS, 4, tmp_path
    )
    fold = pooled.groupby("image_id")["fold"].first()
    assert fold["a0"] == fold["a3"] == fold["b5"]


def test_a_class_of_one_image_is_always_learnt_from_and_never_judged(tmp_path, trained, capsys):
    table = cells_of({"a": 8, "b": 8, "rare": 2, "basophil": 1})
    pooled = training.cross_validate(table, pixels_of(table), tmp_path, SETTINGS, 4)
    said = capsys.readouterr().out
    assert "Classes with images in fewer folds: rare (2)." in said
    assert "Never judged, always learnt from: 1 image(s) of basophil" in said
    assert set(pooled["class"]) == {"a", "b", "rare"}
    assert "basophil" in Run(tmp_path).folds.attrs["said"]
    for seen in trained:
        assert (seen.loc[seen["class"] == "basophil", "split"] == "train").all()
        # validation skips the fold that holds all that is left of a class
        assert set(seen.loc[seen["split"] == "train", "class"]) == set(table["class"])
        assert set(seen["split"]) == {"train", "validation", "test"}


def test_a_class_that_a_network_would_not_learn_is_refused_beforehand(tmp_path, trained):
    classes = pd.Series(list("aabbccc"))
    with pytest.raises(ValueError, match=r"fold 1 of 3 would train without b, .* more folds"):
        room._split(classes, pd.Series([0, 1, 0, 2, 0, 1, 2]), 0, 3)
    table = cells_of({"a": 4, "b": 4})
    with pytest.raises(ValueError, match="folds is 2, but 0"):
        training.cross_validate(table, pixels_of(table), tmp_path, SETTINGS, 2)
    with pytest.raises(ValueError, match="folds: 9 are wanted"):
        training.cross_validate(table, pixels_of(table), tmp_path, SETTINGS, 9)
    assert not trained and not list(tmp_path.iterdir())


def test_interrupted_it_goes_on_with_the_fold_that_is_missing(tmp_path, monkeypatch):
    table = cells_of({"a": 4, "b": 4}, each=1)
    arrays, train, done = pixels_of(table), room.train, []

    def interrupted(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(train(*arguments))

    with monkeypatch.context() as patched:
        patched.setattr(room, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.cross_validate(table, arrays, tmp_path, SETTINGS, 3)
    assert not Run(tmp_path).folds_file.exists()
    before = [Run(folder).weights_file.stat().st_mtime_ns for folder in done]
    pooled = training.cross_validate(table, arrays, tmp_path, SETTINGS, 3)
    assert [Run(folder).weights_file.stat().st_mtime_ns for folder in done] == before
    assert len(pooled) == len(table)
    assert json.loads(Run(done[0]).config_file.read_text())["seed"] == 2
