"""The device that models run on: which one, at what precision, and what to do when it is full."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

GPU_VARIABLE = "HSC_GPU"  # "required": to compute on the CPU instead is an error
_DRIVER = Path("/proc/driver/nvidia/version")
# PyTorch, its CPU allocator on Linux and on Windows, cuDNN and cuBLAS
_NO_MEMORY = re.compile(r"out of memory|(n't|not) allocate|not enough memory|ALLOC(ATION)?_FAILED")


def find_device() -> torch.device:
    """Choose where models run: the GPU where PyTorch sees one, otherwise the CPU.

    Returns
    -------
    torch.device
        ``cuda`` or ``cpu``.

    Raises
    ------
    RuntimeError
        If the environment variable ``HSC_GPU`` is ``required`` (a run that was promised a GPU)
        and PyTorch sees none; the message names the driver.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    wanted = os.environ.get(GPU_VARIABLE, "")
    if wanted not in ("", "required"):
        raise RuntimeError(f"{GPU_VARIABLE}: {wanted!r} is not 'required'; set that, or nothing.")
    if wanted:
        raise RuntimeError(
            f"A GPU was asked for, but PyTorch {torch.__version__} sees none ({_why_no_gpu()}). "
            f"This machine's driver: {_driver()}. Install a driver that is new enough, or a "
            "PyTorch made for an older CUDA, and look for the GPU with nvidia-smi; to train on "
            "the CPU, set gpus_per_run to 0."
        )
    return torch.device("cpu")


def _why_no_gpu() -> str:
    """Let CUDA say why it does not start; it names the driver's version where it is too old."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0].rstrip(". ")
    return "CUDA starts, but finds no device"


def _driver() -> str:
    return _DRIVER.read_text().splitlines()[0] if _DRIVER.exists() else "none of NVIDIA's is loaded"


def device_name(precision: str = "float32") -> str:
    """Name the device that models train on, with the precision (`TrainingSettings`).

    Raises
    ------
    RuntimeError
        As `find_device` does.
    """
    bits = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}
    kind = bits[lightning_precision(precision)]
    if find_device().type == "cuda":
        return f"{torch.cuda.get_device_name()} ({kind})"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads != 1)} ({kind})"


def lightning_precision(asked: str) -> str:
    """Settle `TrainingSettings.precision`: ``auto`` is 16 bits where the hardware has them.

    A GPU computes with bfloat16 itself from NVIDIA's Ampere on (compute capability 8.0); older
    ones only emulate it, and get float16, whose gradients Lightning scales.
    """
    if asked == "float32":
        return "32-true"
    if find_device().type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    # an older PyTorch, such as 2.11, cannot be asked what the processor computes with
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16-mixed" if fast else "32-true"


@contextmanager
def single_precision() -> Iterator[None]:
    """Compute float32 in full on a GPU too, not in TF32, so that it agrees with a CPU.

    Also a decorator. The settings of before are restored at the end.
    """
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=cudnn.benchmark,
            deterministic=cudnn.deterministic,
            allow_tf32=False,
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)


def is_out_of_memory(error: Exception) -> bool:
    """Tell a full memory from other failures, in the wordings of all libraries beneath PyTorch."""
    return isinstance(error, torch.OutOfMemoryError) or bool(_NO_MEMORY.search(str(error)))


@contextmanager
def full_memory_explained(batch_size: int, side: int, precision: str = "float32") -> Iterator[None]:
    """Turn a failure for want of memory into a MemoryError that says what to do.

    `batch_size` inputs of `side` px were computed with at a time.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"A batch of {batch_size} at {side} px does not fit into the memory of "
            f"{device_name(precision)}{_use_of_memory()}: lower batch_size first, then input_size."
        ) from error


def free_memory() -> int:
    """Return the bytes that this process can still have on the GPU."""
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + kept


def _use_of_memory() -> str:
    """Say who holds a GPU's memory; another process is the likelier cause than a large batch."""
    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    own = torch.cuda.memory_reserved()
    return (
        f" (of its {total / 1e9:.1f} GB, {free / 1e9:.1f} are free, this process holds "
        f"{own / 1e9:.1f} and other processes about {max(0, total - free - own) / 1e9:.1f}). If "
        "others hold much, they are the cause: nvidia-smi lists them; let them end, or choose "
        "another GPU with CUDA_VISIBLE_DEVICES. Otherwise"
    )
