"""``optix-stream tune``: many independent runs of the loop, by an Optuna study that gives the poor ones up early."""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgspec

from optix_stream.bus import Subscription
from optix_stream.cli.evaluation import SEED_OFFSET, Evaluation, Examiner
from optix_stream.cli.formatting import counted, pairs, score
from optix_stream.cli.loading import gymnasium_adapter, load_module, make_agent, make_envs, require_extras, source_of
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.events import WindowScored
from optix_stream.judges import ThresholdJudge
from optix_stream.optimizers.parameters import Choices, Range, parse_bounds
from optix_stream.presets import Preset, preset_for
from optix_stream.rl_optimizer import RLOptimizer
from optix_stream.search_spaces import OFFLINE

PRUNERS = ("median", "hyperband", "none")
_REPORTS = 10
_NEVER = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneSettings:
    """One search.

    Attributes:
        env_id: Gymnasium's name of the environment.
        agent: name of the agent.
        trials: runs to make.
        max_steps: environment steps of each.
        episodes: of the evaluation that gives a run its value.
        pruner: what gives poor runs up.
        seed: of the search; each run adds its number.
        out: the JSON file that the result goes to.
        as_json: report as one line of JSON.
        is_quiet: show no progress.
    """

    env_id: str
    agent: str
    trials: int
    max_steps: int
    episodes: int
    pruner: str
    seed: int
    out: Path
    as_json: bool
    is_quiet: bool


class TrialResult(msgspec.Struct, frozen=True):
    """One run.

    Attributes:
        number: from 0.
        value: mean return of the best policy over the evaluation's episodes; None: the run was given up.
        params: the agent's keywords.
    """

    number: int
    value: float | None
    params: dict[str, Any]


class TuneResult(msgspec.Struct, frozen=True):
    """A search.

    Attributes:
        env: name of the environment.
        agent: name of the agent.
        seed: of the search.
        max_steps: environment steps of each run.
        best: the run with the greatest value.
        trials: all of them.
    """

    env: str
    agent: str
    seed: int
    max_steps: int
    best: TrialResult
    trials: list[TrialResult]


def settings_of(arguments: argparse.Namespace) -> TuneSettings:
    """What the command line asks for."""
    agent, env_id = arguments.agent, arguments.env_id
    name = env_id.replace(":", "-").replace("/", "-")
    return TuneSettings(
        env_id=env_id,
        agent=agent,
        trials=arguments.trials,
        max_steps=arguments.max_steps,
        episodes=arguments.episodes,
        pruner=arguments.pruner,
        seed=arguments.seed,
        out=arguments.out if arguments.out is not None else Path(f"tuned-{name}-{agent}.json"),
        as_json=arguments.json,
        is_quiet=arguments.quiet,
    )


def tune(settings: TuneSettings) -> None:
    """Search, write the result and report it. Ctrl-C ends the search with what it has found.

    Raises:
        ConfigurationError: it cannot begin, or no run came to its end.
        CheckpointError: the result cannot be written.
        Exception: what made a run fail.
    """
    require_extras("tuning", "tune", "gymnasium", source_of(settings.agent).extra)
    optuna = load_module("optuna", "tuning", "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _check_writable(settings.out)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=settings.seed),
        pruner=_make_pruner(optuna, settings),
    )
    with contextlib.suppress(KeyboardInterrupt):
        for _ in range(settings.trials):
            _run_trial(optuna, study, settings)
    # Of a run that was given up, the study keeps the last score as its value.
    complete = optuna.trial.TrialState.COMPLETE
    trials = [
        TrialResult(trial.number, trial.value if trial.state == complete else None, dict(trial.params))
        for trial in study.trials
    ]
    finished = [trial for trial in trials if trial.value is not None]
    if not finished:
        raise ConfigurationError("no trial came to its end: expected more of them, or more patience")
    best = max(finished, key=lambda trial: -math.inf if trial.value is None else trial.value)
    result = TuneResult(settings.env_id, settings.agent, settings.seed, settings.max_steps, best, trials)
    try:
        settings.out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    except OSError as error:
        raise CheckpointError(f"cannot write {settings.out}: {error}") from error
    sys.stdout.write(_as_json(result) if settings.as_json else _as_text(result, settings.out))
    sys.stdout.flush()


