"""Sizes suggested by the images themselves, and what notebook 02 warns of."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsc_utils import files
from hsc_utils.detection import (
    DetectionSettings,
    detect_cells,
    method_findings,
    suggest_sizes,
    tuning_sample,
)
from hsc_utils.detection.figures import size_scan
from hsc_utils.detection.sizes import (
    empty_findings,
    size_findings,
    sizes_to_try,
)

REAL = os.environ.get("HSC_TEST_DATA")
real = pytest.mark.skipif(not REAL, reason="HSC_TEST_DATA is not set")


def field(radius, side=320, count=9, seed=0):
    """Draw dark rings with a bright halo on even ground, with camera noise."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side), 120.0)
    step = side / 3
    for k in range(count):
        centre = [round(step * (v + 0.5) + rng.uniform(-0.1, 0.1) * step) for v in divmod(k, 3)]
        cv2.circle(image, centre, radius, 160, -1, cv2.LINE_AA)
        cv2.circle(image, centre, round(0.9 * radius), 70, -1, cv2.LINE_AA)
        cv2.circle(image, centre, round(0.6 * radius), 118, -1, cv2.LINE_AA)
    noisy = image[..., None] + rng.normal(0, 3, (side, side, 3))
    return noisy.clip(0, 255).astype(np.uint8)


@settings(max_examples=12, deadline=None)
@given(st.integers(7, 24), st.integers(0, 100))
def test_cells_of_any_size_are_found_with_what_is_suggested(radius, seed):
    image = field(radius, seed=seed)
    sizes = suggest_sizes([image])
    assert sizes.clear
    assert sizes.smallest[0] < radius / np.sqrt(2) < 1.2 * sizes.largest[-1]
    middle = DetectionSettings(min_sigma=sizes.smallest[1], max_sigma=sizes.largest[-1])
    assert abs(len(detect_cells(image, middle)) - 9) <= 1
    assert sizes.side % 8 == 0
    assert 2 * radius <= sizes.side <= 5 * radius + 16


def test_the_suggestion_scales_with_the_image():
    image = field(10)
    one = suggest_sizes([image])
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    two = suggest_sizes([large])
    assert two.sigma_high / one.sigma_high == pytest.approx(2, rel=0.35)
    assert two.sigma_low / one.sigma_low == pytest.approx(2, rel=0.35)


@pytest.mark.parametrize("kind", ["noise", "slope", "black"])
def test_nothing_is_invented(kind):
    ground = np.zeros((300, 300))
    if kind == "noise":
        ground = np.random.default_rng(0).normal(120, 6, (300, 300))
    if kind == "slope":
        ground = np.tile(np.linspace(50, 200, 300), (300, 1))
    image = np.repeat(ground.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
    sizes = suggest_sizes([image])
    assert not sizes.side
    assert sizes.smallest == sizes.largest == ()
    assert "saw nothing" in " ".join(size_findings(sizes, [5], [10]))
    with pytest.raises(ValueError, match="saw nothing"):
        sizes_to_try(sizes, [], [])
    assert sizes_to_try(sizes, [5.0], [10.0]) == ([5.0], [10.0])


def test_sizes_that_miss_the_cells_are_named():
    sizes = suggest_sizes([field(10)])
    assert "CAUTION: the sizes tried are 20 to 40" in " ".join(size_findings(sizes, [20], [40]))
    assert len(size_findings(sizes, sizes.smallest, sizes.largest)) == 1
    assert sizes_to_try(sizes, [], []) == (list(sizes.smallest), list(sizes.largest))
    assert size_scan(sizes.scan, sizes.smallest, sizes.largest).axes


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="none was given"):
        suggest_sizes([])


@real
def test_real_progenitors_and_a_smear():
    """Of a real field the defaults find a part; and a crowded smear is said to be unclear."""
    crop = files.read_rgb(Path(REAL) / "fields/brightfield/hspc_crop.png")
    sizes = suggest_sizes([crop])
    assert sizes.clear
    assert 3 < sizes.smallest[0] < 6
    assert 8 < sizes.largest[-1] < 16
    smears = sorted((Path(REAL) / "fields/blood_smear").glob("*.jpg"))[::40]
    crowded = suggest_sizes([files.read_rgb(path) for path in smears])
    assert not crowded.clear
    with pytest.raises(ValueError, match="not clear"):
        sizes_to_try(crowded, [], [])
    assert "not clear" in crowded.warnings[0]


def test_images_with_almost_no_cells_are_named():
    counts = pd.Series({"a": 40, "b": 50, "c": 3, "d": 45})
    alike = pd.Series("A", counts.index)
    (said,) = empty_findings(counts, alike)
    assert "1 of 4 images" in said and "usual in their class: c." in said
    assert empty_findings(counts.drop("c"), alike.drop("c")) == []
    # a class of few cells is no fault of its images
    sparse = pd.Series({"a": 40, "b": 50, "c": 3, "d": 4})
    assert empty_findings(sparse, pd.Series(list("AABB"), sparse.index)) == []
    few = pd.Series(2, index=list("abcdef"))
    classes = pd.Series("A", few.index)
    assert empty_findings(few, classes) == []
    seen = suggest_sizes([field(10, count=9)])
    assert "CAUTION: 6 of 6" in empty_findings(few, classes, seen)[0]
    assert "no cell was found in any of the 4" in empty_findings(counts * 0, alike)[0]


def test_a_far_better_method_is_named():
    scores = pd.DataFrame({"f1": [0.431, 0.896, 0.5]})
    best = {"log": 0, "doh": 1, "dog": 2}
    said = method_findings(scores, best, "log")[0]
    assert "DOH finds the cells far better (F1 0.896) than LOG (0.431)" in said
    assert method_findings(scores, best, "doh") == []
    assert method_findings(scores.rename(columns={"f1": "stability"}), best, "log") == []


def test_only_annotated_images_are_tuned_on():
    """Ten annotated images among hundreds: what is found in the others must not count as wrong."""
    images = pd.DataFrame({"image_id": [f"i{k}" for k in range(100)], "class": "A", "group": ""})
    images["split"] = ["train", "validation", "test", "train", "train"] * 20
    truth = pd.DataFrame({"image_id": ["i0", "i1", "i2", "i50"], "y": 1.0, "x": 1.0})
    assert set(tuning_sample(images, 8, 0, truth)["image_id"]) == {"i0", "i1", "i50"}
    assert (tuning_sample(images, 8, 0)["split"] == "train").all()
    with pytest.raises(ValueError, match="all of the test subset"):
        tuning_sample(images, 8, 0, truth[truth["image_id"] == "i2"])
