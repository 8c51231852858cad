"""The streaming agents: what they learn from, what they publish, and what they refuse."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optix_stream.agents import StreamACAgent, StreamAgent, StreamConfig, StreamQAgent, StreamQConfig
from optix_stream.contracts import SingleActor
from optix_stream.errors import CheckpointError, ConfigurationError, TransitionMismatchError
from optix_stream.testing import check_agent
from optix_stream.types import Array, EpisodeData, HyperparamSet, StreamId, Transition


class Box:
    def __init__(self, low: Any, high: Any) -> None:
        self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        self.shape, self.dtype = self.low.shape, self.low.dtype


@dataclass
class Discrete:
    n: int
    start: int = 0


class ContinuousACAgent(StreamACAgent):
    """By its class a test knows what its actions are."""


SIGHT = Box([-np.inf, -np.inf], [np.inf, np.inf])


def make_ac(seed: int = 0, hidden: Any = (16, 12), **config: Any) -> StreamACAgent:
    return StreamACAgent.for_spaces(SIGHT, Discrete(3, start=1), hidden=hidden, seed=seed, **config)


def make_continuous(seed: int = 0) -> ContinuousACAgent:
    return ContinuousACAgent.for_spaces(SIGHT, Box([-2.0], [2.0]), hidden=(16, 12), seed=seed)


def make_q(seed: int = 0, **config: Any) -> StreamQAgent:
    return StreamQAgent.for_spaces(SIGHT, Discrete(3, start=1), hidden=(16,), seed=seed, **config)


Make = Callable[..., StreamAgent]
every_agent = pytest.mark.parametrize("make", [make_ac, make_continuous, make_q])


class Walk:
    """A stream of transitions that an agent acts in: a point that is to be kept near the origin."""

    def __init__(self, agent: StreamAgent, seed: int = 0, stream: StreamId = 0) -> None:
        self._agent = agent
        self._policy = agent.live_policy()
        self._rng = np.random.default_rng(seed)
        self._stream = stream
        self._steps = 0
        self._at = self._rng.normal(size=2)
        self.actions: list[float] = []

    def next(self) -> Transition:
        assert isinstance(self._policy, SingleActor)
        action, extras = self._policy.act_one(self._at)
        self.actions.append(float(np.asarray(action).reshape(-1)[0]))
        before = self._at
        self._at = 0.9 * before + 0.1 * self.actions[-1] + 0.2 * self._rng.normal(size=2)
        self._steps += 1
        terminated, truncated = self._steps % 17 == 0, self._steps % 11 == 0
        transition = Transition(
            before, action, -float(np.abs(self._at).sum()), self._at, terminated, truncated, None, self._stream, extras
        )
        if terminated or truncated:
            self._at = self._rng.normal(size=2)
        return transition

    def learn(self, count: int) -> None:
        for _ in range(count):
            self._agent.learn_one(self.next())


def parameters(agent: StreamAgent) -> Array:
    captured: Array = agent.capture_state().parameters
    return captured


def traces(agent: StreamAgent, stream: StreamId = 0) -> Array:
    """What the agent remembers of a stream's past gradients, to be compared before they are changed."""
    captured: Array = agent.capture_state().streams[stream].traces
    return captured


def step(
    agent: StreamAgent,
    observation: list[float],
    following: list[float],
    *,
    reward: float = 1.0,
    action: int = 1,
    terminated: bool = False,
    truncated: bool = False,
    stream: StreamId = 0,
) -> dict[str, float]:
    done = np.array([action - 2.0]) if isinstance(agent, ContinuousACAgent) else action
    transition = Transition(
        np.array(observation), done, reward, np.array(following), terminated, truncated, None, stream
    )
    return dict(agent.learn_one(transition))


# --- the contract


@every_agent
def test_keeps_the_contract_of_every_agent(make: Make) -> None:
    agent = make()
    policy = agent.publish_policy()
    observations = np.random.default_rng(0).normal(size=(6, 2))
    decision = policy.act(observations)
    window = EpisodeData(
        observations=observations,
        actions=decision.actions,
        rewards=np.arange(6.0),
        terminated=np.zeros(6, np.bool_),
        truncated=np.zeros(6, np.bool_),
        infos=[{}] * 6,
        episode_id=0,
        next_observations=observations + 0.1,
        extras=decision.extras,
    )
    check_agent(make, window)


