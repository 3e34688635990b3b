"""Architectures, one entry each in ARCHITECTURES. timm and torchvision do the work; what they lack is written out here.

The functions that build a network import them, and torch: a figure, which wants a label alone, needs neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from sdd_utils.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from sdd_utils.config import Experiment


def mlp(exp: Experiment) -> nn.Module:
    """Two hidden layers of ``width`` units with ReLU. Not in the paper: the laptop's fast architecture."""
    from torch import nn

    hidden: list[nn.Module] = []
    for inputs in (prod(exp.facts.image_shape), exp.width):
        hidden += [nn.Linear(inputs, exp.width), nn.ReLU(), *_dropout(exp)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(exp.width, exp.facts.classes))


def lenet(exp: Experiment) -> nn.Module:
    """Hidden layers of ``width`` and a third as many units, Kaiming normal: LeNet-300-100 of He et al. for 300."""
    from torch import nn

    layers: list[nn.Module] = [nn.Flatten()]
    for sizes in pairwise((prod(exp.facts.image_shape), exp.width, exp.width // 3, exp.facts.classes)):
        layers += [last := nn.Linear(*sizes), nn.ReLU(), *_dropout(exp)]
        nn.init.kaiming_normal_(last.weight)
    return nn.Sequential(*layers[: layers.index(last) + 1])


def resnet18(exp: Experiment) -> nn.Module:
    """ResNet-18 for small images: 3×3 stem with stride 1, no max-pool; ``width`` = 64 is the paper's."""
    from torch import nn
    from torchvision.models.resnet import BasicBlock, conv1x1

    channels, width = exp.facts.image_shape[0], exp.width
    layers = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    planes = width
    for stage in range(4):
        wider, stride = width * 2**stage, 1 if stage == 0 else 2
        shortcut = nn.Sequential(conv1x1(planes, wider, stride), nn.BatchNorm2d(wider)) if stride != 1 else None
        layers += [BasicBlock(planes, wider, stride, shortcut), BasicBlock(wider, wider)]
        planes = wider
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *_dropout(exp), nn.Linear(planes, exp.facts.classes)]
    model = nn.Sequential(*layers, *head)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def vgg_like(exp: Experiment) -> nn.Module:
    """DSD²'s student: 5 blocks of two (3×3 convolution → ReLU → batch norm), widths doubling from ``width`` = 32.

    The 2×2 max-pool rounds up, which changes nothing at 32×32 and lets 8×8 images through.
    """
    from torch import Tensor, nn

    class Spread(nn.Module):
        """AdaptiveAvgPool2d(7) of the 1×1 maps to which images of up to 32×32 have shrunk.

        The pooling's own backward pass is not deterministic on a GPU.
        """

        def forward(self, maps: Tensor) -> Tensor:
            """(n, channels, 1, 1) to (n, channels, 7, 7)."""
            return maps.expand(-1, -1, 7, 7)

    layers, planes = [], exp.facts.image_shape[0]
    for block in range(5):
        for _ in range(2):
            layers += [nn.Conv2d(planes, exp.width * 2**block, 3, padding=1), nn.ReLU()]
            planes = exp.width * 2**block
            layers.append(nn.BatchNorm2d(planes))
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers, Spread(), nn.Flatten(), *_dropout(exp), nn.Linear(planes * 49, exp.facts.classes))


def vit(exp: Experiment) -> nn.Module:
    """timm's vision transformer as in the authors' code: class token, no bias in q, k, v."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=exp.facts.image_shape[1:],
        patch_size=exp.vit.patch,
        in_chans=exp.facts.image_shape[0],
        num_classes=exp.facts.classes,
        embed_dim=exp.width,
        depth=exp.vit.depth,
        num_heads=exp.vit.heads,
        mlp_ratio=(exp.vit.mlp_width + 0.5) / exp.width,  # of which timm takes the whole part
        qkv_bias=False,
        pos_drop_rate=exp.vit.dropout,
        proj_drop_rate=exp.vit.dropout,
    )


def by_timm(exp: Experiment) -> nn.Module:
    """One of timm's models, without pretrained weights. Raises ConfigError when it does not take these arguments."""
    import timm

    fixed = {"pretrained": False, "num_classes": exp.facts.classes, "in_chans": exp.facts.image_shape[0]}
    fixed |= {"drop_rate": exp.dropout} if exp.dropout else {}
    try:
        return timm.create_model(exp.arch.removeprefix(TIMM), **fixed, **(exp.timm.model_extra if exp.timm else {}))
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"timm: {exp.arch}: {' '.join(str(error).split())}") from None


