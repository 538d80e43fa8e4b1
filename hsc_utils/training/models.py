"""The paper's backbones with a new head, and the weights they start from or were trained to."""

import re
import threading
import urllib.request
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from hsc_utils.files import file_sha256, from_root, set_aside, shown_path
from hsc_utils.study import Run, RunConfig

_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
PAPER_ARCHITECTURES = _RESNETS + _DENSENETS
NETWORK_SECONDS = 5  # how long the weights' server may take to answer
_IMAGENET_CLASSES = 1000
# the first two return several sets of logits in training, the others end in no linear layer
_UNSUITABLE = ("googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1")
# DenseNet's published files name their layers with a dot that torchvision has since dropped
_OLD_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


class WeightsError(ValueError):
    """Starting weights are missing, unreadable or do not fit the model."""


def build_model(
    architecture: str, num_classes: int = 3, weights: str | Path = "imagenet", in_channels: int = 3
) -> nn.Module:
    """Build a backbone with a head for `num_classes`.

    Parameters
    ----------
    architecture : str
        Name in torchvision, such as ``densenet169``; the paper's are `PAPER_ARCHITECTURES`.
        Any other torchvision classifier works that ends in one linear layer.
    num_classes : int
        Number of logits.
    weights : "imagenet", "none" or path
        ``imagenet``: torchvision's; ``none``: random; a path: a state dict, as
        ``.safetensors`` or as a file of `torch.save`, for exactly this model, or for the
        same backbone with its ImageNet head, which is then replaced.
    in_channels : int
        Number of slices the model sees. Other than 3, the pretrained first layer is summed
        over colour and shared out equally, so that a gray image gives the response that
        it gave in three equal channels.

    Returns
    -------
    nn.Module
        Takes float (N, in_channels, H, W), gives logits (N, num_classes).

    Raises
    ------
    ValueError
        If the architecture is unknown or has no head that can be replaced (the message
        lists those that work), or a number is not at least 1.
    WeightsError
        If the weights cannot be had, cannot be read or do not fit.
    """
    known = [n for n in models.list_models(module=models) if n not in _UNSUITABLE]
    if architecture not in known:
        raise ValueError(
            f"architecture: {architecture!r} is not a torchvision classifier that ends in one "
            f"linear layer. The paper's are {', '.join(PAPER_ARCHITECTURES)}; these work too: "
            f"{', '.join(name for name in known if name not in PAPER_ARCHITECTURES)}."
        )
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {value!r} was given, but a whole number from 1 is expected.")
    if not isinstance(weights, str | Path):
        raise WeightsError(f"weights: {weights!r} is not 'imagenet', 'none' or a path.")
    model = models.get_model(architecture, weights=None)
    if weights == "none":
        return _adapt(model, num_classes, in_channels)
    if weights == "imagenet":
        path = imagenet_file(architecture)
    elif wrong := _wrong_hash(path := from_root(weights), architecture):
        raise WeightsError(f"weights: {wrong} Copy or download it again.")
    state = read_state_dict(path)
    head = state.get(f"{_head_name(model)}.weight")
    if head is not None and len(head) == _IMAGENET_CLASSES:
        _load(model, state, path, architecture)
        return _adapt(model, num_classes, in_channels)
    model = _adapt(model, num_classes, in_channels)
    _load(model, state, path, architecture)
    return model


def load_run(run_dir: str | Path) -> tuple[nn.Module, RunConfig]:
    """Load the trained model of a run directory.

    Parameters
    ----------
    run_dir : path
        Directory that `train` wrote.

    Returns
    -------
    model : nn.Module
        On the CPU, in evaluation mode.
    config : RunConfig
        What `to_input` needs, the names of the logits, and every training setting.

    Raises
    ------
    FileNotFoundError
        If the run is missing or not finished.
    ValueError
        If one of its files is damaged, or its weights do not fit its ``config.json``.
    """
    run = Run(run_dir)
    run.check_finished()
    config = run.config
    model = build_model(
        config.architecture, len(config.class_names), run.weights_file, len(config.channels)
    )
    return model.eval(), config


def _head_name(model: nn.Module) -> str:
    return list(model.named_modules())[-1][0]


def _adapt(model: nn.Module, num_classes: int, in_channels: int) -> nn.Module:
    """Replace the ImageNet head, and the first layer where the input is not RGB."""
    head_name = _head_name(model)
    head = model.get_submodule(head_name)
    if num_classes != head.out_features:
        model.set_submodule(head_name, nn.Linear(head.in_features, num_classes))
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    if in_channels != first.in_channels:
        summed = first.weight.data.sum(dim=1, keepdim=True) / in_channels
        first.weight = nn.Parameter(summed.repeat(1, in_channels, 1, 1))
        first.in_channels = in_channels
    return model


