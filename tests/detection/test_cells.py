"""Patches and their table: from images, and from ready images of single cells."""

import json
import subprocess
import sys
import time
from unittest.mock import Mock

import cv2
import numpy as np
import pandas as pd
import papermill
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_blobs import simulated_field

from hsc_utils import manifest, provenance
from hsc_utils.detection import cells, import_patches, read_patches, read_truth, tuning
from hsc_utils.detection.blobs import DetectionSettings, detect_cells
from hsc_utils.files import ROOT, read_rgb, write_rgb
from hsc_utils.study import DamagedFileError

CLASSES = ("A", "B")


@pytest.fixture
def study(tmp_path):
    """A study of six small fields of two classes, as notebook 01 would leave it."""
    prepared = tmp_path / "study/prepared"
    rows = []
    for number in range(6):
        image_id, name = f"field{number}", CLASSES[number % 2]
        image, _ = simulated_field(256, 5 + number % 2, seed=number)
        (prepared / "images").mkdir(parents=True, exist_ok=True)
        write_rgb(prepared / f"images/{image_id}.png", image)
        row = dict.fromkeys(manifest.IMAGE_COLUMNS, "")
        row |= {
            "image_id": image_id,
            "path": f"images/{image_id}.png",
            "class": name,
            "split": manifest.SUBSETS[number // 2],
            "height": 256,
            "width": 256,
            "slices": 3,
            "group": f"day{number // 3}",
            "source": f"{name}/{image_id}.oir",
            "bit_depth": 8,
            "simulated": True,
        }
        rows.append(row)
    pd.DataFrame(rows).to_csv(prepared / "images.csv", index=False)
    return prepared.parent


def test_patches_are_the_pixels_around_the_cells(study):
    table = cells.extract_cells(study / "prepared", study / "cells", DetectionSettings(), side=40)
    stored = np.load(study / "cells/patches.npy", mmap_mode="r")
    assert stored.shape == (len(table), 40, 40, 3)
    assert stored.dtype == np.uint8
    assert list(table.columns) == list(manifest.CELL_COLUMNS)
    assert table["cell_id"].str.fullmatch(r"field\d__\d{4}").all()
    for cell in table.sample(8, random_state=0).itertuples():
        image = read_rgb(study / f"prepared/images/{cell.image_id}.png")
        y, x = round(cell.y) - 20, round(cell.x) - 20
        np.testing.assert_array_equal(stored[cell.row], image[y : y + 40, x : x + 40])
    again = manifest.read_cells(study / "cells")
    pd.testing.assert_frame_equal(again, table, check_dtype=False)


def test_a_cell_is_in_the_subset_of_its_image(study):
    table = cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
    images = manifest.read_images(study / "prepared").set_index("image_id")
    for column in ("class", "split", "group"):
        assert (table[column] == images[column].loc[table["image_id"]].to_numpy()).all()
    table.loc[0, "split"] = "test" if table.loc[0, "split"] == "train" else "train"
    table.to_csv(study / "cells/cells.csv", index=False)
    with pytest.raises(ValueError, match="split"):
        manifest.read_cells(study / "cells")


def test_finished_work_is_not_redone(study, monkeypatch):
    first = cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
    monkeypatch.setattr(cells, "detect_cells", lambda *_: pytest.fail("detected again"))
    again = cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
    pd.testing.assert_frame_equal(again, first, check_dtype=False)
    with pytest.raises(pytest.fail.Exception, match="detected again"):
        cells.extract_cells(study / "prepared", study / "cells", DetectionSettings(threshold=0.3))


def test_changed_code_cuts_again(study, monkeypatch):
    cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
    read = []

    def changed(*modules):
        read.extend(modules)
        return "another digest"

    monkeypatch.setattr(provenance, "code_digest", changed)
    monkeypatch.setattr(cells, "detect_cells", lambda *_: pytest.fail("detected again"))
    with pytest.raises(pytest.fail.Exception, match="detected again"):
        cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
    assert {"detection.contrast", "detection.blobs", "detection.fast_log"} <= set(read)


def test_the_settings_lie_beside_the_cells(study):
    path = study / "cells/detection.json"
    DetectionSettings().write(path, "tuning")
    before = path.read_text()
    cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
    assert path.read_text() == before
    other = DetectionSettings(threshold=0.3)
    cells.extract_cells(study / "prepared", study / "cells", other)
    assert DetectionSettings.read(path) == other


def test_an_interrupted_run_goes_on(study, monkeypatch):
    calls = []

    def failing(image, chosen):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return detect_cells(image, chosen)

    monkeypatch.setattr(cells, "detect_cells", failing)
    with pytest.raises(KeyboardInterrupt):
        cells.extract_cells(study / "prepared", study / "cells", DetectionSettings(), workers=1)
    assert not (study / "cells/cells.csv").exists()
    calls.clear()
    calls.extend([1] * 10)
    table = cells.extract_cells(study / "prepared", study / "cells", DetectionSettings(), workers=1)
    assert len(calls) - 10 < 6
    monkeypatch.undo()
    fresh = cells.extract_cells(study / "prepared", study / "fresh", DetectionSettings())
    pd.testing.assert_frame_equal(table, fresh, check_dtype=False)
    np.testing.assert_array_equal(
        np.load(study / "cells/patches.npy"), np.load(study / "fresh/patches.npy")
    )
    assert not list((study / "cells").glob(".pieces*"))


SLOW_RUN = """
import sys, time
from hsc_utils.detection import cells
from hsc_utils.detection.blobs import DetectionSettings, detect_cells

def slowly(image, settings):
    time.sleep(0.4)
    return detect_cells(image, settings)

cells.detect_cells = slowly
cells.extract_cells(sys.argv[1], sys.argv[2], DetectionSettings(), workers=1)
"""


def test_a_killed_run_goes_on(study, monkeypatch):
    target = study / "cells"
    run = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(study / "prepared"), str(target)])
    deadline = time.monotonic() + 60
    while len(list(target.glob(".pieces-*/*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    run.kill()
    run.wait()
    done = len(list(target.glob(".pieces-*/*.npz")))
    assert 2 <= done < 6
    assert not (target / "cells.csv").exists()
    calls = []
    monkeypatch.setattr(cells, "detect_cells", lambda *a: calls.append(1) or detect_cells(*a))
    table = cells.extract_cells(study / "prepared", target, DetectionSettings())
    assert len(calls) == 6 - done
    fresh = cells.extract_cells(study / "prepared", study / "fresh", DetectionSettings())
    pd.testing.assert_frame_equal(table, fresh, check_dtype=False)
    np.testing.assert_array_equal(
        np.load(target / "patches.npy"), np.load(study / "fresh/patches.npy")
    )


def test_files_that_do_not_fit_together_are_no_result(study, monkeypatch):
    """Killed between the files of other settings, the first settings' files are made again."""
    first = cells.extract_cells(study / "prepared", study / "cells", DetectionSettings(), side=40)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cells, "close_cells", Mock(side_effect=KeyboardInterrupt))
        cells.extract_cells(
            study / "prepared", study / "cells", DetectionSettings(threshold=0.3), side=32
        )
    again = cells.extract_cells(study / "prepared", study / "cells", DetectionSettings(), side=40)
    pd.testing.assert_frame_equal(again, first, check_dtype=False)
    assert np.load(study / "cells/patches.npy").shape == (len(first), 40, 40, 3)


def test_images_without_cells(study):
    """Blank, saturated, tiny and gray images among the others give no cells, and no error."""
    for number, image in enumerate(
        [np.zeros((256, 256, 3)), np.full((256, 256, 3), 255), np.zeros((9, 9, 3))]
    ):
        write_rgb(study / f"prepared/images/field{number}.png", image.astype(np.uint8))
    gray = cv2.imread(str(study / "prepared/images/field3.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(study / "prepared/images/field3.png"), gray)
    table = cells.extract_cells(study / "prepared", study / "cells", DetectionSettings(), side=40)
    assert set(table["image_id"]) == {"field3", "field4", "field5"}
    assert np.load(study / "cells/patches.npy").shape == (len(table), 40, 40, 3)


# --- what is missing is said -------------------------------------------------------------


def blank(study, *numbers):
    for number in numbers:
        write_rgb(
            study / f"prepared/images/field{number}.png", np.full((256, 256, 3), 90, np.uint8)
        )


def test_a_class_without_cells_is_an_error_that_names_it(study):
    blank(study, 1, 3, 5)
    with pytest.raises(ValueError, match=r"any of the 3 images of class B in .*class_names"):
        cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
    assert not (study / "cells/cells.csv").exists()


def test_a_class_whose_cells_all_lie_at_the_border_is_an_error_too(study, monkeypatch):
    images = manifest.read_images(study / "prepared").set_index("image_id")
    of_a = [read_rgb(study / "prepared" / path) for path in images["path"][images["class"] == "A"]]

    def found(rgb, _settings):
        inside = any(np.array_equal(rgb, other) for other in of_a)
        return np.array([[128.0, 128, 9] if not inside else [4.0, 128, 9]])

    monkeypatch.setattr(cells, "detect_cells", found)
    where = study / "prepared", study / "cells", DetectionSettings(), 40
    with pytest.raises(ValueError, match=r"class A in .*border='reflect'"):
        cells.extract_cells(*where)
    assert set(cells.extract_cells(*where, border="reflect")["class"]) == {"A", "B"}


def test_images_and_subsets_without_cells_are_named_each_time(study, capsys):
    blank(study, 0, 3)
    for _ in range(2):
        cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
        said = capsys.readouterr().out
        assert "No cell was found in 2 of 6 images: field0, field3." in said
        assert "Class A has no cell in the train subset." in said
        assert "Class B has no cell in the validation subset." in said
    record = json.loads((study / "cells/provenance.json").read_text())
    assert record["images_without_cells"] == ["field0", "field3"]
    assert len(record["fallbacks"]) == 3


def test_nothing_is_said_where_nothing_is_missing(study, capsys):
    cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
    assert capsys.readouterr().out == ""


# --- the project's own files, damaged ----------------------------------------------------


@pytest.mark.parametrize("keep", [0, 0.5, 0.9], ids=["empty", "half", "cut at its end"])
@pytest.mark.parametrize("name", ["provenance.json", "cells.csv", "patches.npy"])
def test_damaged_results_are_named_set_aside_and_made_again(study, capsys, name, keep):
    where = study / "prepared", study / "cells", DetectionSettings()
    first = cells.extract_cells(*where)
    patches = np.load(study / "cells/patches.npy")
    path = study / "cells" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    again = cells.extract_cells(*where)
    said = capsys.readouterr().out
    assert name in said
    assert f"set aside as {name}.damaged" in said
    assert path.with_name(f"{name}.damaged").exists()
    pd.testing.assert_frame_equal(again, first, check_dtype=False)
    np.testing.assert_array_equal(np.load(study / "cells/patches.npy"), patches)


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_damaged_piece_of_an_interrupted_run_is_made_again(study, monkeypatch, capsys, keep):
    where = study / "prepared", study / "cells", DetectionSettings()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cells, "close_cells", Mock(side_effect=KeyboardInterrupt))
        cells.extract_cells(*where)
    piece = next((study / "cells").glob(".pieces-*/field3.npz"))
    content = piece.read_bytes()
    piece.write_bytes(content[: int(keep * len(content))])
    table = cells.extract_cells(*where)
    assert "field3.npz is damaged and made again" in capsys.readouterr().out
    fresh = cells.extract_cells(study / "prepared", study / "fresh", DetectionSettings())
    pd.testing.assert_frame_equal(table, fresh)


def test_a_table_somebody_shortened_is_used_and_said(study, capsys):
    where = study / "prepared", study / "cells", DetectionSettings()
    first = cells.extract_cells(*where)
    first[~first["touches"]].drop(index=0).to_csv(study / "cells/cells.csv", index=False)
    again = cells.extract_cells(*where)
    assert len(again) < len(first)
    assert f"has {len(again)} rows, but {len(first)} cells were cut out" in capsys.readouterr().out


@pytest.mark.parametrize(
    "array", [np.zeros((3, 8, 8, 3), np.uint8), np.zeros((99, 8, 8, 3)), np.zeros(99, np.uint8)]
)
def test_patches_that_do_not_fit_the_table(study, array):
    table = cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
    assert len(read_patches(study / "cells", table)) == len(table)
    np.save(study / "cells/patches.npy", array)
    with pytest.raises(DamagedFileError, match=r"patches\.npy holds .* was expected"):
        read_patches(study / "cells", table)
    (study / "cells/patches.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"patches\.npy is missing"):
        read_patches(study / "cells", table)


def test_images_that_cannot_be_read(study):
    (study / "prepared/images/field1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"field1\.png cannot be read"):
        cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())
    (study / "prepared/images/field1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing images, first images/field1\.png"):
        cells.extract_cells(study / "prepared", study / "cells", DetectionSettings())


def test_no_cell_anywhere(study):
    with pytest.raises(ValueError, match="No cell was found"):
        cells.extract_cells(study / "prepared", study / "cells", DetectionSettings(threshold=50))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"side": 2}, "side"),
        ({"border": "x"}, "border"),
        ({"side": 0}, "side is 0 px, but a patch needs at least 8"),
        ({"side": -64}, "side is -64 px"),
        ({"side": "64"}, "side is '64', but a whole number"),
        ({"side": 257}, "side is 257 px, but no image of .* is larger than 256 px"),
        ({"border": None}, "border is None, but must be one of drop, reflect"),
        ({"settings": {"threshold": 0.2}}, "settings must be DetectionSettings"),
    ],
)
def test_impossible_options(study, option, message):
    given = {"settings": DetectionSettings()} | option
    with pytest.raises(ValueError, match=message):
        cells.extract_cells(study / "prepared", study / "cells", **given)
    with pytest.raises(FileNotFoundError, match=r"images\.csv is missing"):
        cells.extract_cells(study / "absent", study / "cells", DetectionSettings())


