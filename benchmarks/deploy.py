"""What unstructured sparsity buys at inference: networks as ONNX files, weighed and timed.

A masked network is as large and as slow as a dense one unless zeros are compressed, skipped or cut out. Two things are
tried here: compressing the file, and cutting out the units (channels, hidden neurons) that a mask has left without use.
"""

from __future__ import annotations

import copy
import gzip
import io
import logging
import time
import warnings
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
import torch.nn as nn
from torch import Tensor

from sdd_utils.config import Experiment
from sdd_utils.errors import ResultsMissing
from sdd_utils.files import read_csv
from sdd_utils.models import CHAINED, unit_links
from sdd_utils.pruning import SparseNetwork, new_network
from sdd_utils.runner.checkpoints import level_file, restore, shown_levels
from sdd_utils.runner.integrity import finished
from sdd_utils.tables import DEPLOYMENT_COLUMNS

SECONDS = 0.1
"""A network is timed for so long on one image, and as long on 64."""


@dataclass(frozen=True)
class Link:
    """Units that one layer makes and one other layer alone reads.

    ``constant`` maps what a unit without weights puts out, its bias, to what reaches the reader. Residual streams are
    no links: all blocks of a stage read and write them.
    """

    maker: nn.Linear | nn.Conv2d
    norm: nn.BatchNorm2d | None
    reader: nn.Linear | nn.Conv2d
    constant: Callable[[Tensor], Tensor]


def links(model: nn.Module) -> Iterator[Link]:
    """Those of ``models.unit_links``, first to last, between which nothing but an activation and batch norm changes a
    unit that is constant. A layer that is not known, such as one that normalises over units, may do anything."""
    layers = dict(model.named_modules())
    names = list(layers)
    for maker, reader in unit_links(model):
        between = [layers[name] for name in names[names.index(maker) + 1 : names.index(reader)]]
        if not all(type(one).__name__ in {*CHAINED, "Identity"} or _is_activation(one) for one in between):
            continue
        norm = next((layer for layer in between if isinstance(layer, nn.BatchNorm2d)), None)

        def constant(x: Tensor, between: list[nn.Module] = between) -> Tensor:
            for layer in between:
                if isinstance(layer, nn.BatchNorm2d):
                    x = _normed(x, layer)
                elif _is_activation(layer):
                    x = layer(x)
            return x

        yield Link(layers[maker], norm, layers[reader], constant)


def _is_activation(layer: nn.Module) -> bool:
    """Of torch, or of timm, which has classes of its own for most."""
    return type(layer).__module__ in ("torch.nn.modules.activation", "timm.layers.activations")


