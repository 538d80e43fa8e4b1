"""Patches and their table: from images, and from ready images of single cells."""

import subprocess
import sys
import time
from unittest.mock import Mock

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_blobs import simulated_field

from hsc_utils import manifest, provenance
from hsc_utils.detection import cells, import_patches, read_truth, tuning
from hsc_utils.detection.blobs import DetectionSettings, detect_cells
from hsc_utils.files import read_rgb, write_rgb

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
    for column in ("class", "split"):
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
    ("option", "message"), [({"side": 2}, "side"), ({"border": "x"}, "border")]
)
def test_impossible_options(study, option, message):
    with pytest.raises(ValueError, match=message):
        cells.extract_cells(study / "prepared", study / "cells", DetectionSettings(), **option)


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
    assert again["image_id"].nunique() == table["image_id"].nunique()
    assert len(np.load(study / "other/again/patches.npy")) == len(table)


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
