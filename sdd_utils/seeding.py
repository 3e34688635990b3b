"""Random numbers that follow the experiment's seed and a purpose, whatever ran before in the same process."""

import hashlib

import torch
from torch import Tensor


def derive(seed: int, *purpose: object) -> int:
    """A seed of 63 bits for one purpose, the same on every machine; torch's CPU generator uses the last 32."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator of its own for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def random_state(rng: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """The states of ``rng`` and of torch's own generators, which dropout draws from, as uint8 tensors."""
    state = {"batches": rng.get_state(), "torch": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: dict[str, Tensor], rng: torch.Generator, device: torch.device) -> None:
    """Inverse of ``random_state``."""
    rng.set_state(state["batches"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
