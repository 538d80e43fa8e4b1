import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hsc_utils import detection, manifest, paper, training
from hsc_utils.files import read_rgb, write_csv, write_rgb
from hsc_utils.shortcuts import figures, hand_made, painting, views
from hsc_utils.simulation import optics, specimen
from hsc_utils.study import Study

CLASSES = ("LT-HSC", "ST-HSC", "MPP")
SIDE, FIELD = 48, 160
REACH = views._Reach(15.0, 9.0)


def traits_of(centres, radius=None, class_name="LT-HSC", number=0):
    """Return cells at some centres as `specimen.draw_cells` does, all of a radius if given."""
    rng = specimen.generator(0, "traits", number)
    where = pd.DataFrame(centres, columns=["y", "x"]).assign(
        source=f"field {number}", label=np.arange(1, len(centres) + 1), focus_um=0.0
    )
    drawn = specimen.draw_traits(rng, class_name, len(where))
    return where.join(drawn if radius is None else drawn.assign(radius_px=radius))


def field_of(cells, size, day=0):
    """Take the picture of some cells: uint8 (size, size, 3), and their label image."""
    slices, parts = optics.render(cells, 3, day, size, 0)
    return np.moveaxis(slices >> 4, 0, 2).astype(np.uint8), parts["inside"].astype(np.int32)


def told_apart(pictures, truth):
    """Return the cross-validated AUROC of a regression on hand-made features."""
    known = hand_made(np.stack(pictures), range(len(pictures)), (0, 1, 2))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    chances = cross_val_predict(model, known, truth, cv=5, method="predict_proba")[:, 1]
    return roc_auc_score(truth, chances)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 999),
    height=st.integers(9, 60),
    width=st.integers(9, 60),
    share=st.floats(0.05, 0.95),
    smoothing=st.floats(1, 20),
)
def test_outside_the_holes_nothing_changes_and_a_seed_gives_the_same_bytes(
    seed, height, width, share, smoothing
):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    noise = cv2.GaussianBlur(rng.uniform(size=(height, width)), (0, 0), 2)
    holes = noise < np.quantile(noise, share)
    painted = painting.paint_out(picture, holes, seed, smoothing)
    assert painted.dtype == np.uint8 and painted.shape == picture.shape
    assert (painted[~holes] == picture[~holes]).all()
    assert (painted == painting.paint_out(picture, holes, seed, smoothing)).all()


def test_a_slope_goes_on_across_a_hole_with_the_grain_around_it():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :120]
    slope = 60 + 0.5 * x + 0.2 * y
    picture = np.rint(slope[..., None] + rng.normal(0, 3, (120, 120, 3))).astype(np.uint8)
    holes = np.hypot(y - 60, x - 50) < 24
    picture[holes] = 250
    painted = painting.paint_out(picture, holes, 0)
    off = painted[holes] - slope[holes][:, None]
    assert np.abs(off.mean(axis=0)).max() < 0.5
    assert np.allclose(off.std(axis=0), 3, rtol=0.15)
    assert (painted != painting.paint_out(picture, holes, 1)).any()
    # no plateau: neither side of the hole is off
    left = holes & (x < 38)
    assert np.abs((painted[left] - slope[left][:, None]).mean()) < 1.5


def test_an_empty_slice_stays_empty_and_a_picture_without_holes_stays_as_it_is():
    picture = np.random.default_rng(0).integers(90, 110, (50, 60, 3)).astype(np.uint8)
    picture[..., 2] = 0
    holes = np.zeros((50, 60), bool)
    assert (painting.paint_out(picture, holes, 0) == picture).all()
    holes[10:30, 20:50] = True
    assert not painting.paint_out(picture, holes, 0)[..., 2].any()
    with pytest.raises(ValueError, match="cover the whole picture"):
        painting.paint_out(picture, ~np.zeros_like(holes), 0)


def test_dust_is_neither_cut_nor_smeared_into_a_hole():
    rng = np.random.default_rng(1)
    picture = rng.normal(100, 2, (160, 160, 3))
    for y, x in rng.integers(5, 150, (25, 2)):
        picture[y : y + 5, x : x + 5] += 80
    picture = picture.clip(0, 255).astype(np.uint8)
    holes = np.zeros((160, 160), bool)
    holes[60:90, 60:90] = True
    ring = cv2.dilate(holes.astype(np.uint8), np.ones((3, 3))).astype(bool) & ~holes
    edge = holes & ~cv2.erode(holes.astype(np.uint8), np.ones((3, 3))).astype(bool)
    picture[ring] = 100
    painted = [painting.paint_out(picture, holes, seed) for seed in range(20)]
    assert np.mean([(one[edge] > 130).mean() for one in painted]) < 0.01
    assert abs(np.mean([np.median(one[holes]) for one in painted]) - 100) < 1