def _load(model: nn.Module, state: dict[str, Tensor], path: Path, architecture: str) -> None:
    """Load a state dict, or name the first three reasons why it does not fit."""
    expected = model.state_dict()
    # files older than PyTorch 0.4.1 do not count the batches a normalisation layer has seen
    state = {n: t for n, t in expected.items() if n.endswith("num_batches_tracked")} | state
    problems = [f"{name} is missing" for name in expected.keys() - state.keys()]
    problems += [f"{name} is not in the model" for name in state.keys() - expected.keys()]
    problems += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    if problems:
        raise WeightsError(
            f"{shown_path(path)} does not fit {architecture}: {'; '.join(sorted(problems)[:3])}"
            f"{f'; and {len(problems) - 3} more' if len(problems) > 3 else ''}. Give the weights "
            "of the same architecture, number of classes and number of slices."
        )
    model.load_state_dict(state)


@torch.no_grad()
def estimate_statistics(
    model: nn.Module, inputs: Iterable[Tensor], norms: Sequence[nn.Module] | None = None
) -> None:
    """Estimate anew what batch normalisation takes for mean and spread, in place.

    Parameters
    ----------
    model : nn.Module
        Left in evaluation mode.
    inputs : iterable of Tensor
        Batches as the model takes them, each float (N, C, H, W), on any device; every batch
        counts alike.
    norms : sequence of nn.Module, optional
        Layers to estimate; None for every layer of the model that keeps such statistics.
    """
    model.eval()
    if norms is None:
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    for batch in inputs:
        model(batch.to(next(model.parameters()).device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def starting_weights(weights: str, architecture: str) -> str:
    """Settle what training starts from: ``auto`` becomes ``imagenet`` if at hand, else ``none``.

    The demo's default is ``auto``, the only fallback there is; notebooks print the answer,
    and the run records it. Any other value is returned as it is.
    """
    if weights != "auto":
        return weights
    try:
        imagenet_file(architecture)
    except WeightsError:
        return "none"
    return "imagenet"


def imagenet_file(architecture: str) -> Path:
    """Find the ImageNet weights in torch's cache; damaged or missing ones are downloaded."""
    url = models.get_model_weights(architecture)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    wrong = ""
    try:
        if path.exists():
            if not (wrong := _wrong_hash(path, architecture)):
                return path
            set_aside(path, wrong)
        if not _answers(url):
            raise OSError("their server does not answer")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(path), hash_prefix=_hash_in_name(path), progress=False
        )
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{wrong}{' ' * bool(wrong)}The ImageNet weights of {architecture} are not cached and "
            f"could not be downloaded ({error}). Put the file {path.name} (from {url}) into the "
            "folder hub/checkpoints of TORCH_HOME (by default ~/.cache/torch; it may be any folder "
            "that can be written), or start from random weights with weights='none'."
        ) from error
    return path


def _hash_in_name(path: Path) -> str | None:
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    return found and found[1]


def _wrong_hash(path: Path, architecture: str) -> str:
    """Say that a file of torchvision's is not what its name promises; empty if it is, or none."""
    published = {Path(choice.url).name for choice in models.get_model_weights(architecture)}
    if path.name not in published or not path.is_file():
        return ""
    expected, found = _hash_in_name(path), file_sha256(path)
    if not expected or found.startswith(expected):
        return ""
    return (
        f"{shown_path(path)} is damaged or cut short: its SHA-256 begins with "
        f"{found[: len(expected)]}, not with {expected} as its name says."
    )


def _answers(url: str) -> bool:
    """Ask for a file's header; in a thread, since a name look-up has no time limit of its own."""
    answered = threading.Event()

    def ask() -> None:
        with suppress(OSError, ValueError):
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=NETWORK_SECONDS).close()
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    return answered.is_set()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors`` or a file of `torch.save`, tensors only."""
    if not path.is_file():
        raise WeightsError(
            f"weights: there is no file {shown_path(path)}. Give 'imagenet', 'none', or the path "
            "of a state dict (.safetensors, .pth)."
        )
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, EOFError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"{shown_path(path)} cannot be read as a state dict ({type(error).__name__}): it is "
            "damaged, or holds something other than tensors. Save it again with "
            "torch.save(model.state_dict(), path), or copy it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"{shown_path(path)} holds no state dict (names mapped to tensors); save one with "
            "torch.save(model.state_dict(), path)."
        )
    return {_OLD_DENSENET_KEY.sub(r"\1\2", name): tensor for name, tensor in state.items()}
