"""A model in training: its optimiser, its steps, and the precision it computes with."""

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hsc_utils import augmentation, batches, metrics

VALIDATION_SCORES = ("val_loss", "val_balanced_accuracy", "val_auroc")
AUGMENTATION = ("flip", "translation", "rotation", "scaling")


class Classifier(lightning.LightningModule):
    """Adam on cross-entropy, batches normalised and augmented on the device."""

    def __init__(self, model: nn.Module, config: dict, shares: np.ndarray):
        super().__init__()
        self.model, self.config = model, config
        weights = 1 / (len(shares) * shares) if config["imbalance"] == "weights" else shares**0
        self.register_buffer("class_weights", torch.tensor(weights, dtype=torch.float32), False)
        self.train_losses: list[Tensor] = []
        self.validated: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give Adam with the paper's constant learning rate."""
        # fused: one pass over the weights instead of ten
        return torch.optim.Adam(self.parameters(), lr=self.config["learning_rate"], fused=True)

    def on_train_epoch_start(self) -> None:
        """Forget the losses of the epoch before."""
        self.train_losses.clear()

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> tuple:
        """Normalise a batch that has come to the device, and augment it in training."""
        pixels, labels = batch
        images = batches.normalise(pixels, self.config)
        if self.trainer.training:
            # the step's own seed: a resumed run then draws what an uninterrupted one would
            torch.manual_seed(hash((self.config["seed"], self.global_step, self.global_rank)))
            images = augmentation.augment(images, **{key: self.config[key] for key in AUGMENTATION})
        return images, labels

    def training_step(self, batch: tuple, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = functional.cross_entropy(self.model(images), labels, self.class_weights)
        self.train_losses.append(loss.detach())
        return loss

    def validation_step(self, batch: tuple, batch_idx: int) -> None:
        """Keep the logits of a batch."""
        images, labels = batch
        self.validated.append((self.model(images).float(), labels))

    def on_validation_epoch_end(self) -> None:
        """Log loss and scores of the whole validation subset."""
        logits, labels = (torch.cat(parts) for parts in zip(*self.validated, strict=True))
        self.validated.clear()
        loss = functional.cross_entropy(logits, labels, self.class_weights)
        scores = {"val_loss": loss, "val_balanced_accuracy": np.nan, "val_auroc": np.nan}
        if logits.isfinite().all():
            probabilities = logits.softmax(1).cpu().numpy()
            found = metrics.score(labels.cpu().numpy(), probabilities, self.config["class_names"])
            scores["val_balanced_accuracy"] = found["balanced_accuracy"]
            scores["val_auroc"] = found["auroc"]
        self.log_dict(scores)
