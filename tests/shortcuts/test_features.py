import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsc_utils import shortcuts


def features(pictures, channels=(0, 1, 2)):
    return shortcuts.hand_made(pictures, range(len(pictures)), channels)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 999), side=st.integers(8, 40), turns=st.integers(0, 3), flip=st.booleans()
)
def test_mirroring_and_turning_change_nothing(seed, side, turns, flip):
    pictures = np.random.default_rng(seed).integers(0, 256, (2, side, side, 3), np.uint8)
    moved = np.rot90(pictures[:, ::-1] if flip else pictures, turns, axes=(1, 2))
    assert np.allclose(features(pictures), features(moved), atol=1e-3)


def test_brightness_shifts_levels_and_leaves_grain():
    pictures = np.random.default_rng(0).integers(0, 100, (3, 32, 32, 3), np.uint8)
    dim, bright = features(pictures), features(pictures + np.uint8(50))
    levels = dim.filter(regex="^(mean|percentile|ring)").columns
    assert np.allclose(bright[levels] - dim[levels], 50, atol=1e-3)
    rest = dim.columns.difference(levels)
    assert len(rest) == 27
    assert np.allclose(bright[rest], dim[rest], atol=1e-3)


def test_grain_shows_at_its_own_scale():
    rng = np.random.default_rng(0)
    white = rng.normal(size=(64, 64)).astype(np.float32)
    coarse = cv2.GaussianBlur(white, (0, 0), 4)
    pictures = [128 + 20 * (grain / grain.std()) for grain in (white, coarse)]
    pictures = np.clip(np.stack([np.dstack([p] * 3) for p in pictures]), 0, 255).astype(np.uint8)
    fine, rough = features(pictures).to_dict("records")
    assert fine["band 1 px 0"] > 2 * rough["band 1 px 0"]
    assert rough["band 8 px 0"] > 1.5 * fine["band 8 px 0"]


def test_the_profile_runs_from_the_middle_out():
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    cv2.circle(picture[0], (32, 32), 13, (200, 0, 0), -1)
    profile = features(picture).filter(regex=r"^ring \d 0").to_numpy()[0]
    assert np.allclose(profile[:2], 200)
    assert (profile[3:] == 0).all()


@pytest.mark.parametrize("channels", [(0,), (2, 0), (0, 1, 2)])
def test_each_channel_is_described_alone_and_rows_chosen(channels):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    every = features(pictures)
    some = shortcuts.hand_made(pictures, [3, 1], channels)
    assert some.shape == (2, 21 * len(channels))
    assert np.allclose(some, every.loc[[3, 1], some.columns], atol=1e-4)
