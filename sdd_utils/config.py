"""What one experiment is: a frozen, validated description of one pruning curve.

All that changes the numbers is a field here, and nothing else (device, workers, paths): equal configurations have the
same ``run_id``, and the same rows come out of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from sdd_utils.datasets import DATASETS, FOLDER, Dataset, facts_of
from sdd_utils.distillation import TEACHERS
from sdd_utils.models import TIMM, architecture
from sdd_utils.settings import Count, Flag, NotNegative, Portion, Positive, Settings, Share, Whole, entry_of


class ViTShape(Settings):
    """Shape of a vision transformer; the defaults are the paper's (authors' code)."""

    patch: Count = 4  # pixels a side
    depth: Annotated[Count, Field(le=1000)] = 6
    heads: Count = 8
    mlp_width: Count = 512
    dropout: Share = 0.1  # after the embedding, after attention's projection and inside the MLP


class Arguments(Settings):
    """Arguments of a function of another library, whatever it takes."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, bool | int | float | str | None]


def architecture_named(name: str) -> str:
    """The name, if there is such an architecture, of ours or timm's. Raises ValueError."""
    if not name.startswith(TIMM):
        return entry_of("models", "ARCHITECTURES").func(name)
    try:
        import timm
    except ModuleNotFoundError:  # where there is no torch either, and results are only read
        return name
    if not timm.is_model(model := name.removeprefix(TIMM)):
        close = get_close_matches(model, timm.list_models(), 5, 0) or ["none"]
        raise ValueError(f"timm has no model {model!r}; it has, among others, {', '.join(close)}")
    return name


def _dataset(name: str) -> str:
    return name if re.fullmatch(rf"{FOLDER}\w[\w.-]*", name) else entry_of("datasets", "DATASETS").func(name)


class Teacher(Settings):
    """A level of another experiment's curve, chosen by a rule: see ``distillation.select_level``."""

    rule: Annotated[str, entry_of("distillation", "TEACHERS")]
    experiment: Experiment