def test_beyond_the_margin_nothing_of_a_simulated_cell_is_left():
    near, far = [], []
    for number in range(12):
        cells = traits_of([(64, 64)], number=number).assign(focus_um=[0.5 * (number % 3)])
        picture, labels = field_of(cells, 128)
        painting = REACH.paint(picture, labels, 0)
        rest = picture - views.low_frequencies(picture, painting.distance > 20, 12)
        away = painting.distance
        near.append(rest[(away > REACH.margin_px) & (away < REACH.margin_px + 4)])
        # dust lies anywhere
        far.append(np.median(np.abs(rest[away > 25]), axis=0))
    spread = np.median(np.abs(np.concatenate(near)), axis=0)
    assert np.allclose(spread, np.mean(far, axis=0), rtol=0.15)


def test_the_hole_does_not_tell_the_size_of_the_cell():
    truth, whole, painted = np.arange(150) % 2, [], []
    for number, larger in enumerate(truth):
        cells = traits_of([(64, 64)], radius=13.0 + 4 * larger, number=number)
        picture, labels = field_of(cells, 128, day=number % 5)
        middle = slice(64 - 32, 64 + 32), slice(64 - 32, 64 + 32)
        whole.append(picture[middle])
        painted.append(REACH.paint(picture, labels, number).painted[middle])
    assert told_apart(whole, truth) > 0.8
    assert abs(told_apart(painted, truth) - 0.5) < 0.15


