"""The two checks of Grad-CAM, on models where the right answer is known: both can fail."""

from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torchvision.models import DenseNet, ResNet
from torchvision.models.resnet import BasicBlock

from hsc_utils.explanation import checks
from hsc_utils.explanation.maps import layer_at_stride


def small_densenet() -> DenseNet:
    torch.manual_seed(0)
    return DenseNet(4, (1, 1, 2, 1), num_init_features=8, num_classes=3).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(12, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def channel_model() -> nn.Module:
    """A model that has learnt to look at channel 0 for class 0; its maps show what is there."""
    conv, fc = nn.Conv2d(8, 8, 1, bias=False), nn.Linear(8, 8, bias=False)
    conv.weight.data = torch.eye(8)[..., None, None]
    fc.weight.data = 9 * torch.eye(8)
    layers = {"conv": conv, "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
    return nn.Sequential(OrderedDict(layers | {"flat": nn.Flatten(), "fc": fc})).eval()


def spots(count: int) -> torch.Tensor:
    """Images of 8 channels, each with a bright spot in a place of its own."""
    rng = np.random.default_rng(0)
    pixels = rng.random((count, 8, 16, 16)) * 0.1
    for channel in pixels.reshape(-1, 16, 16):
        y, x = rng.integers(1, 11, 2)
        channel[y : y + 4, x : x + 4] += 1
    return torch.from_numpy(pixels).float()


class TestScrambling:
    def test_goes_from_the_output_to_the_input_and_spares_the_model(self, images):
        model = small_densenet()
        before = model(images).detach()
        names, outputs = [], []
        for name, scrambled in checks.scrambled_models(model, images, seed=3):
            names.append(name)
            outputs.append(scrambled(images).detach())
        assert names[0] == "classifier" and names[-1] == "conv0"
        assert "denseblock3" in names and "pool0" not in names
        assert not any(torch.allclose(before, output) for output in outputs)
        assert torch.equal(before, model(images))

    def test_keeps_the_values_of_each_weight(self, images):
        model = small_densenet()
        *_, (_, scrambled) = checks.scrambled_models(model, images)
        for ours, theirs in zip(model.parameters(), scrambled.parameters(), strict=True):
            assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values)

    def test_statistics_of_scrambled_layers_fit_what_they_now_see(self, images):
        torch.manual_seed(0)
        model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3).eval()
        kept = model.layer1[0].bn1.running_mean.clone()
        for name, scrambled in checks.scrambled_models(model, images):
            assert not any(module.training for module in scrambled.modules())
            if name == "layer2":
                break
        seen = []
        with scrambled.layer2[0].bn1.register_forward_pre_hook(lambda _, x: seen.append(x[0])):
            scrambled(images)
        mean = seen[0].mean(dim=(0, 2, 3))
        torch.testing.assert_close(scrambled.layer2[0].bn1.running_mean, mean)
        assert torch.equal(scrambled.layer1[0].bn1.running_mean, kept)

    def test_correlation_agrees_with_scipy(self):
        rng = np.random.default_rng(0)
        first, second = rng.random((2, 4, 6, 7))
        second[3] = 1
        ours = checks.map_correlation(first, second)
        expected = [spearmanr(first[k].ravel(), second[k].ravel())[0] for k in range(3)]
        np.testing.assert_allclose(ours[:3], expected)
        assert np.isnan(ours[3])

    def test_maps_that_show_what_was_learnt_change(self):
        images, ids = spots(12), [f"image{k}" for k in range(12)]
        table = checks.scrambled_correlations(
            channel_model(), images, np.zeros(12, int), "relu", ids, scramblings=12
        )
        by_layer = checks.correlation_by_layer(table)
        assert by_layer["layer"].tolist() == ["fc", "conv"]
        assert by_layer["high"].iloc[-1] < 0.5
        said = checks.scrambling_verdict(by_layer)
        assert "the maps change with the weights: a check passed, not a proof" in said

    def test_maps_that_show_only_the_picture_are_found_out(self):
        # equal weights can be shuffled as one likes: the map is the brightness, whatever is learnt
        model = channel_model()
        model.conv.weight.data.fill_(1)
        model.fc.weight.data.fill_(1)
        images = spots(6)
        table = checks.scrambled_correlations(
            model, images, np.zeros(6, int), "relu", list("abcdef"), scramblings=3
        )
        by_layer = checks.correlation_by_layer(table)
        np.testing.assert_allclose(by_layer[["mean", "low", "high"]], 1)
        assert "the maps stay" in checks.scrambling_verdict(by_layer)

    def test_intervals_cover_the_choice_of_scrambling(self):
        # scramblings that move all images together: many images do not make the mean sure
        rows = [(s, "fc", f"i{g}", 0.8 * (-1) ** s) for s in range(4) for g in range(50)]
        table = pd.DataFrame(rows, columns=["scrambling", "layer", "image_id", "correlation"])
        row = checks.correlation_by_layer(table).iloc[0]
        assert row["mean"] == pytest.approx(0)
        assert row["low"] < -0.5 and row["high"] > 0.5
        assert "too uncertain" in checks.scrambling_verdict(pd.DataFrame([row]))

    def table(self, values: np.ndarray, layers: str) -> pd.DataFrame:
        """Correlations (scrambling, layer, image) as `scrambled_correlations` lays them out."""
        places = np.ndindex(values.shape)
        rows = [(s, layers[k], f"i{i}", values[s, k, i]) for s, k, i in places]
        return pd.DataFrame(rows, columns=["scrambling", "layer", "image_id", "correlation"])

    def test_layers_stay_in_order_and_means_are_plain(self):
        values = np.random.default_rng(0).normal(size=(3, 4, 7))
        values[1, 2, 3] = np.nan
        by_layer = checks.correlation_by_layer(self.table(values, "zamb"))
        assert by_layer["layer"].tolist() == list("zamb")
        np.testing.assert_allclose(by_layer["mean"], np.nanmean(values, axis=(0, 2)))
        assert by_layer["constant"].tolist() == [0, 0, 1 / 21, 0]

    def test_scramblings_that_disagree_widen_the_interval(self):
        rng = np.random.default_rng(0)
        values = 0.1 * rng.normal(size=(6, 2, 40))
        values[:, 1] += 0.3 * rng.normal(size=(6, 1))
        by_layer = checks.correlation_by_layer(self.table(values, "ab"))
        agree, disagree = by_layer["high"] - by_layer["low"]
        # of six scramblings, as a t test of their means says
        means = values[:, 1].mean(axis=1)
        half = 2.57 * means.std(ddof=1) / np.sqrt(6)
        assert disagree > 4 * agree and disagree / 2 == pytest.approx(half, rel=0.15)

    @pytest.mark.parametrize(("scramblings", "images"), [(6, 4), (1, 40)])
    def test_few_images_or_one_scrambling_leave_no_interval(self, scramblings, images):
        values = 0.1 * np.random.default_rng(0).normal(size=(scramblings, 2, images))
        by_layer = checks.correlation_by_layer(self.table(values, "ab"))
        assert by_layer[["low", "high"]].isna().all(axis=None) and by_layer["mean"].notna().all()
        said = checks.scrambling_verdict(by_layer)
        assert "too few" in said and "nan" not in said

    def test_noise_passes_and_is_not_said_to_show_what_was_learnt(self):
        values = 0.2 * np.random.default_rng(0).normal(size=(4, 2, 20))
        said = checks.scrambling_verdict(checks.correlation_by_layer(self.table(values, "ab")))
        assert "a check passed, not a proof" in said and "learnt" not in said

    def test_constant_maps_are_counted_apart(self):
        rows = [(0, "fc", "a", np.nan), (0, "fc", "b", 0.4), (1, "fc", "a", 0.2), (1, "fc", "b", 0)]
        table = pd.DataFrame(rows, columns=["scrambling", "layer", "image_id", "correlation"])
        row = checks.correlation_by_layer(table).iloc[0]
        assert row["mean"] == pytest.approx(0.2) and row["constant"] == 0.25


