"""What a network makes of a sample before it decides: the numbers that its last layer weighs."""

import numpy as np
import pandas as pd
from torch import Tensor, nn

from hsc_utils.study import RunConfig
from hsc_utils.training import fit


def embed(
    model: nn.Module, samples: pd.DataFrame, arrays: np.ndarray, config: RunConfig
) -> tuple[pd.DataFrame, np.ndarray]:
    """Give every sample its probabilities and its features, in one pass.

    Parameters
    ----------
    model : nn.Module
        From `load_run`; it is left on the device, in evaluation mode.
    samples : DataFrame
        ``id``, ``image_id``, ``class``, ``split``, ``group``, as in `Run.predictions`, and
        ``row``; a class may be one that the model does not know, or empty.
    arrays : uint8 (N, H, W, 3)
        Pictures by ``row``.
    config : RunConfig
        Of the model's run.

    Returns
    -------
    predictions : DataFrame
        What `predict` gives, to the last bit.
    features : np.ndarray
        float32 (N, D), the input of the model's last linear layer, in the order of `samples`: D is
        512 for ResNet-18, 1024 for DenseNet-121.
    """
    head = list(model.modules())[-1]  # where `build_model` puts it
    features = np.empty((len(samples), head.in_features), np.float32)
    filled = 0

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal filled
        batch = given[0].float().cpu().numpy()
        features[filled : filled + len(batch)] = batch
        filled += len(batch)

    watched = head.register_forward_pre_hook(keep)
    try:
        predictions = fit.predict(model, samples, arrays, config)
    finally:
        watched.remove()
    return predictions, features
