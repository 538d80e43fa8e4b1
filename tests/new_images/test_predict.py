"""New acquisitions through trained runs: the same pictures, every file once, nothing lost."""

import json
import os
import shutil
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from hsc_utils import detection, files, manifest, metrics, new_images, training
from hsc_utils.new_images import __main__ as command
from hsc_utils.new_images import passport
from hsc_utils.new_images.members import common_temperature
from hsc_utils.simulation import write_oir
from hsc_utils.study import Run


@pytest.fixture
def folder(paths, tmp_path):
    """A copy of two new acquisitions and of the file that is cut short, without class folders."""
    folder = tmp_path / "today"
    folder.mkdir()
    found = sorted((paths.new_day / "raw").rglob("*.oir"))
    for k, path in enumerate([found[0], found[-1]]):
        shutil.copy(path, folder / f"field {k}.oir")
    shutil.copy(next(p for p in found if "cut short" in p.name), folder / "cut short.oir")
    return folder


def test_every_file_is_in_exactly_one_table(paths, predicted):
    predictions = pd.read_csv(predicted / "predictions.csv")
    rejected = pd.read_csv(predicted / "rejected.csv")
    raw = paths.new_day / "raw"
    listed = sorted([*predictions["source"], *rejected["source"]])
    assert listed == sorted(p.relative_to(raw).as_posix() for p in raw.rglob("*.oir"))
    assert "cut short" in rejected["reason"].item()
    assert len(list((predicted / "pictures").glob("*.jpg"))) == len(predictions) == 12


def test_an_image_of_the_study_is_predicted_as_in_training(paths, runs, tmp_path):
    """Files of the study, sent through as new ones, give the probabilities that the runs stored."""
    images = manifest.read_images(paths.prepared)
    chosen = images[images["split"] == "test"].head(2)
    for row in chosen.itertuples():
        shutil.copy(paths.raw / row.source, tmp_path / f"{row.image_id}.oir")
    target = paths.new_images / "again"
    for run in map(Run, runs):
        out = new_images.predict_images([run.directory], tmp_path, target).set_index("image_id")
        names, known = list(run.config.class_names), passport.read_passport(run)
        votes = passport.votes_of(run.predictions, names, known["temperature"])
        votes = votes.set_index("image_id").loc[chosen["image_id"]]
        expected = metrics.tempered(
            votes[[f"p_{n}" for n in names]].to_numpy(), known["vote_temperature"]
        )
        found = out.loc[chosen["image_id"], [f"p_{n}" for n in names]]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert out["warnings"].str.contains("a file of the study, in its subset test").all()


def test_cells_are_those_that_step_02_would_find(paths, predicted):
    cells = pd.read_csv(predicted / "cells.csv")
    one = cells[cells["image_id"] == cells["image_id"].iloc[0]]
    source = pd.read_csv(predicted / "predictions.csv").set_index("image_id")["source"]
    known = passport.read_passport(paths.run("cell", "resnet18", 0))
    rgb = new_images.field_picture(known, paths.new_day / "raw", source[one["image_id"].iloc[0]])
    found = detection.detect_cells(rgb, passport.finding_settings(known))
    kept, _ = detection.cut_patches(rgb, found, 48, "drop")
    np.testing.assert_allclose(one[["y", "x", "sigma"]], kept[:, :3])


def test_probabilities_are_means_over_levels_and_seeds(paths, runs, predicted):
    both = pd.read_csv(predicted / "predictions.csv")
    columns = [column for column in both if column.startswith("p_")]
    np.testing.assert_allclose(both[columns].sum(axis=1), 1, atol=1e-5)
    alone = [
        new_images.predict_images([run], paths.new_day / "raw", paths.new_images / f"alone{k}")
        for k, run in enumerate(runs)
    ]
    of_cells, of_images = (table[columns] for table in alone)
    expected = (of_cells + of_images) / 2
    with_cells = both["cells"] > 0
    np.testing.assert_allclose(both.loc[with_cells, columns], expected[with_cells], atol=1e-5)
    assert of_cells[~with_cells].isna().all(axis=None)
    with pytest.raises(ValueError, match="named twice"):
        new_images.load_members([runs[1], runs[1]])


