"""``optix-stream train``: assembles a run, watches it, stops it, reports it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import msgspec

from optix_stream.checkpointing import CheckpointEvery
from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.cli import reports
from optix_stream.cli.evaluation import SEED_OFFSET, Examiner
from optix_stream.cli.formatting import counted
from optix_stream.cli.history import RunHistory
from optix_stream.cli.loading import (
    agent_recipe,
    gymnasium_adapter,
    load_module,
    make_agent,
    make_envs,
    require_extras,
    source_of,
)
from optix_stream.cli.progress import Display, PlainLog, Silence
from optix_stream.cli.record import RunRecord, has_record, read_record
from optix_stream.cli.session import Session, run_session
from optix_stream.cli.tuners import DEFAULT_TUNER, make_tuner
from optix_stream.clock import SystemClock
from optix_stream.contracts import BaseAgent, Judge
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.judges import EvidenceConfig, EvidenceJudge, ThresholdJudge
from optix_stream.presets import Preset, preset_for
from optix_stream.rl_optimizer import RLOptimizer

_EPISODES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """One training run.

    Attributes:
        env_id: Gymnasium's name of the environment.
        agent: name of the agent.
        learner: where it learns: ``thread`` or ``process``.
        rolls_back: go back to the best policy when the score falls.
        tuner: name of what tunes it.
        seed: of agent and environments.
        preset: how to train.
        max_steps: environment steps; None: until DORMANT.
        checkpoint_dir: where snapshots go.
        resume: go on from the last checkpoint there.
        checkpoint_every: how often the state of the run is saved.
        plot: where the picture goes; None: none is drawn.
        as_json: report as one line of JSON.
        is_quiet: show no progress.
        is_debug: log, and so draw nothing in place.
    """

    env_id: str
    agent: str
    learner: Literal["thread", "process"]
    rolls_back: bool
    tuner: str
    seed: int
    preset: Preset
    max_steps: int | None
    checkpoint_dir: Path
    resume: bool
    checkpoint_every: CheckpointEvery
    plot: Path | None
    as_json: bool
    is_quiet: bool
    is_debug: bool

    @property
    def max_windows(self) -> int | None:
        """The budget in windows."""
        return None if self.max_steps is None else math.ceil(self.max_steps / self.preset.window_size)


def settings_of(arguments: argparse.Namespace) -> TrainSettings:
    """The preset of this environment and agent, with what the command line says instead; or those of the run that is
    to go on.

    Raises:
        ConfigurationError: the run that is to go on is another one.
        CheckpointError: its record is damaged.
    """
    # A name such as "package:Env-v0" or "ALE/Pong-v5" is no good as one directory's.
    directory = arguments.checkpoint_dir or Path("checkpoints", arguments.env_id.replace(":", "-"))
    agent = arguments.agent if arguments.agent is not None else "ppo"
    seed = arguments.seed if arguments.seed is not None else 0
    max_steps = arguments.max_steps
    tuner = arguments.tuner if arguments.tuner is not None else DEFAULT_TUNER
    named = _given({name: getattr(arguments, name) for name in ("num_envs", "window_size", "judge")})
    evidence = _given({name: getattr(arguments, name) for name in ("minimal_effect", "windows_per_false_alarm")})
    record = read_record(directory) if arguments.resume and has_record(directory) else None
    if record is not None:
        preset = _recorded_preset(record)
        _check_same({"env_id": arguments.env_id, "agent": arguments.agent, "seed": arguments.seed}, record)
        _check_same({**named, **evidence, "tuner": arguments.tuner}, record)
        agent, seed, tuner = record.agent, record.seed, record.settings.get("tuner", DEFAULT_TUNER)
        max_steps = max_steps if max_steps is not None else record.settings.get("max_steps")
    else:
        preset = preset_for(arguments.env_id, agent)
        preset = dataclasses.replace(preset, evidence={**preset.evidence, **evidence}, **named)
        if arguments.params is not None:
            preset = dataclasses.replace(preset, agent={**preset.agent, **_read_params(arguments.params, agent)})
    if arguments.learner == "process" and source_of(agent).learns_each:
        raise ConfigurationError(
            f"--learner: expected thread for {agent}, which learns from each step where it acts, got process"
        )
    return TrainSettings(
        env_id=arguments.env_id,
        agent=agent,
        learner=arguments.learner,
        rolls_back=arguments.rollback,
        tuner=tuner,
        seed=seed,
        preset=preset,
        max_steps=max_steps,
        checkpoint_dir=directory,
        resume=arguments.resume,
        checkpoint_every=arguments.checkpoint_every,
        plot=arguments.plot,
        as_json=arguments.json,
        is_quiet=arguments.quiet,
        is_debug=arguments.debug,
    )


def _read_params(path: Path, agent: str) -> dict[str, Any]:
    """The agent's keywords in a file, which may be the result of a search."""
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--params: cannot read {path}: {error}") from error
    if isinstance(found, dict) and isinstance(found.get("best"), dict):
        if found.get("agent") != agent:
            raise ConfigurationError(f"--params: {path} is for the agent {found.get('agent')}, not for {agent}")
        found = found["best"].get("params")
    if not isinstance(found, dict):
        raise ConfigurationError(f"--params: expected an object in {path}, got {type(found).__name__}")
    return found


