"""A profile as a notebook uses it: train what is missing, or read the committed reference; show and save figures."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sdd_utils.analysis.curves import of_settings
from sdd_utils.analysis.methods import METHODS
from sdd_utils.errors import ConfigError, Damaged, ResultsMissing, SweepStopped, TrainingStopped
from sdd_utils.files import read_csv, write_bytes
from sdd_utils.plots import figures, tuning
from sdd_utils.plots.panels import as_bytes, use_style
from sdd_utils.profiles import load_profile, select
from sdd_utils.runner.integrity import finished
from sdd_utils.runner.inventory import collect, levels_done
from sdd_utils.runner.stopping import parse_duration
from sdd_utils.tables import RUNS, WEIGHT_COLUMNS, load_deployment, load_levels, load_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sdd_utils.config import Experiment

ALL = "all"  # in place of a dataset's name: every dataset of the profile


class Study:
    """One profile, one of its datasets, and where its results are.

    ``results`` is ``"reference"``, and nothing is trained; or ``"runs"``, and ``run`` trains into ``results/runs`` what
    is not there, on ``device`` (``"cpu"``, ``"cuda"``, …) in so many ``workers``, for ``time_budget`` at most
    (``"9m"``, ``"1h30m"``, or seconds); or another folder of runs, as a path. Of several datasets ``""`` is the first,
    ``"all"`` is all. ``only`` selects runs: ``"arch=vit,seed=0"``. Raises ConfigError.
    """

    def __init__(
        self,
        profile: str = "digits",
        results: str | Path = "reference",
        dataset: str = "",
        *,
        device: str = "cpu",
        workers: int | None = None,
        time_budget: str | float | None = None,
        only: str = "",
    ):
        if results not in ("reference", "runs") and os.sep not in str(results) and not isinstance(results, Path):
            raise ConfigError(f'results: should be "reference", "runs" or a path such as ./out (got {results!r})')
        if workers is not None and (type(workers) is not int or not 1 <= workers <= 1000):
            raise ConfigError(f"workers: should be a whole number from 1 to 1000, or None (got {workers!r})")
        if not re.fullmatch(r"[a-z]+(:\d+)?", str(device)):
            raise ConfigError(f'device: should be "cpu", "cuda", "cuda:1" or the like (got {device!r})')
        self.profile, self.device, self.workers = load_profile(profile), device, workers
        self.seconds = parse_duration(time_budget, "time_budget")
        folder = RUNS if results == "runs" else Path(os.path.expanduser(results))
        self.folder = None if results == "reference" else folder / profile
        experiments = self.profile.experiments()
        known = list(dict.fromkeys(exp.dataset for exp in experiments))
        if dataset not in ("", ALL, *known):
            raise ConfigError(f"dataset: there is no {dataset!r} in {profile}; there are {', '.join(known)}")
        self.dataset = dataset if dataset == ALL else dataset or known[0]
        self._experiments = [exp for exp in select(experiments, only) if self.dataset in (ALL, exp.dataset)]
        use_style()

    def experiments(self, *methods: str) -> pd.DataFrame:
        """What there is to train, one row a setting: its runs, their levels (done/all), minutes of one core.

        ``methods`` are those of ``run``. Minutes are what the committed reference took; nan where it lacks such runs or
        is damaged.
        """
        try:
            by_run = self._reference.groupby("run_id")["seconds"]
            took, held = by_run.sum() / 60, by_run.size()
        except (ResultsMissing, Damaged):
            took, held = {}, {}
        keys, rows = ["dataset", "arch", "ε", "method", "λ", "teacher", "τ", "α"], []
        for exp in self._select(methods):
            done = levels_done(self.folder / exp.run_id) if self.folder else held.get(exp.run_id, 0)
            setting = [exp.dataset, exp.arch, exp.noise_rate, exp.method, exp.weight_decay]
            setting += [exp.teacher.rule, exp.temperature, exp.alpha] if exp.teacher else [""] * 3
            rows.append([*setting, 1, done, exp.levels + 1, took.get(exp.run_id)])
        table = pd.DataFrame(rows, columns=[*keys, "runs", "levels", "of", "minutes"]).astype({"minutes": float})
        table = table.groupby(keys, as_index=False, sort=False).sum(min_count=1)
        table["levels"] = [f"{done}/{every}" for done, every in zip(table["levels"], table.pop("of"), strict=True)]
        return table.round({"minutes": 1})

    def run(self, *methods: str) -> pd.DataFrame:
        """Train what is missing of some methods (all by default), and return their levels as ``levels`` does.

        A method is a value of levels.csv's column ``method``, or the rule of a teacher. Teachers come first, and a run
        that was stopped goes on. After ``time_budget``, and when the cell is interrupted, runs save their state. Raises
        TrainingStopped when there is more to do, SweepStopped when a run failed.
        """
        if self.folder is not None:
            self._train(self._select(methods))
        return self.levels(*methods)

    def watch(self, draw: Callable[[pd.DataFrame], object]) -> pd.DataFrame:
        """Train one vanilla curve of ``setting`` in this process, if it is not there, and call ``draw`` with its levels
        after each; return the levels of all that are finished.

        Interrupted, it loses the level that is being trained; called again, it goes on. Of the reference it only reads.
        Raises as ``run_experiment`` does.
        """
        setting = self.setting
        if self.folder is None:
            return of_settings(self.levels("vanilla"), [(setting["arch"], setting["noise_rate"])])
        mine = [exp for exp in self._select(("vanilla",)) if _setting(exp) == setting]
        from tqdm import tqdm

        from sdd_utils.runner.run import run_experiment

        with tqdm(total=mine[0].levels + 1, initial=levels_done(self.folder / mine[0].run_id), unit="level") as bar:
            run_experiment(mine[0], self.folder, self.device, after_level=lambda levels: (bar.update(), draw(levels)))
        return collect([exp for exp in mine if finished(exp, self.folder)], self.folder)

    def levels(self, *methods: str) -> pd.DataFrame:
        """The levels of finished curves, in the columns of levels.csv. Raises ResultsMissing where one is not there; of
        the reference, which may hold a part of its profile, where none is."""
        chosen = self._select(methods)
        if self.folder is None:
            levels = self._reference[self._reference["run_id"].isin([exp.run_id for exp in chosen])]
            if chosen and levels.empty:
                what = f"none of these {len(chosen)} runs is in the reference of {self.profile.profile}"
                raise ResultsMissing(f'{what}: was the profile changed? results = "runs" trains them')
            return levels.reset_index(drop=True)
        if missing := [exp.run_id for exp in chosen if not finished(exp, self.folder)]:
            what = f"{len(missing)} of {len(chosen)} runs of {self.profile.profile} are not finished ({missing[0]}, …)"
            how = f"the notebooks that train do, or python -m sdd_utils run --profile {self.profile.profile}"
            raise ResultsMissing(f"{what}; train them first: {how}")
        return collect(chosen, self.folder)

    def weights(self) -> pd.DataFrame:
        """Histograms of undistilled curves' surviving weights, summed over seeds (the reference's over all of them)."""
        levels = self.levels("vanilla", "l2")
        if levels.empty:  # of students alone
            return pd.DataFrame(columns=WEIGHT_COLUMNS)
        if self.folder is None:
            curves = levels[["dataset", "arch", "noise_rate", "weight_decay"]].drop_duplicates()
            return load_weights(self.profile.profile).merge(curves)
        plain = levels[levels["level"] % 3 == 0]  # enough for figures, and a small file
        tables = [read_csv(self.folder / run / "weights.csv").assign(run_id=run) for run in plain["run_id"].unique()]
        weights = plain.merge(pd.concat(tables), on=["run_id", "level"])
        return weights.groupby(WEIGHT_COLUMNS[:-1], as_index=False)["count"].sum()

    def deployment(self) -> pd.DataFrame:
        """Size and speed of exported networks; ``python -m benchmarks deploy`` measures them. Raises ResultsMissing."""
        table = load_deployment(self.profile.profile, self.folder)
        if self.dataset not in (ALL, *(known := table["dataset"].unique())):
            raise ConfigError(f"dataset: there is no {self.dataset!r} in these results; there are {', '.join(known)}")
        return table if self.dataset == ALL else table[table["dataset"] == self.dataset].reset_index(drop=True)

    @property
    def setting(self) -> dict:
        """The architecture and noise rate to show first: the profile's or, where a dataset lacks it, its own first."""
        settings = [_setting(exp) for exp in self._experiments if exp.method == "vanilla"]
        if not settings:
            raise ConfigError("only: it selects no vanilla curve, with which figures begin")
        return self.profile.tour if self.profile.tour in settings else settings[0]

    def figures(self) -> dict[str, Figure]:
        """Every figure of the profile, or those that it lists, by name."""
        levels = self.levels()
        if self.profile.tunes:
            return tuning.figures(levels)
        if self.profile.figures is not None:
            return {name: getattr(figures, name)(levels) for name in self.profile.figures}
        return figures.all_figures(levels, self.weights(), self.setting)

    def save(self, figure: Figure, name: str, folder: Path | None = None) -> None:
        """Write a figure as PNG and PDF beside the runs; of the reference, whose figures are committed, only show it.

        ``folder`` is another place to write to. A figure that shows nothing is not written.
        """
        if not (folder or self.folder) or not figure.axes:
            return
        target = (folder or self.folder / "figures") / (self.dataset if self.profile.datasets else "")
        for suffix, content in as_bytes(figure).items():
            write_bytes(target / f"{name}{suffix}", content)

    def _train(self, chosen: list[Experiment]) -> None:
        from sdd_utils.runner.sweep import train  # it needs torch, as nothing else here does

        outcome = train(chosen, self.folder, device=self.device, workers=self.workers, seconds=self.seconds)
        if outcome.stopped:
            raise TrainingStopped(outcome.stopped)
        if outcome.failed:
            raise SweepStopped("\n".join(f"{run}: {error}" for run, error in outcome.failed.items()))

    def _select(self, methods: tuple[str, ...]) -> list[Experiment]:
        rules = {exp.teacher.rule for exp in self._experiments if exp.teacher}
        known = {"kd", *METHODS, *rules, *(exp.method for exp in self._experiments)}
        if unknown := set(methods) - known:
            raise ConfigError(f"methods: there is no {min(unknown)!r}; there are {', '.join(sorted(known))}")
        pairs = {(METHODS[name].method, METHODS[name].teacher) for name in methods if name in METHODS}
        found = ((exp, exp.teacher.rule if exp.teacher else "none") for exp in self._experiments)
        return [e for e, rule in found if not methods or {e.method, rule} & set(methods) or (e.method, rule) in pairs]

    @cached_property
    def _reference(self) -> pd.DataFrame:
        return load_levels(self.profile.profile)


def studies(profiles: list[str], results: str | Path = "reference", **how: str | float | None) -> dict[str, Study]:
    """A Study of each of several profiles, by name. Raises ConfigError."""
    if not isinstance(profiles, list) or not profiles:
        raise ConfigError(f"profiles: should be a list of names of profiles (got {profiles!r})")
    return {name: Study(name, results, **how) for name in profiles}


def _setting(exp: Experiment) -> dict:
    return {"arch": exp.arch, "noise_rate": exp.noise_rate}