def test_a_painted_field_does_not_tell_how_many_cells_it_held():
    truth, whole, painted = np.arange(70) % 2, [], []
    spots = np.stack(np.meshgrid([34, 86, 138, 190], [34, 86, 138, 190]), -1).reshape(-1, 2)
    for number, many in enumerate(truth):
        rng = np.random.default_rng(number)
        centres = rng.permutation(spots)[: 12 if many else 2] + rng.uniform(-9, 9)
        picture, labels = field_of(traits_of(centres, number=number), 224, day=number % 5)
        whole.append(picture)
        painted.append(REACH.paint(picture, labels, number).painted)
    assert told_apart(whole, truth) > 0.9
    assert abs(told_apart(painted, truth) - 0.5) < 0.2


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return a study of 12 simulated fields of 3 classes with masks, as 01 and 02 write it."""
    study = Study(tmp_path_factory.mktemp("views") / "study")
    rows, cells, patches = [], [], []
    for number in range(12):
        name, class_name = f"field_{number:02d}", CLASSES[number % 3]
        placed = specimen.draw_cells(f"{name}.oir", class_name, FIELD, 3)
        rng = np.random.default_rng(number)
        centres = [(40, 40), (110, 100), *rng.uniform([[30, 110]], [[60, 130]], (number % 2, 2))]
        placed = traits_of(centres, class_name=class_name, number=number)
        picture, labels = field_of(placed, FIELD, day=number % 4)
        source = f"{class_name}/{name}.oir"
        rows.append(
            {column: kind() for column, kind in manifest.IMAGE_COLUMNS.items()}
            | {
                "image_id": name,
                "path": f"images/{name}.png",
                "source": source,
                "class": class_name,
                "split": "test" if number < 9 else "train",
                **{"height": FIELD, "width": FIELD},
            }
        )
        write_rgb(study.prepared / rows[-1]["path"], picture)
        mask = study.truth / "masks" / class_name / f"{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(mask), labels.astype(np.uint16))
        for k, (y, x) in enumerate(np.round(placed[["y", "x"]].to_numpy(), 2)):
            top, left = int(np.rint(y)) - SIDE // 2, int(np.rint(x)) - SIDE // 2
            cells.append(
                {"cell_id": f"{name}__{k}", "image_id": name, "class": class_name}
                | {"split": rows[-1]["split"], "y": y, "x": x, "sigma": 10.5, "row": len(cells)}
            )
            patches.append(picture[top : top + SIDE, left : left + SIDE])
    write_csv(study.prepared / "images.csv", pd.DataFrame(rows))
    return study, pd.DataFrame(rows), pd.DataFrame(cells), np.stack(patches)


@pytest.fixture(scope="module")
def written(simulated, tmp_path_factory):
    study, images, cells, patches = simulated
    folder = tmp_path_factory.mktemp("surroundings")
    masks = study.truth / "masks"
    return views.write_surroundings(study, images, cells, patches, masks, 64, folder), folder


def labels_in(simulated, written, rows=slice(None)):
    study, _, cells, patches = simulated
    return views.find_cells(study, cells[rows], patches, study.truth / "masks", written[0])


def test_surroundings_differ_from_the_patches_where_cells_are_and_nowhere_else(simulated, written):
    _, _, cells, patches = simulated
    found, labels = written[0], labels_in(simulated, written)
    assert found.patches.shape == patches.shape and found.patches.dtype == np.uint8
    for row, of_patch in zip(cells["row"], labels, strict=True):
        away = cv2.distanceTransform((of_patch == 0).astype(np.uint8), cv2.DIST_L2, 5)
        # a neighbour beyond the window may reach into it
        beyond = (away > found.margin_px + 0.5) & (away < SIDE / 4)
        assert (found.patches[row][beyond] == patches[row][beyond]).mean() > 0.95
        assert (found.patches[row][of_patch > 0] != patches[row][of_patch > 0]).any(1).mean() > 0.9
    assert found.cells["usable"].all() and found.cells["row"].tolist() == cells["row"].tolist()


def test_images_come_in_the_size_of_the_models_input_and_in_order(simulated, written):
    study, images, _, _ = simulated
    found = written[0]
    given = np.stack([read_rgb(study.prepared / path) for path in images["path"]])
    small = training.resize(given, 64)
    judged = (images["split"] == "test").to_numpy()
    counts = found.counts
    assert counts["image_id"].tolist() == images["image_id"].tolist()
    assert counts["cells"].tolist() == [2 + number % 2 for number in range(12)]
    assert counts["judged"].tolist() == judged.tolist()
    assert found.kept == 2 and not counts["too_few"].any()
    for name in ("images", "only_cells", "same_number"):
        made = getattr(found, name)
        assert made.shape == small.shape and made.dtype == np.uint8
        assert made[judged].reshape(judged.sum(), -1).any(axis=1).all()
    assert not found.only_cells[~judged].any() and not found.same_number[~judged].any()
    # the first cell's dark ring is gone
    ring = [pictures[:, 8:24, 8:24, 1].min(axis=(1, 2)) for pictures in (small, found.images)]
    assert (ring[0] + 15 < ring[1]).mean() > 0.9
    # all images share one background where none has a cell
    assert np.ptp(found.only_cells[judged][:, 32, 5].astype(int), axis=0).max() <= 1
    # two of two cells stay, one of three goes
    assert (found.same_number[0] == small[0]).mean() > 0.99
    changed = (found.same_number[1] != small[1]).any(axis=2).sum()
    assert 0.3 < changed / (found.images[1] != small[1]).any(axis=2).sum() * 3 < 2


def test_what_is_finished_is_found_again_and_what_is_not_passes_for_nothing(
    simulated, tmp_path, monkeypatch
):
    study, images, cells, patches = simulated
    given = study, images, cells, patches, study.truth / "masks", 64, tmp_path
    calls, painted = [], views.filled

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return painted(*arguments)

    monkeypatch.setattr(views, "filled", counted)
    with pytest.raises(KeyboardInterrupt):
        views.write_surroundings(*given)
    assert not list(tmp_path.glob("*.npy")) and not list(tmp_path.glob("*.json"))
    first = views.write_surroundings(*given)
    count = len(calls)
    again = views.write_surroundings(*given)
    assert len(calls) == count
    assert all((first[k] == again[k]).all() for k in range(4))
    moved = cells.assign(**{"class": cells["class"].iloc[::-1].to_numpy()})
    views.write_surroundings(study, images, moved, *given[3:])
    assert len(calls) > count
    (tmp_path / "patches.npy").write_bytes(b"torn")
    last = views.write_surroundings(study, images, moved, *given[3:])
    assert (last.patches == first.patches).all()


def test_the_order_of_images_changes_nothing(simulated, written, tmp_path):
    study, images, cells, patches = simulated
    other = views.write_surroundings(
        study, images[::-1], cells[::-1], patches, study.truth / "masks", None, tmp_path
    )
    assert (other.patches == written[0].patches).all()
    assert other.images is other.only_cells is other.same_number is None and other.kept == 0


def test_views_of_cells(simulated, written):
    _, _, cells, patches = simulated
    test = (cells["split"] == "test").to_numpy()
    labels = labels_in(simulated, written, test)
    shown = views.cell_views(cells[test], patches, written[0], labels, 0)
    assert [*shown] == [
        views.AS_IT_IS,
        views.ONLY_CELL,
        views.SURROUNDINGS,
        views.OWN_BACKGROUND,
        views.OTHER_BACKGROUND,
    ]
    assert {made.shape for made in shown.values()} == {patches[test].shape}
    assert {made.dtype for made in shown.values()} == {np.dtype(np.uint8)}
    middle = slice(SIDE // 2 - 8, SIDE // 2 + 8)
    as_it_is = shown[views.AS_IT_IS]
    for name in (views.ONLY_CELL, views.OWN_BACKGROUND, views.OTHER_BACKGROUND):
        for own, other in zip(as_it_is, shown[name], strict=True):
            pair = own[middle, middle, 1].ravel(), other[middle, middle, 1].ravel()
            assert np.corrcoef(pair)[0, 1] > 0.9
    # in the corners there is the common background, but for neighbours, of which there is none
    corners = shown[views.ONLY_CELL][:, :3, :3].astype(int)
    assert np.abs(corners - written[0].common[:3, :3]).max() <= 1
    again = views.cell_views(cells[test][5:9], patches, written[0], labels[5:9], 0)
    assert all((again[name] == shown[name][5:9]).all() for name in shown)
    other = views.cell_views(cells[test], patches, written[0], labels, 1)
    assert (other[views.OWN_BACKGROUND] != shown[views.OWN_BACKGROUND]).any()


@pytest.mark.parametrize("count", [2, 12])
def test_backgrounds_come_from_other_images_and_from_all_other_classes(count):
    names = np.repeat([f"class {k}" for k in range(count)], 40)
    number = np.arange(len(names))
    cells = pd.DataFrame({"class": names, "row": number, "split": "test", "usable": True})
    cells = cells.assign(
        cell_id=[f"c{k}" for k in number], image_id=[f"i{k // 10}" for k in number]
    )
    cells.loc[3, "usable"] = False
    drawn = views._donors(cells, cells, 0)
    own, other = (
        cells.iloc[drawn[name]] for name in (views.OWN_BACKGROUND, views.OTHER_BACKGROUND)
    )
    assert (own["class"].to_numpy() == names).all()
    assert (own["image_id"].to_numpy() != cells["image_id"]).all()
    assert (other["class"].to_numpy() != names).all()
    assert 3 not in [*own["row"], *other["row"]]
    of_first = (
        other["class"][: 40 * 3].value_counts() if count == 12 else other["class"].value_counts()
    )
    assert len(of_first) == count


def test_a_class_in_one_image_keeps_its_background_and_one_class_has_no_other(simulated, written):
    _, _, cells, patches = simulated
    test = (cells["split"] == "test").to_numpy()
    labels, found = labels_in(simulated, written, test), written[0]
    alone = found.cells.assign(
        **{"class": np.where(found.cells["image_id"] == "field_00", "A", "B")}
    )
    some = cells[test].assign(**{"class": alone["class"][test]})
    shown = views.cell_views(some, patches, found._replace(cells=alone), labels, 0)
    lone = (some["class"] == "A").to_numpy()
    for name in (views.OWN_BACKGROUND, views.OTHER_BACKGROUND):
        same = (shown[name] == shown[views.AS_IT_IS]).all(axis=(1, 2, 3))
        assert (same == lone).all()
    one = found.cells.assign(**{"class": "A"})
    shown = views.cell_views(
        some.assign(**{"class": "A"}), patches, found._replace(cells=one), labels, 0
    )
    assert [*shown] == [views.AS_IT_IS, views.ONLY_CELL, views.SURROUNDINGS]


def test_without_masks_discs_are_taken_around_detections(simulated, tmp_path):
    study, images, cells, patches = simulated
    settings_ = detection.DetectionSettings(min_sigma=8, max_sigma=13, threshold=0.3)
    alone = Study(tmp_path / "study")
    alone.prepared.parent.mkdir(parents=True)
    alone.prepared.symlink_to(study.prepared)
    settings_.write(alone.cells / "detection.json", "hand")
    few = cells.groupby("image_id").head(1)
    found = views.write_surroundings(alone, images, few, patches, None, None, tmp_path / "out")
    # cells that cells.csv does not hold are found anew
    assert found.counts["cells"].between(2, 4).all()
    labels = views.find_cells(alone, few, patches, None, found)
    radius = np.sqrt((labels == 1).sum(axis=(1, 2)) / np.pi)
    assert np.allclose(radius, 2**0.5 * 10.5, atol=1)
    rows = few["row"]
    middle = slice(SIDE // 2 - 8, SIDE // 2 + 8)
    grain = [
        arrays[rows][:, middle, middle, 1].std(axis=(1, 2)) for arrays in (patches, found.patches)
    ]
    assert (grain[0] > 5 * grain[1]).all()


def test_what_does_not_fit_is_refused(simulated, tmp_path):
    study, images, cells, patches = simulated
    masks = study.truth / "masks"
    with pytest.raises(ValueError, match="does not hold what lies in image field_00"):
        views.write_surroundings(study, images, cells, 255 - patches, masks, None, tmp_path)
    with pytest.raises(ValueError, match="masks in the size of the prepared images"):
        larger = images.assign(height=FIELD + 1)
        views.write_surroundings(study, larger, cells, patches, masks, None, tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no mask"):
        views.write_surroundings(study, images, cells, patches, tmp_path, None, tmp_path)
    ready = cells.assign(y=np.nan, x=np.nan)
    with pytest.raises(ValueError, match="images of their own"):
        views.write_surroundings(study, images, ready, patches, None, 64, tmp_path)


def test_ready_patches_are_painted_by_themselves(simulated, tmp_path, capsys):
    study, _, cells, patches = simulated
    ready = cells.assign(y=np.nan, x=np.nan, sigma=np.nan, image_id=cells["cell_id"])
    masks = tmp_path / "masks"
    masks.mkdir()
    full = {ready["cell_id"].iloc[4]}
    # an image_id's last part names its mask
    ready["image_id"] = [f"c{k}" for k in range(len(ready))]
    for k, name in enumerate(ready["cell_id"]):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        cv2.circle(mask, (24, 24), 40 if name in full else 12, 255, -1)
        cv2.imwrite(str(masks / f"c{k}.png"), mask)
    found = views.write_surroundings(study, None, ready, patches, masks, None, tmp_path / "out")
    assert "1 of" in capsys.readouterr().out
    assert found.cells["usable"].tolist() == [name not in full for name in ready["cell_id"]]
    assert found.counts is None and found.kept == 0
    assert not found.patches[4].any()
    assert (found.patches[:, 0, 0] == patches[:, 0, 0])[found.cells["usable"]].all()
    shown = views.cell_views(
        ready, patches, found, views.find_cells(study, ready, patches, masks, found), 0
    )
    assert not shown[views.ONLY_CELL][4].any() and shown[views.ONLY_CELL][5].any()
    segmented = views.write_surroundings(study, None, ready, patches, None, None, tmp_path / "s")
    assert segmented.cells["usable"].mean() > 0.5


def test_figures_show_every_view_in_the_order_of_readers(simulated, written):
    _, images, cells, patches = simulated
    some, found = cells.iloc[:6], written[0]
    shown = views.cell_views(some, patches, found, labels_in(simulated, written, slice(6)), 0)
    figure = figures.cell_views(shown, some["class"], "simulated")
    order = paper.class_order(some["class"])
    expected = sorted(some["class"], key=order.index)
    assert [axes.get_title() for axes in figure.axes[:6]] == expected
    assert sum(len(axes.images) for axes in figure.axes) == 6 * len(shown)
    assert "Micrographs of 6 cells" in figure.alt and ", ".join(shown) in figure.alt
    shown = {"cells painted out": found.images[:3], "only the cells": found.only_cells[:3]}
    figure = figures.image_views(shown, images["class"][:3], "simulated")
    assert [axes.get_title() for axes in figure.axes[:2]] == [*shown]
    assert sum(len(axes.images) for axes in figure.axes) == 6
    assert "each shown cells painted out, only the cells. simulated." in figure.alt


@pytest.mark.skipif("HSC_TEST_DATA" not in os.environ, reason="HSC_TEST_DATA is not set")
def test_real_stained_cells_are_gone():
    folder = Path(os.environ["HSC_TEST_DATA"]) / "cells"
    for number in range(1, 300, 25):
        path = next(folder.glob(f"white_blood_cells/*/{number:03d}.png"))
        picture = read_rgb(path)
        mask = cv2.imread(str(folder / f"white_blood_cells_masks/{number:03d}.png"), 0) > 0
        holes = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))).astype(bool)
        painted = painting.paint_out(picture, holes, number, 0.8 * np.sqrt(mask.sum() / np.pi))
        assert (painted[~holes] == picture[~holes]).all()
        # stained cells are darker in green than what lies around them
        inside, around = painted[mask][:, 1], picture[~holes][:, 1]
        assert picture[mask][:, 1].mean() < around.mean() - 20
        assert abs(inside.mean() - around.mean()) < 0.6 * around.std() + 5
