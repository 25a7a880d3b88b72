"""How long, how fast and how exactly to train."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator


class TrainConfig(BaseModel):
    """Settings of the training loop that no defence changes; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=1, description="samples a step, over all devices together")
    window: int | None = Field(
        None, ge=1, description="samples; shards are read front to back, mixed within so many (youtube8m, moments)"
    )
    learning_rate: FiniteFloat = Field(1e-3, gt=0)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: FiniteFloat = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: FiniteFloat = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    warmup: FiniteFloat = Field(0.0, ge=0, lt=1, description="share of all steps in which the rate rises")
    gradient_clip: FiniteFloat | None = Field(None, gt=0, description="largest norm of the whole gradient")
    amp: Literal["off", "bf16"] = Field("off", description="mixed precision; on the CPU of inner attacks alone")
    validate_every: int = Field(1, ge=1, description="epochs; the last one is always validated")
    validation_steps: int = Field(10, ge=1, description="steps of the PGD that chooses the checkpoint")
    validation_samples: int | None = Field(None, ge=1, description="at most so many, drawn once")
    patience: int | None = Field(
        None, ge=1, description="stop after so many validations without a better one, counted once attacks have begun"
    )
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints within an epoch")
    log_every: int = Field(20, ge=1, description="steps to a line of the log")

    @field_validator("amp", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare `off` as false

    def outcome(self) -> dict[str, Any]:
        """The settings that change what is learned, as JSON: they must be the same when a run is resumed."""
        return self.model_dump(exclude={"checkpoint_every", "log_every"})
