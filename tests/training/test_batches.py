import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsc_utils.study import RunConfig
from hsc_utils.training import batches

CONFIG = RunConfig(
    architecture="resnet18",
    weights="none",
    input_size=32,
    batch_size=8,
    max_epochs=1,
    patience=1,
    learning_rate=1e-3,
    level="cell",
    class_names=("0", "1"),
    weights_used="none",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.1, 0.25),
    samples_sha256="",
    code_sha256="",
)
STILL = {"flip": 0.0, "translation": 0.0, "rotation": 0.0, "zoom": 0.0}


def move(images, mirror=(1, 1), degrees=0.0, size=1.0, shift=(0.0, 0.0)):
    theta = batches.sampling_matrices(
        torch.tensor([mirror], dtype=torch.float64),
        torch.deg2rad(torch.tensor([degrees], dtype=torch.float64)),
        torch.tensor([size], dtype=torch.float64),
        torch.tensor([shift], dtype=torch.float64),
    )
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)


@pytest.fixture(scope="module")
def pattern():
    return torch.rand(1, 2, 16, 16, dtype=torch.float64, generator=torch.manual_seed(0))


def test_known_moves_move_a_known_pattern(pattern):
    assert torch.allclose(move(pattern, mirror=(-1, 1)), pattern.flip(3))
    assert torch.allclose(move(pattern, mirror=(1, -1)), pattern.flip(2))
    assert torch.allclose(move(pattern, degrees=90), pattern.rot90(-1, (2, 3)), atol=1e-6)
    # a quarter of the side to the right, and an eighth down
    moved = move(pattern, shift=(0.5, 0.25))
    assert torch.allclose(moved[..., 2:, 4:], pattern[..., :-2, :-4])
    assert (moved[..., :2, :] == 0).all() and (moved[..., :4] == 0).all()


def test_order_is_mirror_then_scale_then_turn_then_shift():
    point = torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64)
    mirror, angle, size, shift = (-1.0, 1.0), 0.7, 1.2, (0.1, -0.05)
    theta = batches.sampling_matrices(
        torch.tensor([mirror], dtype=torch.float64),
        torch.tensor([angle], dtype=torch.float64),
        torch.tensor([size], dtype=torch.float64),
        torch.tensor([shift], dtype=torch.float64),
    )[0]
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y = size * mirror[0] * point[0], size * mirror[1] * point[1]
    there = [cosine * x - sine * y + shift[0], sine * x + cosine * y + shift[1], 1.0]
    assert torch.allclose(theta @ torch.tensor(there, dtype=torch.float64), point[:2])


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.floats(0, 0.1),
    st.floats(0, 90),
    st.floats(0, 0.2),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_random_moves_stay_within_the_stated_ranges(seed, translation, rotation, zoom, flip):
    torch.manual_seed(seed)
    seen = {}
    original = batches.sampling_matrices

    def remember(mirror, angle, size, shift):
        seen.update(mirror=mirror, angle=angle, size=size, shift=shift)
        return original(mirror, angle, size, shift)

    batches.sampling_matrices = remember
    try:
        moved = batches.augment(
            torch.rand(64, 1, 4, 4),
            flip=flip,
            translation=translation,
            rotation=rotation,
            zoom=zoom,
        )
    finally:
        batches.sampling_matrices = original
    assert moved.shape == (64, 1, 4, 4)
    assert torch.rad2deg(seen["angle"]).abs().max() <= rotation + 1e-3
    assert (seen["size"] - 1).abs().max() <= zoom + 1e-6
    assert seen["shift"].abs().max() / 2 <= translation + 1e-6
    mirrored = (seen["mirror"] == -1).float().mean(0)
    low, high = {0.0: (0, 0), 0.5: (0.2, 0.8), 1.0: (1, 1)}[flip]
    assert (mirrored >= low).all() and (mirrored <= high).all()
    if rotation > 1:
        assert seen["angle"].min() < 0 < seen["angle"].max()