def _normed(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return (x - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps) * norm.weight + norm.bias


@torch.no_grad()
def without_dead_units(model: nn.Module) -> tuple[nn.Module, int]:
    """A copy in eval mode that computes the same with fewer units, and how many have gone.

    A unit is cut out when nothing reads it, or when it has no weights of its own, so that it is constant, and the
    constant is 0 or can be added to the reader's bias (of a convolution with padding it cannot). Of each layer one unit
    stays.
    """
    model, removed = copy.deepcopy(model).eval(), 0
    while cut := sum(_cut(link) for link in links(model)):
        removed += cut
    return model, removed


def _cut(link: Link) -> int:
    made = link.maker.weight.flatten(1)
    read = link.reader.weight.flatten(1).reshape(len(link.reader.weight), len(made), -1)  # (readers, units, …)
    bias = torch.zeros(len(made)) if link.maker.bias is None else link.maker.bias.clone()  # ReLU may be in place
    constant, unfed = link.constant(bias), ~made.any(1)
    foldable = torch.full_like(unfed, isinstance(link.reader, nn.Linear)) | (constant == 0)
    keep = read.any(2).any(0) & ~(unfed & foldable)
    if not keep.any():
        keep[0] = True
    if keep.all():
        return 0
    if isinstance(link.reader, nn.Linear):
        link.reader.bias += read[:, ~keep & unfed].sum(2) @ constant[~keep & unfed]
    _keep_rows(link.maker, keep)
    if link.norm:
        _keep_rows(link.norm, keep)
    columns = keep.repeat_interleave(link.reader.weight.shape[1] // len(keep))  # more than one a unit after a flatten
    link.reader.weight = nn.Parameter(link.reader.weight[:, columns])
    setattr(link.reader, "in_features" if isinstance(link.reader, nn.Linear) else "in_channels", int(columns.sum()))
    return int((~keep).sum())


def _keep_rows(layer: nn.Module, keep: Tensor) -> None:
    for name in ("weight", "bias"):
        if getattr(layer, name) is not None:
            setattr(layer, name, nn.Parameter(getattr(layer, name)[keep]))
    for name in ("running_mean", "running_var"):
        if hasattr(layer, name):
            setattr(layer, name, getattr(layer, name)[keep])
    for name in ("out_features", "out_channels", "num_features"):
        if hasattr(layer, name):
            setattr(layer, name, int(keep.sum()))


def to_onnx(model: nn.Module, images: Tensor) -> bytes:
    """The network as an ONNX file; ``images`` (n, channels, height, width) is an example, n is free."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), verbose=False)
    for part in (*program.model.graph, *program.model.graph.initializers.values()):
        part.metadata_props.clear()  # where in whose source each node comes from: larger than a small network
    file = io.BytesIO()
    program.save(file)
    return file.getvalue()


class Session:
    """An ONNX file in onnxruntime, on one thread."""

    def __init__(self, file: bytes):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> np.ndarray:
        """Logits (n, classes) of images (n, channels, height, width), float32."""
        return self.session.run(None, {self.input: images.numpy()})[0]

    def milliseconds(self, images: Tensor) -> float:
        """Median time of a call, over SECONDS after a warm-up."""
        for _ in range(10):
            self(images)
        times, end = [], time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            begin = time.perf_counter()
            self(images)
            times.append(1000 * (time.perf_counter() - begin))
        return median(times)


def deployment(experiments: list[Experiment], folder: Path, only: Container[str] | None = None) -> pd.DataFrame:
    """Size and speed of exported networks, in DEPLOYMENT_COLUMNS.

    Of each architecture with students, on each dataset, the first vanilla curve (that has a run_id of ``only``): dense,
    at the levels closest to KEPT_SPARSITIES, and at the last. Raises ResultsMissing and Damaged.
    """
    with_students = {exp.arch for exp in experiments if exp.teacher}
    first: dict[tuple[str, str], Experiment] = {}
    for exp in (exp for exp in experiments if only is None or exp.run_id in only):
        if exp.method == "vanilla" and exp.arch in with_students:
            first.setdefault((exp.dataset, exp.arch), exp)
    if missing := [exp.run_id for exp in first.values() if not finished(exp, folder)]:
        raise ResultsMissing(f"{missing[0]} is not finished in {folder}; run the profile first")
    rows = []
    for exp in first.values():
        setting = {"dataset": exp.dataset, "arch": exp.arch, "width": exp.width, "noise_rate": exp.noise_rate}
        levels = read_csv(folder / exp.run_id / "levels.csv")
        for level in sorted(shown_levels(levels)):
            net = new_network(exp)
            restore(level_file(folder / exp.run_id, level), exp, net)
            at = {"level": level, "sparsity": levels.at[level, "sparsity"]}
            rows += [setting | at | row for row in weighed(exp, net)]
    return pd.DataFrame(rows, columns=DEPLOYMENT_COLUMNS)


def weighed(exp: Experiment, net: SparseNetwork) -> Iterator[dict]:
    """One row a variant of an experiment's network, in the columns of DEPLOYMENT_COLUMNS from ``variant`` on.

    ``masked`` is the network as it is, pruned weights as zeros; ``cut``, where there are dead units, the one without
    them. ``weights`` are all that the file holds, ``nonzero`` those that are not 0. Milliseconds are those of a forward
    pass of 1 and of 64 images on one thread; ``max_difference`` is a logit's from torch's.
    """
    cut, removed = without_dead_units(net.model)
    yield {"variant": "masked", "units_removed": 0, **_weigh(net.model.eval(), net.model, exp)}
    if removed:
        yield {"variant": "cut", "units_removed": removed, **_weigh(cut, net.model, exp)}


@torch.no_grad()
def _weigh(model: nn.Module, original: nn.Module, exp: Experiment) -> dict:
    images = torch.randn(64, *exp.facts.image_shape, generator=torch.Generator().manual_seed(0))
    file = to_onnx(model, images)
    session = Session(file)
    weights = torch.cat([p.flatten() for p in model.parameters()])
    return {
        "weights": len(weights),
        "nonzero": int(weights.count_nonzero()),
        "onnx_bytes": len(file),
        "gzip_bytes": len(gzip.compress(file, mtime=0)),
        "ms_batch_1": session.milliseconds(images[:1]),
        "ms_batch_64": session.milliseconds(images),
        "max_difference": float(np.abs(session(images) - original(images).numpy()).max()),
    }