class Experiment(Settings):
    """One pruning curve: train, prune, train again, … for ``levels`` prunings (paper, Sec. 3)."""

    # Data. The split, the noise, the initial weights and the batches all follow the seed.
    seed: Annotated[Whole, Field(ge=0, le=1_000_000_000)] = 0
    dataset: Annotated[str, AfterValidator(_dataset)] = "digits"
    image_size: Annotated[Count, Field(le=512)] | None = None  # pixels a side, to which the images of a folder are cut
    train_subset: Count | None = None  # so many of the training images, validation included; None: all
    test_subset: Count | None = None  # so many of the test images; None: all
    val_share: Portion = 0.2  # of the training images, noisy labels
    noise_kind: Annotated[str, entry_of("data", "NOISE")] = "symmetric"  # human: CIFAR-N's labels
    human_labels: str | None = None  # which of CIFAR-N's
    noise_rate: Share = 0.0  # ε: share of wrong training labels; of human labels, the share that was counted
    crop_padding: Annotated[Whole, Field(ge=0, le=32)] = 0  # pixels; 0 = no random crop
    flip: Flag = False  # random horizontal flip

    # Network
    arch: Annotated[str, AfterValidator(architecture_named)]
    # mlp, lenet: hidden units; resnet18, vgg_like: channels of the first stage; vit: embedding dimension; timm: none
    width: Count | None = None
    vit: ViTShape | None = None
    timm: Arguments | None = None  # of timm.create_model, such as {drop_path_rate: 0.1}
    dropout: Share = 0.0  # before the last layer and, in mlp and lenet, after every other; vit has its own

    # Training of one level
    epochs: Count
    dense_epochs: Count | None = None  # of level 0; None: as many as of any other
    patience: Count | None = None  # early stopping: after so many epochs without a better val_acc; None: none
    batch_size: Count
    amp: Flag = False  # bfloat16 where autocast allows it; weights and optimiser stay float32
    optimizer: Literal["sgd", "adamw"]
    lr: Positive
    momentum: Share | None = None  # sgd only
    milestones: tuple[Portion, ...] | None = None  # sgd only: lr ÷ 10, as shares of epochs
    weight_decay: NotNegative  # λ, as given to the optimiser
    regular_weight_decay: NotNegative | None = None  # at which a curve is vanilla; None: the architecture's own
    regulariser: Annotated[str, entry_of("training", "REGULARISERS")] | None = None  # a penalty beside λ
    coefficient: Positive | None = None  # what the penalty is multiplied by
    loss: Annotated[str, entry_of("losses", "LOSSES")] | None = None  # in place of cross-entropy
    loss_parameter: Annotated[Positive, Field(le=1)] | None = None  # see the loss
    mixup: Annotated[Positive, Field(le=100)] | None = None  # α of Beta(α, α), the share of an image in its mixture

    # Pruning
    levels: Annotated[Whole, Field(ge=0, le=1000)]  # the last level; level 0 is dense
    prune_share: Portion = 0.2  # of the surviving weights, each level
    criterion: Annotated[str, entry_of("pruning", "CRITERIA")] = "magnitude"  # by which weights are pruned
    prune_depthwise: Flag = True  # also convolutions with groups, which have few weights and all that sees space
    structure: Literal["weights", "units"] = "weights"  # what is removed: single weights, or neurons and channels
    one_shot: Flag = False  # each level is pruned from the trained dense network instead of the level before
    # Learning-rate rewinding (the paper), rewinding to initialisation, random re-initialisation:
    retrain: Literal["lr", "init", "random"] = "lr"

    # Distillation: loss = (1 − α)·CE(noisy label) + α·τ²·KL(teacher ‖ student)
    teacher: Teacher | None = None
    temperature: Annotated[Positive, Field(le=1_000_000)] | None = None  # τ
    alpha: Annotated[NotNegative, Field(le=1)] | None = None
    selection: Literal["validation", "test"] = "validation"  # what picks the sparse teacher; test: the usual practice

    @field_validator("noise_rate", "weight_decay", "regular_weight_decay", "temperature", "alpha")
    @classmethod
    def _as_tables_have_it(cls, number: float | None) -> float | None:
        """What is one number in levels.csv must not be two settings here."""
        if number is not None and float(f"{number:.6g}") != number:
            raise ValueError("should have six significant digits at most, as tables have")
        return number

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        needs = [
            ("vit", self.arch == "vit", "arch is vit"),
            ("width", architecture(self.arch).least_width > 0, "arch is not one of timm's"),
            ("momentum", self.optimizer == "sgd", "optimizer is sgd"),
            ("milestones", self.optimizer == "sgd", "optimizer is sgd"),
            ("coefficient", self.regulariser is not None, "there is a regulariser"),
            ("loss_parameter", self.loss is not None, "there is a loss"),
            ("temperature", self.teacher is not None, "there is a teacher"),
            ("alpha", self.teacher is not None, "there is a teacher"),
            ("image_size", self.dataset.startswith(FOLDER), "dataset is a folder"),
            ("human_labels", self.noise_kind == "human", "noise_kind is human"),
        ]
        if self.selection == "test" and (self.teacher is None or self.teacher.rule != "sparse"):
            raise ValueError("selection: test means something only when the teacher is sparse")
        for field, needed, when in needs:
            if needed and getattr(self, field) is None:
                raise ValueError(f"{field}: missing; it must be given when {when}")
            if not needed and getattr(self, field) is not None:
                raise ValueError(f"{field}: given, but it means something only when {when}")
        if self.timm and not self.arch.startswith(TIMM):
            raise ValueError(f"timm: given, but it means something only when arch is one of {TIMM}…")
        if self.vit and self.dropout:
            raise ValueError("dropout: a vit has its own, vit.dropout")
        if self.vit and self.width % self.vit.heads:
            raise ValueError(f"width: {self.width} is not divisible by vit.heads = {self.vit.heads}")
        if self.vit and (side := self.facts.image_shape[1]) % self.vit.patch:
            raise ValueError(f"vit.patch: {self.vit.patch} does not divide {self.dataset}'s {side} pixels a side")
        if self.milestones and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: {list(self.milestones)} must increase")
        for field, there_are in (("train_subset", self.facts.train), ("test_subset", self.facts.test)):
            if (wanted := getattr(self, field) or 0) > there_are:
                raise ValueError(f"{field}: {wanted} images are more than the {there_are} of {self.dataset}")
        self._check_counts()
        self._check_human_labels()
        if self.noise_kind == "asymmetric":
            self._check_confused()
        if self.teacher:
            self._check_teacher(self.teacher.experiment)
        return self

    def _check_counts(self) -> None:
        """What is valid alone, and comes to nothing with the rest: nobody could train, choose or measure on it."""
        images, arch = self.training_images, architecture(self.arch)
        every = images + self.validation_images
        parts = {"training": images, "validation": every - images}
        for part, count in parts.items():
            if not count:
                raise ValueError(f"val_share: {self.val_share:g} of {every} images leaves none for {part}")
        for part, count in parts.items():
            if self.noise_rate and self.noise_kind != "human" and not round(self.noise_rate * count):
                raise ValueError(f"noise_rate: {self.noise_rate:g} of {count} {part} images is not one wrong label")
        most = {"symmetric": 1 - 1 / self.facts.classes, "pair_flip": 0.5}.get(self.noise_kind, 1)
        if self.noise_rate and self.noise_rate >= most:
            raise ValueError(f"noise_rate: {self.noise_rate:g} hides which label is right; give less than {most:g}")
        if self.width and self.width < arch.least_width:
            raise ValueError(f"width: {self.width} is too narrow for {self.arch}, which needs {arch.least_width}")
        if arch.batch_norm and (images % self.batch_size == 1 or self.batch_size == 1):
            what = f"one of {images} images would be a batch of its own, and batch normalisation needs two"
            raise ValueError(f"batch_size: of {self.batch_size}, {what}")

    def _check_confused(self) -> None:
        most = len(self.facts.confused) / self.facts.classes / 2
        if not most:
            known = ", ".join(name for name, facts in DATASETS.items() if facts.confused)
            raise ValueError(f"noise_kind: asymmetric needs classes that are confused, as {known} have them")
        if self.noise_rate > most:
            what = f"of {len(self.facts.confused)} of {self.facts.classes} classes most labels would be wrong"
            raise ValueError(f"noise_rate: {self.noise_rate:g} is more than {most:g}: {what}")

    def _check_human_labels(self) -> None:
        known = self.facts.human.shares if self.facts.human else None
        if (known is not None) != (self.noise_kind == "human"):
            if known:
                raise ValueError(f"noise_kind: must be human for {self.dataset}")
            humans = " and ".join(name for name, facts in DATASETS.items() if facts.human)
            raise ValueError(f"noise_kind: human means nothing for {self.dataset}; {humans} alone have human labels")
        if known and self.human_labels not in known:
            raise ValueError(f"human_labels: {self.dataset} has {', '.join(known)} (got {self.human_labels!r})")
        if known and self.noise_rate != (rate := known[self.human_labels]):
            raise ValueError(f"noise_rate: must be {rate:g} for {self.human_labels}, the share that people got wrong")

    def _check_teacher(self, other: Experiment) -> None:
        if other.teacher:
            raise ValueError("teacher.experiment: a teacher with a teacher of its own is not supported")
        if TEACHERS[self.teacher.rule].is_pruned and other.levels == 0:
            raise ValueError(f"teacher.rule: {self.teacher.rule} needs a teacher experiment with levels ≥ 1")
        if (TEACHERS[self.teacher.rule].of == "early") != (other.patience is not None):
            raise ValueError("teacher.experiment.patience: an early_stopped teacher has one, and no other has")
        # The teacher has seen its training labels: another split or other noise would leak the student's test images.
        split = ("seed", "dataset", "image_size", "train_subset", "test_subset", "val_share")
        for field in (*split, "noise_kind", "human_labels", "noise_rate"):
            if getattr(self, field) != getattr(other, field):
                raise ValueError(f"teacher.experiment.{field}: {getattr(other, field)!r} differs from the student's")

    @property
    def facts(self) -> Dataset:
        """What is known of its dataset without opening it. Raises DataError of a folder that is not there."""
        return facts_of(self.dataset, self.image_size)

    @property
    def training_images(self) -> int:
        """How many images an epoch has: those that are not for validation."""
        pool = self.train_subset or self.facts.train
        return pool - round(self.val_share * pool)

    @property
    def validation_images(self) -> int:
        """How many images each validation accuracy is measured on."""
        return (self.train_subset or self.facts.train) - self.training_images

    @property
    def method(self) -> str:
        """What is done against the dip: ``kd`` with a teacher, the names of a regulariser and a loss, ``mixup``,
        ``dropout``, and ``early`` with early stopping, joined by hyphens; without any of these, ``vanilla`` at the
        regular λ, and ``l2`` at others (``l2-early`` with early stopping)."""
        kinds = ("kd" if self.teacher else None, self.regulariser, self.loss)
        names = [*filter(None, kinds), *(name for name in ("mixup", "dropout") if getattr(self, name))]
        own = architecture(self.arch).weight_decay if self.regular_weight_decay is None else self.regular_weight_decay
        names = names or (["l2"] if self.weight_decay != own else [])
        return "-".join([*names, "early"] if self.patience is not None else names) or "vanilla"

    def epochs_of(self, level: int) -> int:
        """How many epochs a level has; early stopping may end it before."""
        return self.dense_epochs if level == 0 and self.dense_epochs else self.epochs

    @property
    def augmented(self) -> bool:
        """Whether training images change from epoch to epoch."""
        return bool(self.crop_padding or self.flip or self.mixup)

    @property
    def canonical(self) -> str:
        """The settings that differ from the defaults, as JSON with sorted keys: a field added later, whose default
        means *as before*, renames no run. Released defaults never change."""
        settings = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(settings, sort_keys=True, separators=(",", ":"))

    @property
    def run_id(self) -> str:
        """Readable and unique, for instance ``digits-mlp256-sym0.2-kd-dense-wd0.0001-s0-1a2b3c4d``."""
        digest = hashlib.sha256(self.canonical.encode()).hexdigest()[:8]
        method = self.method.replace("kd", f"kd-{self.teacher.rule}") if self.teacher else self.method
        noise = f"{self.noise_kind[:3]}{self.noise_rate:g}"
        network = f"{self.arch.removeprefix(TIMM)}{self.width or ''}"
        what = f"{self.dataset.removeprefix(FOLDER)}-{network}"
        return f"{what}-{noise}-{method}-wd{self.weight_decay:g}-s{self.seed}-{digest}"


Teacher.model_rebuild()
