"""Find the same image twice: the same bytes, or the same look."""

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dct
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hsc_utils import manifest

# Of the 256 bits of a hash, two unrelated images share about half.
_NEAR_BITS = 48


def look(rgb: NDArray[np.uint8]) -> str:
    """Return 256 bits (64 digits), alike for an image that is dimmed, noisy or a bit shifted."""
    # Whether each of the 16 × 16 lowest frequencies is strong: imagehash's phash, bit for bit.
    small = cv2.resize(rgb, (256, 256), interpolation=cv2.INTER_AREA)
    gray = Image.fromarray(small.mean(axis=2).astype(np.uint8))
    pixels = np.asarray(gray.resize((64, 64), Image.Resampling.LANCZOS), float)
    lowest = dct(dct(pixels, axis=0), axis=1)[:16, :16]
    return np.packbits(lowest > np.median(lowest)).tobytes().hex()


def copies(table: pd.DataFrame) -> pd.Series:
    """Name for each file the first one with the same bytes; empty for that one itself.

    The table's columns are ``source``, ``sha256``, ``class`` and ``split``; the same bytes under
    two classes, or in two given subsets, are refused.
    """
    manifest.check_columns(table, "source", "sha256", "class", "split")
    first = table.groupby("sha256", sort=False)["source"].transform("first")
    kept = first.where(first != table["source"], "")
    labels = table.set_index("source")[["class", "split"]]
    pairs = pd.DataFrame({"source": table["source"], "copy": kept})[kept != ""]
    pairs = pairs.join(labels, on="source").join(labels.add_suffix("_of_copy"), on="copy")
    for column, where in (("class", "under two classes"), ("split", "in two subsets")):
        wrong = pairs[pairs[column] != pairs[f"{column}_of_copy"]]
        if len(wrong):
            listing = "; ".join((wrong["copy"] + " = " + wrong["source"]).head(10))
            raise ValueError(
                f"{len(wrong)} image(s) lie {where}, byte for byte the same: {listing}"
                f"{'; …' * (len(wrong) > 10)}. Remove the wrong one of each pair."
            )
    return kept


def refused_copies(table: pd.DataFrame, kept: pd.Series) -> pd.DataFrame:
    """List the copies that `copies` found: columns ``source`` and ``reason``."""
    kept = kept[kept != ""]
    reasons = "It is byte for byte the same as " + kept + ", which is kept."
    return pd.DataFrame({"source": table.loc[kept.index, "source"], "reason": reasons})


def similar_looks(
    hashes: pd.Series, names: pd.Series, fields: pd.Series | None = None
) -> pd.Series:
    """Name for each image the first of a chain of look-alikes; empty for that one itself.

    Images of one field (same text, not empty) show the same, so they count as look-alikes.
    """
    words = np.array([list(bytes.fromhex(h)) for h in hashes], np.uint8).view(np.uint64)
    rows, columns = [], []
    for k in range(len(words)):
        distances = np.bitwise_count(words[k + 1 :] ^ words[k]).sum(axis=1)
        alike = np.flatnonzero(distances <= _NEAR_BITS) + k + 1
        rows += [k] * len(alike)
        columns += list(alike)
    if fields is not None:
        numbers = pd.Series(range(len(words)), fields.index)[fields != ""]
        rows += list(numbers)
        columns += list(numbers.groupby(fields).transform("first"))
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(words), len(words)))
    cluster = connected_components(links, directed=False)[1]
    first = names.groupby(cluster).transform("first")
    return first.where(first != names, "")
