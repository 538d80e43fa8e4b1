"""A thousand damaged files of each format, through the whole of step 01.

None may crash or hang it or blow up its memory; each is refused with a reason or read
correctly: with the pixels it had where no pixel was touched.
"""

import io
import resource
import struct
import zlib
from datetime import UTC, datetime

import imagecodecs
import numpy as np
import pytest
import tifffile

from hsc_utils import manifest
from hsc_utils.preparation import compose_rgb, prepare_images, read_acquisition
from hsc_utils.simulation.oir import write_oir

MOMENT = datetime(2024, 3, 4, tzinfo=UTC)
SIDE = 48
COUNTS = {
    "truncated": 350,
    "flipped": 350,
    "wrong_size": 150,
    "huge": 60,
    "text": 60,
    "other_format": 60,
    "empty": 20,
}


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 4096, (3, SIDE, SIDE), np.uint16)


def intact(suffix, seed, folder):
    """Return the bytes of a whole file; TIFF is compressed every other time."""
    if suffix == "oir":
        path = folder / "intact.oir"
        write_oir(
            path, pixels(seed), channel_names=["a", "b", "c"], pixel_size_um=0.5, acquired_at=MOMENT
        )
        return path.read_bytes()
    if suffix == "png":
        rgb = np.moveaxis(pixels(seed) >> 4, 0, -1).astype(np.uint8)
        return imagecodecs.png_encode(np.ascontiguousarray(rgb))
    stream = io.BytesIO()
    compression = "zlib" if seed % 2 else None
    tifffile.imwrite(stream, pixels(seed), photometric="minisblack", compression=compression)
    return stream.getvalue()


def with_side(content, suffix, axis, side):
    """Say in the header that the image is `side` pixels high (axis 0) or wide (axis 1)."""
    if suffix == "png":
        changed = bytearray(content)
        struct.pack_into(">I", changed, 20 - 4 * axis, side)
        struct.pack_into(">I", changed, 29, zlib.crc32(changed[12:29]))
        return bytes(changed)
    if suffix == "oir":
        tag = ("height", "width")[axis].encode()
        assert content.count(b"%s>%d<" % (tag, SIDE)) > 0
        return content.replace(b"%s>%d<" % (tag, SIDE), b"%s>%d<" % (tag, side))
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        places = [page.tags[257 - axis].valueoffset for page in tiff.pages]
    # Width and height are written as 16 or 32 bits; little-endian, so small ones fit both.
    changed = bytearray(content)
    for place in places:
        struct.pack_into("<H", changed, place, min(side, 65535))
    return bytes(changed)


def damaged(kind, suffix, k, folder):
    rng = np.random.default_rng([k, *kind.encode()])
    content = intact(suffix, k, folder)
    if kind == "truncated":
        return content[: rng.integers(1, len(content))]
    if kind == "flipped":
        changed = bytearray(content)
        for bit in rng.integers(0, 8 * len(content), rng.integers(1, 9)):
            changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)
    if kind == "wrong_size":
        side = int(rng.choice([s for s in range(10, 99) if s != SIDE]))
        return with_side(content, suffix, k % 2, side)
    if kind == "huge":
        return with_side(content, suffix, k % 2, int(rng.integers(10**5, 2**31 - 1)))
    if kind == "text":
        return f"field {k}: notes taken beside the microscope\n".encode() * int(rng.integers(1, 99))
    if kind == "other_format":
        others = [other for other in ("oir", "tif", "png") if other != suffix]
        return intact(others[k % 2], 1000 + k, folder)
    return b""


@pytest.mark.parametrize("suffix", ["oir", "tif", "png"])
def test_each_is_refused_or_read_correctly(suffix, tmp_path):
    folder = tmp_path / "raw/MPP"
    folder.mkdir(parents=True)
    for kind, count in COUNTS.items():
        for k in range(count):
            content = damaged(kind, suffix, k, tmp_path)
            (folder / f"{kind}_{k:04d}.{suffix}").write_bytes(content)
    images = prepare_images(
        tmp_path / "raw", tmp_path / "out", workers=2, time_limit_s=20, small_classes="train"
    )
    rejected = manifest.read_rejected(tmp_path / "out")
    assert len(images) + len(rejected) == sum(COUNTS.values()) >= 1000
    assert not rejected["reason"].str.contains("crashed the program").any()
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # a child that was just forked is as large as this process, whatever ran in it before
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 10_000 < largest <= max(1_000_000, 1.01 * own)

    kinds = (
        images["source"].str.extract(r"MPP/(?P<kind>\w+)_(?P<k>\d+)").assign(path=images["path"])
    )
    found = kinds["kind"].value_counts()
    # Cut short within the pixels, or with sizes that the pixels do not make up: never read.
    assert set(found.index) <= {"truncated", "flipped", "other_format"}
    assert found["other_format"] == COUNTS["other_format"]
    assert found.get("truncated", 0) < 0.05 * COUNTS["truncated"]
    for kind, k, path in kinds.itertuples(index=False):
        got = imagecodecs.png_decode((tmp_path / "out" / path).read_bytes())
        assert changed_pixels(got, kind, suffix, int(k), tmp_path) <= (
            8 if kind == "flipped" else 0
        )


def changed_pixels(got, kind, suffix, k, folder):
    """Count the pixels in which an image differs from that of the intact file."""
    whole = folder / f"whole.{suffix}"
    if kind == "other_format":
        whole.write_bytes(damaged(kind, suffix, k, folder))
    else:
        whole.write_bytes(intact(suffix, k, folder))
    expected = compose_rgb(read_acquisition(whole))
    assert got.shape == expected.shape
    return (got != expected).any(axis=-1).sum()