@every_agent
def test_one_seed_gives_one_run(make: Make) -> None:
    runs: list[tuple[list[float], Array]] = []
    for seed in (5, 5, 6):
        agent = make(seed)
        walk = Walk(agent)
        walk.learn(60)
        runs.append((walk.actions, parameters(agent)))
    assert runs[0][0] == runs[1][0]
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


@every_agent
def test_a_published_policy_stays_as_it_was(make: Make) -> None:
    agent = make()
    walk = Walk(agent)
    walk.learn(30)
    policy = agent.publish_policy(deterministic=True)
    observations = np.random.default_rng(1).normal(size=(50, 2))
    before, version = policy.act(observations).actions, policy.version
    # Far away, so that moments change as well as weights.
    for index in range(200):
        step(agent, [50.0 + index, -3.0], [51.0 + index, -3.0], reward=float(index % 7), action=1 + index % 2)
    np.testing.assert_array_equal(policy.act(observations).actions, before)
    assert policy.version == version
    later = agent.publish_policy(deterministic=True)
    assert later.version > version
    assert not np.array_equal(later.act(observations).actions, before)


@every_agent
def test_a_policy_answers_for_one_as_for_a_batch_of_one(make: Make) -> None:
    agent = make()
    Walk(agent).learn(30)
    policy = agent.publish_policy(deterministic=True)
    assert isinstance(policy, SingleActor)
    for observation in np.random.default_rng(1).normal(size=(10, 2)):
        action, extras = policy.act_one(observation)
        np.testing.assert_array_equal(action, policy.act(observation[None]).actions[0])
        assert extras == {}


@every_agent
def test_the_live_policy_acts_by_the_weights_of_the_moment(make: Make) -> None:
    agent = make()
    policy = agent.live_policy()
    version = policy.version
    decision = policy.act(np.zeros((4, 2)))
    assert len(decision.actions) == 4
    assert all(len(column) == 4 for column in decision.extras.values())
    assert len(policy.act(np.zeros((0, 2))).actions) == 0
    Walk(agent).learn(5)
    assert policy.version > version


def test_exploring_policies_draw_and_best_ones_do_not() -> None:
    for agent in (make_ac(), make_q()):
        explored = agent.publish_policy().act(np.zeros((300, 2))).actions
        assert set(explored) == {1, 2, 3}
        assert len(set(agent.publish_policy(deterministic=True).act(np.zeros((300, 2))).actions)) == 1
        assert {agent.act(np.zeros(2)) for _ in range(100)} == {1, 2, 3}


def test_continuous_actions_keep_what_was_drawn() -> None:
    agent = make_continuous()
    decision = agent.publish_policy().act(np.zeros((200, 2)))
    raw = decision.extras["raw_action"]
    np.testing.assert_allclose(decision.actions, np.clip(2.0 * raw, -2.0, 2.0), rtol=1e-6)
    assert (np.abs(raw) > 1.0).any()
    policy = agent.publish_policy()
    assert isinstance(policy, SingleActor)
    action, extras = policy.act_one(np.zeros(2))
    np.testing.assert_allclose(action, np.clip(2.0 * extras["raw_action"], -2.0, 2.0), rtol=1e-6)


# --- learning


def test_the_next_observation_counts_at_a_truncation_and_not_at_a_termination() -> None:
    for make in (make_ac, make_continuous, make_q):
        outcomes: dict[tuple[bool, bool, float], float] = {}
        for terminated, truncated in ((False, False), (False, True), (True, False), (True, True)):
            for following in (0.5, 3.0):
                agent = make()
                Walk(agent).learn(50)
                state = agent.capture_state()
                values = []
                for scale in (0.99, 0.0):
                    agent.restore_state(state)
                    agent.set_hyperparams(HyperparamSet({"gamma": scale}))
                    diagnostics = step(
                        agent, [0.1, 0.2], [following, -1.0], terminated=terminated, truncated=truncated, stream="new"
                    )
                    values.append(diagnostics["td_error"])
                outcomes[terminated, truncated, following] = values[0] - values[1]
        for following in (0.5, 3.0):
            assert outcomes[True, False, following] == 0.0
            assert outcomes[True, True, following] == 0.0
            assert outcomes[False, True, following] == outcomes[False, False, following] != 0.0


