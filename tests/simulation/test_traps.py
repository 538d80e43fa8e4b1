import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oirfile import OirFile
from PIL import Image

from hsc_utils.simulation import optics, simulate, specimen
from hsc_utils.simulation.traps import TRAPS, Artefacts

COUNTS = {"LT-HSC": 4, "ST-HSC": 4, "MPP": 4}
SIZE = 224
PLANTED = [name for name in TRAPS if name != "none"]


def write(folder, trap, **kwargs):
    options = {"counts": COUNTS, "size": SIZE, "days": 4, "seed": 2, "workers": 1}
    return simulate.write_demo(folder / "raw", folder / "truth", **options | kwargs, trap=trap)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Every trap's folder and true cells."""
    folder = tmp_path_factory.mktemp("traps")
    return {trap: (folder / trap, write(folder / trap, trap)) for trap in PLANTED}


def fields(study):
    """Yield class, first three slices and label image of every field of a study."""
    folder, cells = study
    for source in cells["source"].unique():
        with OirFile(folder / "raw" / source) as oir:
            pixels = oir.asarray()[:3].astype(float)
            assert "SIMULATED" in str(oir.xml_metadata)
        labels = Image.open(folder / "truth" / "masks" / source.replace(".oir", ".png"))
        yield source.partition("/")[0], pixels, np.asarray(labels)


def by_class(study, measure):
    values = [(name, measure(pixels, labels)) for name, pixels, labels in fields(study)]
    return pd.DataFrame(values).groupby(0)[1].mean()


def test_without_a_trap_a_field_is_what_it_was_before_there_were_traps():
    source = "ST-HSC/2024-03-04/field_001.oir"
    cells = specimen.draw_cells(source, "ST-HSC", 256, 5)
    digest = hashlib.sha256(cells.to_csv(index=False).encode()).hexdigest()
    assert digest == "9df4c590e3f8058c67de9a4b17e0f7582d646ee027ff70d6dea09bbc581723bc"
    pixels, parts = optics.render(cells, 4, 0, 256, 5)
    assert [int(labels.sum()) for labels in parts.values()] == [6319, 2428, 3526]
    # Another draw would shift a sum by thousands; another processor's rounding, by a few levels.
    np.testing.assert_allclose(
        pixels.sum(axis=(1, 2)), [103398092, 125585584, 19082584, 2867418], atol=50
    )


def test_the_demo_holds_no_trap(tmp_path):
    write(tmp_path / "default", "none", size=128)
    simulate.write_demo(
        tmp_path / "plain" / "raw",
        tmp_path / "plain" / "truth",
        COUNTS,
        size=128,
        days=4,
        seed=2,
        workers=1,
    )
    for path in (tmp_path / "default").rglob("*.*"):
        same = tmp_path / "plain" / path.relative_to(tmp_path / "default")
        assert path.read_bytes() == same.read_bytes()


@pytest.mark.parametrize("trap", PLANTED)
def test_a_trap_is_recorded_and_its_study_is_no_other_trap_s(studies, trap):
    folder, _ = studies[trap]
    recorded = json.loads((folder / "truth" / "settings.json").read_text())
    assert recorded["trap"] == trap
    other = PLANTED[PLANTED.index(trap) - 1]
    with pytest.raises(ValueError, match="belongs to a demo with other trap "):
        write(folder, other)


def test_a_demo_older_than_the_traps_is_still_the_demo(tmp_path):
    write(tmp_path, "none", size=128)
    path = tmp_path / "truth" / "settings.json"
    old = json.loads(path.read_text())
    del old["trap"]
    path.write_text(json.dumps(old))
    write(tmp_path, "none", size=128)
    assert json.loads(path.read_text())["trap"] == "none"
    path.write_text(json.dumps(old))
    with pytest.raises(ValueError, match="other trap"):
        write(tmp_path, "clean", size=128)


def test_an_unknown_trap_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="trap='dust' is unknown: expected one of none, clean, "):
        write(tmp_path, "dust")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("trap", PLANTED)
def test_a_trap_gives_the_same_bytes_whatever_the_number_of_workers(studies, trap, tmp_path):
    folder, _ = studies[trap]
    write(tmp_path, trap, workers=2)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path


@pytest.mark.parametrize("trap", [trap for trap in PLANTED if trap != "density"])
def test_only_the_trap_of_density_makes_fields_of_different_density(trap):
    assert len(set(TRAPS[trap].density.values())) == 1


def test_classes_differ_less_than_in_the_demo_but_differ():
    rng = np.random.default_rng(0)
    for name, trait in specimen.TRAITS.items():
        means = [
            [specimen.draw_traits(rng, k, 4000, contrast)[name].mean() for k in specimen.DENSITY]
            for contrast in (0, TRAPS["clean"].contrast, 1)
        ]
        none, some, all_of_it = np.ptp(means, axis=1)
        assert none < 0.1 * trait.spread < some < 0.9 * all_of_it


def test_clean_fields_tell_nothing_but_their_cells(studies):
    plan = TRAPS["clean"]
    counts = [
        sum(len(specimen.draw_cells(f"{name}/{k}", name, 640, 0, plan.density)) for k in range(40))
        for name in specimen.DENSITY
    ]
    assert max(counts) < 1.12 * min(counts)  # numbers of 800, with spread
    background = by_class(studies["clean"], lambda p, labels: np.median(p[1][labels == 0]))
    assert np.ptp(background) < 0.1 * background.mean()


