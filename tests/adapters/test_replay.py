"""Replays of tables and of recorded sessions: the same code path as live, at any pace, on recorded time."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from optix_stream_adapters.replay import ReplayClock, ReplayFeed
from optix_stream_adapters.websockets import JsonCodec

from optix_stream import HyperparamSet, LivePipeline, RLOptimizer, every_n_seconds
from optix_stream.alignment import FeedStep
from optix_stream.clock import SystemClock
from optix_stream.contracts import as_policy
from optix_stream.delayed_rewards import DelayedRewards
from optix_stream.errors import ConfigurationError, MissingExtraError, SourceFailedError
from optix_stream.events import GapDetected, TransitionsDropped, TransitionsRejected
from optix_stream.feed_session import FeedAction, FeedOptions
from optix_stream.producers import FeedProducer
from optix_stream.reconnecting import ReconnectPolicy
from optix_stream.recording import RecordedMessage, Recorder, recording
from optix_stream.testing import FakeClock, NullAgent, RecordingAgent, RecordingSink, assert_balanced
from optix_stream.types import Transition

pytestmark = pytest.mark.anyio


def decode_row(row: dict[str, Any]) -> FeedStep:
    return FeedStep(np.array([float(row["price"])]), float(row["profit"]), False, False)


def write_csv(path: Path, rows: int, step_sec: float = 1.0) -> Path:
    lines = ["time,price,profit", *(f"{100 + i * step_sec},{i},{10 * i}" for i in range(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


async def replay(feed: ReplayFeed) -> RecordingSink:
    sink = RecordingSink()
    await feed.run(as_policy(NullAgent(action=1)), sink)
    return sink


async def test_rows_become_transitions_at_their_recorded_times(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "prices.csv", 4)
    actions: list[FeedAction] = []
    feed = ReplayFeed(path, decode=decode_row, speed=math.inf, time_column="time", answer=actions.append)
    sink = await replay(feed)
    assert [(t.observation[0], t.reward, t.next_observation[0], t.time) for t in sink.transitions] == [
        (0.0, 10.0, 1.0, 101.0), (1.0, 20.0, 2.0, 102.0), (2.0, 30.0, 3.0, 103.0),
    ]  # fmt: skip
    assert [action.action for action in actions] == [1, 1, 1, 1]
    assert (feed.name, feed.clock.now()) == ("prices.csv", 103.0)


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 9.0), (3.0, 3.0), (math.inf, 0.0)])
async def test_the_pace_is_the_recorded_one_or_a_multiple_of_it(speed: float, seconds: float, tmp_path: Path) -> None:
    clock = FakeClock(start=1000.0)
    feed = ReplayFeed(
        write_csv(tmp_path / "prices.csv", 10), decode=decode_row, speed=speed, time_column="time", clock=clock
    )
    sink = RecordingSink()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.autojump)
        await feed.run(as_policy(NullAgent(action=1)), sink)
        tasks.cancel_scope.cancel()
    assert clock.now() - 1000.0 == pytest.approx(seconds)
    assert [t.time for t in sink.transitions] == [101.0 + i for i in range(9)]


async def test_parquet_is_replayed_as_well_with_times_of_its_own(tmp_path: Path) -> None:
    import datetime

    import pyarrow
    import pyarrow.parquet

    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    times = [start + datetime.timedelta(hours=hour) for hour in range(3)]
    table = pyarrow.table({"when": times, "price": [1.0, 2.0, 3.0], "profit": [0.0, 0.5, 1.0]})
    pyarrow.parquet.write_table(table, tmp_path / "prices.parquet")
    sink = await replay(ReplayFeed(tmp_path / "prices.parquet", decode=decode_row, speed=math.inf, time_column="when"))
    assert [(t.reward, t.time - start.timestamp()) for t in sink.transitions] == [(0.5, 3600.0), (1.0, 7200.0)]


# --- recorded sessions ---------------------------------------------------------------------------

CODEC = JsonCodec(spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Discrete(2))


async def record(path: Path, count: int) -> Path:
    async with recording(path, FakeClock()) as recorder:
        assert recorder is not None
        for number in range(count):
            message = json.dumps({"observation": [number / 7], "reward": number % 3 - 1.0})
            recorder.add(50.0 + 0.3 * number, None, message.encode())
    return path


async def run_loop(path: Path, directory: Path, agent: Any) -> Any:
    feed = ReplayFeed(path, decode=CODEC.decode, speed=math.inf)
    pipeline = LivePipeline(feed, episode_boundary_fn=every_n_seconds(3.0), clock=feed.clock, lockstep=True)
    report = await RLOptimizer(agent, pipeline, checkpoint_dir=directory).run()
    assert_balanced(report.statistics)
    return report


async def test_the_same_recording_gives_the_same_windows(tmp_path: Path) -> None:
    path = await record(tmp_path / "session.jsonl", 100)
    first, second = RecordingAgent(), RecordingAgent()
    for number, agent in enumerate((first, second)):
        report = await run_loop(path, tmp_path / str(number), agent)
        assert report.statistics.learned == 99
    assert [w.length for w in first.windows] == [w.length for w in second.windows]
    assert len(first.windows) > 5
    for one, other in zip(first.windows, second.windows, strict=True):
        assert np.array_equal(one.observations, other.observations)
        assert np.array_equal(one.times, other.times)
    assert first.weight == second.weight


async def test_and_in_lockstep_the_same_weights_to_the_bit(tmp_path: Path, anyio_backend: str) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("once is enough for TensorFlow")
    import keras
    from optix_stream_adapters.tensorflow import TFAgent

    path = await record(tmp_path / "session.jsonl", 60)
    weights = []
    for number in range(2):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)])
        before = [np.array(weight) for weight in model.get_weights()]
        agent = TFAgent(model, keras.optimizers.Adam(), HyperparamSet({"learning_rate": 0.01, "gamma": 0.9}), seed=1)
        await run_loop(path, tmp_path / str(number), agent)
        weights.append(model.get_weights())
        assert not all(np.array_equal(a, b) for a, b in zip(before, weights[-1], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


@given(messages=st.lists(st.binary(max_size=40), max_size=20))
@settings(max_examples=30)
def test_a_recording_gives_back_what_it_was_given(
    messages: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("recording") / "session.jsonl"
    path.touch()
    seen: list[bytes] = []

    async def write_and_replay() -> None:
        async with recording(path, FakeClock()) as recorder:
            assert recorder is not None
            for number, message in enumerate(messages):
                recorder.add(float(number), "robot", message)
        await replay(ReplayFeed(path, decode=lambda message: seen.append(message), speed=math.inf))

    anyio.run(write_and_replay)
    assert seen == messages


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
async def test_any_feed_can_be_recorded_and_its_replay_gives_the_same_transitions(
    is_async: bool, tmp_path: Path
) -> None:
    space = spaces.Dict(price=spaces.Box(-np.inf, np.inf, (2,), np.float32), kind=spaces.Discrete(3))

    def items(session: int) -> Iterator[Any]:
        for number in range(7):
            observation = {"price": np.array([0.1 * number, session], np.float32), "kind": np.int64(number % 3)}
            info: dict[Any, Any] = {"odd": {1, 2}, 7: np.float32(0.5)}
            yield FeedStep(observation, np.float64(number / 3), number == 4, False, info, "xy"[number % 2])
            if number == 0:
                yield ({"price": np.array([np.nan, 0], np.float32), "kind": 0}, 0.0, False, False, None, "x")

    class Plain:
        sessions = 0

        def stream(self) -> Any:
            self.sessions += 1
            if self.sessions > 2:
                raise ConnectionError("closed for good")
            return items(self.sessions)

    class Async(Plain):
        def stream(self) -> Any:
            given = super().stream()

            async def stream() -> AsyncIterator[Any]:
                for item in given:
                    yield item

            return stream()

    path, sink = tmp_path / "session.jsonl", RecordingSink()
    reconnect = ReconnectPolicy(initial_sec=0.0, max_sec=0.0, max_attempts=1)
    producer = FeedProducer(Async() if is_async else Plain(), clock=SystemClock(), reconnect=reconnect, record=path)
    with pytest.raises(SourceFailedError):
        await producer.run(as_policy(NullAgent(action=1)), sink)
    # In each session x loses its first step, and y none.
    assert [t.stream for t in sink.transitions] == ["y", "x", "y"] * 2

    again = await replay(ReplayFeed(path, decode=JsonCodec(space, spaces.Discrete(2)).decode, speed=math.inf))

    def facts(of: RecordingSink) -> list[Any]:
        return [
            (t.stream, t.time, t.reward, t.terminated, t.observation["price"].tolist(), int(t.observation["kind"]))
            if isinstance(t, Transition)
            else (type(t).__name__, t.stream)
            for t in of.items
            if isinstance(t, Transition | GapDetected)
        ]

    assert facts(again) == facts(sink)


async def test_what_a_slow_disk_did_not_take_leaves_a_gap_in_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"
    recorder = Recorder(path, max_held_bytes=100)
    size = len(json.dumps({"observation": [0], "reward": 0}))
    for number in range(10):
        recorder.add(float(number), None, json.dumps({"observation": [number], "reward": 0}).encode())
        if number == 5:
            await recorder.write()
    await recorder.write()
    sink = await replay(ReplayFeed(path, decode=CODEC.decode, speed=math.inf))
    kept = 100 // size
    assert [(t.observation[0], t.next_observation[0]) for t in sink.transitions] == [
        *((n, n + 1) for n in range(kept - 1)), *((6 + n, 7 + n) for n in range(kept - 1)),
    ]  # fmt: skip
    (gap,) = [event for event in sink.events if isinstance(event, GapDetected)]
    assert f"{6 - kept} messages were not recorded" in gap.reason


async def test_a_session_appended_by_a_later_run_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"
    for start in (500.0, 20.0):
        async with recording(path, FakeClock()) as recorder:
            assert recorder is not None
            for number in range(3):
                recorder.add(start + number, None, json.dumps({"observation": [number], "reward": 0}).encode())
            recorder.mark_gap(start + 2, None, "connection ended")
    sink = await replay(ReplayFeed(path, decode=CODEC.decode, speed=math.inf))
    assert [t.time for t in sink.transitions] == [501.0, 502.0, 503.0, 504.0]


async def test_what_waits_for_its_reward_when_a_replay_is_cut_short_is_counted(tmp_path: Path) -> None:
    path = await record(tmp_path / "session.jsonl", 4)
    sink, scope = RecordingSink(), anyio.CancelScope()
    seen: list[FeedAction] = []

    def answer(action: FeedAction) -> None:
        seen.append(action)
        if len(seen) == 4:
            scope.cancel()

    options = FeedOptions(delayed_rewards=DelayedRewards(timeout_sec=60.0))
    with scope:
        await ReplayFeed(path, decode=CODEC.decode, speed=math.inf, answer=answer, options=options).run(
            as_policy(NullAgent(action=1)), sink
        )
    assert sink.transitions == []
    assert [event.count for event in sink.events if isinstance(event, TransitionsDropped)] == [3]


# --- what cannot be replayed ---------------------------------------------------------------------


async def test_a_row_that_cannot_be_read_is_told_and_the_replay_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text("price,profit\n1,0\nnothing,0\n2,0\n3,0\n")
    sink = await replay(ReplayFeed(path, decode=decode_row, speed=math.inf))
    (rejected,) = [event for event in sink.events if isinstance(event, TransitionsRejected)]
    assert "nothing" in rejected.detail
    assert len(sink.transitions) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("price,profit\n1,0\n", r"expected a column 'time', got \['price', 'profit'\]"),
        ("time,price,profit\nsoon,1,0\n", "row 1: time: expected seconds or an ISO time, got 'soon'"),
    ],
)
async def test_a_table_without_times_is_named(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        await replay(ReplayFeed(tmp_path / "prices.csv", decode=decode_row, time_column="time"))


async def test_a_recording_that_is_damaged_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"
    path.write_bytes(msgspec.json.encode(RecordedMessage(1.0, text="x")) + b"\n{\n")
    with pytest.raises(ValueError, match="line 2"):
        await replay(ReplayFeed(path, decode=lambda message: None))


@pytest.mark.parametrize(
    ("name", "config", "match"),
    [
        ("nowhere.csv", {}, "path: expected a file"),
        ("prices.csv", {"speed": 0.0}, "speed: expected more than 0"),
        ("prices.csv", {}, "time_column: expected one"),
    ],
)
async def test_what_cannot_work_is_refused_at_once(
    name: str, config: dict[str, Any], match: str, tmp_path: Path
) -> None:
    write_csv(tmp_path / "prices.csv", 1)
    with pytest.raises(ConfigurationError, match=match):
        ReplayFeed(tmp_path / name, decode=decode_row, **config)


async def test_parquet_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prices.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"optix-stream\[replay\]"):
        ReplayFeed(tmp_path / "prices.parquet", decode=decode_row, speed=math.inf)


async def test_the_replay_s_clock_waits_at_its_own_pace() -> None:
    real = FakeClock()
    clock = ReplayClock(real, 4.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(real.autojump)
        await clock.sleep(8.0)
        tasks.cancel_scope.cancel()
    assert real.now() == 2.0
