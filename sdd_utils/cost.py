"""What a level costs: training FLOPs, and energy and emissions as codecarbon estimates them."""

from __future__ import annotations

import os
from dataclasses import asdict

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdd_utils.config import Experiment
from sdd_utils.models import build_model, prunable_layers

COUNTRY = os.environ.get("SDD_COUNTRY", "FRA")
"""Whose grid intensity turns kWh into kg CO₂eq: an ISO code. France by default, where the paper's authors work."""


class FlopCount:
    """FLOPs of one image through an experiment's network, by layer, counted by torch (a multiply-add is two)."""

    def __init__(self, exp: Experiment, image_shape: tuple[int, int, int], classes: int):
        model = build_model(exp, image_shape, classes)
        images = torch.zeros(2, *image_shape)  # two, because batch norm refuses to train on one
        layers = prunable_layers(model)
        self.forward, self._forward_layers = self._count(model, layers, lambda: model(images))
        self.step, self._step_layers = self._count(model, layers, lambda: model(images).sum().backward())

    @staticmethod
    def _count(model, layers, work) -> tuple[float, dict[str, float]]:
        # The counter does not know every fused attention kernel, so attention is counted as the two products it is.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            work()
        counts = {name: sum(ops.values()) / 2 for name, ops in counter.get_flop_counts().items()}
        root = type(model).__name__
        return counter.get_total_flops() / 2, {name: counts.get(f"{root}.{name}", 0.0) for name in layers}

    def training(self, density: dict[str, float]) -> float:
        """Forward and backward for one image, prunable layers weighted by their share of surviving weights."""
        return self.step - sum(f * (1 - density[name]) for name, f in self._step_layers.items())

    def inference(self, density: dict[str, float]) -> float:
        """Forward alone for one image, weighted in the same way."""
        return self.forward - sum(f * (1 - density[name]) for name, f in self._forward_layers.items())


class EnergyMeter:
    """codecarbon's offline tracker, one a process, read once a level; without it the columns stay empty.

    Where the machine exposes no power counter, codecarbon's figure is an estimate from the processor's load.
    """

    _shared: EnergyMeter | None = None

    def __init__(self):
        self.tracker = None
        try:
            from codecarbon import OfflineEmissionsTracker

            self.tracker = OfflineEmissionsTracker(
                country_iso_code=COUNTRY,
                tracking_mode="process",  # workers run side by side: each is charged for itself
                measure_power_secs=3600,  # read at start and stop of a level, not in between
                save_to_file=False,
                allow_multiple_runs=True,
                log_level="critical",
            )
        except Exception:  # whatever is missing or forbidden on this machine must not stop a run
            pass

    @classmethod
    def of_this_process(cls) -> EnergyMeter:
        """Starting a tracker takes seconds, so a worker keeps one for all its experiments."""
        if cls._shared is None:
            cls._shared = cls()
        return cls._shared

    def start(self, name: str) -> None:
        """Begin to measure what is called ``name``."""
        self._call("start_task", name)

    def stop(self) -> dict:
        """codecarbon's record since ``start``; empty when it could not measure."""
        data = self._call("stop_task")
        return asdict(data) if data is not None else {}

    def _call(self, method: str, *args):
        if self.tracker is not None:
            try:
                return getattr(self.tracker, method)(*args)
            except Exception:
                self.tracker = None
        return None