@every_agent
def test_traces_go_on_where_a_stream_does(make: Make) -> None:
    agent = make()
    agent.set_hyperparams(HyperparamSet({"kappa_policy": 1e9, "kappa_value": 1e9}))
    step(agent, [0.0, 1.0], [1.0, 1.0])
    first = traces(agent)
    step(agent, [1.0, 1.0], [2.0, 0.0])
    second = traces(agent)
    agent.set_hyperparams(HyperparamSet({"trace_lambda": 0.0, "kappa_policy": 1e9, "kappa_value": 1e9}))
    fresh = make()
    fresh.set_hyperparams(HyperparamSet({"trace_lambda": 0.0, "kappa_policy": 1e9, "kappa_value": 1e9}))
    step(fresh, [0.0, 1.0], [1.0, 1.0])
    step(fresh, [1.0, 1.0], [2.0, 0.0])
    gradient = traces(fresh)
    assert np.abs(first).sum() > 0.0
    if isinstance(agent, StreamQAgent) and np.array_equal(second, gradient):
        pytest.fail("the first action is the best of equals: its trace goes on")
    np.testing.assert_allclose(second, 0.99 * 0.8 * first + gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [make_ac, make_continuous])
def test_no_trace_crosses_a_gap_or_an_end(make: Make) -> None:
    def second_traces(prepare: Callable[[StreamAgent], None]) -> Array:
        agent = make()
        # Steps too small to change anything: only traces can differ.
        agent.set_hyperparams(HyperparamSet({"kappa_policy": 1e12, "kappa_value": 1e12}))
        prepare(agent)
        before = parameters(agent)
        agent.restore_state(agent.capture_state())
        step(agent, [1.0, 1.0], [2.0, 0.0], stream="a")
        np.testing.assert_allclose(parameters(agent), before, atol=1e-6)
        return traces(agent, "a")

    def continued(agent: StreamAgent) -> None:
        step(agent, [0.0, 1.0], [1.0, 1.0], stream="a")

    def after_a_gap(agent: StreamAgent) -> None:
        step(agent, [0.0, 1.0], [1.0, 1.5], stream="a")

    def after_an_end(agent: StreamAgent) -> None:
        step(agent, [0.0, 1.0], [1.0, 1.0], terminated=True, stream="a")

    def after_a_cut(agent: StreamAgent) -> None:
        step(agent, [0.0, 1.0], [1.0, 1.0], truncated=True, stream="a")

    def of_another_stream(agent: StreamAgent) -> None:
        step(agent, [0.0, 1.0], [1.0, 1.0], stream="b")

    def gradient_alone(prepare: Callable[[StreamAgent], None]) -> Array:
        def forgetful(agent: StreamAgent) -> None:
            agent.set_hyperparams(HyperparamSet({"trace_lambda": 0.0, "kappa_policy": 1e12, "kappa_value": 1e12}))
            prepare(agent)

        return second_traces(forgetful)

    for prepare in (after_a_gap, after_an_end, after_a_cut, of_another_stream):
        np.testing.assert_array_equal(second_traces(prepare), gradient_alone(prepare))
    assert not np.allclose(second_traces(continued), gradient_alone(continued))


def test_interleaved_streams_have_traces_of_their_own() -> None:
    agent = make_ac()
    for before, after in itertools.pairwise([[0.0, 1.0], [1.0, 0.5], [0.5, 2.0], [2.0, 2.0]]):
        step(agent, before, after, stream="a")
        kept = traces(agent, "a")
        step(agent, [before[1], 7.0], [after[1], 7.0], stream="b")
        np.testing.assert_array_equal(traces(agent, "a"), kept)
        assert not np.allclose(traces(agent, "b"), kept)


