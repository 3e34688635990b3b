"""Profiles: which experiments to run, as data (``notebooks/profiles/<name>.yaml``)."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sdd_utils.config import Experiment, architecture_named
from sdd_utils.distillation import TEACHERS
from sdd_utils.errors import ConfigError
from sdd_utils.files import ROOT
from sdd_utils.plain_yaml import PlainYaml
from sdd_utils.settings import PROFILE_NAME, Count, Number, Settings, Share, entry_of

PROFILES = ROOT / "notebooks" / "profiles"
ALIKE = ("levels", "prune_share", "structure", "one_shot", "prune_depthwise", "noise_kind", "human_labels", "val_share")
BY_THE_GRID = {"arch", "seed", "noise_rate", "teacher"}  # fields of Experiment, and of students more
MOST_RUNS = 10_000  # of a profile

Rates = Annotated[list[Share], Field(min_length=1)]


def as_list(value: object) -> object:
    """What stands without a list, as one."""
    return [value] if isinstance(value, dict) else value


class Dataset(Settings):
    """One of several datasets: all curves of the profile, with what differs."""

    settings: dict = Field(default_factory=dict)  # fields of Experiment that this dataset sets
    noise_rates: Rates | None = None  # in place of the architectures' own, since people's noise is what it is


Numbers = Annotated[list[Number], Field(min_length=1)]  # of a grid, which without any would be empty
Differences = Annotated[list[dict[str, Any]], Field(min_length=1), BeforeValidator(as_list)]  # each: fields that differ


class Regularisation(Settings):
    """Curves with other penalties than the regular λ."""

    noise_rates: Rates
    weight_decays: Numbers


class Variant(Settings):
    """Curves without a teacher and with other settings, such as a regulariser."""

    noise_rates: Rates
    settings: Differences  # from the vanilla curves


class Distillation(Settings):
    """Students of the vanilla curves, or of the variant that a rule asks for: every combination of the lists."""

    teacher_arch: str | None = None  # another architecture of the profile; None: the student's own
    settings: Differences = Field(default_factory=lambda: [{}])  # of the students from the vanilla curves
    noise_rates: Rates
    teachers: Annotated[list[Annotated[str, entry_of("distillation", "TEACHERS")]], Field(min_length=1)]
    temperatures: Numbers
    alphas: Numbers


class Architecture(Settings):
    """All curves of one architecture."""

    settings: dict  # fields of Experiment that this architecture sets
    seeds: Count
    noise_rates: list[Share]  # of the vanilla curves
    l2: Regularisation | None = None
    variants: Annotated[list[Variant], BeforeValidator(as_list)] = Field(default_factory=list)
    distillation: Annotated[list[Distillation], BeforeValidator(as_list)] = Field(default_factory=list)


class Profile(Settings):
    """A named grid of experiments."""

    profile: str = Field(pattern=PROFILE_NAME)
    about: str
    tour: dict  # the setting (arch, noise_rate) that the first notebook and the README show
    base: dict  # fields of Experiment common to all
    datasets: dict[str, Dataset] | None = None  # when there are several; one alone is in base
    architectures: dict[Annotated[str, AfterValidator(architecture_named)], Architecture]
    selection: Literal["validation", "test"] = "validation"  # what picks the sparse teachers
    figures: list[Literal["baseline", "l2_sweep", "distillation", "remedies"]] | None = None  # None: all there are

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        several, students = {"dataset"} if self.datasets else set(), {"temperature", "alpha", "selection"}
        for where, settings in self._settings():
            taken = BY_THE_GRID | several | (students if ".distillation." in where else set())
            if both := taken & settings.keys():
                raise ValueError(f"{where}.{min(both)}: is set by the grid, and cannot be set here")
        for name, plan in self.architectures.items():
            if unknown := {d.teacher_arch for d in plan.distillation} - {None, *self.architectures}:
                where = f"architectures.{name}.distillation.teacher_arch"
                raise ValueError(f"{where}: {min(unknown)!r} is not in the profile")
        shown = self.architectures.get(str(self.tour.get("arch")))
        if self.tour.keys() != {"arch", "noise_rate"} or not shown or self.tour["noise_rate"] not in shown.noise_rates:
            raise ValueError(f"tour: {self.tour} must be the arch and noise_rate of a vanilla curve of this profile")
        return self

    def _settings(self) -> Iterator[tuple[str, dict]]:
        """All places where fields of Experiment are set, by their names."""
        yield "base", self.base
        for name, dataset in (self.datasets or {}).items():
            yield f"datasets.{name}.settings", dataset.settings
        for name, plan in self.architectures.items():
            yield f"architectures.{name}.settings", plan.settings
            for kind in ("variants", "distillation"):
                for place, one in enumerate(getattr(plan, kind)):
                    where = f"architectures.{name}.{kind}.{place}.settings"
                    yield from ((where, settings) for settings in one.settings)

    @property
    def tunes(self) -> bool:
        """Whether a setting has several students, to choose τ and α from."""
        return any(len(d.temperatures) * len(d.alphas) > 1 for d in self._students)

    @property
    def distils(self) -> bool:
        """Whether there are students that are trained to the end, as the vanilla curves are."""
        return any("patience" not in settings for d in self._students for settings in d.settings)

    @property
    def _students(self) -> list[Distillation]:
        return [d for plan in self.architectures.values() for d in plan.distillation]

    def experiments(self) -> list[Experiment]:
        """Every experiment, each once. Raises ConfigError naming the architecture and the field that is wrong."""
        datasets = self.datasets or {None: Dataset()}
        every = (exp for name in datasets for arch in self.architectures for exp in self._curves(arch, name))
        found = list(islice(every, MOST_RUNS + 1))
        if not found:
            raise ConfigError(f"{self.profile}: architectures: make no run; give noise_rates")
        if len(found) > MOST_RUNS:
            where, seeds = f"{self.profile}: architectures.{found[-1].arch}", self.architectures[found[-1].arch].seeds
            raise ConfigError(f"{where}: seeds: {seeds}, times its lists, make more than {MOST_RUNS} runs; give fewer")
        self._check_together(found)
        return found

    def _check_together(self, found: list[Experiment]) -> None:
        """Raise ConfigError where two curves of a setting differ in nothing that tables and figures tell apart, where
        one has no vanilla curve to be compared with level by level, and where a student's teacher is not among them."""
        seen: set[str | tuple] = set()
        plain = {(e.dataset, e.arch, e.noise_rate, e.seed): e for e in found if e.method == "vanilla"}
        for e in found:
            where, at = f"{self.profile}: architectures.{e.arch}: ", f"at ε = {e.noise_rate:g}"
            if e.run_id in seen:
                raise ConfigError(f"{self.profile}: {e.run_id} is described twice")
            kind = f"two {e.method} curves {at}" + f" and λ = {e.weight_decay:g}" * (e.method in ("vanilla", "l2"))
            if e.teacher:
                kind = f"two kinds of students ({e.method}) of the {e.teacher.rule} teacher {at}"
                kind += f", τ = {e.temperature:g}, α = {e.alpha:g}" if self.tunes else ""
            curve = e.dataset, e.arch, e.seed, kind
            if curve in seen:
                raise ConfigError(f"{where}{kind}; give one a profile of its own")
            seen |= {curve, e.run_id}
            if not (beside := plain.get((e.dataset, e.arch, e.noise_rate, e.seed))):
                what = f"noise_rates: no curve {at} is vanilla, to compare {e.method!r} with"
                regular = f"; or is λ = {e.weight_decay:g} regular? Then give it as regular_weight_decay in settings"
                raise ConfigError(f"{where}{what}{regular if e.method == 'l2' else ''}")
            for field in ALIKE:
                if (own := getattr(e, field)) != (its := getattr(beside, field)):
                    what = f"{field}: is {own!r} in {e.method!r} curves, and {its!r} in the vanilla ones beside them"
                    raise ConfigError(f"{where}{what}; give one a profile of its own")
        for e in (e for e in found if e.teacher and e.teacher.experiment.run_id not in seen):
            what = f"{e.teacher.experiment.run_id}, the {e.teacher.rule} teacher of {e.run_id}, is not in the profile"
            raise ConfigError(f"{self.profile}: architectures.{e.arch}: {what}; its noise_rates or variants lack it")

    def _curves(self, arch: str, dataset: str | None) -> Iterator[Experiment]:
        plan, on = self.architectures[arch], (self.datasets or {}).get(dataset, Dataset())
        fixed = on.settings | ({"dataset": dataset} if dataset else {})

        def experiment(seed: int, rate: float, arch: str = arch, **fields) -> Experiment:
            settings = self.base | self.architectures[arch].settings | fixed
            settings |= {"arch": arch, "seed": seed, "noise_rate": rate} | fields
            return Experiment.parse(settings, f"{self.profile}: architectures.{arch}: ")

        def rates(own: list[float]) -> list[float]:
            return own if on.noise_rates is None else on.noise_rates

        def source(rule: str, seed: int, rate: float, arch: str) -> Experiment:
            if TEACHERS[rule].of == "vanilla":
                return experiment(seed, rate, arch)
            variants = [settings for v in self.architectures[arch].variants for settings in v.settings]
            curves = (experiment(seed, rate, arch, **settings) for settings in variants if "patience" in settings)
            if found := next((curve for curve in curves if curve.method == TEACHERS[rule].of), None):
                return found
            what = f"none is early stopping alone, a patience, and {rule} teachers come from such curves"
            raise ConfigError(f"{self.profile}: architectures.{arch}: variants: {what}")

        for seed in range(plan.seeds):
            yield from (experiment(seed, rate) for rate in rates(plan.noise_rates))
            if plan.l2:
                grid = product(rates(plan.l2.noise_rates), plan.l2.weight_decays)
                yield from (experiment(seed, rate, weight_decay=decay) for rate, decay in grid)
            for v in plan.variants:
                grid = product(rates(v.noise_rates), v.settings)
                yield from (experiment(seed, rate, **settings) for rate, settings in grid)
            for d in plan.distillation:
                grid = product(rates(d.noise_rates), d.settings, d.teachers, d.temperatures, d.alphas)
                for rate, settings, rule, temperature, alpha in grid:
                    teacher = {"rule": rule, "experiment": source(rule, seed, rate, d.teacher_arch or arch)}
                    loss = {"temperature": temperature, "alpha": alpha}
                    picked = {"selection": self.selection} if rule == "sparse" else {}
                    yield experiment(seed, rate, teacher=teacher, **loss, **picked, **settings)


