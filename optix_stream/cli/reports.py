"""The report that ends a training run, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from optix_stream.cli.evaluation import Evaluation
from optix_stream.cli.formatting import counted, duration, score
from optix_stream.types import RunReport

_REASONS = {
    "dormant": "trained: the score no longer improves",
    "max_episodes": "the budget of --max-steps is used up",
    "stopped": "stopped on request",
    "source_ended": "the environment ended",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainReport:
    """A run and the evaluation of its best policy.

    Attributes:
        env: name of the environment.
        agent: name of the agent.
        seed: of both.
        checkpoint_dir: where the snapshots are.
        report: of the loop.
        evaluation: None where it was interrupted before its first episode ended.
    """

    env: str
    agent: str
    seed: int
    checkpoint_dir: Path
    report: RunReport
    evaluation: Evaluation | None

    @property
    def best_score(self) -> float | None:
        """Of the best snapshot, measured while training; None if no window could be scored."""
        best = self.report.best_snapshot
        return None if best is None else best.eval_metrics.primary_score

    @property
    def steps_per_sec(self) -> float:
        """Transitions learned a second, since the run began or was resumed: so long is the time that is measured."""
        return self._learned_now / self.report.wall_sec if self.report.wall_sec > 0.0 else 0.0

    @property
    def _learned_now(self) -> int:
        return self.report.transitions - self.report.transitions_before

    def as_json(self) -> str:
        """One line of JSON."""
        report = self.report
        facts = {
            "env": self.env,
            "agent": self.agent,
            "seed": self.seed,
            "state": report.state.value,
            "reason": report.reason,
            "windows": report.windows,
            "transitions": report.transitions,
            "transitions_before": report.transitions_before,
            "wall_sec": round(report.wall_sec, 3),
            "steps_per_sec": round(self.steps_per_sec, 1),
            "best_score": self.best_score,
            "evaluation": self.evaluation,
            "checkpoint_dir": str(self.checkpoint_dir),
            "statistics": {**msgspec.to_builtins(report.statistics), "is_balanced": report.statistics.is_balanced},
        }
        return msgspec.json.encode(facts).decode() + "\n"

    def as_text(self, plot: Path | None = None) -> str:
        """For a person.

        Args:
            plot: where the picture was drawn.
        """
        report, best = self.report, self.report.best_snapshot
        now = f", {self._learned_now:,} of them since it was resumed" if report.transitions_before else ""
        lines = [
            f"{self.env} · {self.agent} · seed {self.seed}: {_REASONS.get(report.reason, report.reason)}",
            f"  state        {report.state.name}",
            f"  learned      {report.transitions:,} steps in {counted(report.windows, 'window')}{now}",
            f"  time         {duration(report.wall_sec)}, {self.steps_per_sec:,.0f} steps/s",
        ]
        if best is None:
            lines.append("  best score   none: no window could be scored, so no snapshot was saved")
        else:
            lines.append(f"  best score   {score(self.best_score)} while training, window {best.episode_id}")
        if self.evaluation is not None:
            what = "of the best policy" if best is not None else "of the last policy"
            lines.append(f"  evaluation   {self.evaluation} {what}, without exploration")
        if best is not None:
            lines.append(f"  checkpoint   {self.checkpoint_dir / best.snapshot_id}")
        if plot is not None:
            lines.append(f"  picture      {plot}")
        if best is not None:
            lines.append(f"\nNext: optix-stream evaluate {self.checkpoint_dir}")
        return "\n".join(lines) + "\n"