def test_q_forgets_what_led_to_an_action_that_was_not_the_best() -> None:
    agent = make_q()
    Walk(agent).learn(200)
    state = agent.capture_state()
    best = int(agent.publish_policy(deterministic=True).act(np.array([[1.0, 1.0]])).actions[0])
    worse = best % 3 + 1
    for action, goes_on in ((best, True), (worse, False)):
        found = []
        for decay in (0.8, 0.0):
            agent.restore_state(state)
            agent.set_hyperparams(HyperparamSet({"trace_lambda": decay, "kappa_value": 1e12}))
            step(agent, [0.9, 1.1], [1.0, 1.0], stream="new")
            step(agent, [1.0, 1.0], [1.1, 0.9], action=action, stream="new")
            found.append(traces(agent, "new"))
        assert np.array_equal(found[0], found[1]) is not goes_on


def test_learning_moves_towards_what_pays() -> None:
    for make in (make_ac, make_q):
        agent = make()
        rng = np.random.default_rng(0)
        for _ in range(1500):
            side = rng.choice([-1.0, 1.0])
            action = agent.act(np.array([side, 0.0]))
            reward = 1.0 if (action == 1) == (side > 0.0) else -1.0
            step(agent, [side, 0.0], [0.0, 0.0], reward=reward, action=int(action), terminated=True)
        best = agent.publish_policy(deterministic=True).act(np.array([[1.0, 0.0], [-1.0, 0.0]])).actions
        assert best[0] == 1
        assert best[1] != 1


def test_continuous_learning_moves_towards_what_pays() -> None:
    agent = make_continuous()
    rng = np.random.default_rng(0)
    policy = agent.live_policy()
    assert isinstance(policy, SingleActor)
    for _ in range(3000):
        side = float(rng.choice([-1.0, 1.0]))
        observation = np.array([side, 0.0])
        action, extras = policy.act_one(observation)
        reward = -abs(float(action[0]) - side)
        agent.learn_one(Transition(observation, action, reward, np.zeros(2), True, extras=extras))
    best = agent.publish_policy(deterministic=True).act(np.array([[1.0, 0.0], [-1.0, 0.0]])).actions
    assert best[0, 0] > 0.3
    assert best[1, 0] < -0.3


def test_actions_are_chosen_by_what_is_learned_from() -> None:
    agent = make_continuous()
    policy = agent.live_policy()
    assert isinstance(policy, SingleActor)
    Walk(agent).learn(6)
    state = agent.capture_state()
    observation = state.streams[0].row
    drawn = policy.act_one(observation)[1]["raw_action"]
    agent.restore_state(state)
    # The same inputs, weights and generator: as a frozen policy has them that counts nothing.
    expected = agent.publish_policy().act(observation[None]).extras["raw_action"][0]
    np.testing.assert_allclose(drawn, expected, rtol=1e-5)


def test_acting_in_between_changes_nothing_of_what_is_learned() -> None:
    first, second = make_ac(), make_ac()
    path = np.random.default_rng(0).normal(size=(20, 2))
    policy = second.publish_policy(deterministic=True)
    for before, after in itertools.pairwise(path):
        step(first, before.tolist(), after.tolist())
        second.act(after + 3.0)
        policy.act(path)
        second.act(before)
        step(second, before.tolist(), after.tolist())
    np.testing.assert_array_equal(parameters(first), parameters(second))


# --- windows


def window_of(transitions: list[Transition], *, gaps: list[int] | None = None, rows_learned: int = 0) -> EpisodeData:
    gap_column = np.zeros(len(transitions), np.bool_)
    gap_column[gaps or []] = True
    ids = tuple(dict.fromkeys(transition.stream for transition in transitions))
    return EpisodeData(
        observations=np.stack([t.observation for t in transitions]),
        actions=np.asarray([t.action for t in transitions]),
        rewards=np.asarray([t.reward for t in transitions]),
        terminated=np.asarray([t.terminated for t in transitions]),
        truncated=np.asarray([t.truncated for t in transitions]),
        infos=[{}] * len(transitions),
        episode_id=0,
        next_observations=np.stack([t.next_observation for t in transitions]),
        gaps=gap_column,
        streams=np.asarray([ids.index(t.stream) for t in transitions]),
        stream_ids=ids,
        extras={
            name: np.asarray([(t.extras or {})[name] for t in transitions]) for name in transitions[0].extras or {}
        },
        rows_learned=rows_learned,
    )


