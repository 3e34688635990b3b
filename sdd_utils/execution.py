"""How a training step is executed: in which memory layout, and on a GPU compiled and captured as one CUDA graph.

Nothing here changes what is computed, beyond rounding.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
import torch.nn as nn
from torch import Tensor

from sdd_utils.data import Batch

WARM_UP = 3  # steps before a capture: by then all that is allocated or compiled at first use is there


@dataclass(frozen=True)
class Execution:
    """What is switched on."""

    channels_last: bool = False
    compiled: bool = False
    graph: bool = False

    @classmethod
    def of(cls, device: torch.device) -> Self:
        """Everything on a GPU; on a CPU the memory layout alone."""
        return cls(channels_last=True, compiled=device.type == "cuda", graph=device.type == "cuda")

    def logits(self, model: nn.Module, images: Tensor, full: bool = True) -> Tensor:
        """``model(images)``; ``full`` says that the batch has the usual size, for which alone it is worth compiling."""
        images = channels_last(images) if self.channels_last else images
        return _compiled()(model, images) if self.compiled and full else model(images)


def channels_last(images: Tensor) -> Tensor:
    """The images (n, c, h, w) with their channels together in memory, where convolutions are faster: on a CPU from
    32×32 on (a ResNet-18 of width 8 takes two thirds of the time)."""
    if not images.is_cuda and images.shape[2] < 32:
        return images
    return images.contiguous(memory_format=torch.channels_last)


@cache
def _compiled() -> Callable[[nn.Module, Tensor], Tensor]:
    """A function of the model: compiled once for all networks of a shape, so once a sweep and not once a level."""
    return torch.compile(lambda model, images: model(images), dynamic=False)


class CapturedStep:
    """``step`` as one CUDA graph: a step of batch 128 is hundreds of kernels, many shorter than their own launch.

    The first WARM_UP full batches are real steps on a stream of their own; the next is captured. A smaller batch always
    runs as it is. ``step`` must not wait for the GPU, and its tensors, but for the batch, stay where they are.
    """

    def __init__(self, step: Callable[[Batch], Tensor], batch_size: int):
        self.step, self.batch_size = step, batch_size
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream()
        self.steps = 0

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of one step, a tensor that the next step overwrites."""
        if len(batch.index) != self.batch_size:
            return self.step(batch)
        self.steps += 1
        if self.steps <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss = self.step(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            return loss
        if self.steps == WARM_UP + 1:
            self.batch = Batch(*(part.clone() for part in batch))
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.loss = self.step(self.batch)
        for held, part in zip(self.batch, batch, strict=True):
            held.copy_(part)
        self.graph.replay()
        return self.loss


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may say of each GPU that this process sees."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(i) for i in range(torch.cuda.device_count())]


def allow_many_shapes() -> None:
    """Have this thread compile as many shapes as a sweep may have: torch compiles eight, and runs others uncompiled."""
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def prepare(device: torch.device) -> None:
    """Set up this process for training on ``device``, such that the same run gives the same bits again."""
    torch.set_num_threads(1)  # the cores are for other experiments, and sums come out the same wherever this one runs
    torch.set_flush_denormal(True)  # decayed weights become denormal numbers, which a CPU multiplies very slowly
    if device.type == "cuda":
        # As NVML numbers them, by which codecarbon finds the one to read; CUDA's own way is the fastest first.
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        torch.cuda.set_device(device.index or 0)
        allow_many_shapes()
        # Inductor then chooses how to sum by a rule, and not by the clock, which says something else next time;
        # attention is not cuDNN's; and what would sum in no fixed order raises.
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # to find bugs with; costs a kernel a tensor
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which some releases of torch refuse
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")  # the warm-up's steps
        torch.backends.cudnn.benchmark = False  # it may choose another algorithm next time
        torch.backends.cudnn.deterministic = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # amp: off means float32
