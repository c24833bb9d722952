"""A training recipe: everything that decides what comes out, besides the base, the rows and the threads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from harness.errors import ConfigError, nearest

__all__ = ["OBJECTIVES", "Recipe"]

OBJECTIVES: Mapping[str, Mapping[str, float]] = {
    # What trl takes by default (2e-5, and 1e-6 for preferences) is meant for all weights and teaches an adapter next to nothing.
    "sft": {"lr": 1e-3, "beta": 0.0},
    "dpo": {"lr": 1e-4, "beta": 0.1},  # Rafailov et al. 2023, arXiv 2305.18290: beta
    "orpo": {"lr": 1e-4, "beta": 0.1},  # Hong et al. 2024, arXiv 2403.07691: lambda
    "simpo": {"lr": 1e-4, "beta": 2.0},  # Meng et al. 2024, arXiv 2405.14734: beta from 2, and a margin gamma of beta / 2
}
"""The objectives, and the numbers a recipe takes where it names none."""

_CHOICES = {"objective": tuple(OBJECTIVES), "method": ("lora", "qlora", "dora"), "dtype": ("bfloat16", "float32")}
_LEAST = {"rank": 1, "alpha": 1, "epochs": 1, "batch": 1, "accumulate": 1, "max_length": 1, "seed": 0, "steps": 0, "save_every": 0}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One adapter on all linear layers, trained by one objective.

    ``rank`` and ``alpha`` as in LoRA (the update is scaled by alpha / rank). ``qlora`` trains on the base in NF4 with
    double quantization. ``lr`` is the peak of a linear schedule, after ``warmup`` (a share of all steps); ``beta`` the
    weight of the preference (sft has none); None takes both from ``OBJECTIVES``. A step is ``batch * accumulate`` rows;
    ``steps`` = 0 goes by ``epochs``. ``max_length`` bounds prompt plus answer in tokens: a longer row is an error, never
    cut or dropped. ``packing`` (sft) lays several rows into one sequence. ``dtype`` is that of the base's weights; the
    adapter is always float32. ``save_every`` is the number of steps between sealed checkpoints, 0 for none.

    Raises ConfigError for a value no training could use.
    """

    objective: str = "sft"
    method: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    lr: float | None = None
    epochs: int = 1
    batch: int = 8
    accumulate: int = 1
    seed: int = 0
    max_length: int = 512
    warmup: float = 0.05
    beta: float | None = None
    steps: int = 0
    packing: bool = False
    dtype: str = "bfloat16"
    save_every: int = 0

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"recipe: {name} = {getattr(self, name)!r}; {nearest(str(getattr(self, name)), list(known))}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"recipe: {name} = {getattr(self, name)}, expected at least {least}")
        for name in ("lr", "beta"):
            self._fill(name)
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"recipe: {name} = {getattr(self, name)}, expected 0 <= {name} < 1")
        if self.packing and self.objective != "sft":
            raise ConfigError(f"recipe: packing = true with objective {self.objective!r}; only sft can pack its rows")

    def _fill(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            object.__setattr__(self, name, OBJECTIVES[self.objective][name])
        elif name == "beta" and self.objective == "sft":
            if value != 0:
                raise ConfigError(
                    f"recipe: beta = {value} with objective 'sft', which has none; leave it out or name a preference objective"
                )
        elif not (math.isfinite(value) and value > 0):
            raise ConfigError(f"recipe: {name} = {value}, expected a positive number like {OBJECTIVES[self.objective][name]:g}")

    @classmethod
    def of(cls, table: Mapping[str, Any], where: str) -> Recipe:
        """The recipe in a TOML table. ``where`` names the table in errors: "lifecycle.toml: [recipes.tuned]".

        Raises ConfigError for an unknown key (naming the nearest known one), a wrong type or a value out of range.
        """
        kinds = {field.name: str(field.type).removesuffix(" | None") for field in fields(cls)}
        for key, value in table.items():
            if key not in kinds:
                raise ConfigError(f"{where}: unknown key {key!r}; {nearest(key, list(kinds))}")
            if not _fits(value, kinds[key]):
                raise ConfigError(f"{where}: {key} = {value!r}, expected {kinds[key]}")
        numbers: dict[str, Any] = {key: float(value) if kinds[key] == "float" else value for key, value in table.items()}
        try:
            return cls(**numbers)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def same(self) -> dict[str, Any]:
        """What two runs must share to give the same weights: all of it but how often it is saved."""
        return {name: value for name, value in asdict(self).items() if name != "save_every"}


def _fits(value: Any, kind: str) -> bool:
    if kind == "float":
        return type(value) in (int, float)
    return type(value).__name__ == kind  # so that true is no number
