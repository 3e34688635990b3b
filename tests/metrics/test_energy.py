"""The meter measures, estimates or says why it cannot; it never stops a run."""

import os
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pandas as pd
import psutil
import pytest
import torch

from sdd_utils.metrics import energy
from sdd_utils.metrics.energy import EnergyMeter
from sdd_utils.runner.run import level_cost, run_experiment


def a_record(gpus):
    parts = {"cpu_energy": 4.0, "gpu_energy": 2.0 * gpus, "ram_energy": 1.0}
    total = sum(parts.values())
    return SimpleNamespace(**parts, energy_consumed=total, emissions=total / 10, duration=1e-9)


def codecarbon(monkeypatch, hardware=("CPU(Cpu Load)",), gpus=0, fails_in=None, error=PermissionError):
    """Put a tracker in codecarbon's place that fails in one of its methods."""

    class Tracker:
        def __init__(self, **settings):
            self._hardware, self.settings = hardware, settings
            self.call("__init__")

        def call(self, method):
            if method == fails_in:
                raise error("no counter, no network, no permission")

        def start_task(self, name):
            self.call("start_task")

        def stop_task(self):
            self.call("stop_task")
            return a_record(gpus)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    module = ModuleType("codecarbon")
    if fails_in != "import":
        module.OfflineEmissionsTracker = Tracker
    monkeypatch.setitem(sys.modules, "codecarbon", module)


def read(meter):
    meter.start("level")
    return meter.stop()


def test_what_failed_is_not_charged_to_what_comes_after_it(monkeypatch):
    codecarbon(monkeypatch)
    meter, asked = EnergyMeter(), []
    monkeypatch.setattr(meter.tracker, "call", asked.append)
    meter.start("a level that diverges")
    read(meter)
    assert asked == ["start_task", "stop_task", "start_task", "stop_task"]  # codecarbon ignores a second start


def test_the_tracker_is_told_the_country_and_charges_each_process_for_itself(monkeypatch):
    codecarbon(monkeypatch)
    monkeypatch.setenv("SDD_COUNTRY", "DEU")
    settings = EnergyMeter().tracker.settings
    assert (settings["country_iso_code"], settings["tracking_mode"]) == ("DEU", "process")


def test_a_workers_meter_knows_how_many_train_beside_it(monkeypatch):
    codecarbon(monkeypatch)
    monkeypatch.setenv(energy.AT_A_TIME, "6")
    monkeypatch.setenv(energy.ON_ONE_GPU, "2")
    meter = energy.energy_meter.__wrapped__("cpu")
    assert (meter.at_a_time, meter.on_one_gpu) == (6, 2)


def test_the_real_tracker_measures_or_says_why_not():
    meter = EnergyMeter()
    meter.start("level")
    torch.rand(500, 500) @ torch.rand(500, 500)
    record = meter.stop()
    assert record["energy_source"].startswith("not measured: ") or record["energy_consumed"] > 0


def test_what_is_set_for_codecarbon_elsewhere_changes_nothing(tmp_path, monkeypatch):
    """Its files in the home and in the working folder, and its variables, are for other programs."""
    plain = vars(EnergyMeter().tracker)
    (tmp_path / ".codecarbon.config").write_text("[codecarbon]\npue = 1.58\nforce_ram_power = 9\nsave_to_file = true\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CODECARBON_FORCE_CPU_POWER", "500")
    monkeypatch.setenv("CODECARBON_ELECTRICITYMAPS_API_TOKEN", "token")
    tracker = vars(EnergyMeter().tracker)
    names = ["_pue", "_wue", "_force_cpu_power", "_force_ram_power", "_electricitymaps_api_token", "_save_to_file"]
    assert [tracker[name] for name in names] == [plain[name] for name in names]
    settings = {name for name, value in plain.items() if isinstance(value, (str, float, bool, type(None)))}
    changing = {"run_id", "_experiment_id", "_start_time", "_last_measured_time"}
    assert {n for n in settings - changing if tracker[n] != plain[n]} == set()


@pytest.mark.parametrize(
    ("fails_in", "why"),
    [
        ("import", "ImportError"),
        ("__init__", "PermissionError"),
        ("start_task", "PermissionError"),
        ("stop_task", "PermissionError"),
    ],
)
def test_a_tracker_that_fails_costs_a_run_nothing_but_its_columns(small, tmp_path, monkeypatch, fails_in, why):
    codecarbon(monkeypatch, fails_in=fails_in)
    energy.energy_meter.cache_clear()
    table = pd.read_csv(run_experiment(small(), tmp_path) / "levels.csv")
    energy.energy_meter.cache_clear()
    assert len(table) == 5
    assert table["energy_kwh"].isna().all()
    assert table["emissions_kg"].isna().all()
    assert set(table["energy_source"]) == {f"not measured: {why}"}
    assert (table["seconds"] > 0).all()


