"""One file → slices → RGB: every kind of file, the 2/3/4 rule, intensities, and damage."""

import os
import struct
from datetime import UTC, datetime
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hsc_utils.preparation.acquisition import (
    Acquisition,
    AcquisitionError,
    compose_rgb,
    fourth_slice_contrast,
    read_acquisition,
)
from hsc_utils.simulation.oir import write_oir

MOMENT = datetime(2024, 3, 4, 9, 30, tzinfo=UTC)
NAMES = ("DIC", "Brightfield", "Autofluorescence", "Far red")


def stack(*shape, bits=12, seed=0):
    dtype = np.uint8 if bits <= 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(dtype)


def oir(path, pixels, axes="CYX", **kwargs):
    count = pixels.shape[axes.index("C")]
    stated = {"channel_names": NAMES[:count], "acquired_at": MOMENT, "pixel_size_um": 0.31}
    write_oir(path, pixels, axes=axes, **stated, **kwargs)
    return path


def acquisition(slices, bit_depth=None, **kwargs):
    depth = bit_depth or 8 * slices.itemsize
    return Acquisition(slices, depth, tuple(map(str, range(len(slices)))), **kwargs)


def test_oir_with_its_metadata(tmp_path):
    pixels = stack(3, 40, 50)
    path = oir(tmp_path / "a.oir", pixels, objective=("UPLXAPO20X", 20.0, 0.8), comment="SIMULATED")
    one = read_acquisition(path)
    np.testing.assert_array_equal(one.slices, pixels)
    assert one.slices.dtype == np.uint16
    assert (one.bit_depth, one.acquired_at, one.pixel_size_um) == (12, MOMENT, 0.31)
    assert (one.channel_names, one.objective, one.simulated) == (NAMES[:3], "UPLXAPO20X", True)


def test_oir_focal_planes_of_one_channel_are_slices(tmp_path):
    pixels = stack(4, 1, 32, 32)
    one = read_acquisition(oir(tmp_path / "z.oir", pixels, "ZCYX"))
    np.testing.assert_array_equal(one.slices, pixels[:, 0])
    assert one.channel_names[2] == "Z=2, DIC"


def test_ambiguous_file_says_what_it_holds_and_asks(tmp_path):
    pixels = stack(2, 3, 32, 32)
    path = oir(tmp_path / "zc.oir", pixels, "ZCYX")
    with pytest.raises(AcquisitionError, match=r"2 along Z times 3 along C.*0: Z=0, DIC.*`slices`"):
        read_acquisition(path)
    for asked, expected in [
        (["Z=1"], pixels[1]),
        (["Brightfield"], pixels[:, 1]),
        ([5, "0"], pixels[[1, 0], [2, 0]]),
        (["Autofluorescence", "DIC"], pixels[[0, 1, 0, 1], [2, 2, 0, 0]]),
    ]:
        np.testing.assert_array_equal(read_acquisition(path, slices=asked).slices, expected)
    with pytest.raises(AcquisitionError, match=r"no slice 'Hoechst'.*It holds 0: Z=0, DIC"):
        read_acquisition(path, slices=["Hoechst"])


@pytest.mark.parametrize(
    ("axes", "shape"), [("CYX", (3, 20, 24)), ("ZYX", (4, 20, 24)), ("YXC", (20, 24, 3))]
)
def test_ome_tiff_with_its_metadata(tmp_path, axes, shape):
    pixels = stack(*shape)
    metadata = {"axes": axes, "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm"}
    metadata |= {"SignificantBits": 12}
    if axes == "CYX":
        metadata["Channel"] = {"Name": ["DIC", "BF", "AF"]}
    path = tmp_path / "a.ome.tif"
    contiguous = {"planarconfig": "contig"} if axes == "YXC" else {}
    metadata["axes"] = axes.replace("YXC", "YXS")
    tifffile.imwrite(
        path, pixels, ome=True, photometric="minisblack", metadata=metadata, **contiguous
    )
    one = read_acquisition(path)
    expected = np.moveaxis(pixels, -1, 0) if axes == "YXC" else pixels
    np.testing.assert_array_equal(one.slices, expected)
    assert (one.bit_depth, one.pixel_size_um) == (12, 0.25)
    if axes == "CYX":
        assert one.channel_names == ("DIC", "BF", "AF")


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_plain_tiff_stack(tmp_path, compression, byteorder):
    pixels = stack(3, 20, 24)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", compression=compression, byteorder=byteorder
    )
    one = read_acquisition(tmp_path / "a.tif")
    np.testing.assert_array_equal(one.slices, pixels)
    assert one.slices.dtype == np.dtype("uint16")


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_ready_rgb_passes_unchanged(tmp_path, suffix, bits):
    rgb = stack(20, 24, 3, bits=bits)
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        path.write_bytes(imagecodecs.png_encode(rgb))
    else:
        tifffile.imwrite(path, rgb, photometric="rgb")
    one = read_acquisition(path)
    assert one.composed
    expected = rgb if bits == 8 else np.round(rgb / 65535 * 255).astype(np.uint8)
    np.testing.assert_array_equal(compose_rgb(one), expected)