def corner_model() -> tuple[nn.Module, np.ndarray]:
    """A model that reads one corner only, and a map of that corner."""
    corner = torch.zeros(8, 8)
    corner[:4, :4] = 1
    linear = nn.Linear(64, 2, bias=False)
    linear.weight.data = torch.stack([corner.flatten(), -corner.flatten()]) / 8
    return nn.Sequential(nn.Flatten(), linear).eval(), corner.numpy()[None]


class TestErasing:
    def test_probabilities_by_hand(self):
        model, map_ = corner_model()
        image = torch.from_numpy(map_)[None]
        order = checks.erasing_order(map_)
        curves = checks.deletion_curves(model, image, np.array([0]), order, (0, 0.125, 0.25))
        logits = 2 * np.array([16, 8, 0]) / 8
        np.testing.assert_allclose(curves[0], 1 / (1 + np.exp(-logits)), rtol=1e-6)
        opposite = checks.deletion_curves(
            model, image, np.array([0]), checks.erasing_order(1 - map_), (0.75,)
        )
        assert opposite[0, 0] == pytest.approx(curves[0, 0])

    def test_erased_pixels_take_the_rim_even_where_the_cell_covers_most(self):
        image = torch.full((1, 1, 20, 20), 9.0)
        image[..., 3:-3, 3:-3] = torch.arange(196).view(14, 14).float()
        model = nn.Sequential(nn.Flatten(), nn.Linear(400, 2, bias=False)).eval()
        model[1].weight.data = torch.stack([torch.full((400,), 1e-3), torch.zeros(400)])
        order = checks.erasing_order(np.zeros((1, 20, 20)))
        (curve,) = checks.deletion_curves(model, image, np.array([0]), order, (1.0,))
        assert curve[0] == pytest.approx(1 / (1 + np.exp(-400 * 9e-3)), rel=1e-5)

    def test_elsewhere_is_the_same_shape(self):
        order = checks.erasing_order(np.random.default_rng(0).random((3, 8, 8)))
        moved = checks.moved(order, np.random.default_rng(1))
        assert (moved != order).any(axis=(1, 2)).all()
        for ours, theirs in zip(order, moved, strict=True):
            shifts = [np.roll(ours, (y, x), (0, 1)) for y in range(8) for x in range(8)]
            assert any(np.array_equal(theirs, shifted) for shifted in shifts)

    def check(self, maps: np.ndarray) -> tuple[dict, pd.DataFrame]:
        model, corner = corner_model()
        images = torch.from_numpy(np.repeat(corner[None], len(maps), axis=0))
        drawn = pd.DataFrame({"class": "a", "image_id": np.arange(len(maps))})
        targets = np.zeros(len(maps), int)
        return checks.erasure(model, images, targets, maps, drawn, (0, 0.125, 0.25))

    def test_maps_of_what_the_model_reads_pass(self):
        right, wrong = corner_model()[1], corner_model()[1][:, ::-1, ::-1]
        curves, drops = self.check(np.concatenate([right, wrong] * 6)[:11])
        assert set(curves) == {checks.MARKED, checks.ELSEWHERE, checks.ANOTHER}
        _, drops = self.check(np.repeat(right, 8, axis=0))
        row = drops[drops["class"] == "all classes"].set_index("number")
        assert row.loc[checks.ELSEWHERE, "low"] > 0
        assert row.loc[checks.ANOTHER, "mean"] == 0  # all the cells' maps are one map
        # the only evidence that a map is its own cell's comes first
        first, second = checks.erasure_verdict(drops)
        assert checks.ANOTHER in first and "within the noise" in first
        assert checks.ELSEWHERE in second and "beyond the noise" in second

    def test_maps_of_something_else_fail(self):
        _, drops = self.check(np.repeat(corner_model()[1][:, ::-1, ::-1], 8, axis=0))
        assert (drops.set_index("number").loc[checks.ELSEWHERE, "high"] < 0).all()
        assert "do not mark what the model uses" in checks.erasure_verdict(drops)[1]

    def test_zero_maps_mark_nothing_and_are_left_out(self):
        maps = np.repeat(corner_model()[1], 8, axis=0)
        maps[3] = 0
        curves, drops = self.check(maps)
        assert set(curves[checks.MARKED]["samples"]) == set(drops["samples"]) == {6}


