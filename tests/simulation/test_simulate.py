import hashlib
import json
import subprocess
import sys
from datetime import datetime

import numpy as np
import openreadout
import pandas as pd
import pytest
from oirfile import OirFile
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hsc_utils import simulation
from hsc_utils.manifest import read_rejected
from hsc_utils.preparation import prepare_images
from hsc_utils.provenance import SIMULATED_NOTE
from hsc_utils.simulation import optics, planted, simulate, specimen

COUNTS = {"LT-HSC": 6, "ST-HSC": 6, "MPP": 6}
SIZE = 448
TYPICAL = {name: trait.means[2] for name, trait in specimen.TRAITS.items()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    cells = simulate.write_demo(
        folder / "raw", folder / "truth", COUNTS, size=SIZE, days=2, seed=3, workers=1
    )
    return folder, cells


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def tiny(folder, **kwargs):
    settings = {"counts": {"LT-HSC": 1, "MPP": 2}, "size": 128, "seed": 5, "workers": 1}
    return simulate.write_demo(folder / "raw", folder / "truth", **(settings | kwargs))


def patches(folder, cells, side=40):
    """Cut cells from the first two slices, on their true centres."""
    cut = []
    for source, of_source in cells.groupby("source", sort=False):
        with OirFile(folder / "raw" / source) as oir:
            slices = np.pad(oir.asarray()[:2], ((0, 0), (side, side), (side, side)), "reflect")
        for y, x in of_source[["y", "x"]].round().astype(int).to_numpy() + side // 2:
            cut.append(slices[:, y : y + side, x : x + side])
    return np.stack(cut).astype(np.float32)


def grouped_auroc(features, cells):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probabilities = cross_val_predict(
        model,
        features,
        cells["class"],
        groups=cells["source"],
        cv=GroupKFold(6),
        method="predict_proba",
    )
    return roc_auc_score(cells["class"], probabilities, multi_class="ovr")


def test_files_are_what_a_microscope_would_give(demo):
    folder, cells = demo
    files = sorted((folder / "raw").rglob("field_*.oir"))
    assert len(files) == sum(COUNTS.values())
    for path in files[::4]:
        with OirFile(path) as oir:
            pixels = oir.asarray()
            assert oir.dims == ("C", "Y", "X")
            assert pixels.dtype == np.uint16
            assert pixels.max() < 4096
            assert oir.bitspersample == 12
            assert oir.coord_scales["X"] == specimen.PIXEL_SIZE_UM
            names = [channel.name for channel in oir.channels]
            assert names == list(simulate.SLICE_NAMES[: len(pixels)])
            assert f"{datetime.fromisoformat(oir.datetime):%Y-%m-%d}" == path.parent.name
            assert "SIMULATED" in str(oir.xml_metadata)
        with openreadout.File(path) as oir:
            assert oir.check()["findings"] == []
            np.testing.assert_array_equal(oir.read_image(0)[0, :, 0], pixels)
    assert set(cells["source"]) == {p.relative_to(folder / "raw").as_posix() for p in files}


def test_truth_and_label_images_agree(demo):
    folder, cells = demo
    for source, of_source in list(cells.groupby("source"))[::4]:
        labels = np.asarray(Image.open(folder / "truth/masks" / source.replace(".oir", ".png")))
        assert labels.dtype == np.uint16
        for part in ("nuclei", "granules"):
            of_part = np.asarray(
                Image.open(folder / "truth" / part / source.replace(".oir", ".png"))
            )
            assert (of_part[of_part > 0] == labels[of_part > 0]).all()
            assert 0.05 < (of_part > 0).sum() / (labels > 0).sum() < 0.9
        assert set(np.unique(labels)) - {0} == set(of_source["label"])
        assert list(of_source["label"]) == list(range(1, len(of_source) + 1))
        whole = of_source[
            of_source[["y", "x"]].apply(lambda c: c.between(30, SIZE - 30)).all(axis=1)
        ]
        for cell in whole.itertuples():
            rows, columns = np.nonzero(labels == cell.label)
            assert np.hypot(rows.mean() - cell.y, columns.mean() - cell.x) < 2.5
            assert np.sqrt(len(rows) / np.pi) == pytest.approx(cell.radius_px, rel=0.15)
    assert not list((folder / "raw").rglob("*.csv"))
    assert not list((folder / "raw").rglob("*.png"))


def test_slices_look_like_their_names():
    source = "ST-HSC/2024-03-04/field_001.oir"
    cells = specimen.draw_cells(source, "ST-HSC", 640, 1)
    pixels, parts = optics.render(cells, 4, 0, 640, 1)
    labels = parts["inside"]
    dic, brightfield, glow, dark = pixels.astype(float)
    focused = np.isin(labels, cells.loc[cells["in_focus"], "label"])
    empty = np.median(brightfield[labels == 0])
    assert dic[focused].std() > 3 * dic[labels == 0].std()
    assert brightfield[focused].min() < 0.75 * empty  # the dark ring
    assert brightfield.max() > 1.2 * empty
    assert glow[focused].mean() > 1.5 * glow[labels == 0].mean()
    assert dark.mean() < 0.02 * optics.MAX_COUNT
    assert np.percentile(dark, 99.9) < 0.04 * optics.MAX_COUNT


def test_light_is_redirected_but_hardly_lost():
    rng = np.random.default_rng(0)
    radii = (12, 15, 18, 15)
    delay = np.stack(
        [specimen.draw_cell(rng, (0, 0), TYPICAL | {"radius_px": r}).delay for r in radii]
    )
    for added in optics.transmitted(delay, np.array([0.0, 0.5, -1.0, 6.0])):
        total = np.abs(added).sum(axis=(1, 2))
        assert (np.abs(added.sum(axis=(1, 2))) < 0.06 * total).all()


def test_out_of_focus_cells_are_blurred():
    delay = specimen.draw_cell(np.random.default_rng(0), (0, 0), TYPICAL).delay
    sharp, blurred = optics.transmitted(np.stack([delay, delay]), np.array([0.0, 7.0]))[0]
    assert np.abs(np.diff(blurred)).max() < 0.5 * np.abs(np.diff(sharp)).max()


def test_objects_at_the_border_are_cut():
    field, window = np.zeros((20, 30), np.float32), np.ones((1, 8, 8), np.float32)
    for corner, area in [((-5, 0), 24), ((18, 28), 4), ((5, 5), 64), ((-9, 3), 0), ((40, 40), 0)]:
        field[:] = 0
        optics.add_objects(field, window, np.array([corner]))
        assert field.sum() == area


def test_detector_has_the_noise_it_was_given():
    rng = np.random.default_rng(0)
    levels = optics.expose(
        rng, np.ones((400, 400)), counts=1500, photons=2500, offset=100, read_noise=4
    )
    assert levels.mean() == pytest.approx(1600, abs=1)
    assert levels.std() == pytest.approx(np.hypot(1500 / 50, 4), rel=0.02)
    bright = optics.expose(
        rng, np.full((9, 9), 9), counts=1500, photons=2500, offset=100, read_noise=4
    )
    assert (bright == 4095).all()


def test_cells_do_not_overlap_and_some_touch():
    touching = 0
    for number in range(10):
        cells = specimen.draw_cells(f"ST-HSC/day/{number}.oir", "ST-HSC", 640, 0)
        centres, radius = cells[["y", "x"]].to_numpy(), cells["radius_px"].to_numpy()
        gap = np.linalg.norm(centres[:, None] - centres, axis=2) / np.add.outer(radius, radius)
        np.fill_diagonal(gap, np.inf)
        assert gap.min() > 0.96
        assert ((centres >= 0) & (centres < 640)).all()
        touching += (gap < 1.02).any(axis=1).sum()
    assert touching > 20


def test_plan_follows_the_paper_whatever_the_class():
    plan = simulate.plan_demo(simulate.DEMO_COUNTS, days=6, seed=0)
    shares = pd.crosstab(plan["class"], plan["slices"], normalize="index")
    np.testing.assert_allclose(shares.to_numpy(), [[0.05, 0.9, 0.05]] * 3, atol=0.03)
    assert (pd.crosstab(plan["class"], plan["day"]) >= 5).to_numpy().all()
    density = {
        name: np.mean([len(specimen.draw_cells(s, name, 640, 0)) for s in of_class["source"]])
        for name, of_class in plan.groupby("class")
    }
    assert 2.4 < density["ST-HSC"] / density["LT-HSC"] < 3.6
    assert 2.4 < density["ST-HSC"] / density["MPP"] < 3.6


def test_raising_a_count_only_adds_acquisitions():
    few = simulate.plan_demo({"LT-HSC": 5, "MPP": 7}, days=6, seed=0)
    many = simulate.plan_demo({"MPP": 20, "LT-HSC": 8}, days=6, seed=0)
    assert len(few.merge(many)) == len(few)


def test_mean_brightness_says_little_about_class(demo):
    folder, cells = demo
    cut = patches(folder, cells)
    assert grouped_auroc(cut.mean(axis=(2, 3)), cells) < 0.64


def test_each_slice_alone_has_a_clearly_lower_ceiling():
    table = simulation.ceilings(6000)["all"]
    alone = table[table.index.str.endswith("alone")]
    assert list(alone.index) == [f"{name} alone" for name in simulate.SLICE_NAMES[:3]]
    assert table["all three slices"] > 0.985
    assert (alone < table["all three slices"] - 0.04).all()
    assert table[f"only: {specimen.TRAITS['radius_px'].meaning}"] < 0.75


def test_the_ceiling_is_that_of_the_traits_written_beside_the_acquisitions(demo):
    _, cells = demo
    found = grouped_auroc(cells[list(specimen.TRAITS)], cells)
    assert found == pytest.approx(
        simulation.ceilings(6000).loc["all three slices", "all"], abs=0.02
    )


def test_which_spots_are_granules_shows_in_no_slice_alone():
    few, many = (
        specimen.draw_cell(
            np.random.default_rng(4), (0.2, -0.3), TYPICAL | {"spots_on_granules": share}
        )
        for share in (0, 1)
    )
    np.testing.assert_array_equal(few.glow, many.glow)  # the spots stay where they are
    assert few.granules.sum() == pytest.approx(many.granules.sum(), rel=0.25)
    assert few.delay.std() == pytest.approx(many.delay.std(), rel=0.1)
    bright = many.glow > np.percentile(many.glow[many.inside], 92)
    assert many.delay[bright].mean() > few.delay[bright].mean() + 0.5


def test_what_was_planted_is_told_on_a_page(demo):
    folder, cells = demo
    planted.write_page(folder / "truth")
    page = (folder / "truth" / "planted.md").read_text()
    assert SIMULATED_NOTE in page
    assert f"{len(cells):,} true cells" in page
    for trait in specimen.TRAITS.values():
        assert trait.meaning in page
    for name in ("planted_cells.png", "planted_traits.png"):
        assert name in page
        assert np.asarray(Image.open(folder / "truth" / name)).std() > 10
    assert len(
        simulate.write_demo(
            folder / "raw", folder / "truth", COUNTS, size=SIZE, days=2, seed=3, workers=1
        )
    ) == len(cells)  # the page is no foreign file


def test_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    tiny(tmp_path / "one")
    tiny(tmp_path / "two", workers=2)
    tiny(tmp_path / "other", seed=6)
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    same = {path for path in one if one[path] == other[path]}
    assert {path.rpartition("/")[2] for path in same} <= {"notes.txt", "test exposure.oir"}


def test_some_files_cannot_be_used_and_each_says_why(demo, tmp_path):
    folder, _ = demo
    images = prepare_images(folder / "raw", tmp_path, workers=1, small_classes="train")
    rejected = read_rejected(tmp_path)
    assert len(images) == sum(COUNTS.values())
    reasons = rejected.set_index(rejected["source"].str.rpartition("/")[2])["reason"]
    expected = ["cut short.oir", "notes.txt", "saved twice.oir", "test exposure.oir"]
    assert reasons.index.to_list() == expected
    assert "damaged or cut short" in reasons["cut short.oir"]
    assert "holds 1 slice" in reasons["test exposure.oir"]
    assert "the same as" in reasons["saved twice.oir"]


def test_an_interrupted_demo_is_completed_and_a_complete_one_left_alone(tmp_path):
    cells = tiny(tmp_path)
    before = digests(tmp_path)
    oir = next((tmp_path / "raw").rglob("*.oir"))
    kept = [path for path in (tmp_path / "raw").rglob("*.oir") if path != oir]
    times = {path: path.stat().st_mtime_ns for path in kept}
    oir.unlink()
    oir.with_name(f".{oir.name}.part").write_bytes(b"torn")
    next((tmp_path / "truth/masks").rglob("*.png")).unlink()
    (tmp_path / "truth/cells.csv").unlink()
    pd.testing.assert_frame_equal(tiny(tmp_path), cells)
    assert digests(tmp_path) == before
    untouched = {path: path.stat().st_mtime_ns for path in kept}
    assert sum(untouched[path] == times[path] for path in kept) >= len(kept) - 1
    tiny(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == untouched


def test_other_code_makes_the_demo_anew(tmp_path):
    tiny(tmp_path)
    before = digests(tmp_path)
    for path in (tmp_path / "raw").rglob("*.*"):
        path.write_bytes(b"of the old code")
    tiny(tmp_path)
    assert next((tmp_path / "raw").rglob("notes.txt")).read_bytes() == b"of the old code"
    settings = tmp_path / "truth" / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"code_sha256": "other"}))
    tiny(tmp_path)
    assert digests(tmp_path) == before


