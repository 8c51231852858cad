"""BatchPipeline, GymProducer and evaluate_policy, in real single and vector environments."""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from optix_stream_adapters.gymnasium import BatchPipeline, GymProducer, evaluate_policy, play_episode

from optix_stream import (
    BaseAgent,
    Decision,
    EpisodeData,
    HyperparamSet,
    Policy,
    PolicyPublisher,
    RLOptimizer,
    RunReport,
)
from optix_stream.errors import ConfigurationError, UnusableSourceError

pytestmark = pytest.mark.anyio

EnvMaker = Callable[[], gym.Env[Any, Any]]
MODES = list(AutoresetMode)


# --- environments whose every step can be checked ------------------------------------------------


class CountingEnv(gym.Env[Any, Any]):
    """Observes ``[seed, episode, step, action before]``; even episodes terminate, odd ones are truncated."""

    observation_space = spaces.Box(-1, 10_000, (4,), np.int64)
    action_space = spaces.Discrete(5)

    def __init__(self) -> None:
        self.at = np.zeros(4, np.int64)
        self.episode = -1
        self.seed = 0
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.episode += 1
        self.at[:] = self.seed, self.episode, 0, -1
        return self.observe(), {"step": 0, "label": "reset"}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.at[2] += 1
        self.at[3] = action
        step = int(self.at[2])
        info: dict[str, Any] = {"step": step, "label": f"{self.episode}/{step}"}
        ends = step == episode_length(self.seed, self.episode)
        if ends:
            info["summary"] = {"length": step}
        is_even = self.episode % 2 == 0
        return self.observe(), 100.0 * self.episode + step, ends and is_even, ends and not is_even, info

    def observe(self) -> Any:
        return self.at.copy()


class ReusingEnv(CountingEnv):
    """Hands out one buffer again and again."""

    def observe(self) -> Any:
        return self.at


def episode_length(seed: int, episode: int) -> int:
    return 3 + (seed + episode) % 3


class SampledEnv(gym.Env[Any, Any]):
    """Observations are samples of a space; the reward is the sum of the action."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = action_space
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.observation_space.seed(seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self.observation_space.sample(), float(np.sum(action)), self._steps == 4, False, {}


class FailingEnv(CountingEnv):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self._left:
            raise OSError("the simulator is gone")
        self._left -= 1
        return super().step(action)


# --- agents --------------------------------------------------------------------------------------


class FunctionPolicy:
    """Acts by a function of the batch and says how many windows had been learned when it was made."""

    def __init__(self, function: Callable[[Any], Any], version: int = 0) -> None:
        self._function = function
        self.version = version

    def act(self, observations: Any) -> Decision:
        actions = self._function(observations)
        return Decision(actions, {"learned": np.full(len(actions), self.version)})


class RecordingAgent(BaseAgent, PolicyPublisher):
    """Keeps its windows."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.windows: list[EpisodeData] = []
        self._function = function

    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        return FunctionPolicy(self._function, len(self.windows))

    def act(self, observation: Any) -> Any:
        return self._function(np.asarray(observation)[None])[0]

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.windows.append(episode_data)
        return {}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet({})

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None: ...

    def save_weights(self, path: str) -> None:
        Path(path).touch()

    def load_weights(self, path: str) -> None: ...


def count_action(observations: Any) -> Any:
    return (3 * observations[:, 1] + observations[:, 2]) % 5


def lean(observations: Any) -> Any:
    """Balances a pole for a while."""
    return (observations[:, 2] + observations[:, 3] > 0).astype(np.int64)


def coin(seed: int) -> Callable[[Any], Any]:
    """A stochastic policy."""
    rng = np.random.default_rng(seed)
    return lambda observations: rng.integers(0, 2, len(observations))


async def train(pipeline: BatchPipeline, agent: BaseAgent, directory: Path, windows: int) -> RunReport:
    loop = RLOptimizer(agent, pipeline, checkpoint_dir=directory, max_episodes=windows, dormant_threshold=1000)
    report = await loop.run()
    assert report.statistics.is_balanced
    assert report.statistics.held == 0
    assert report.reason == "max_episodes"
    return report


# --- rows ----------------------------------------------------------------------------------------

Row = tuple[Any, Any, float, Any, bool, bool, Any]


