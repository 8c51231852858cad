"""Everything that a run is, besides its agent: gathered between two windows, and put back in another process."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from optix_stream.contracts import Stateful
from optix_stream.errors import CheckpointError
from optix_stream.state_files import state_of
from optix_stream.types import EvalMetrics
from optix_stream.wire import decode, encode, join, pack, unpack

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
        # The same, as bytes: each is made so once, and not again whenever the run is saved.
        self._encoded: deque[bytes] = deque(maxlen=_HISTORY)
        self.restart()

    def restart(self) -> None:
        """A run begins."""
        self.windows = self.failures = 0
        self.basis = None
        self.history.clear()
        self._encoded.clear()

    def record(self, metrics: EvalMetrics) -> None:
        """Take the next score."""
        plain = {name: float(value) for name, value in metrics.metrics.items()}
        self.history.append(metrics)
        self._encoded.append(
            encode([float(metrics.primary_score), plain, metrics.episode_id, metrics.basis, metrics.timestamp])
        )

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "windows": self.windows,
            "failures": self.failures,
            "basis": self.basis,
            "history": pack(join(self._encoded)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with state_of("a loop"):
            history = [EvalMetrics(*values) for values in decode(unpack(state["history"]))]
            windows, failures, basis = int(state["windows"]), int(state["failures"]), state["basis"]
        self.restart()
        self.windows, self.failures, self.basis = windows, failures, basis
        for metrics in history:
            self.record(metrics)


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
