"""Each check must catch what it is for: every one of them is shown something broken."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from optix_stream.assembler import WindowAssembler
from optix_stream.boundaries import every_n_steps
from optix_stream.contracts import (
    BaseAgent,
    BaseEvaluator,
    BaseOptimizer,
    Outcome,
    Policy,
    Stateful,
    StreamItem,
    TransitionSink,
    Verdict,
)
from optix_stream.errors import CheckpointError
from optix_stream.events import GapDetected
from optix_stream.testing import (
    FakeClock,
    NullAgent,
    RecordingAgent,
    RecordingSink,
    ScriptedProducer,
    check_agent,
    check_evaluator,
    check_judge,
    check_optimizer,
    check_producer,
    check_sink,
    make_transition,
    make_window,
)
from optix_stream.types import EpisodeData, EvalMetrics, HyperparamSet, Transition

pytestmark = pytest.mark.anyio

WINDOW = make_window([1.0, 2.0, 6.0])
FLOAT_WINDOW = dataclasses.replace(WINDOW, actions=np.zeros(3))


# --- the clock -----------------------------------------------------------------------------------


async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    clock = FakeClock(start=100.0)
    woken: list[tuple[float, str]] = []

    async def sleeper(name: str, *waits: float) -> None:
        for wait in waits:
            await clock.sleep(wait)
            woken.append((clock.now(), name))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleeper, "slow", 5.0)
        tasks.start_soon(sleeper, "twice", 2.0, 1.0)
        tasks.start_soon(sleeper, "fast", 1.0)
        await clock.advance(4.0)
        assert clock.now() == 104.0
        assert clock.sleeping == 1
        assert woken == [(101.0, "fast"), (102.0, "twice"), (103.0, "twice")]
        await clock.advance(1.0)
    assert woken[-1] == (105.0, "slow")


async def test_time_jumps_when_there_is_nothing_else_to_do() -> None:
    clock = FakeClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.autojump)
        await clock.sleep(3600.0)
        await clock.sleep(86400.0)
        tasks.cancel_scope.cancel()
    assert clock.now() == 90000.0


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = FakeClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep, 5.0)
        await clock.settle()
        assert clock.sleeping == 1
        tasks.cancel_scope.cancel()
    assert clock.sleeping == 0


async def test_time_never_goes_back_and_nothing_waits_for_no_time() -> None:
    clock = FakeClock()
    await clock.sleep(0.0)
    await clock.sleep(-1.0)
    with pytest.raises(ValueError, match="expected 0 seconds or more, got -1"):
        await clock.advance(-1.0)


# --- agents --------------------------------------------------------------------------------------


def test_the_reference_agents_keep_every_promise() -> None:
    check_agent(NullAgent, WINDOW)
    check_agent(RecordingAgent, FLOAT_WINDOW)


class SharesItsParameters(RecordingAgent):
    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(self._params)


class KeepsWhatItIsGiven(RecordingAgent):
    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._params = hyperparams.params


class IgnoresItsParameters(RecordingAgent):
    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._params = {"learning_rate": 99.0}


class ActsInAnotherShape(RecordingAgent):
    def act(self, observation: Any) -> Any:
        return np.zeros(2)


class SpoilsTheWindow(RecordingAgent):
    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        diagnostics = super().learn(episode_data)
        episode_data.rewards[:] = 0.0
        return diagnostics


class ReportsText(RecordingAgent):
    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        return {"loss": "small"}  # type: ignore[dict-item]


class SavesNothing(RecordingAgent):
    def save_weights(self, path: str) -> None:
        Path(path).touch()

    def load_weights(self, path: str) -> None:
        Path(path).stat()


class RestoresNothing(RecordingAgent):
    def restore_state(self, state: Any) -> None:
        pass


class CapturesAReference(RecordingAgent):
    """What was captured changes with the agent."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = [0.0]

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        diagnostics = super().learn(episode_data)
        self.cell[0] = self.weight
        return diagnostics

    def capture_state(self) -> Any:
        return self.cell

    def restore_state(self, state: Any) -> None:
        self.weight = state[0]


class PublishesItself(RecordingAgent):
    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        agent = self

        class Live:
            version = 0

            def act(self, observations: Any) -> Any:
                return RecordingAgent.publish_policy(agent).act(observations)

        return Live()