def test_in_the_trap_of_days_each_day_holds_one_class_and_looks_its_own(studies):
    plan = simulate.plan_demo({"LT-HSC": 30, "ST-HSC": 30, "MPP": 30}, 12, 0, "day")
    of_day = plan.groupby("day")["class"].unique()
    assert [list(names) for names in of_day] == [[name] for name in list(specimen.DENSITY) * 4]
    assert plan["acquired_at"].is_unique
    folder, cells = studies["day"]
    days = cells["source"].str.split("/").str[1]
    assert cells.groupby(days)["class"].nunique().max() == 1
    usual, vivid = (
        np.log([optics.day_light(0, day, vivid)["gains"] for day in range(200)]).std()
        for vivid in (False, True)
    )
    assert usual == pytest.approx(0.08, abs=0.01)
    assert vivid == pytest.approx(0.3, abs=0.03)
    with pytest.raises(ValueError, match="days=2: one class per day needs at least 3 days"):
        write(folder / "few", "day", days=2)


@pytest.mark.parametrize("trap", PLANTED)
def test_the_hour_tells_no_class(trap):
    plan = simulate.plan_demo({"LT-HSC": 72, "ST-HSC": 72, "MPP": 72}, 18, 0, trap)
    minutes = plan["acquired_at"].dt.hour * 60 + plan["acquired_at"].dt.minute
    means = minutes.groupby(plan["class"]).mean()
    assert np.ptp(means) < 0.1 * minutes.std()
    assert not plan.duplicated(["acquired_at"]).any()


def test_in_all_other_traps_every_day_holds_every_class(studies):
    for trap in set(PLANTED) - {"day"}:
        cells = studies[trap][1]
        days = cells["source"].str.split("/").str[1]
        assert cells.groupby(days)["class"].nunique().min() == 3


def test_in_the_trap_of_backgrounds_cells_are_those_of_the_clean_study(studies):
    pd.testing.assert_frame_equal(studies["background"][1], studies["clean"][1])
    both = zip(fields(studies["background"]), fields(studies["clean"]), strict=True)
    for (name, dusty, labels), (_, clean, same) in both:
        np.testing.assert_array_equal(labels, same)
        shift = [abs((dusty - clean)[k][labels > 0].mean()) for k in (0, 1)]
        assert max(shift) < 0.01 * clean[:2].mean()  # but for noise
        specks = (np.abs(dusty[1] - clean[1]) > 400)[labels == 0].sum()
        assert specks == 0 if name == "LT-HSC" else specks > 0
    rise = by_class(
        studies["background"],
        lambda p, labels: np.median(p[2][:, -60:]) - np.median(p[2][:, :60]),
    )
    assert rise["LT-HSC"] < rise["ST-HSC"] < rise["MPP"]


def test_dust_lies_on_no_cell():
    source = "MPP/2024-03-04/field_001.oir"
    cells = specimen.draw_cells(source, "MPP", 400, 0)
    _, _, at, _ = optics._dust(cells, 400, 0, 300)
    gaps = np.linalg.norm(at[:, None] - cells[["y", "x"]].to_numpy(), axis=2)
    assert len(at) > 60
    assert (gaps > cells["radius_px"].to_numpy() + 5).all()


def test_in_the_trap_of_density_counts_differ_and_light_does_not(studies):
    counts = studies["density"][1].groupby("class").size()
    assert counts["ST-HSC"] > 1.5 * counts[["LT-HSC", "MPP"]].max()
    ratio = by_class(studies["density"], lambda p, labels: np.median(p[1][labels == 0])) / by_class(
        studies["clean"], lambda p, labels: np.median(p[1][labels == 0])
    )
    assert np.ptp(ratio) < 0.03


def test_in_the_trap_of_borders_nothing_but_the_border_differs_from_the_clean_study(studies):
    pd.testing.assert_frame_equal(studies["border"][1], studies["clean"][1])
    inner = np.s_[:, 4:-4, 4:-4]
    edges = {}
    both = zip(fields(studies["border"]), fields(studies["clean"]), strict=True)
    for (name, rimmed, labels), (_, clean, same) in both:
        np.testing.assert_array_equal(rimmed[inner], clean[inner])
        np.testing.assert_array_equal(labels, same)
        edges[name] = rimmed[1, :3].mean() / clean[1, :3].mean()
    assert edges["LT-HSC"] < 0.75
    assert edges["ST-HSC"] == 1
    assert edges["MPP"] > 1.25


@settings(max_examples=10, deadline=None)
@given(rim=st.floats(0, 2), seed=st.integers(0, 2**31))
def test_a_field_stop_leaves_the_inner_field_alone_whatever_it_lets_pass(rim, seed):
    cells = specimen.draw_cells("MPP/day/1.oir", "MPP", 128, seed)
    stopped, plain = (
        optics.render(cells, 3, 0, 128, seed, Artefacts(rim=passing))[0] for passing in (rim, 1)
    )
    np.testing.assert_array_equal(stopped[:, 4:-4, 4:-4], plain[:, 4:-4, 4:-4])
