"""Grad-CAM: where in an image the evidence for a class lies."""

import copy
import operator
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn
from torchvision.models import DenseNet, ResNet
from tqdm.auto import tqdm

from hsc_utils import training
from hsc_utils.files import no_bar

_STAGES = {
    ResNet: {32: "layer4", 16: "layer3", 8: "layer2"},
    DenseNet: {32: "features", 16: "features.transition3.relu", 8: "features.transition2.relu"},
}


def layer_at_stride(model: nn.Module, stride: int = 32) -> str:
    """Name the layer whose activations Grad-CAM explains, by how coarse its map is.

    Parameters
    ----------
    model : nn.Module
        A ResNet or DenseNet of torchvision; any other is refused.
    stride : int
        Input pixels per pixel of the map: 32 (what the global pooling sees), 16 or 8.
        At 32, a 64-pixel patch gives a map of 2×2.

    Returns
    -------
    str
        For a ResNet the last block at that stride. For a DenseNet ``features`` or a
        ``transition``, taken after its norm and ReLU, so that the activations have passed
        the same operations at every stride.
    """
    stages = next((s for family, s in _STAGES.items() if isinstance(model, family)), None)
    if stages is None:
        raise ValueError(
            f"Grad-CAM knows the layers of ResNet and DenseNet, but the model is a "
            f"{type(model).__name__}: pass the name of one of its layers as `layer`."
        )
    if stride not in list(stages):
        raise ValueError(
            f"stride is {stride}; Grad-CAM layers exist at {', '.join(map(str, stages))}."
        )
    return stages[stride]


def _model_and_layer(model: nn.Module, layer: str | None) -> tuple[nn.Module, nn.Module]:
    """Return a model with the same output, and the module to explain in it.

    torchvision's DenseNet applies its last ReLU inside ``forward``, in place, where no
    module can be named: the output of ``features`` may be seen before or after it. The
    layer ``features`` means *after* it here, which is what the pooling averages, so the
    same steps are spelt out as modules around the same weights.
    """
    layer = layer_at_stride(model) if layer is None else layer
    if isinstance(model, DenseNet) and layer == "features":
        relu = nn.ReLU()
        pooling = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(model.features, relu, *pooling, model.classifier).eval(), relu
    modules = dict(model.named_modules())
    if layer not in list(modules):
        known = ", ".join(filter(None, modules))[:300]
        raise ValueError(f"The model has no layer '{str(layer)[:40]}'; it has {known} …")
    return model, modules[layer]


@training.single_precision()
@torch.inference_mode(mode=False)
@torch.enable_grad()
def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Sequence[int] | Tensor,
    layer: str | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Map where the evidence for a class lies in each image (Selvaraju et al. 2017).

    The activations of a layer are summed over channels, each weighted by the mean of the
    logit's gradient with respect to it; negative sums become 0; the result is enlarged
    bilinearly to the image.

    Parameters
    ----------
    model : nn.Module
        A classifier in eval mode, on any device; it is not changed.
    images : Tensor
        float (N, C, H, W), prepared as in training (`training.to_input`), on any device.
    targets : sequence of int
        For each image the index of the class to explain.
    layer : str, optional
        Name of the layer, as in ``model.named_modules()``; by default the one whose output
        the global pooling averages (see `layer_at_stride`).
    batch_size : int
        Images at a time; bounds the memory.

    Returns
    -------
    ndarray
        float32 (N, H, W) in [0, 1]: each map divided by its own maximum. A map that is zero
        everywhere (no positive evidence) stays zero.

    Raises
    ------
    ValueError
        If the model is in training mode or cannot take these images, the layer does not exist
        or gives no map, or an argument is not as described.
    MemoryError
        If a batch does not fit; the message says what to lower.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} is not at least 1.")
    images, targets = checked_inputs(model, images, targets)
    weight = next(model.parameters(), images)
    # on a copy: without gradients of the weights, no activation below the layer is kept,
    # and with channels last, convolutions on a processor take up to half the time
    explained, module = _model_and_layer(copy.deepcopy(model), layer)
    explained.requires_grad_(False).to(memory_format=torch.channels_last)
    captum = LayerGradCam(explained, module)
    maps = np.zeros((len(images), *images.shape[-2:]), np.float32)
    starts = range(0, len(images), batch_size)
    with training.full_memory_explained(batch_size, images.shape[-1]):
        for start in tqdm(starts, "Grad-CAM", disable=no_bar(), delay=5):
            part = slice(start, start + batch_size)
            batch = images[part].to(weight.device, weight.dtype, memory_format=torch.channels_last)
            picked = targets[part].to(weight.device)
            try:
                # cloned, since a tensor made in inference mode can have no gradient
                coarse = captum.attribute(batch.clone(), picked, relu_attributions=True)
                fine = LayerAttribution.interpolate(coarse, images.shape[-2:], "bilinear")
            except Exception as error:  # whatever captum makes of such a layer
                if training.is_out_of_memory(error):
                    raise
                raise ValueError(
                    f"Layer '{layer}' gives no map ({type(error).__name__}: {str(error)[:80]}). "
                    "Name one of output shape (N, C, H, W) on which the logits depend."
                ) from error
            maps[part] = fine[:, 0].detach().cpu().numpy()
    return normalise(maps)


