"""The conventional way to train and prune, as the field's scripts do it. ``make bench`` measures against it; no result
comes from it.

PIL images go through torchvision's transforms in DataLoader workers, masks are torch.nn.utils.prune's, everything is
float32, and the test set is looked at after every epoch.
"""

from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.nn.utils import prune
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from sdd_utils.config import Experiment
from sdd_utils.data import Split
from sdd_utils.distillation import distillation_loss
from sdd_utils.models import build_model, prunable_layers


class PilImages(Dataset):
    """A split as PIL images, each transformed when it is asked for."""

    def __init__(self, split: Split, transform: Callable):
        arrays = split.images.cpu().permute(0, 2, 3, 1).squeeze(3).numpy()  # a single channel is PIL's mode L
        self.images, self.labels = [Image.fromarray(array) for array in arrays], split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image (channels, height, width) float32 and its label."""
        return self.transform(self.images[index]), self.labels[index]


def loader(split: Split, exp: Experiment, training: bool, workers: int) -> DataLoader:
    """Batches (images, labels), shuffled and augmented if they are for training."""
    mean, std = split.normalise.mean.flatten().tolist(), split.normalise.std.flatten().tolist()
    scale = split.normalise.scale / 255  # ToTensor divides by 255 whatever the images' range
    steps = [transforms.ToTensor(), transforms.Normalize([m * scale for m in mean], [s * scale for s in std])]
    if training and exp.crop_padding:
        steps.insert(0, transforms.RandomCrop(exp.facts.image_shape[1:], exp.crop_padding))
    if training and exp.flip:
        steps.insert(0, transforms.RandomHorizontalFlip())
    on_gpu = split.images.is_cuda
    images = PilImages(split, transforms.Compose(steps))
    how = "fork" if workers else None  # Linux's usual way, also inside a worker of ours, where loky's is the default
    return DataLoader(
        images, exp.batch_size, training, num_workers=workers, pin_memory=on_gpu, multiprocessing_context=how
    )


def masked_model(exp: Experiment, mask: Tensor, device: torch.device) -> nn.Module:
    """The experiment's network at initialisation under a mask (N,) over its prunable weights, all in one row."""
    model = build_model(exp).to(device)
    layers = list(prunable_layers(model, exp).values())
    sizes = [layer.weight.numel() for layer in layers]
    for layer, size, end in zip(layers, sizes, accumulate(sizes), strict=True):
        prune.custom_from_mask(layer, "weight", mask[end - size : end].view_as(layer.weight))
    return model


def optimizer_of(model: nn.Module, exp: Experiment) -> Optimizer:
    """SGD or AdamW over the layers' parameters, as torch makes them by default."""
    if exp.optimizer == "sgd":
        return SGD(model.parameters(), exp.lr, exp.momentum, weight_decay=exp.weight_decay)
    return AdamW(model.parameters(), exp.lr, weight_decay=exp.weight_decay)


def step(
    model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, exp: Experiment, teacher: nn.Module | None
) -> Tensor:
    """One step of training; returns the loss."""
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    if teacher:
        with torch.no_grad():
            teacher_logits = teacher(images)
        loss = distillation_loss(loss, logits, teacher_logits, exp.temperature, exp.alpha)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def evaluate(model: nn.Module, batches: DataLoader, device: torch.device) -> float:
    """Accuracy on a split, in [0, 1]."""
    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in batches:
            right += (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
    return right / len(batches.dataset)
