"""What differs from the training images is said, and nothing else."""

import cv2
import numpy as np
import pandas as pd
import pytest

from hsc_utils.new_images import differences

TRAINED = pd.DataFrame(
    {
        "slices": 3,
        "channel_names": "DIC;Brightfield;Autofluorescence",
        "bit_depth": 12,
        "objective": "20x",
        "simulated": False,
        "pixel_size_um": 0.31,
        "height": 400,
        "width": 400,
        "mean_r": np.linspace(80, 120, 40),
        "mean_g": np.linspace(80, 120, 40),
        "mean_b": np.linspace(10, 30, 40),
        "sharpness": np.linspace(0.5, 1.5, 40),
        "density": np.repeat([20.0, 100.0], 20) + np.tile(np.linspace(-5, 5, 20), 2),
    }
)
CLASSES = pd.Series(np.repeat(["MPP", "ST-HSC"], 20))


@pytest.fixture
def summary():
    facts = differences.facts_of(TRAINED).join(TRAINED[["sharpness", "density"]].iloc[:, :0])
    return differences.summary_of(facts, CLASSES)


def told(changes, summary):
    new = TRAINED.iloc[[20]].reset_index(drop=True).assign(**changes)
    row = differences.differences_of(differences.facts_of(new), summary).iloc[0]
    return row[row != ""].to_dict()


def test_training_images_do_not_differ_from_themselves(summary):
    found = differences.differences_of(differences.facts_of(TRAINED), summary)
    assert (found == "").all(axis=None)
    assert len(found.columns) == 12


@pytest.mark.parametrize(
    ("changes", "question", "sentence"),
    [
        ({"slices": 2}, "number of slices", "number of slices: 2, trained on 3"),
        ({"channel_names": "BF"}, "names of the slices", "BF, trained on DIC, Brightfield"),
        ({"bit_depth": 16}, "bits per pixel", "16, trained on 12"),
        ({"height": 512}, "size in pixels", "512 × 400, trained on 400 × 400"),
        ({"simulated": True}, "simulated", "simulated images, trained on real images"),
        ({"pixel_size_um": 0.65}, "size of a pixel, µm", "0.65, trained on 0.31 to 0.31"),
        ({"pixel_size_um": np.nan}, "size of a pixel, µm", "not recorded, trained on 0.31"),
        ({"pixel_size_um": None}, "size of a pixel, µm", "not recorded, trained on 0.31"),
        ({"mean_r": 200.0}, "mean intensity, slice 0", "200, trained on 80 to 120"),
        ({"sharpness": 0.05}, "sharpness", "0.05, trained on 0.5 to 1.5"),
        ({"density": 60.0}, "cells per megapixel", "60, trained on 15 to 105"),
    ],
)
def test_a_difference_is_said_alone(changes, question, sentence, summary):
    found = told(changes, summary)
    assert found.keys() == {question}
    assert sentence in found[question]


def test_a_density_between_classes_is_far_from_any(summary):
    assert told({"density": 22.0}, summary) == {}
    assert told({"density": 60.0}, summary)


def test_what_training_did_not_record_is_said(summary):
    del summary["ranges"]["pixel_size_um"]
    assert "not recorded in training" in told({}, summary)["size of a pixel, µm"]


def test_overview_counts_images_by_question(summary):
    new = TRAINED.head(3).assign(slices=[3, 2, 2])
    table = differences.overview(differences.differences_of(differences.facts_of(new), summary))
    assert table.iloc[0].tolist() == ["number of slices", 2, "2, trained on 3"]
    assert (table["images that differ"].iloc[1:] == 0).all()


def test_sharpness_falls_with_blur_and_not_with_brightness():
    rng = np.random.default_rng(0)
    rgb = rng.integers(40, 160, (64, 64, 3)).astype(np.uint8)
    blurred = cv2.GaussianBlur(rgb, (0, 0), 2)
    assert differences.sharpness(blurred) < 0.2 * differences.sharpness(rgb)
    assert differences.sharpness(rgb // 2) == pytest.approx(differences.sharpness(rgb), rel=0.02)