def checked_inputs(
    model: nn.Module, images: Tensor, targets: Sequence[int] | Tensor
) -> tuple[Tensor, Tensor]:
    """Return images and targets as tensors, or say why the model cannot be asked about them."""
    if model.training:
        raise ValueError("Grad-CAM needs the model in eval mode: call model.eval() first.")
    try:
        images = torch.as_tensor(images)
        targets = torch.tensor([operator.index(target) for target in targets], dtype=torch.long)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "images and targets: a tensor, and an index of a class for each of its images, were "
            f"expected ({error})."
        ) from error
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}, but floats (N, C, H, W) "
            "were expected, as training.to_input gives them."
        )
    if len(images) != len(targets):
        raise ValueError(f"{len(images)} images came with {len(targets)} targets.")
    if len(bad := (~images.isfinite()).flatten(1).any(dim=1).nonzero()):
        raise ValueError(f"{len(bad)} images hold NaN or infinity, the first is {int(bad[0])}.")
    weight = next(model.parameters(), images)
    try:
        with torch.no_grad(), training.full_memory_explained(1, images.shape[-1]):
            logits = model(images[:1].to(weight.device, weight.dtype))
        count = logits.shape[1] if logits.isfinite().all() else 0
    except MemoryError:
        raise
    except Exception as error:  # each network has its own
        raise ValueError(
            f"The model cannot take images of shape {tuple(images.shape[1:])} "
            f"({str(error)[:100]}): prepare them with training.to_input, as in training."
        ) from error
    if not count:
        raise ValueError("The model's logits are not finite: its weights are damaged. Train again.")
    if len(wrong := targets[(targets < 0) | (targets >= count)]):
        raise ValueError(
            f"targets: {int(wrong[0])} is no class of the model; its classes are 0 to {count - 1}."
        )
    return images, targets


def normalise(maps: np.ndarray) -> np.ndarray:
    """Divide each map (N, H, W) by its own maximum; a map without one stays zero."""
    peaks = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)


def resize_maps(maps: np.ndarray, side: int) -> np.ndarray:
    """Resize maps (N, S, S) linearly to (N, side, side), from the model's input to the patch."""
    if side < 1 or maps.ndim != 3:
        raise ValueError(f"Maps {maps.shape} to side {side}: expected (N, S, S) and at least 1.")
    resized = [cv2.resize(m, (side, side), interpolation=cv2.INTER_LINEAR) for m in maps]
    return np.array(resized, maps.dtype).reshape(-1, side, side)


def same_shapes(**stacks: np.ndarray) -> None:
    """Refuse stacks of pictures (N, H, W) of different shapes, by name."""
    shapes = {name: tuple(np.shape(stack)) for name, stack in stacks.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 3 for shape in shapes.values()):
        described = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"The same shape (N, H, W) was expected of each of: {described}.")
