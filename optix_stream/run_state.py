"""Everything that a run is, besides its agent: gathered between two windows, and put back in another process."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from optix_stream.contracts import Stateful
from optix_stream.errors import CheckpointError
from optix_stream.types import EvalMetrics

_HISTORY = 1000


class Progress(Stateful):
    """How far the loop itself has come.

    Attributes:
        windows: learned from or tried.
        failures: windows in a row on which learning failed.
        basis: what the latest score measured.
        history: the latest scores, oldest first.
    """

    basis: str | None

    def __init__(self) -> None:
        self.history: deque[EvalMetrics] = deque(maxlen=_HISTORY)
        self.restart()

    def restart(self) -> None:
        """A run begins."""
        self.windows = self.failures = 0
        self.basis = None
        self.history.clear()

    def state_dict(self) -> Mapping[str, Any]:
        history = [
            [
                float(metrics.primary_score),
                {name: float(value) for name, value in metrics.metrics.items()},
                metrics.episode_id,
                metrics.basis,
                metrics.timestamp,
            ]
            for metrics in self.history
        ]
        return {"windows": self.windows, "failures": self.failures, "basis": self.basis, "history": history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        history = [EvalMetrics(*values) for values in state["history"]]
        self.windows, self.failures, self.basis = int(state["windows"]), int(state["failures"]), state["basis"]
        self.history.clear()
        self.history.extend(history)


def gather(parts: Mapping[str, object]) -> dict[str, Any]:
    """The state of every part that has one, by the names given.

    Raises:
        CheckpointError: a part cannot be saved just now.
    """
    return {
        name: {"kind": type(part).__name__, "state": part.state_dict()}
        for name, part in parts.items()
        if isinstance(part, Stateful)
    }


def restore(parts: Mapping[str, object], state: Mapping[str, Any]) -> tuple[str, ...]:
    """Put back what was gathered.

    Returns:
        The names of the parts that start afresh, because they cannot be saved, or were not.

    Raises:
        CheckpointError: a part is of another kind than that which was saved, or configured otherwise, or missing.
    """
    missing = sorted(state.keys() - parts.keys())
    if missing:
        raise CheckpointError(f"cannot resume: expected a run with a {missing[0]}, as it was saved, got one without")
    fresh: list[str] = []
    for name, part in parts.items():
        saved = state.get(name)
        if saved is None or not isinstance(part, Stateful):
            fresh.append(name)
            continue
        try:
            if saved["kind"] != type(part).__name__:
                raise CheckpointError(f"expected the state of {type(part).__name__}, got that of {saved['kind']}")
            part.load_state_dict(saved["state"])
        except (CheckpointError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"cannot resume: {name}: {error}") from error
    return tuple(fresh)