def _dropout(exp: Experiment) -> list[nn.Module]:
    from torch import nn

    return [nn.Dropout(exp.dropout)] if exp.dropout else []


@dataclass(frozen=True)
class Architecture:
    """What there is to know of one architecture."""

    label: str  # as figures and tables call it
    weight_decay: float  # the regular λ, at which a curve counts as vanilla
    build: Callable[[Experiment], nn.Module]
    prunable: tuple[str, ...] = ("Conv2d", "Linear")  # the layers of torch.nn whose weights are pruned
    prunes_last: bool = True  # and whether the last of them is
    batch_norm: bool = False  # whether a batch of one image cannot be trained on
    least_width: int = 1  # 0: it has no width


ARCHITECTURES = {
    "mlp": Architecture("MLP", 1e-4, mlp),  # ours, so it takes the convolutional networks' λ
    # He et al. have no weight decay
    "lenet": Architecture("LeNet-300-100", 0.0, lenet, prunes_last=False, least_width=3),
    "resnet18": Architecture("ResNet-18", 1e-4, resnet18, batch_norm=True),
    "vit": Architecture("ViT", 0.03, vit, prunable=("Linear",)),
    "vgg_like": Architecture("VGG-like", 1e-4, vgg_like, batch_norm=True),
}
"""By the name that ``arch`` gives; figures and tables have them in this order. λ as in the authors' code."""

TIMM = "timm/"  # before the name of any model of timm: timm/mobilenetv3_small_050


def architecture(arch: str) -> Architecture:
    """The entry of ARCHITECTURES; or one for a model of timm, with the convolutional networks' λ."""
    if arch.startswith(TIMM):
        return Architecture(arch.removeprefix(TIMM), 1e-4, by_timm, batch_norm=True, least_width=0)
    return ARCHITECTURES[arch]


def label_of(arch: str) -> str:
    """The architecture as figures and tables call it; one that is not known here, by its own name."""
    return architecture(arch).label if arch in ARCHITECTURES or arch.startswith(TIMM) else arch


def build_model(exp: Experiment, draw: int = 0) -> nn.Module:
    """The experiment's network on the CPU, initialised from its seed (and the number of the draw) alone: from images
    (n, channels, height, width) to logits (n, classes), float32."""
    import torch

    from sdd_utils.seeding import derive

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(exp.seed, "init", draw))
        return architecture(exp.arch).build(exp)


def prunable_layers(model: nn.Module, exp: Experiment) -> dict[str, nn.Module]:
    """The layers whose weight is pruned, by name, in the order of the model; of structured pruning those that make or
    read units. Raises ConfigError when there are none of the latter."""
    from torch import nn

    facts = architecture(exp.arch)
    if exp.structure == "units":
        linked = {name for link in unit_links(model) for name in link}
        if not linked:
            raise ConfigError(f"structure: {exp.arch} has no units that a single layer reads; prune its weights")
        return {name: module for name, module in model.named_modules() if name in linked}
    kinds = tuple(getattr(nn, name) for name in facts.prunable)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    if not exp.prune_depthwise:
        layers = [(name, module) for name, module in layers if getattr(module, "groups", 1) == 1]
    return dict(layers if facts.prunes_last else layers[:-1])


LINKED = {"BasicBlock": ("conv1", "conv2"), "Mlp": ("fc1", "fc2")}  # torchvision's and timm's, inside a residual branch
CHAINED = {"Conv2d", "Linear", "ReLU", "BatchNorm2d", "MaxPool2d", "Spread", "Flatten", "Dropout"}


def unit_links(model: nn.Module) -> list[tuple[str, str]]:
    """Pairs of layers, by name, of which the first makes units (neurons, channels) that the second alone reads, so that
    a unit can be removed for good: inside the branches LINKED, or along a plain chain of layers.

    All blocks read and write a residual stream, whose units are therefore no such.
    """
    from torch import nn

    inside = [(name, LINKED[type(m).__name__]) for name, m in model.named_modules() if type(m).__name__ in LINKED]
    links = [(f"{name}.{maker}", f"{name}.{reader}") for name, (maker, reader) in inside]
    if isinstance(model, nn.Sequential) and {type(layer).__name__ for layer in model} <= CHAINED:
        links += pairwise(n for n, layer in model.named_children() if isinstance(layer, (nn.Linear, nn.Conv2d)))
    return links
