import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from hsc_utils import detection
from hsc_utils.explanation import masks
from hsc_utils.files import ROOT
from hsc_utils.study import Study


def disc(side: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[:side, :side]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_windows_of_whole_label_images(tmp_path):
    labels = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)
    (tmp_path / "MPP" / "day").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "MPP" / "day" / "a.png"), labels)
    images = pd.DataFrame({"image_id": ["MPP__day__a"], "source": ["MPP/day/a.oir"]})
    images["height"], images["width"] = labels.shape
    cells = pd.DataFrame({"image_id": "MPP__day__a", "y": [20.4, 1.0], "x": [30.6, 49.0]})
    found = masks.patch_labels(cells, images, tmp_path, side=8)
    np.testing.assert_array_equal(found[0], labels[16:24, 27:35])
    assert (found[1][:3] == 0).all() and (found[1][:, 5:] == 0).all()
    np.testing.assert_array_equal(found[1][3:, :5], labels[:5, 45:])


def test_one_mask_a_cell(tmp_path):
    mask = np.zeros((100, 100), np.uint8)
    mask[20:60, 40:80] = 128
    cv2.imwrite(str(tmp_path / "017.png"), mask)
    found = masks.single_labels(pd.DataFrame({"image_id": ["neutrophil__017"]}), tmp_path, 50)
    expected = np.zeros((50, 50))
    expected[10:30, 20:40] = 1
    np.testing.assert_array_equal(found[0], expected)


