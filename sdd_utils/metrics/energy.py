"""Energy and emissions, as codecarbon measures or estimates them. Never stops a run, and opens no connection."""

import logging
import os
import time
from functools import cache

from sdd_utils.errors import ConfigError

AT_A_TIME, ON_ONE_GPU = "SDD_AT_A_TIME", "SDD_ON_ONE_GPU"  # where workers find how many share a counter, and a GPU
COUNTERS = ("Rapl", "Gadget", "Emi", "AppleSilicon", "Raspberry")
"""In the names that codecarbon gives to processors whose power it reads; of others it estimates it."""


def country() -> str:
    """Whose grid turns kWh into kg CO₂eq: SDD_COUNTRY, which a cluster's workers learn late; else the authors' own."""
    return os.environ.get("SDD_COUNTRY") or "FRA"


def check_country() -> None:
    """Raise ConfigError unless codecarbon knows the country: it would take the world, and say so in a log alone."""
    if country() == "FRA":  # to ask takes a second
        return
    from codecarbon.input import DataSource

    if country() not in DataSource().get_global_energy_mix_data():
        raise ConfigError(f"SDD_COUNTRY: codecarbon does not know {country()!r}; give an ISO code, such as FRA or DEU")


class EnergyMeter:
    """codecarbon's offline tracker, read once a level.

    ``source`` is ``measured`` (by power counters), ``estimated from TDP`` (design power times this process's time on
    the processor, so that it does not matter what else runs), ``GPU measured, processor estimated from TDP``, or ``not
    measured`` and why. Of the GPUs it reads the one that ``device`` means. Memory is always codecarbon's estimate, 10 W
    or more a process.
    """

    def __init__(self, device: str = "cpu", at_a_time: int = 1, on_one_gpu: int = 1):
        self.device, self.at_a_time, self.on_one_gpu = device, at_a_time, on_one_gpu
        self.source, self.tracker, self.began = "", None, None
        logging.getLogger("codecarbon").disabled = True  # what it has to say would tear the progress bar
        self._try(self._make)

    def _make(self) -> None:
        from codecarbon import OfflineEmissionsTracker

        class Tracker(OfflineEmissionsTracker):
            """Without the settings of ~/.codecarbon.config and CODECARBON_…, which would change our numbers, or ask a
            service on the internet for them."""

            _external_conf = property(lambda self: {}, lambda self, settings: None)

        self.tracker = Tracker(
            country_iso_code=country(),
            gpu_ids=self._gpu_ids(),
            tracking_mode="process",  # workers run side by side: each is charged for itself
            measure_power_secs=3600,  # read at start and stop of a level, not in between
            save_to_file=False,
            allow_multiple_runs=True,
        )

    def _gpu_ids(self) -> list[str]:
        import torch

        from sdd_utils.execution import visible_gpus

        where = torch.device(self.device)
        return [visible_gpus()[where.index or 0]] if where.type == "cuda" else []

    def start(self, name: str) -> None:
        """Begin to measure what is called ``name``."""
        if self.began is not None:
            self.stop()  # of a level that failed, with which codecarbon would go on instead
        if self.tracker:
            self._try(lambda: self.tracker.start_task(name))
            self.began = time.process_time()

    def stop(self) -> dict:
        """codecarbon's record since ``start``, and ``energy_source``; the latter alone when it could not measure.

        What a counter shows of a whole processor or GPU is split evenly among the experiments that train at a time.
        """
        record = self._try(self._read) if self.tracker else None
        self.began = None
        return record or {"energy_source": self.source}

    def _read(self) -> dict | None:
        record = vars(self.tracker.stop_task())
        if not self.device.startswith("cpu") and not record["gpu_energy"]:
            self.source = "not measured: GPU"
            return None
        counted = any(name in str(part) for part in self.tracker._hardware for name in COUNTERS)
        total = own = record["energy_consumed"]
        own -= record["gpu_energy"] * (1 - 1 / self.on_one_gpu)
        # Without a counter memory too by the time on the processor, lest a run is dearer for what runs beside it.
        busy = min((time.process_time() - self.began) / record["duration"], 1)
        own -= record["cpu_energy"] * (1 - 1 / self.at_a_time) if counted else record["ram_energy"] * (1 - busy)
        self.source = "measured" if counted else "estimated from TDP"
        if record["gpu_energy"] and not counted:
            self.source = "GPU measured, processor estimated from TDP"
        emissions = record["emissions"] * (own / total if total else 1.0)
        return record | {"energy_consumed": own, "emissions": emissions, "energy_source": self.source}

    def _try(self, call):
        try:
            return call()
        except Exception as error:  # whatever is missing or forbidden on this machine must not stop a run
            self.tracker, self.source = None, f"not measured: {type(error).__name__}"


@cache
def energy_meter(device: str) -> EnergyMeter:
    """This process's meter: to start a tracker takes seconds, so a worker keeps one for all its experiments."""
    return EnergyMeter(device, int(os.environ.get(AT_A_TIME, 1)), int(os.environ.get(ON_ONE_GPU, 1)))