def test_nothing_is_predicted_twice_and_later_images_are_added(runs, folder, tmp_path, monkeypatch):
    target = tmp_path / "out"
    first = new_images.predict_images(runs[1:], folder, target)
    assert (first["class"] == "").all()
    record = json.loads((target / "provenance.json").read_text())
    assert record["images_predicted_now"] == 3
    shutil.copy(folder / "field 0.oir", folder / "later.oir")
    second = new_images.predict_images(runs[1:], folder, target)
    record = json.loads((target / "provenance.json").read_text())
    assert record["images_predicted_now"] == 2  # the new one, and once more the refused
    assert "a copy of field 0.oir" in second.set_index("source").loc["later.oir", "warnings"]
    (folder / "later.oir").unlink()
    third = new_images.predict_images(runs[1:], folder, target)
    pd.testing.assert_frame_equal(first, third)
    assert not (target / "records" / "later.json").exists()


def test_an_interrupted_prediction_is_completed(runs, folder, tmp_path, monkeypatch):
    target = tmp_path / "out"
    whole = new_images.predict_images(runs[1:], folder, tmp_path / "whole")
    monkeypatch.setattr("hsc_utils.new_images.predict._AT_ONCE", 1)
    real, calls = training.embed, []

    def stop_at_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "embed", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        new_images.predict_images(runs[1:], folder, target)
    assert not (target / "predictions.csv").exists()
    monkeypatch.setattr(training, "embed", real)
    again = new_images.predict_images(runs[1:], folder, target)
    pd.testing.assert_frame_equal(again, whole)


def test_an_image_without_cells_is_undecided_and_said(runs, tmp_path):
    empty = np.random.default_rng(0).normal(2000, 30, (3, 320, 320)).astype(np.uint16)
    names = ("DIC", "Brightfield", "Autofluorescence")
    (tmp_path / "new").mkdir()
    moment = datetime(2024, 5, 13, tzinfo=UTC)
    write_oir(
        tmp_path / "new" / "empty.oir",
        empty,
        channel_names=names,
        acquired_at=moment,
        pixel_size_um=0.31,
    )
    row = new_images.predict_images(runs[:1], tmp_path / "new", tmp_path / "out").iloc[0]
    assert row["cells"] == 0
    assert row["called"] == "undecided"
    assert row["predicted"] == ""
    assert "no cell was found" in row["warnings"]


def test_other_pictures_are_warned_of_loudly(runs, tmp_path):
    colour = np.random.default_rng(0).integers(0, 255, (200, 260, 3)).astype(np.uint8)
    (tmp_path / "new").mkdir()
    files.write_rgb(tmp_path / "new" / "photo.png", colour)
    row = new_images.predict_images(runs, tmp_path / "new", tmp_path / "out").iloc[0]
    for question in ("names of the slices", "bits per pixel", "size in pixels", "real images"):
        assert question in row["warnings"]
    assert row["called"] == "undecided"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run.passport_file.unlink(), "has no new_images.json"),
        (lambda run: run.passport_file.write_text("{"), "is damaged"),
        (lambda run: run.features_file.write_bytes(b""), "is missing or damaged"),
        (lambda run: run.weights_file.unlink(), "holds no model.safetensors"),
        (
            lambda run: run.passport_file.write_text(
                run.passport_file.read_text().replace('"MPP"', '"CMP"')
            ),
            "cannot speak together: class_names",
        ),
    ],
)
def test_runs_that_cannot_be_used(runs, folder, tmp_path, change, said):
    copy = tmp_path / "runs" / "image" / "resnet18" / "seed0"
    shutil.copytree(runs[1], copy)
    change(Run(copy))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        new_images.predict_images([runs[0], copy], folder, tmp_path / "out")


