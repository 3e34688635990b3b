"""What one experiment is: a frozen, validated description of one pruning curve.

Everything that changes the numbers is a field here; everything that does not (device, number of workers, paths) is
somewhere else. Two equal configurations have the same ``run_id``, and the same rows come out of them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sdd_utils.errors import ConfigError

REGULAR_WEIGHT_DECAY = {"mlp": 1e-4, "resnet18": 1e-4, "vgg_like": 1e-4, "vit": 0.03}
"""The paper's regular λ by architecture (authors' code). The MLP is ours and takes the convolutional value."""

PROFILE_NAME = r"^[a-z0-9][a-z0-9-]*$"
"""Profiles name folders, so a name cannot lead anywhere else."""

_NO_MINUS_ZERO = AfterValidator(lambda number: number + 0.0)  # −0 equals 0, so it must not make another run_id
Share = Annotated[float, Field(ge=0, lt=1), _NO_MINUS_ZERO]
NotNegative = Annotated[float, Field(ge=0), _NO_MINUS_ZERO]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Frozen, refuses unknown fields, and says what is wrong in one line a field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, settings: dict, where: str = "") -> Settings:
        """Build from plain data. Raises ConfigError with one line for each field that is wrong."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(cls, e, where) for e in error.errors())) from None


class ViTShape(Settings):
    """Shape of a vision transformer; the defaults are the paper's (authors' code)."""

    patch: Count = 4  # pixels a side
    depth: Count = 6
    heads: Count = 8
    mlp_width: Count = 512
    dropout: Share = 0.1  # after the embedding, after attention's projection and inside the MLP


class Teacher(Settings):
    """A level of another experiment's curve: ``dense`` is level 0, ``sparse`` the best level past the dip."""

    rule: Literal["dense", "sparse"]
    experiment: Experiment


class Experiment(Settings):
    """One pruning curve: train, prune, train again, … for ``levels`` prunings (paper, Sec. 3)."""

    # Data. The split, the noise, the initial weights and the batches all follow the seed.
    seed: Annotated[int, Field(ge=0)] = 0
    dataset: Literal["digits"] = "digits"
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of the training images, noisy labels
    noise_kind: Literal["symmetric"] = "symmetric"
    noise_rate: Share = 0.0  # ε: share of training labels replaced by another class
    crop_padding: Annotated[int, Field(ge=0)] = 0  # pixels; 0 = no random crop
    flip: bool = False  # random horizontal flip

    # Network
    arch: Literal["mlp", "resnet18", "vit", "vgg_like"]
    width: Count  # mlp: hidden units; resnet18, vgg_like: channels of the first stage; vit: embedding dimension
    vit: ViTShape | None = None

    # Training of one level
    epochs: Count
    batch_size: Count
    optimizer: Literal["sgd", "adamw"]
    lr: Positive
    momentum: Share | None = None  # sgd only
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = None  # sgd only: lr ÷ 10, as shares of epochs
    weight_decay: NotNegative  # λ, as given to the optimiser

    # Pruning
    levels: Annotated[int, Field(ge=0)]  # the last level; level 0 is dense
    prune_share: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of the surviving weights, each level
    retrain: Literal["lr", "init", "random"] = "lr"  # keep weights; rewind to initialisation; draw new ones

    # Distillation: loss = (1 − α)·CE(noisy label) + α·τ²·KL(teacher ‖ student)
    teacher: Teacher | None = None
    temperature: Positive | None = None  # τ
    alpha: Annotated[NotNegative, Field(le=1)] | None = None
    selection: Literal["validation", "test"] = "validation"  # what picks the sparse teacher; test is the usual cheating

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        needs = [
            ("vit", self.arch == "vit", "arch is vit"),
            ("momentum", self.optimizer == "sgd", "optimizer is sgd"),
            ("milestones", self.optimizer == "sgd", "optimizer is sgd"),
            ("temperature", self.teacher is not None, "there is a teacher"),
            ("alpha", self.teacher is not None, "there is a teacher"),
        ]
        if self.selection == "test" and (self.teacher is None or self.teacher.rule != "sparse"):
            raise ValueError("selection: test means something only when the teacher is sparse")
        for field, needed, when in needs:
            if needed and getattr(self, field) is None:
                raise ValueError(f"{field}: missing; it must be given when {when}")
            if not needed and getattr(self, field) is not None:
                raise ValueError(f"{field}: given, but it means something only when {when}")
        if self.vit and self.width % self.vit.heads:
            raise ValueError(f"width: {self.width} is not divisible by vit.heads = {self.vit.heads}")
        if self.milestones and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: {list(self.milestones)} must increase")
        if self.teacher:
            self._check_teacher(self.teacher.experiment)
        return self

    def _check_teacher(self, other: Experiment) -> None:
        if other.teacher:
            raise ValueError("teacher.experiment: a teacher with a teacher of its own is not supported")
        if self.teacher.rule == "sparse" and other.levels == 0:
            raise ValueError("teacher.rule: sparse needs a teacher experiment with levels ≥ 1")
        # The teacher has seen its training labels: another split or other noise would leak the student's test images.
        for field in ("seed", "dataset", "val_share", "noise_kind", "noise_rate"):
            if getattr(self, field) != getattr(other, field):
                raise ValueError(f"teacher.experiment.{field}: {getattr(other, field)!r} differs from the student's")

    @property
    def method(self) -> str:
        """``kd`` with a teacher; else ``vanilla`` at the architecture's regular λ and ``l2`` at any other."""
        if self.teacher:
            return "kd"
        return "vanilla" if self.weight_decay == REGULAR_WEIGHT_DECAY[self.arch] else "l2"

    @property
    def augmented(self) -> bool:
        """Whether training images change from epoch to epoch."""
        return bool(self.crop_padding or self.flip)

    @property
    def canonical(self) -> str:
        """The settings that differ from the defaults, as JSON with sorted keys.

        Defaults are left out so that a field added later, whose default means *as before*, renames no run; in return a
        default, once released, never changes.
        """
        settings = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(settings, sort_keys=True, separators=(",", ":"))

    @property
    def run_id(self) -> str:
        """Readable and unique, for instance ``digits-mlp256-sym0.2-kd-dense-wd0.0001-s0-1a2b3c4d``."""
        digest = hashlib.sha256(self.canonical.encode()).hexdigest()[:8]
        method = f"kd-{self.teacher.rule}" if self.teacher else self.method
        noise = f"{self.noise_kind[:3]}{self.noise_rate:g}"
        return f"{self.dataset}-{self.arch}{self.width}-{noise}-{method}-wd{self.weight_decay:g}-s{self.seed}-{digest}"


def _explain(cls: type[Settings], error: dict, where: str) -> str:
    """One line for a person: the field, what is wrong with it, what is allowed, and the value that was given."""
    field = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = f"; the fields are {', '.join(cls.model_fields)}" if "." not in field else ""
        message = f"unknown field{known}"
    elif error["type"] == "missing":
        message = "missing; it has no default"
    elif field:
        message = f"{message[0].lower()}{message[1:]} (got {error['input']!r})"
    return f"{where}{field}: {message}" if field else f"{where}{message}"


Teacher.model_rebuild()
