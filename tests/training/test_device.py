"""The GPU's road, with its branches forced where there is no GPU; test_gpu.py walks it on one."""

import numpy as np
import pandas as pd
import pytest
import torch

from hsc_utils import training
from hsc_utils.study import RunConfig
from hsc_utils.training import batches, device, fit

CONFIG = RunConfig(
    architecture="resnet18",
    weights="none",
    input_size=8,
    batch_size=4,
    max_epochs=1,
    patience=1,
    learning_rate=1e-3,
    level="cell",
    class_names=("0", "1"),
    weights_used="none",
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    samples_sha256="",
    code_sha256="",
)


@pytest.fixture
def fake_gpu(monkeypatch):
    """Let PyTorch report a GPU of a compute capability, with 80 GB of which 1 GB is free."""

    def appear(capability=9):
        properties = type("Properties", (), {"major": capability})
        answers = {
            "is_available": lambda: True,
            "current_device": lambda: 0,
            "get_device_properties": lambda *_: properties,
            "get_device_name": lambda *_: "NVIDIA X",
            "mem_get_info": lambda *_: (1 * 10**9, 80 * 10**9),
            "memory_reserved": lambda *_: 3 * 10**9,
            "memory_allocated": lambda *_: 2 * 10**9,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    return appear


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("capability", "expected", "name"),
    [
        (6, "16-mixed", "NVIDIA X (float16)"),
        (7, "16-mixed", "NVIDIA X (float16)"),  # V100, T4, RTX 20: bfloat16 is emulated
        (8, "bf16-mixed", "NVIDIA X (bfloat16)"),
        (9, "bf16-mixed", "NVIDIA X (bfloat16)"),
    ],
)
def test_bfloat16_only_where_the_gpu_computes_with_it(fake_gpu, capability, expected, name):
    fake_gpu(capability)
    assert device.lightning_precision("auto") == expected
    assert training.device_name("auto") == name
    assert device.lightning_precision("float32") == "32-true"
    assert training.device_name("float32") == "NVIDIA X (float32)"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True}, "bf16-mixed"),
        ({"avx2": True}, "32-true"),
        (None, "32-true"),  # an older PyTorch, which cannot be asked
    ],
)
def test_a_processor_gets_16_bits_where_it_says_so(monkeypatch, no_gpu, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert device.lightning_precision("auto") == expected


def test_a_gpu_that_was_promised_and_is_not_seen_is_an_error_naming_the_driver(
    monkeypatch, no_gpu, tmp_path
):
    assert training.find_device().type == "cpu"
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.1\nGCC version: 12\n")
    too_old = RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nX")
    monkeypatch.setattr(torch.cuda, "init", raising(too_old))
    monkeypatch.setattr(device, "_DRIVER", driver)
    monkeypatch.setenv("HSC_GPU", "required")
    expected = r"sees none \(The NVIDIA.*version 12020\)\).*x86_64 Kernel Module  535\.1.*gpus_per"
    for ask in (training.find_device, training.device_name, lambda: batches.pixels_place(1)):
        with pytest.raises(RuntimeError, match=expected):
            ask()
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "none")
    with pytest.raises(RuntimeError, match="driver: none of NVIDIA's is loaded"):
        training.find_device()
    monkeypatch.setenv("HSC_GPU", "yes")
    with pytest.raises(RuntimeError, match="HSC_GPU: 'yes' is not 'required'"):
        training.find_device()


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_pixels_may_take_half_of_the_free_memory(fake_gpu, monkeypatch, no_gpu):
    assert batches.pixels_place(10**15) == "memory"
    fake_gpu()
    # 1 GB free, and 1 GB that this process has reserved and does not use
    assert batches.pixels_place(10**9) == "device"
    assert batches.pixels_place(10**9 + 1) == "pinned"


WORDINGS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 8000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8000 bytes."),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", WORDINGS, ids=str)
def test_want_of_memory_is_recognised_in_every_wording(error, no_gpu):
    with (
        pytest.raises(MemoryError, match=r"batch of 4 at 8 px .*: lower batch_size first") as told,
        device.full_memory_explained(4, 8),
    ):
        raise error
    assert told.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("out of memory"),
    ],
    ids=str,
)
def test_other_failures_pass_as_they_are(error):
    with pytest.raises(type(error)) as raised, device.full_memory_explained(4, 8):
        raise error
    assert raised.value is error


def test_other_processes_on_the_card_are_named(fake_gpu):
    fake_gpu()
    expected = (
        r"NVIDIA X \(bfloat16\) \(of its 80\.0 GB, 1\.0 are free, this process holds 3\.0 and other"
        r" processes about 76\.0\).*nvidia-smi.*Otherwise: lower batch_size"
    )
    with pytest.raises(MemoryError, match=expected), device.full_memory_explained(4, 8, "auto"):
        raise RuntimeError("CUDA error: out of memory")


def test_a_full_memory_while_predicting_is_explained_too(no_gpu):
    full = raising(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    model = torch.nn.Module()
    model.forward = full
    with pytest.raises(MemoryError, match="batch of 4 at 8 px"):
        fit.predict(model, *some_samples(), CONFIG)


def test_a_full_memory_is_no_fault_of_the_input_size(monkeypatch):
    model = torch.nn.Module()
    model.forward = raising(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    with pytest.raises(RuntimeError, match="allocate memory"):
        fit.check_input_size(model, CONFIG)


def some_samples():
    table = pd.DataFrame({"id": list("abcdef"), "image_id": list("aabbcc"), "group": ""})
    table = table.assign(split="test", row=range(6), **{"class": ["0", "1"] * 3})
    return table, np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


class Listener(torch.nn.Module):
    """Notes the settings that decide whether a GPU rounds float32 to TF32."""

    def forward(self, images):
        self.seen = tf32_settings()
        return images.mean((2, 3))[:, :2]


def tf32_settings():
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


def test_predictions_are_float32_in_full_and_the_settings_come_back(monkeypatch):
    torch.set_float32_matmul_precision("high")
    try:
        assert tf32_settings() == (True, "high")
        listener = Listener()
        fit.predict(listener, *some_samples(), CONFIG)
        assert listener.seen == (False, "highest")
        assert tf32_settings() == (True, "high")
        with pytest.raises(KeyError), training.single_precision():
            assert tf32_settings() == (False, "highest")
            raise KeyError
        assert tf32_settings() == (True, "high")
    finally:
        torch.set_float32_matmul_precision("highest")


def test_single_precision_changes_nothing_else(monkeypatch):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    monkeypatch.setattr(cudnn, "deterministic", True)
    with training.single_precision():
        assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == (True, True, True)
    assert (cudnn.benchmark, cudnn.deterministic) == (True, True)
