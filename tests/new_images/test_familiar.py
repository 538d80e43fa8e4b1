"""The distance that says whether a cell looks like those of training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis

from hsc_utils.new_images import familiar, passport
from hsc_utils.study import Run


def test_distance_is_mahalanobis_to_the_nearest_class():
    rng = np.random.default_rng(0)
    features, means = rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    root = rng.normal(size=(4, 4))
    precision = root @ root.T + np.eye(4)
    known = {"means": torch.tensor(means), "precision": torch.tensor(precision)}
    expected = [min(mahalanobis(f, m, precision) for m in means) for f in features]
    np.testing.assert_allclose(familiar.distances(features, known), expected)
    scaled = familiar.distances(features, known | {"threshold": torch.tensor([2.0])})
    np.testing.assert_allclose(scaled, np.array(expected) / 2)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(familiar.CHANGES), st.integers(8, 40))
def test_changed_pictures_keep_their_shape_and_are_others(how, side):
    patches = np.random.default_rng(side).integers(60, 200, (2, side, side, 3)).astype(np.uint8)
    changed = familiar.changed(patches, how)
    assert changed.shape == patches.shape
    assert changed.dtype == np.uint8
    assert (changed != patches).any()


def test_the_passport_says_how_often_the_alarm_rings(paths, runs):
    for run in map(Run, runs):
        shares = passport.read_passport(run)["unlike"]
        assert set(shares) == {"validation", "test", *familiar.CHANGES}
        features = passport.read_features(run)
        far = features["distances validation"].numpy()
        assert shares["validation"] == pytest.approx((far > 1).mean(), abs=1e-4)
        assert (far > 1).sum() <= max(1, round(0.05 * len(far) + 0.5))


def test_features_are_made_once_per_model(paths, runs, monkeypatch):
    from hsc_utils import detection, manifest, new_images

    run = Run(runs[0])
    cells = manifest.read_cells(paths.cells)
    patches = detection.read_patches(paths.cells, cells)
    monkeypatch.setattr(familiar, "fit_familiar", lambda *_: pytest.fail("made again"))
    before = run.passport_file.read_bytes()
    new_images.write_passport(run, cells, patches, paths)
    assert run.passport_file.read_bytes() == before
