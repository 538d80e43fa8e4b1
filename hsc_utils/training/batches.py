"""Images and cells as arrays, and batches of them on the device.

Pixels stay uint8 until a batch lies on the device; there it is normalised and augmented as a
whole (see `augmentation`), so that the processor's cores are left to the model.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from hsc_utils.files import atomic_path, from_root, read_rgb, shown_path
from hsc_utils.provenance import no_bar

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_input(arrays: np.ndarray, config: Mapping, device: str | torch.device = "cpu") -> Tensor:
    """Turn images into what a model sees: resized, channels chosen, normalised.

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
    return normalise(torch.from_numpy(resize(arrays, config["input_size"])).to(device), config)


def normalise(images: Tensor, config: Mapping) -> Tensor:
    """Choose channels and normalise uint8 (N, H, W, 3) to float32 (N, C, H, W).

    The result keeps the layout of the input, channels last, which is the faster one to
    convolve.
    """
    mean = torch.tensor(config["mean"], device=images.device) * 255
    std = torch.tensor(config["std"], device=images.device) * 255
    channels = list(config["channels"])
    if channels != [0, 1, 2]:
        images = images[..., channels]
    return ((images - mean) / std).permute(0, 3, 1, 2)


def resize(arrays: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 (N, H, W, 3) to (N, size, size, 3): by area to shrink, linearly to enlarge."""
    if arrays.shape[1:3] == (size, size):
        return np.ascontiguousarray(arrays)
    return np.stack([_resize_one(array, size) for array in arrays])


def channel_statistics(arrays: np.ndarray, rows: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation by channel, in [0, 1], over the pixels of some rows."""
    counts = np.zeros((3, 256))
    for row in rows:
        for channel in range(3):
            counts[channel] += np.bincount(arrays[row, ..., channel].ravel(), minlength=256)
    share = counts / counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1))
    # an empty slice (blue, where an acquisition has two) has no spread to divide by
    return mean.round(6).tolist(), np.maximum(std, 1 / 255).round(6).tolist()


def image_arrays(
    images: pd.DataFrame, prepared_dir: str | Path, cache_dir: str | Path, size: int
) -> np.ndarray:
    """Decode and resize the images once, into an array on disk that later runs map into memory.

    Parameters
    ----------
    images : DataFrame
        ``images.csv``; ``image_id``, ``path`` and ``sha256`` are read.
    prepared_dir : path
        The folder that ``path`` is relative to.
    cache_dir : path
        Where the array is kept, under a name made from the images and `size`.
    size : int
        Side of the result, in pixels; images that are not square are squeezed.

    Returns
    -------
    np.ndarray
        uint8 (N, size, size, 3), memory-mapped, in the order of `images`.

    Raises
    ------
    FileNotFoundError
        If an image is missing.
    ValueError
        If an image cannot be decoded.
    """
    paths = [from_root(prepared_dir) / path for path in images["path"]]
    cache = from_root(cache_dir) / f"images-{size}px-{_identity(images, paths, size)}.npy"
    if not cache.exists():
        with _alone(cache):
            if not cache.exists():
                _decode(paths, cache, size)
    return np.load(cache, mmap_mode="r")


def training_batches(
    arrays: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    input_size: int,
    seed: int,
    chances: np.ndarray | None = None,
) -> DataLoader:
    """Serve shuffled batches: uint8 (B, S, S, 3) and int64 (B,), a new order every epoch.

    The order depends on `seed` and the epoch alone, so that a resumed run sees what an
    uninterrupted one would. With `chances` (a probability a row) rows are drawn with
    replacement instead.
    """
    sampler = _EpochBatches(len(rows), batch_size, seed, chances)
    return _loader(_Samples(arrays, rows, labels, input_size), sampler)


def ordered_batches(
    arrays: np.ndarray, rows: np.ndarray, labels: np.ndarray, *, batch_size: int, input_size: int
) -> DataLoader:
    """Serve batches like `training_batches`, in the order of `rows`."""
    sampler = [range(k, min(k + batch_size, len(rows))) for k in range(0, len(rows), batch_size)]
    return _loader(_Samples(arrays, rows, labels, input_size), sampler)


class _Samples(Dataset):
    """Whole batches of an array on disk, by the positions of their rows."""

    def __init__(self, arrays: np.ndarray, rows: np.ndarray, labels: np.ndarray, size: int):
        self.arrays, self.rows, self.labels, self.size = arrays, rows, labels, size

    def __getitem__(self, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        positions = np.asarray(positions)
        pixels = resize(self.arrays[self.rows[positions]], self.size)
        return torch.from_numpy(pixels), torch.from_numpy(self.labels[positions])


class _EpochBatches(Sampler):
    """Positions of the batches of an epoch, all of nearly one size."""

    def __init__(self, count: int, batch_size: int, seed: int, chances: np.ndarray | None):
        self.count, self.seed, self.chances, self.epoch = count, seed, chances, 0
        self.batches = -(-count // batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.chances is None:
            order = rng.permutation(self.count)
        else:
            order = rng.choice(self.count, self.count, p=self.chances)
        # a last batch of one image would leave batch normalisation nothing to average
        yield from np.array_split(order, self.batches)


def _loader(samples: _Samples, sampler: Sampler | list) -> DataLoader:
    # on a GPU a second process fetches while the device computes; on a CPU they would compete
    on_gpu = torch.cuda.is_available()
    return DataLoader(
        samples, sampler=sampler, batch_size=None, num_workers=2 * on_gpu, pin_memory=on_gpu
    )


def _identity(images: pd.DataFrame, paths: list[Path], size: int) -> str:
    """Name a cache after the images' content (the prepared files' state stands for it)."""
    identity = hashlib.sha256(str(size).encode())
    for image_id, source, path in zip(images["image_id"], images["sha256"], paths, strict=True):
        if not path.exists():
            raise FileNotFoundError(
                f"{shown_path(path)} is listed in images.csv but missing. Run notebook 01 again."
            )
        state = path.stat()
        identity.update(f"{image_id} {source} {state.st_size} {state.st_mtime_ns}\n".encode())
    return identity.hexdigest()[:16]


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Wait while another process, such as another run of the sweep, makes the same cache."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, or its owner dies
        yield


def _decode(paths: list[Path], cache: Path, size: int) -> None:
    with atomic_path(cache) as temporary:
        array = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.uint8, shape=(len(paths), size, size, 3)
        )
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(lambda path: _resize_one(read_rgb(path), size), paths)
            for row, image in enumerate(tqdm(decoded, "decoding", len(paths), disable=no_bar())):
                array[row] = image
        array.flush()


def _resize_one(array: np.ndarray, size: int) -> np.ndarray:
    method = cv2.INTER_AREA if min(array.shape[:2]) > size else cv2.INTER_LINEAR
    return cv2.resize(array, (size, size), interpolation=method)


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
