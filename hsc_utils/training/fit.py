"""Fit a model to convergence, and predict with it: Lightning's loop, the device and its memory."""

import ctypes
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, TQDMProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.nn import functional

from hsc_utils import metrics
from hsc_utils.files import atomic_path, set_aside, shown_path, write_csv
from hsc_utils.study import Run, RunConfig
from hsc_utils.training import batches
from hsc_utils.training.device import (
    find_device,
    full_memory_explained,
    is_out_of_memory,
    lightning_precision,
    single_precision,
)
from hsc_utils.training.models import build_model, estimate_statistics

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_BENCHMARKED_FROM = 256  # pixels of the input's side
_CLEAN_SAMPLES = 256  # enough for a mean and a spread


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
    progress = _Progress(run, config)
    trainer = _trainer(config, progress)
    on_interrupt = signal.getsignal(signal.SIGINT)
    # without 16 bits a GPU would round float32 to TF32 in convolutions
    rounding = single_precision() if config.precision == "float32" else nullcontext()
    memory = full_memory_explained(config.batch_size, config.input_size, config.precision)
    with memory, rounding:
        check_input_size(model, config)
        classifier = Classifier(model.to(memory_format=torch.channels_last), config, shares)
        if config.batch_norm == "clean":
            count = min(_CLEAN_SAMPLES, len(subsets["train"]))
            chosen = subsets["train"].sample(count, random_state=config.seed)
            classifier.clean = batches.ordered_batches(chosen, arrays, config)
        try:
            trainer.fit(
                classifier,
                batches.training_batches(subsets["train"], arrays, config),
                batches.ordered_batches(subsets["validation"], arrays, config),
                ckpt_path=progress.latest(),
            )
        except SystemExit:  # what Lightning makes of Ctrl-C, and then it is deaf to the next one
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt("Training was stopped; run it again to continue.") from None
    if not np.isfinite(progress.least_loss):
        raise ValueError(
            "The validation loss was never a finite number: lower learning_rate, and look at the "
            "images for constant or damaged ones."
        )
    classifier.load_state_dict(read_checkpoint(progress.best)["state_dict"])
    return classifier.model


def check_input_size(model: nn.Module, config: RunConfig) -> None:
    """Refuse a size that the backbone cannot take, before anything is trained."""
    side = config.input_size
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, len(config.channels), side, side))
    except (RuntimeError, ValueError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"input_size: {config.architecture} cannot take {side} px ({error}). Try 224, which "
            "every torchvision classifier takes, or another architecture."
        ) from error
    model.train()


