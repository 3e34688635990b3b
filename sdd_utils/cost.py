"""What a level costs: training FLOPs, and energy and emissions as codecarbon estimates them."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdd_utils.config import Experiment
from sdd_utils.models import build_model, prunable_layers

COUNTRY = os.environ.get("SDD_COUNTRY", "FRA")
"""Whose grid intensity turns kWh into kg CO₂eq: an ISO code. France by default, where the paper's authors work."""


class FlopCount:
    """FLOPs of one image through an experiment's network, by layer, counted by torch (a multiply-add is two)."""

    def __init__(self, exp: Experiment):
        model = build_model(exp)
        images = torch.zeros(2, *exp.facts.image_shape)  # two, because batch norm refuses to train on one
        layers = prunable_layers(model)
        reached: dict[str, bool] = {}  # whether the gradient goes on to the layer's input: not to the images
        for name, layer in layers.items():
            layer.register_forward_hook(lambda _, x, __, name=name: reached.update({name: x[0].requires_grad}))
        # The counter does not know every fused attention kernel, so attention is counted as the two products it is.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
            loss = model(images).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
        self.forward = forward.get_total_flops() / 2
        self.step = self.forward + backward.get_total_flops() / 2
        # Only forward FLOPs are told apart by layer reliably. Backward is one product of that size for the weights'
        # gradient, and one for the input's.
        counts = {name: sum(ops.values()) / 2 for name, ops in forward.get_flop_counts().items()}
        root = type(model).__name__
        self._forward_layers = {name: counts[f"{root}.{name}"] for name in layers}
        self._step_layers = {name: flops * (2 + reached[name]) for name, flops in self._forward_layers.items()}

    def training(self, density: dict[str, float]) -> float:
        """Forward and backward for one image, prunable layers weighted by their share of surviving weights."""
        return self.step - sum(f * (1 - density[name]) for name, f in self._step_layers.items())

    def inference(self, density: dict[str, float]) -> float:
        """Forward alone for one image, weighted in the same way."""
        return self.forward - sum(f * (1 - density[name]) for name, f in self._forward_layers.items())


def flop_count(exp: Experiment) -> FlopCount:
    """The count for an experiment; made once for each network."""
    only_the_network = {"arch": exp.arch, "width": exp.width, "vit": exp.vit, "dataset": exp.dataset}
    return _flop_count(Experiment.model_construct(**only_the_network))


_flop_count = cache(FlopCount)


def dense_flops(exp: Experiment) -> float:
    """Training FLOPs of one level, pruned weights counted as if they were there, the teacher's passes included."""
    return exp.training_images * (exp.epochs * flop_count(exp).step + taught_passes(exp) * _teacher_flops(exp))


def taught_passes(exp: Experiment) -> int:
    """How often a level shows each image to the teacher: every epoch where it is augmented, else once."""
    return 0 if exp.teacher is None else exp.epochs if exp.augmented else 1


def _teacher_flops(exp: Experiment) -> float:
    return flop_count(exp.teacher.experiment).forward if exp.teacher else 0.0


class EnergyMeter:
    """codecarbon's offline tracker, read once a level; what it cannot measure leaves its columns empty.

    Where the machine exposes no power counter, codecarbon's figure is an estimate from the processor's load.
    """

    def __init__(self):
        logging.getLogger("codecarbon").disabled = True  # what it has to say would tear the progress bar
        self.tracker = None
        with suppress(Exception):  # whatever is missing or forbidden on this machine must not stop a run
            from codecarbon import OfflineEmissionsTracker

            self.tracker = OfflineEmissionsTracker(
                country_iso_code=COUNTRY,
                tracking_mode="process",  # workers run side by side: each is charged for itself
                measure_power_secs=3600,  # read at start and stop of a level, not in between
                save_to_file=False,
                allow_multiple_runs=True,
            )

    def start(self, name: str) -> None:
        """Begin to measure what is called ``name``."""
        self._call("start_task", name)

    def stop(self) -> dict:
        """codecarbon's record since ``start``; empty when it could not measure."""
        data = self._call("stop_task")
        return vars(data) if data else {}

    def _call(self, method: str, *args):
        try:
            return getattr(self.tracker, method)(*args) if self.tracker else None
        except Exception:
            self.tracker = None


@cache
def energy_meter() -> EnergyMeter:
    """This process's meter: to start a tracker takes seconds, so a worker keeps one for all its experiments."""
    return EnergyMeter()
