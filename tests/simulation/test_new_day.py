import hashlib

import numpy as np
import pandas as pd
import pytest
from oirfile import OirFile
from PIL import Image

from hsc_utils import simulation
from hsc_utils.manifest import read_rejected
from hsc_utils.preparation import prepare_images
from hsc_utils.simulation import optics, simulate, specimen

SIZE = 128


def write(folder, size=SIZE):
    return simulation.write_new_day(folder / "raw", folder / "truth", size=size, workers=1)


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.*")
    }


@pytest.fixture(scope="module")
def new_day(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new_day")
    return folder, write(folder)


def test_a_new_day_is_twelve_fields_of_a_day_that_the_demo_lacks(new_day):
    folder, cells = new_day
    demo = simulate.plan_demo(simulate.DEMO_COUNTS, 10, 0)
    fields = cells.drop_duplicates("source")
    assert fields.groupby("class").size().to_dict() == {"LT-HSC": 4, "ST-HSC": 4, "MPP": 4}
    days = fields["source"].str.split("/").str[1].unique()
    assert list(days) == ["2024-05-13"]
    assert days[0] > demo["source"].str.split("/").str[1].max()
    for source in fields["source"]:
        with OirFile(folder / "raw" / source) as oir:
            assert oir.asarray().shape[1:] == (SIZE, SIZE)
            assert "SIMULATED" in str(oir.xml_metadata)
        labels = Image.open(folder / "truth" / "masks" / source.replace(".oir", ".png"))
        assert set(np.unique(np.asarray(labels))) - {0} <= set(
            cells.loc[cells["source"] == source, "label"]
        )


def test_neither_a_cell_nor_the_light_is_the_demo_s(new_day):
    _, cells = new_day
    demo = simulate.plan_demo({"ST-HSC": 4}, 1, 0)["source"]
    shown = pd.concat([specimen.draw_cells(source, "ST-HSC", SIZE, 0) for source in demo])
    traits = list(specimen.TRAITS)
    assert not len(cells.merge(shown, on=traits))
    light = optics.day_light(simulate._NEW_SEED, simulate._NEW_DAY)["tilt"]
    assert light not in {optics.day_light(0, day)["tilt"] for day in range(10)}
    for name in traits:  # cut from the same distributions
        low, high = specimen.TRAITS[name].limits
        assert cells[name].between(low, high).all()


def test_one_file_is_refused_and_every_other_one_read(new_day, tmp_path):
    folder, cells = new_day
    images = prepare_images(folder / "raw", tmp_path, workers=1, small_classes="train")
    rejected = read_rejected(tmp_path)
    assert set(images["source"]) == set(cells["source"])
    assert images["simulated"].all()
    assert list(rejected["source"]) == ["MPP/2024-05-13/cut short.oir"]
    assert "damaged or cut short" in rejected["reason"].item()


def test_a_second_call_changes_nothing_and_completes_what_is_missing(new_day):
    folder, cells = new_day
    before = digests(folder)
    next((folder / "raw").rglob("field_001.oir")).unlink()
    next((folder / "raw").rglob("cut short.oir")).write_bytes(b"")
    pd.testing.assert_frame_equal(write(folder), cells)
    assert digests(folder) == before


def test_another_size_and_a_demo_in_its_place_are_refused(new_day):
    folder, _ = new_day
    with pytest.raises(ValueError, match="belongs to a demo with other size"):
        write(folder, size=160)
    with pytest.raises(ValueError, match="belongs to a demo with other counts"):
        simulation.write_demo(folder / "raw", folder / "truth", {"MPP": 1})
