"""How bright images are, by class and by day, before and after they become 8 bits.

If brightness alone told the classes apart, a model could do so without looking at a cell.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import manifest, paper
from hsc_utils.files import from_root, read_rgb
from hsc_utils.preparation.acquisition import ImageSettings, read_acquisition


def histograms(
    images: pd.DataFrame,
    raw_dir: str | Path,
    prepared_dir: str | Path,
    settings: ImageSettings | None = None,
) -> pd.DataFrame:
    """Measure how often each intensity occurs, in the raw slices and in the RGB images.

    A sample of ``images.csv`` is enough; the other parameters are as for `prepare_images`.

    Returns
    -------
    DataFrame
        One row per image, ``stage`` (raw, 8 bit), ``channel`` (R, G, B; those that the image
        has) and bin; with ``image_id``, ``class``, ``group``, ``intensity`` (middle of the
        bin, fraction of the full range) and ``share`` (fraction of the pixels).
    """
    manifest.check_columns(images, "source", "path", "image_id", "class", "group")
    settings = settings or ImageSettings()
    raw, prepared = from_root(raw_dir), from_root(prepared_dir)
    tables = []
    for image in images.to_dict("records"):
        acquisition = read_acquisition(
            raw / image["source"], slices=settings.slices, bit_depth=settings.bit_depth
        )
        rgb = read_rgb(prepared / image["path"])
        labels = {name: image[name] for name in ("image_id", "class", "group")}
        for k, (channel, plane) in enumerate(zip("RGB", acquisition.slices, strict=False)):
            stages = {"raw": (plane, 1 << acquisition.bit_depth), "8 bit": (rgb[..., k], 256)}
            for stage, (pixels, levels) in stages.items():
                counts, edges = np.histogram(pixels, 128, (0, levels))
                middles = (edges[:-1] + edges[1:]) / 2 / levels
                table = pd.DataFrame({"intensity": middles, "share": counts / pixels.size})
                tables.append(table.assign(stage=stage, channel=channel, **labels))
    return pd.concat(tables, ignore_index=True)


def brightness_by_class(images: pd.DataFrame) -> pd.DataFrame:
    """Ask how well the mean brightness of an image alone tells its class.

    Returns
    -------
    DataFrame
        Index ``class``; columns ``R``, ``G`` and ``B`` (mean intensity, 0 to 255), and
        ``AUROC R`` and so on: of this class against the others by that mean, 0.5 for none
        and 1 for perfect separation, whichever of the two is brighter.
    """
    from sklearn.metrics import roc_auc_score  # the images are prepared without its library

    manifest.check_columns(images, "class", "mean_r", "mean_g", "mean_b")
    means = images[["mean_r", "mean_g", "mean_b"]].to_numpy()
    rows = {}
    for name in paper.class_order(images["class"]):
        mine = (images["class"] == name).to_numpy()
        rows[name] = dict(zip("RGB", means[mine].mean(axis=0).round(1), strict=True))
        for k, channel in enumerate("RGB"):
            auroc = roc_auc_score(mine, means[:, k]) if not mine.all() else np.nan
            rows[name][f"AUROC {channel}"] = round(max(auroc, 1 - auroc), 3)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")
