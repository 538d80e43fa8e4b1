"""How bright images are, by class and by day, before and after scaling to 8 bits.

If brightness alone told the classes apart, a model could do so without looking at a cell.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from hsc_utils import paper
from hsc_utils.files import from_root, read_rgb
from hsc_utils.preparation.acquisition import read_acquisition
from hsc_utils.preparation.conversion import ImageSettings
from hsc_utils.provenance import no_bar

_BINS = 128


def histograms(
    images: pd.DataFrame,
    raw_dir: str | Path,
    prepared_dir: str | Path,
    settings: ImageSettings | None = None,
) -> pd.DataFrame:
    """Measure how often each intensity occurs, in the raw slices and in the RGB images.

    Parameters
    ----------
    images : DataFrame
        Rows of ``images.csv``; a sample is enough.
    raw_dir, prepared_dir : path
        As given to `prepare.prepare_images`.
    settings : ImageSettings, optional
        As given to `prepare.prepare_images`.

    Returns
    -------
    DataFrame
        One row for each image, stage (``raw``, ``8 bit``), channel (``R``, ``G``, ``B``; those
        that the image has) and bin: ``image_id``, ``class``, ``group``, ``stage``,
        ``channel``, ``intensity`` (middle of the bin, fraction of the full range) and
        ``share`` (fraction of the pixels).
    """
    settings = settings or ImageSettings()
    tables = []
    for image in images.to_dict("records"):
        source = from_root(raw_dir) / image["source"]
        acquisition = read_acquisition(source, slices=settings.slices, bit_depth=settings.bit_depth)
        rgb = read_rgb(from_root(prepared_dir) / image["path"])
        labels = {name: image[name] for name in ("image_id", "class", "group")}
        for channel, plane in zip("RGB", acquisition.slices, strict=False):
            full = (1 << acquisition.bit_depth) - 1
            tables.append(_histogram(plane, full).assign(stage="raw", channel=channel, **labels))
            plane = rgb[..., "RGB".index(channel)]
            tables.append(_histogram(plane, 255).assign(stage="8 bit", channel=channel, **labels))
    return pd.concat(tables, ignore_index=True)


def _histogram(plane: NDArray, full: int) -> pd.DataFrame:
    counts, edges = np.histogram(plane, _BINS, (0, full + 1))
    middles = (edges[:-1] + edges[1:]) / 2 / (full + 1)
    return pd.DataFrame({"intensity": middles, "share": counts / plane.size})


def brightness(images: pd.DataFrame, prepared_dir: str | Path) -> pd.DataFrame:
    """Ask how well the mean brightness of an image alone tells its class.

    Returns
    -------
    DataFrame
        Index ``class``; columns ``R``, ``G`` and ``B`` (mean intensity, 0 to 255), and
        ``AUROC R`` and so on: of this class against the others by that mean, 0.5 for none
        and 1 for perfect separation, whichever of the two is brighter.
    """
    paths = [from_root(prepared_dir) / path for path in images["path"]]
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda path: cv2.mean(read_rgb(path))[:3], paths)
        means = np.array([*tqdm(done, "brightness", len(paths), leave=False, disable=no_bar())])
    rows = {}
    for name in paper.class_order(images["class"]):
        mine = (images["class"] == name).to_numpy()
        rows[name] = dict(zip("RGB", means[mine].mean(axis=0).round(1), strict=True))
        for k, channel in enumerate("RGB"):
            auroc = roc_auc_score(mine, means[:, k]) if not mine.all() else np.nan
            rows[name][f"AUROC {channel}"] = round(max(auroc, 1 - auroc), 3)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")
