"""Files as other people, microscopes and programs leave them: used as they say, or refused."""

import itertools
import json
import math
import struct
import zlib
from datetime import UTC, datetime

import cv2
import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from hsc_utils import manifest
from hsc_utils.preparation import (
    AcquisitionError,
    ImageSettings,
    brightness_by_class,
    compose_rgb,
    copies,
    histograms,
    prepare_images,
    read_acquisition,
    read_picture,
)
from hsc_utils.simulation.oir import write_oir

TABLE = pd.DataFrame({"image_id": ["a", "b", "c"], "class": "A"})
MOMENT = datetime(2024, 3, 4, 9, tzinfo=UTC)


def smooth(seed, *shape, low=0, high=4096):
    """Draw slices that look like themselves alone; each reaches `low` and `high` - 1."""
    rng = np.random.default_rng(seed)
    planes = [cv2.resize(rng.random((6, 6)), shape[:-3:-1]) for _ in range(math.prod(shape[:-2]))]
    span = np.array([np.interp(p, (p.min(), p.max()), (low, high - 1)) for p in planes])
    return span.reshape(shape).astype(np.uint8 if high <= 256 else np.uint16)


def oir(path, pixels, axes="CYX", bit_depth=12):
    count = pixels.shape[axes.index("C")]
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"c{k}" for k in range(count)]
    about = {"channel_names": names, "acquired_at": MOMENT, "pixel_size_um": 0.5}
    write_oir(path, pixels, axes=axes, bit_depth=bit_depth, **about)
    return path


def in_parts(path, pixels, axes, cuts):
    """Write an OIR over several files: the first keeps the metadata, parts the later pixels."""
    content = oir(path, pixels, axes).read_bytes()
    index = struct.unpack_from("<Q", content, 40)[0]
    count = struct.unpack_from("<I", content, 48)[0]
    starts = [*struct.unpack_from(f"<{count}Q", content, index + 4), index]
    blocks = [content[a:b] for a, b in itertools.pairwise(starts)]
    kinds = [struct.unpack_from("<I", block, 4)[0] for block in blocks]
    tags = [k for k, kind in enumerate(kinds) if kind == 3]  # one before the pixels of each plane
    ends = itertools.pairwise([0, *(tags[cut] for cut in cuts), len(blocks)])
    files = [path, *(path.with_name(f"{path.stem}_{k + 1:05d}") for k in range(len(cuts)))]
    for k, (file, (begin, end)) in enumerate(zip(files, ends, strict=True)):
        chosen = [b for at, b in enumerate(blocks) if begin <= at < end and kinds[at] != 0]
        chosen += [b for b, kind in zip(blocks, kinds, strict=True) if kind == 0 and k == 0]
        offsets = np.cumsum([96, *map(len, chosen)])
        table = struct.pack(f"<I{len(chosen)}Q", 0xFFFFFFFF, *offsets[:-1])
        header = bytearray(content[:96])
        struct.pack_into("<QQI", header, 32, offsets[-1] + len(table), offsets[-1], len(chosen))
        file.write_bytes(b"".join([header, *chosen, table]))
    return files


def ome_set(folder, pixels, stem="field"):
    """Write an OME-TIFF as one file per channel, each of which describes them all."""
    names = [f"{stem}_{k}.ome.tif" for k in range(len(pixels))]
    where = "".join(
        f'<TiffData IFD="0" FirstC="{k}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{stem}{k}'
        "</UUID></TiffData>"
        for k, name in enumerate(names)
    )
    count, height, width = pixels.shape
    channels = "".join(f'<Channel ID="Channel:0:{k}" Name="n{k}"/>' for k in range(count))
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        text = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{stem}{k}"><Image ID="Image:0"><Pixels ID="Pixels:0" Type="uint16" '
            f'DimensionOrder="XYCZT" SizeX="{width}" SizeY="{height}" SizeC="{count}" SizeZ="1" '
            f'SizeT="1" SignificantBits="12">{channels}{where}</Pixels></Image></OME>'
        )
        tifffile.imwrite(
            folder / name, pixels[k], photometric="minisblack", metadata=None, description=text
        )
    return [folder / name for name in names]