def test_a_still_augmentation_changes_nothing():
    images = torch.rand(3, 3, 20, 20)
    assert torch.allclose(batches.augment(images, **STILL), images, atol=1e-5)


def test_each_image_moves_its_own_way_and_leaves_the_mean_colour_behind():
    torch.manual_seed(0)
    images = torch.ones(8, 1, 32, 32)
    moved = batches.augment(images, **{**STILL, "translation": 0.1})
    assert len({moved[k].sum().item() for k in range(8)}) == 8
    assert moved.min() == 0


@pytest.mark.parametrize("channels", [[0, 1, 2], [0], [2], [0, 2]])
def test_to_input_normalises_the_chosen_channels(channels):
    arrays = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    config = replace(
        CONFIG,
        channels=channels,
        mean=[CONFIG.mean[k] for k in channels],
        std=[CONFIG.std[k] for k in channels],
    )
    found = batches.to_input(arrays, config)
    assert found.shape == (2, len(channels), 32, 32) and found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    for place, k in enumerate(channels):
        expected = (arrays[..., k] / 255 - CONFIG.mean[k]) / CONFIG.std[k]
        assert np.allclose(found[:, place].numpy(), expected, atol=1e-5)


def test_to_input_resizes_by_area():
    arrays = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    blocks = arrays.reshape(2, 32, 2, 32, 2, 3).mean((2, 4))
    found = batches.to_input(arrays, replace(CONFIG, mean=(0, 0, 0), std=(1, 1, 1)))
    assert np.abs(found.permute(0, 2, 3, 1).numpy() * 255 - blocks).max() <= 0.51


def test_channel_statistics_are_those_of_the_chosen_rows():
    arrays = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    arrays[..., 2] = 7
    mean, std = batches.channel_statistics(arrays, np.array([1, 3]))
    chosen = arrays[[1, 3]] / 255
    assert mean == pytest.approx(tuple(chosen.mean((0, 1, 2))), abs=1e-6)
    assert std[:2] == pytest.approx(tuple(chosen.std((0, 1, 2))[:2]), abs=1e-6)
    assert std[2] > 0


def samples_of(labels):
    return pd.DataFrame({"class": [str(label) for label in labels], "row": range(len(labels))})


def numbered(count, **changes):
    """Return a configuration of as many classes as samples, so that labels are positions."""
    return replace(CONFIG, class_names=[str(k) for k in range(count)], **changes)


def order_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return [labels.tolist() for _, labels in loader]


def test_batches_are_shuffled_by_seed_and_epoch_and_hold_every_sample_once():
    arrays = np.zeros((25, 4, 4, 3), np.uint8)
    config = numbered(25, input_size=4, seed=1)
    loader = batches.training_batches(samples_of(range(25)), arrays, config)
    first, second = order_of(loader, 0), order_of(loader, 1)
    assert sorted(np.concatenate(first)) == list(range(25)) and first != second
    assert [len(batch) for batch in first] == [7, 6, 6, 6] and len(loader) == 4
    again = batches.training_batches(samples_of(range(25)), arrays, config)
    assert order_of(again, 1) == second


def test_a_sampler_draws_classes_equally():
    samples, arrays = samples_of([0] * 90 + [1] * 10), np.zeros((100, 2, 2, 3), np.uint8)
    config = replace(CONFIG, imbalance="sampler", batch_size=100, input_size=2)
    loader = batches.training_batches(samples, arrays, config)
    drawn = np.concatenate([order_of(loader, epoch)[0] for epoch in range(20)])
    assert 0.45 < drawn.mean() < 0.55


def test_ordered_batches_follow_their_rows():
    arrays = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    rows = [4, 0, 5]
    samples = samples_of(range(6)).loc[rows]
    loader = batches.ordered_batches(samples, arrays, numbered(6, batch_size=2, input_size=2))
    pixels, labels = zip(*loader, strict=True)
    assert torch.cat(pixels)[:, 0, 0, 0].tolist() == rows
    assert torch.cat(labels).tolist() == rows


PLACES = ["memory", "device", "pinned"]


