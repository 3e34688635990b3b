"""What a device is called, in tables and in the names of their files."""

import re

import torch
from loky import cpu_count

from sdd_utils.runner.provenance import cpu_model


def device_name(device: str) -> str:
    """Of the GPU, or of the processor with the number of cores that this process may use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()} {cpu_count()} cores"


def file_name(name: str) -> str:
    """Of a device's table: ``NVIDIA H200`` → ``nvidia-h200.csv``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".csv"
