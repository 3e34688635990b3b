"""A network whose parameters lie in one vector, so that pruning, masking and optimising are operations on vectors."""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from sdd_utils.config import Experiment
from sdd_utils.data import Data
from sdd_utils.errors import ConfigError
from sdd_utils.models import build_model, prunable_layers, unit_links
from sdd_utils.seeding import generator

RESOLUTION = 1e-6  # two sparsities closer than this are the same number in a CSV, which has six digits


class SparseNetwork:
    """A model together with its mask.

    All ``parameters`` are views of ``vector`` (P,) float32, the prunable ones first: the optimiser updates one tensor,
    and enforcing the mask is one multiplication, so that a sparse step costs what a dense one does. ``mask`` (N,)
    float32 holds 1 for surviving and 0 for pruned weights, N = number of prunable weights.
    """

    def __init__(self, model: nn.Module, layers: dict[str, nn.Module]):
        self.model = model
        self.layers = layers  # whose weights are pruned, by name
        prunable = [layer.weight for layer in self.layers.values()]
        ids = {id(p) for p in prunable}
        self.parameters = prunable + [p for p in model.parameters() if id(p) not in ids]

        self.vector = nn.Parameter(torch.cat([p.detach().flatten() for p in self.parameters]))
        self.vector.grad = torch.zeros_like(self.vector)
        values = self.vector.data.split([p.numel() for p in self.parameters])
        for p, piece in zip(self.parameters, values, strict=True):
            p.data = piece.view_as(p)

        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked = None  # nobody reads it, and counting is a kernel a layer at every step

        self.sizes = [p.numel() for p in prunable]
        self.mask = torch.ones(sum(self.sizes), device=self.vector.device)

    @property
    def weights(self) -> Tensor:
        """The prunable weights (N,), a view of ``vector``."""
        return self.vector.data[: len(self.mask)]

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that the mask removes."""
        return 1 - self.remaining / len(self.mask)

    @property
    def remaining(self) -> int:
        """Number of surviving prunable weights."""
        return int(self.mask.count_nonzero())

    def survivors(self) -> Tensor:
        """The surviving prunable weights (remaining,), a copy."""
        return self.weights[self.mask.bool()]

    def by_layer(self, vector: Tensor) -> dict[str, Tensor]:
        """What ``vector`` (N,) says of each layer's weights, by name and in their shape: views."""
        parts = zip(self.layers.items(), vector.split(self.sizes), strict=True)
        return {name: part.view_as(layer.weight) for (name, layer), part in parts}

    def layer_density(self) -> dict[str, float]:
        """Share of surviving weights by layer name."""
        return {name: mask.mean().item() for name, mask in self.by_layer(self.mask).items()}

    def backward(self, loss: Tensor) -> None:
        """Write the gradient of ``loss``, a scalar, into ``vector.grad``."""
        # Not loss.backward(), which would add each layer's gradient to what is there: twice the memory to move.
        grads = torch.autograd.grad(loss, self.parameters)
        torch.cat([grad.flatten() for grad in grads], out=self.vector.grad)

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Set the pruned weights to zero. After every optimiser step: momentum and weight decay move them too."""
        self.weights.mul_(self.mask)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: vector, mask and the model's buffers (batch-norm statistics)."""
        buffers = {f"buffer.{name}": b for name, b in self.model.named_buffers()}
        return {"vector": self.vector.data, "mask": self.mask.bool(), **buffers}

    def check_state(self, state: dict[str, Tensor]) -> None:
        """Raise ValueError when the state is another architecture's, or holds what no training leaves."""
        for name, mine in self.state().items():
            if name not in state or state[name].shape != mine.shape:
                given = tuple(state[name].shape) if name in state else "missing"
                raise ValueError(f"is of another architecture: {name} is {given}, not {tuple(mine.shape)}")
            if state[name].dtype != mine.dtype or not state[name].isfinite().all():
                raise ValueError(f"{name} should hold finite numbers of {mine.dtype}")
        if state["vector"][: len(self.mask)][~state["mask"]].any():
            raise ValueError("vector should be zero where the mask is")

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of ``state``; other entries are left alone. ``check_state`` says whether it will fit."""
        self.vector.copy_(state["vector"])
        self.mask.copy_(state["mask"])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state[f"buffer.{name}"])


def new_network(exp: Experiment, device: str | torch.device = "cpu", draw: int = 0) -> SparseNetwork:
    """The experiment's dense network at initialisation; ``draw`` counts those that are drawn anew."""
    model = build_model(exp, draw)
    return SparseNetwork(model.to(device), prunable_layers(model, exp))


def magnitude(net: SparseNetwork, data: Data, exp: Experiment) -> Tensor:
    """|w| (paper, Sec. 3)."""
    return net.weights.abs()


def gradient(net: SparseNetwork, data: Data, exp: Experiment) -> Tensor:
    """|w·∂L/∂w|, L the mean loss of all training images in evaluation mode (He et al. take one batch)."""
    net.model.eval()
    total = torch.zeros_like(net.weights)
    for part in torch.arange(len(data.train), device=total.device).split(1000):
        logits = net.model(data.train.normalise(data.train.images[part]))
        net.backward(F.cross_entropy(logits, data.train.labels[part], reduction="sum") / len(data.train))
        total += net.vector.grad[: len(total)]
    return (net.weights * total).abs()