@pytest.fixture
def stored_at(monkeypatch):
    """Take the road of a GPU, whose pinned memory is plain memory here."""

    def choose(place):
        monkeypatch.setattr(batches, "pixels_place", lambda needed: place)
        if not torch.cuda.is_available():
            monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)

    return choose


@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("place", PLACES)
def test_batches_are_the_same_wherever_pixels_lie(stored_at, place, side):
    stored_at(place)
    arrays = np.random.default_rng(0).integers(0, 256, (30, side, side, 3), dtype=np.uint8)
    samples = samples_of(range(30)).sample(20, random_state=0)
    config = numbered(30, input_size=16, batch_size=6)
    for loader in (
        batches.training_batches(samples, arrays, config),
        batches.ordered_batches(samples, arrays, config),
    ):
        for pixels, labels in loader:
            expected = batches.resize(arrays[labels.cpu().numpy()], 16)
            assert pixels.dtype == torch.uint8 and (pixels.cpu().numpy() == expected).all()
    shuffled = batches.training_batches(samples, arrays, config)
    order = samples["row"].to_numpy()[np.random.default_rng((config.seed, 3)).permutation(20)]
    assert order_of(shuffled, 3) == [part.tolist() for part in np.array_split(order, 4)]


@pytest.mark.parametrize("place", PLACES)
def test_the_epoch_may_be_set_after_the_iterator_is_made(stored_at, place):
    """Lightning does so in a resumed run, which would else begin with the order of epoch 0."""
    stored_at(place)
    arrays = np.zeros((25, 4, 4, 3), np.uint8)
    loader = batches.training_batches(samples_of(range(25)), arrays, numbered(25, input_size=4))
    expected = order_of(loader, 2)
    loader.sampler.set_epoch(0)
    iterator = iter(loader)
    loader.sampler.set_epoch(2)
    assert [labels.tolist() for _, labels in iterator] == expected


def test_a_failure_in_the_fetching_thread_reaches_the_caller(stored_at):
    stored_at("pinned")
    arrays = np.zeros((3, 4, 4, 3), np.uint8)
    loader = batches.ordered_batches(samples_of(range(5)), arrays, numbered(5, input_size=4))
    with pytest.raises(IndexError):
        list(loader)


@pytest.mark.parametrize(("bound", "times"), [(2**30, 1), (0, 3)])
@pytest.mark.parametrize("place", ["memory", "pinned"])
def test_patches_are_resized_once_if_the_result_is_small_enough(
    stored_at, monkeypatch, place, bound, times
):
    stored_at(place)
    monkeypatch.setattr(batches, "_RESIZED_AT_MOST", bound)
    arrays = np.random.default_rng(0).integers(0, 256, (10, 24, 24, 3), dtype=np.uint8)
    resized, original = [], cv2.resize
    monkeypatch.setattr(cv2, "resize", lambda *a, **k: resized.append(1) or original(*a, **k))
    loader = batches.training_batches(samples_of(range(10)), arrays, numbered(10, input_size=16))
    for epoch in range(3):
        order_of(loader, epoch)
    assert len(resized) == 10 * times


@pytest.fixture
def prepared(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows = []
    for k in range(3):
        rgb = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"images/{k}.png"), rgb[..., ::-1])
        rows.append({"image_id": str(k), "path": f"images/{k}.png", "sha256": "a", "rgb": rgb})
    return tmp_path, pd.DataFrame(rows)


def test_images_are_decoded_once_into_rgb(prepared, monkeypatch):
    folder, images = prepared
    arrays = batches.image_arrays(images, folder, folder / "cache", 20)
    expected = cv2.resize(images["rgb"][2], (20, 20), interpolation=cv2.INTER_AREA)
    assert (arrays[2] == expected).all() and arrays.dtype == np.uint8
    monkeypatch.setattr(batches, "read_rgb", None)  # not called again
    assert (batches.image_arrays(images, folder, folder / "cache", 20) == arrays).all()
    assert len(list((folder / "cache").glob("*.npy"))) == 1


