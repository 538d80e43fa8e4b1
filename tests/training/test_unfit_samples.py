"""Samples that no model can be trained on are refused before the first epoch, or handled."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hsc_utils import manifest, training
from hsc_utils.study import Run
from hsc_utils.training import TrainingSettings, figures, fit

SETTINGS = TrainingSettings(
    architecture="resnet18",
    weights="none",
    input_size=32,
    batch_size=8,
    max_epochs=1,
    patience=1,
    learning_rate=1e-3,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cells_of(classes, splits=("train", "train", "validation", "test"), each=2):
    """Cells of each class, so many of an image, one image in each place of `splits`."""
    rows = [
        (f"{name}{place}", name, split)
        for name in classes
        for place, split in enumerate(splits)
        for _ in range(each)
    ]
    table = pd.DataFrame(rows, columns=["image_id", "class", "split"])
    table = table.assign(simulated=False, row=range(len(table)))
    return table.assign(cell_id=[f"{i}__{k}" for k, i in enumerate(table["image_id"])])


def pixels_of(table, side=32):
    return np.random.default_rng(0).integers(0, 256, (len(table), side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (cells_of(["CD34+"]), r"only one class, CD34\+: nothing to tell apart\. Add images"),
        (cells_of(["007"], splits=("train", "validation")), "only one class, 007"),
        (cells_of("ab", splits=("test", "test")), "No training sample of a, b: .*shares"),
        (cells_of("ab", splits=("train", "test")), "No validation sample: .*shares"),
        (cells_of("ab").assign(**{"class": ""}), "16 of 16 cells have a class missing"),
        (cells_of("ab").replace({"class": {"b": np.nan}}), "8 of 16 cells .* one folder per class"),
        (cells_of("ab").iloc[:0], "0 of 0 cells"),
        (cells_of("ab").replace({"split": {"test": "val"}}), "split: 'val' is not one of train"),
        (cells_of("ab").replace({"split": {"test": np.nan}}), "split: 'nan' is not one of train"),
        (cells_of("ab").drop(columns=["split", "row"]), "lacks the columns split, row"),
    ],
)
def test_unfit_tables_are_refused_before_training(tmp_path, table, message):
    """The notebooks ask first, and training itself does not start."""
    with pytest.raises(ValueError, match=message):
        training.check_samples(table)
    with pytest.raises(ValueError, match=message):
        training.train(table, pixels_of(table), tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run").exists()


TABLE = cells_of("ab")
PIXELS = pixels_of(TABLE)


@pytest.mark.parametrize(
    ("table", "arrays", "message"),
    [
        (TABLE, PIXELS[:-1], r"15 pictures do not fit a table of 16 cells \(rows 0 to 15\)"),
        (TABLE.assign(row=-1), PIXELS, r"rows -1 to -1"),
        (TABLE.assign(row=TABLE["row"] + 0.5), PIXELS, "row: float64 .* whole numbers"),
        (TABLE.drop(columns=["cell_id", "row"]), PIXELS[:5], "5 pictures .* 16 images"),
        (TABLE, PIXELS / 255, r"shape \(16, 32, 32, 3\), float64 .* uint8, was expected"),
        (TABLE, PIXELS[..., 0], r"shape \(16, 32, 32\), uint8"),
        (TABLE, PIXELS.transpose(0, 3, 1, 2), r"shape \(16, 3, 32, 32\), uint8"),
        (TABLE, [1, 2], r"shape \(\), list"),
    ],
)
def test_pictures_that_do_not_fit_their_table_are_refused(tmp_path, table, arrays, message):
    columns = ["image_id"] + ["cell_id"] * ("cell_id" in table)
    table = table.assign(**{name: [f"{name}{k}" for k in range(len(table))] for name in columns})
    with pytest.raises(ValueError, match=message):
        training.train(table, arrays, tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "batch_size: 1 leaves batch normalisation nothing to average"),
        ({"architecture": "vit_b_16"}, "input_size: vit_b_16 cannot take 32 px .* Try 224"),
        ({"architecture": "alexnet", "input_size": 16}, "input_size: alexnet cannot take 16 px"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused_before_the_first_epoch(
    tmp_path, monkeypatch, changes, message
):
    monkeypatch.setattr(fit.Classifier, "training_step", None)  # would fail if it were reached
    with pytest.raises(ValueError, match=message):
        training.train(TABLE, PIXELS, tmp_path / "run", replace(SETTINGS, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed: -1 is not from 0"),
        ({"learning_rate": float("nan")}, "learning_rate: nan is not above 0"),
        ({"flip": 1.5}, "flip: 1.5 is not from 0 to 1"),
        ({"zoom": 1.0}, r"zoom: 1\.0 is not from 0 to 0\.9"),
        ({"channels": [0, 0]}, "each once"),
    ],
)
def test_impossible_numbers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)


@pytest.mark.parametrize("count", [3, 5, 7])
def test_no_batch_holds_a_single_sample(tmp_path, count):
    """At 32 px such a batch would leave batch normalisation one number per channel."""
    table = pd.concat([cells_of("ab", each=1, splits=("train", "validation")), TABLE]).iloc[:4]
    extra = cells_of("a", each=1, splits=("train",) * (count - 2)).assign(image_id="more")
    table = pd.concat([table, extra], ignore_index=True)
    table = table.assign(row=range(len(table)), cell_id=[f"c{k}" for k in range(len(table))])
    training.train(table, pixels_of(table), tmp_path, replace(SETTINGS, batch_size=2))
    assert Run(tmp_path).failure is None


@pytest.mark.parametrize("level", ["cell", "image"])
@pytest.mark.parametrize("classes", [["a", "b"], ["x", "y", "z"]])
def test_without_a_test_subset_the_validation_subset_is_judged_and_said_so(
    tmp_path, capsys, level, classes
):
    table = cells_of(classes, splits=("train", "train", "validation", "validation"))
    if level == "image":
        table = table.drop(columns=["cell_id", "row"])
        table["image_id"] = [f"i{k}" for k in range(len(table))]
    training.train(table, pixels_of(table), tmp_path, SETTINGS)
    assert "There is no test subset: the scores below are those of the validation" in (
        capsys.readouterr().out
    )
    run = Run(tmp_path)
    assert run.judged_on == "validation" and "intervals" in run.scores["validation"]
    assert training.score_table(run).index.name == "validation score"
    sentence = " ".join(training.sentences(run))
    assert sentence.startswith("There is no test subset")
    assert f"Of {4 * len(classes)} validation {level}s" in sentence
    note = training.scores_note(run, "")
    assert note == "Validation subset: there is no test subset"
    assert set(training.curves(run)) == set(classes)
    assert training.reliability(run)["samples"].sum() == 4 * len(classes)
    figures.roc_and_precision_recall(training.curves(run), note)
    wrong = training.confident_mistakes(run, 2)
    assert set(wrong["split"]) <= {"validation"}
    if level == "cell":
        both = training.levels_side_by_side(run, Run(tmp_path / "none"))
        assert both["images"].tolist() == [2 * len(classes)]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_scores_of_one_class_alone_claim_nothing(tmp_path, split):
    splits = ("train", "train", "validation", "test")
    table = cells_of("ab", splits=splits if split == "test" else splits[:3])
    table = table[~((table["class"] == "b") & (table["split"] == split))]
    table = table.assign(row=range(len(table)))
    training.train(table, pixels_of(table), tmp_path, SETTINGS)
    run = Run(tmp_path)
    sentence = " ".join(training.sentences(run))
    assert "of one class only, so nothing is known" in sentence and "nan" not in sentence
    assert f"No {split} sample belongs to b" in sentence
    assert "not defined" in training.score_table(run)["value"].tolist()
    figures.roc_and_precision_recall(training.curves(run))
    assert "nan" not in training.levels_side_by_side(run, Run(tmp_path / "x")).to_string()


@pytest.mark.parametrize("lost", [["MPP"], ["CD34-", "NO"]])
def test_a_class_of_the_images_without_a_cell_is_named(tmp_path, monkeypatch, capsys, lost):
    images = pd.DataFrame({"class": ["a", "b", *lost]})
    (tmp_path / "images.csv").touch()
    monkeypatch.setattr(manifest, "read_images", lambda folder: images)
    with pytest.raises(ValueError, match=f"No cell was found in any image of {', '.join(lost)}"):
        training.check_samples(TABLE, tmp_path)
    training.check_samples(TABLE, tmp_path, "allow")
    assert f"image of {', '.join(lost)}: the model does not know that class" in (
        capsys.readouterr().out
    )
    training.check_samples(TABLE, tmp_path / "absent")  # ready cells come without images
    with pytest.raises(ValueError, match="missing_classes: 'ignore' is not one of error, allow"):
        training.check_samples(TABLE, None, "ignore")


def test_an_image_model_of_other_classes_or_damaged_is_left_out_of_the_comparison(tmp_path, capsys):
    cells, images = cells_of("ab"), cells_of("abc").drop(columns=["cell_id", "row"])
    images["image_id"] = [f"i{k}" for k in range(len(images))]
    training.train(cells, pixels_of(cells), tmp_path / "cells", SETTINGS)
    training.train(images, pixels_of(images), tmp_path / "images", SETTINGS)
    run, other = Run(tmp_path / "cells"), Run(tmp_path / "images")
    assert len(training.levels_side_by_side(run, other)) == 1
    assert "It knows other classes: a, b, c." in capsys.readouterr().out
    other.predictions_file.write_bytes(b"PAR1")
    assert len(training.levels_side_by_side(run, other)) == 1
    assert "predictions.parquet is empty, cut short or damaged" in capsys.readouterr().out