@pytest.mark.parametrize(
    ("make_agent", "text"),
    [
        (SharesItsParameters, "get_hyperparams: expected a copy"),
        (KeepsWhatItIsGiven, "set_hyperparams: expected a copy to be taken"),
        (IgnoresItsParameters, "get_hyperparams after set_hyperparams: expected"),
        (ActsInAnotherShape, r"act: expected an action of shape \[\], got \[2\]"),
        (SpoilsTheWindow, "expected the window to be left alone, but it changed rewards"),
        (ReportsText, "learn: expected a number for 'loss', got 'small'"),
        (SavesNothing, "load_weights into a fresh agent: expected the behaviour"),
        (RestoresNothing, "restore_state: expected the behaviour"),
        (CapturesAReference, "restore_state: expected the behaviour"),
        (PublishesItself, "publish_policy: expected a policy that never changes"),
    ],
)
def test_an_agent_that_breaks_a_promise_is_caught(make_agent: Callable[[], BaseAgent], text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_agent(make_agent, copy.deepcopy(FLOAT_WINDOW))  # One of them spoils it.


# --- producers and sinks -------------------------------------------------------------------------


def script_of(*numbers: int, **changes: Any) -> list[StreamItem]:
    return [make_transition(number, **changes) for number in numbers]


@pytest.mark.parametrize(
    "script",
    [
        script_of(0, 1, 2),
        [*script_of(0, 1), GapDetected(stream=0, reason="test"), *script_of(7)],
        [*script_of(0), *script_of(1, truncated=True), *script_of(7)],
        [*script_of(0, stream="a"), *script_of(9, stream="b"), *script_of(1, stream="a")],
    ],
)
async def test_a_producer_that_keeps_its_promises_passes(script: list[StreamItem]) -> None:
    assert await check_producer(ScriptedProducer(script)) == script


WIDE = Transition(np.zeros(2, np.float32), np.int64(0), 0.0, np.zeros(2, np.float32), stream="wide")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ([], "run: expected transitions"),
        (script_of(0, 1, 7), "expected stream 0 to go on from"),
        (script_of(0, reward=float("nan")), "reward: expected a finite number, got nan"),
        ([*script_of(0), WIDE], "expected the shapes of the first"),
        (["nonsense"], "run: expected transitions"),
        ([*script_of(0), "nonsense"], "expected a transition, a batch or an event, got 'nonsense'"),
    ],
)
async def test_a_producer_that_breaks_a_promise_is_caught(script: list[Any], text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        await check_producer(ScriptedProducer(script))


async def test_a_producer_that_never_ends_is_cancelled_when_there_is_enough() -> None:
    items = await check_producer(ScriptedProducer(script_of(*range(50)), stays_open=True), transitions=20)
    assert 20 <= len(items) < 50  # The order of tasks is open: one more may come through before the cancellation does.


async def test_a_scripted_producer_waits_for_its_signals_and_fails_when_told() -> None:
    signal, clock, sink = anyio.Event(), FakeClock(), RecordingSink()
    producer = ScriptedProducer([*script_of(0), signal, *script_of(1)], error=ZeroDivisionError())
    failed: list[bool] = []

    async def run() -> None:
        with pytest.raises(ZeroDivisionError):
            await producer.run(NullAgentPolicy, sink)
        failed.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await clock.settle()
        assert (producer.pushed, failed) == (1, [])
        signal.set()
    assert (len(sink.transitions), failed) == (2, [True])


NullAgentPolicy = RecordingAgent().publish_policy()


async def test_a_sink_that_changes_what_it_takes_is_caught() -> None:
    class Scaling:
        async def push(self, item: StreamItem) -> None:
            if isinstance(item, Transition):
                item.reward *= 0.5

    sink: TransitionSink = Scaling()
    with pytest.raises(AssertionError, match="push: expected row 0 to be left alone"):
        await check_sink(sink, script_of(3))


# --- scoring and tuning --------------------------------------------------------------------------


class Scoring(BaseEvaluator):
    def __init__(self, score: Callable[[EpisodeData], float], window: int = 0) -> None:
        self._score = score
        self._window = window

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        return EvalMetrics(self._score(episode_data), {}, episode_data.episode_id + self._window)


class AlwaysBetter(Scoring):
    def compare(self, candidate: EvalMetrics, baseline: EvalMetrics) -> bool:
        return True


def spoil(window: EpisodeData) -> float:
    window.rewards[0] += 1.0
    return 0.0


def counter() -> Callable[[EpisodeData], float]:
    """Every evaluator made from it shares a count."""
    count = iter(range(1000))
    return lambda window: float(next(count))


SHARED_COUNTER = counter()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Scoring(spoil), "expected the window to be left alone, but it changed rewards"),
        (lambda: Scoring(SHARED_COUNTER), "expected the same from two evaluators"),
        (lambda: Scoring(lambda window: float("inf")), "expected a finite number, got inf"),
        (lambda: Scoring(lambda window: 0.0, window=1), "expected episode_id 0, that of the window, got 1"),
        (lambda: AlwaysBetter(lambda window: 0.0), "expected no score to be better than itself"),
    ],
)
def test_an_evaluator_that_breaks_a_promise_is_caught(make: Callable[[], BaseEvaluator], text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_evaluator(make, [make_window([1.0, 2.0])])


class Counting:
    """A judge whose verdict is how many scores it has seen."""

    def __init__(self, evidence: str = "seen", forgets: bool = True, start: int = 0) -> None:
        self.count = start
        self.evidence = evidence
        self.forgets = forgets

    def update(self, metrics: EvalMetrics) -> Verdict:
        self.count += 1
        return Verdict(outcome=Outcome.UNCHANGED, evidence=self.evidence, facts={"count": self.count})

    def restart(self) -> None:
        if self.forgets:
            self.count = 0

    def reinstate(self) -> None:
        pass


def test_a_judge_that_breaks_a_promise_is_caught() -> None:
    starts = iter([0, 5])
    check_judge(Counting, [1.0, 2.0])
    with pytest.raises(AssertionError, match="expected evidence in words"):
        check_judge(lambda: Counting(evidence=" "), [1.0])
    with pytest.raises(AssertionError, match="the judge after restart, verdict 0"):
        check_judge(lambda: Counting(forgets=False), [1.0])
    with pytest.raises(AssertionError, match="a second judge, verdict 0"):
        check_judge(lambda: Counting(start=next(starts)), [1.0])


class Suggesting(BaseOptimizer):
    def __init__(self, change: Callable[[dict[str, Any]], dict[str, Any]], on_nothing: bool = False) -> None:
        self._change = change
        self._on_nothing = on_nothing

    def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
        if not metrics_history and not self._on_nothing:
            return current_hyperparams.copy()
        return HyperparamSet(self._change(current_hyperparams.params))


def change_in_place(params: dict[str, Any]) -> dict[str, Any]:
    params["x"] = 2.0
    return dict(params)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda params: {**params, "x": 11.0}, "x: expected 0.0 to 10.0, got 11.0"),
        (lambda params: {**params, "y": 0.0}, "y has no bounds: expected it to stay 7.0, got 0.0"),
        (lambda params: {**params, "z": 0.0}, "expected the keys"),
        (lambda params: {"x": 1.0}, "expected the keys"),
        (change_in_place, "expected its input to be left alone"),
        (lambda params: params, "expected a copy"),
    ],
)
def test_an_optimizer_that_breaks_a_promise_is_caught(
    change: Callable[[dict[str, Any]], dict[str, Any]], text: str
) -> None:
    params, bounds = HyperparamSet({"x": 1.0, "y": 7.0}), {"x": (0.0, 10.0)}
    check_optimizer(lambda: Suggesting(dict), params, bounds, [1.0, 2.0])
    with pytest.raises(AssertionError, match=text):
        check_optimizer(lambda: Suggesting(change), params, bounds, [1.0, 2.0])