def test_runs_side_by_side_make_the_cache_together(prepared):
    """Each ends with the whole array; without waiting, one would move away the other's file."""
    folder, images = prepared
    many = pd.concat([images] * 40, ignore_index=True)
    with ThreadPoolExecutor(4) as pool:
        made = [
            pool.submit(batches.image_arrays, many, folder, folder / "cache", 20) for _ in range(4)
        ]
    assert all((run.result() == made[0].result()).all() for run in made)


def test_changed_images_or_sizes_are_decoded_anew(prepared):
    folder, images = prepared
    before = batches.image_arrays(images, folder, folder / "cache", 20)[0].copy()
    cv2.imwrite(str(folder / "images/0.png"), np.zeros((40, 50, 3), np.uint8))
    os.utime(folder / "images/0.png", (1, 1))
    after = batches.image_arrays(images, folder, folder / "cache", 20)
    assert before.any() and not after[0].any()
    assert batches.image_arrays(images, folder, folder / "cache", 10).shape == (3, 10, 10, 3)
    assert batches.image_arrays(images[:2], folder, folder / "cache", 20).shape[0] == 2


def test_missing_and_damaged_images_are_named(prepared):
    folder, images = prepared
    (folder / "images/1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"images/1\.png cannot be read as an image.*again"):
        batches.image_arrays(images, folder, folder / "cache", 20)
    assert not list((folder / "cache").glob("*.npy*"))
    (folder / "images/1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/1\.png .*missing"):
        batches.image_arrays(images, folder, folder / "cache", 20)


def test_pictures_are_augmented_for_a_reader():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    still = batches.augmented_pictures(pictures, replace(CONFIG, input_size=16, **STILL), times=3)
    assert still.shape == (4, 2, 16, 16, 3) and still.dtype == np.uint8
    assert (still[0] == pictures).all()
    assert np.abs(still.astype(int) - pictures).max() <= 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "spoil", [cut, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(bytes(2000))]
)
def test_a_damaged_cache_is_named_and_made_again(prepared, capsys, spoil):
    folder, images = prepared
    whole = np.array(batches.image_arrays(images, folder, folder / "cache", 20))
    (cache,) = (folder / "cache").glob("*.npy")
    spoil(cache)
    assert (batches.image_arrays(images, folder, folder / "cache", 20) == whole).all()
    assert f"{cache.name} is empty, cut short or damaged" in capsys.readouterr().out
    assert cache.with_name(f"{cache.name}.damaged").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (np.zeros((2, 8, 8, 3)), r"shape \(2, 8, 8, 3\), float64"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \(8, 8, 3\), uint8"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"shape \(2, 8, 8, 4\)"),
        (np.zeros((2, 0, 8, 3), np.uint8), r"shape \(2, 0, 8, 3\)"),
        ("a.png", r"shape \(\), str"),
    ],
)
def test_anything_but_pictures_is_refused(arrays, message):
    for verb in (
        lambda: batches.to_input(arrays, CONFIG),
        lambda: batches.resize(arrays, 32),
        lambda: batches.augmented_pictures(arrays, CONFIG, times=1),
    ):
        with pytest.raises(ValueError, match=f"{message}.* given.*uint8, was expected"):
            verb()


def test_no_picture_is_no_fault_of_resizing_but_nothing_to_augment():
    none = np.zeros((0, 8, 8, 3), np.uint8)
    assert batches.to_input(none, CONFIG).shape == (0, 3, 32, 32)
    with pytest.raises(ValueError, match="training subset"):
        batches.augmented_pictures(none, CONFIG, times=1)
    with pytest.raises(ValueError, match=r"images: shape \(3, 20, 20\).*float"):
        batches.augment(torch.zeros(3, 20, 20), **STILL)


def test_the_package_asks_nothing_that_windows_lacks():
    """On Windows there is no fcntl; the module must still be importable."""
    code = "import sys; sys.modules['fcntl'] = None; import hsc_utils.training.batches"
    # the libraries come first: only this project's own imports are judged
    subprocess.run([sys.executable, "-c", f"import torch, filelock, tqdm, cv2; {code}"], check=True)
