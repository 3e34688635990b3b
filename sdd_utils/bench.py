"""How fast we train beside the conventional way, and what each ingredient is worth: ``make bench``.

All rows of a table are measured in one run on one machine, in turn, so that their ratios mean something.
"""

from __future__ import annotations

import math
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from loky import cpu_count
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from sdd_utils import conventional
from sdd_utils.config import Experiment
from sdd_utils.data import Data, Split, augmented, batches, load, pad
from sdd_utils.energy import COUNTRY, energy_meter
from sdd_utils.errors import ConfigError
from sdd_utils.execution import Execution, prepare
from sdd_utils.experiment import measure_level, new_network
from sdd_utils.flops import dense_flops
from sdd_utils.pruning import SparseNetwork
from sdd_utils.results import device_name
from sdd_utils.seeding import generator
from sdd_utils.training import learn, make_optimizer, training_step
from sdd_utils.workers import local_workers

ROUNDS = 3
"""Every row is measured so often, the rows in turn, and its median taken."""

SECONDS = 1.0
"""A measurement lasts as many epochs as fit into so much time, at least one, after a warm-up."""

WARM_UP_STEPS = 20
"""By then all is compiled, captured and cached; an epoch on CIFAR has hundreds more, and takes the conventional way
seconds."""

READY, TIMED = "ready-", "timed-"  # what experiments that train at a time wait for

NOTHING = Execution()


@dataclass(frozen=True)
class Way:
    """One way to train. The fields are the ingredients; with all of them off it is the conventional way."""

    name: str
    resident: bool = True  # images as one tensor on the device; else PIL images from a DataLoader
    loader_workers: int = cpu_count()  # processes of that DataLoader
    vector: bool = True  # one vector of parameters with a mask; else layers and torch.nn.utils.prune
    evaluate_once: bool = True  # after a level; else the test set after every epoch
    side_by_side: bool = True  # an experiment a core, or more than one on a GPU; else one, which has all cores
    amp: bool = False
    execution: Execution = NOTHING


def ways(exp: Experiment, device: torch.device) -> list[Way]:
    """The conventional way, ours, and ours with one ingredient removed in turn."""
    on_gpu = device.type == "cuda"
    execution = Execution.of(device)
    if not on_gpu and exp.facts.image_shape[1] < 32:
        execution = replace(execution, channels_last=False)  # it changes nothing there
    ours = Way("ours", amp=on_gpu, execution=execution)
    without = {
        "without resident images": {"resident": False},
        "without one vector": {"vector": False},
        "without evaluating once a level": {"evaluate_once": False},
        "without experiments side by side": {"side_by_side": False},
    }
    switches = {"channels_last": "channels last", "compiled": "compiling", "graph": "CUDA graph"}
    for field, name in switches.items():
        if getattr(ours.execution, field):
            without[f"without {name}"] = {"execution": replace(ours.execution, **{field: False})}
    if on_gpu:
        without["without bfloat16"] = {"amp": False}
    with_workers = Way("conventional", False, vector=False, evaluate_once=False, side_by_side=False)
    without_workers = replace(with_workers, name="conventional, no workers", loader_workers=0)
    variants = [replace(ours, name=name, **fields) for name, fields in without.items()]
    return [with_workers, without_workers, ours, *variants]


def chosen(experiments: list[Experiment], archs: tuple[str, ...] = ()) -> list[Experiment]:
    """Of each architecture of a profile (or of ``archs``), a vanilla curve and one distilled from a dense teacher.

    Raises ConfigError when there is no such architecture.
    """
    found: dict[tuple[str, str], Experiment] = {}
    for exp in experiments:
        if exp.method == "vanilla" or (exp.teacher and exp.teacher.rule == "dense"):
            found.setdefault((exp.arch, exp.method), exp)
    known = {arch for arch, _ in found}
    if unknown := set(archs) - known:
        raise ConfigError(f"arch: the profile has no {min(unknown)!r}; there are {', '.join(sorted(known))}")
    return [exp for (arch, _), exp in found.items() if arch in (archs or known)]


@dataclass(frozen=True)
class Row:
    """What is measured: an experiment's training at a level's sparsity, in one of the ways."""

    exp: Experiment
    level: int
    way: Way


