from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import openreadout
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oirfile import OirFile

from hsc_utils.simulation.oir import write_oir

MOMENT = datetime(2024, 3, 4, 10, 11, 12, 345000, tzinfo=timezone(timedelta(hours=-5)))


def write(path, pixels, axes="CYX", **kwargs):
    channels = pixels.shape[axes.index("C")] if "C" in axes else 1
    settings = {
        "channel_names": [f"CH{k + 1}" for k in range(channels)],
        "acquired_at": MOMENT,
        "pixel_size_um": 0.31,
    }
    write_oir(path, pixels, axes=axes, **(settings | kwargs))


def random_pixels(shape, dtype=np.uint16, bit_depth=12):
    return np.random.default_rng(0).integers(0, 2**bit_depth, shape, dtype=dtype)


@pytest.mark.parametrize("slices", [2, 3, 4])
def test_two_readers_return_the_same_pixels(tmp_path, slices):
    path = tmp_path / "field.oir"
    pixels = random_pixels((slices, 200, 330))
    write(path, pixels)
    with OirFile(path) as oir:
        assert oir.dims == ("C", "Y", "X")
        assert oir.dtype == np.uint16
        np.testing.assert_array_equal(oir.asarray(), pixels)
    with openreadout.File(path) as oir:
        np.testing.assert_array_equal(oir.read_image(0)[0, :, 0], pixels)
        report = oir.check()
    assert report["ok"]
    assert report["findings"] == []


def test_metadata_reach_both_readers(tmp_path):
    path = tmp_path / "field.oir"
    names = ["DIC", "brightfield, 3 µm above", "auto<fluorescence> & more"]
    write(
        path,
        random_pixels((3, 20, 30)),
        channel_names=names,
        comment="SIMULATED by hsc_utils",
        objective=("UPLXAPO40X", 40.0, 0.95),
    )
    with OirFile(path) as oir:
        assert oir.bitspersample == 12
        assert oir.colortype == "GrayScale"
        assert datetime.fromisoformat(oir.datetime) == MOMENT
        assert [channel.name for channel in oir.channels] == names
        assert oir.coord_scales == {"Y": 0.31, "X": 0.31}
        assert oir.coord_units["X"] == "micrometer"
        assert "SIMULATED by hsc_utils" in str(oir.xml_metadata)
        assert oir.producer == "hscutils"
    image = openreadout.info(path)["images"][0]
    assert datetime.fromisoformat(image["acquired_at"]) == MOMENT
    assert [channel["name"] for channel in image["channels"]] == names
    assert image["physical_size"] == {"x": 0.31, "y": 0.31, "unit": "µm"}
    assert image["objective"]["lens_na"] == 0.95
    assert image["extra"]["significant_bits"] == 12


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    axes=st.permutations("TZC").flatmap(
        lambda order: st.integers(0, 3).map(lambda count: "".join(order[:count]) + "YX")
    ),
    sides=st.tuples(*[st.integers(2, 4)] * 3, *[st.integers(2, 40)] * 2),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    comment=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=300),
)
def test_any_axes_and_comment_survive(tmp_path, axes, sides, dtype, comment):
    path = tmp_path / "field.oir"
    shape = [side for side, axis in zip(sides, "TZCYX", strict=True) if axis in axes]
    lengths = dict(zip([axis for axis in "TZCYX" if axis in axes], shape, strict=True))
    pixels = random_pixels([lengths[axis] for axis in axes], dtype, bit_depth=8)
    write(path, pixels, axes, bit_depth=8, comment=comment)
    order = [axis for axis in "TZCYX" if axis in axes]
    expected = pixels.transpose([axes.index(axis) for axis in order])
    with OirFile(path) as oir:
        assert "".join(oir.dims) == "".join(order)
        np.testing.assert_array_equal(oir.asarray(), expected)
    with openreadout.File(path) as oir:
        stack = np.moveaxis(oir.read_image(0), 1, 2)  # T, C, Z, Y, X to T, Z, C, Y, X
        assert oir.check()["findings"] == []
    np.testing.assert_array_equal(stack.reshape(expected.shape), expected)


def test_positions_of_focal_planes_and_times(tmp_path):
    path = tmp_path / "stack.oir"
    write(path, random_pixels((3, 2, 8, 8)), "TZYX", z_step_um=1.5, interval_s=20.0)
    with OirFile(path) as oir:
        np.testing.assert_allclose(oir.coords["Z"], [0, 1.5])
        np.testing.assert_allclose(oir.coords["T"], [0, 20, 40])
    image = openreadout.info(path)["images"][0]
    assert image["physical_size"]["z"] == 1.5
    assert image["time_increment_s"] == 20


def test_the_byte_that_confuses_oirfile_is_kept_out_of_lengths(tmp_path):
    path = tmp_path / "field.oir"
    pixels = random_pixels((2, 4, 4))
    for length in range(300):  # some of these documents would be 0x...3E bytes long
        write(path, pixels, comment="x" * length)
        with OirFile(path) as oir:
            assert oir.datetime is not None


@pytest.mark.parametrize(
    ("pixels", "arguments", "message"),
    [
        (np.zeros((2, 8, 8), float), {}, "dtype float64"),
        (np.full((2, 8, 8), 4096, np.uint16), {}, "reaches 4096.*at most 4095"),
        (np.zeros((2, 8, 8), np.uint8), {"bit_depth": 12}, "bit_depth=12 does not fit uint8"),
        (np.zeros((2, 8, 8), np.uint16), {"channel_names": ["one"]}, "1 names for 2 channels"),
        (np.zeros((8, 8), np.uint16), {"channel_names": ["one"]}, "needs 3 axes"),
        (np.zeros((2, 8, 0), np.uint16), {}, "none empty"),
        (np.zeros((2, 8, 8), np.uint16), {"acquired_at": datetime(2024, 1, 1)}, "no time zone"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path, pixels, arguments, message
):
    path = tmp_path / "field.oir"
    with pytest.raises(ValueError, match=message):
        write(path, pixels, **arguments)
    assert not path.exists()


@pytest.mark.parametrize("axes", ["CXY", "YX", "SYX", "CCYX", "CYXZ"])
def test_unknown_axes_are_refused(tmp_path, axes):
    with pytest.raises(ValueError, match="axes="):
        write_oir(
            tmp_path / "field.oir",
            np.zeros((2, 8, 8), np.uint16),
            axes=axes,
            channel_names=["one", "two"],
            acquired_at=datetime(2024, 1, 1, tzinfo=UTC),
            pixel_size_um=0.3,
        )