def rows_of(windows: Sequence[EpisodeData], stream: int) -> list[Row]:
    """The rows of one stream over all windows."""
    rows: list[Row] = []
    for window in windows:
        for i in range(window.length):
            if window.stream_ids[window.streams[i]] == stream:
                observation, following = row_of(window.observations, i), row_of(window.next_observations, i)
                flags = bool(window.terminated[i]), bool(window.truncated[i])
                rows.append((observation, window.actions[i], window.rewards[i], following, *flags, window.infos[i]))
    return rows


def row_of(tree: Any, index: int) -> Any:
    if isinstance(tree, dict):
        return {key: row_of(part, index) for key, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(row_of(part, index) for part in tree)
    return tree[index]


def plain_rows(env: gym.Env[Any, Any], seed: int, function: Callable[[Any], Any]) -> Iterator[Row]:
    """What the textbook loop sees in a single environment."""
    observation, _ = env.reset(seed=seed)
    while True:
        observation = copy.deepcopy(observation)
        action = function(as_batch(observation))[0]
        following, reward, terminated, truncated, info = env.step(action)
        yield observation, action, float(reward), copy.deepcopy(following), terminated, truncated, info
        observation = env.reset()[0] if terminated or truncated else following


def as_batch(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: as_batch(part) for key, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(as_batch(part) for part in observation)
    return np.asarray(observation)[None]


def assert_same_rows(got: Sequence[Row], expected: Iterator[Row]) -> None:
    assert got
    for (*values, info), (*plain_values, plain_info) in zip(got, expected, strict=False):
        assert info == plain_info
        np.testing.assert_equal(values, plain_values)


def column_bytes(window: EpisodeData) -> dict[str, bytes]:
    """Every column but the times, bit for bit."""
    names = ("observations", "actions", "rewards", "terminated", "truncated", "next_observations", "gaps", "streams")
    columns = {name: getattr(window, name) for name in names} | dict(window.extras)
    return {name: column.tobytes() for name, column in columns.items()}


def make_vector(make: EnvMaker, count: int, mode: AutoresetMode, *, is_async: bool = False) -> VectorEnv[Any, Any, Any]:
    return (AsyncVectorEnv if is_async else SyncVectorEnv)([make] * count, autoreset_mode=mode)


def make_counting() -> gym.Env[Any, Any]:
    return CountingEnv()


def make_cart_pole() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1")


# --- what is in the windows ----------------------------------------------------------------------


class Glitching(gym.Wrapper[Any, Any, Any, Any]):
    """Its fourth reward, and what it sees in its sixth step, are no numbers."""

    steps = 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.steps == 6:
            observation = np.full_like(observation, np.nan)
        return observation, float("nan") if self.steps == 4 else reward, terminated, truncated, info


@pytest.mark.parametrize("is_vector", [False, True])
async def test_what_an_environment_says_is_not_finite_teaches_nobody(is_vector: bool, tmp_path: Path) -> None:
    def make() -> gym.Env[Any, Any]:
        return Glitching(gym.make("CartPole-v1"))

    agent = RecordingAgent(lean)
    env = make_vector(make, 2, AutoresetMode.NEXT_STEP) if is_vector else make()
    report = await train(BatchPipeline(env, agent, 10, seed=0), agent, tmp_path, windows=3)
    # The observation that is none ended one step and began the next.
    assert report.statistics.rejected == {"not finite": 6 if is_vector else 3}
    for window in agent.windows:
        assert np.isfinite(window.rewards).all()
        assert np.isfinite(np.asarray(window.observations)).all()
        assert np.isfinite(np.asarray(window.next_observations)).all()


class Blind(gym.Wrapper[Any, Any, Any, Any]):
    """Sees nothing, ever."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return np.full_like(observation, np.nan), reward, terminated, truncated, info


@pytest.mark.parametrize("is_vector", [False, True])
async def test_a_run_in_an_environment_that_yields_nothing_usable_ends(is_vector: bool, tmp_path: Path) -> None:
    env = make_vector(lambda: Blind(gym.make("CartPole-v1")), 2, AutoresetMode.NEXT_STEP) if is_vector else None
    agent = RecordingAgent(lean)
    pipeline = BatchPipeline(env or Blind(gym.make("CartPole-v1")), window_size=100, seed=0, max_rejected=1000)
    loop = RLOptimizer(agent, pipeline, checkpoint_dir=tmp_path, max_episodes=3)
    with pytest.raises(UnusableSourceError, match=r"transitions in a row .* got NaN or infinity"):
        await loop.run()
    assert loop.statistics().is_balanced
    assert loop.statistics().rejected["not finite"] < 1300


@pytest.mark.parametrize("make", [CountingEnv, ReusingEnv])
async def test_rows_of_a_single_environment(make: type[CountingEnv], tmp_path: Path) -> None:
    agent = RecordingAgent(count_action)
    report = await train(BatchPipeline(make(), agent, 10, seed=7), agent, tmp_path, windows=5)

    assert [window.length for window in agent.windows] == [10] * 5
    assert report.transitions == report.statistics.received == 50
    rows = rows_of(agent.windows, 0)
    assert_same_rows(rows, plain_rows(CountingEnv(), 7, count_action))
    episode, step = 0, 0
    for observation, action, reward, following, terminated, truncated, info in rows:
        ends = step + 1 == episode_length(7, episode)
        assert observation[:3].tolist() == [7, episode, step]
        # At an episode's end this is its final observation, not that of the reset.
        assert following.tolist() == [7, episode, step + 1, action]
        assert reward == 100 * episode + step + 1
        assert (terminated, truncated) == (ends and episode % 2 == 0, ends and episode % 2 == 1)
        assert info["label"] == f"{episode}/{step + 1}"
        episode, step = (episode + 1, 0) if ends else (episode, step + 1)
    assert episode > 10


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [make_counting, make_cart_pole])
@pytest.mark.parametrize(("window_size", "count"), [(10, 3), (2, 5), (1, 1)])
async def test_vector_rows_are_those_of_single_environments(
    mode: AutoresetMode, make: EnvMaker, window_size: int, count: int, tmp_path: Path
) -> None:
    function = count_action if make is make_counting else lean
    agent = RecordingAgent(function)
    env = make_vector(make, count, mode)
    windows = 400 // window_size
    report = await train(BatchPipeline(env, agent, window_size, seed=7), agent, tmp_path, windows)
    env.close()

    assert [window.length for window in agent.windows] == [window_size] * windows
    assert report.transitions == 400
    # What was acted beyond the last window is less than one step of all sub-environments a window.
    assert report.statistics.received - 400 < window_size + count
    for stream in range(count):
        assert_same_rows(rows_of(agent.windows, stream), plain_rows(make(), 7 + stream, function))


# Forking is safe here: nothing but this test's own thread is at work when the workers start.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("mode", MODES)
async def test_vector_rows_from_worker_processes(mode: AutoresetMode, tmp_path: Path) -> None:
    agent = RecordingAgent(count_action)
    env = make_vector(make_counting, 2, mode, is_async=True)
    try:
        await train(BatchPipeline(env, agent, 8, seed=7), agent, tmp_path, windows=5)
    finally:
        env.close()

    for stream in range(2):
        assert_same_rows(rows_of(agent.windows, stream), plain_rows(CountingEnv(), 7 + stream, count_action))


async def test_an_environment_made_by_the_registry(tmp_path: Path) -> None:
    env = gym.make_vec(
        "CartPole-v1", 2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    agent = RecordingAgent(lean)
    await train(BatchPipeline(env, agent, 50, seed=3), agent, tmp_path, windows=4)
    env.close()

    for stream in range(2):
        assert_same_rows(rows_of(agent.windows, stream), plain_rows(make_cart_pole(), 3 + stream, lean))


@pytest.mark.parametrize("mode", MODES)
async def test_episodes_are_counted_whole_in_vector_environments(mode: AutoresetMode, tmp_path: Path) -> None:
    agent = RecordingAgent(count_action)
    await train(BatchPipeline(make_vector(make_counting, 2, mode), agent, 7, seed=0), agent, tmp_path, windows=10)

    for stream in range(2):
        completed = [episode for window in agent.windows for episode in window.completed if episode.stream == stream]
        assert len(completed) > 3
        for number, episode in enumerate(completed):
            length = episode_length(stream, number)
            assert episode.length == length
            assert episode.total_reward == 100 * number * length + length * (length + 1) / 2


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
async def test_what_a_wrapper_says_of_an_episode_reaches_its_last_row(mode: AutoresetMode, tmp_path: Path) -> None:
    agent = RecordingAgent(count_action)
    env = RecordEpisodeStatistics(make_vector(make_counting, 2, mode))
    await train(BatchPipeline(env, agent, 10, seed=0), agent, tmp_path, windows=4)

    rows = [row for stream in range(2) for row in rows_of(agent.windows, stream)]
    assert any("episode" in info for *_, info in rows)
    for _, _, _, following, terminated, truncated, info in rows:
        assert ("episode" in info) == (terminated or truncated)
        if "episode" in info:
            assert info["episode"]["l"] == following[2]


# --- spaces --------------------------------------------------------------------------------------

OBSERVATION_SPACES = [
    spaces.Box(-1.0, 1.0, (3,), np.float32),
    spaces.Box(0, 255, (2, 2, 3), np.uint8),
    spaces.Box(-1.0, 1.0, (), np.float64),
    spaces.Discrete(9),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiBinary(5),
    spaces.Dict(position=spaces.Box(-1.0, 1.0, (2,), np.float32), gear=spaces.Discrete(5)),
    spaces.Tuple((spaces.Discrete(2), spaces.Dict(eye=spaces.Box(0, 255, (4, 4), np.uint8)))),
]
ACTION_SPACES = [spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32)]


def choose(action_space: gym.Space[Any], observations: Any) -> Any:
    """An action that depends on every leaf of the observation."""
    leaves = flat(observations)
    total = sum(leaf.reshape(len(leaf), -1).astype(np.float64).sum(1) for leaf in leaves)
    if isinstance(action_space, spaces.Discrete):
        return np.abs(total).astype(np.int64) % action_space.n
    return np.tanh(np.stack([total, -total], axis=1)).astype(np.float32)


def flat(tree: Any) -> list[Any]:
    if isinstance(tree, dict | tuple):
        parts = tree.values() if isinstance(tree, dict) else tree
        return [leaf for part in parts for leaf in flat(part)]
    return [tree]


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=str)
@pytest.mark.parametrize("observation_space", OBSERVATION_SPACES, ids=str)
@pytest.mark.parametrize("mode", [None, *MODES])
async def test_spaces(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], mode: AutoresetMode | None, tmp_path: Path
) -> None:
    make = partial(SampledEnv, observation_space, action_space)
    env = make() if mode is None else make_vector(make, 2, mode)
    function = partial(choose, action_space)
    agent = RecordingAgent(function)
    await train(BatchPipeline(env, agent, 9, seed=5), agent, tmp_path, windows=3)

    assert [window.length for window in agent.windows] == [9] * 3
    for stream in range(1 if mode is None else 2):
        rows = rows_of(agent.windows, stream)
        assert_same_rows(rows, plain_rows(make(), 5 + stream, function))
    for leaf, sample in zip(flat(agent.windows[0].observations), flat(observation_space.sample()), strict=True):
        assert leaf.dtype == np.asarray(sample).dtype
        assert leaf.shape == (9, *np.asarray(sample).shape)
    assert agent.windows[0].actions.shape == (9, *(action_space.shape or ()))


@pytest.mark.parametrize(
    "observation_space",
    [
        spaces.Text(4),
        spaces.Sequence(spaces.Discrete(3)),
        spaces.Dict(name=spaces.Text(4)),
        spaces.Tuple((spaces.Discrete(2), spaces.Tuple((spaces.Text(4),)))),
    ],
    ids=str,
)
def test_unsupported_observation_spaces(observation_space: gym.Space[Any]) -> None:
    env = SampledEnv(observation_space, spaces.Discrete(2))
    with pytest.raises(ConfigurationError, match="observation space: expected Box"):
        BatchPipeline(env)
    with pytest.raises(ConfigurationError, match="observation space: expected Box"):
        GymProducer(env, chunk_size=1)


@pytest.mark.parametrize(
    "action_space", [spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2), spaces.Dict(a=spaces.Discrete(2))], ids=str
)
@pytest.mark.parametrize("is_vector", [False, True])
def test_unsupported_action_spaces(action_space: gym.Space[Any], is_vector: bool) -> None:
    make = partial(SampledEnv, spaces.Discrete(2), action_space)
    env = make_vector(make, 2, AutoresetMode.NEXT_STEP) if is_vector else make()
    with pytest.raises(ConfigurationError, match="action space: expected Discrete or Box"):
        BatchPipeline(env)


def test_a_window_has_at_least_one_transition() -> None:
    with pytest.raises(ConfigurationError, match="window_size"):
        BatchPipeline(CountingEnv(), window_size=0)


def test_a_producer_is_named_after_its_environment() -> None:
    assert GymProducer(make_cart_pole(), chunk_size=1).name == "CartPole-v1"
    assert GymProducer(CountingEnv(), chunk_size=1).name == "CountingEnv"


# --- lockstep ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, *MODES])
async def test_in_lockstep_nothing_is_acted_while_a_window_is_learned(
    mode: AutoresetMode | None, tmp_path: Path
) -> None:
    count = 1 if mode is None else 2
    env = CountingEnv() if mode is None else make_vector(make_counting, count, mode)
    agent = RecordingAgent(count_action)
    await train(BatchPipeline(env, agent, 10, seed=0), agent, tmp_path, windows=6)

    for number, window in enumerate(agent.windows):
        learned = window.extras["learned"]
        # Rows that one step of all sub-environments put beyond the window before belong to that one's policy.
        assert set(learned[count - 1 :]) == {number}
        assert set(learned[: count - 1]) <= {number, number - 1}


@pytest.mark.parametrize("mode", [None, *MODES])
async def test_one_seed_gives_one_run_bit_for_bit(mode: AutoresetMode | None, tmp_path: Path) -> None:
    async def run(number: int, seed: int) -> list[dict[str, bytes]]:
        env = make_cart_pole() if mode is None else make_vector(make_cart_pole, 3, mode)
        agent = RecordingAgent(coin(seed))
        await train(BatchPipeline(env, agent, 64, seed=seed), agent, tmp_path / str(number), windows=6)
        return [column_bytes(window) for window in agent.windows]

    first, second, other = await run(1, 11), await run(2, 11), await run(3, 12)
    assert first == second
    assert first != other


async def test_a_second_run_starts_afresh(tmp_path: Path) -> None:
    env = CountingEnv()
    agent = RecordingAgent(count_action)
    pipeline = BatchPipeline(env, agent, 10, seed=4)
    await train(pipeline, agent, tmp_path, windows=2)
    await train(pipeline, agent, tmp_path, windows=2)

    assert_same_rows(rows_of(agent.windows[:2], 0), plain_rows(CountingEnv(), 4, count_action))
    assert_same_rows(rows_of(agent.windows[2:], 0), plain_rows(CountingEnv(), 4, count_action))


class LateAgent(RecordingAgent):
    """Holds up every ``learn`` until enough has been acted beyond its window."""

    def __init__(self, window_size: int) -> None:
        super().__init__(count_action)
        self._window_size = window_size
        self._acted = 0
        self._has_acted = threading.Condition()
        self.most_ahead = 0

    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        def act(observations: Any) -> Any:
            with self._has_acted:
                self._acted += 1
                self.most_ahead = max(self.most_ahead, self._ahead())
                self._has_acted.notify_all()
            return count_action(observations)

        return FunctionPolicy(act, len(self.windows))

    def _ahead(self) -> int:
        """Steps beyond the window that is learned from, or is next."""
        return self._acted - self._window_size * (len(self.windows) + 1)

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        with self._has_acted:
            assert self._has_acted.wait_for(lambda: self._ahead() >= self._window_size, timeout=10)
        return super().learn(episode_data)


@pytest.mark.parametrize("window_size", [1, 3, 20, 300])
async def test_without_lockstep_the_environment_runs_ahead_but_not_by_more_than_four_windows(
    window_size: int, tmp_path: Path
) -> None:
    agent = LateAgent(window_size)
    pipeline = BatchPipeline(CountingEnv(), agent, window_size, seed=0, lockstep=False)
    await train(pipeline, agent, tmp_path, windows=12)

    assert window_size <= agent.most_ahead <= 4 * window_size
    assert [window.length for window in agent.windows] == [window_size] * 12
    assert_same_rows(rows_of(agent.windows, 0), plain_rows(CountingEnv(), 0, count_action))


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lockstep", [True, False])
@pytest.mark.parametrize(("steps", "lengths"), [(25, [10, 10, 5]), (20, [10, 10]), (3, [3])])
async def test_what_a_failing_environment_gave_is_learned_before_its_error_is_raised(
    steps: int, lengths: list[int], lockstep: bool, tmp_path: Path
) -> None:
    agent = RecordingAgent(count_action)
    loop = RLOptimizer(
        agent, BatchPipeline(FailingEnv(steps), agent, 10, seed=7, lockstep=lockstep), checkpoint_dir=tmp_path
    )
    with pytest.raises(OSError, match="the simulator is gone"):
        await loop.run()

    assert [window.length for window in agent.windows] == lengths
    assert_same_rows(rows_of(agent.windows, 0), plain_rows(CountingEnv(), 7, count_action))
    statistics = loop.statistics()
    assert statistics.is_balanced
    assert statistics.received == statistics.learned == steps


@pytest.mark.parametrize("mode", MODES)
async def test_one_failing_sub_environment_ends_the_run_with_whole_steps(mode: AutoresetMode, tmp_path: Path) -> None:
    agent = RecordingAgent(count_action)
    env = SyncVectorEnv([CountingEnv, lambda: FailingEnv(6)], autoreset_mode=mode)
    loop = RLOptimizer(agent, BatchPipeline(env, agent, 10, seed=0), checkpoint_dir=tmp_path)
    with pytest.raises(OSError, match="the simulator is gone"):
        await loop.run()

    assert len(rows_of(agent.windows, 1)) == 6
    for stream in range(2):
        assert_same_rows(rows_of(agent.windows, stream), plain_rows(CountingEnv(), stream, count_action))
    assert loop.statistics().is_balanced
    assert loop.statistics().learned == loop.statistics().received


@pytest.mark.parametrize("is_vector", [False, True])
async def test_an_environment_s_error_says_so_if_the_action_was_none(is_vector: bool, tmp_path: Path) -> None:
    agent = RecordingAgent(lambda observations: np.full(len(observations), 7))
    env = make_vector(make_cart_pole, 2, AutoresetMode.NEXT_STEP) if is_vector else make_cart_pole()
    with pytest.raises(AssertionError) as raised:
        await train(BatchPipeline(env, agent, 10, seed=0), agent, tmp_path, windows=1)
    (note,) = raised.value.__notes__
    assert "action space is" in note
    assert "Discrete" in note


@pytest.mark.parametrize("is_bad_from_the_start", [True, False])
@pytest.mark.parametrize("is_dict", [False, True])
async def test_an_observation_that_fits_no_vector_of_environments_is_noted(
    is_bad_from_the_start: bool, is_dict: bool, tmp_path: Path
) -> None:
    box = gym.spaces.Box(-9.0, 9.0, (2,))

    class WrongShape(gym.Env[Any, Any]):
        observation_space = gym.spaces.Dict({"sight": box}) if is_dict else box
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            return self.observe(is_bad_from_the_start), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return self.observe(True), 1.0, False, False, {}

        def observe(self, is_bad: bool) -> Any:
            seen = np.zeros(3 if is_bad else 2, np.float32)
            return {"sight": seen} if is_dict else seen

    env, agent = make_vector(WrongShape, 2, AutoresetMode.NEXT_STEP), RecordingAgent(lambda _: np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="shape") as raised:
        await train(BatchPipeline(env, agent, 10, seed=0), agent, tmp_path, windows=1)
    space = WrongShape.observation_space
    assert raised.value.__notes__ == [
        f"An observation does not fit the environment's observation space, which is {space}."
    ]


def test_what_is_no_environment_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"env: expected an environment .* got 'CartPole-v1'"):
        BatchPipeline("CartPole-v1")  # type: ignore[arg-type]


async def test_an_environment_that_cannot_be_reset_fails_the_run(tmp_path: Path) -> None:
    class BrokenEnv(CountingEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            raise OSError("no such simulator")

    agent = RecordingAgent(count_action)
    loop = RLOptimizer(agent, BatchPipeline(BrokenEnv(), agent, 10), checkpoint_dir=tmp_path)
    with pytest.raises(OSError, match="no such simulator"):
        await loop.run()
    assert loop.statistics().received == 0


class GatedEnv(CountingEnv):
    """Stops inside one step until it is let go."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._gate_at = step
        self.is_inside = threading.Event()
        self.may_go = threading.Event()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.steps + 1 == self._gate_at:
            self.is_inside.set()
            assert self.may_go.wait(10)
        return super().step(action)


@pytest.mark.parametrize("lockstep", [True, False])
async def test_cancelled_inside_a_step(lockstep: bool, tmp_path: Path) -> None:
    env = GatedEnv(step=25)
    agent = RecordingAgent(count_action)
    loop = RLOptimizer(
        agent, BatchPipeline(env, agent, 10, seed=0, lockstep=lockstep), checkpoint_dir=tmp_path, dormant_threshold=99
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(loop.run)
        await anyio.to_thread.run_sync(env.is_inside.wait)
        tasks.cancel_scope.cancel()
        env.may_go.set()

    statistics = loop.statistics()
    assert statistics.is_balanced
    assert statistics.held == 0
    # The steps of the chunk under way count as far as they were over before the cancellation arrived.
    assert 24 <= statistics.received <= 30
    assert_same_rows(rows_of(agent.windows, 0), plain_rows(CountingEnv(), 0, count_action))


async def test_stopped_inside_a_step(tmp_path: Path) -> None:
    env = GatedEnv(step=25)
    agent = RecordingAgent(count_action)
    loop = RLOptimizer(agent, BatchPipeline(env, agent, 10, seed=0), checkpoint_dir=tmp_path, dormant_threshold=99)
    reports: list[RunReport] = []

    async def run() -> None:
        reports.append(await loop.run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await anyio.to_thread.run_sync(env.is_inside.wait)
        loop.stop()
        env.may_go.set()

    (report,) = reports
    assert report.reason == "stopped"
    assert report.statistics.is_balanced
    assert report.statistics.held == 0
    assert report.transitions == 20
    assert 4 <= report.statistics.dropped["stopped"] <= 10


# --- evaluation ----------------------------------------------------------------------------------


def test_evaluation_plays_whole_episodes_each_with_its_seed() -> None:
    returns = evaluate_policy(FunctionPolicy(count_action), CountingEnv(), 4, seed=5)

    lengths = [episode_length(seed, 0) for seed in (5, 6, 7, 8)]
    assert returns == [length * (length + 1) / 2 for length in lengths]


def test_evaluation_without_a_seed_plays_on() -> None:
    returns = evaluate_policy(FunctionPolicy(count_action), CountingEnv(), 3)

    lengths = [episode_length(0, episode) for episode in range(3)]
    assert returns == [100 * n * length + length * (length + 1) / 2 for n, length in enumerate(lengths)]


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_evaluation_cuts_off_what_is_longer_than_its_limit(limit: int) -> None:
    returns = evaluate_policy(FunctionPolicy(count_action), CountingEnv(), 4, seed=5, max_steps=limit)

    lengths = [min(episode_length(seed, 0), limit) for seed in (5, 6, 7, 8)]
    assert returns == [length * (length + 1) / 2 for length in lengths]


def test_an_episode_is_whole_where_it_ends_at_the_limit() -> None:
    length = episode_length(5, 0)
    played = [
        play_episode(FunctionPolicy(count_action), CountingEnv(), seed=5, max_steps=limit)
        for limit in (length - 1, length, None)
    ]
    assert [episode is not None and episode.is_whole for episode in played] == [False, True, True]


def test_an_episode_that_does_not_go_on_is_none() -> None:
    asked: list[bool] = []

    def goes_on() -> bool:
        asked.append(len(asked) < 1)
        return asked[-1]

    assert play_episode(FunctionPolicy(count_action), CountingEnv(), seed=5, goes_on=goes_on) is None
    assert asked == [True, False]


def test_evaluation_repeats_itself() -> None:
    policy = FunctionPolicy(lean)
    assert evaluate_policy(policy, make_cart_pole(), 3, seed=1) == evaluate_policy(policy, make_cart_pole(), 3, seed=1)