def select(experiments: list[Experiment], only: str) -> list[Experiment]:
    """Those that ``only`` describes: ``arch=vit,method=kd``; of a field that is named twice, either value. Raises
    ConfigError when a field is not one of FILTERS, or when nothing has these values."""
    wanted: dict[str, set[str]] = {}
    for part in filter(None, only.split(",")):
        field, separator, value = part.partition("=")
        if field not in FILTERS or not separator or not value:
            raise ConfigError(f"only: {part!r} is not field=value; the fields are {', '.join(FILTERS)}")
        with suppress(ValueError):
            value = f"{float(value):g}"  # 0.30 is 0.3
        wanted.setdefault(field, set()).add(value)
    for field, values in wanted.items():
        if unknown := values - (known := {FILTERS[field](exp) for exp in experiments}):
            raise ConfigError(f"only: no run has {field}={min(unknown)}; there are {', '.join(sorted(known))}")
    chosen = [exp for exp in experiments if all(FILTERS[f](exp) in values for f, values in wanted.items())]
    if not chosen:
        raise ConfigError(f"only: no run has all of {only}")
    return chosen


FILTERS = {
    "arch": lambda exp: exp.arch,
    "dataset": lambda exp: exp.dataset,
    "method": lambda exp: exp.method,
    "noise_rate": lambda exp: f"{exp.noise_rate:g}",
    "seed": lambda exp: f"{exp.seed:g}",
    "teacher": lambda exp: exp.teacher.rule if exp.teacher else "none",
    "weight_decay": lambda exp: f"{exp.weight_decay:g}",
}


