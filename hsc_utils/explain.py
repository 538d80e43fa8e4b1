"""Grad-CAM, and numbers for what its maps are said to show."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn
from torchvision.models import DenseNet, ResNet
from tqdm.auto import tqdm

_STAGES = {
    ResNet: {32: "layer4", 16: "layer3", 8: "layer2"},
    DenseNet: {32: "features", 16: "features.transition3.relu", 8: "features.transition2.relu"},
}


def layer_at_stride(model: nn.Module, stride: int = 32) -> str:
    """Name the layer whose activations Grad-CAM explains, by how coarse its map is.

    Parameters
    ----------
    model : nn.Module
        A ResNet or DenseNet of torchvision.
    stride : int
        Input pixels per pixel of the map: 32 (what the global pooling sees), 16 or 8.
        At 32, a 64-pixel patch gives a map of 2×2.

    Returns
    -------
    str
        For a ResNet the last block at that stride. For a DenseNet ``features`` or a
        ``transition``, taken after its norm and ReLU, so that the activations have passed
        the same operations at every stride.

    Raises
    ------
    ValueError
        If the backbone or the stride is not one of these.
    """
    stages = next((s for family, s in _STAGES.items() if isinstance(model, family)), None)
    if stages is None:
        raise ValueError(
            f"Grad-CAM knows the layers of ResNet and DenseNet, but the model is a "
            f"{type(model).__name__}: pass the name of one of its layers as `layer`."
        )
    if stride not in stages:
        raise ValueError(
            f"stride is {stride}; Grad-CAM layers exist at {', '.join(map(str, stages))}."
        )
    return stages[stride]


def _model_and_layer(model: nn.Module, layer: str | None) -> tuple[nn.Module, nn.Module]:
    """Return a model with the same output, and the module to explain in it.

    torchvision's DenseNet applies its last ReLU inside ``forward``, in place, where no
    module can be named: the output of ``features`` may be seen before or after it. The
    layer ``features`` means *after* it here, which is what the pooling averages, so the
    same steps are spelt out as modules around the same weights.
    """
    layer = layer_at_stride(model) if layer is None else layer
    if isinstance(model, DenseNet) and layer == "features":
        relu = nn.ReLU()
        pooling = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(model.features, relu, *pooling, model.classifier).eval(), relu
    modules = dict(model.named_modules())
    if layer not in modules:
        raise ValueError(f"The model has no layer '{layer}'; it has {', '.join(modules)[:300]} …")
    return model, modules[layer]


def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Sequence[int] | Tensor,
    layer: str | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Map where the evidence for a class lies in each image (Selvaraju et al. 2017).

    The activations of a layer are summed over channels, each weighted by the mean of the
    logit's gradient with respect to it; negative sums become 0; the result is enlarged
    bilinearly to the image.

    Parameters
    ----------
    model : nn.Module
        A classifier in eval mode.
    images : Tensor
        float (N, C, H, W), prepared as in training (`batches.to_input`), on any device; the
        batches are moved to the model's.
    targets : sequence of int
        For each image the index of the class to explain.
    layer : str, optional
        Name of the layer, as in ``model.named_modules()``; by default the one whose output
        the global pooling averages (see `layer_at_stride`).
    batch_size : int
        Images at a time; bounds the memory.

    Returns
    -------
    ndarray
        float32 (N, H, W) in [0, 1]: each map divided by its own maximum. A map that is zero
        everywhere (no positive evidence) stays zero.

    Raises
    ------
    ValueError
        If the model is in training mode, the layer does not exist, or the number of targets
        is not that of the images.
    """
    if model.training:
        raise ValueError("Grad-CAM needs the model in eval mode: call model.eval() first.")
    if len(images) != len(targets):
        raise ValueError(f"{len(images)} images came with {len(targets)} targets.")
    explained, module = _model_and_layer(model, layer)
    weight = next(model.parameters())
    targets = torch.as_tensor(targets, dtype=torch.long)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    captum = LayerGradCam(explained, module)
    maps = np.zeros((len(images), *images.shape[-2:]), np.float32)
    try:
        # without gradients of the weights, no activation below the layer is kept
        for parameter in trainable:
            parameter.requires_grad_(False)
        # full float32 on the GPU too, so that it agrees with the CPU
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for start in tqdm(range(0, len(images), batch_size), "Grad-CAM", disable=None):
                part = slice(start, start + batch_size)
                coarse = captum.attribute(
                    images[part].to(weight.device, weight.dtype),
                    targets[part].to(weight.device),
                    relu_attributions=True,
                )
                fine = LayerAttribution.interpolate(coarse, images.shape[-2:], "bilinear")
                maps[part] = fine[:, 0].detach().cpu().numpy()
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return normalise(maps)