def _recorded_preset(record: RunRecord) -> Preset:
    known = [field.name for field in dataclasses.fields(Preset)]
    return Preset(**{name: record.settings[name] for name in known if name in record.settings})


def _check_same(named: Mapping[str, Any], record: RunRecord) -> None:
    evidence = dataclasses.asdict(EvidenceConfig(**record.settings.get("evidence", {})))
    recorded = {**record.settings, **evidence, "env_id": record.env_id, "agent": record.agent, "seed": record.seed}
    for name, value in named.items():
        if value is not None and value != recorded.get(name):
            what = name if name == "env_id" else f"--{name.replace('_', '-')}"
            raise ConfigurationError(f"{what}: expected {recorded.get(name)} as in the run to resume, got {value}")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def train(settings: TrainSettings) -> None:
    """Train, evaluate and report.

    Raises:
        ConfigurationError: the run cannot begin.
        CheckpointError: the checkpoint directory cannot be used.
        Exception: what made the run fail.
    """
    drawing = "cli" if settings.plot is not None else None
    require_extras(
        f"training {settings.env_id} with {settings.agent}", "gymnasium", source_of(settings.agent).extra, drawing
    )
    _check_plot(settings.plot)
    history = RunHistory(smoothing=settings.preset.smoothing)
    with _make_session(settings, history) as session:
        warning = None if settings.resume else _warning_of_replacement(settings.checkpoint_dir)
        if warning is not None:
            # Also where it is to be quiet: something will be gone.
            sys.stderr.write(f"optix-stream: warning: {warning}\n")
        if not settings.is_quiet:
            sys.stderr.write(f"optix-stream: {_describe(settings)}\n")
            sys.stderr.flush()
        outcome = anyio.run(run_session, session)
    facts = reports.TrainReport(
        env=settings.env_id,
        agent=settings.agent,
        seed=settings.seed,
        checkpoint_dir=settings.checkpoint_dir,
        report=outcome.report,
        evaluation=outcome.evaluation,
    )
    picture = None
    try:
        picture = _draw(settings, history, facts)
    finally:
        # Whatever becomes of the picture.
        sys.stdout.write(facts.as_json() if settings.as_json else facts.as_text(picture))
        sys.stdout.flush()


def _draw(settings: TrainSettings, history: RunHistory, facts: reports.TrainReport) -> Path | None:
    """Draw the picture, if one is wanted; returns where it is."""
    if settings.plot is None:
        return None
    from optix_stream.cli.plot import draw_run

    try:
        draw_run(history, facts, settings.plot)
    except OSError as error:
        raise CheckpointError(f"cannot write {settings.plot}: {error}") from error
    return settings.plot