def test_two_demos_are_not_mixed(tmp_path):
    tiny(tmp_path, counts={"MPP": 1})
    with pytest.raises(ValueError, match="belongs to a demo with other size, seed"):
        tiny(tmp_path, counts={"MPP": 1}, size=160, seed=9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counts": {"LT": 3}}, "of the classes LT-HSC, ST-HSC, MPP"),
        ({"counts": {"MPP": 0}}, "at least 1 acquisition"),
        ({"counts": {}}, "at least 1 acquisition"),
        ({"days": 0}, "at least 1 day"),
        ({"size": 32}, "size=32 is too small"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(tmp_path, **arguments)
    assert not list(tmp_path.rglob("*"))


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "hsc_utils.simulation.simulate", "--size", "128"]
    command += ["--seed", "4"]
    command += ["--raw-dir", tmp_path / "raw", "--truth-dir", tmp_path / "truth"]
    command += ["--lt-hsc", "1", "--st-hsc", "1", "--mpp", "1", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "3 acquisitions" in done.stdout
    assert str(tmp_path) not in done.stdout
    assert json.loads((tmp_path / "truth/settings.json").read_text())["seed"] == 4


@pytest.mark.parametrize("place", ["raw/MPP/mouse 1/real.oir", "raw/day1.tif", "truth/mine.csv"])
def test_a_folder_with_other_peoples_files_is_refused_and_left_alone(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(b"of a microscope")
    (tmp_path / place).with_name("other.oir").write_bytes(b"another")
    before = digests(tmp_path)
    with pytest.raises(ValueError, match=r"1 other files were not made .* simulate_demo to false"):
        tiny(tmp_path)
    assert digests(tmp_path) == before


def test_a_file_that_came_to_a_demo_later_is_refused_but_a_hidden_one_is_not(tmp_path):
    cells = tiny(tmp_path)
    (tmp_path / "raw" / "MPP" / ".DS_Store").write_bytes(b"of the system")
    pd.testing.assert_frame_equal(tiny(tmp_path), cells)
    (tmp_path / "raw" / "MPP" / "own.oir").write_bytes(b"of a microscope")
    with pytest.raises(ValueError, match=r"own\.oir and 0 other files were not made"):
        tiny(tmp_path)


def test_a_demo_damaged_by_a_power_loss_is_made_whole(tmp_path, capsys):
    cells = tiny(tmp_path)
    before = digests(tmp_path)
    next((tmp_path / "raw").rglob("field_*.oir")).write_bytes(b"")
    next((tmp_path / "raw").rglob("cut short.oir")).write_bytes(b"")
    next((tmp_path / "truth/masks").rglob("*.png")).write_bytes(b"")
    (tmp_path / "truth/cells.csv").write_text("source,cl")
    pd.testing.assert_frame_equal(tiny(tmp_path), cells)
    assert digests(tmp_path) == before
    (tmp_path / "truth/settings.json").write_text('{"counts": ')
    tiny(tmp_path)
    assert "settings.json is damaged: the demo is made anew" in capsys.readouterr().out
    assert digests(tmp_path) == before


def test_the_command_line_has_no_folder_of_its_own_and_means_the_callers(tmp_path):
    command = [sys.executable, "-m", "hsc_utils.simulation.simulate", "--size", "128"]
    command += ["--workers", "1", "--lt-hsc", "1", "--st-hsc", "1", "--mpp", "1"]
    for option in ("--raw-dir", "--truth-dir"):
        given = [*command, option, "results here"]
        refused = subprocess.run(given, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert refused.returncode and "arguments are required" in refused.stderr
    assert not list(tmp_path.iterdir())
    subprocess.run([*command, "--raw-dir", "r 1", "--truth-dir", "t"], check=True, cwd=tmp_path)
    assert len(list((tmp_path / "r 1").rglob("field_*.oir"))) == 3
    assert (tmp_path / "t" / "cells.csv").exists()