def normalise(maps: np.ndarray) -> np.ndarray:
    """Divide each map (N, H, W) by its own maximum; a map without one stays zero."""
    peaks = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)


def cell_numbers(maps: np.ndarray, labels: np.ndarray, own: np.ndarray) -> pd.DataFrame:
    """Say how much of each map lies in its cell, in neighbours, and in the background.

    Parameters
    ----------
    maps : ndarray
        float (N, H, W), not negative.
    labels : ndarray
        int (N, H, W), the cells of each patch: 0 background, any other value a cell.
    own : ndarray
        int (N,), the value of the patch's own cell in ``labels``; 0 where there is none
        (a false detection).

    Returns
    -------
    DataFrame
        One row a patch: ``share`` of the map's mass inside its cell, ``area`` that the cell
        covers, ``share_neighbours`` and ``area_neighbours``, and ``pointing``, 1 if the
        map's highest pixel lies in the cell. All fractions; NaN where the map is zero or
        there is no cell.
    """
    inside = (labels == own[:, None, None]) & (own > 0)[:, None, None]
    neighbours = (labels > 0) & ~inside
    mass = maps.sum(axis=(1, 2))
    valid = (mass > 0) & (own > 0)
    mass = np.where(valid, mass, np.nan)
    peaks = maps.reshape(len(maps), -1).argmax(axis=1)
    hits = inside.reshape(len(maps), -1)[np.arange(len(maps)), peaks]
    return pd.DataFrame(
        {
            "share": (maps * inside).sum(axis=(1, 2)) / mass,
            "area": np.where(valid, inside.mean(axis=(1, 2)), np.nan),
            "share_neighbours": (maps * neighbours).sum(axis=(1, 2)) / mass,
            "area_neighbours": np.where(valid, neighbours.mean(axis=(1, 2)), np.nan),
            "pointing": np.where(valid, hits, np.nan),
        }
    )


def image_numbers(map_: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Say how much of a whole image's map lies on cells, and on how few of them.

    Parameters
    ----------
    map_ : ndarray
        float (H, W), not negative.
    labels : ndarray
        int (H, W), 0 background, each other value one cell.

    Returns
    -------
    dict
        ``share`` of the mass on cells, ``area`` they cover, ``cells``, their number, and
        ``gini``, the Gini coefficient of the map's mean over each cell: 0 if all are lit
        equally, towards 1 if one cell has it all. NaN where the map is zero or there is no
        cell.
    """
    values, flat = np.unique(labels, return_inverse=True)
    mass = np.bincount(flat.ravel(), map_.ravel())
    area = np.bincount(flat.ravel())
    cells = values > 0
    if mass.sum() == 0 or not cells.any():
        return {"share": np.nan, "area": np.nan, "cells": int(cells.sum()), "gini": np.nan}
    return {
        "share": mass[cells].sum() / mass.sum(),
        "area": area[cells].sum() / area.sum(),
        "cells": int(cells.sum()),
        "gini": gini(mass[cells] / area[cells]),
    }


def gini(values: np.ndarray) -> float:
    """Return the Gini coefficient of non-negative values: 0 all equal, 1 - 1/n one has all."""
    ordered = np.sort(values)
    count, total = len(ordered), ordered.sum()
    if total == 0:
        return math.nan
    return float((2 * np.arange(1, count + 1) - count - 1) @ ordered / (count * total))
