from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.from_thread
import numpy as np
import pytest

from optix_stream.contracts import BaseAgent, Decision, Policy, act_one_of, as_policy
from optix_stream.learner import PublishedPolicy, ThreadLearner
from optix_stream.testing import FakeClock, NullAgent, RecordingAgent, make_window
from optix_stream.types import EpisodeData

pytestmark = pytest.mark.anyio

WINDOW = make_window([1.0, 3.0])
OBSERVATION = np.zeros((1, 2))


def action_of(policy: Policy) -> float:
    return float(policy.act(OBSERVATION).actions[0])


async def test_what_was_learned_is_published() -> None:
    learner = ThreadLearner(RecordingAgent(learning_rate=0.5))
    before = learner.policy.version
    assert await learner.learn(WINDOW) == {"weight": 1.0}
    assert learner.policy.version == before + 1
    assert action_of(learner.policy) == 1.0


async def test_learning_runs_in_another_thread_and_acting_goes_on_with_the_old_policy() -> None:
    """Acting never waits for learning: the original system acted, learned and saved in turns."""
    release, threads = threading.Event(), []
    is_learning = anyio.Event()

    class Slow(RecordingAgent):
        def learn(self, episode_data: EpisodeData) -> dict[str, float]:
            threads.append(threading.get_ident())
            diagnostics = super().learn(episode_data)
            anyio.from_thread.run_sync(is_learning.set)
            assert release.wait(60)
            return diagnostics

    learner = ThreadLearner(Slow())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(learner.learn, WINDOW)
        await is_learning.wait()
        assert action_of(learner.policy) == 0.0
        release.set()
    assert action_of(learner.policy) == 1.0
    assert threads != [threading.get_ident()]


async def test_a_failed_window_leaves_the_agent_as_it_was() -> None:
    agent = RecordingAgent(fail_on=frozenset({0}))
    agent.weight = 5.0
    learner = ThreadLearner(agent)
    before = learner.policy.version
    with pytest.raises(RuntimeError, match="told to fail on window 0"):
        await learner.learn(WINDOW)
    assert (agent.weight, learner.policy.version) == (5.0, before)


async def test_an_agent_whose_policy_cannot_be_published_has_learned_nothing() -> None:
    class Unpublishable(RecordingAgent):
        def publish_policy(self, *, deterministic: bool = False) -> Policy:
            if self.windows:
                raise ZeroDivisionError
            return super().publish_policy(deterministic=deterministic)

    agent = Unpublishable()
    learner = ThreadLearner(agent)
    with pytest.raises(ZeroDivisionError):
        await learner.learn(WINDOW)
    assert agent.weight == 0.0
    assert action_of(learner.policy) == 0.0


async def test_learning_that_has_begun_is_finished_when_the_caller_is_cancelled() -> None:
    release, finished = threading.Event(), []
    is_learning = anyio.Event()

    class Slow(NullAgent):
        def learn(self, episode_data: EpisodeData) -> dict[str, float]:
            anyio.from_thread.run_sync(is_learning.set)
            assert release.wait(60)
            finished.append(True)
            return {}

    learner = ThreadLearner(Slow())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(learner.learn, WINDOW)
        await is_learning.wait()
        tasks.cancel_scope.cancel()
        release.set()
    assert finished == [True]


async def test_calls_take_turns() -> None:
    running = [0]
    most = [0]
    lock = threading.Lock()

    def call(agent: BaseAgent) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        # Long enough for another thread to take its turn, if it could.
        threading.Event().wait(0.001)
        with lock:
            running[0] -= 1

    learner = ThreadLearner(NullAgent())
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(learner.call, call)
    assert most == [1]


async def test_an_agent_that_reports_nothing_is_understood() -> None:
    class Silent(NullAgent):
        def learn(self, episode_data: EpisodeData) -> Any:
            return None

    assert await ThreadLearner(Silent()).learn(WINDOW) == {}


def test_a_policy_is_swapped_by_one_assignment() -> None:
    first, second = RecordingAgent(), RecordingAgent()
    second.weight = 2.0
    policy = PublishedPolicy(first.publish_policy())
    assert (action_of(policy), policy.version) == (0.0, 0)
    policy.publish(second.publish_policy())
    assert (action_of(policy), policy.version) == (2.0, 1)


async def test_an_agent_that_publishes_nothing_acts_row_by_row() -> None:
    learner = ThreadLearner(NullAgent(action=4))
    assert learner.policy.act(np.zeros((3, 2))).actions.tolist() == [4, 4, 4]
    tree = {"a": np.zeros((2, 1)), "b": (np.zeros((2, 5)), np.zeros(2))}
    seen: list[Any] = []

    class Seeing(NullAgent):
        def act(self, observation: Any) -> Any:
            seen.append((observation["a"].shape, observation["b"][0].shape, np.shape(observation["b"][1])))
            return 0

    assert ThreadLearner(Seeing()).policy.act(tree).actions.tolist() == [0, 0]
    assert seen == [((1,), (5,), ())] * 2
    await FakeClock().settle()


def test_one_observation_is_decided_by_the_policy_in_force() -> None:
    agent = RecordingAgent(learning_rate=0.5)
    policy = PublishedPolicy(agent.publish_policy())
    act_one = act_one_of(policy)
    assert act_one(OBSERVATION[0])[0] == 0.0
    agent.learn(WINDOW)
    policy.publish(agent.publish_policy())
    action, extras = act_one(OBSERVATION[0])
    assert (action, extras["weight"]) == (1.0, 1.0)


def test_an_agent_without_a_policy_of_its_own_is_asked_as_it_is() -> None:
    seen: list[Any] = []

    class Asked(NullAgent):
        def act(self, observation: Any) -> Any:
            seen.append(observation)
            return 7

    observation = {"position": np.zeros(2)}
    action, extras = act_one_of(PublishedPolicy(as_policy(Asked())))(observation)
    assert (action, dict(extras)) == (7, {})
    assert seen == [observation]


def test_a_policy_with_a_single_way_to_act_is_given_a_batch_of_one() -> None:
    class Doubles:
        version = 0

        def act(self, observations: Any) -> Decision:
            return Decision(2 * observations, {"seen": observations})

    action, extras = act_one_of(Doubles())(np.array([3.0]))
    assert (action.tolist(), extras["seen"].tolist()) == ([6.0], [3.0])