def test_cells_at_the_border():
    image = np.arange(100 * 100 * 3, dtype=np.uint32).reshape(100, 100, 3).astype(np.uint8)
    found = [[50, 50, 9], [5, 50, 9], [50, 97, 9]]
    kept, dropped = cells.cut_patches(image, found, 32, "drop")
    assert kept[:, :2].tolist() == [[50, 50]]
    assert dropped.shape == (1, 32, 32, 3)
    kept, mirrored = cells.cut_patches(image, found, 32, "reflect")
    assert len(kept) == len(mirrored) == 3
    np.testing.assert_array_equal(mirrored[1][:11], image[:11, 34:66][::-1])
    np.testing.assert_array_equal(mirrored[1][11:], image[:21, 34:66])


def test_patches_that_hold_another_cell():
    image = np.zeros((200, 200, 3), np.uint8)
    found = [[100, 100, 9], [100, 120, 9], [50, 50, 9], [100, 4, 9], [120, 30, 9]]
    kept, _ = cells.cut_patches(image, found, 60)
    assert kept[:, 3].tolist() == [1, 1, 0, 1]


@given(st.lists(st.tuples(st.floats(0, 119), st.floats(0, 89)), max_size=8), st.integers(8, 60))
@settings(max_examples=40, deadline=None)
def test_any_centre_gives_a_whole_patch(centres, side):
    image = np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8)
    found = np.array([(y, x, 5.0) for y, x in centres]).reshape(-1, 3)
    kept, cut = cells.cut_patches(image, found, side, "reflect")
    assert len(kept) == len(cut) == len(centres)
    for (y, x, *_), patch in zip(kept, cut, strict=True):
        assert (patch[side // 2, side // 2] == image[round(y), round(x)]).all()


def test_the_side_fits_the_cells():
    sigmas = np.full(200, 10.0)
    assert cells.suggest_side(sigmas) % 8 == 0
    assert cells.suggest_side(sigmas) > 2 * np.sqrt(2) * 10
    for none in ([], [np.nan, 9], ["a"], [-1], None):
        with pytest.raises(ValueError, match="sigmas are"):
            cells.suggest_side(none)


def test_png_tree(study):
    table = cells.extract_cells(study / "prepared", study / "cells", DetectionSettings(), side=32)
    tree = cells.export_png(study / "cells")
    files = sorted(tree.rglob("*.png"))
    assert len(files) == len(table)
    cell = table.iloc[3]
    path = tree / cell["split"] / cell["class"] / f"{cell['cell_id']}.png"
    stored = np.load(study / "cells/patches.npy")[cell["row"]]
    np.testing.assert_array_equal(read_rgb(path), stored)
    # what was exported comes in again as it was
    again = import_patches(study / "cells/png", study / "other/again", side=32)
    assert sorted(again["split"]) == sorted(table["split"])
    assert again["simulated"].all()
    assert again["image_id"].nunique() == table["image_id"].nunique()
    assert len(np.load(study / "other/again/patches.npy")) == len(table)


NAMES_ALIKE = ("CD34+", "CD34-", "CD34+/CD38-", "CD34+%2FCD38-", "NO", "a 'b'", "{x}")


def test_names_that_look_alike_stay_apart(tmp_path):
    """Classes and images whose names differ in signs alone, through a tree of PNGs and back."""
    rows = [
        {"cell_id": f"{k}__{n}", "image_id": str(k), "class": name, "split": "train", "group": ""}
        | {"y": 1, "x": 1, "sigma": 1, "row": 2 * k + n, "touches": False, "simulated": False}
        for k, name in enumerate(NAMES_ALIKE)
        for n in range(2)
    ]
    (tmp_path / "study/cells").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(tmp_path / "study/cells/cells.csv", index=False)
    pixels = np.random.default_rng(0).integers(0, 256, (len(rows), 16, 16, 3), np.uint8)
    np.save(tmp_path / "study/cells/patches.npy", pixels)
    tree = cells.export_png(tmp_path / "study/cells")
    assert len([*(tree / "train").iterdir()]) == len(NAMES_ALIKE)
    again = import_patches(tree, tmp_path / "other/cells", side=16)
    assert again.groupby("class").size().tolist() == [2] * len(NAMES_ALIKE)
    assert again["image_id"].nunique() == len(NAMES_ALIKE)
    assert again["cell_id"].str.casefold().nunique() == len(rows)


def test_an_export_holds_no_cells_of_an_earlier_one(study):
    where = study / "prepared", study / "cells"
    cells.extract_cells(*where, DetectionSettings(), side=32)
    own = cells.export_png(study / "cells") / "train/A/my notes.png"
    write_rgb(own, np.zeros((9, 9, 3), np.uint8))
    table = cells.extract_cells(*where, DetectionSettings(), side=96)
    tree = cells.export_png(study / "cells")
    assert {path.stem for path in tree.rglob("*.png")} == {*table["cell_id"], "my notes"}


# --- truth and tuning --------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"source": ["A/field0.oir"], "y": [10.0], "x": [20.0]}),
        pd.DataFrame({"Label": ["field0.oir"], "X": [20.0], "Y": [10.0]}),
        pd.DataFrame({"Image": ["field0.png"], "Centroid X px": [20.0], "Centroid Y px": [10.0]}),
        pd.DataFrame({"image_id": ["field0"], "axis-0": [10.0], "axis-1": [20.0]}),
    ],
    ids=["simulator", "Fiji", "QuPath", "napari"],
)
def test_truth_of_other_programs(study, table):
    table.to_csv(study / "points.csv", index=False)
    points = read_truth(study / "points.csv", manifest.read_images(study / "prepared"))
    assert points.to_dict("records") == [{"image_id": "field0", "y": 10.0, "x": 20.0}]