def test_a_tracker_that_failed_is_not_asked_again(monkeypatch):
    codecarbon(monkeypatch, fails_in="start_task")
    meter = EnergyMeter()
    read(meter)
    codecarbon(monkeypatch)
    assert read(meter) == {"energy_source": "not measured: PermissionError"}


SOURCES = [
    (("RAM()", "CPU(Cpu Load)"), 0, "estimated from TDP"),
    (("RAM()", "CPU(AMD EPYC > 8W [generic])"), 0, "estimated from TDP"),
    (("RAM()", "CPU(Intel Rapl)"), 0, "measured"),
    (("RAM()", "CPU(Cpu Load)", "GPU (NVIDIA H100)"), 1, "GPU measured, processor estimated from TDP"),
    (("RAM()", "CPU(Intel Rapl)", "GPU (NVIDIA H100)"), 1, "measured"),
]


@pytest.mark.parametrize(("hardware", "gpus", "source"), SOURCES)
def test_the_source_says_what_was_measured(monkeypatch, hardware, gpus, source):
    codecarbon(monkeypatch, hardware, gpus)
    assert read(EnergyMeter("cuda" if gpus else "cpu:0"))["energy_source"] == source


@pytest.mark.parametrize(("device", "gpus"), [("cpu", []), ("cuda", ["3"]), ("cuda:1", ["5"])])
def test_of_many_gpus_only_the_one_that_trains_is_read(monkeypatch, device, gpus):
    codecarbon(monkeypatch)
    assert EnergyMeter(device).tracker.settings["gpu_ids"] == gpus


def test_a_run_on_a_gpu_that_cannot_be_read_has_no_energy(monkeypatch):
    codecarbon(monkeypatch, gpus=0)
    assert read(EnergyMeter("cuda")) == {"energy_source": "not measured: GPU"}


@pytest.mark.parametrize(
    ("cpu", "own"), [("CPU(Cpu Load)", 4.0 + 1.0 + 2.0 / 2), ("CPU(Intel Rapl)", 4.0 / 6 + 1.0 + 2.0 / 2)]
)
def test_counters_of_whole_devices_are_shared_among_experiments(monkeypatch, cpu, own):
    """codecarbon charges this process with its own share of the processor only where it estimates."""
    codecarbon(monkeypatch, (cpu,), gpus=1)
    record = read(EnergyMeter("cuda", at_a_time=6, on_one_gpu=2))
    assert record["energy_consumed"] == pytest.approx(own)
    assert record["emissions"] == pytest.approx(own / 10)


def test_a_level_with_a_gap_in_its_measurement_has_no_energy():
    measured = {"level": 3, "seconds": 2.0, "energy_consumed": 1.0, "emissions": 0.1, "energy_source": "measured"}
    failed = {"level": 3, "seconds": 1.0, "energy_source": "not measured: OSError"}
    cost = level_cost([measured, failed, measured | {"level": 4}], 3)
    assert cost["seconds"] == 3.0
    assert pd.isna(cost["energy_kwh"])
    assert cost["energy_source"] == "measured; not measured: OSError"


def test_what_runs_beside_a_level_does_not_make_it_dearer():
    """Half a second of a processor costs the same, whether it takes half a second or, beside others, twice as long."""

    def charged_for_half_a_second():
        meter.start("level")
        began, until = time.time(), time.process_time() + 0.5
        while time.process_time() < until:
            pass
        return meter.stop().get("energy_consumed"), time.time() - began

    meter = EnergyMeter()
    charged_for_half_a_second()  # the first reading of a process knows no time before it
    if meter.source != "estimated from TDP":
        pytest.skip(f"energy is {meter.source} here")
    alone, _ = charged_for_half_a_second()
    # Not as children of this process, which codecarbon would count to it.
    spin = f"{sys.executable} -c 'import time\nwhile time.process_time() < 600: pass' > /dev/null & echo $!"
    started = [subprocess.check_output(["sh", "-c", spin], text=True) for _ in range(2 * os.cpu_count())]
    rivals = [psutil.Process(int(number)) for number in started]
    try:
        while any(rival.cpu_times().user < 0.1 for rival in rivals):
            time.sleep(0.01)
        beside, took = charged_for_half_a_second()
    finally:
        for rival in rivals:
            rival.kill()
    assert took > 0.75
    assert beside == pytest.approx(alone, rel=0.05)
