"""Files of weights: ImageNet's from torch's cache or the network, and state dicts of one's own.

ImageNet weights are torchvision's first set (``IMAGENET1K_V1``) for every backbone, because
DenseNet has no other: a comparison of backbones should not compare training recipes too.
"""

import re
import threading
import urllib.request
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision import models

from hsc_utils.provenance import from_root, shown_path

NETWORK_SECONDS = 5  # how long the weights' server may take to answer
# DenseNet's published files name their layers with a dot that torchvision has since dropped
_OLD_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


class WeightsError(ValueError):
    """Starting weights are missing, unreadable or do not fit the model."""


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
    """Find the file of ImageNet weights in torch's cache, downloading it where that is possible.

    Raises
    ------
    WeightsError
        If it is not cached and its server does not answer within `NETWORK_SECONDS`.
    """
    url = models.get_model_weights(architecture)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if path.exists():
        return path
    remedy = (
        f"Put the file {path.name} (from {url}) into the folder hub/checkpoints of TORCH_HOME "
        "(by default ~/.cache/torch), or start from random weights with weights='none'."
    )
    if not _answers(url):
        raise WeightsError(
            f"The ImageNet weights of {architecture} are not cached, and their server does not "
            f"answer. {remedy}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    checksum = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        torch.hub.download_url_to_file(
            url, str(path), hash_prefix=checksum and checksum[1], progress=False
        )
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"The ImageNet weights of {architecture} could not be downloaded ({error}). {remedy}"
        ) from error
    return path


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors`` or a file of `torch.save`, tensors only.

    Raises
    ------
    WeightsError
        If the file is missing, unreadable or holds anything but named tensors.
    """
    path = from_root(path)
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


def _answers(url: str) -> bool:
    """Ask for a file's header; in a thread, since a name look-up has no time limit of its own."""
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=NETWORK_SECONDS).close()
            answered.set()
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    return answered.is_set()