def test_truth_by_image(study):
    (study / "points").mkdir()
    napari = pd.DataFrame({"index": [0, 1], "axis-0": [10.0, 999.0], "axis-1": [20.0, 5.0]})
    napari.to_csv(study / "points/field3.csv", index=False)
    points = read_truth(study / "points", manifest.read_images(study / "prepared"))
    assert points.to_dict("records") == [{"image_id": "field3", "y": 10.0, "x": 20.0}]


def test_truth_that_cannot_be_used(study):
    images = manifest.read_images(study / "prepared")
    pd.DataFrame({"Image": ["field0"], "Centroid X µm": [1.0]}).to_csv(
        study / "points.csv", index=False
    )
    with pytest.raises(ValueError, match="no column for y"):
        read_truth(study / "points.csv", images)
    pd.DataFrame({"image": ["other"], "x": [1.0], "y": [1]}).to_csv(
        study / "points.csv", index=False
    )
    with pytest.raises(ValueError, match="none of the images"):
        read_truth(study / "points.csv", images)
    with pytest.raises(FileNotFoundError, match="missing"):
        read_truth(study / "absent.csv", images)


WRONG_TRUTH = {
    "a picture": (b"\x89PNG\r\n\x1a\n\xff\xfe", "no column for the image"),
    "empty": (b"", "cannot be read as a table"),
    "no rows": (b"image,y,x\n", "has no rows"),
    "words": (b"image,y,x\nfield0,here,there\n", "something else than numbers in y or x"),
}