def test_palette_and_opaque_png(tmp_path):
    rgb = stack(20, 24, 3, bits=1) * 200
    Image.fromarray(rgb).quantize(8).save(tmp_path / "palette.png")
    Image.fromarray(rgb).convert("RGBA").save(tmp_path / "opaque.png")
    for name in ("palette", "opaque"):
        one = read_acquisition(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(compose_rgb(one), rgb)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_papers_rule(count):
    slices = stack(count, 16, 20, bits=8)
    rgb = compose_rgb(acquisition(slices))
    np.testing.assert_array_equal(rgb[..., :2], np.moveaxis(slices[:2], 0, -1))
    np.testing.assert_array_equal(rgb[..., 2], slices[2] if count > 2 else 0)


@pytest.mark.parametrize("count", [1, 5, 9])
def test_other_counts_are_refused_unless_selected(count):
    slices = stack(count, 8, 8, bits=8)
    with pytest.raises(AcquisitionError, match=f"holds {count} slice.*2, 3 or 4.*`slices`"):
        compose_rgb(acquisition(slices))
    rgb = compose_rgb(acquisition(slices[:1], selected=True))
    np.testing.assert_array_equal(rgb[..., 0], slices[0])
    assert not rgb[..., 1:].any()
    if count > 3:
        with pytest.raises(AcquisitionError, match="one to three"):
            compose_rgb(acquisition(slices, selected=True))


@given(
    bits=st.integers(9, 16),
    low=st.floats(0, 500),
    width=st.floats(1, 60000),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_eight_bits_against_plain_arithmetic(bits, low, width, seed):
    slices = stack(2, 9, 11, bits=bits, seed=seed)
    full = compose_rgb(acquisition(slices, bits))
    expected = np.round(slices * (255 / (2**bits - 1)))
    np.testing.assert_array_equal(np.moveaxis(full[..., :2], -1, 0), expected)
    fixed = compose_rgb(acquisition(slices, bits), to_8_bit="fixed", limits=(low, low + width))
    expected = np.clip((slices - low) / width, 0, 1) * 255
    assert np.abs(np.moveaxis(fixed[..., :2], -1, 0) - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("to_8_bit", ["image", "slice"])
def test_percentiles(to_8_bit):
    slices = stack(3, 60, 60) // np.array([1, 2, 4], np.uint16)[:, None, None]
    rgb = compose_rgb(acquisition(slices, 12), to_8_bit=to_8_bit, limits=(1, 99)).astype(float)
    for k, plane in enumerate(slices):
        low, high = np.percentile(slices if to_8_bit == "image" else plane, [1, 99])
        expected = np.clip((plane - low) / (high - low), 0, 1) * 255
        assert np.abs(rgb[..., k] - expected).max() < 1.5


def test_eight_bits_are_never_changed():
    slices = stack(3, 16, 16, bits=8)
    for to_8_bit in ("bit_depth", "image", "slice"):
        rgb = compose_rgb(acquisition(slices), to_8_bit=to_8_bit)
        np.testing.assert_array_equal(np.moveaxis(rgb, -1, 0), slices)


def test_eight_bit_requests_are_checked():
    one = acquisition(stack(3, 8, 8))
    with pytest.raises(ValueError, match=r"'auto'.*bit_depth, fixed, image, slice"):
        compose_rgb(one, to_8_bit="auto")
    with pytest.raises(ValueError, match="needs limits"):
        compose_rgb(one, to_8_bit="fixed")
    with pytest.raises(ValueError, match="percentiles from 0 to 100"):
        compose_rgb(one, to_8_bit="slice", limits=(1, 4095))
    for limits in [(9, 3), (5, 5), (1, 2, 3), (1,)]:
        with pytest.raises(ValueError, match="two were expected, the first the smaller"):
            compose_rgb(one, to_8_bit="fixed", limits=limits)


def test_fourth_slice_contrast():
    slices = stack(4, 64, 64)
    assert fourth_slice_contrast(acquisition(slices, 12)) > 0.9
    slices[3] //= 100
    assert fourth_slice_contrast(acquisition(slices, 12)) == pytest.approx(0.01, abs=0.002)
    assert np.isnan(fourth_slice_contrast(acquisition(slices[:3], 12)))


def test_bit_depth_is_held(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stack(3, 16, 16), photometric="minisblack")
    assert read_acquisition(tmp_path / "a.tif").bit_depth == 16
    assert read_acquisition(tmp_path / "a.tif", bit_depth=12).bit_depth == 12
    with pytest.raises(AcquisitionError, match=r"reach \d+, but its bit depth is said to be 10"):
        read_acquisition(tmp_path / "a.tif", bit_depth=10)


def test_unusable_files_say_why(tmp_path):
    def refused(name, match):
        with pytest.raises(AcquisitionError, match=match):
            read_acquisition(tmp_path / name)

    refused("absent.oir", "cannot be opened")
    (tmp_path / "empty.tif").touch()
    refused("empty.tif", "empty.tif: It is empty")
    (tmp_path / "text.oir").write_text("not an image, but a long enough text")
    refused("text.oir", "neither OIR, TIFF nor PNG")
    oir(tmp_path / "t.oir", stack(3, 1, 16, 16), "TCYX")
    refused("t.oir", "time lapse of 3 frames")
    tifffile.imwrite(
        tmp_path / "float.tif", np.zeros((3, 8, 8), np.float32), photometric="minisblack"
    )
    refused("float.tif", "float32.*8 or 16 bits")
    with tifffile.TiffWriter(tmp_path / "tiles.tif") as tiff:
        for side in (8, 16):
            tiff.write(stack(side, side), photometric="minisblack")
    refused("tiles.tif", "2 separate images")
    rgba = stack(8, 8, 4, bits=8)
    (tmp_path / "glass.png").write_bytes(imagecodecs.png_encode(rgba))
    refused("glass.png", "transparency")


def test_format_is_known_by_content_not_by_name(tmp_path):
    pixels = stack(3, 16, 16)
    oir(tmp_path / "a.tif", pixels)
    np.testing.assert_array_equal(read_acquisition(tmp_path / "a.tif").slices, pixels)


def test_huge_claims_cost_nothing(tmp_path):
    png = bytearray(imagecodecs.png_encode(stack(8, 8, 3, bits=8)))
    png[16:24] = struct.pack(">II", 2**30, 2**30)
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(AcquisitionError, match="too many"):
        read_acquisition(tmp_path / "a.png")
    content = oir(tmp_path / "a.oir", stack(2, 16, 16)).read_bytes()
    for old, new in ((b"width>16<", b"width>99999999<"), (b"height>16<", b"height>12<")):
        (tmp_path / "b.oir").write_bytes(content.replace(old, new))
        with pytest.raises(AcquisitionError):
            read_acquisition(tmp_path / "b.oir")


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intact")
    pixels = stack(3, 48, 48)
    tifffile.imwrite(folder / "a.tif", pixels, photometric="minisblack", compression="zlib")
    (folder / "a.png").write_bytes(imagecodecs.png_encode(stack(48, 48, 3, bits=8)))
    oir(folder / "a.oir", pixels)
    return folder


@pytest.mark.parametrize("suffix", ["oir", "tif", "png"])
@given(data=st.data())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_files_are_refused_or_read_whole(intact, suffix, data):
    """Cut short, or with flipped bits: an AcquisitionError, or an image of the right shape."""
    content = bytearray((intact / f"a.{suffix}").read_bytes())
    cut = data.draw(st.booleans())
    if cut:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        places = st.integers(0, 8 * len(content) - 1)
        for bit in data.draw(st.lists(places, min_size=1, max_size=8)):
            content[bit // 8] ^= 1 << bit % 8
    damaged = intact / f"damaged.{suffix}"
    damaged.write_bytes(content)
    try:
        rgb = compose_rgb(read_acquisition(damaged))
    except AcquisitionError as error:
        assert "damaged." in str(error) or "slice" in str(error)
        return
    assert rgb.dtype == np.uint8
    if suffix != "tif":
        assert rgb.shape == (48, 48, 3)


@pytest.mark.skipif("HSC_TEST_DATA" not in os.environ, reason="HSC_TEST_DATA is not set")
@pytest.mark.parametrize("count", [2, 3, 4])
def test_real_brightfield_planes_reach_their_channels(count):
    path = Path(os.environ["HSC_TEST_DATA"]) / f"slices/brightfield_{count}slice.tif"
    planes = tifffile.imread(path)
    one = read_acquisition(path)
    rgb = compose_rgb(one)
    for k in range(min(count, 3)):
        assert rgb[..., k].tobytes() == planes[k].tobytes()
    assert count > 2 or not rgb[..., 2].any()
    # A fourth focal plane is no black slice, and is reported as such.
    assert count < 4 or fourth_slice_contrast(one) > 0.5