@every_agent
def test_a_window_teaches_what_its_transitions_do(make: Make) -> None:
    teacher = make(9)
    walks = [Walk(teacher, 1, "a"), Walk(teacher, 2, "b")]
    transitions = [walks[index % 2].next() for index in range(40)]
    one_by_one, at_once, by_parts = make(), make(), make()
    for transition in transitions:
        one_by_one.learn_one(transition)
    expected = one_by_one.learn(window_of(transitions, rows_learned=40))
    assert at_once.learn(window_of(transitions)) == pytest.approx(expected)
    for transition in transitions[:15]:
        by_parts.learn_one(transition)
    assert by_parts.learn(window_of(transitions, rows_learned=15)) == pytest.approx(expected)
    np.testing.assert_array_equal(parameters(at_once), parameters(one_by_one))
    np.testing.assert_array_equal(parameters(by_parts), parameters(one_by_one))
    assert {"td_error", "value"} <= expected.keys()
    assert one_by_one.learn(window_of(transitions, rows_learned=40)) == {}


def test_a_gap_in_a_window_ends_its_traces() -> None:
    path = [[0.0, 1.0], [1.0, 0.5], [0.5, 2.0]]
    rows = [Transition(np.array(a), 1, 1.0, np.array(b)) for a, b in itertools.pairwise(path)]
    found: list[Array] = []
    for gaps, decay in (([0], 0.8), ([0], 0.0), ([], 0.8)):
        agent = make_ac()
        agent.set_hyperparams(HyperparamSet({"trace_lambda": decay, "kappa_policy": 1e12, "kappa_value": 1e12}))
        agent.learn(window_of(rows, gaps=gaps))
        found.append(traces(agent))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert not np.allclose(found[0], found[2], atol=1e-3)


def test_a_window_without_next_observations_is_refused() -> None:
    none = np.zeros(1, np.bool_)
    window = EpisodeData(np.zeros((1, 2)), np.ones(1, np.int64), np.ones(1), none, none, [{}], 0)
    with pytest.raises(TransitionMismatchError, match="next_observations"):
        make_ac().learn(window)


# --- refusals


@every_agent
@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, 1e200])
def test_a_reward_that_is_no_number_to_learn_from_changes_nothing(make: Make, reward: float) -> None:
    agent = make()
    Walk(agent).learn(20)
    before = parameters(agent)
    with pytest.raises(TransitionMismatchError, match="reward: expected a number within ±1e\\+100"):
        step(agent, [0.0, 1.0], [1.0, 1.0], reward=reward)
    np.testing.assert_array_equal(parameters(agent), before)


@every_agent
def test_what_does_not_fit_changes_nothing(make: Make) -> None:
    agent = make()
    Walk(agent).learn(20)
    before, version = agent.capture_state(), agent.live_policy().version
    with pytest.raises(TransitionMismatchError, match="observation"):
        step(agent, [0.0], [1.0, 1.0])
    with pytest.raises(TransitionMismatchError, match="observation"):
        step(agent, [0.0, 1.0], [math.nan, 1.0])
    with pytest.raises(TransitionMismatchError, match="action"):
        agent.learn_one(Transition(np.zeros(2), "left" if make is make_ac else [[7]], 1.0, np.ones(2)))
    after = agent.capture_state()
    np.testing.assert_array_equal(after.parameters, before.parameters)
    assert after.steps == before.steps
    assert after.observations[0] == before.observations[0]
    assert agent.live_policy().version == version


