"""Detection against scikit-image, and on fields whose cells are known or real."""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data, feature
from skimage.draw import disk

from hsc_utils.detection import DetectionSettings, blob_log, detect_cells, match_detections
from hsc_utils.detection.blobs import METHODS, settings_in_use
from hsc_utils.detection.matching import agreement
from hsc_utils.study import DamagedFileError


def simulated_field(size=384, count=14, seed=0, noise=0.01):
    """Draw dark rings with bright halos on uneven grey; return uint8 RGB and centres."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    image = 0.4 + 0.15 * x / size + 0.08 * np.sin(3 * y / size)
    cells = []
    while len(cells) < count:
        *centre, radius = *rng.uniform(25, size - 25, 2), rng.uniform(12, 20)
        if all(np.hypot(*np.subtract(centre, c[:2])) > radius + c[2] + 12 for c in cells):
            cells.append((*centre, radius))
    for cy, cx, radius in cells:
        r = np.hypot(y - cy, x - cx) / radius
        image += 0.2 * (
            0.6 * np.exp(-(((r - 1.18) / 0.12) ** 2)) - np.exp(-(((r - 0.9) / 0.13) ** 2))
        )
        image += 0.06 * (r < 0.8) * rng.normal(0, 1, image.shape)
    image += rng.normal(0, noise, image.shape)
    grey = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2), np.array(cells)


def real_data():
    folder = os.environ.get("HSC_TEST_DATA")
    if not folder:
        pytest.skip("HSC_TEST_DATA is not set: no real images")
    return Path(folder)


# --- blob_log against scikit-image -------------------------------------------------------


CASES = {
    "defaults": {},
    "cells": {"min_sigma": 8, "max_sigma": 20, "num_sigma": 5, "threshold": 0.05},
    "logarithmic": {"min_sigma": 3, "max_sigma": 12, "num_sigma": 4, "log_scale": True},
    "everything above 0": {"min_sigma": 6, "max_sigma": 12, "num_sigma": 3, "threshold": 0},
    "one sigma": {"min_sigma": 10, "max_sigma": 10, "num_sigma": 1, "threshold": 0.05},
    "no overlap": {"min_sigma": 6, "max_sigma": 20, "num_sigma": 4, "threshold": 0.05}
    | {"overlap": 0},
    "any overlap": {"min_sigma": 3, "max_sigma": 12, "num_sigma": 5, "threshold": 0.02}
    | {"overlap": 1},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_exact_is_scikit_image(case):
    coins = data.coins()[:220, :300]
    for image in (coins, coins.astype(np.float32) / 255, coins.astype(np.uint16) * 257):
        expected = feature.blob_log(image, **case)
        found = blob_log(image, **case, exact=True)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def plateaus(kind):
    """Return smooth noise clipped at both ends, as a saturated camera gives it."""
    smooth = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(150, 180)), (0, 0), 6)
    clipped = (np.clip(smooth, -0.02, 0.02) + 0.02) / 0.04
    return (clipped * np.iinfo(kind).max if kind.kind in "ui" else clipped).astype(kind)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("kind", ["i2", "f2", "f4", "?"])
def test_exact_on_plateaus_of_every_type(kind, case):
    image = plateaus(np.dtype(kind))
    expected = feature.blob_log(image, **case)
    found = blob_log(image, **case, exact=True)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["u1", "f4", "f8"])
def test_default_on_plateaus(kind):
    image = plateaus(np.dtype(kind))
    expected = feature.blob_log(image, 3, 12, 5, threshold=0.05)
    assert len(expected) > 40
    assert agreement(blob_log(image, 3, 12, 5, threshold=0.05), expected, 2.25) >= 0.995


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_default_agrees_with_scikit_image(case):
    coins = data.coins()
    expected = feature.blob_log(coins, **case)
    found = blob_log(coins, **case)
    low, high = case.get("min_sigma", 1), case.get("max_sigma", 50)
    step = (high - low) / max(case.get("num_sigma", 10) - 1, 1)
    assert agreement(found, expected, step) >= 0.995


@pytest.mark.parametrize("exact", [False, True])
def test_small_blobs_left_out_change_no_others(exact):
    every = blob_log(data.coins(), 3, 12, 5, threshold=0.05, log_scale=True, exact=exact)
    larger = blob_log(data.coins(), 3, 12, 5, 0.05, log_scale=True, above=3.1, exact=exact)
    assert 0 < len(larger) < len(every)
    np.testing.assert_array_equal(larger, every[every[:, 2] > 3.1])
    assert not len(blob_log(data.coins(), 3, 12, 5, threshold=0.05, above=12.1, exact=exact))


def test_scikit_image_s_own_example():
    image = np.ones((256, 256))
    for centre, radius in (((200, 65), 5), ((80, 25), 15), ((50, 150), 25), ((100, 175), 30)):
        image[disk(centre, radius)] = 255
    for log_scale in (False, True):
        found = blob_log(image, min_sigma=5, max_sigma=20, threshold=1, log_scale=log_scale)
        radii = found[:, 2] * np.sqrt(2)
        for (y, x), radius in (((200, 65), 5), ((80, 25), 15), ((50, 150), 25), ((100, 175), 30)):
            nearest = np.hypot(found[:, 0] - y, found[:, 1] - x).argmin()
            assert np.abs(found[nearest, :2] - (y, x)).max() <= 3
            assert abs(radii[nearest] - radius) <= 3


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("image", [np.zeros((100, 100)), np.full((40, 60), 0.5)])
def test_flat_image_holds_no_blob(image, exact):
    assert blob_log(image, exact=exact).shape == (0, 3)


def test_image_smaller_than_the_kernel():
    image = np.zeros((20, 30))
    image[8:12, 13:18] = 1
    expected = feature.blob_log(image, 2, 12, 6, threshold=0.05)
    np.testing.assert_allclose(blob_log(image, 2, 12, 6, threshold=0.05), expected)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(40, 90),
    st.integers(40, 90),
    st.floats(2, 6),
    st.floats(1.2, 3),
    st.integers(1, 5),
)
def test_agreement_on_noise(seed, height, width, low, ratio, count):
    """Noise is the hardest case: maxima of all heights, near the threshold and the border."""
    image = np.random.default_rng(seed).random((height, width))
    high = low * ratio
    expected = feature.blob_log(image, low, high, count, threshold=0.1, overlap=1)
    found = blob_log(image, low, high, count, threshold=0.1, overlap=1)
    assert agreement(found, expected, (high - low) / max(count - 1, 1)) >= 0.99


def test_rotating_the_image_rotates_the_blobs():
    image = simulated_field(200, 5)[0][:, :, 0]
    found = blob_log(255 - image, 6, 14, 5, threshold=0.03)
    turned = blob_log(255 - image[::-1].T, 6, 14, 5, threshold=0.03)
    expected = np.column_stack([found[:, 1], 199 - found[:, 0], found[:, 2]])
    assert agreement(turned, expected, 0) >= 0.95


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((5, 5, 3)), {}, "2-D"),
        (np.full((9, 9), np.nan), {}, "NaN"),
        (np.zeros((9, 9)), {"min_sigma": 5, "max_sigma": 2}, "min_sigma <= max_sigma"),
        (np.zeros((9, 9)), {"min_sigma": 0}, "0 < min_sigma"),
        (np.zeros((9, 9)), {"num_sigma": 0}, "num_sigma"),
        (np.full((9, 9), np.inf), {}, "infinite"),
        (np.zeros((0, 9)), {}, "empty"),
        (np.zeros((9, 9)), {"threshold": -1}, "negative"),
    ],
)
def test_impossible_input(image, options, message):
    with pytest.raises(ValueError, match=message):
        blob_log(image, **options)


@pytest.mark.parametrize("value", [None, "0.2", [1, 2], np.array([1, 2]), 1j, True, np.inf, {}])
@pytest.mark.parametrize("name", ["threshold", "min_sigma", "max_sigma", "num_sigma", "overlap"])
def test_a_value_that_is_no_number(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*number was expected"):
        blob_log(np.zeros((30, 30)), **{name: value})


@pytest.mark.parametrize(
    "image",
    [None, "field.png", [[1, 2], [3]], {}, np.zeros((9, 9), complex), np.full((9, 9), 1e300)],
    ids=["None", "a path", "ragged", "mapping", "complex", "huge"],
)
def test_an_image_that_is_none(image):
    with pytest.raises(ValueError, match=r"^image "):
        blob_log(image)


@pytest.mark.parametrize("option", [{"max_sigma": 10**9}, {"num_sigma": 10**9}])
def test_scales_that_no_memory_holds(option):
    with pytest.raises(ValueError, match="more memory than there is"):
        blob_log(np.zeros((30, 30)), **option)


def test_numbers_of_numpy_are_numbers():
    image = np.zeros((40, 40))
    image[18:22, 18:22] = 1
    given = {"min_sigma": np.float32(2), "max_sigma": np.array(6.0), "num_sigma": np.int64(4)}
    assert len(blob_log(image, **given, threshold=np.float16(0.1))) == 1


def test_a_threshold_that_lets_everything_through():
    noise = np.random.default_rng(0).random((700, 700))
    with pytest.raises(ValueError, match="Raise"):
        blob_log(noise, 1, 60, 2, threshold=0.001)


def test_agreement_on_real_fields():
    folder = real_data() / "fields"
    image = cv2.imread(str(folder / "brightfield" / "suspension_cells.png"), 0)
    smears = sorted((folder / "blood_smear").glob("*.jpg"))[:3]
    framed = cv2.imread(str(folder / "brightfield" / "hspc_crop.png"), 0)
    for field in (image, framed, *(cv2.imread(str(p))[:, :, 1] for p in smears)):
        expected = feature.blob_log(255 - field, 10, 30, 5, threshold=0.05)
        found = blob_log(255 - field, 10, 30, 5, threshold=0.05)
        assert agreement(found, expected, 5) >= 0.995


# --- detect_cells ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["log", "dog"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_ring_once(method, seed):
    image, cells = simulated_field(seed=seed)
    found = detect_cells(image, DetectionSettings(method=method))
    match = match_detections(found, cells, 5)
    assert match["recall"] == 1
    assert match["precision"] == 1


def test_sigma_means_the_same_for_each_method():
    """A Gaussian spot of sigma 9 is a blob of sigma 9, if radius is 1.41 sigma."""
    y, x = np.mgrid[:160, :160]
    spot = 60 + 150 * np.exp(-((y - 70) ** 2 + (x - 90) ** 2) / (2 * 9**2))
    for method, threshold in (("log", 0.1), ("dog", 0.1), ("doh", 0.01)):
        chosen = DetectionSettings(
            method=method,
            threshold=threshold,
            search="mean",
            min_sigma=5,
            max_sigma=16,
            num_sigma=9,
        )
        found = detect_cells(spot.astype(np.uint8), chosen)
        np.testing.assert_allclose(found, [[70, 90, 9]], atol=1.6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("flatten", [False, True])
def test_dark_cells_of_one_slice(method, flatten):
    """Dark on bright, negative throughout once turned over: each method finds them."""
    y, x = np.mgrid[:300, :300]
    dark = 200 - 120 * np.exp(-((y - 90) ** 2 + (x - 210) ** 2) / (2 * 9**2))
    chosen = DetectionSettings(
        method=method,
        threshold=0.005 if method == "doh" else 0.1,
        search="slice0",
        polarity="dark",
        flatten=flatten,
        min_sigma=6,
        max_sigma=14,
    )
    found = detect_cells(dark.astype(np.uint8), chosen)
    inside = found[(found[:, :2].min(axis=1) > 30) & (found[:, :2].max(axis=1) < 270)]
    # DoH's box filters tell sizes coarsely
    np.testing.assert_allclose(inside, [[90, 210, 9]], atol=3.5 if method == "doh" else 1.2)


def test_the_wall_of_the_chamber_is_no_cell():
    image, cells = simulated_field(seed=3, noise=0.01)
    _, x = np.mgrid[:384, :384]
    shade = 0.2 + 0.8 / (1 + np.exp(-(x - 90) / 5.0))
    inside = cells[cells[:, 1] > 150]
    found = detect_cells((image * shade[:, :, None]).astype(np.uint8), DetectionSettings())
    assert match_detections(found[found[:, 1] > 130], inside, 5)["f1"] == 1
    wall = found[np.abs(found[:, 1] - 90) < 20]
    assert match_detections(wall, cells, 8)["precision"] in (1, pytest.approx(1)) or not len(wall)


def test_debris_is_no_cell():
    image, cells = simulated_field()
    free = next(
        (y, x)
        for y in range(30, 350, 9)
        for x in range(30, 350, 9)
        if np.hypot(cells[:, 0] - y, cells[:, 1] - x).min() > 50
    )
    spotted = image.copy()
    spotted[disk(free, 3)] = 255
    plain, with_spot = (detect_cells(i, DetectionSettings()) for i in (image, spotted))
    assert len(plain) == len(with_spot)


@given(st.floats(0.6, 1.0), st.integers(0, 60))
@settings(max_examples=6, deadline=None)
def test_brightness_and_gain_do_not_matter(gain, offset):
    image, cells = simulated_field(256, 6)
    changed = np.clip(image * gain + offset, 0, 255).astype(np.uint8)
    found = detect_cells(changed, DetectionSettings())
    assert match_detections(found, cells, 5)["f1"] == 1


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("method", METHODS)
def test_blank_and_saturated_images_hold_no_cells(value, method):
    image = np.full((200, 200, 3), value, np.uint8)
    assert detect_cells(image, DetectionSettings(method=method)).shape == (0, 3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("search", ["contrast", "mean", "slice2"])
def test_tiny_images_hold_no_cells(method, search):
    """Smaller than the largest cell, or a line: nothing is found, and nothing breaks."""
    chosen = DetectionSettings(method=method, search=search)
    noise = np.random.default_rng(0).integers(0, 256, (25, 25, 3), np.uint8)
    for image in (noise, noise[:1], noise[:, :2], noise[:1, :1]):
        assert detect_cells(image, chosen).shape == (0, 3)


def test_saturated_cells_are_found_once():
    """Half of the image saturated: no cell there, and the others as before."""
    image, cells = simulated_field(noise=0.02)
    bright = image.copy()
    bright[:, 200:] = 255
    found = detect_cells(bright, DetectionSettings())
    left = cells[cells[:, 1] < 180]
    assert match_detections(found[found[:, 1] < 180], left, 5)["f1"] == 1
    assert not (found[:, 1] > 215).any()


def test_tiny_and_grayscale_images():
    image, cells = simulated_field()
    assert detect_cells(image[:12, :12], DetectionSettings()).shape == (0, 3)
    found = detect_cells(image[:, :, 0], DetectionSettings())
    assert match_detections(found, cells, 5)["f1"] == 1


def test_the_slice_searched_and_its_polarity():
    image, _ = simulated_field(256, 0)
    image = image.copy()
    image[disk((60, 60), 14)] = 40
    image[disk((180, 180), 14)] = 220
    image[:, :, 1] = 90
    for polarity, expected in (("dark", [60]), ("bright", [180]), ("both", [60, 180])):
        for search in ("slice0", "contrast"):
            chosen = DetectionSettings(search=search, polarity=polarity, threshold=0.1)
            found = detect_cells(image, chosen)
            np.testing.assert_allclose(sorted(found[:, 0]), expected, atol=2)
    assert not len(detect_cells(image, DetectionSettings(search="slice1", threshold=0.1)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "sift"}, "method"),
        ({"min_sigma": 9, "max_sigma": 8}, "min_sigma <= max_sigma"),
        ({"threshold": -1}, "threshold > 0"),
        ({"threshold": float("nan")}, "threshold > 0"),
        ({"min_sigma": 0}, "0 < min_sigma"),
        ({"overlap": 2}, "overlap <= 1"),
        ({"num_sigma": 0}, "num_sigma"),
        ({"polarity": "grey"}, "polarity"),
        ({"threshold": None}, "threshold is None, but a finite number"),
        ({"min_sigma": "7"}, "min_sigma is '7'"),
        ({"num_sigma": 7.5}, "num_sigma is 7.5, but a whole number"),
        ({"max_sigma": float("inf")}, "max_sigma is inf"),
        ({"flatten": "no"}, "flatten is 'no', but true or false"),
        ({"method": ["log"]}, "method is"),
    ],
)
def test_impossible_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        DetectionSettings(**wrong)


def test_images_of_another_kind():
    with pytest.raises(ValueError, match="uint8"):
        detect_cells(np.full((50, 50), np.nan), DetectionSettings())
    with pytest.raises(ValueError, match="shape"):
        detect_cells(np.zeros((50, 50, 4), np.uint8), DetectionSettings())
    for image in (None, "field.png", [[1, 2], [3]]):
        with pytest.raises(ValueError, match="must be uint8"):
            detect_cells(image, DetectionSettings())
    for wrong in (None, {"threshold": 0.2}):
        with pytest.raises(ValueError, match="settings must be DetectionSettings"):
            detect_cells(np.zeros((50, 50), np.uint8), wrong)


def test_settings_survive_the_file(tmp_path):
    chosen = DetectionSettings(method="dog", min_sigma=5.5, flatten=False)
    chosen.write(tmp_path / "detection.json", "tuning")
    assert DetectionSettings.read(tmp_path / "detection.json") == chosen
    (tmp_path / "detection.json").write_text('{"sigma": 3}')
    with pytest.raises(ValueError, match="sigma"):
        DetectionSettings.read(tmp_path / "detection.json")


def test_settings_set_by_hand_are_kept(tmp_path, capsys):
    path = tmp_path / "detection.json"
    tuned, own = DetectionSettings(threshold=0.2), DetectionSettings(threshold=0.4)
    assert settings_in_use(path, tuned) == tuned
    assert settings_in_use(path, tuned) == tuned
    assert capsys.readouterr().out == ""
    own.write(path, "hand")
    assert settings_in_use(path, tuned) == DetectionSettings.read(path) == own
    said = capsys.readouterr().out
    assert "set by hand and is used as it is (threshold 0.4, tuned 0.2). Delete it" in said
    path.unlink()
    assert settings_in_use(path, tuned) == DetectionSettings.read(path) == tuned


def test_settings_of_nobody_known_count_as_set_by_hand(tmp_path, capsys):
    path = tmp_path / "detection.json"
    path.write_text('{"threshold": 0.4}')
    assert settings_in_use(path, DetectionSettings()).threshold == 0.4
    assert "set by hand" in capsys.readouterr().out


def test_what_an_earlier_tuning_chose_is_replaced_aloud(tmp_path, capsys):
    path = tmp_path / "detection.json"
    DetectionSettings(threshold=0.4).write(path, "tuning")
    assert settings_in_use(path, DetectionSettings()) == DetectionSettings.read(path)
    assert "were replaced (threshold 0.4, tuned 0.2)" in capsys.readouterr().out


def test_settings_with_numbers_of_numpy_survive_the_file(tmp_path):
    chosen = DetectionSettings(threshold=np.float32(0.25), num_sigma=np.int64(5))
    chosen.write(tmp_path / "detection.json", "hand")
    assert DetectionSettings.read(tmp_path / "detection.json") == chosen


DAMAGED = {"empty": b"", "cut": b'{"method": "lo', "binary": b"\xff\xfe\0", "a list": b"[1, 2]"}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_settings_are_named_and_made_again(tmp_path, capsys, content):
    path = tmp_path / "detection.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"detection\.json is empty, cut short or damaged"):
        DetectionSettings.read(path)
    assert settings_in_use(path, DetectionSettings()) == DetectionSettings.read(path)
    said = capsys.readouterr().out
    assert "detection.json is empty, cut short or damaged" in said
    assert (tmp_path / "detection.json.damaged").read_bytes() == content


@pytest.mark.parametrize("content", ['{"threshold": "high"}', '{"treshold": 0.3}'])
def test_a_slip_in_settings_set_by_hand_is_not_set_aside(tmp_path, content):
    path = tmp_path / "detection.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"detection\.json.*threshold|detection\.json.*treshold"):
        settings_in_use(path, DetectionSettings())
    assert path.read_text() == content
    with pytest.raises(FileNotFoundError, match="is no file"):
        DetectionSettings.read(tmp_path)


def test_settings_set_by_hand_that_others_replace_are_kept_beside(tmp_path, capsys):
    path = tmp_path / "detection.json"
    own, given = DetectionSettings(threshold=0.33), DetectionSettings(threshold=0.5)
    own.write(path, "hand")
    assert settings_in_use(path, given, "hand") == DetectionSettings.read(path) == given
    assert "were replaced (threshold 0.33, now 0.5)" in capsys.readouterr().out
    (beside,) = tmp_path.glob("detection.2*.json")
    assert DetectionSettings.read(beside) == own
    assert settings_in_use(path, DetectionSettings()) == given


def test_real_brightfield_cells():
    """Progenitors in a black frame, counted by eye: some thirty, half of them touching."""
    folder = real_data() / "fields" / "brightfield"
    image = cv2.imread(str(folder / "hspc_crop.png"), cv2.IMREAD_COLOR_RGB)
    found = detect_cells(image, DetectionSettings(min_sigma=4.5, max_sigma=8))
    assert 28 <= len(found) <= 42
    alone = np.array([[47, 140], [97, 99], [144, 140], [170, 156], [162, 190], [295 - 27, 228]])
    assert match_detections(found, alone, 5)["recall"] == 1
    frame = np.minimum(found[:, :2].min(axis=1), 288 - found[:, :2].max(axis=1))
    assert (frame > 8).all()
    # the corners of the frame hold no cell, but one
    for corner in ([20, 20], [20, 270], [270, 270]):
        assert np.hypot(*(found[:, :2] - corner).T).min() > 15

    image = cv2.imread(str(folder / "suspension_cells.png"), cv2.IMREAD_COLOR_RGB)
    found = detect_cells(image, DetectionSettings(min_sigma=14, max_sigma=24))
    assert match_detections(found, [[29, 29], [188, 78]], 12)["f1"] == 1


def test_white_cells_of_real_smears():
    folder = real_data() / "fields" / "blood_smear"
    chosen = DetectionSettings(
        search="slice1",
        polarity="dark",
        flatten=False,
        min_sigma=28,
        max_sigma=50,
        threshold=0.15,
    )
    matched = found_count = true = 0
    for path in sorted(folder.glob("*.jpg"))[:20]:
        boxes = [
            [float(box.findtext(f"bndbox/{side}")) for side in ("ymin", "ymax", "xmin", "xmax")]
            for box in ElementTree.parse(path.with_suffix(".xml")).iter("object")
            if box.findtext("name") == "WBC"
        ]
        centres = [[(b[0] + b[1]) / 2, (b[2] + b[3]) / 2] for b in boxes]
        found = detect_cells(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), chosen)
        match = match_detections(found, centres, 50)
        matched += match["matched"]
        found_count += match["found"]
        true += match["true"]
    assert matched / true >= 0.7
    assert matched / found_count >= 0.7


# --- match_detections --------------------------------------------------------------------


def test_scores_by_hand():
    found = [[10, 10, 5], [10, 14, 5], [50, 50, 5], [90, 90, 5]]
    truth = [[10, 11], [50, 47], [50, 53], [200, 200]]
    match = match_detections(found, truth, 4)
    assert (match["matched"], match["found"], match["true"]) == (2, 4, 4)
    assert match["precision"] == match["recall"] == match["f1"] == 0.5
    assert match["error"] == pytest.approx(2)
    assert (match["found_twice"], match["found_as_one"]) == (1, 1)


def test_one_to_one_and_as_many_as_possible():
    """The nearest pair first would leave the other two unpaired."""
    found, truth = [[0, 0], [0, 3]], [[0, 2], [0, 6]]
    assert match_detections(found, truth, 3)["matched"] == 2


def test_nothing_to_match():
    nothing = match_detections(np.empty((0, 3)), [[1, 1]], 5)
    assert nothing["recall"] == 0
    assert np.isnan(nothing["precision"])
    assert np.isnan(match_detections([], [], 5)["f1"])
    with pytest.raises(ValueError, match="max_distance"):
        match_detections([], [], 0)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([[np.nan, 1.0]], "found holds NaN"),
        ([[1.0, np.inf]], "found holds NaN or infinite"),
        ([1.0, 2.0], r"shape \(2,\), but \(N, 2 or more\)"),
        ([[1.0], [2.0]], r"shape \(2, 1\)"),
        ([["a", "b"]], "found is .*numbers"),
        ([[1, 2], [3]], "found is .*numbers"),
        (None, "found has the shape"),
    ],
)
def test_centres_that_are_none(found, message):
    with pytest.raises(ValueError, match=message):
        match_detections(found, [[1, 1]], 5)
    with pytest.raises(ValueError, match=message.replace("found", "truth")):
        match_detections([[1, 1]], found, 5)


@pytest.mark.parametrize("distance", [None, "5", np.nan, np.inf, -1])
def test_distances_that_are_none(distance):
    with pytest.raises(ValueError, match="max_distance"):
        match_detections([[1, 1]], [[1, 1]], distance)
    if distance != np.inf:
        with pytest.raises(ValueError, match="max_sigma_difference"):
            match_detections([[1, 1, 3]], [[1, 1, 3]], 5, max_sigma_difference=distance)
    with pytest.raises(ValueError, match="3 or more"):
        match_detections([[1, 1]], [[1, 1]], 5, max_sigma_difference=1)


points = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), max_size=12)


@given(points, points, st.floats(0.5, 20))
@settings(max_examples=60, deadline=None)
def test_matching_is_symmetric_and_bounded(found, truth, distance):
    there = match_detections(np.reshape(found, (-1, 2)), np.reshape(truth, (-1, 2)), distance)
    back = match_detections(np.reshape(truth, (-1, 2)), np.reshape(found, (-1, 2)), distance)
    assert there["matched"] == back["matched"] <= min(len(found), len(truth))
    if there["matched"]:
        assert there["error"] <= distance
        assert there["error"] == pytest.approx(back["error"])
