"""Images and cells as arrays, and batches of them on the device.

Arrays stay uint8 until a batch lies on the device; there it is normalised and augmented as a
whole, so that the processor's cores are left to the model.
"""

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_input(arrays: np.ndarray, config: Mapping, device: str | torch.device = "cpu") -> Tensor:
    """Turn images into what a model sees: channels chosen, resized, normalised.

    Parameters
    ----------
    arrays : uint8 (N, H, W, 3)
        Images or patches.
    config : mapping
        A run's ``config.json``; ``channels``, ``input_size``, ``mean`` and ``std`` are read.
    device : str or torch.device
        Where the result lies.

    Returns
    -------
    Tensor
        float32 (N, C, S, S), C channels and S the run's input size, exactly as in training.
    """
    resized = resize(arrays, config["input_size"])
    return normalise(torch.from_numpy(resized).to(device), config)


def normalise(images: Tensor, config: Mapping) -> Tensor:
    """Choose channels and normalise uint8 (N, H, W, 3) to float32 (N, C, H, W), channels last."""
    mean = torch.tensor(config["mean"], device=images.device) * 255
    std = torch.tensor(config["std"], device=images.device) * 255
    channels = list(config["channels"])
    if channels != [0, 1, 2]:
        images = images[..., channels]
    # permuting a channels-last array costs nothing and keeps the layout that is fast to convolve
    return ((images - mean) / std).permute(0, 3, 1, 2)


def resize(arrays: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 (N, H, W, 3) to (N, size, size, 3): by area to shrink, linearly to enlarge."""
    if arrays.shape[1:3] == (size, size):
        return np.ascontiguousarray(arrays)
    return np.stack([resize_one(array, size) for array in arrays])


def resize_one(array: np.ndarray, size: int) -> np.ndarray:
    """Resize one uint8 (H, W, 3) image to (size, size, 3)."""
    method = cv2.INTER_AREA if min(array.shape[:2]) > size else cv2.INTER_LINEAR
    return cv2.resize(array, (size, size), interpolation=method)