@contextlib.contextmanager
def _make_session(settings: TrainSettings, history: RunHistory) -> Iterator[Session]:
    preset, adapter = settings.preset, gymnasium_adapter()
    env, observation_space, action_space = make_envs(settings.env_id, preset.num_envs)
    with contextlib.closing(env):
        pipeline = adapter.BatchPipeline(env, window_size=preset.window_size, seed=settings.seed)
        make = make_agent if settings.learner == "thread" else agent_recipe
        agent = make(settings.agent, observation_space, action_space, seed=settings.seed, config=preset.agent)
        if isinstance(agent, BaseAgent):
            history.hyperparams = agent.get_hyperparams().params
        optimizer = RLOptimizer(
            agent,
            pipeline,
            optimizer=make_tuner(settings.tuner, settings.agent, settings.seed),
            checkpoint_dir=settings.checkpoint_dir,
            rollback_on_degradation=settings.rolls_back,
            max_episodes=settings.max_windows,
            plateau_threshold=preset.plateau_threshold,
            dormant_threshold=preset.dormant_threshold,
            judge=_make_judge(settings),
            learner=settings.learner,
            resume=settings.resume,
            checkpoint_every=settings.checkpoint_every,
        )
        yield Session(
            optimizer=optimizer,
            history=history,
            display=_choose_display(settings, history),
            record=RunRecord(
                env_id=settings.env_id,
                agent=settings.agent,
                seed=settings.seed,
                settings={"max_steps": settings.max_steps, "tuner": settings.tuner, **dataclasses.asdict(preset)},
            ),
            checkpoint_dir=settings.checkpoint_dir,
            examine=lambda: Examiner(settings.env_id, optimizer.deterministic_policy(), SEED_OFFSET + settings.seed),
            episodes=_EPISODES,
        )


def _make_judge(settings: TrainSettings) -> Judge:
    preset = settings.preset
    if preset.judge == "threshold":
        return ThresholdJudge(smoothing=preset.smoothing, degradation_threshold=preset.degradation_threshold)
    return EvidenceJudge(EvidenceConfig(**preset.evidence))


def _choose_display(settings: TrainSettings, history: RunHistory) -> Display:
    if settings.is_quiet:
        return Silence()
    if settings.is_debug or not sys.stderr.isatty():
        return PlainLog(history)
    try:
        from rich.console import Console

        from optix_stream.cli.live import LiveDisplay
    except ModuleNotFoundError:
        return PlainLog(history)
    console = Console(stderr=True)
    if console.is_dumb_terminal:
        return PlainLog(history)
    return LiveDisplay(
        history,
        f"{settings.env_id} · {settings.agent} · seed {settings.seed}",
        now=SystemClock().now,
        max_windows=settings.max_windows,
        dormant_threshold=settings.preset.dormant_threshold if settings.preset.judge == "threshold" else None,
        console=console,
    )


def _describe(settings: TrainSettings) -> str:
    preset = settings.preset
    return (
        f"training {settings.env_id} with {settings.agent}, {counted(preset.num_envs, 'environment')}, "
        f"windows of {preset.window_size:,} steps, seed {settings.seed}, snapshots in {settings.checkpoint_dir}"
    )


def _warning_of_replacement(directory: Path) -> str | None:
    """What a run that begins anew there takes away; None: nothing."""
    resume_points = CheckpointRegistry(directory).run_checkpoints()
    if not resume_points:
        return None
    try:
        env_id = read_record(directory).env_id
    except CheckpointError:
        env_id = "an unknown environment"
    return (
        f"{directory} holds an earlier run of {env_id}, of {counted(resume_points[-1].window + 1, 'window')}; this run "
        "begins anew and replaces what that one could be resumed from, its best policies stay "
        "(--resume goes on with it)"
    )


def _check_plot(path: Path | None) -> None:
    """Find out now, not after an hour of training."""
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise ConfigurationError(f"--plot: expected a file name that ends in .png, got {path}")
    load_module("matplotlib", "--plot", "cli")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        was_there = path.exists()
        with path.open("ab"):
            pass
        if not was_there:
            # An empty file is no picture, should the run fail.
            path.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
