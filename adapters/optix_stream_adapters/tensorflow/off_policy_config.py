"""What is decided once for an agent that learns from the past."""

from __future__ import annotations

from dataclasses import dataclass

from optix_stream.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class OffPolicyConfig:
    """What is fixed for the life of an agent that learns from the past; the rest are hyperparameters.

    Attributes:
        buffer_size: transitions that are remembered.
        batch_size: rows a gradient step.
        learning_starts: transitions before the first gradient step.
        increment: new transitions after which it learns, also while a window fills.
        update_ratio: gradient steps a transition. Those of an increment are one compiled call.
        n_step: steps that a return spans before a value estimate follows.
        layer_norm: normalise the hidden layers of the networks that ``for_spaces`` builds to value actions, which then
            overestimate less what they have not seen.
        scale_observations: map a bounded ``Box`` of observations to -1 to 1 by its bounds.

    Raises:
        ConfigurationError: a number out of its range.
    """

    buffer_size: int = 100_000
    batch_size: int = 128
    learning_starts: int = 1000
    increment: int = 64
    update_ratio: float = 1.0
    n_step: int = 1
    layer_norm: bool = True
    scale_observations: bool = False

    def __post_init__(self) -> None:
        for name in ("buffer_size", "batch_size", "learning_starts", "increment", "n_step"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.update_ratio > 0.0:
            raise ConfigurationError(f"update_ratio: expected above 0, got {self.update_ratio}")

    @property
    def updates(self) -> int:
        """Gradient steps a compiled call."""
        return max(1, round(self.increment * self.update_ratio))
