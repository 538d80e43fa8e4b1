"""The tables of predictions, cells and differences, made of the records of single images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import files
from hsc_utils.files import shown_path
from hsc_utils.new_images import differences, passport
from hsc_utils.new_images.members import Member

UNDECIDED = "undecided"
# Questions about a file rather than its picture, and those that do not tell it from training's.
_KNOWN = ["files of the study", "files that are copies"]
_CAUTIONS = ["days of the study", "cells"]
# Shares of an image's cells unlike those of training: worth a warning; too many to call a class.
_SOME, _MOST = 0.25, 0.5


def write_tables(
    sources: pd.DataFrame,
    records: Mapping[str, Mapping],
    target: Path,
    members: Sequence[Member],
    confidence: float,
) -> pd.DataFrame:
    """Write the tables made of all records; return the predictions."""
    reasons = sources["image_id"].map({k: r["reason"] for k, r in records.items()}).fillna("")
    sources = sources.assign(reason=sources["reason"].where(sources["reason"] != "", reasons))
    rejected = sources.loc[sources["reason"] != "", ["source", "reason"]]
    images = sources.loc[sources["reason"] == "", ["image_id", "source", "class"]]
    images = images.reset_index(drop=True)
    files.write_csv(target / "rejected.csv", rejected)
    for image_id in sources.loc[sources["reason"] != "", "image_id"]:  # read before, and not now
        (target / "pictures" / f"{image_id}.jpg").unlink(missing_ok=True)
    if images.empty:
        raise ValueError(
            f"None of the {len(sources)} files could be used. The first: "
            f"{rejected['reason'].iloc[0]} All are in {shown_path(target / 'rejected.csv')}."
        )
    names = members[0].passport["class_names"]
    chosen = [records[image_id] for image_id in images["image_id"]]
    cells = _cells_table(images["image_id"], chosen, names)
    predictions = _predictions(images, chosen, cells, members, confidence)
    told = _differences(predictions, chosen, members)
    sentences = ["; ".join(filter(None, row)) for row in told.to_numpy()]
    known = told[_KNOWN].agg("".join, axis=1)
    differ = (told.drop(columns=[*_KNOWN, *_CAUTIONS], errors="ignore") != "").sum(axis=1)
    predictions = predictions.assign(known_file=known, differences=differ, warnings=sentences)
    files.write_csv(target / "differences.csv", differences.overview(told))
    files.write_csv(target / "cells.csv", cells)
    files.write_csv(target / "predictions.csv", predictions)
    return predictions


def _cells_table(
    image_ids: pd.Series, records: Sequence[Mapping], names: Sequence[str]
) -> pd.DataFrame:
    """Return one row per cell of all images."""
    probable = [f"p_{name}" for name in names]
    columns = ["image_id", "y", "x", "sigma", *probable, "distance"]
    numbers = [np.array(r["cells"], float).reshape(-1, len(columns) - 1) for r in records]
    counts = [len(of_image) for of_image in numbers]
    cells = pd.DataFrame(np.concatenate(numbers), columns=columns[1:])
    cells.insert(0, "image_id", np.repeat(image_ids.to_numpy(object), counts))
    places = cells.groupby("image_id").cumcount().map("{:04d}".format)
    cells.insert(0, "cell_id", cells["image_id"] + "__" + places)
    matrix = cells[probable].to_numpy(float)
    best = matrix.argmax(axis=1) if len(cells) else []
    cells["predicted"] = [names[k] for k in best]
    cells["confidence"] = matrix.max(axis=1) if len(cells) else []
    cells["unlike"] = cells["distance"] > 1
    return cells.round({**dict.fromkeys(probable, 6), "distance": 4, "confidence": 6})


def _predictions(
    images: pd.DataFrame,
    records: Sequence[Mapping],
    cells: pd.DataFrame,
    members: Sequence[Member],
    confidence: float,
) -> pd.DataFrame:
    """Return ``predictions.csv`` but for its warnings."""
    names, of_cells = members[0].passport["class_names"], _speak_of_cells(members)
    matrix = np.array([record["probabilities"] for record in records], float)
    spoke = ~np.isnan(matrix).any(axis=1)
    best = np.array(names)[np.nan_to_num(matrix).argmax(axis=1)]
    table = images.assign(**{f"p_{n}": matrix[:, k].round(6) for k, n in enumerate(names)})
    table["predicted"], table["confidence"] = np.where(spoke, best, ""), matrix.max(axis=1).round(6)
    table["group"] = [record["facts"].get("acquired_at", "")[:10] for record in records]
    table = table.set_index("image_id")
    same = cells["predicted"] == cells["image_id"].map(table["predicted"])
    of_image = cells.assign(same=same).groupby("image_id")
    far = pd.Series([record["field_distance"] for record in records], table.index, dtype=float) > 1
    # without a cell the field as a whole must do
    table["unlike"] = of_image["unlike"].mean().reindex(table.index).fillna(far.astype(float))
    surely = spoke & (table["confidence"] >= confidence) & ~(table["unlike"] > _MOST)
    table["called"] = table["predicted"].where(surely, UNDECIDED)
    table["cells"] = of_image.size().reindex(table.index, fill_value=0) if of_cells else pd.NA
    table["agreement"] = of_image["same"].mean()
    order = [*images, "group", *(f"p_{name}" for name in names)]
    order += ["predicted", "confidence", "called", "cells", "agreement", "unlike"]
    return table.reset_index()[order].round({"agreement": 4, "unlike": 4})


def _speak_of_cells(members: Sequence[Member]) -> bool:
    return any(member.passport["level"] == "cell" for member in members)


def _differences(
    predictions: pd.DataFrame, records: Sequence[Mapping], members: Sequence[Member]
) -> pd.DataFrame:
    """Say in what each image differs from those of training; a column per question."""
    of_cells = _speak_of_cells(members)
    level = "cell" if of_cells else "image"
    known = next(m.passport for m in members if m.passport["level"] == level)
    facts = pd.DataFrame([record["facts"] for record in records])
    if of_cells and known["kind"] == passport.IMAGES:
        facts["density"] = predictions["cells"] / (facts["height"] * facts["width"] / 1e6)
    told = differences.differences_of(differences.facts_of(facts), known["training_images"])
    earlier = {sha: split for split, shas in known["seen"].items() for sha in shas}
    subset = facts["sha256"].str[: passport.HEX].map(earlier).astype(object)
    told["files of the study"] = ("a file of the study, in its subset " + subset).fillna("")
    first = predictions["source"].groupby(facts["sha256"]).transform("first")
    again = facts["sha256"].duplicated()
    told["files that are copies"] = ("a copy of " + first).where(again, "")
    days = facts.get("acquired_at", pd.Series("", facts.index)).str[:10]
    told["days of the study"] = ("taken on a day of training, " + days).where(
        days.isin(known.get("days", [])), ""
    )
    if of_cells:
        told["cells"] = np.where(predictions["cells"] == 0, "no cell was found", "")
        told["cells unlike any of training"] = [
            f"{row.unlike:.0%} of the cells are unlike any of training"
            if row.cells and row.unlike > _SOME
            else ""
            for row in predictions.itertuples()
        ]
    far = pd.Series([record["field_distance"] for record in records], dtype=float)
    if far.notna().any():
        told["field unlike any of training"] = np.where(
            far > 1, "the field is unlike training's", ""
        )
    return told
