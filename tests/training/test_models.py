import io
import os
import time

import pytest
import torch
from safetensors.torch import save_file

from hsc_utils import paper
from hsc_utils.training import models


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Point torch's cache at an empty folder, and the network at nothing."""

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(models.urllib.request, "urlopen", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def publish(cache, monkeypatch):
    """Return a function that puts weights into the cache as if they were torchvision's."""
    digests, measured = {}, models.file_sha256

    def put(name, state):
        torch.save(state, cache / name)
        digests[measured(cache / name)] = name.split("-")[1].split(".")[0]
        return cache / name

    monkeypatch.setattr(models, "file_sha256", lambda p: digests.get(measured(p), measured(p)))
    return put


def imagenet_state(architecture, seed=1):
    torch.manual_seed(seed)
    return models.build_model(architecture, 1000, "none").state_dict()


@pytest.mark.parametrize("architecture", paper.backbones().index)
def test_parameter_counts_are_the_papers_to_the_printed_digit(architecture):
    with torch.device("meta"):  # shapes alone
        model = models.build_model(architecture, 1000, "none")
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    printed = paper.backbones()["million_parameters"][architecture]
    if architecture == "densenet169":
        # 14.149 million; the paper prints 14.2, which is 14.15 rounded once more
        assert round(round(millions, 2) + 1e-9, 1) == printed
    else:
        assert round(millions, 1) == printed


@pytest.mark.parametrize("architecture", ["resnet18", "densenet121", "mobilenet_v3_small", "vgg11"])
def test_any_number_of_classes_and_slices(architecture):
    model = models.build_model(architecture, num_classes=5, weights="none", in_channels=2).eval()
    assert model(torch.zeros(2, 2, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize("architecture", ["resnet999", "googlenet", "squeezenet1_0"])
def test_an_unsuitable_architecture_is_refused_with_a_list(architecture):
    with pytest.raises(ValueError, match=r"(?s)architecture.*densenet169.*convnext_tiny"):
        models.build_model(architecture, weights="none")


def test_imagenet_weights_come_from_the_cache(publish):
    state = imagenet_state("resnet18")
    publish("resnet18-f37072fd.pth", state)
    model = models.build_model("resnet18", 3, "imagenet")
    assert torch.equal(model.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert model.fc.out_features == 3
    assert models.starting_weights("auto", "resnet18") == "imagenet"


def test_densenets_old_key_names_are_understood(publish):
    state = imagenet_state("densenet121")
    old = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for layer in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in name:
                name = name.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.")
        old[name] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    publish("densenet121-a639ec97.pth", old)
    model = models.build_model("densenet121", 3, "imagenet")
    key = "features.denseblock4.denselayer16.conv2.weight"
    assert torch.equal(model.state_dict()[key], state[key])


def test_a_gray_image_gives_the_pretrained_response_whatever_the_number_of_slices(publish):
    publish("resnet18-f37072fd.pth", imagenet_state("resnet18"))
    gray = torch.randn(2, 1, 32, 32)
    colour = models.build_model("resnet18", 3, "imagenet").conv1(gray.repeat(1, 3, 1, 1))
    for slices in (1, 2):
        first = models.build_model("resnet18", 3, "imagenet", in_channels=slices).conv1
        assert torch.allclose(first(gray.repeat(1, slices, 1, 1)), colour, atol=1e-5)


def test_missing_weights_say_which_file_to_put_where(cache):
    with pytest.raises(
        models.WeightsError, match=r"resnet18-f37072fd\.pth .*hub/checkpoints of TORCH_HOME"
    ):
        models.build_model("resnet18")
    assert models.starting_weights("auto", "resnet18") == "none"
    assert models.starting_weights("imagenet", "resnet18") == "imagenet"


def shorten(path):
    path.write_bytes(path.read_bytes()[:100_000])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [shorten, empty, flip_a_bit])
@pytest.mark.parametrize(
    ("architecture", "name"),
    [("resnet18", "resnet18-f37072fd.pth"), ("densenet121", "densenet121-a639ec97.pth")],
)
def test_damaged_weights_are_set_aside_and_not_used(publish, capsys, architecture, name, spoil):
    path = publish(name, imagenet_state(architecture))
    spoil(path)
    assert models.starting_weights("auto", architecture) == "none"
    said = capsys.readouterr().out
    assert f"{name} is damaged or cut short: its SHA-256 begins with" in said
    assert f"set aside as {name}.damaged" in said
    assert not path.exists() and path.with_name(f"{name}.damaged").exists()
    with pytest.raises(models.WeightsError, match=rf"Put the file {name} .*weights='none'"):
        models.build_model(architecture, 3, "imagenet")


def test_damaged_weights_are_fetched_again(publish, monkeypatch):
    path = publish("resnet18-f37072fd.pth", imagenet_state("resnet18"))
    whole = path.read_bytes()
    shorten(path)
    monkeypatch.setattr(models.urllib.request, "urlopen", lambda *a, **k: io.BytesIO())

    def fetch(url, target, **kwargs):
        assert kwargs["hash_prefix"] == "f37072fd"
        path.write_bytes(whole)

    monkeypatch.setattr(models.torch.hub, "download_url_to_file", fetch)
    assert models.imagenet_file("resnet18").read_bytes() == whole


def test_a_published_file_given_by_its_path_is_checked_too(tmp_path):
    """A person's own file is not renamed; other names promise nothing."""
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(imagenet_state("resnet18"), path)
    with pytest.raises(models.WeightsError, match=r"begins with .*, not with f37072fd"):
        models.build_model("resnet18", 3, path)
    models.build_model("resnet18", 3, path.rename(tmp_path / "resnet18-20240101.pth"))


@pytest.mark.parametrize("trouble", ["a file", "forbidden"])
def test_a_cache_that_cannot_be_used_ends_in_a_sentence(tmp_path, monkeypatch, trouble):
    monkeypatch.setattr(models.urllib.request, "urlopen", lambda *a, **k: io.BytesIO())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    if trouble == "a file":
        (tmp_path / "home").write_text("in the way")
    else:  # as for a home of another account

        def forbid(*args):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(models.Path, "exists", forbid)
    with pytest.raises(models.WeightsError, match=r"TORCH_HOME .*any folder that can be written"):
        models.imagenet_file("resnet18")
    assert models.starting_weights("auto", "resnet18") == "none"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes: 0 .* whole number"),
        ({"num_classes": 2.5}, "num_classes: 2.5"),
        ({"in_channels": -1}, "in_channels: -1"),
        ({"weights": None}, "weights: None is not 'imagenet'"),
        ({"architecture": None}, "architecture: None is not"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.build_model(**{"architecture": "resnet18", "weights": "none"} | arguments)


def test_a_silent_network_costs_seconds(cache, monkeypatch):
    def hang(*args, **kwargs):
        time.sleep(3)
        raise TimeoutError

    monkeypatch.setattr(models.urllib.request, "urlopen", hang)
    monkeypatch.setattr(models, "NETWORK_SECONDS", 0.2)
    started = time.perf_counter()
    with pytest.raises(models.WeightsError, match="does not answer"):
        models.imagenet_file("resnet18")
    assert time.perf_counter() - started < 2


def test_weights_given_as_a_path(tmp_path):
    trained = models.build_model("resnet18", 3, "none")
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        model = models.build_model("resnet18", 3, tmp_path / name)
        assert torch.equal(model.fc.weight, trained.fc.weight)


def test_weights_that_do_not_fit_say_where(tmp_path):
    path = tmp_path / "five.safetensors"
    save_file(models.build_model("resnet18", 5, "none").state_dict(), path)
    with pytest.raises(models.WeightsError, match=r"fc\.weight is \(5, 512\) instead of \(3, 512"):
        models.build_model("resnet18", 3, path)
    with pytest.raises(models.WeightsError, match=r"does not fit resnet34: .*is missing"):
        models.build_model("resnet34", 5, path)


class Malicious:
    def __reduce__(self):
        return os.system, ("echo pwned",)


def test_unreadable_weights_are_named(tmp_path):
    with pytest.raises(models.WeightsError, match=r"there is no file .*none\.pth"):
        models.build_model("resnet18", 3, tmp_path / "none.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(models.WeightsError, match=rf"{name} cannot be read"):
            models.build_model("resnet18", 3, tmp_path / name)
    torch.save({"code": Malicious()}, tmp_path / "code.pth")
    with pytest.raises(models.WeightsError, match="something other than tensors"):
        models.build_model("resnet18", 3, tmp_path / "code.pth")
    torch.save({"epoch": 3}, tmp_path / "no_state.pth")
    with pytest.raises(models.WeightsError, match="no state dict"):
        models.build_model("resnet18", 3, tmp_path / "no_state.pth")


def test_a_run_that_is_not_finished_is_not_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        models.load_run(tmp_path)
