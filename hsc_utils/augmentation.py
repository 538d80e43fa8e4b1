"""Random moves of images: flips, turns, scaling and shifts, a whole batch in one resampling."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def augment(
    images: Tensor, *, flip: float, translation: float, rotation: float, scaling: float
) -> Tensor:
    """Flip, rotate, scale and shift each image of a batch at random, in one resampling.

    Pixels from outside the image are 0, which after `batches.normalise` is the mean colour; values
    between pixels are interpolated linearly. Randomness comes from torch's global generator.

    Parameters
    ----------
    images : Tensor
        Normalised float (N, C, S, S), on any device.
    flip : float
        Probability of a horizontal, and independently of a vertical, flip, in [0, 1].
    translation : float
        Largest shift along each axis, as a fraction of the side, in [0, 1].
    rotation : float
        Largest angle, either way, in degrees.
    scaling : float
        Largest change of size, as a fraction: factors lie in ``[1 - scaling, 1 + scaling]``.

    Returns
    -------
    Tensor
        Like `images`.
    """
    drawn = torch.rand(len(images), 6, device=images.device)
    mirror = torch.where(drawn[:, :2] < flip, -1.0, 1.0)
    angle = torch.deg2rad((2 * drawn[:, 2] - 1) * rotation)
    size = 1 + (2 * drawn[:, 3] - 1) * scaling
    shift = (2 * drawn[:, 4:] - 1) * translation * 2  # the grid's side is 2
    theta = sampling_matrices(mirror, angle, size, shift)
    grid = functional.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def augmented_pictures(
    pictures: np.ndarray, ranges: Mapping[str, float], times: int, seed: int
) -> np.ndarray:
    """Augment pictures for a reader, `times` over: uint8 (times, N, S, S, 3)."""
    torch.manual_seed(seed)
    mean = pictures.mean(axis=(0, 1, 2))
    centred = torch.from_numpy(pictures - mean).permute(0, 3, 1, 2).float()
    moved = torch.stack([augment(centred, **ranges) for _ in range(times)])
    moved = moved.permute(0, 1, 3, 4, 2).numpy() + mean
    return moved.round().clip(0, 255).astype(np.uint8)


def sampling_matrices(mirror: Tensor, angle: Tensor, size: Tensor, shift: Tensor) -> Tensor:
    """Say where each pixel of a moved image comes from.

    An image is mirrored, then scaled, then turned about its centre, then shifted; sampling
    needs the way back.

    Parameters
    ----------
    mirror : (N, 2)
        1 or -1 along x and y.
    angle : (N,)
        Clockwise as displayed (y points down), in radians.
    size : (N,)
        Factor of magnification.
    shift : (N, 2)
        Along x and y, in units of half the side.

    Returns
    -------
    Tensor
        (N, 2, 3), as `torch.nn.functional.affine_grid` takes it.
    """
    cosine, sine = angle.cos(), angle.sin()
    turn_back = torch.stack([cosine, sine, -sine, cosine], dim=1).view(-1, 2, 2)
    back = mirror[:, :, None] * turn_back / size[:, None, None]
    return torch.cat([back, -back @ shift[:, :, None]], dim=2)
