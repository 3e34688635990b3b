"""FLOPs of training: of one image through a network, by layer, and of a level."""

from __future__ import annotations

from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdd_utils.config import Experiment
from sdd_utils.models import build_model, prunable_layers


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