def test_an_optimizer_that_acts_without_scores_is_caught() -> None:
    with pytest.raises(AssertionError, match="suggest without history"):
        check_optimizer(
            lambda: Suggesting(lambda params: {"x": 2.0}, on_nothing=True), HyperparamSet({"x": 1.0}), {}, [1.0]
        )


@pytest.mark.parametrize(
    ("limits", "value", "text"),
    [
        ((1, 9), 2.5, "x: expected an integer, got 2.5"),
        ([1, 3, 5], 2, r"x: expected one of \[1, 3, 5\], got 2"),
    ],
)
def test_an_optimizer_with_a_value_that_is_none_of_its_parameter_s_is_caught(
    limits: Any, value: float, text: str
) -> None:
    with pytest.raises(AssertionError, match=text):
        check_optimizer(lambda: Suggesting(lambda params: {"x": value}), HyperparamSet({"x": 1}), {"x": limits}, [1.0])


class Remembering(Suggesting, Stateful):
    """Counts its suggestions; what it saves and restores of that is up to the test."""

    def __init__(self, saves: bool = True, refuses: bool = True, probes_on: bool = False) -> None:
        super().__init__(lambda params: {"x": float(self.count)})
        self.count = 0
        self._saves = saves
        self._refuses = refuses
        self._probes_on = probes_on

    @property
    def is_probing(self) -> bool:
        return self._probes_on

    def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
        self.count += len(metrics_history) > 0
        return super().suggest(current_hyperparams, metrics_history)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count if self._saves else 0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "count" not in state and self._refuses:
            raise CheckpointError("no count")
        self.count = state.get("count", 0)


@pytest.mark.parametrize(
    ("promises", "text"),
    [
        ({"saves": False}, r"suggestion 1, restored: expected \{'x': 2.0\}, got \{'x': 1.0\}"),
        ({"refuses": False}, "expected a CheckpointError from a state that is none"),
        ({"probes_on": True}, "settle: expected the probe to have ended"),
    ],
)
def test_an_optimizer_that_cannot_go_on_where_it_was_is_caught(promises: dict[str, bool], text: str) -> None:
    start, bounds = HyperparamSet({"x": 1.0}), {"x": (0.0, 9.0)}
    check_optimizer(Remembering, start, bounds, [1.0, 2.0, 3.0])
    with pytest.raises(AssertionError, match=text):
        check_optimizer(lambda: Remembering(**promises), start, bounds, [1.0, 2.0, 3.0])


def test_a_made_transition_goes_on_where_the_last_one_ended() -> None:
    assembler = WindowAssembler(every_n_steps(3))
    windows = [assembler.feed(make_transition(index)) for index in range(3)]
    assert windows[2] is not None
    assert windows[2].next_observations[:-1].tolist() == windows[2].observations[1:].tolist()