def test_layer_names_match_those_of_grad_cam(images):
    model = small_densenet()
    table = checks.scrambled_correlations(
        model,
        images,
        np.zeros(12, int),
        layer_at_stride(model, 16),
        list("aabbccddeeff"),
        1,
    )
    assert len(table) == 12 * table["layer"].nunique()


class TestCallersMistakes:
    def test_erasure(self):
        model, corner = corner_model()
        images, drawn = torch.from_numpy(corner)[None], pd.DataFrame({"class": ["a"]})
        drawn["image_id"] = "i"

        def erase(targets=(0,), maps=corner, drawn=drawn, fractions=(0, 0.5)):
            return checks.erasure(model, images, targets, maps, drawn, fractions)

        for message, arguments in {
            "2 is no class of the model": {"targets": [2]},
            r"maps \(1, 8, 7\), images \(1, 8, 8\)": {"maps": corner[..., 1:]},
            "drawn has 2 rows for 1 maps": {"drawn": pd.concat([drawn, drawn])},
            r"fractions: \(0,\) must": {"fractions": (0,)},
            r"fractions: \[0.5, 1.5\] must": {"fractions": [0.5, 1.5]},
        }.items():
            with pytest.raises(ValueError, match=message):
                erase(**arguments)
        for said in checks.erasure_verdict(erase()[1]):
            assert "too few images" in said and "to nan" not in said

    def test_scrambling(self, images):
        arguments = small_densenet(), images, np.zeros(12, int), "features"
        with pytest.raises(ValueError, match="0 scramblings, 12 images"):
            checks.scrambled_correlations(*arguments, list("aabbccddeeff"), 0)
        with pytest.raises(ValueError, match=r"maps \(1, 4, 4\), others \(2, 4, 4\)"):
            checks.map_correlation(np.zeros((1, 4, 4)), np.zeros((2, 4, 4)))
        rows = [(0, "fc", "a", np.nan), (0, "fc", "b", np.nan)]
        table = pd.DataFrame(rows, columns=["scrambling", "layer", "image_id", "correlation"])
        by_layer = checks.correlation_by_layer(table)
        assert by_layer["constant"].tolist() == [1]
        assert "too few images" in checks.scrambling_verdict(by_layer)
