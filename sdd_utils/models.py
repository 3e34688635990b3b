"""Architectures by name and width. timm and torchvision do the work; what they lack is written out here.

Both take seconds to import, which every worker of every sweep would wait for, so only who needs them does it.
"""

import torch
import torch.nn as nn
from torch import Tensor

from sdd_utils.config import Experiment
from sdd_utils.seeding import derive


class MLP(nn.Sequential):
    """Two hidden layers of ``width`` units with ReLU. Not in the paper: the laptop's fast architecture."""

    def __init__(self, inputs: int, width: int, classes: int):
        super().__init__(
            nn.Flatten(),
            nn.Linear(inputs, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, classes),
        )


class ResNet18(nn.Sequential):
    """ResNet-18 for small images: 3×3 stem with stride 1, no max-pool; ``width`` = 64 is the paper's."""

    def __init__(self, channels: int, width: int, classes: int):
        from torchvision.models.resnet import BasicBlock, conv1x1

        stem = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        stages, planes = [], width
        for stage in range(4):
            wider, stride = width * 2**stage, 1 if stage == 0 else 2
            shortcut = None
            if stride != 1:
                shortcut = nn.Sequential(conv1x1(planes, wider, stride), nn.BatchNorm2d(wider))
            stages += [BasicBlock(planes, wider, stride, shortcut), BasicBlock(wider, wider)]
            planes = wider
        super().__init__(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(planes, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class VGGLike(nn.Sequential):
    """DSD²'s student: 5 blocks of two (3×3 convolution → ReLU → batch norm), widths doubling from ``width`` = 32.

    The 2×2 max-pool rounds up, which changes nothing at 32×32 and lets 8×8 images through.
    """

    def __init__(self, channels: int, width: int, classes: int):
        layers, planes = [], channels
        for block in range(5):
            for _ in range(2):
                layers += [nn.Conv2d(planes, width * 2**block, 3, padding=1), nn.ReLU()]
                planes = width * 2**block
                layers.append(nn.BatchNorm2d(planes))
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        super().__init__(*layers, Spread(), nn.Flatten(), nn.Linear(planes * 49, classes))


class Spread(nn.Module):
    """Maps of 1×1, to which images of up to 32×32 have shrunk, as maps of 7×7.

    It is what VGG's adaptive pooling makes of them, whose gradient is not the same bits every time on a GPU.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels, 1, 1) to (n, channels, 7, 7)."""
        return maps.expand(-1, -1, 7, 7)


def build_model(exp: Experiment, draw: int = 0) -> nn.Module:
    """The experiment's network, initialised from its seed (and the number of the draw) alone, on the CPU.

    Maps images (n, channels, height, width) of its dataset to logits (n, classes), float32.
    """
    (channels, height, width), classes = exp.facts.image_shape, exp.facts.classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(exp.seed, "init", draw))
        if exp.arch == "mlp":
            return MLP(channels * height * width, exp.width, classes)
        if exp.arch == "resnet18":
            return ResNet18(channels, exp.width, classes)
        if exp.arch == "vgg_like":
            return VGGLike(channels, exp.width, classes)
        return _vision_transformer(exp)


def _vision_transformer(exp: Experiment) -> nn.Module:
    """As in the authors' code: class token, no bias in q, k, v; only Linear weights are pruned."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=exp.facts.image_shape[1:],
        patch_size=exp.vit.patch,
        in_chans=exp.facts.image_shape[0],
        num_classes=exp.facts.classes,
        embed_dim=exp.width,
        depth=exp.vit.depth,
        num_heads=exp.vit.heads,
        mlp_ratio=exp.vit.mlp_width / exp.width,
        qkv_bias=False,
        pos_drop_rate=exp.vit.dropout,
        proj_drop_rate=exp.vit.dropout,
    )
    model.prunable = nn.Linear
    return model


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers whose weight is pruned, by name: Conv2d and Linear, or what the model's ``prunable`` says."""
    kinds = getattr(model, "prunable", (nn.Conv2d, nn.Linear))
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