def random(net: SparseNetwork, data: Data, exp: Experiment) -> Tensor:
    """Drawn anew at each level; of one-shot pruning, whose levels all start from the dense network, once for all."""
    return torch.rand(len(net.mask), generator=generator(exp.seed, "criterion", net.remaining)).to(net.mask.device)


CRITERIA: dict[str, Callable[[SparseNetwork, Data, Experiment], Tensor]] = {
    "magnitude": magnitude,
    "gradient": gradient,
    "random": random,
}
"""By the name that ``criterion`` gives: the score of each prunable weight, (N,); the lowest are pruned."""


def prune(net: SparseNetwork, exp: Experiment, level: int, data: Data) -> None:
    """Remove the surviving weights with the lowest scores, over all layers together, until round(N·(1 −
    prune_share)^level) are left (paper, Sec. 3): rounding does not accumulate. Ties go by position.

    Of structured pruning it is units, until at most so many weights are left. Raises ConfigError when there are none.
    """
    score = CRITERIA[exp.criterion](net, data, exp).detach()
    if exp.structure == "units":
        before, links = net.remaining, unit_links(net.model)
        while net.remaining > kept(net, exp, level) or net.remaining == before:
            _remove_worst_unit(net, score, links)
        net.apply_mask()
        return
    order = torch.argsort(torch.where(net.mask.bool(), score, -torch.inf), stable=True)  # the pruned ones come first
    net.mask[order[: len(net.mask) - kept(net, exp, level)]] = 0
    net.apply_mask()


def _remove_worst_unit(net: SparseNetwork, score: Tensor, links: list[tuple[str, str]]) -> None:
    """Mask, in the layer that has the largest share of its units left, the one whose surviving incoming weights have
    the lowest mean score, and what reads it: were units compared over all layers, those of the layer with the smallest
    weights would all go first. Of each layer one unit stays. Raises ConfigError when no more can go."""
    masks, scores = net.by_layer(net.mask), net.by_layer(score)
    left = {maker: masks[maker].flatten(1).sum(1) for maker, _ in links}
    units = {maker: int(weights.count_nonzero()) for maker, weights in left.items()}
    maker = _thickest(net, units)
    if units[maker] < 2:
        raise ConfigError("levels: no layer has a unit more to prune; give fewer")
    mean = (scores[maker] * masks[maker]).flatten(1).sum(1) / left[maker]
    unit = mean.nan_to_num(torch.inf).argmin()  # nan: it has gone
    masks[maker][unit] = 0
    between = masks[dict(links)[maker]].flatten(1).unflatten(1, (len(masks[maker]), -1))  # (readers, units, weights)
    between[:, unit] = 0


def _thickest(net: SparseNetwork, units: dict[str, int]) -> str:
    """The layer that has the largest share of its units left, of those that have more than one, if any has."""
    return max(units, key=lambda maker: units[maker] / len(net.layers[maker].weight) * (units[maker] > 1))


def kept(net: SparseNetwork, exp: Experiment, level: int) -> int:
    """How many prunable weights ``level`` leaves."""
    return round(len(net.mask) * (1 - exp.prune_share) ** level)


def check_left(net: SparseNetwork, exp: Experiment, level: int, left: int) -> None:
    """Raise ValueError unless pruning can leave so many weights at ``level``: ``kept``, or fewer where units go."""
    most = kept(net, exp, level)
    if not (0 < left <= most if exp.structure == "units" and level else left == most):
        raise ValueError(f"has {left} of {len(net.mask)} weights left, and level {level} leaves {most}")


def check_levels(net: SparseNetwork, exp: Experiment) -> None:
    """Raise ConfigError unless every level leaves some weights, and visibly fewer than the one before."""
    links = unit_links(net.model) if exp.structure == "units" else []
    every = {maker: len(net.layers[maker].weight) for maker, _ in links}
    units, left = every, len(net.mask)
    for level in range(1, exp.levels + 1):
        before, left = left, kept(net, exp, level)
        if links:  # how many units go does not depend on their scores
            units, most = dict(every if exp.one_shot else units), left if exp.one_shot else min(left, before - 1)
            while all(units.values()) and (there := _weights_of(net, links, units)) > most:
                units[_thickest(net, units)] -= 1
            left = there if all(units.values()) else before
        if left < 1 or before - left < RESOLUTION * len(net.mask):
            there = f"there is hardly anything left to prune: {before} of {len(net.mask)} weights"
            raise ConfigError(f"levels: after {level - 1} of {exp.levels} {there}; give fewer")


def _weights_of(net: SparseNetwork, links: list[tuple[str, str]], units: dict[str, int]) -> int:
    """How many weights are left where each maker has so many units."""
    left = dict(zip(net.layers, net.sizes, strict=True))
    for maker, reader in links:
        for name in (maker, reader):
            left[name] = left[name] * units[maker] // len(net.layers[maker].weight)
    return sum(left.values())


def rewind(net: SparseNetwork, exp: Experiment, level: int) -> SparseNetwork:
    """The network to train after a pruning, by ``exp.retrain``.

    ``lr``, learning-rate rewinding, keeps the weights, since every level has a fresh schedule; ``init`` sets all
    parameters to their initial values; ``random`` draws new ones at each level (He et al.). Pruned weights stay zero.
    """
    if exp.retrain == "lr":
        return net
    rewound = new_network(exp, net.vector.device, draw=0 if exp.retrain == "init" else level)
    rewound.mask.copy_(net.mask)
    rewound.apply_mask()
    return rewound
