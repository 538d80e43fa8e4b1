"""Images and cells as arrays, and batches of them on the device.

Pixels stay uint8 until a batch lies on the device; there it is normalised and augmented as a
whole, so that the processor's cores are left to the model. On a GPU all pixels lie there from the
start if they leave room for the model; otherwise a thread fetches the next batches meanwhile.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from joblib import cpu_count
from torch import Tensor, nn
from torch.nn import functional
from tqdm.contrib.concurrent import thread_map

from hsc_utils.files import (
    atomic_path,
    from_root,
    no_bar,
    read_rgb,
    reserved_array,
    set_aside,
    shown_path,
)
from hsc_utils.study import ALL_CHANNELS, RunConfig, TrainingSettings
from hsc_utils.training.device import find_device, free_memory

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_RESIZED_AT_MOST = 4 * 2**30  # bytes kept in memory so as not to resize in every epoch
_COPIED_AT_ONCE = 256  # samples on their way to a GPU
_AHEAD = 2  # batches fetched before they are needed


def to_input(arrays: np.ndarray, config: RunConfig, device: str | torch.device = "cpu") -> Tensor:
    """Turn images into what a model sees: resized, channels chosen, normalised.

    Parameters
    ----------
    arrays : uint8 (N, H, W, 3)
        Images or patches.
    config : RunConfig
        Of the model's run, see `load_run`.
    device : str or torch.device
        Where the result lies.

    Returns
    -------
    Tensor
        float32 (N, C, S, S), C channels and S the run's input size, exactly as in training.

    Raises
    ------
    ValueError
        If `arrays` are not as described.
    """
    pixels = torch.from_numpy(resize(arrays, config.input_size)).to(device)
    return Normalise(config).to(device)(pixels)


class Normalise(nn.Module):
    """Choose channels and normalise uint8 (N, H, W, 3) to float32 (N, C, H, W).

    The result keeps the layout of the input, channels last: it is faster to convolve. As buffers
    its numbers move to the device once, not with every batch.
    """

    def __init__(self, config: RunConfig):
        super().__init__()
        chosen = None if config.channels == ALL_CHANNELS else torch.tensor(config.channels)
        self.register_buffer("channels", chosen, persistent=False)
        self.register_buffer("mean", torch.tensor(config.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise a batch that lies on this module's device."""
        if self.channels is not None:
            images = images.index_select(3, self.channels)
        return ((images - self.mean) / self.std).permute(0, 3, 1, 2)


