import time
from dataclasses import fields

import pandas as pd
import pytest
import torch
from conftest import HANG, SMALL

from benchmarks import __main__ as command
from benchmarks import conventional, speed, timing
from benchmarks.barrier import Barrier
from benchmarks.device import file_name
from benchmarks.plan import plan
from benchmarks.threads import Threads
from sdd_utils.cli.commands import main
from sdd_utils.config import Experiment
from sdd_utils.errors import REFUSED, ConfigError
from sdd_utils.files import read_csv, write_csv
from sdd_utils.metrics.flops import curve_flops, flop_count


class Meter:
    """Reads one kWh whatever happens, and shares it as the real one does."""

    def start(self, name):
        pass

    def stop(self):
        return {"energy_consumed": 1.0 / self.at_a_time, "emissions": 0.1 / self.at_a_time}


@pytest.fixture(scope="module")
def table():
    loader = conventional.loader

    def here(split, exp, training, workers):
        return loader(split, exp, training, 0)  # processes take time to start

    exp = Experiment.parse(SMALL)
    student = Experiment.parse(
        SMALL | {"teacher": {"rule": "dense", "experiment": exp}, "temperature": 4, "alpha": 0.9}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "SECONDS", 0.0)
        patch.setattr(speed, "local_workers", Threads)
        patch.setattr(timing, "energy_meter", lambda device: Meter())
        patch.setattr(conventional, "loader", here)
        return speed.bench([exp, student], "cpu", side_by_side=2, rounds=1)


def test_every_row_stands_beside_the_conventional_way_of_its_own(table, small):
    keys = ["arch", "method", "level"]
    for _, rows in table.groupby(keys):
        assert {"conventional", "ours"} <= set(rows["path"])
        base = rows.loc[rows["path"].str.startswith("conventional"), "times_conventional"]
        assert len(base) == 2
        assert base.max() == 1.0
    assert len(table.groupby(keys)) == 4  # vanilla and distilled, dense and sparse
    ingredients = table.query("method == 'vanilla' and level == 0 and path.str.startswith('without')")
    assert len(ingredients) == 4
    assert set(table.loc[table["path"].str.startswith("conventional"), "at_a_time"]) == {1}
    rate = table["at_a_time"] * table["images_per_epoch"] / table["seconds_per_epoch"]
    assert rate.tolist() == pytest.approx(table["images_per_second"].tolist())
    plain = table[table["method"] == "vanilla"].iloc[0]
    assert plain["tflops"] == pytest.approx(plain["images_per_second"] * flop_count(small()).step / 1e12)
    assert plain["hours_per_curve"] == pytest.approx(plain["seconds_per_epoch"] * 2 * 5 / 3600)
    assert (table["meter_share"] > 0).all()
    alone = table["at_a_time"] == 1
    assert set(table.loc[alone, "kwh_per_epoch"]) == {1.0}
    assert set(table.loc[~alone, "kwh_per_epoch"]) == {0.5}
    assert table["kg_per_kwh"].tolist() == pytest.approx([0.1] * len(table))


def test_on_a_gpu_every_ingredient_is_removed_in_turn(small):
    exp = small(amp=True)
    conventional, *_, ours = speed.ways(exp, torch.device("cuda"))[:3]
    switches = {field.name for field in fields(timing.Way)} - {"name", "loader_workers", "execution"}
    assert not any(getattr(conventional, switch) for switch in switches)
    assert all(getattr(ours, switch) for switch in switches)
    removed = {}
    for way in speed.ways(exp, torch.device("cuda"))[3:]:
        off = [switch for switch in switches if not getattr(way, switch)]
        removed[way.name] = off + [name for name, on in vars(way.execution).items() if not on]
    assert removed == {
        "without resident images and CUDA graph": ["resident", "graph"],
        "without one vector, compiling and CUDA graph": ["vector", "compiled", "graph"],
        "without evaluating once a level": ["evaluate_once"],
        "without experiments side by side": ["side_by_side"],
        "without channels last": ["channels_last"],
        "without compiling": ["compiled"],
        "without CUDA graph": ["graph"],
        "without bfloat16": ["amp"],
        "without determinism": ["deterministic"],
    }
    without_amp = speed.ways(small(), torch.device("cuda"))  # what does not train so is not timed so
    assert not any(way.amp for way in without_amp)


