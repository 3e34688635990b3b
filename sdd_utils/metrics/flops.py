"""FLOPs of training: of one image through a network, by layer, and of a level."""

from functools import cache

import torch
import torch.nn as nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdd_utils.config import Experiment
from sdd_utils.errors import ConfigError
from sdd_utils.models import build_model, prunable_layers

Density = dict[str, float] | None  # by layer, the share of surviving weights; None: all


class FlopCount:
    """FLOPs of one image through an experiment's network, by layer, counted by torch (a multiply-add is two). Raises
    ConfigError when the network takes no images of the dataset's size."""

    def __init__(self, exp: Experiment):
        with torch.device("meta"):  # shapes without numbers: a network that memory has no room for is counted as well
            model, images = build_model(exp), torch.zeros(2, *exp.facts.image_shape)  # batch norm refuses a single one
        layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
        reached: dict[str, bool] = {}  # whether the gradient goes on to the layer's input: not to the images
        for name, layer in layers.items():
            layer.register_forward_hook(lambda _, x, __, name=name: reached.update({name: x[0].requires_grad}))
        # The counter does not know every fused attention kernel, so attention is counted as the two products it is.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            try:
                model(images)
            except (RuntimeError, AssertionError) as error:  # of shapes
                what = f"{exp.arch} takes no images of {tuple(exp.facts.image_shape)}, which {exp.dataset} has"
                raise ConfigError(f"arch: {what} ({' '.join(str(error).split())})") from None
        counts, root = counter.get_flop_counts(), type(model).__name__
        forward = {name: sum(counts[f"{root}.{name}"].values()) / 2 for name in layers}
        self.forward = counter.get_total_flops() / 2
        # Backward is, of every product, one of that size for the gradient of each factor that has one. The counter is
        # not asked, since it counts all pairs of channels in a grouped convolution's backward pass.
        self.step = 3 * self.forward - sum(forward[name] for name in layers if not reached[name])
        self._forward_layers = {name: forward[name] for name in prunable_layers(model, exp)}
        self._step_layers = {name: flops * (2 + reached[name]) for name, flops in self._forward_layers.items()}

    def training(self, density: Density) -> float:
        """Forward and backward for one image, prunable layers weighted by their share of surviving weights."""
        return _without_pruned(self.step, self._step_layers, density)

    def inference(self, density: Density) -> float:
        """Forward alone for one image, weighted in the same way."""
        return _without_pruned(self.forward, self._forward_layers, density)


def _without_pruned(flops: float, layers: dict[str, float], density: Density) -> float:
    return flops if density is None else flops - sum(of * (1 - density[name]) for name, of in layers.items())


# The settings that decide what a network computes
NETWORK = ("arch", "width", "vit", "timm", "dropout", "prune_depthwise", "structure", "dataset", "image_size")


def flop_count(exp: Experiment) -> FlopCount:
    """The count for an experiment; made once for each network."""
    return _flop_count(Experiment.model_construct(**{name: getattr(exp, name) for name in NETWORK}))


_flop_count = cache(FlopCount)


def training_flops(exp: Experiment, epochs: int, density: Density = None, teachers: Density = None) -> float:
    """FLOPs of a level's training, with the teacher's passes and those of early stopping over the validation images.

    The teacher sees each image every epoch where it is augmented, else once.
    """
    own, images = flop_count(exp), exp.training_images
    flops = epochs * images * own.training(density)
    if exp.patience:
        flops += epochs * exp.validation_images * own.inference(density)
    if exp.teacher:
        seen = (epochs if exp.augmented else 1) * images
        flops += seen * flop_count(exp.teacher.experiment).inference(teachers)
    return flops


def level_flops(exp: Experiment) -> list[float]:
    """FLOPs of each level, pruned weights counted as if they were there."""
    return [training_flops(exp, exp.epochs_of(level)) for level in range(exp.levels + 1)]


def curve_flops(exp: Experiment, levels: int | None = None) -> float:
    """``level_flops`` of the first so many levels, by default of all."""
    return sum(level_flops(exp)[:levels])