def test_a_step_that_diverges_changes_nothing_and_ends_the_traces() -> None:
    agent = make_ac()
    Walk(agent).learn(20)
    step(agent, [0.0, 1.0], [1.0, 1.0], stream="a")
    before = agent.capture_state()
    # Beside the check of what it may be, because nothing else diverges at once.
    agent._params = {**agent._params, "gamma": 1e308}
    with pytest.raises(FloatingPointError, match="learning diverged"):
        step(agent, [1.0, 1.0], [2.0, 1.0], stream="a")
    after = agent.capture_state()
    np.testing.assert_array_equal(after.parameters, before.parameters)
    assert after.observations[0] == before.observations[0]
    assert after.rewards == before.rewards
    assert after.steps == before.steps
    assert "a" not in after.streams
    agent.set_hyperparams(HyperparamSet({}))
    step(agent, [1.0, 1.0], [2.0, 1.0], stream="a")
    assert np.isfinite(parameters(agent)).all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: StreamConfig(hidden=()), "hidden: expected one layer or more of at least 2 units"),
        (lambda: StreamConfig(hidden=(8, 1)), "hidden: expected one layer or more"),
        (lambda: StreamConfig(max_streams=0), "max_streams: expected at least 1, got 0"),
        (lambda: StreamQConfig(epsilon_start=1.5), "epsilon_start: expected 0 to 1, got 1.5"),
        (lambda: StreamQConfig(exploration_steps=0), "exploration_steps: expected at least 1"),
        (lambda: StreamQConfig(hidden=()), "hidden: expected one layer"),
        (lambda: make_ac(gama=0.9), r"config: expected some of \['entropy_coef', 'gamma', .*got \['gama'\]"),
        (lambda: make_ac(gamma=-1.0), "gamma: expected a finite number from 0 to 1, got -1.0"),
        (lambda: make_ac(gamma=2), "gamma: expected a finite number from 0 to 1, got 2"),
        (lambda: make_ac(gamma="x"), "gamma: expected a finite number from 0 to 1, got 'x'"),
        (lambda: make_ac(gamma=True), "gamma: expected a finite number from 0 to 1, got True"),
        (lambda: make_q(trace_lambda=1.5), "trace_lambda: expected a finite number from 0 to 1, got 1.5"),
        (lambda: make_ac(kappa_policy=10**400), "kappa_policy: expected a finite number of at least 0"),
        (lambda: make_ac(hidden="x"), "hidden: expected whole numbers .* got 'x'"),
        (lambda: make_ac(hidden=64), "hidden: expected whole numbers .* got 64"),
        (lambda: make_ac(max_streams="x"), "max_streams: expected a whole number, got 'x'"),
        (lambda: make_ac(max_streams=1.5), "max_streams: expected a whole number, got 1.5"),
        (lambda: make_q(epsilon_start="x"), "epsilon_start: expected a finite number, got 'x'"),
        (lambda: make_q(epsilon_end=math.nan), "epsilon_end: expected a finite number"),
        (lambda: StreamQAgent(SIGHT, Box([0.0], [1.0])), "action space: expected Discrete"),
        (lambda: StreamACAgent(SIGHT, SIGHT.shape), "action space: expected Discrete or a Box"),
        (lambda: StreamACAgent((2,), Discrete(2)), "observation space: expected Box"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        make()


def test_hyperparameters_that_cannot_be_leave_the_others() -> None:
    agent = make_ac()
    before = agent.get_hyperparams().params
    with pytest.raises(ConfigurationError, match="kappa_value"):
        agent.set_hyperparams(HyperparamSet({"gamma": 0.5, "kappa_value": -1.0}))
    assert agent.get_hyperparams().params == before


def test_hyperparameters_are_carried_whether_known_or_not() -> None:
    agent = make_ac(gamma=0.9)
    assert agent.get_hyperparams().params["gamma"] == 0.9
    agent.set_hyperparams(HyperparamSet({"gamma": 0.5, "tempo": 3}, episode_id=4))
    params = agent.get_hyperparams()
    assert params.params == {**StreamACAgent.default_hyperparams, "gamma": 0.5, "tempo": 3}
    assert params.episode_id == 4
    params.params["gamma"] = 7.0
    assert agent.get_hyperparams().params["gamma"] == 0.5


def test_defaults_are_the_papers() -> None:
    agent = StreamACAgent(SIGHT, Discrete(2))
    assert agent.config == StreamConfig(hidden=(128, 128))
    assert StreamQAgent(SIGHT, Discrete(2)).config == StreamQConfig(hidden=(32,))
    assert agent.get_hyperparams().params["kappa_policy"] == 3.0


def test_epsilon_falls_with_what_was_learned() -> None:
    agent = make_q(exploration_steps=10, epsilon_start=0.8, epsilon_end=0.1)
    seen = [agent.epsilon]
    walk = Walk(agent)
    for _ in range(12):
        walk.learn(1)
        seen.append(agent.epsilon)
    np.testing.assert_allclose(seen, [max(0.8 - 0.07 * steps, 0.1) for steps in range(13)])
    agent.set_hyperparams(HyperparamSet({"epsilon_end": 0.0}))
    best = agent.publish_policy(deterministic=True).act(np.zeros((1, 2))).actions[0]
    assert {agent.act(np.zeros(2)) for _ in range(50)} == {best}


def test_no_more_streams_are_remembered_than_may_be() -> None:
    agent = make_ac(max_streams=2)
    for stream in ("a", "b", "c"):
        step(agent, [0.0, 1.0], [1.0, 1.0], stream=stream)
    assert set(agent.capture_state().streams) == {"b", "c"}


# --- state


@every_agent
def test_what_is_loaded_goes_on_bit_for_bit(make: Make, tmp_path: Path) -> None:
    agent = make()
    walk, other = Walk(agent, 1, "robot"), Walk(agent, 2, 7)
    walk.learn(25)
    other.learn(4)
    agent.save_weights(str(tmp_path / "saved"))
    state = agent.capture_state()
    loaded = make(99)
    Walk(loaded, 5).learn(10)
    loaded.set_hyperparams(agent.get_hyperparams())
    loaded.load_weights(str(tmp_path / "saved"))
    again = loaded.capture_state()
    np.testing.assert_array_equal(again.parameters, state.parameters)
    assert again.observations[0] == state.observations[0]
    for kept, expected in zip(again.observations[1:], state.observations[1:], strict=True):
        np.testing.assert_array_equal(kept, expected)
    assert again.rewards == state.rewards
    assert again.steps == state.steps
    assert again.rng == state.rng
    assert list(again.streams) == list(state.streams) == ["robot", 7]
    for stream, memory in state.streams.items():
        for name in ("traces", "row", "inputs"):
            np.testing.assert_array_equal(getattr(again.streams[stream], name), getattr(memory, name))
        assert again.streams[stream].discounted == memory.discounted

    def go_on(one: StreamAgent) -> tuple[list[Any], Array]:
        at, actions = np.array(state.streams["robot"].row), []
        for index in range(20):
            actions.append(np.asarray(one.act(at)).tolist())
            following = at + 0.1 * (index % 3)
            one.learn_one(Transition(at, actions[-1], 1.0, following, stream="robot"))
            at = following
        return actions, parameters(one)

    first, second = go_on(agent), go_on(loaded)
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])