def read_checkpoint(path: Path) -> dict:
    """Read the state of training after an epoch; a file that is empty or cut is a ValueError."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises nearly everything
        raise ValueError(
            f"{shown_path(path)} is empty, cut short or damaged ({type(error).__name__})."
        ) from error


class Classifier(lightning.LightningModule):
    """Adam on cross-entropy, batches normalised and augmented on the device.

    `shares` (K,) are the classes' shares of the training samples.
    """

    def __init__(self, model: nn.Module, config: RunConfig, shares: np.ndarray):
        super().__init__()
        self.model, self.config = model, config
        self.normalise = batches.Normalise(config)
        weights = 1 / (len(shares) * shares) if config.imbalance == "weights" else shares**0
        self.register_buffer("class_weights", torch.tensor(weights, dtype=torch.float32), False)
        self.train_losses: list[Tensor] = []
        self.validated: list[tuple[Tensor, Tensor]] = []
        self.clean: Iterable[tuple[Tensor, Tensor]] = ()

    def configure_optimizers(self) -> dict:
        """Give Adam, and the schedule of its learning rate."""
        # fused: one pass over the weights instead of ten
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate, fused=True)
        if self.config.schedule == "constant":
            return {"optimizer": optimizer}
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.config.learning_rate, self.trainer.estimated_stepping_batches
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> tuple:
        """Normalise a batch that has come to the device, and augment it in training."""
        pixels, labels = batch
        images = self.normalise(pixels)
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

    def on_validation_epoch_start(self) -> None:
        """Estimate the statistics of batch normalisation on samples that are not augmented."""
        if self.config.batch_norm == "clean":
            pictures = (pixels.to(self.device) for pixels, _ in self.clean)
            estimate_statistics(self.model, map(self.normalise, pictures))

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


class _Progress(Checkpoint):
    """After each epoch a row of ``history.csv``, a line for the reader, and the checkpoints.

    Lightning's own callback writes the last epoch only where it was also the best.
    """

    def __init__(self, run: Run, config: RunConfig):
        self.path = run.history_file
        self.best, self.last = run.checkpoints / "best.ckpt", run.checkpoints / "last.ckpt"
        # parallel runs print into one log
        self.label = f"{config.model} on {config.level}s, seed {config.seed} ·"
        self.rows: list[dict] = []
        self.least_loss = np.inf

    def state_dict(self) -> dict:
        return {"rows": self.rows, "least_loss": self.least_loss}

    def load_state_dict(self, state_dict: dict) -> None:
        self.rows, self.least_loss = list(state_dict["rows"]), state_dict["least_loss"]

    def latest(self) -> str | None:
        """Find the checkpoint to continue from; without the best epoch's there is none."""
        epochs = {}
        for path in (self.best, self.last):
            if path.exists():
                try:
                    epochs[path] = read_checkpoint(path)["epoch"]
                except ValueError as error:
                    set_aside(path, f"{self.label} {error}")
        if self.best in epochs:
            return str(max(epochs, key=epochs.get))
        if self.last in epochs:
            print(self.label, "the best epoch is lost, so training begins anew", flush=True)
            self.last.unlink()
        return None

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
        loss = float(trainer.callback_metrics["val_loss"])
        paths = [self.last]
        if loss < self.least_loss:
            self.least_loss, paths = loss, [self.best, self.last]
        for path in paths:
            with atomic_path(path) as temporary:
                trainer.save_checkpoint(temporary)
        if not trainer.progress_bar_callback:
            numbers = (f"{name} {value:.4g}" for name, value in row.items())
            print(self.label, "  ".join(numbers), flush=True)


def _trainer(config: RunConfig, progress: _Progress) -> lightning.Trainer:
    """Return Lightning's loop: early stopping, checkpoints, and one line or a bar per epoch."""
    # keep its advice about hardware and workers out of notebooks
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    interactive = sys.stdout.isatty() or "JPY_SESSION_NAME" in os.environ
    stopping = EarlyStopping(
        "val_loss", patience=config.patience, check_on_train_epoch_end=True, verbose=False
    )
    callbacks = [stopping, progress]  # in this order: a checkpoint holds the patience left
    return lightning.Trainer(
        accelerator="gpu" if find_device().type == "cuda" else "cpu",
        devices=1,
        precision=lightning_precision(config.precision),
        # cuDNN tries its ways to convolve: seconds once, for large images worth it
        benchmark=config.input_size >= _BENCHMARKED_FROM,
        max_epochs=config.max_epochs,
        callbacks=[*callbacks, TQDMProgressBar()] if interactive else callbacks,
        logger=False,
        # on a SLURM node Lightning would keep a state of its own, and prefer it to last.ckpt
        plugins=[LightningEnvironment()],
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
    device = find_device()
    model = model.eval().to(device, memory_format=torch.channels_last)
    normalise = batches.Normalise(config).to(device)
    probabilities = []
    memory = full_memory_explained(config.batch_size, config.input_size)
    with memory, single_precision(), torch.inference_mode():
        for pixels, _ in batches.ordered_batches(samples, arrays, config):
            logits = model(normalise(pixels.to(device, non_blocking=True)))
            probabilities.append(logits.softmax(1).cpu().numpy())
    columns = [f"p_{name}" for name in config.class_names]
    table = samples[["id", "image_id", "class", "split", "group"]].reset_index(drop=True)
    return table.join(pd.DataFrame(np.concatenate(probabilities), columns=columns))


def keep_freed_memory() -> None:
    """Let a CPU's training reuse the memory that the step before has freed.

    glibc hands large blocks back to the system, which must clear them when they are asked for
    again: a tenth of a step. Other C libraries have no such setting, and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and not torch.cuda.is_available():
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
