"""What models train on: the device, its precision and its memory."""

import ctypes

import torch

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


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
