"""Random numbers that follow the experiment's seed and a purpose, whatever ran before in the same process."""

import hashlib
import random

import numpy as np
import torch
from torch import Tensor


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, the same on every machine; ``derive(0, "noise")`` ≠ ``derive(0, "split")``."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator of its own for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def seed_everything(seed: int) -> None:
    """Seed the process's own generators: torch's on all devices, numpy's and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state(rng: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """The states of ``rng`` and of the process's own generators, those of ``device`` included, as tensors that a
    safetensors file can hold."""
    _, keys, position, cached, gauss = np.random.get_state()
    _, words, python_gauss = random.getstate()
    return {
        "batches": rng.get_state(),
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*keys.tolist(), position, cached]),
        "numpy_gauss": torch.tensor(gauss, dtype=torch.float64),
        "python": torch.tensor(words),
        "python_gauss": torch.tensor(torch.nan if python_gauss is None else python_gauss, dtype=torch.float64),
        **({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}),
    }


def set_random_state(state: dict[str, Tensor], rng: torch.Generator, device: torch.device) -> None:
    """Inverse of ``random_state``."""
    rng.set_state(state["batches"])
    torch.set_rng_state(state["torch"])
    *keys, position, cached = state["numpy"].tolist()
    np.random.set_state(("MT19937", keys, position, cached, state["numpy_gauss"].item()))
    gauss = state["python_gauss"].item()
    random.setstate((3, tuple(state["python"].tolist()), None if gauss != gauss else gauss))
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
