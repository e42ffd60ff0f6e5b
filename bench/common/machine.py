"""What hardware and software a figure was measured on."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch


def describe() -> dict[str, str | int]:
    """Processor, threads and versions."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    model = models[0] if models else platform.processor() or platform.machine()
    cpu = f"{model}, {len(models) or 'unknown number of'} cores"
    return {
        "cpu": cpu,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu}, no GPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
    }


def device_at_hand() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def full_precision() -> None:
    """No TF32: cuDNN's recurrent layers round to it by default, and are 1e-3 off."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def results_folder() -> Path:
    """`bench/results/<device>`, made if missing; the device is the GPU where there is one, else the CPU's threads."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu-{torch.get_num_threads()}-threads"
    folder = Path("bench/results") / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