@pytest.mark.parametrize(("content", "message"), WRONG_TRUTH.values(), ids=WRONG_TRUTH)
def test_truth_that_is_something_else(study, content, message):
    (study / "points.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"points\.csv.*{message}"):
        read_truth(study / "points.csv", manifest.read_images(study / "prepared"))


def test_truth_keeps_names_as_written_and_refuses_unclear_ones(study):
    images = manifest.read_images(study / "prepared").head(3)
    images = images.assign(image_id=["007", "A__f1", "B__f1"], source=["007.tif", "A/f1", "B/f1"])
    points = study / "points.csv"
    points.write_bytes("image,y,x,Fläche µm²\n007,1,2,3\n".encode("latin-1"))
    assert read_truth(points, images)["image_id"].tolist() == ["007"]
    points.write_text("image,y,x\n007,1,2\nf1,1,2\n")
    with pytest.raises(ValueError, match="names 'f1', as several images are called"):
        read_truth(points, images)


def test_scores_say_which_images_have_no_truth(study, capsys):
    images = manifest.read_images(study / "prepared")
    trials = tuning.run_trials(images.head(2), study / "prepared", [DetectionSettings()])
    truth = pd.DataFrame({"image_id": ["field1"], "y": [9.0], "x": [9.0]})
    tuning.score_trials(trials, truth, 6)
    assert "1 of the 2 images tried have no true centre" in capsys.readouterr().out
    with pytest.raises(ValueError, match="None of the 2 images tried has a true centre"):
        tuning.score_trials(trials, truth.head(0), 6)


@pytest.mark.parametrize(
    ("thresholds", "smallest", "message"),
    [
        ({}, [8.0], "for no method"),
        ([0.2], [8.0], "thresholds by method"),
        ({"log": 0.2}, [8.0], "log: a list of numbers"),
        ({"log": "0.2"}, [8.0], "log: a list of numbers"),
        ({"log": []}, [8.0], "log: a list of numbers"),
        ({"log": [0.2]}, 8.0, "smallest sizes: a list"),
        ({"log": ["low"]}, [8.0], "threshold is 'low'"),
        ({"dog": [0.2]}, [8.0], "method is 'log', but thresholds are given for dog"),
        ({"log": [0.2], "blob": [0.2]}, [8.0], "method is 'blob'"),
    ],
)
def test_grids_that_are_none(thresholds, smallest, message):
    with pytest.raises(ValueError, match=message):
        tuning.make_grid(thresholds, smallest, [13.0], DetectionSettings())


def test_nothing_to_try(study):
    images = manifest.read_images(study / "prepared")
    with pytest.raises(ValueError, match="nothing to try: 0 images"):
        tuning.run_trials(images.head(0), study / "prepared", [DetectionSettings()])


def test_notebook_02_keeps_settings_set_by_hand_and_takes_a_file(study, tmp_path):
    chosen = study / "cells/detection.json"
    DetectionSettings(threshold=0.33).write(chosen, "hand")
    notebook = str(ROOT / "notebooks/02_blob_tuning.ipynb")
    given = {"study": str(study), "tuning_images": 2, "thresholds": {"log": [0.2, 0.4]}}
    run = {"progress_bar": False, "cwd": tmp_path}
    papermill.execute_notebook(notebook, str(tmp_path / "02.ipynb"), given, **run)
    assert DetectionSettings.read(chosen).threshold == 0.33
    DetectionSettings(threshold=0.5).write(tmp_path / "mine.json", "hand")
    given["detection_file"] = str(tmp_path / "mine.json")
    papermill.execute_notebook(notebook, str(tmp_path / "02.ipynb"), given, **run)
    assert DetectionSettings.read(chosen).threshold == 0.5
    record = json.loads((study / "cells/provenance.json").read_text())
    assert record["parameters"]["detection"]["threshold"] == 0.5


def test_tuning_ranks_by_truth_and_without(study):
    images = manifest.read_images(study / "prepared")
    grid = tuning.make_grid(
        {"log": [0.2, 1.2], "dog": [0.2, 1.2]}, [8.0], [13.0, 16.0], DetectionSettings()
    )
    assert len(grid) == 8
    trials = tuning.run_trials(images, study / "prepared", grid)
    truth = pd.concat(
        pd.DataFrame(simulated_field(256, 5 + n % 2, seed=n)[1][:, :2], columns=["y", "x"]).assign(
            image_id=f"field{n}"
        )
        for n in range(6)
    )
    scores = tuning.score_trials(trials, truth, 6)
    best = tuning.best_of_each(scores)
    assert list(best) == ["log", "dog"]
    assert grid[best["log"]].threshold == 0.2
    assert scores.loc[best["log"], "f1"] == 1
    assert tuning.agreement_between(trials, best, 6).loc["log", "dog"] == 1
    blind = tuning.score_trials(trials, None, 6)
    assert grid[tuning.best_of_each(blind)["log"]].threshold == 0.2
    with pytest.raises(ValueError, match="as many thresholds"):
        tuning.make_grid({"log": [0.1], "dog": [0.1, 0.2]}, [8.0], [13.0], DetectionSettings())


def found_by(
    hits: dict[str, list[int]], true: int
) -> tuple[tuning.Trials, pd.DataFrame, pd.DataFrame]:
    """Trials in which each method finds so many of the `true` cells of each image."""
    settings = [DetectionSettings(method=method) for method in hits]
    centres = np.stack([np.arange(true) * 20.0, np.zeros(true)], axis=1)
    names = [f"i{k}" for k in range(len(next(iter(hits.values()))))]
    found = {
        (number, name): np.column_stack([centres[:count], np.full(count, 8.0)])
        for number, counts in enumerate(hits.values())
        for name, count in zip(names, counts, strict=True)
    }
    truth = pd.concat(pd.DataFrame(centres, columns=["y", "x"]).assign(image_id=n) for n in names)
    trials = tuning.Trials(settings, found, pd.DataFrame({"image_id": names}))
    return trials, pd.DataFrame({"method": list(hits)}), truth


def ranked(trials: tuning.Trials, scores: pd.DataFrame, truth: pd.DataFrame | None) -> list[str]:
    return tuning.rank_methods(tuning.method_differences(trials, scores, truth, 6))


def test_a_method_that_adds_false_alarms_loses_precision_and_keeps_its_cells():
    hits = [9, 10, 8, 9, 10, 7, 9, 10]
    trials, scores, truth = found_by({"log": hits, "dog": hits}, 10)
    for name in {name for _, name in trials.found}:
        far = np.array([[500.0, 500.0, 8.0], [900.0, 500.0, 8.0]])
        trials.found[1, name] = np.vstack([trials.found[1, name], far])
    table = tuning.method_differences(trials, scores, truth, 6).set_index("score")
    assert table[["method", "against"]].to_numpy().tolist() == [["log", "dog"]] * 2
    assert table.loc["precision", "value"] == 1
    assert table.loc["precision", "value_against"] == pytest.approx(72 / 88)
    assert table.loc["precision", "low"] > 0 and table.loc["f1", "low"] > 0


def trial_scores(**columns: list) -> pd.DataFrame:
    table = {"method": "log", "min_sigma": 8.0, "max_sigma": 13.0, "agreement": 1.0, "cells": 9.0}
    return pd.DataFrame(table | {"at_ends": 0.1, "rank_by": 0.9} | columns)


def test_findings_say_where_the_grid_decided():
    inside = trial_scores(threshold=[0.2, 0.1, 0.4], cells=[9.0, 12.0, 5.0])
    assert tuning.grid_findings(inside) == ["LoG: its best settings lie inside the grid."]
    edge, alike = tuning.grid_findings(trial_scores(threshold=[0.4, 0.2, 0.1], cells=[5, 9, 9]))
    assert "at the edge of the grid (threshold 0.4), so better" in edge
    assert "thresholds 0.1 and 0.2 find the same cells" in alike
    sizes = trial_scores(threshold=0.2, max_sigma=[13.0, 11.0, 16.0], at_ends=[0.55, 0.9, 0.1])
    assert tuning.grid_findings(sizes.assign(rank_by=[0.97, 0.9, 0.8]))[1] == (
        "LoG: 55% of the cells have the smallest or largest size tried, so its sizes say little of "
        "how large cells are; ranges that hold more of them rank lower (0.800 at best)."
    )


def test_of_equal_settings_the_one_inside_the_grid_is_best():
    grid = tuning.make_grid({"log": [0.1, 0.2, 0.3]}, [8.0], [13.0], DetectionSettings())
    found = {(number, "i0"): np.array([[9.0, 9.0, 8.0]]) for number in range(3)}
    rows = [(n, "log", 8.0, 13.0, s.threshold, "i0", 1, 0.1, 0.0) for n, s in enumerate(grid)]
    names = ["setting", *tuning.GRID, "image_id", "cells", "seconds", "at_ends"]
    trials = tuning.Trials(grid, found, pd.DataFrame(rows, columns=names))
    truth = pd.DataFrame({"image_id": ["i0"], "y": [9.0], "x": [9.0]})
    assert tuning.best_of_each(tuning.score_trials(trials, truth, 6)) == {"log": 1}


def test_a_better_setting_at_the_edge_is_best_if_it_is_more_than_a_cell_better():
    hits = {0.1: 10, 0.2: 9, 0.3: 5}
    grid = tuning.make_grid({"log": [*hits]}, [8.0], [13.0], DetectionSettings())
    centres = np.stack([np.arange(10) * 20.0, np.zeros(10), np.full(10, 8.0)], axis=1)
    found = {(n, "i0"): centres[:count] for n, count in enumerate(hits.values())}
    rows = [(n, "log", 8.0, 13.0, s.threshold, "i0", 1, 0.1, 0.0) for n, s in enumerate(grid)]
    names = ["setting", *tuning.GRID, "image_id", "cells", "seconds", "at_ends"]
    trials = tuning.Trials(grid, found, pd.DataFrame(rows, columns=names))
    truth = pd.DataFrame(centres[:, :2], columns=["y", "x"]).assign(image_id="i0")
    assert tuning.score_trials(trials, truth, 6).index.tolist() == [0, 1, 2]


def test_a_circle_around_two_cells_is_counted_as_merged():
    """Its centre lies between them, so that both count as missed and only the circle tells."""
    (setting,) = tuning.make_grid({"log": [0.2]}, [8.0], [20.0], DetectionSettings())
    found = {(0, "i0"): np.array([[50.0, 50.0, 15.0], [90.0, 90.0, 8.0]])}
    row = [(0, "log", 8.0, 20.0, 0.2, "i0", 2, 0.1, 0.0)]
    names = ["setting", *tuning.GRID, "image_id", "cells", "seconds", "at_ends"]
    trials = tuning.Trials([setting], found, pd.DataFrame(row, columns=names))
    truth = pd.DataFrame({"image_id": "i0", "y": [36.0, 64.0, 90.0], "x": [50.0, 50.0, 90.0]})
    scores = tuning.score_trials(trials, truth, 6)
    assert scores[["merged", "recall"]].iloc[0].tolist() == [1, pytest.approx(1 / 3)]


def test_methods_that_find_as_much_are_not_told_apart():
    same = [9, 10, 8, 9, 10, 7]
    (said,) = ranked(*found_by({"log": same, "dog": same}, 10))
    assert said == "LoG and DoG are not told apart: F1 0.938 and 0.938, difference +0.000."
    # one cell in one image is a coin toss
    hits = {"log": same, "dog": [10, *same[1:]]}
    (said,) = ranked(*found_by(hits, 10))
    assert said.startswith("DoG and LoG are not told apart: F1 0.947 and 0.938, difference +0.009,")


def test_a_method_that_finds_more_in_every_image_is_better():
    hits = {"dog": [5, 6, 4, 5, 6, 4, 5, 6], "log": [9, 10, 8, 9, 10, 7, 9, 10]}
    (said,) = ranked(*found_by(hits, 10))
    assert said.startswith("LoG finds the cells better than DoG: F1 0.9")


def test_methods_are_not_ranked_without_truth_or_on_few_images():
    trials, scores, truth = found_by({"log": [9] * 4, "dog": [2] * 4}, 10)
    (said,) = ranked(trials, scores, truth)
    assert "too few images to say (5 are needed)" in said and "nan" not in said
    (said,) = ranked(trials, scores, None)
    assert said == "Without true centres nobody can say which method finds the cells best."


def test_equally_good_methods_are_rarely_ranked():
    rng, called = np.random.default_rng(0), []
    for _ in range(100):
        hits = {method: rng.binomial(10, 0.85, 8) for method in ("log", "dog")}
        (said,) = ranked(*found_by(hits, 10))
        called.append("better" in said)
    assert np.mean(called) <= 0.07