def rows(experiments: list[Experiment], device: torch.device) -> list[Row]:
    """Every experiment dense and sparse, conventionally and our way; without the ingredients where there is no more."""
    found = []
    for exp in experiments:
        every = ways(exp, device)
        compared, without = every[:3], every[3:]
        found += [Row(exp, level, way) for level in (0, sparse_level(exp)) for way in compared]
        found += [Row(exp, 0, way) for way in without if not exp.teacher]
    return found


def sparse_level(exp: Experiment) -> int:
    """The level closest to 99 % sparsity, which stands for a sparse network: 21 where a level removes 20 %."""
    return round(math.log(0.01, 1 - exp.prune_share))


def bench(
    experiments: list[Experiment], device: str, side_by_side: int | None = None, rounds: int = ROUNDS
) -> pd.DataFrame:
    """The table of ``make bench``, one row a (architecture, method, level, path), where a path is a way to train.

    ``times_conventional`` compares with the faster of the conventional ways, with DataLoader workers or without.

    ``side_by_side`` is how many experiments train at a time where that is an ingredient: by default one for each core,
    or two on a GPU.
    """
    at_once = side_by_side or (2 if torch.device(device).type == "cuda" else cpu_count())
    todo, measured = rows(experiments, torch.device(device)), {}
    rate = matrix_rate(torch.device(device))
    executor = local_workers(at_once)
    with tqdm(total=rounds * len(todo), desc="bench") as bar:
        for turn in range(rounds):
            for row in todo:
                number = at_once if row.way.side_by_side else 1
                with tempfile.TemporaryDirectory() as folder:
                    meeting = Meeting(Path(folder), number)
                    futures = [executor.submit(measure, row, device, meeting, turn * 10 + i) for i in range(number)]
                    wait(futures)
                measured.setdefault(row, []).append([future.result() for future in futures])
                bar.update()
    executor.stop()
    table = pd.DataFrame([_entry(row, turns, rate, device) for row, turns in measured.items()])
    table = table.astype({"kwh_per_epoch": float, "kg_per_kwh": float})  # also where nothing could be measured
    keys = ["arch", "method", "level"]
    base = table[table["path"].str.startswith("conventional")].groupby(keys)["images_per_second"].max()
    return table.assign(times_conventional=table["images_per_second"] / table[keys].join(base, on=keys)[base.name])


def _entry(row: Row, turns: list[list[Timing]], rate: float, device: str) -> dict:
    exp, at_once = row.exp, len(turns[0])
    timings = [timing for turn in turns for timing in turn]
    seconds = median(timing.seconds for timing in timings)  # of one of the experiments that train at a time
    images = at_once * exp.training_images / seconds
    flops = images * dense_flops(exp) / (exp.epochs * exp.training_images)
    energy = [timing.kwh for timing in timings if timing.kwh is not None]
    return {
        "device": device_name(device),
        "dataset": exp.dataset,
        "arch": exp.arch,
        "width": exp.width,
        "method": "distilled" if exp.teacher else "vanilla",
        "level": row.level,
        "path": row.way.name,
        "at_a_time": at_once,
        "images_per_epoch": exp.training_images,
        "seconds_per_epoch": seconds,
        "images_per_second": images,
        "tflops": flops / 1e12,
        "share_of_matrix_rate": flops / rate,
        "hours_per_curve": seconds * exp.epochs * (exp.levels + 1) / at_once / 3600,
        "kwh_per_epoch": median(energy) if energy else None,
        "kg_per_kwh": next((timing.kg_per_kwh for timing in timings if timing.kg_per_kwh), None),
        "country": COUNTRY,
        "meter_share": median(timing.meter_seconds for timing in timings) / (seconds * exp.epochs),
    }


@dataclass(frozen=True)
class Timing:
    """Seconds and kWh of an epoch, evaluation included at its share, and the grid's kg of CO₂eq a kWh.

    ``meter_seconds`` is what it takes to start and stop the energy meter, which is done once a level.
    """

    seconds: float
    meter_seconds: float
    kwh: float | None
    kg_per_kwh: float | None