def load_profile(name: str) -> Profile:
    """Read ``notebooks/profiles/<name>.yaml``. Raises ConfigError naming the file and the field that is wrong."""
    settings, where = _read(name, "profile: "), f"{_shown(PROFILES / f'{name}.yaml')}: "
    if isinstance(settings, dict) and "like" in settings:
        other = _read(settings["like"], f"{where}like: ")
        if isinstance(other, dict) and "like" in other:
            raise ConfigError(f"{where}like: {settings['like']} is itself like {other['like']}; name one that is not")
        _parsed(other, settings["like"])
        settings = _on_top_of(other, settings, where)
    return _parsed(settings, name)


def _parsed(settings: object, name: str) -> Profile:
    where = f"{_shown(PROFILES / f'{name}.yaml')}: "
    if (profile := Profile.parse(settings, where)).profile != name:
        raise ConfigError(f"{where}profile: is {profile.profile!r}, but the file is called {name!r}")
    return profile


def _on_top_of(other: dict, settings: dict, where: str) -> dict:
    """A profile's own ``settings``, and where it has none (but for what it is about) the ``other``'s; in base alike."""
    both, own = {"about": None, "profile": None} | settings, settings.get("base", {})
    if isinstance(own, dict):
        both["base"] = {field: value for field, value in (other["base"] | own).items() if value is not None}
        for kind in {"architectures", "datasets"} - settings.keys():
            for name, plan in (other.get(kind) or {}).items():
                if lost := own.keys() & plan.get("settings", {}).keys():
                    why = f"{kind}.{name}.settings of {settings['like']} sets it, and comes before base"
                    raise ConfigError(f"{where}base.{min(lost, key=str)}: {why}; give {kind} anew")
    return {field: value for field, value in (other | both).items() if field != "like"}


def _read(name: str, where: str) -> object:
    path, known = PROFILES / f"{name}.yaml", sorted(p.stem for p in PROFILES.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"{where}there is no {name!r}; known are {', '.join(known)} (in {_shown(PROFILES)})")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), PlainYaml)
    except ConfigError as error:
        raise ConfigError(f"{_shown(path)}: {error}") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{_shown(path)}: not YAML: {' '.join(str(error).split())}") from None


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))