def pages_cut(path, keep):
    """End the chain of pages of a TIFF early."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[keep - 1].offset
    entries = struct.unpack_from("<H", content, at)[0]
    struct.pack_into("<I", content, at + 2 + 12 * entries, 0)
    path.write_bytes(content)


def prepare(raw, out, **kwargs):
    return prepare_images(raw, out, workers=1, **kwargs)


def fill(folder, count=6, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        rgb = np.moveaxis(smooth(first + k, 3, 48, 48, high=256), 0, -1)
        (folder / f"f{k}.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(rgb)))


# A data set in several files ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "shape", "cuts", "lost", "said"),
    [
        ("CYX", (4, 24, 32), [2], 1, "4 planes are announced, 2 are there. Copy big_00001"),
        ("ZCYX", (3, 2, 24, 32), [2, 4], 1, "6 planes are announced, 2 are there. Copy big_00001"),
        ("ZCYX", (3, 2, 24, 32), [2, 4], 2, "6 planes are announced, 4 are there. Copy big_00002"),
        ("TCYX", (5, 1, 24, 32), [3], 1, "5 planes are announced, 3 are there"),
    ],
)
def test_oir_without_a_part_is_refused(tmp_path, axes, shape, cuts, lost, said):
    pixels = smooth(1, *shape)
    files = in_parts(tmp_path / "big.oir", pixels, axes, cuts)
    if axes == "CYX":
        np.testing.assert_array_equal(read_acquisition(files[0]).slices, pixels)
    files[lost].unlink()
    with pytest.raises(AcquisitionError, match=said):
        read_acquisition(files[0])


def test_oir_whose_part_is_cut_short_is_refused(tmp_path):
    files = in_parts(tmp_path / "big.oir", smooth(1, 4, 24, 32), "CYX", [2])
    files[1].write_bytes(files[1].read_bytes()[:-200])
    with pytest.raises(AcquisitionError, match="big_00001") as error:
        read_acquisition(files[0])
    assert str(tmp_path) not in str(error.value)


def test_changes_in_any_part_are_noticed(tmp_path, capsys):
    for k in range(3):
        in_parts(tmp_path / f"raw/A/{k}.oir", smooth(k, 4, 24, 32), "CYX", [2])
    out = tmp_path / "out"
    before = prepare(tmp_path / "raw", out).set_index("source")["sha256"]
    part = tmp_path / "raw/A/1_00001"
    content = part.read_bytes()
    other = in_parts(tmp_path / "other.oir", smooth(9, 4, 24, 32), "CYX", [2])[1]
    part.write_bytes(other.read_bytes())
    after = prepare(tmp_path / "raw", out).set_index("source")["sha256"]
    assert "1 files read now, 2 done before" in capsys.readouterr().out
    assert (before != after).to_dict() == {"A/0.oir": False, "A/1.oir": True, "A/2.oir": False}
    part.unlink()
    gone = prepare(tmp_path / "raw", out, small_classes="train")
    assert len(gone) == 2
    assert "copy" in manifest.read_rejected(out)["reason"].iloc[0].lower()
    part.write_bytes(content)
    assert prepare(tmp_path / "raw", out).set_index("source")["sha256"].equals(before)


def test_a_part_without_its_file_is_listed(tmp_path):
    fill(tmp_path / "raw/A", 3)
    (tmp_path / "raw/A/big_00001").write_bytes(b"OLYMPUSRAWFORMAT")
    prepare(tmp_path / "raw", tmp_path / "out")
    rejected = manifest.read_rejected(tmp_path / "out").set_index("source")["reason"]
    assert "part of big.oir, which is missing" in rejected["A/big_00001"]


def test_ome_set_counts_as_one_image_and_needs_all_its_files(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    pixels = [smooth(k, 3, 24, 32) for k in range(3)]
    sets = [ome_set(raw / "A", planes, f"set{k}") for k, planes in enumerate(pixels)]
    one = read_acquisition(sets[0][1])
    np.testing.assert_array_equal(one.slices, pixels[0])
    assert one.channel_names == ("n0", "n1", "n2")
    images = prepare(raw, out)
    assert images["source"].tolist() == [f"A/set{k}_0.ome.tif" for k in range(3)]
    rejected = manifest.read_rejected(out).set_index("source")["reason"]
    assert len(rejected) == 6
    assert "belongs to the set of A/set1_0.ome.tif" in rejected["A/set1_2.ome.tif"]
    kept = sets[1][2].read_bytes()
    sets[1][2].unlink()
    said = r"3 planes are announced, 2 are there\. Copy set1_2\.ome\.tif beside it"
    with pytest.raises(AcquisitionError, match=said):
        read_acquisition(sets[1][0])
    assert len(prepare(raw, out, small_classes="train")) == 2
    sets[1][2].write_bytes(kept)
    assert len(prepare(raw, out)) == 3


def test_stacks_that_announce_more_planes_are_refused(tmp_path):
    def refused(name, match):
        with pytest.raises(AcquisitionError, match=match):
            read_acquisition(tmp_path / name)

    pixels = smooth(2, 5, 24, 32)
    tifffile.imwrite(
        tmp_path / "fiji.tif", pixels, imagej=True, compression="zlib", metadata={"axes": "ZYX"}
    )
    tifffile.imwrite(tmp_path / "plain.tif", pixels, compression="zlib", photometric="minisblack")
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="minisblack")
    for name in ("fiji.tif", "plain.tif", "a.ome.tif"):
        assert len(read_acquisition(tmp_path / name).slices) == 5
        pages_cut(tmp_path / name, 3)
        refused(name, "5 planes are announced, 3 are there")
    with tifffile.TiffWriter(tmp_path / "old.tif") as tiff:
        for k in range(3):
            text = "ImageJ=1.47a\nimages=4\n" if k == 0 else None
            tiff.write(pixels[k], photometric="minisblack", metadata=None, description=text)
    refused("old.tif", "4 planes are announced, 3 are there")
    frames = [Image.fromarray(np.moveaxis(smooth(k, 3, 16, 16, high=256), 0, -1)) for k in (1, 2)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    refused("moving.png", "animation")


# Intensities of another depth --------------------------------------------------------------------


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_packed_bits_are_the_depth(tmp_path, bits):
    pixels = smooth(3, 3, 24, 32, high=1 << bits)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for plane in pixels:
            tiff.write(plane, photometric="minisblack", metadata=None, bitspersample=bits)
    one = read_acquisition(tmp_path / "a.tif")
    np.testing.assert_array_equal(one.slices, pixels)
    assert one.bit_depth == bits
    assert compose_rgb(one).max() == 255


def test_fewer_than_eight_bits_fill_the_range(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for seed in (1, 2):
            plane = smooth(seed, 24, 32, high=16)
            tiff.write(plane, photometric="minisblack", metadata=None, bitspersample=4)
    one = read_acquisition(tmp_path / "a.tif")
    assert one.bit_depth == 4
    assert compose_rgb(one).max() == 255


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"metadata": {"axes": "CYX", "min": 0, "max": 16383}, "imagej": True}, 14),
        ({"metadata": {"axes": "CYX", "Ranges": (0.0, 4095.0) * 3}, "imagej": True}, 12),
        ({"metadata": {"axes": "CYX", "min": 180, "max": 3127}, "imagej": True}, 16),
        ({"metadata": {"axes": "CYX", "min": 0, "max": 255}, "imagej": True}, 16),
        ({"metadata": None, "extratags": [(281, 3, 1, 3800, True)]}, 12),
        ({"metadata": None, "extratags": [(281, 3, 1, 16383, True)]}, 14),
        ({"metadata": None, "extratags": [(281, 3, 1, 511, True)]}, 16),
        ({"ome": True, "metadata": {"axes": "CYX", "SignificantBits": 13}}, 13),
        ({"metadata": None, "extratags": [(51123, 2, 0, '{"BitDepth": 12}', True)]}, 12),
        ({"metadata": None}, 16),
    ],
)
def test_depth_as_tiff_states_it(tmp_path, stated, expected):
    pixels = smooth(4, 3, 24, 32, low=100, high=3500)
    if "imagej" not in stated:
        stated["photometric"] = "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", pixels, **stated)
    assert read_acquisition(tmp_path / "a.tif").bit_depth == expected


@pytest.mark.parametrize(("shift", "expected"), [(0, 12), (4, 16)])
def test_depth_as_png_states_it(tmp_path, shift, expected):
    rgb = np.ascontiguousarray(np.moveaxis(smooth(5, 3, 24, 32), 0, -1)) << shift
    content = imagecodecs.png_encode(rgb.astype(np.uint16))
    chunk = b"sBIT" + bytes([12, 12, 12])
    whole = struct.pack(">I", 3) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(content[:33] + whole + content[33:])
    one = read_acquisition(tmp_path / "a.png")
    assert one.bit_depth == expected
    assert compose_rgb(one).max() >= 254


def unstated(folder, count, high=4096, **kwargs):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        pixels = smooth(hash(folder.name) % 1000 + k, 3, 48, 48, high=high)
        tifffile.imwrite(folder / f"{k}.tif", pixels, photometric="minisblack", **kwargs)


def test_few_bits_of_many_are_said_and_recorded(tmp_path, capsys):
    unstated(tmp_path / "raw/A", 5)
    unstated(tmp_path / "raw/B", 5, high=65536)
    prepare(tmp_path / "raw", tmp_path / "out")
    said = capsys.readouterr().out
    assert "THE IMAGES OF A WILL BE ALMOST BLACK" in said
    assert "no pixel exceeds 4095 of 65535" in said
    recorded = json.loads((tmp_path / "out/provenance.json").read_text())["cautions"]
    assert len(recorded) == 1
    prepare(tmp_path / "raw", tmp_path / "all", settings=ImageSettings(bit_depth=16))
    assert "BLACK" not in capsys.readouterr().out


def test_depths_that_tell_the_classes_are_refused_or_made_to_agree(tmp_path, capsys):
    unstated(tmp_path / "raw/A", 5)
    for k in range(5):
        oir(tmp_path / f"raw/B/{k}.oir", smooth(50 + k, 3, 48, 48))
    raw, out = tmp_path / "raw", tmp_path / "out"
    with pytest.raises(ValueError, match=r"first B/0.oir\).*first A/0.tif\).*bit_depth") as error:
        prepare(raw, out)
    assert "16 bits in 5 files of A" in str(error.value)
    images = prepare(raw, out, settings=ImageSettings(bit_depth=12))
    means = images.groupby("class")["mean_r"].mean()
    assert means["A"] == pytest.approx(means["B"], rel=0.3)
    capsys.readouterr()
    same = ImageSettings(to_8_bit="fixed", limits=(0, 4095))
    means = prepare(raw, out, settings=same).groupby("class")["mean_r"].mean()
    assert means["A"] == pytest.approx(means["B"], rel=0.3)
    prepare(raw, out, settings=ImageSettings(to_8_bit="own_depth"))
    assert "ALMOST BLACK" in capsys.readouterr().out


def test_depths_that_differ_within_classes_are_said(tmp_path, capsys):
    for name in "AB":
        unstated(tmp_path / f"raw/{name}", 4, high=65536)
        oir(tmp_path / f"raw/{name}/x.oir", smooth(ord(name), 3, 48, 48))
    prepare(tmp_path / "raw", tmp_path / "out")
    said = capsys.readouterr().out
    assert "Bit depths differ: 12 bits in 1 files of A (first A/x.oir)" in said
    assert "16 bits in 4 files of B" in said


# Samples that are no slices ----------------------------------------------------------------------


def rgb8(seed=7):
    return np.ascontiguousarray(np.moveaxis(smooth(seed, 3, 32, 32, high=256), 0, -1))


OPAQUE = np.full((32, 32), 255, np.uint8)


def test_opaque_alpha_is_dropped_in_tiff_as_in_png(tmp_path):
    rgba = np.dstack([rgb8(), OPAQUE])
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    tifffile.imwrite(
        tmp_path / "planar.tif",
        np.moveaxis(rgba, -1, 0),
        photometric="rgb",
        planarconfig="separate",
        extrasamples=["assocalpha"],
    )
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(rgba))
    for name in ("a.tif", "planar.tif", "a.png"):
        np.testing.assert_array_equal(compose_rgb(read_acquisition(tmp_path / name)), rgb8())
    gray = np.dstack([rgb8()[..., 0], OPAQUE])
    (tmp_path / "gray.png").write_bytes(imagecodecs.png_encode(gray))
    tifffile.imwrite(
        tmp_path / "gray.tif",
        gray,
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    for name in ("gray.tif", "gray.png"):
        assert read_acquisition(tmp_path / name).slices.shape == (1, 32, 32)


@pytest.mark.parametrize("samples", [2, 4])
def test_transparency_is_refused_in_tiff_as_in_png(tmp_path, samples):
    glass = np.dstack([rgb8()[..., : samples - 1], rgb8(8)[..., 0]])
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(glass))
    tifffile.imwrite(
        tmp_path / "a.tif",
        glass,
        photometric="rgb" if samples == 4 else "minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    for name in ("a.png", "a.tif"):
        with pytest.raises(AcquisitionError, match="transparency"):
            read_acquisition(tmp_path / name)


@pytest.mark.parametrize(
    ("photometric", "samples", "said"),
    [
        ("separated", 4, "SEPARATED"),
        ("cielab", 3, "CIELAB"),
        ("ycbcr", 3, "YCBCR"),
        ("palette", 1, "PALETTE"),
        ("cfa", 1, "CFA"),
    ],
)
def test_colours_that_are_no_intensities_are_refused(tmp_path, photometric, samples, said):
    pixels = np.dstack([rgb8(), rgb8(8)])[..., :samples].squeeze()
    extra = {"colormap": np.zeros((3, 256), np.uint16)} if photometric == "palette" else {}
    extra |= {"planarconfig": "contig"} if samples > 1 else {}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, metadata=None, **extra)
    with pytest.raises(AcquisitionError, match=f"{said}.*no intensities"):
        read_acquisition(tmp_path / "a.tif")


def test_jpeg_is_read_with_a_word_about_it(tmp_path, capsys):
    for name in "AB":
        (tmp_path / f"raw/{name}").mkdir(parents=True)
        for k in range(4):
            content = imagecodecs.jpeg8_encode(rgb8(10 * ord(name) + k), level=95)
            (tmp_path / f"raw/{name}/{k}.jpg").write_bytes(content)
    one = read_acquisition(tmp_path / "raw/A/0.jpg")
    assert one.lossy
    assert np.abs(compose_rgb(one).astype(int) - rgb8(650)).mean() < 4
    Image.fromarray(rgb8()).convert("CMYK").save(tmp_path / "raw/A/print.jpg")
    (tmp_path / "raw/B/cut.jpeg").write_bytes(content[: len(content) // 2] + bytes(500))
    images = prepare(tmp_path / "raw", tmp_path / "out")
    assert "8 images are JPEG, which loses fine detail" in capsys.readouterr().out
    assert len(images) == 8
    reasons = manifest.read_rejected(tmp_path / "out").set_index("source")["reason"]
    assert "CMYK" in reasons["A/print.jpg"]
    assert "cut short" in reasons["B/cut.jpeg"]


# Ready pictures ----------------------------------------------------------------------------------


def test_ready_pictures_are_read_as_acquisitions_are(tmp_path):
    (tmp_path / "rgb.png").write_bytes(imagecodecs.png_encode(rgb8()))
    np.testing.assert_array_equal(read_picture(tmp_path / "rgb.png"), rgb8())
    (tmp_path / "gray.png").write_bytes(imagecodecs.png_encode(rgb8()[..., 0].copy()))
    gray = read_picture(tmp_path / "gray.png")
    assert (gray == rgb8()[..., :1]).all()
    two = smooth(3, 2, 24, 24)
    np.testing.assert_array_equal(read_picture(oir(tmp_path / "two.oir", two))[..., 2], 0)
    tifffile.imwrite(tmp_path / "many.tif", smooth(3, 5, 24, 24), photometric="minisblack")
    with pytest.raises(AcquisitionError, match="holds 5 slices"):
        read_picture(tmp_path / "many.tif", ImageSettings(bit_depth=12))
    wide = rgb8().astype(np.uint16) << 4
    (tmp_path / "wide.png").write_bytes(imagecodecs.png_encode(wide))
    with pytest.raises(AcquisitionError, match=r"wide.png: Its pixels reach 4080 of 65535.*bit_de"):
        read_picture(tmp_path / "wide.png")
    assert read_picture(tmp_path / "wide.png", ImageSettings(bit_depth=12)).max() == 254


# Fiji --------------------------------------------------------------------------------------------


def test_frames_are_slices_when_said_so(tmp_path):
    pixels = smooth(6, 3, 24, 32)
    tifffile.imwrite(tmp_path / "t.tif", pixels, imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(AcquisitionError, match=r"time lapse of 3 frames.*add T to .*`slices`"):
        read_acquisition(tmp_path / "t.tif")
    np.testing.assert_array_equal(read_acquisition(tmp_path / "t.tif", slices=["T"]).slices, pixels)
    one = read_acquisition(tmp_path / "t.tif", slices=["T=2", "T=0"])
    np.testing.assert_array_equal(one.slices, pixels[[2, 0]])
    assert one.channel_names == ("T=2", "T=0")
    tifffile.imwrite(tmp_path / "z.tif", pixels, imagej=True, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read_acquisition(tmp_path / "z.tif", slices=["T"]).slices, pixels)


@pytest.mark.parametrize(
    ("unit", "per_unit", "expected"),
    [("um", 4.0, 0.25), ("micron", 2.0, 0.5), ("\\u00B5m", 8.0, 0.125), ("nm", 0.005, 0.2)],
)
def test_pixel_size_and_labels_of_fiji(tmp_path, unit, per_unit, expected):
    pixels = smooth(6, 3, 24, 32)
    labels = ["DIC", "Brightfield\nsecond line", ""]
    about = {"axes": "CYX", "unit": unit, "Labels": labels}
    resolution = {"resolution": (per_unit, per_unit)}
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata=about, **resolution)
    one = read_acquisition(tmp_path / "a.tif")
    assert one.pixel_size_um == pytest.approx(expected)
    assert one.channel_names == ("DIC", "Brightfield", "C=2")
    chosen = read_acquisition(tmp_path / "a.tif", slices=["Brightfield", "DIC"])
    np.testing.assert_array_equal(chosen.slices, pixels[[1, 0]])


def test_no_pixel_size_without_a_unit_of_length(tmp_path):
    pixels, plain = smooth(6, 3, 24, 32), {"axes": "CYX", "unit": "pixel"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata=plain, resolution=(72, 72))
    tifffile.imwrite(tmp_path / "b.tif", pixels, photometric="minisblack", resolution=(300, 300))
    assert read_acquisition(tmp_path / "a.tif").pixel_size_um is None
    assert read_acquisition(tmp_path / "b.tif").pixel_size_um is None


# A caller's mistakes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda folder: read_acquisition(None), "path is None"),
        (lambda folder: read_acquisition(folder), "cannot be opened"),
        (lambda folder: read_acquisition(folder / "a.png", slices="DIC"), "a list of numbers"),
        (lambda folder: read_acquisition(folder / "a.png", slices=[1.5]), "a list of numbers"),
        (lambda folder: read_acquisition(folder / "a.png", bit_depth="12"), "bit_depth is '12'"),
        (lambda folder: read_acquisition(folder / "a.png", bit_depth=40), "from 9 to 16"),
        (lambda folder: compose_rgb(np.zeros((3, 8, 8), np.uint8)), "read_acquisition returns"),
        (lambda folder: compose_rgb(None), "acquisition is NoneType"),
        (lambda folder: read_picture(folder), "cannot be opened"),
        (lambda folder: prepare_images(None, folder / "o"), "raw_dir is None"),
        (lambda folder: prepare_images(folder / "a.png", folder / "o"), "is a file, not a folder"),
        (lambda folder: prepare_images(folder, None), "prepared_dir is None"),
        (lambda folder: prepare_images(folder, folder / "o", {"size": 3}), "ImageSettings"),
        (lambda folder: prepare_images(folder, folder / "o"), "would be taken for data"),
        (
            lambda folder: prepare_images(folder, folder / "../o", ImageSettings(size=-5)),
            "size is -5",
        ),
        (lambda folder: prepare_images(folder, folder / "../o", workers=0), "workers is 0"),
        (lambda folder: prepare_images(folder, folder / "../o", time_limit_s=-1), "seconds above"),
        (
            lambda folder: prepare_images(folder, folder / "../o", class_names="A"),
            "class_names is 'A'",
        ),
        (lambda folder: prepare_images(folder, folder / "../o", class_names=[7]), "quote names"),
        (
            lambda folder: prepare(folder, folder / "../o", fractions=("a", 1, 2)),
            "fractions are",
        ),
    ],
)
def test_mistakes_get_one_sentence(tmp_path, call, said):
    fill(tmp_path / "raw/A")
    (tmp_path / "raw/a.png").write_bytes((tmp_path / "raw/A/f0.png").read_bytes())
    with pytest.raises((ValueError, OSError), match=said):
        call(tmp_path / "raw")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: manifest.split_images([1, 2]), "It has list"),
        (
            lambda: manifest.split_images(pd.DataFrame({"image_id": ["a"]})),
            "lacks the columns class",
        ),
        (
            lambda: manifest.split_images(pd.DataFrame({"image_id": ["a"], "class": [None]})),
            "1 images have no class, first a",
        ),
        (lambda: manifest.split_images(TABLE, fractions=(0.6, float("nan"), 0.4)), "fractions are"),
        (lambda: manifest.split_images(TABLE, fractions=None), "fractions are None"),
        (lambda: manifest.sample_images(TABLE, 2), "lacks the columns group"),
        (lambda: manifest.count_by_class(TABLE, "split"), "lacks the columns split"),
        (lambda: brightness_by_class(TABLE), "lacks the columns mean_r, mean_g, mean_b"),
        (lambda: histograms(None, "a", "b"), "It has NoneType"),
        (lambda: copies(TABLE), "sha256"),
    ],
)
def test_tables_that_are_none_get_one_sentence(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("limits", [(float("nan"), 5), (1, float("nan")), "ab", (None, 3)])
def test_limits_that_are_no_numbers(tmp_path, limits):
    one = read_acquisition(oir(tmp_path / "a.oir", smooth(1, 2, 16, 16)))
    with pytest.raises(ValueError, match="limits are"):
        compose_rgb(one, to_8_bit="fixed", limits=limits)