@dataclass(frozen=True)
class Meeting:
    """Where the experiments that train at a time wait for each other, so that they are timed together."""

    folder: Path
    number: int

    def arrive(self, at: str) -> None:
        """Say that one has come so far."""
        (self.folder / f"{at}{secrets.token_hex(8)}").touch()

    def all_are(self, at: str) -> bool:
        """Whether everyone has."""
        return len(list(self.folder.glob(f"{at}*"))) >= self.number


def measure(row: Row, device: str, meeting: Meeting, seed: int) -> Timing:
    """Train some epochs and time them, while the others of the ``meeting`` train as well."""
    try:
        return _measure(row, device, meeting, seed)
    except BaseException:
        for at in (READY, TIMED):
            meeting.arrive(at)  # nobody is to wait for this one
        raise


def _measure(row: Row, device: str, meeting: Meeting, seed: int) -> Timing:
    where, exp = torch.device(device), row.exp.model_copy(update={"amp": row.way.amp})
    prepare(where)
    torch.set_num_threads(1 if row.way.side_by_side else cpu_count())
    if not row.way.vector and not row.way.resident:  # torch's own defaults, which the field's scripts leave alone
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = True, False
        torch.use_deterministic_algorithms(False)
    data = load(exp, where)
    net, teacher = new_network(exp, data), new_network(exp.teacher.experiment, data) if exp.teacher else None
    if row.level:
        net.prune(row.level, exp.prune_share)
    epoch = _epochs(row, exp, net, teacher, data, seed)
    next(epoch)  # the warm-up
    meter = energy_meter(device)
    meter.at_a_time = meter.on_one_gpu = meeting.number
    meter.start("warm-up")  # the first start finds out what there is to read
    meter.stop()
    meeting.arrive(READY)
    while not meeting.all_are(READY):
        time.sleep(0.001)
    started = time.perf_counter()
    meter.start("bench")
    begin, count = time.perf_counter(), 0
    while not count or time.perf_counter() - begin < SECONDS:
        next(epoch)
        count += 1
    end = time.perf_counter()
    record = meter.stop()
    seconds, meter_seconds = (end - begin) / count, time.perf_counter() - end + begin - started
    meeting.arrive(TIMED)
    while not meeting.all_are(TIMED):
        next(epoch)  # the others are still being timed beside this one
    if row.way.evaluate_once:
        measure_level(net, data, exp.amp)
        begin = time.perf_counter()
        measure_level(net, data, exp.amp)
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

    def inputs(split: Split, loader: DataLoader | None) -> Iterator[tuple[Tensor, Tensor]]:
        if loader is None:
            for batch in batches(split, exp, rng):
                images = data.train.normalise(augmented(padded, batch, exp.crop_padding))
                yield images, data.train.labels[batch.index]
        else:
            for images, labels in loader:
                yield images.to(device), labels.to(device)

    def losses(split: Split, loader: DataLoader | None) -> Iterator[Tensor]:
        if way.resident and way.vector:
            yield from map(step, batches(split, exp, rng))
        elif way.vector:
            for images, labels in inputs(split, loader):
                yield learn(net, optimizer, images, labels, exp, teacher, way.execution)
        else:
            for images, labels in inputs(split, loader):
                yield conventional.step(model, optimizer, images, labels, exp, teacher and teacher.model)

    def epochs(train: Split, test: Split) -> Iterator[None]:
        train_loader = None if way.resident else conventional.loader(train, exp, True, way.loader_workers)
        test_loader = None if way.evaluate_once else conventional.loader(test, exp, False, way.loader_workers)
        while True:
            model.train()
            total = torch.zeros((), device=device)
            for loss in losses(train, train_loader):
                total += loss
                if not way.resident and not way.vector:
                    total.item()  # as the field's scripts do, and wait for the device at every step
            if not way.evaluate_once:
                conventional.evaluate(model, test_loader, device)
            total.item()  # waits for the device
            yield

    step = training_step(net, data, exp, teacher, optimizer, way.execution) if way.resident and way.vector else None
    yield next(epochs(warm_up_of(data.train, exp.batch_size), warm_up_of(data.test, exp.batch_size)))
    yield from epochs(data.train, data.test)


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