def resize(arrays: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 (N, H, W, 3) to (N, size, size, 3): by area to shrink, linearly to enlarge."""
    check_pictures(arrays)
    if arrays.shape[1:3] == (size, size):
        return np.ascontiguousarray(arrays)
    resized = np.empty((len(arrays), size, size, 3), np.uint8)
    for place, array in zip(resized, arrays, strict=True):
        place[:] = _resize_one(array, size)
    return resized


def check_pictures(arrays: np.ndarray) -> None:
    """Refuse anything but RGB pictures, uint8 (N, H, W, 3)."""
    shape, kind = getattr(arrays, "shape", ()), getattr(arrays, "dtype", type(arrays).__name__)
    if kind != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape[1:3]:
        raise ValueError(
            f"Pictures of shape {shape}, {kind} were given, but an array of shape (N, H, W, 3), "
            "uint8, was expected: RGB as steps 01 and 02 write it."
        )


def _resize_one(array: np.ndarray, size: int) -> np.ndarray:
    method = cv2.INTER_AREA if min(array.shape[:2]) > size else cv2.INTER_LINEAR
    return cv2.resize(array, (size, size), interpolation=method)


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
    if size < 1:
        raise ValueError(f"input_size: {size} is not above 0.")
    cache = from_root(cache_dir) / f"images-{size}px-{_identity(images, paths, size)}.npy"
    cache.parent.mkdir(parents=True, exist_ok=True)
    # another process, such as another run of the sweep, may be making the same cache
    with FileLock(cache.with_suffix(".lock")):
        if cache.exists():
            try:
                return np.load(cache, mmap_mode="r")
            except (ValueError, EOFError, OSError):
                set_aside(cache, f"{shown_path(cache)} is empty, cut short or damaged.")
        _decode(paths, cache, size)
    return np.load(cache, mmap_mode="r")


def _identity(images: pd.DataFrame, paths: Sequence[Path], size: int) -> str:
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


def _decode(paths: Sequence[Path], cache: Path, size: int) -> None:
    """Write the images into the array, each as soon as it is read."""
    with atomic_path(cache) as temporary:
        array = reserved_array(temporary, (len(paths), size, size, 3))

        def decode(row: int) -> None:
            array[row] = _resize_one(read_rgb(paths[row]), size)

        bar = {"desc": "decoding", "disable": no_bar(), "max_workers": cpu_count()}
        thread_map(decode, range(len(paths)), **bar)
        array.flush()


def channel_statistics(
    arrays: np.ndarray, rows: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
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
    return tuple(mean.round(6).tolist()), tuple(np.maximum(std, 1 / 255).round(6).tolist())


def training_batches(samples: pd.DataFrame, arrays: np.ndarray, config: RunConfig) -> "Batches":
    """Serve shuffled batches: uint8 (B, S, S, 3) and int64 (B,), a new order every epoch.

    The order depends on the run's seed and the epoch alone, so that a resumed run sees what an
    uninterrupted one would. Against imbalance, ``sampler`` draws with replacement instead.
    """
    chances = None
    if config.imbalance == "sampler":
        labels = _labels(samples, config)
        chances = 1 / (len(config.class_names) * np.bincount(labels))[labels]
    return Batches(samples, arrays, config, _EpochBatches(len(samples), config, chances))


def ordered_batches(samples: pd.DataFrame, arrays: np.ndarray, config: RunConfig) -> "Batches":
    """Serve batches like `training_batches`, in the order of the samples."""
    count, size = len(samples), config.batch_size
    sampler = [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
    return Batches(samples, arrays, config, sampler)


class Batches:
    """Batches of pixels and labels, by the positions that a sampler gives.

    They lie on the GPU if all pixels do, otherwise in memory, for Lightning to move. It looks for a
    ``sampler``, to set its epoch, and for a ``batch_sampler``, as a DataLoader has them.
    """

    batch_sampler = None

    def __init__(
        self,
        samples: pd.DataFrame,
        arrays: np.ndarray,
        config: RunConfig,
        sampler: "_EpochBatches | Sequence[np.ndarray]",
    ):
        self.sampler = sampler
        rows, labels = samples["row"].to_numpy(), _labels(samples, config)
        place = pixels_place(len(rows) * config.input_size**2 * 3)
        self.ahead = place == "pinned"
        if place == "device":
            self.fetch = _fetch_on_device(arrays, rows, labels, config.input_size)
        else:
            self.fetch = _fetch_in_memory(arrays, rows, labels, config.input_size, self.ahead)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # a generator asks for the order with the first batch: Lightning sets the epoch until then
        if self.ahead:
            yield from _fetch_ahead(self.fetch, self.sampler)
        else:
            yield from map(self.fetch, self.sampler)


def pixels_place(needed: int) -> str:
    """Choose where so many bytes of pixels lie: on the ``device``, ``pinned``, or in ``memory``.

    Pixels may take half of what is free on a GPU: the rest is the model's.
    """
    if find_device().type == "cpu":
        return "memory"
    return "device" if 2 * needed <= free_memory() else "pinned"


def _labels(samples: pd.DataFrame, config: RunConfig) -> np.ndarray:
    return pd.Index(config.class_names).get_indexer(samples["class"])


Fetch = Callable[[np.ndarray], tuple[Tensor, Tensor]]


def _fetch_in_memory(
    arrays: np.ndarray, rows: np.ndarray, labels: np.ndarray, size: int, pinned: bool
) -> Fetch:
    """Gather batches on the processor; into memory that a GPU can read by itself if `pinned`."""
    other_size = arrays.shape[1:3] != (size, size)
    if other_size and len(rows) * size**2 * 3 <= _RESIZED_AT_MOST:
        resized = np.empty((len(rows), size, size, 3), np.uint8)
        for place, row in zip(resized, rows, strict=True):
            place[:] = _resize_one(arrays[row], size)
        arrays, rows = resized, np.arange(len(rows))

    def fetch(positions: np.ndarray) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(resize(arrays[rows[positions]], size))
        chosen = torch.from_numpy(labels[positions])
        return (pixels.pin_memory(), chosen.pin_memory()) if pinned else (pixels, chosen)

    return fetch


def _fetch_on_device(arrays: np.ndarray, rows: np.ndarray, labels: np.ndarray, size: int) -> Fetch:
    """Copy all pixels to the device, in the input's size; then only positions travel."""
    device = find_device()
    pixels = torch.empty((len(rows), size, size, 3), dtype=torch.uint8, device=device)
    for start in range(0, len(rows), _COPIED_AT_ONCE):
        part = slice(start, start + _COPIED_AT_ONCE)
        pixels[part] = torch.from_numpy(resize(arrays[rows[part]], size))
    return partial(_gather, pixels, torch.from_numpy(labels).to(device))


def _gather(pixels: Tensor, labels: Tensor, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    chosen = torch.from_numpy(positions).to(pixels.device, non_blocking=True)
    return pixels.index_select(0, chosen), labels.index_select(0, chosen)


def _fetch_ahead(
    fetch: Fetch, sampler: "_EpochBatches | Sequence[np.ndarray]"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fetch in one thread, some batches ahead of the one in use."""
    with ThreadPoolExecutor(1) as thread:
        waiting = deque()
        for positions in sampler:
            waiting.append(thread.submit(fetch, positions))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _EpochBatches:
    """Positions of the batches of an epoch, all of nearly one size."""

    def __init__(self, count: int, config: RunConfig, chances: np.ndarray | None):
        self.count, self.seed, self.chances, self.epoch = count, config.seed, chances, 0
        # a batch of one image would leave batch normalisation nothing to average
        self.batches = min(-(-count // config.batch_size), max(1, count // 2))

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
        yield from np.array_split(order, self.batches)


def augment(
    images: Tensor, *, flip: float, translation: float, rotation: float, zoom: float
) -> Tensor:
    """Flip, rotate, enlarge or shrink, and shift each image at random, in one resampling.

    `images` are normalised float (N, C, S, S), on any device. `flip` is the chance of a horizontal
    and again of a vertical flip, `translation` the largest shift along each axis (fraction of the
    side), `rotation` the largest angle either way (degrees), `zoom` the largest change of size
    (fraction). Pixels from outside the image are 0, which after `normalise` is the mean colour;
    between pixels is interpolated linearly. Randomness comes from torch's global generator.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"images: shape {tuple(images.shape)}, {images.dtype} was given, but normalised float "
            "of shape (N, C, S, S) was expected, see to_input."
        )
    drawn = torch.rand(len(images), 6, device=images.device)
    mirror = torch.where(drawn[:, :2] < flip, -1.0, 1.0)
    angle = torch.deg2rad((2 * drawn[:, 2] - 1) * rotation)
    size = 1 + (2 * drawn[:, 3] - 1) * zoom
    shift = (2 * drawn[:, 4:] - 1) * translation * 2  # the grid's side is 2
    theta = sampling_matrices(mirror, angle, size, shift)
    grid = functional.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def sampling_matrices(mirror: Tensor, angle: Tensor, size: Tensor, shift: Tensor) -> Tensor:
    """Say where each pixel of a moved image comes from, as `functional.affine_grid` takes it.

    An image is mirrored (N, 2; 1 or -1 along x and y), then magnified (N,), then turned about its
    centre (N,; radians, clockwise as displayed), then shifted (N, 2; in half sides). Sampling
    needs the way back: (N, 2, 3).
    """
    cosine, sine = angle.cos(), angle.sin()
    turn_back = torch.stack([cosine, sine, -sine, cosine], dim=1).view(-1, 2, 2)
    back = mirror[:, :, None] * turn_back / size[:, None, None]
    return torch.cat([back, -back @ shift[:, :, None]], dim=2)


def augmented_pictures(arrays: np.ndarray, settings: TrainingSettings, times: int) -> np.ndarray:
    """Show what augmentation does to pictures.

    Parameters
    ----------
    arrays : uint8 (N, H, W, 3)
        Images or patches.
    settings : TrainingSettings
        Input size, ranges of the augmentation and seed.
    times : int
        How often each is augmented.

    Returns
    -------
    np.ndarray
        uint8 (1 + times, N, S, S, 3): first as stored, in the size of the model's input.
    """
    pictures = resize(arrays, settings.input_size)
    if not len(pictures):
        raise ValueError("There are no pictures to augment: does the training subset hold any?")
    torch.manual_seed(settings.seed)
    mean = pictures.mean(axis=(0, 1, 2))
    centred = torch.from_numpy(pictures - mean).permute(0, 3, 1, 2).float()
    moved = torch.stack([augment(centred, **settings.augmentation) for _ in range(times)])
    moved = moved.permute(0, 1, 3, 4, 2).numpy() + mean
    return np.stack([pictures, *moved.round().clip(0, 255).astype(np.uint8)])