def test_folders_that_cannot_be_predicted(runs, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        new_images.predict_images(runs, tmp_path / "moved", tmp_path / "out")
    with pytest.raises(ValueError, match="lies in"):
        new_images.predict_images(runs, folder, folder / "out")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.oir").write_bytes(b"OLYMPUSRAWFORMAT")
    with pytest.raises(ValueError, match="None of the 1 files could be used"):
        new_images.predict_images(runs, tmp_path / "bad", tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out" / "rejected.csv")) == 1


def test_the_command_says_what_differs_before_what_is_called(runs, folder, tmp_path, capsys):
    arguments = [*map(str, runs), str(folder), "--to", str(tmp_path / "out")]
    assert command.main(arguments) == 0
    said = capsys.readouterr().out
    assert said.index("No image differs in") < said.index("Of 3 files, 2 could be read")
    assert command.main([str(tmp_path), str(folder)]) == 2
    assert "error: " in capsys.readouterr().err
    assert command.default_target(str(runs[0]), str(folder)).parts[-2:] == ("new_images", "today")


def test_ready_cells(tmp_path, ready_study):
    """A study of cells that came cut out predicts files that hold one cell each."""
    rng, raw = np.random.default_rng(0), tmp_path / "cells"
    for name, level in (("dim", 60), ("bright", 180)):
        for k in range(12):
            patch = rng.normal(level, 20, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            files.write_rgb(raw / name / f"{k:03d}.png", patch)
    run = ready_study(raw)
    assert passport.read_passport(run)["kind"] == "ready cells"
    new = tmp_path / "new"
    files.write_rgb(new / "one.png", rng.normal(180, 20, (22, 22, 3)).clip(0, 255).astype(np.uint8))
    (new / "two.png").write_bytes(b"no picture")
    out = new_images.predict_images([run.directory], new, tmp_path / "out")
    assert out["source"].tolist() == ["one.png"]
    assert out["cells"].item() == 1
    assert out[["p_bright", "p_dim"]].sum(axis=1).item() == pytest.approx(1)
    assert pd.read_csv(tmp_path / "out" / "rejected.csv")["source"].tolist() == ["two.png"]


def test_averages_of_runs_are_calibrated_together(paths, runs):
    members = new_images.load_members(runs)
    names = members[0].passport["class_names"]
    images = pd.DataFrame({"class": ["LT-HSC", "MPP"] * 15})
    for name in names:
        images[f"p_{name}"] = np.where(images["class"] == name, 0.6, 0.2)
    timid = passport.fitted_temperature(images, names)
    assert timid < 0.6
    assert passport.fitted_temperature(images.head(10), names) == 1  # too few to say
    assert common_temperature(members[:1]) == common_temperature(members) == 1


def test_images_are_made_again_at_the_size_they_were_prepared_in(runs, folder):
    known = passport.read_passport(Run(runs[0]))
    known["preparation"]["size"] = 200
    assert new_images.field_picture(known, folder, "field 0.oir").shape == (200, 200, 3)


def test_what_was_refused_is_tried_again_and_old_tables_go(runs, folder, tmp_path):
    target, cut = tmp_path / "out", folder / "cut short.oir"
    new_images.predict_images(runs[1:], folder, target)
    content = (folder / "field 0.oir").read_bytes()
    for path in folder.glob("field*"):
        path.write_bytes(b"OLYMPUSRAWFORMAT")
    with pytest.raises(ValueError, match="None of the 3 files"):
        new_images.predict_images(runs[1:], folder, target)
    assert not (target / "predictions.csv").exists()
    assert not list((target / "pictures").glob("*.jpg"))
    state = cut.stat()
    cut.write_bytes(content)
    os.utime(cut, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert len(new_images.predict_images(runs[1:], folder, target)) == 1


def test_predictions_of_another_folder_are_never_overwritten(runs, folder, tmp_path):
    target = tmp_path / "out"
    new_images.predict_images(runs[1:], folder, target)
    shutil.copytree(folder, tmp_path / "other" / "today")
    with pytest.raises(ValueError, match="holds the predictions of another folder"):
        new_images.predict_images(runs[1:], tmp_path / "other" / "today", target)
    (tmp_path / "mine" / "records").mkdir(parents=True)
    with pytest.raises(ValueError, match="was not written here"):
        new_images.predict_images(runs[1:], folder, tmp_path / "mine")


def test_another_confidence_predicts_nothing_anew(runs, folder, tmp_path, monkeypatch):
    target = tmp_path / "out"
    new_images.predict_images(runs[1:], folder, target, confidence=0.1)
    monkeypatch.setattr(training, "embed", lambda *_: pytest.fail("predicted anew"))
    found = new_images.predict_images(runs[1:], folder, target, confidence=1.0)
    assert (found["called"] == "undecided").all()


def test_a_copied_run_needs_a_place_for_results(runs, folder, tmp_path, capsys):
    shutil.copytree(runs[1], tmp_path / "seed0")
    assert command.main([str(tmp_path / "seed0"), str(folder)]) == 2
    assert "--to" in capsys.readouterr().err
    assert command.main([str(tmp_path / "seed0"), str(folder), "--to", str(tmp_path / "out")]) == 0


def test_files_of_ready_cells_are_known_again(tmp_path, ready_study):
    for name, level in (("dim", 60), ("bright", 180)):
        for k in range(12):
            rng = np.random.default_rng((level, k))
            patch = rng.normal(level, 20, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            files.write_rgb(tmp_path / "cells" / name / f"{k:03d}.png", patch)
    run = ready_study(tmp_path / "cells")
    out = new_images.predict_images([run.directory], tmp_path / "cells", tmp_path / "out")
    assert out["known_file"].str.startswith("a file of the study").all()
    internal = new_images.internal_predictions(new_images.load_members([run.directory]))
    assert new_images.scores_side_by_side(out, internal, ["bright", "dim"]).empty