def test_a_plan_is_the_flops_at_the_speed_of_the_bench(table, small, student):
    exp = small(arch="vgg_like", width=4)  # not measured: the plan has no speed for it
    planned = plan([small(), small(seed=1), student(), exp], table).set_index(["arch", "method"])
    assert planned.loc[("mlp", "vanilla"), "runs"] == 2
    assert planned.loc[("mlp", "vanilla"), "epochs"] == 2 * 5 * 2
    assert planned["PFLOP"].iloc[-1] == pytest.approx(planned["PFLOP"].iloc[:-1].sum())
    (row,) = table.query("method == 'vanilla' and level == 0 and path == 'ours'").itertuples()
    assert planned.loc[("mlp", "vanilla"), "hours"] == pytest.approx(2 * row.hours_per_curve)
    assert planned["hours"].isna().tolist() == [False, False, True, True]  # a sum without a part would be too small
    assert planned.loc[("vgg_like", "vanilla"), "PFLOP"] == pytest.approx(curve_flops(exp) / 1e15)


def test_a_bench_without_a_power_meter_gives_a_plan_without_energy(table, small):
    planned = plan([small()], table.assign(kwh_per_epoch=float("nan"), kg_per_kwh=float("nan")))
    assert planned["hours"].notna().all()
    assert planned[["kWh", "kg CO2eq"]].isna().all(axis=None)


def test_the_bench_takes_one_curve_of_each_kind_and_refuses_what_is_not_there(small, student):
    experiments = [small(seed=s, arch=a, width=8) for a in ("mlp", "resnet18") for s in (0, 1)] + [
        student(),
        student("sparse"),
        student().model_copy(update={"patience": 5}),
    ]
    assert [(e.arch, e.method, e.seed) for e in speed.chosen(experiments)] == [
        ("mlp", "vanilla", 0),
        ("resnet18", "vanilla", 0),
        ("mlp", "kd", 0),
    ]
    assert {e.arch for e in speed.chosen(experiments, ("resnet18",))} == {"resnet18"}
    with pytest.raises(ConfigError, match="arch: the profile has no 'vit'; there are mlp, resnet18"):
        speed.chosen(experiments, ("vit",))


def test_measuring_one_architecture_again_leaves_the_others(table, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "BENCH", tmp_path / "bench")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    path = tmp_path / "bench" / file_name(table["device"].iat[0])
    path.parent.mkdir()
    write_csv(path, pd.concat([table, table.assign(arch="vit")]))
    monkeypatch.setattr(command, "bench", lambda *_: table.assign(seconds_per_epoch=7.0))
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed", "--profile", "smoke", "--arch", "mlp"])
    main(command.benchmarks)
    after = read_csv(path)
    assert set(after.query("arch == 'mlp'")["seconds_per_epoch"]) == {7.0}
    assert after.query("arch == 'vit'")["tflops"].tolist() == pytest.approx(table["tflops"].tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "column"),
    [
        (["speed", "--arch", "mlp"], "dataset"),  # noticed before hours of measuring, not after
        (["plan"], "tflops"),
        (["plan", "--devices", "1,8"], "at_a_time"),
    ],
)
def test_a_bench_without_a_column_is_refused_by_name_before_anything_is_measured(
    table, tmp_path, monkeypatch, capsys, arguments, column
):
    monkeypatch.setattr(command, "BENCH", tmp_path / "bench")
    monkeypatch.setattr("benchmarks.plan.REFERENCE", tmp_path)
    path = tmp_path / "bench" / file_name(table["device"].iat[0])
    write_csv(path, table.drop(columns=column))
    monkeypatch.setattr(command, "bench", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments, "--profile", "smoke"])
    with pytest.raises(SystemExit):
        main(command.benchmarks)
    assert capsys.readouterr().err == f"error: {path}: column {column} is missing\n"


def test_experiments_at_a_time_are_timed_together_and_one_that_fails_holds_nobody_up(small, tmp_path, monkeypatch):
    row = next(row for row in speed.rows([small()], torch.device("cpu")) if row.way.name == "ours")
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    monkeypatch.setattr(timing, "energy_meter", lambda device: Meter())
    barrier, executor = Barrier(tmp_path, 2), Threads(2)
    first = executor.submit(timing.measure, row, "cpu", barrier, 0)
    while not list(tmp_path.glob(f"{timing.READY}*")):
        assert not first.done()
        time.sleep(0.01)
    assert not first.done()  # it is ready, and alone
    monkeypatch.setattr(timing, "load", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        executor.submit(timing.measure, row, "cpu", barrier, 1).result()
    assert first.result(timeout=HANG).seconds > 0


@pytest.mark.parametrize("name", ["speed", "scale", "plan"])
def test_a_device_that_there_is_not_is_refused(monkeypatch, capsys, name):
    monkeypatch.setattr("sys.argv", ["benchmarks", name, "--profile", "smoke", "--device", "gpu"])
    with pytest.raises(SystemExit) as end:
        main(command.benchmarks)
    assert end.value.code == REFUSED
    assert "error: device: 'gpu'" in capsys.readouterr().err
