"""Fit a model to convergence, and predict with it: Lightning's loop, the device and its memory."""

import ctypes
import logging
import os
import sys
import time
import warnings

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from torch import Tensor, nn
from torch.nn import functional

from hsc_utils import metrics
from hsc_utils.files import write_csv
from hsc_utils.study import Run, RunConfig
from hsc_utils.training import batches
from hsc_utils.training.models import build_model

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def fit(samples: pd.DataFrame, arrays: np.ndarray, run: Run, config: RunConfig) -> nn.Module:
    """Train to convergence, from the last checkpoint where there is one; return the best epoch's.

    Best is the epoch of lowest validation loss. ``history.csv`` and the checkpoints are written
    into the run directory.
    """
    keep_freed_memory()
    torch.manual_seed(config.seed)
    class_names = list(config.class_names)
    model = build_model(
        config.architecture, len(class_names), config.weights_used, len(config.channels)
    )
    subsets = dict(list(samples.groupby("split")))
    shares = subsets["train"]["class"].value_counts(normalize=True)[class_names].to_numpy()
    classifier = Classifier(model.to(memory_format=torch.channels_last), config, shares)
    trainer = _trainer(run, config)
    last = run.checkpoints / "last.ckpt"
    try:
        trainer.fit(
            classifier,
            batches.training_batches(subsets["train"], arrays, config),
            batches.ordered_batches(subsets["validation"], arrays, config),
            ckpt_path=str(last) if last.exists() else None,
        )
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise MemoryError(
            f"A batch of {config.batch_size} at {config.input_size} px does not fit into "
            f"the memory of {device_name()}: lower batch_size first, then input_size."
        ) from error
    if trainer.interrupted:
        raise KeyboardInterrupt("Training was stopped; run it again to continue.")
    if not trainer.checkpoint_callback.best_model_score.isfinite():
        raise ValueError(
            "The validation loss was never a finite number: lower learning_rate, and look at the "
            "images for constant or damaged ones."
        )
    best = torch.load(run.checkpoints / "best.ckpt", weights_only=True, map_location="cpu")
    classifier.load_state_dict(best["state_dict"])
    return classifier.model


class Classifier(lightning.LightningModule):
    """Adam on cross-entropy, batches normalised and augmented on the device.

    `shares` (K,) are the classes' shares of the training samples.
    """

    def __init__(self, model: nn.Module, config: RunConfig, shares: np.ndarray):
        super().__init__()
        self.model, self.config = model, config
        weights = 1 / (len(shares) * shares) if config.imbalance == "weights" else shares**0
        self.register_buffer("class_weights", torch.tensor(weights, dtype=torch.float32), False)
        self.train_losses: list[Tensor] = []
        self.validated: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give Adam with the paper's constant learning rate."""
        # fused: one pass over the weights instead of ten
        return torch.optim.Adam(self.parameters(), lr=self.config.learning_rate, fused=True)

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> tuple:
        """Normalise a batch that has come to the device, and augment it in training."""
        pixels, labels = batch
        images = batches.normalise(pixels, self.config)
        if self.trainer.training:
            # the step's own seed: a resumed run then draws what an uninterrupted one would
            torch.manual_seed(hash((self.config.seed, self.global_step, 0)))
            images = batches.augment(images, **self.config.augmentation)
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
            found = metrics.score(labels.cpu().numpy(), probabilities, self.config.class_names)
            scores["val_balanced_accuracy"] = found["balanced_accuracy"]
            scores["val_auroc"] = found["auroc"]
        self.log_dict(scores)


class _History(Callback):
    """One row of ``history.csv`` an epoch, and one line for the reader; part of checkpoints."""

    def __init__(self, run: Run, config: RunConfig, quiet: bool):
        self.path, self.quiet = run.history_file, quiet
        # parallel runs print into one log
        self.label = f"{config.model} on {config.level}s, seed {config.seed} ·"
        self.rows: list[dict] = []

    def state_dict(self) -> dict:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict) -> None:
        self.rows = list(state_dict["rows"])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Classifier) -> None:
        if self.rows:
            print(self.label, f"continuing after epoch {self.rows[-1]['epoch']}", flush=True)
        # a run that was cut off between its last epoch and its export must not train on
        stopping = trainer.early_stopping_callback
        trainer.should_stop = stopping.wait_count >= stopping.patience

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Classifier) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Classifier) -> None:
        scores = {"train_loss": torch.stack(pl_module.train_losses).mean()}
        pl_module.train_losses.clear()
        for key in ("val_loss", "val_balanced_accuracy", "val_auroc"):
            scores[key] = trainer.callback_metrics[key]
        row = {"epoch": trainer.current_epoch + 1}
        row |= {key: round(float(value), 5) for key, value in scores.items()}
        row["seconds"] = round(time.perf_counter() - self.started, 2)
        self.rows.append(row)
        write_csv(self.path, pd.DataFrame(self.rows))
        if not self.quiet:
            numbers = (f"{name} {value:.4g}" for name, value in row.items())
            print(self.label, "  ".join(numbers), flush=True)


def _trainer(run: Run, config: RunConfig) -> lightning.Trainer:
    """Return Lightning's loop: early stopping, checkpoints, and one line or a bar an epoch."""
    # keep its advice about hardware and workers out of notebooks
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    interactive = sys.stdout.isatty() or "JPY_SESSION_NAME" in os.environ
    checkpoint = ModelCheckpoint(
        run.checkpoints,
        filename="best",
        monitor="val_loss",
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    stopping = EarlyStopping(
        "val_loss", patience=config.patience, check_on_train_epoch_end=True, verbose=False
    )
    callbacks = [_History(run, config, quiet=interactive), stopping, checkpoint]
    return lightning.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision=precision(),
        max_epochs=config.max_epochs,
        callbacks=[*callbacks, TQDMProgressBar()] if interactive else callbacks,
        logger=False,
        default_root_dir=run.checkpoints,  # where a requeued SLURM job leaves its state
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=interactive,
    )


def predict(
    model: nn.Module, samples: pd.DataFrame, arrays: np.ndarray, config: RunConfig
) -> pd.DataFrame:
    """Give every sample its probabilities, as `Run.predictions` holds them.

    Computed in single precision, so that others can repeat them.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.eval().to(device)
    probabilities = []
    with torch.inference_mode():
        for pixels, _ in batches.ordered_batches(samples, arrays, config):
            logits = model(batches.normalise(pixels.to(device), config))
            probabilities.append(logits.softmax(1).cpu().numpy())
    columns = [f"p_{name}" for name in config.class_names]
    table = samples[["id", "image_id", "class", "split"]].reset_index(drop=True)
    return table.join(pd.DataFrame(np.concatenate(probabilities), columns=columns))


def device_name() -> str:
    """Name the device that models train on, with the precision, for the record."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} ({precision()})"
    return f"CPU, {torch.get_num_threads()} threads ({precision()})"


def precision() -> str:
    """Choose bfloat16 where the hardware computes with it, otherwise single precision."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16-mixed" if fast else "32-true"


def keep_freed_memory() -> None:
    """Let a CPU's training reuse the memory that the step before has freed.

    glibc hands large blocks back to the system, which must clear them when they are asked for
    again: a tenth of a step. Other C libraries have no such setting, and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not torch.cuda.is_available():
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
