import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import LayerGradCam
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import DenseNet, ResNet, VisionTransformer
from torchvision.models.resnet import BasicBlock

from hsc_utils import metrics, training
from hsc_utils.explanation import attention
from hsc_utils.explanation.maps import grad_cam, layer_at_stride, normalise, resize_maps
from hsc_utils.study import Run, RunConfig


def small_densenet() -> DenseNet:
    torch.manual_seed(0)
    return DenseNet(4, (1, 1, 2, 1), num_init_features=8, num_classes=3).eval()


def small_resnet() -> ResNet:
    torch.manual_seed(0)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


CONFIG = RunConfig(
    architecture="resnet18",
    weights="none",
    input_size=64,
    batch_size=8,
    max_epochs=1,
    patience=1,
    learning_rate=1e-3,
    level="cell",
    class_names=("a", "b", "c"),
    weights_used="none",
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    samples_sha256="",
    code_sha256="",
)


def enlarged(coarse: torch.Tensor) -> np.ndarray:
    fine = nn.functional.interpolate(coarse[:, None], size=(64, 64), mode="bilinear")[:, 0]
    return normalise(fine.detach().float().numpy())


class TestGradCam:
    def test_is_right_where_the_answer_is_known_by_hand(self):
        model = nn.Sequential(
            nn.Conv2d(1, 1, 1, bias=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(1, 2, bias=False),
        ).eval()
        model[0].weight.data.fill_(1)
        model[3].weight.data = torch.tensor([[3.0], [-3.0]])
        image = torch.tensor([[[[4.0, -2.0], [0.0, 1.0]]]])
        maps = grad_cam(model, image.repeat(2, 1, 1, 1), [0, 1], layer="0")
        np.testing.assert_allclose(maps, [[[1, 0], [0, 0.25]], [[0, 1], [0, 0]]], atol=1e-7)

    def test_densenet_is_explained_after_its_last_relu(self, images):
        model = small_densenet()
        targets = torch.tensor([0, 1, 2, 1, 0])
        # after global average pooling the gradient of a logit is its weight, so Grad-CAM
        # is the class activation map of what the pooling sees
        seen = model.features(images).relu()
        expected = torch.einsum("nchw,nc->nhw", seen, model.classifier.weight[targets]).relu()
        maps = grad_cam(model, images, targets)
        np.testing.assert_allclose(maps, enlarged(expected), atol=1e-5)
        before = torch.einsum(
            "nchw,nc->nhw", model.features(images), model.classifier.weight[targets]
        ).relu()
        assert np.abs(maps - enlarged(before)).max() > 0.05

    def test_resnet_is_explained_where_the_pooling_averages(self, images):
        model = small_resnet()
        targets = torch.tensor([2, 2, 1, 0, 0])
        seen = []
        hook = model.avgpool.register_forward_pre_hook(lambda _, x: seen.append(x[0].clone()))
        model(images)
        hook.remove()
        expected = torch.einsum("nchw,nc->nhw", seen[0], model.fc.weight[targets]).relu()
        maps = grad_cam(model, images, targets)
        np.testing.assert_allclose(maps, enlarged(expected), atol=1e-5)

    @pytest.mark.parametrize("build", [small_densenet, small_resnet])
    @pytest.mark.parametrize("stride", [16, 8])
    def test_earlier_layers_agree_with_finite_differences(self, build, stride, images):
        model, images, step = build().double(), images[:1].double(), 1e-5
        name = layer_at_stride(model, stride)
        layer, target, seen = model.get_submodule(name), 1, []
        with layer.register_forward_hook(lambda *io: seen.append(io[2].clone())):
            model(images)
        assert seen[0].shape[-1] == 64 // stride
        # one raised channel a row: only what follows the layer is run for each
        bumps = step * torch.eye(seen[0].shape[1]).double()[..., None, None]
        with layer.register_forward_hook(lambda *io: io[2] + bumps):
            higher = model(images)[:, target]
        with layer.register_forward_hook(lambda *io: io[2] - bumps):
            slopes = (higher - model(images)[:, target]) / (2 * step)
        expected = torch.einsum("nchw,c->nhw", seen[0], slopes).relu()
        maps = grad_cam(model, images, [target], layer=name)
        np.testing.assert_allclose(maps, enlarged(expected), atol=1e-4)

    def test_does_not_depend_on_the_batch_size_nor_change_the_model(self, images):
        model = small_densenet()
        before = model(images).detach()
        together = grad_cam(model, images, [0] * 5)
        apart = grad_cam(model, images, [0] * 5, batch_size=2)
        np.testing.assert_allclose(together, apart, atol=1e-5)
        assert torch.equal(before, model(images))
        assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())

    @pytest.mark.parametrize("name", training.PAPER_ARCHITECTURES)
    def test_every_backbone_is_explained_where_its_pooling_averages(self, name, images):
        model = training.build_model(name, weights="none").eval()
        head = model.fc if hasattr(model, "fc") else model.classifier
        sides, seen = {}, []
        for stride in (32, 16, 8):
            layer = model.get_submodule(layer_at_stride(model, stride))
            layer.register_forward_hook(
                lambda _, i, out, s=stride: sides.update({s: out.shape[-1]})
            )
            if stride == 32:
                layer.register_forward_hook(lambda _, i, out: seen.append(out.clone().relu()))
        model(images[:1])
        assert sides == {32: 2, 16: 4, 8: 8}
        expected = torch.einsum("nchw,c->nhw", seen[0], head.weight[1]).relu()
        maps = grad_cam(model, images[:1], [1])
        np.testing.assert_allclose(maps, enlarged(expected), atol=1e-4)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to compare with")
    @pytest.mark.parametrize("name", ["resnet18", "densenet169"])
    @pytest.mark.parametrize("stride", [32, 16])
    def test_is_the_same_on_a_gpu(self, name, stride, images):
        torch.manual_seed(0)
        model = training.build_model(name, weights="none").eval()
        layer = layer_at_stride(model, stride)
        here = grad_cam(model, images, [0, 1, 2, 0, 1], layer)
        there = grad_cam(model.cuda(), images, [0, 1, 2, 0, 1], layer)
        np.testing.assert_allclose(there, here, atol=1e-3)

    def test_no_positive_evidence_stays_zero(self, images):
        model = small_resnet()
        model.fc.weight.data = -model.fc.weight.data.abs()
        maps = grad_cam(model, images, [0] * 5)
        assert maps.shape == (5, 64, 64) and maps.dtype == np.float32
        assert (maps == 0).all()

    def test_refuses_what_would_mislead(self, images):
        model = small_resnet()
        with pytest.raises(ValueError, match="5 images came with 2 targets"):
            grad_cam(model, images, [0, 1])
        with pytest.raises(ValueError, match="no layer 'layer9'"):
            grad_cam(model, images, [0] * 5, layer="layer9")
        with pytest.raises(ValueError, match="stride is 4"):
            layer_at_stride(model, 4)
        with pytest.raises(ValueError, match="model is a Sequential"):
            layer_at_stride(nn.Sequential())
        with pytest.raises(ValueError, match=r"model\.eval\(\)"):
            grad_cam(model.train(), images, [0] * 5)


