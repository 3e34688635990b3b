"""Profiles: which experiments to run, as data (``notebooks/profiles/<name>.yaml``)."""

from itertools import product
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, model_validator

from sdd_utils.config import ConfigError, Experiment, Settings
from sdd_utils.results import ROOT

PROFILES = ROOT / "notebooks" / "profiles"


class Regularisation(Settings):
    """Curves with other penalties than the regular λ."""

    noise_rates: list[float]
    weight_decays: list[float]


class Distillation(Settings):
    """Students of the vanilla curves: every combination of the lists."""

    noise_rates: list[float]
    teachers: list[Literal["sparse", "dense"]]
    temperatures: list[float]
    alphas: list[float]


class Architecture(Settings):
    """All curves of one architecture."""

    settings: dict  # fields of Experiment that this architecture sets
    seeds: int = Field(ge=1)
    noise_rates: list[float]  # of the vanilla curves
    l2: Regularisation | None = None
    distillation: Distillation | None = None


class Profile(Settings):
    """A named grid of experiments."""

    profile: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    about: str
    tour: dict  # the setting (arch, noise_rate) that the first notebook and the README show
    base: dict  # fields of Experiment common to all
    architectures: dict[str, Architecture]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, plan in self.architectures.items():
            if reserved := {"arch", "seed", "noise_rate", "teacher"} & {*self.base, *plan.settings}:
                raise ValueError(f"architectures.{name}: {min(reserved)} is set by the grid, not in base or settings")
        shown = self.architectures.get(self.tour.get("arch"))
        if self.tour.keys() != {"arch", "noise_rate"} or not shown or self.tour["noise_rate"] not in shown.noise_rates:
            raise ValueError(f"tour: {self.tour} must be the arch and noise_rate of a vanilla curve of this profile")
        return self

    @property
    def tunes(self) -> bool:
        """Whether a setting has several students, to choose τ and α from."""
        plans = [plan.distillation for plan in self.architectures.values() if plan.distillation]
        return any(len(plan.temperatures) * len(plan.alphas) > 1 for plan in plans)

    def experiments(self) -> list[Experiment]:
        """Every experiment, each once. Raises ConfigError naming the architecture and the field that is wrong."""
        found = [exp for name in self.architectures for exp in self._of_architecture(name)]
        seen: dict[str, Experiment] = {}
        for exp in found:
            if exp.run_id in seen:
                raise ConfigError(f"{self.profile}: {exp.run_id} is described twice")
            seen[exp.run_id] = exp
        return found

    def _of_architecture(self, name: str) -> list[Experiment]:
        plan = self.architectures[name]

        def experiment(seed: int, rate: float, **fields) -> Experiment:
            settings = self.base | plan.settings | {"arch": name, "seed": seed, "noise_rate": rate} | fields
            return Experiment.parse(settings, f"{self.profile}: architectures.{name}: ")

        found = []
        for seed in range(plan.seeds):
            found += [experiment(seed, rate) for rate in plan.noise_rates]
            if plan.l2:
                grid = product(plan.l2.noise_rates, plan.l2.weight_decays)
                found += [experiment(seed, rate, weight_decay=decay) for rate, decay in grid]
            if plan.distillation:
                d = plan.distillation
                for rate, rule, temperature, alpha in product(d.noise_rates, d.teachers, d.temperatures, d.alphas):
                    teacher = {"rule": rule, "experiment": experiment(seed, rate)}
                    found.append(experiment(seed, rate, teacher=teacher, temperature=temperature, alpha=alpha))
        return found


def load_profile(name: str) -> Profile:
    """Read ``notebooks/profiles/<name>.yaml``. Raises ConfigError naming the file and the field that is wrong."""
    path = PROFILES / f"{name}.yaml"
    known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"profile: there is no {name!r}; known are {', '.join(known)} (in {_shown(PROFILES)})")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{_shown(path)}: not YAML: {' '.join(str(error).split())}") from None
    profile = Profile.parse(settings, f"{_shown(path)}: ")
    if profile.profile != name:
        raise ConfigError(f"{_shown(path)}: profile: is {profile.profile!r}, but the file is called {name!r}")
    return profile


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))