def test_masks_are_squared_as_their_patches_are(tmp_path):
    mask = disc(60, 30, 40, 12).astype(np.uint8)[4:56]
    for name in ("masks/018.png", "patches/train/neutrophil/018.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name), 255 * mask)
    cells = detection.import_patches(tmp_path / "patches", tmp_path / "cells", side=60)
    found = masks.single_labels(cells, tmp_path / "masks", 60)
    patches = np.load(tmp_path / "cells" / "patches.npy")
    np.testing.assert_array_equal(found[0] > 0, patches[0, ..., 0] > 127)


def test_cells_that_came_alone_have_masks_of_their_own(tmp_path):
    cv2.imwrite(str(tmp_path / "017.png"), np.full((40, 40), 255, np.uint8))
    cells = pd.DataFrame({"image_id": ["monocyte__017"], "y": [np.nan], "x": [np.nan]})
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    assert masks.find_labels(cells, pixels, tmp_path / "nowhere", tmp_path).all()


def test_masks_are_those_given_or_the_studys_own_where_it_has_them(tmp_path):
    study = Study(tmp_path)
    placed, given = pd.DataFrame({"y": [3.0]}), tmp_path / "given"
    assert masks.find_masks(study, placed, None) is None
    (tmp_path / "truth" / "masks").mkdir(parents=True)
    assert masks.find_masks(study, placed, None) == tmp_path / "truth" / "masks"
    # cells that came as images of their own were not cut from the study's simulated images
    assert masks.find_masks(study, pd.DataFrame({"y": [np.nan]}), None) is None
    with pytest.raises(FileNotFoundError, match=r"masks_dir: there is no folder .*given"):
        masks.find_masks(study, placed, given)
    given.mkdir()
    assert masks.find_masks(study, placed, given) == given
    assert masks.find_masks(study, placed, "data") == ROOT / "data"


def test_parts_belong_to_the_studys_own_masks(tmp_path):
    study = Study(tmp_path)
    own = study.truth / "masks"
    assert masks.find_parts(study, own) == {}
    (study.truth / "nuclei").mkdir(parents=True)
    assert masks.find_parts(study, own) == {"nucleus": study.truth / "nuclei"}
    (study.truth / "granules").mkdir()
    assert list(masks.find_parts(study, own)) == ["nucleus", "granules"]
    for other in (None, tmp_path / "given"):
        assert masks.find_parts(study, other) == {}


def test_parts_of_other_cells_than_the_masks_are_refused():
    labels, nuclei = np.zeros((1, 8, 8), int), np.zeros((1, 8, 8), int)
    labels[0, 2:6, 2:6], nuclei[0, 3:5, 3:5] = 4, 4
    np.testing.assert_array_equal(masks.parts_of(labels, nuclei, "nucleus"), nuclei == 4)
    for y, label in ((3, 5), (7, 4)):
        wrong = nuclei.copy()
        wrong[0, y, 3] = label
        with pytest.raises(ValueError, match=r"nucleus: 1 of [45] pixels lie where the masks show"):
            masks.parts_of(labels, wrong, "nucleus")


def test_a_missing_mask_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no mask .*018\.png"):
        masks.single_labels(pd.DataFrame({"image_id": ["neutrophil__018"]}), tmp_path, 50)
    cv2.imwrite(str(tmp_path / "018.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="not a gray label image"):
        masks.read_labels(tmp_path / "018.png")


def test_own_cell_is_the_one_at_the_centre():
    labels = np.zeros((2, 30, 30), int)
    labels[0][disc(30, 16, 14, 6)] = 4
    labels[0][disc(30, 2, 2, 8)] = 9
    labels[1][disc(30, 2, 2, 5)] = 9
    own = masks.own_masks(labels)
    np.testing.assert_array_equal(own[0], labels[0] == 4)
    assert not own[1].any()


def test_detections_become_discs_of_the_nearest_cell():
    cells = pd.DataFrame({"y": [20.0, 20.0], "x": [20.0, 30.0], "sigma": [10 / np.sqrt(2)] * 2})
    cells["image_id"] = "a"
    images = pd.DataFrame({"image_id": ["a", "b"], "height": 60, "width": 60})
    labels, none = masks.detected(images, cells, np.zeros((2, 60, 60, 3), np.uint8))
    rows, columns = np.ogrid[:60, :60]
    discs = [(rows - 20) ** 2 + (columns - x) ** 2 <= 100 + 1e-9 for x in (20, 30)]
    np.testing.assert_array_equal(labels > 0, discs[0] | discs[1])
    assert labels[20, 24] == 1 and labels[20, 26] == 2
    assert not none.any()


def test_detections_shrink_with_their_image():
    cells = pd.DataFrame({"image_id": "a", "y": [100.0], "x": [300.0], "sigma": [40.0]})
    images = pd.DataFrame({"image_id": ["a", "b"], "height": 400, "width": 800})
    small, none = masks.detected(images, cells, np.zeros((2, 40, 40, 3), np.uint8))
    assert not none.any()
    rows, columns = np.indices(small.shape)
    inside = (10 * rows + 4.5 - 100) ** 2 + (20 * columns + 9.5 - 300) ** 2 <= 2 * 40**2
    np.testing.assert_array_equal(small > 0, inside)


def test_cells_that_came_ready_have_no_place_so_their_pictures_are_segmented():
    cells = pd.DataFrame({"image_id": ["a"], "y": np.nan, "x": np.nan, "sigma": np.nan})
    images = pd.DataFrame({"image_id": ["a", "b"], "height": 64, "width": 64})
    pictures = np.full((2, 64, 64, 3), 90, np.uint8)
    pictures[0][disc(64, 32, 32, 15)] = 200
    labels, none = masks.detected(images, cells, pictures)
    assert masks.overlap(labels[None] > 0, disc(64, 32, 32, 15)[None])[0] > 0.7
    assert not none.any()


def test_some_cells_without_a_place_do_not_stop_the_others():
    cells = pd.DataFrame({"image_id": ["a", "b"], "y": [32, np.nan], "x": [32, np.nan]})
    images = pd.DataFrame({"image_id": ["a"], "height": 64, "width": 64})
    cells["sigma"] = [8, np.nan]
    assert masks.detected(images, cells, np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 64, 64)


def test_masks_of_classes_that_sanitise_alike_stay_apart(tmp_path):
    for folder, size in (("CD34+", 40), ("CD34-", 20)):
        (tmp_path / folder).mkdir()
        mask = np.zeros((40, 40), np.uint8)
        mask[:size] = 255
        cv2.imwrite(str(tmp_path / folder / "cell 1.png"), mask)
    cells = pd.DataFrame({"image_id": ["CD34-__cell-1-0123abcd", "CD34-__cell-1"]})
    cells["class"] = ["CD34+", "CD34-"]
    found = masks.single_labels(cells, tmp_path, 40)
    assert found.mean(axis=(1, 2)).tolist() == [1, 0.5]
    with pytest.raises(ValueError, match=r"could both be the mask of CD34-__cell-1"):
        masks.single_labels(cells.assign(**{"class": "NO"}), tmp_path, 40)


def test_masks_of_another_size_and_patches_of_another_shape(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30), np.uint8))
    images = pd.DataFrame({"image_id": ["a"], "source": "a.oir", "height": 40, "width": 60})
    cells = pd.DataFrame({"image_id": ["a"], "y": 9.0, "x": 9.0})
    with pytest.raises(ValueError, match=r"\(20, 30\) pixels and its image \(40, 60\)"):
        masks.patch_labels(cells, images, tmp_path, side=8)
    with pytest.raises(ValueError, match=r"shape \(2, 8, 8\), but \(N, H, W, 3\)"):
        masks.segment_patches(np.zeros((2, 8, 8), np.uint8))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.png is not a gray label image: it cannot be read"):
        masks.read_labels(tmp_path / "a.png")


def test_overlap_by_hand():
    first = np.array([[[1, 1, 0]], [[0, 0, 0]]], bool)
    second = np.array([[[0, 1, 1]], [[0, 0, 0]]], bool)
    np.testing.assert_allclose(masks.overlap(first, second), [1 / 3, np.nan])


def test_segmentation_finds_a_textured_disc_beside_its_neighbour():
    rng = np.random.default_rng(0)
    own, other = disc(64, 32, 30, 14), disc(64, 32, 61, 12)
    patch = rng.normal(100, 4, (64, 64, 3))
    patch[own | other] += rng.normal(0, 40, ((own | other).sum(), 3))
    found = masks.own_masks(masks.segment_patches(patch.clip(0, 255).astype(np.uint8)[None]))
    assert masks.overlap(found, own[None])[0] > 0.75


def test_segmentation_of_real_leukocytes_overlaps_their_masks():
    folder = os.environ.get("HSC_TEST_DATA")
    if not folder:
        pytest.skip("HSC_TEST_DATA is not set: no real cells with masks")
    paths = sorted(Path(folder, "cells", "white_blood_cells").glob("*/*.png"))[::6]
    pixels = np.stack([cv2.resize(cv2.imread(str(p)), (64, 64)) for p in paths])
    cells = pd.DataFrame({"image_id": [f"{p.parent.name}__{p.stem}" for p in paths]})
    folder = Path(folder, "cells", "white_blood_cells_masks")
    truth = masks.own_masks(masks.single_labels(cells, folder, 64))
    found = masks.own_masks(masks.segment_patches(pixels))
    assert np.mean(masks.overlap(truth, found)) > 0.8