@every_agent
def test_what_is_restored_goes_on_bit_for_bit(make: Make) -> None:
    agent = make()
    walk = Walk(agent)
    walk.learn(20)
    state = agent.capture_state()
    transitions = [walk.next() for _ in range(10)]
    ends = []
    for _ in range(2):
        agent.restore_state(state)
        for transition in transitions:
            agent.learn_one(transition)
        ends.append(parameters(agent))
    np.testing.assert_array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], state.parameters)


def test_restoring_brings_hyperparameters_back_and_loading_leaves_them(tmp_path: Path) -> None:
    agent = make_ac(gamma=0.9)
    agent.save_weights(str(tmp_path / "saved"))
    state = agent.capture_state()
    agent.set_hyperparams(HyperparamSet({"gamma": 0.5}))
    agent.load_weights(str(tmp_path / "saved"))
    assert agent.get_hyperparams().params["gamma"] == 0.5
    agent.restore_state(state)
    assert agent.get_hyperparams().params["gamma"] == 0.9


def test_a_version_never_goes_back(tmp_path: Path) -> None:
    agent = make_ac()
    policy = agent.live_policy()
    agent.save_weights(str(tmp_path / "saved"))
    Walk(agent).learn(20)
    version = policy.version
    agent.load_weights(str(tmp_path / "saved"))
    assert policy.version > version


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda: make_q(), "expected a StreamQAgent, got a StreamACAgent"),
        (lambda: StreamACAgent.for_spaces(SIGHT, Discrete(3), hidden=(8,)), r"parameters: expected F32\[2, "),
    ],
)
def test_what_another_agent_saved_is_refused(other: Callable[[], StreamAgent], match: str, tmp_path: Path) -> None:
    make_ac().save_weights(str(tmp_path / "saved"))
    agent = other()
    before = parameters(agent)
    with pytest.raises(CheckpointError, match=match):
        agent.load_weights(str(tmp_path / "saved"))
    np.testing.assert_array_equal(parameters(agent), before)