def _run_trial(optuna: Any, study: Any, settings: TuneSettings) -> None:
    trial = study.ask()
    preset = preset_for(settings.env_id, settings.agent)
    found = {name: _suggest(trial, name, spec) for name, spec in parse_bounds(OFFLINE[settings.agent]).items()}
    with _make_loop(settings, preset, {**preset.agent, **found}, settings.seed + trial.number) as loop:
        if anyio.run(_run, loop, trial, preset, _windows(settings, preset)):
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            value = None
        else:
            value = _evaluate(settings, loop)
            study.tell(trial, value)
    if not settings.is_quiet:
        outcome = "given up" if value is None else score(value)
        sys.stderr.write(f"trial {trial.number + 1} of {settings.trials}: {outcome}  {pairs(found)}\n")
        sys.stderr.flush()


def _suggest(trial: Any, name: str, spec: Range | Choices) -> Any:
    if isinstance(spec, Choices):
        return trial.suggest_categorical(name, spec.values)
    suggest = trial.suggest_int if spec.is_integer else trial.suggest_float
    return suggest(name, spec.low, spec.high, log=spec.is_log)


@contextlib.contextmanager
def _make_loop(settings: TuneSettings, preset: Preset, config: dict[str, Any], seed: int) -> Iterator[RLOptimizer]:
    env, observation_space, action_space = make_envs(settings.env_id, preset.num_envs)
    with contextlib.closing(env), tempfile.TemporaryDirectory() as directory:
        yield RLOptimizer(
            make_agent(settings.agent, observation_space, action_space, seed=seed, config=config),
            gymnasium_adapter().BatchPipeline(env, window_size=preset.window_size, seed=seed),
            checkpoint_dir=directory,
            max_snapshots=1,
            max_episodes=_windows(settings, preset),
            # Every run has the same budget, so that values can be compared.
            plateau_threshold=_NEVER,
            dormant_threshold=_NEVER,
            judge=ThresholdJudge(smoothing=preset.smoothing),
        )


async def _run(loop: RLOptimizer, trial: Any, preset: Preset, windows: int) -> bool:
    """The run; whether it was given up."""
    given_up: list[bool] = []
    async with loop.events(name="tune", buffer_size=windows + 1024) as events, anyio.create_task_group() as tasks:
        tasks.start_soon(_watch, events, loop, trial, preset, max(windows // _REPORTS, 1), given_up)
        await loop.run()
    return bool(given_up)


async def _watch(
    events: Subscription, loop: RLOptimizer, trial: Any, preset: Preset, interval: int, given_up: list[bool]
) -> None:
    """Report the smoothed score ten times a run, and stop the loop where the pruner says so."""
    scores: list[float] = []
    basis = None
    windows = 0
    async for event in events:
        if not isinstance(event, WindowScored):
            continue
        windows += 1
        if event.metrics is not None:
            if event.metrics.basis != basis:
                scores, basis = [], event.metrics.basis
            scores = [*scores, event.metrics.primary_score][-preset.smoothing :]
        if windows % interval == 0 and scores and not given_up:
            trial.report(statistics.fmean(scores), windows)
            if trial.should_prune():
                given_up.append(True)
                loop.stop()


def _evaluate(settings: TuneSettings, loop: RLOptimizer) -> float:
    with Examiner(settings.env_id, loop.deterministic_policy(), SEED_OFFSET + settings.seed) as examiner:
        while len(examiner.returns) < settings.episodes:
            examiner.play()
    if examiner.cut_off and not settings.is_quiet:
        sys.stderr.write(f"evaluation: {Evaluation.of(examiner.returns, examiner.cut_off)}\n")
    return statistics.fmean(examiner.returns)


def _windows(settings: TuneSettings, preset: Preset) -> int:
    return math.ceil(settings.max_steps / preset.window_size)


def _make_pruner(optuna: Any, settings: TuneSettings) -> Any:
    windows = _windows(settings, preset_for(settings.env_id, settings.agent))
    match settings.pruner:
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=windows // 4)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=max(windows // _REPORTS, 1), max_resource=windows)
        case _:
            return optuna.pruners.NopPruner()


def _check_writable(path: Path) -> None:
    """Find out now, not after an hour."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error


def _as_json(result: TuneResult) -> str:
    return msgspec.json.encode(result).decode() + "\n"


def _as_text(result: TuneResult, out: Path) -> str:
    given_up = sum(trial.value is None for trial in result.trials)
    rows = "".join(
        f"  {name:<20} {msgspec.json.encode(value).decode()}\n" for name, value in result.best.params.items()
    )
    return (
        f"{result.env} · {result.agent} · {counted(len(result.trials), 'trial')} of {result.max_steps:,} steps, "
        f"{given_up} given up\n"
        f"  best: trial {result.best.number + 1}, {score(result.best.value)} without exploration\n{rows}"
        f"written to {out}\n"
        f"Next: optix-stream train {result.env} --agent {result.agent} --params {out}\n"
    )