class Detached(nn.Module):
    """A network whose logits cannot be traced back to its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).detach().mean((2, 3)))


class TestCallersMistakes:
    """One sentence each: what was wrong, what was expected."""

    def test_it_works_where_gradients_are_off(self, images):
        model = small_resnet()
        expected = grad_cam(model, images, [0, 1, 2, 1, 0])
        for off in (torch.inference_mode, torch.no_grad):
            with off():
                maps = grad_cam(model, images.clone(), [0, 1, 2, 1, 0])
            np.testing.assert_allclose(maps, expected, atol=1e-6)

    def test_arrays_are_taken_and_no_image_gives_no_map(self, images):
        model = small_resnet()
        expected = grad_cam(model, images, [0, 1, 2, 1, 0])
        maps = grad_cam(model, images.numpy(), np.array([0, 1, 2, 1, 0]))
        np.testing.assert_array_equal(maps, expected)
        assert grad_cam(model, images[:0], []).shape == (0, 64, 64)
        assert resize_maps(np.zeros((0, 8, 8)), 20).shape == (0, 20, 20)

    @pytest.mark.parametrize(
        ("change", "targets", "message"),
        [
            (lambda x: x, [0, 1, 2, 3, 0], "3 is no class of the model; its classes are 0 to 2"),
            (lambda x: x, [0, -1, 0, 0, 0], "-1 is no class of the model"),
            (lambda x: x, ["a"] * 5, "an index of a class for each"),
            (lambda x: x, None, "an index of a class for each"),
            (lambda x: x, np.eye(5), "an index of a class for each"),
            (lambda x: x[0], [0, 1, 2], r"shape \(3, 64, 64\), but floats \(N, C, H, W\)"),
            (lambda x: (9 * x).byte(), [0] * 5, r"images are torch\.uint8"),
            (lambda x: x[:, :2], [0] * 5, r"cannot take images of shape \(2, 64, 64\)"),
            (lambda x: x.where(x < 3, np.nan), [0] * 5, "hold NaN or infinity, the first is"),
            (lambda x: x.where(x < 3, np.inf), [0] * 5, "hold NaN or infinity, the first is"),
        ],
    )
    def test_images_or_targets(self, images, change, targets, message):
        with pytest.raises(ValueError, match=message):
            grad_cam(small_resnet(), change(images), targets)

    @pytest.mark.parametrize("layer", ["fc", "", "avgpool2", None])
    def test_layers_that_give_no_map(self, images, layer):
        with pytest.raises(ValueError, match=r"Layer|layer"):
            grad_cam(Detached().eval() if layer is None else small_resnet(), images, [0] * 5, layer)

    def test_more_than_the_memory_holds(self, images, monkeypatch):
        def fill(*_, **__):
            raise RuntimeError("CUDA error: out of memory")

        monkeypatch.setattr(LayerGradCam, "attribute", fill)
        with pytest.raises(MemoryError, match=r"batch of 2 at 64 px .* lower batch_size first"):
            grad_cam(small_resnet(), images, [0] * 5, batch_size=2)

    def test_a_layer_that_the_logits_do_not_depend_on(self, images):
        with pytest.raises(ValueError, match=r"'conv' gives no map .* on which the logits depend"):
            grad_cam(Detached().eval(), images, [0] * 5, "conv")

    def test_a_model_without_numbers_and_a_transformer_of_another_size(self, images):
        broken = small_resnet()
        broken.fc.weight.data.fill_(np.nan)
        with pytest.raises(ValueError, match="logits are not finite"):
            grad_cam(broken, images, [0] * 5)
        transformer = VisionTransformer(32, 16, 1, 2, 8, 8, num_classes=3).eval()
        with pytest.raises(ValueError, match="Wrong image height"):
            grad_cam(transformer, images, [0] * 5, "encoder")
        with pytest.raises(ValueError, match="'encoder' gives no map"):
            grad_cam(transformer, images[..., :32, :32], [0] * 5, "encoder")

    def test_strides_sizes_and_shapes(self, images):
        for stride in ("16", [16], None):
            with pytest.raises(ValueError, match="Grad-CAM layers exist at 32, 16, 8"):
                layer_at_stride(small_resnet(), stride)
        with pytest.raises(ValueError, match="batch_size: 0"):
            grad_cam(small_resnet(), images, [0] * 5, batch_size=0)
        with pytest.raises(ValueError, match="to side 0"):
            resize_maps(np.zeros((1, 8, 8)), 0)
        with pytest.raises(ValueError, match=r"maps \(2, 8, 8\), labels \(2, 8, 9\)"):
            attention.measure_images(np.zeros((2, 8, 8)), np.zeros((2, 8, 9), int))


CD34 = ["CD34+", "CD34-", "NO"]


def finished_run(folder, split="test") -> tuple[Run, pd.DataFrame]:
    """A run that predicted two cells of each class, and the table of these cells."""
    names = [f"{name}__{k}" for name in CD34 for k in range(2)]
    cells = pd.DataFrame({"cell_id": names, "class": np.repeat(CD34, 2), "split": split})
    scores = np.eye(3)[[0, 1, 1, 1, 2, 2]] * 0.8 + 0.1
    table = cells.rename(columns={"cell_id": "id"})
    table[[f"p_{name}" for name in CD34]] = scores / scores.sum(axis=1, keepdims=True)
    run = Run(folder / "runs" / "cell" / "resnet18" / "seed0")
    run.directory.mkdir(parents=True)
    table.to_parquet(run.predictions_file)
    return run, cells


class TestDrawing:
    def test_classes_with_odd_names(self, tmp_path):
        run, cells = finished_run(tmp_path)
        drawn = attention.draw_predicted(run, cells, "test", 9)
        assert drawn["predicted"].tolist() == ["CD34+", "CD34-", "CD34-", "CD34-", "NO", "NO"]
        assert len(attention.pick_examples(drawn)) == 4

    def test_a_subset_that_is_not_there(self, tmp_path):
        run, cells = finished_run(tmp_path, split="validation")
        with pytest.raises(ValueError, match=r"no test sample\. Choose a subset .*: validation"):
            attention.draw_predicted(run, cells, "test", 9)
        with pytest.raises(ValueError, match="per_class: 0"):
            attention.draw_predicted(run, cells, "validation", 0)

    def test_tables_of_another_study(self, tmp_path):
        run, cells = finished_run(tmp_path)
        others = {
            "samples such as other": cells.assign(cell_id="other"),
            r"1 test samples such as CD34-__0": cells.assign(
                **{"class": cells["class"].mask(cells.index == 2, "NO")}
            ),
        }
        for message, table in others.items():
            with pytest.raises(ValueError, match=rf"{message}.* trained on other tables"):
                attention.draw_predicted(run, table, "test", 9)

    def test_damaged_predictions(self, tmp_path):
        run, cells = finished_run(tmp_path)
        for content in (b"", run.predictions_file.read_bytes()[:300]):
            run.predictions_file.write_bytes(content)
            with pytest.raises(ValueError, match=r"predictions\.parquet is empty, cut short"):
                attention.draw_predicted(run, cells, "test", 9)

    def test_predictions_of_a_class_that_the_model_does_not_have(self):
        drawn = pd.DataFrame({"predicted": ["a", "CD34+"]})
        with pytest.raises(ValueError, match=r"CD34\+ was predicted, but the model's are a, b"):
            attention.inputs_and_targets(np.zeros((2, 8, 8, 3), np.uint8), drawn, CONFIG)


def test_cells_are_measured_a_few_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 255, (7, 40, 40, 3), dtype=np.uint8)
    cells = pd.DataFrame({"row": [6, 0, 3, 2, 5], "predicted": list("abcab")})
    model, layers = small_resnet(), {32: "layer4", 16: "layer3"}
    sizes = []

    def find_labels(part, pixels):
        sizes.append(len(pixels))
        np.testing.assert_array_equal(pixels, patches[part["row"]])
        return (pixels[..., 0] > 99).astype(np.int32)

    def find_nuclei(part, pixels):
        return (pixels[..., 0] > 199).astype(np.int32)

    monkeypatch.setattr(attention, "CELLS_AT_ONCE", 2)
    parts = {"nucleus": find_nuclei}
    table = attention.measure_cells(model, CONFIG, patches, cells, layers, find_labels, parts)
    assert sizes == [2, 2, 1] and len(table) == 10
    chosen = patches[cells["row"]]
    inside = chosen[..., 0] > 99
    inputs = training.to_input(chosen, CONFIG)
    for stride, layer in layers.items():
        maps = resize_maps(grad_cam(model, inputs, [0, 1, 2, 0, 1], layer), 40)
        expected = attention.cell_numbers(maps, inside.astype(int), inside, 64 // stride)
        ours = table[table["stride"] == stride].sort_values("position", ignore_index=True)
        pd.testing.assert_frame_equal(ours[expected.columns], expected, rtol=1e-4)
        of_part = attention.part_numbers(maps, chosen[..., 0] > 199, expected, "nucleus")
        same = of_part.columns.difference(["other_nucleus", "beyond_nucleus"])
        pd.testing.assert_frame_equal(ours[same], of_part[same], rtol=1e-4)
        # the fifth cell was alone in memory, with no other cell's map
        assert ours["other_nucleus"].isna().tolist() == [False] * 4 + [True]
        np.testing.assert_array_equal(ours["zero"], maps.max(axis=(1, 2)) == 0)


def test_examples_are_right_and_wrong_ones_of_each_class():
    drawn = pd.DataFrame({"class": list("aaabb"), "predicted": list("abaab")})
    assert attention.pick_examples(drawn).tolist() == [0, 1, 4, 3]


class TestNumbers:
    def test_shares_of_a_map_counted_by_hand(self):
        maps, labels = np.zeros((1, 4, 4)), np.zeros((1, 4, 4), int)
        maps[0, :2] = [[3, 1, 0, 0], [0, 0, 4, 0]]
        labels[0, :2] = [[5, 5, 0, 0], [0, 0, 7, 0]]
        row = attention.cell_numbers(maps, labels, labels == 5, 4).iloc[0]
        assert row.share == 4 / 8 and row.area == 2 / 16 and row.pointing == 0
        assert row.share_neighbours == 4 / 8 and row.area_neighbours == 1 / 16
        # on a grid as fine as the patch every place is as likely as another
        assert row.pointing_chance == 2 / 16 and row.pointing_excess == -2 / 16
        row = attention.cell_numbers(maps, labels, labels == 7, 4).iloc[0]
        assert row.pointing == 1 and row.pointing_excess == 15 / 16

    def test_an_even_map_has_the_share_of_the_area(self):
        labels = np.random.default_rng(0).integers(0, 3, (6, 9, 9))
        table = attention.cell_numbers(np.ones((6, 9, 9)), labels, labels == 1, 9)
        np.testing.assert_allclose(table["share"], table["area"])
        np.testing.assert_allclose(table["share_neighbours"], table["area_neighbours"])
        whole = attention.image_numbers(np.ones((9, 9)), labels[0])
        assert whole["share"] == pytest.approx(whole["area"]) and whole["gini"] == 0

    def test_zero_maps_and_missing_cells_are_not_counted(self):
        maps = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
        labels = np.ones((2, 4, 4), int)
        inside = np.stack([np.ones((4, 4), bool), np.zeros((4, 4), bool)])
        assert attention.cell_numbers(maps, labels, inside, 2).isna().all(axis=None)
        assert np.isnan(attention.image_numbers(maps[0], labels[0])["share"])
        assert np.isnan(attention.image_numbers(maps[1], 0 * labels[0])["gini"])

    @given(st.lists(st.floats(0.01, 1e3), min_size=1, max_size=30))
    def test_gini_is_the_mean_difference_over_twice_the_mean(self, values):
        values = np.array(values)
        differences = np.abs(values[:, None] - values).mean()
        assert attention.gini(values) == pytest.approx(differences / (2 * values.mean()), abs=1e-9)

    def test_gini_of_one_bright_cell(self):
        assert attention.gini(np.array([0, 0, 0, 1.0])) == 0.75

    def test_concentration_is_set_against_the_same_map_moved(self):
        labels = np.arange(1, 65).reshape(1, 8, 8)
        even = attention.measure_images(np.ones((1, 8, 8)), labels).iloc[0]
        assert even.gini == even.gini_shifted == 0
        peak = np.full((1, 8, 8), 0.01)
        peak[0, 1, 1] = 1
        cells = np.zeros((1, 8, 8), int)
        cells[0, 1, 1], cells[0, 5, 5], cells[0, 2, 7] = 1, 2, 3
        row = attention.measure_images(peak, cells).iloc[0]
        assert row.gini > 0.6 > row.gini_shifted

    def test_intervals_count_images_and_not_cells(self):
        rng = np.random.default_rng(0)
        values = rng.normal(size=40)
        once = pd.DataFrame({"class": "a", "image_id": np.arange(40), "share": values})
        copied = pd.concat([once] * 9)
        narrow, wide = (metrics.means_by_class(t, ["share"]).iloc[0] for t in (copied, once))
        assert (narrow["low"], narrow["high"]) == pytest.approx((wide["low"], wide["high"]))
        spread = (wide["high"] - wide["low"]) / (2 * 2.02)
        assert spread == pytest.approx(values.std() / np.sqrt(40), rel=0.05)

    @pytest.mark.parametrize("count", [1, 4, 5])
    def test_few_images_have_no_interval(self, count):
        names = [f"i{k}" for k in range(count)]
        table = pd.DataFrame({"class": "a", "image_id": np.repeat(names, 2)})
        table["share"] = np.tile([0.2, 0.4], count) + np.repeat(np.arange(count), 2) / 100
        means = metrics.means_by_class(table, ["share"])
        assert (means["images"] == count).all()
        assert means[["low", "high"]].isna().all(axis=None) == (count < 5)
        shown = attention.in_words(means)
        said = shown.loc["share of Grad-CAM inside the cell", "all classes"]
        expected = {1: "0.300 (1 image, no interval)", 4: "0.315 (4 images, no interval)"}
        assert said == expected.get(count, said) and "nan" not in said


class TestParts:
    def test_shares_on_a_part_counted_by_hand(self):
        maps = np.zeros((2, 4, 4))
        maps[0, 0], maps[1, 0] = [3, 1, 0, 4], [0, 2, 2, 0]
        cell, nucleus = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
        cell[:, 0, :3], nucleus[:, 0, 1] = True, True
        of_cell = attention.cell_numbers(maps, cell.astype(int), cell, 4)
        first, second = attention.part_numbers(maps, nucleus, of_cell, "nucleus").itertuples()
        assert first.share_nucleus == 1 / 8 and first.area_nucleus == 1 / 16
        assert first.excess_nucleus == 1 / 16
        assert first.other_nucleus == 1 / 2 == second.share_nucleus
        assert first.beyond_nucleus == -3 / 8 and second.beyond_nucleus == 3 / 8

    def test_without_a_map_or_a_cell_there_is_nothing_to_say(self):
        maps, cell = np.stack([np.zeros((4, 4)), *np.ones((2, 4, 4))]), np.zeros((3, 4, 4), bool)
        cell[:2, 0], nucleus = True, np.zeros((3, 4, 4), bool)
        of_cell = attention.cell_numbers(maps, cell.astype(int), cell, 4)
        table = attention.part_numbers(maps, nucleus, of_cell, "granules")
        assert table.iloc[[0, 2]].isna().all(axis=None)
        # a cell without granules has a share of 0, but no map was before it to compare with
        assert table.iloc[1].tolist()[:3] == [0, 0, 0] and np.isnan(table["beyond_granules"][1])

    @given(st.integers(0, 2**32 - 1))
    def test_maps_that_mark_the_middle_alike_are_not_said_to_know_the_nucleus(self, seed):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:16, :16] - 7.5
        maps = np.repeat([np.exp(-(y**2 + x**2) / 20)], 5, axis=0) * rng.uniform(0.1, 9, (5, 1, 1))
        radii = rng.uniform(2, 6, (5, 1, 1))
        cell, nucleus = np.hypot(y, x) < radii + 1, np.hypot(y, x) < radii
        of_cell = attention.cell_numbers(maps, cell.astype(int), cell, 4)
        table = attention.part_numbers(maps, nucleus, of_cell, "nucleus")
        assert (table["excess_nucleus"] > 0).all()
        np.testing.assert_allclose(table["beyond_nucleus"], 0, atol=1e-12)


class TestPointing:
    """A map made on a grid and enlarged peaks at few places: the area is not its chance level."""

    def numbers(self, rng: np.random.Generator, grid: int, count: int) -> pd.DataFrame:
        coarse = torch.from_numpy(rng.normal(size=(count, grid, grid))).relu()
        maps = resize_maps(enlarged(coarse), 96)
        y, x = np.mgrid[:96, :96] - 47.5
        # a cell in the middle, of about 0.18 of the patch, never quite the same
        radii = rng.uniform(20, 26, (count, 1, 1))
        inside = np.hypot(y + rng.normal(0, 2, radii.shape), x + rng.normal(0, 2, radii.shape))
        inside = inside < radii
        return attention.cell_numbers(maps, inside.astype(int), inside, grid)

    @pytest.mark.parametrize("grid", [2, 4, 8])
    def test_random_maps_hit_the_cell_as_often_as_said(self, grid):
        table = self.numbers(np.random.default_rng(grid), grid, 4000)
        noise = table["pointing_excess"].std() / np.sqrt(len(table))
        # enlarging lowers single points a little, but not those at the rim: never more than said
        assert -3 * noise - 0.02 < table["pointing_excess"].mean() <= 3 * noise

    @pytest.mark.parametrize("grid", [2, 4, 8])
    def test_a_map_moved_over_its_grid_hits_the_cell_as_often_as_said(self, grid):
        blob = np.exp(-((np.mgrid[:grid, :grid] - grid // 2) ** 2).sum(axis=0) / 2)
        coarse = [np.roll(blob, (y, x), (0, 1)) for y, x in np.ndindex(grid, grid)]
        maps = resize_maps(enlarged(torch.from_numpy(np.stack(coarse))), 96)
        y, x = np.mgrid[:96, :96]
        for centre in (30, 47.5, 60):
            inside = np.repeat([np.hypot(y - centre, x - centre) < 23], len(maps), axis=0)
            table = attention.cell_numbers(maps, inside.astype(int), inside, grid)
            assert table["pointing"].mean() == pytest.approx(table["pointing_chance"][0], abs=0.05)

    def test_on_a_coarse_grid_random_maps_hit_more_often_than_the_area_says(self):
        table = self.numbers(np.random.default_rng(0), 4, 4000)
        above = table["pointing"] - table["area"]
        assert 0.15 < table["area"].mean() < 0.21
        assert above.mean() > 5 * above.std() / np.sqrt(len(table))

    def test_random_maps_are_rarely_said_to_look_at_the_cell(self):
        rng, said = np.random.default_rng(1), {"pointing_excess": [], "above_area": []}
        for _ in range(60):
            table = self.numbers(rng, 4, 120).assign(image_id=np.arange(120) % 60, **{"class": "a"})
            table["above_area"] = table["pointing"] - table["area"]
            means = metrics.means_by_class(table, list(said)).groupby("number")["low"].first()
            for name, called in said.items():
                called.append(means[name] > 0)
        assert np.mean(said["pointing_excess"]) <= 0.07 < np.mean(said["above_area"])
