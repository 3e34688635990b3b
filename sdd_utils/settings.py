"""What every setting is made of: a frozen, validated base class, and the types of the numbers in it."""

import reprlib
from importlib import import_module
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from sdd_utils.errors import ConfigError

PROFILE_NAME = r"^[a-z0-9][a-z0-9-]*$"  # profiles name folders, so a name cannot lead anywhere else
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60

# Strict: neither a truth value, which Python takes for 0 or 1, nor text is a number
Whole, Flag = Annotated[int, Strict()], Annotated[bool, Strict()]
Number = Annotated[float, Strict(), AfterValidator(lambda number: number + 0.0)]
"""A float; −0 becomes 0, which it equals, so that it does not make another run_id."""
Share = Annotated[Number, Field(ge=0, lt=1)]
Portion = Annotated[Number, Field(gt=0, lt=1)]
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[Whole, Field(ge=1, le=1_000_000)]


def entry_of(module: str, table: str) -> AfterValidator:
    """Accept the names in ``sdd_utils.<module>.<table>`` alone, which is imported when a value is checked: some such
    modules import the experiment. Accept any name where there is no torch, and so nothing is trained."""

    def check(name: str) -> str:
        try:
            known = list(getattr(import_module(f"sdd_utils.{module}"), table))
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            return name
        if name not in known:
            raise ValueError(f"should be one of {', '.join(known)}; others are added in sdd_utils/{module}.py, {table}")
        return name

    return AfterValidator(check)


class Settings(BaseModel):
    """Frozen, refuses unknown fields, and says what is wrong in one line a field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, settings: dict, where: str = "") -> Self:
        """Build from plain data. Raises ConfigError with one line for each field that is wrong."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(cls, e, where) for e in error.errors())) from None


def _explain(cls: type[Settings], error: dict, where: str) -> str:
    """One line for a person: the field, what is wrong with it, what is allowed, and the value that was given."""
    field = ".".join(str(part) for part in error["loc"] if part != "[key]")  # pydantic's, of a name that is wrong
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = f"; the fields are {', '.join(cls.model_fields)}" if "." not in field else ""
        message = f"unknown field{known}"
    elif error["type"] == "missing":
        message = "missing; it has no default"
    elif field:
        message = f"{message[0].lower()}{message[1:]} (got {_shown(error['input'])})"
    return f"{where}{field}: {message}" if field else f"{where}{message}"


def _shown(value: object) -> str:
    """As Python writes it, in short."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not write out numbers of more than some thousand digits
        return "a number of thousands of digits"
