"""One row of the bench: train a network in one way for some epochs, and time them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from loky import cpu_count
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import conventional
from benchmarks.barrier import Barrier
from sdd_utils.config import Experiment
from sdd_utils.data import Batch, Data, Split, augmented, batches, load, pad
from sdd_utils.evaluation import measure_level
from sdd_utils.execution import Execution, channels_last, prepare
from sdd_utils.metrics.energy import energy_meter
from sdd_utils.pruning import SparseNetwork, new_network, prune
from sdd_utils.seeding import generator
from sdd_utils.training import make_optimizer, make_step, train_step

SECONDS = 1.0
"""A measurement lasts as many epochs as fit into so much time, at least one, after a warm-up."""

WARM_UP_STEPS = 20
"""By then all is compiled, captured and cached; an epoch on CIFAR has hundreds more, and takes the conventional way
seconds."""

READY, TIMED = "ready-", "timed-"  # what experiments that train at a time wait for

NOTHING = Execution()


@dataclass(frozen=True)
class Way:
    """One way to train. The fields are the ingredients; with all of them off it is the conventional way.

    A step on images that come from a DataLoader is not captured, and one on layers with torch's masks not compiled.
    """

    name: str
    resident: bool = True  # images as one tensor on the device; else PIL images from a DataLoader
    loader_workers: int = cpu_count()  # processes of that DataLoader
    vector: bool = True  # one vector of parameters with a mask; else layers and torch.nn.utils.prune
    evaluate_once: bool = True  # after a level; else the test set after every epoch
    side_by_side: bool = True  # an experiment a core, or more than one on a GPU; else one, which has all cores
    deterministic: bool = True  # the same bits every time, also on a GPU; else as torch has it by default
    amp: bool = False
    execution: Execution = NOTHING


@dataclass(frozen=True)
class Row:
    """What is measured: an experiment's training at a level's sparsity, in one of the ways."""

    exp: Experiment
    level: int
    way: Way


@dataclass(frozen=True)
class Timing:
    """Seconds and kWh of an epoch, evaluation included at its share, and the grid's kg of CO₂eq a kWh.

    ``meter_seconds`` is what it takes to start and stop the energy meter, which is done once a level.
    """

    seconds: float
    meter_seconds: float
    kwh: float | None
    kg_per_kwh: float | None


def measure(row: Row, device: str, barrier: Barrier, seed: int) -> Timing:
    """Train some epochs and time them, while the others of the ``barrier`` train as well."""
    try:
        return _measure(row, device, barrier, seed)
    except BaseException:
        for at in (READY, TIMED):
            barrier.arrive(at)  # nobody is to wait for this one
        raise


def _measure(row: Row, device: str, barrier: Barrier, seed: int) -> Timing:
    where, exp = torch.device(device), row.exp.model_copy(update={"amp": row.way.amp})
    prepare(where)
    torch.set_num_threads(1 if row.way.side_by_side else cpu_count())
    if not row.way.deterministic:
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = True, False
        torch.use_deterministic_algorithms(False)
    data = load(exp, where)
    net, teacher = new_network(exp, where), new_network(exp.teacher.experiment, where) if exp.teacher else None
    if row.level:
        prune(net, exp, row.level, data)
    epoch = _epochs(row, exp, net, teacher, data, seed)
    next(epoch)  # the warm-up
    meter = energy_meter(device)
    meter.at_a_time = meter.on_one_gpu = barrier.number
    meter.start("warm-up")  # the first start finds out what there is to read
    meter.stop()
    barrier.wait(READY)
    started = time.perf_counter()
    meter.start("bench")
    begin, count = time.perf_counter(), 0
    while not count or time.perf_counter() - begin < SECONDS:
        next(epoch)
        count += 1
    end = time.perf_counter()
    record = meter.stop()
    seconds, meter_seconds = (end - begin) / count, time.perf_counter() - end + begin - started
    barrier.arrive(TIMED)
    while not barrier.all_are(TIMED):
        next(epoch)  # the others are still being timed beside this one
    if row.way.evaluate_once:
        measure_level(row.level, net, data, exp.amp)
        begin = time.perf_counter()
        measure_level(row.level, net, data, exp.amp)
        seconds += (time.perf_counter() - begin) / exp.epochs
    kwh = record.get("energy_consumed")
    return Timing(seconds, meter_seconds, kwh / count if kwh else None, record["emissions"] / kwh if kwh else None)


def _epochs(row: Row, exp: Experiment, net: SparseNetwork, teacher: SparseNetwork | None, data: Data, seed: int):
    """A generator that trains an epoch at each ``next``, and waits for it; the first time on less, as a warm-up."""
    way, rng, device = row.way, generator(seed, "bench"), net.vector.device
    padded = pad(data.train.images, exp.crop_padding)
    if way.vector:
        model, optimizer = net.model, make_optimizer(net, exp)[0]
    else:
        model = conventional.masked_model(exp, net.mask, device)
        optimizer = conventional.optimizer_of(model, exp)
    if teacher:
        teacher.model.eval()

    def inputs(train: Split, loader: DataLoader | None) -> Iterator[Batch | tuple[Tensor, Tensor]]:
        if loader:
            yield from ((images.to(device), labels.to(device)) for images, labels in loader)
        elif way.vector:
            yield from batches(train, exp, rng)
        else:
            for batch in batches(train, exp, rng):
                images = data.train.normalise(augmented(padded, batch, exp.crop_padding))
                yield images, data.train.labels[batch.index]

    def on_images(given: tuple[Tensor, Tensor]) -> Tensor:
        if way.vector:
            return train_step(net, optimizer, *given, exp, teacher, way.execution)
        images, labels = given
        images = channels_last(images) if way.execution.channels_last else images
        with torch.autocast(device.type, torch.bfloat16, enabled=way.amp):
            return conventional.step(model, optimizer, images, labels, exp, teacher and teacher.model)

    def loaders(train: Split, test: Split) -> tuple[DataLoader | None, DataLoader | None]:
        train_loader = None if way.resident else conventional.loader(train, exp, True, way.loader_workers)
        return train_loader, None if way.evaluate_once else conventional.loader(test, exp, False, way.loader_workers)

    def epoch(train: Split, train_loader: DataLoader | None, test_loader: DataLoader | None) -> None:
        model.train()
        total = torch.zeros((), device=device)
        for given in inputs(train, train_loader):
            total += step(given)
            if not way.resident and not way.vector:
                total.item()  # as the field's scripts do, and wait for the device at every step
        if test_loader:
            conventional.evaluate(model, test_loader, device)
        total.item()  # waits for the device

    on_batch = way.resident and way.vector
    step = make_step(net, data, exp, teacher, optimizer, way.execution) if on_batch else on_images
    short = [warm_up_of(split, exp.batch_size) for split in (data.train, data.test)]
    of_warm_up, of_epochs = loaders(*short), loaders(data.train, data.test)
    yield epoch(short[0], *of_warm_up)
    while True:
        yield epoch(data.train, *of_epochs)


def warm_up_of(split: Split, batch_size: int) -> Split:
    """The first examples of a split: WARM_UP_STEPS batches at most, and the last, smaller one that an epoch has."""
    few = WARM_UP_STEPS * batch_size + len(split) % batch_size
    return replace(split, images=split.images[:few], labels=split.labels[:few], clean=split.clean[:few])


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of a large matrix product of random numbers, all cores or the whole GPU: what the hardware can do."""
    on_gpu = device.type == "cuda"
    n, dtype = (8192, torch.bfloat16) if on_gpu else (2048, torch.float32)
    one, other = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))

    def seconds(product: Callable[[], object]) -> float:
        begin = time.perf_counter()
        product()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    threads = torch.get_num_threads()
    torch.set_num_threads(cpu_count())
    best = min(seconds(lambda: one @ other) for _ in range(20))
    torch.set_num_threads(threads)
    return 2 * n**3 / best
