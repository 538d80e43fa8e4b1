"""A folder becomes a configuration file that the workflow takes, without a word by hand."""

import os
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from hsc_utils import files, new_study, preparation, run
from hsc_utils.new_study import __main__ as command
from hsc_utils.new_study import look
from hsc_utils.simulation import write_oir

REAL = os.environ.get("HSC_TEST_DATA")
real = pytest.mark.skipif(not REAL, reason="HSC_TEST_DATA is not set")


def noise(seed, shape=(300, 300)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def tree(folder, counts, shape=(300, 300), suffix="png"):
    for name, count in counts.items():
        for k in range(count):
            path = folder / name / f"{k:03d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), noise((len(name), ord(name[0]), k), shape))
    return folder


def described(folder, tmp_path, **how):
    """Return what was seen, and the settings that the workflow reads in the file written."""
    sight = new_study.look_at(folder, **how)
    path = new_study.write_config(sight, tmp_path / "results" / "mine", "my cells", tmp_path)
    return sight, run.read_sections(path), path.read_text()


def faults(path, monkeypatch):
    monkeypatch.syspath_prepend(str(files.ROOT / "workflow"))
    import plan

    return [*plan.faults_of_settings(str(path)), *plan.faults_of_data(str(path))]


def test_images_become_a_study_without_faults(tmp_path, monkeypatch):
    _, sections, text = described(tree(tmp_path / "raw", {"A": 30, "B": 30}), tmp_path)
    assert faults(tmp_path / "mine.yaml", monkeypatch) == []
    first = sections["01_data_preparation"]
    assert first["raw_dir"] == str(tmp_path / "raw")
    assert first["class_names"] == ["A", "B"]
    assert first["simulate_demo"] is False
    assert sections["03_image_level_training"]["folds"] == 5
    assert f"make run CONFIG={tmp_path / 'mine.yaml'}\n" in text
    assert "60 images in 2 classes: A (30), B (30)" in text


def test_small_pictures_are_cells(tmp_path, monkeypatch):
    folder = tree(tmp_path / "raw", {"A": 120, "B": 120, "rare": 1}, (70, 60))
    sight, sections, text = described(folder, tmp_path)
    assert sight.ready_cells
    assert faults(tmp_path / "mine.yaml", monkeypatch) == []
    cells = sections["02_blob_tuning"]
    assert cells["ready_cells_dir"] == str(folder)
    assert cells["side"] == 72
    assert cells["ready_cells"]["small_classes"] == "train"
    assert sections["workflow"]["image_models"] == []
    assert sections["07_shortcuts"]["image_model"] is None
    assert "folds" not in sections["04_cell_level_training"]
    assert "whether rare is recognised: with 1" in text
    assert not new_study.look_at(folder, ready_cells=False).ready_cells


@pytest.mark.parametrize("names", [("NO", "007"), ("CD34+, old", "CD34-: new"), ("null", "{x}")])
def test_odd_class_names_survive_the_file(names, tmp_path):
    _, sections, _ = described(tree(tmp_path / "raw", dict.fromkeys(names, 4)), tmp_path)
    assert sorted(sections["01_data_preparation"]["class_names"]) == sorted(names)


def test_few_files_of_many_are_read(tmp_path, monkeypatch):
    content = cv2.imencode(".png", noise(0, (300, 300)))[1].tobytes()
    for k in range(3000):
        path = tmp_path / "raw" / "ABC"[k % 3] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    real_reader, opened = preparation.read_acquisition, set()

    def count(path, **how):
        opened.add(path)
        return real_reader(path, **how)

    monkeypatch.setattr(preparation, "read_acquisition", count)
    assert new_study.look_at(tmp_path / "raw").counts.sum() == 3000
    assert len(opened) == 3 * look.READ_PER_CLASS


def test_one_slice_of_twelve_bits_in_sixteen(tmp_path, monkeypatch):
    for k, name in enumerate("AAABBB"):
        pixels = np.random.default_rng(k).integers(0, 4000, (280, 280)).astype(np.uint16)
        path = tmp_path / "raw" / name / f"{k}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, pixels)
    sight, sections, text = described(tmp_path / "raw", tmp_path)
    first = sections["01_data_preparation"]
    assert first["slices"] == ["0"]
    assert first["bit_depth"] == 12
    assert "a guess: no pixel exceeds 39" in text
    assert sections["05_comparison_wang_et_al"]["models"] == ["resnet18", "densenet121"]
    assert faults(tmp_path / "mine.yaml", monkeypatch) == []
    assert sight.refused == {}


def test_channels_in_files_of_their_own_are_joined(tmp_path):
    for name in "AB":
        for k, channel in [(k, c) for k in range(3) for c in ("DIC", "GFP")]:
            path = tmp_path / "raw" / name / f"f{k}_{channel}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(k).integers(0, 256, (280, 280)).astype(np.uint8)
            tifffile.imwrite(path, pixels)
    sight, sections, _ = described(tmp_path / "raw", tmp_path)
    assert sections["01_data_preparation"]["slices"] == ["files"]
    assert "resnet18-slice0" in sections["workflow"]["cell_models"]
    assert "6 more files are channels of these" in " ".join(new_study.seen(sight))
    assert sight.counts.tolist() == [3, 3]


def test_jpeg_days_and_what_they_cannot_tell(tmp_path):
    folder = tree(tmp_path / "jpg", {"A": 4, "B": 4}, suffix="jpg")
    assert "JPEG, which loses fine detail" in " ".join(new_study.seen(new_study.look_at(folder)))
    for k, name in enumerate("ABABAB"):
        moment = datetime(2024, 5, 1 + k % 2, 9, k, tzinfo=UTC)
        pixels = np.random.default_rng(k).integers(0, 4000, (3, 280, 280)).astype(np.uint16)
        path = tmp_path / "days" / name / f"{k}.oir"
        path.parent.mkdir(parents=True, exist_ok=True)
        names = ("DIC", "BF", "AF")
        write_oir(path, pixels, channel_names=names, acquired_at=moment, pixel_size_um=0.3)
    sight = new_study.look_at(tmp_path / "days")
    assert "no two classes share a day" in " ".join(new_study.limits(sight))
    assert "a pixel is 0.3 µm" in " ".join(new_study.seen(sight))


def test_the_command_ends_in_sentences(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "CONFIGS", tmp_path)
    study = str(tmp_path / "results" / "mine")
    (tmp_path / "flat").mkdir()
    cv2.imwrite(str(tmp_path / "flat" / "a.png"), noise(0))
    assert command.main([study, "--raw", str(tmp_path / "flat")]) == 2
    assert "hsc_utils.new_images RUN FOLDER" in capsys.readouterr().err
    assert command.main([study, "--raw", str(tmp_path / "moved")]) == 2
    assert "does not exist" in capsys.readouterr().err
    tree(tmp_path / "raw", {"A": 4, "B": 4})
    (tmp_path / "raw" / "A" / "notes.txt").write_text("notes")
    assert command.main([study, "--raw", str(tmp_path / "raw")]) == 0
    said = capsys.readouterr().out
    assert "1 files would be refused, the first: notes.txt" in said
    assert "What these data cannot tell" in said
    before = (tmp_path / "mine.yaml").read_text()
    assert command.main([study, "--raw", str(tmp_path / "raw")]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == before


@real
def test_real_leukocytes(tmp_path, monkeypatch):
    folder = Path(REAL) / "cells" / "white_blood_cells"
    sight, sections, text = described(folder, tmp_path)
    assert sight.ready_cells
    assert faults(tmp_path / "mine.yaml", monkeypatch) == []
    assert sections["02_blob_tuning"]["ready_cells"]["small_classes"] == "train"
    assert sections["04_cell_level_training"]["folds"] == 5
    assert "whether basophil is recognised: with 1" in text


@real
def test_real_brightfield_slices(tmp_path, monkeypatch):
    """Gray slices of a real microscope; files hold two or three."""
    for name in "AB":
        for k, slices in enumerate((2, 3, 3)):
            path = tmp_path / "raw" / name / f"{k}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(Path(REAL) / "slices" / f"brightfield_{slices}slice.tif")
    sight, sections, _ = described(tmp_path / "raw", tmp_path)
    assert not sight.ready_cells
    assert sight.refused == {}
    assert sorted(set(sight.read["slices"])) == [2, 3]
    assert "slices" not in sections["01_data_preparation"]
    assert "resnet18-slice0" in sections["workflow"]["cell_models"]
    assert faults(tmp_path / "mine.yaml", monkeypatch) == []


def test_planes_times_channels_ask_which(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "CONFIGS", tmp_path)
    for k, name in enumerate("AAABBB"):
        pixels = np.random.default_rng(k).integers(0, 256, (3, 2, 280, 280)).astype(np.uint8)
        path = tmp_path / "raw" / name / f"{k}.ome.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "ZCYX"})
    arguments = [str(tmp_path / "mine"), "--raw", str(tmp_path / "raw")]
    for more in ([], ["--slices", "0", "1", "2", "3"]):
        assert command.main([*arguments, *more]) == 2
        assert "such as --slices Z=1" in capsys.readouterr().err
    assert command.main([*arguments, "--slices", "Z=1"]) == 0
    sections = run.read_sections(tmp_path / "mine.yaml")
    assert sections["01_data_preparation"]["slices"] == ["Z=1"]
    assert faults(tmp_path / "mine.yaml", monkeypatch) == []


def test_folders_that_may_be_days_are_asked_for(tmp_path):
    for name in "AB":
        tree(tmp_path / "raw" / name, {"monday": 3, "friday": 3})
    sight = new_study.look_at(tmp_path / "raw")
    assert sight.folders == {"folder2": ["friday", "monday"]}
    said = " ".join(new_study.seen(sight))
    assert "2 folders on one level (friday, monday): days, slides or animals?" in said
    assert "add to 01_data_preparation below: group: folder2" in said
    assert "unless folders name them" in " ".join(new_study.limits(sight))
    for subset in ("train", "test"):  # neither subsets nor classes are days
        tree(tmp_path / "given" / subset, {"A": 3, "B": 3})
    assert new_study.look_at(tmp_path / "given").folders == {}


def test_an_interruption_is_a_sentence(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(new_study, "look_at", interrupt)
    assert command.main([str(tmp_path / "mine"), "--raw", str(tmp_path)]) == run.INTERRUPTED
    assert "Interrupted" in capsys.readouterr().err


def test_what_cannot_work_is_refused_or_said(tmp_path):
    with pytest.raises(ValueError, match=r"two classes or more with 3 files each.*A \(5\)"):
        new_study.look_at(tree(tmp_path / "one", {"A": 5}))
    with pytest.raises(ValueError, match="two classes or more"):
        new_study.look_at(tree(tmp_path / "tiny", {"A": 5, "B": 2}))
    few = tree(tmp_path / "few", {"A": 3, "B": 4})
    assert described(few, tmp_path)[1]["04_cell_level_training"]["folds"] == 4
    for k in range(4):
        (few / "B" / f"{k:03d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([k]))
    said = " ".join(new_study.seen(new_study.look_at(few)))
    assert "every file read of class B cannot be used" in said


def test_gray_beside_colour_and_dark_beside_8_bits_are_said(tmp_path):
    folder = tree(tmp_path / "raw", {"A": 4})
    for k in range(4):
        path = folder / "B" / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), noise(k)[..., 0])
    said = " ".join(new_study.seen(new_study.look_at(folder)))
    assert "CAUTION: of the files read 4 cannot be used" in said
    assert "It holds 1 slice" in said
    for k in range(4):
        dark = np.random.default_rng(k).integers(0, 200, (280, 280, 3)).astype(np.uint16)
        cv2.imwrite(str(folder / "B" / f"{k}.png"), dark)
    settings = new_study.look_at(folder).settings
    assert (settings.to_8_bit, settings.bit_depth) == ("own_depth", 12)


def test_names_with_breaks_and_spaces(tmp_path):
    folder = tree(tmp_path / "raw", {"A\nworkflow: {x: 1}": 4, "B": 4})
    sight = new_study.look_at(folder)
    path = new_study.write_config(sight, tmp_path / "my study", "mine", tmp_path)
    sections = run.read_sections(path)
    assert "A\nworkflow: {x: 1}" in sections["01_data_preparation"]["class_names"]
    assert f"make run CONFIG='{tmp_path}/my study.yaml'" in path.read_text()
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert max(len(line) for line in comments if "/" not in line) <= 100


def test_classes_below_days_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "CONFIGS", tmp_path)
    for day in ("2024-05-01", "2024-05-02"):
        tree(tmp_path / "raw" / day, {"A": 3, "B": 3})
    arguments = [str(tmp_path / "mine"), "--raw", str(tmp_path / "raw")]
    assert command.main(arguments) == 2
    assert "--classes A B" in capsys.readouterr().err
    assert command.main([*arguments, "--classes", "A", "B"]) == 0
