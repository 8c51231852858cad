"""Feeds and robots over real websockets: what arrives, what goes back, and what is told of losses."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from gymnasium import spaces
from optix_stream_adapters.replay import ReplayFeed
from optix_stream_adapters.websockets import ConnectionOptions, JsonCodec, MessagePackCodec, PolicyServer, WebSocketFeed
from optix_stream_adapters.websockets.inbox import Inbox
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from optix_stream.alignment import FeedStep
from optix_stream.contracts import SingleActor
from optix_stream.delayed_rewards import DelayedRewards
from optix_stream.errors import ActingFailedError, ConfigurationError, SourceFailedError
from optix_stream.events import Event, GapDetected, SourceLost, TransitionsDropped, TransitionsRejected
from optix_stream.feed_session import FeedOptions
from optix_stream.reconnecting import ReconnectPolicy
from optix_stream.recording import RecordedMessage
from optix_stream.testing import RecordingSink
from optix_stream.types import Transition, Tree

pytestmark = pytest.mark.asyncio

CODEC = JsonCodec(spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Discrete(100))
AT_ONCE = ReconnectPolicy(initial_sec=0.0, max_sec=0.0, max_attempts=3)

Handler = Callable[[ServerConnection], Awaitable[None]]


class Echo(SingleActor):
    """Does what it sees, up to 99."""

    version = 0

    def act(self, observations: Tree) -> Any:
        raise AssertionError("expected to be asked for one action at a time")

    def act_one(self, observation: Tree) -> tuple[Any, dict[str, Any]]:
        return int(observation[0]) % 100, {}


def message(value: float, reward: float | None = 0.0, **fields: Any) -> str:
    return json.dumps({"observation": [value], "reward": reward, **fields})


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def run_feed(feed: WebSocketFeed, sink: RecordingSink | None = None) -> RecordingSink:
    sink = sink if sink is not None else RecordingSink()
    with anyio.fail_after(60):
        await feed.run(Echo(), sink)
    return sink


def pairs(sink: RecordingSink) -> list[tuple[float, int, float, float]]:
    return [(t.observation[0], t.action, t.reward, t.next_observation[0]) for t in sink.transitions]


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


# --- the client ----------------------------------------------------------------------------------


async def test_a_closed_loop_actions_go_back_and_rewards_answer_the_action_before() -> None:
    async def play(socket: ServerConnection) -> None:
        """A feed whose reward is ten times the action that it got."""
        reward = None
        for value in range(5):
            await socket.send(message(value, reward))
            order = json.loads(await socket.recv())
            reward = 10.0 * order["action"]
        await socket.send(message(5, reward, terminated=True))

    async with serving(play) as url:
        sink = await run_feed(WebSocketFeed(url, decode=CODEC.decode, encode=CODEC.encode, reconnect=None))
    assert pairs(sink) == [(v, v, 10.0 * v, v + 1) for v in range(5)]
    assert [t.terminated for t in sink.transitions] == [False] * 4 + [True]
    assert kinds(sink.events) == ["SourceLost"]


async def test_what_is_subscribed_to_and_which_headers_are_sent() -> None:
    seen: list[Any] = []

    async def take(socket: ServerConnection) -> None:
        assert socket.request is not None
        seen.extend([socket.request.headers["X-Key"], await socket.recv(), await socket.recv()])

    keys = iter(["first", "second"])
    async with serving(take) as url:
        feed = WebSocketFeed(
            url,
            decode=CODEC.decode,
            subscribe=["one", b"two"],
            headers=lambda: {"X-Key": next(keys)},
            reconnect=None,
        )
        await run_feed(feed)
        await run_feed(feed)
    assert seen == ["first", "one", b"two", "second", "one", b"two"]


async def test_streams_over_one_socket_do_not_mix_and_actions_name_theirs() -> None:
    orders: list[Any] = []

    async def play(socket: ServerConnection) -> None:
        for value in range(3):
            for stream in ("EURUSD", "GBPUSD"):
                await socket.send(message(value + (10 if stream == "GBPUSD" else 0), 1.0, stream=stream))
                orders.append(json.loads(await socket.recv()))

    async with serving(play) as url:
        sink = await run_feed(WebSocketFeed(url, decode=CODEC.decode, encode=CODEC.encode, reconnect=None))
    assert [(t.stream, t.observation[0], t.next_observation[0]) for t in sink.transitions] == [
        ("EURUSD", 0, 1), ("GBPUSD", 10, 11), ("EURUSD", 1, 2), ("GBPUSD", 11, 12),
    ]  # fmt: skip
    assert [order["stream"] for order in orders] == ["EURUSD", "GBPUSD"] * 3
    assert len({order["decision_id"] for order in orders}) == 6


async def test_a_lost_connection_is_a_gap_and_the_feed_goes_on() -> None:
    sessions = iter([2, 2, 0])

    async def play(socket: ServerConnection) -> None:
        for value in range(next(sessions, 0)):
            await socket.send(message(value))
        socket.transport.abort()

    async with serving(play) as url:
        sink = RecordingSink()
        with pytest.raises(SourceFailedError):
            await run_feed(WebSocketFeed(url, decode=CODEC.decode, reconnect=AT_ONCE, name="feed"), sink)
    happened = kinds(sink.events)
    assert happened[:6] == ["SourceLost", "GapDetected", "SourceRegained", "SourceLost", "GapDetected", "SourceLost"]
    assert all(t.next_observation[0] == t.observation[0] + 1 for t in sink.transitions)


async def test_messages_that_cannot_be_read_are_told_with_a_sample_and_do_no_harm() -> None:
    text, two = (json.dumps({"observation": observation}) for observation in (["a"], [1, 2]))
    bad: list[str | bytes] = ["{", "[1]", text, two, b"\xff\xfe", "{}"]

    async def play(socket: ServerConnection) -> None:
        await socket.send(message(1.0))
        for nonsense in bad:
            await socket.send(nonsense)
            await socket.send(message(2.0))
            await socket.send(message(3.0))

    async with serving(play) as url:
        sink = await run_feed(WebSocketFeed(url, decode=CODEC.decode, reconnect=None))
    rejected = [event for event in sink.events if isinstance(event, TransitionsRejected)]
    assert len(rejected) == len(bad)
    assert all("message" in event.detail for event in rejected)
    assert "expected float32[1], got [1.0, 2.0]" in rejected[3].detail
    assert [(t.observation[0], t.next_observation[0]) for t in sink.transitions] == [(2.0, 3.0)] * len(bad)


async def test_a_source_of_nothing_but_nonsense_is_given_up() -> None:
    async def play(socket: ServerConnection) -> None:
        while True:
            await socket.send("nonsense")
            await anyio.lowlevel.checkpoint()

    options = ConnectionOptions(max_malformed=10)
    async with serving(play) as url:
        sink = RecordingSink()
        with pytest.raises(SourceFailedError):
            await run_feed(WebSocketFeed(url, decode=CODEC.decode, reconnect=AT_ONCE, connection=options), sink)
    assert any("10 messages in a row" in e.error for e in sink.events if isinstance(e, SourceLost))


async def test_a_huge_frame_closes_the_connection_and_nothing_else() -> None:
    sizes = iter([2_000_000])

    async def play(socket: ServerConnection) -> None:
        await socket.send("x" * next(sizes, 10))

    async with serving(play) as url:
        sink = RecordingSink()
        with pytest.raises(SourceFailedError):
            await run_feed(WebSocketFeed(url, decode=CODEC.decode, reconnect=AT_ONCE), sink)
    assert any("1009" in e.error for e in sink.events if isinstance(e, SourceLost))


async def test_a_silent_connection_is_taken_for_dead() -> None:
    async def play(socket: ServerConnection) -> None:
        await socket.send(message(1.0))
        await socket.wait_closed()

    options = ConnectionOptions(idle_timeout_sec=0.05)
    async with serving(play) as url:
        feed = WebSocketFeed(url, decode=CODEC.decode, reconnect=None, connection=options)
        with pytest.raises(Exception, match=r"nothing arrived for 0\.05 s"):
            await run_feed(feed)


async def test_a_policy_that_fails_ends_the_run_and_is_not_taken_for_a_lost_source() -> None:
    class Broken(Echo):
        def act_one(self, observation: Tree) -> tuple[Any, dict[str, Any]]:
            raise ZeroDivisionError

    async def play(socket: ServerConnection) -> None:
        await socket.send(message(1.0))
        await socket.wait_closed()

    async with serving(play) as url:
        feed = WebSocketFeed(url, decode=CODEC.decode, reconnect=AT_ONCE)
        with anyio.fail_after(60), pytest.raises(ActingFailedError):
            await feed.run(Broken(), RecordingSink())


async def test_rewards_that_come_later_join_by_the_decision_s_id() -> None:
    async def play(socket: ServerConnection) -> None:
        ids = []
        for value in range(4):
            await socket.send(message(value, None))
            ids.append(json.loads(await socket.recv())["decision_id"])
        random.Random(0).shuffle(ids)
        for decision_id in ids[:3] + ids[3:]:
            await socket.send(json.dumps({"decision_id": decision_id, "reward": 100.0 + decision_id}))

    options = FeedOptions(delayed_rewards=DelayedRewards(timeout_sec=60.0))
    async with serving(play) as url:
        feed = WebSocketFeed(url, decode=CODEC.decode, encode=CODEC.encode, reconnect=None, options=options)
        sink = await run_feed(feed)
    assert [t.reward for t in sink.transitions] == [101.0, 102.0, 103.0]


async def test_a_recording_holds_what_arrived(tmp_path: Path) -> None:
    async def play(socket: ServerConnection) -> None:
        await socket.send(message(1.0))
        await socket.send(b"\xff\x00")

    path = tmp_path / "session.jsonl"
    async with serving(play) as url:
        await run_feed(WebSocketFeed(url, decode=CODEC.decode, reconnect=None, record=path))
    import msgspec

    lines = [msgspec.json.decode(line, type=RecordedMessage) for line in path.read_bytes().splitlines()]
    assert [line.message for line in lines[:2]] == [message(1.0).encode(), b"\xff\x00"]
    assert [line.gap for line in lines] == [None, None, "connection ended"]
    assert lines[0].time <= lines[1].time


async def replayed(path: Path) -> RecordingSink:
    sink = RecordingSink()
    with anyio.fail_after(60):
        await ReplayFeed(path, decode=CODEC.decode, speed=math.inf).run(Echo(), sink)
    return sink


def facts(sink: RecordingSink) -> list[Any]:
    """Transitions and gaps, without the words for the latter, which speak of another kind of source."""
    return [
        (t.stream, float(t.observation[0]), t.action, t.reward, float(t.next_observation[0]), t.time)
        if isinstance(t, Transition)
        else (t.stream, t.time)
        for t in sink.items
        if isinstance(t, Transition | GapDetected)
    ]


async def test_a_replay_gives_what_the_live_session_gave_with_its_gaps(tmp_path: Path) -> None:
    sessions = iter([3, 4, 0])

    async def play(socket: ServerConnection) -> None:
        for number in range(next(sessions)):
            await socket.send(message(number, 1.0))
            await socket.recv()

    path, sink = tmp_path / "session.jsonl", RecordingSink()
    async with serving(play) as url:
        feed = WebSocketFeed(url, decode=CODEC.decode, encode=CODEC.encode, reconnect=AT_ONCE, record=path)
        with pytest.raises(SourceFailedError):  # And no group of errors, recorded or not.
            await run_feed(feed, sink)
    assert len(sink.transitions) == 5
    assert [(f[0], *f[1:-1]) for f in facts(await replayed(path))] == [(f[0], *f[1:-1]) for f in facts(sink)]
    assert [t.time for t in (await replayed(path)).transitions] == [t.time for t in sink.transitions]


async def test_a_recording_that_cannot_be_written_ends_the_run_with_its_error(tmp_path: Path) -> None:
    async def play(socket: ServerConnection) -> None:
        await socket.send(message(1.0))

    async with serving(play) as url:
        feed = WebSocketFeed(url, decode=CODEC.decode, reconnect=None, record=tmp_path)
        with pytest.raises(IsADirectoryError):
            await run_feed(feed)


async def test_whoever_is_left_is_told_so() -> None:
    codes: list[int | None] = []
    arrived = anyio.Event()

    async def play(socket: ServerConnection) -> None:
        await socket.send(message(1.0))
        await socket.recv()
        arrived.set()
        await socket.wait_closed()
        codes.append(socket.close_code)

    async with serving(play) as url, anyio.create_task_group() as tasks:
        feed = WebSocketFeed(url, decode=CODEC.decode, encode=CODEC.encode)
        tasks.start_soon(feed.run, Echo(), RecordingSink())
        await arrived.wait()
        tasks.cancel_scope.cancel()
    assert codes == [1001]


@pytest.mark.parametrize("url", ["http://127.0.0.1", "ws://", "ws://example.com/feed", "ws://10.0.0.1"])
async def test_a_url_that_cannot_work_or_would_send_in_clear_text_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url: expected"):
        WebSocketFeed(url, decode=CODEC.decode)


async def test_a_name_gives_no_credentials_away() -> None:
    feed = WebSocketFeed("wss://me:secret@example.com:99/feed?key=secret", decode=CODEC.decode)
    assert feed.name == "wss://example.com:99/feed"
    assert WebSocketFeed("ws://robot.lan", decode=CODEC.decode, trusted_hosts=["robot.lan"]).name == "ws://robot.lan"


# --- the server ----------------------------------------------------------------------------------


@asynccontextmanager
async def policy_server(sink: RecordingSink, **config: Any) -> AsyncIterator[PolicyServer]:
    server = PolicyServer(**{"decode": CODEC.decode, "encode": CODEC.encode, **config})
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, Echo(), sink)
            await server.started.wait()
            yield server
            tasks.cancel_scope.cancel()


async def drive(port: int, values: list[float], **headers: str) -> list[int]:
    """A robot: sends observations, each after the action on the one before; the actions."""
    actions = []
    async with connect(f"ws://127.0.0.1:{port}", additional_headers=headers) as socket:
        for value in values:
            await socket.send(message(value, 1.0))
            actions.append(json.loads(await socket.recv())["action"])
    return actions


async def test_every_robot_is_a_stream_of_its_own() -> None:
    sink = RecordingSink()
    async with policy_server(sink) as server:
        actions = await asyncio.gather(*(drive(server.port, [n, n + 1.0, n + 2.0]) for n in (10.0, 20.0, 30.0)))
        while len([e for e in sink.events if isinstance(e, SourceLost)]) < 3:
            await anyio.lowlevel.checkpoint()
    assert actions == [[10, 11, 12], [20, 21, 22], [30, 31, 32]]
    by_stream: dict[Any, list[tuple[float, float]]] = {}
    for t in sink.transitions:
        by_stream.setdefault(t.stream, []).append((float(t.observation[0]), float(t.next_observation[0])))
    assert sorted(by_stream.values()) == [[(n, n + 1), (n + 1, n + 2)] for n in (10.0, 20.0, 30.0)]


async def test_a_last_observation_and_a_refused_message_get_no_answer_and_the_next_observation_does() -> None:
    """As the docstring says, for whoever would wait for one."""
    sink = RecordingSink()
    async with policy_server(sink) as server, connect(f"ws://127.0.0.1:{server.port}") as socket:
        for sent in (
            message(1.0),
            message(2.0, 1.0, truncated=True),
            message(3.0),
            "no message",
            message(4.0),
            message(5.0, 1.0, terminated=True),
            message(6.0),
        ):
            await socket.send(sent)
        answers = [json.loads(await socket.recv())["action"] for _ in range(4)]
    assert answers == [1, 3, 4, 6]


async def test_a_robot_that_dies_ends_only_its_stream() -> None:
    sink = RecordingSink()
    async with policy_server(sink) as server, connect(f"ws://127.0.0.1:{server.port}") as survivor:
        await survivor.send(message(1.0))
        await survivor.recv()
        dead = await connect(f"ws://127.0.0.1:{server.port}")
        await dead.send(message(50.0))
        await dead.recv()
        dead.transport.abort()
        while not sink.events:
            await anyio.lowlevel.checkpoint()
        await survivor.send(message(2.0, 5.0))
        await survivor.recv()
        while not sink.transitions:
            await anyio.lowlevel.checkpoint()
    lost, gap = sink.events[:2]
    assert isinstance(lost, SourceLost)
    assert isinstance(gap, GapDetected)
    assert gap.stream == lost.source == "connection-2"
    assert [(t.stream, t.reward) for t in sink.transitions] == [("connection-1", 5.0)]


async def test_streams_within_a_connection_keep_their_names_there() -> None:
    sink = RecordingSink()
    async with policy_server(sink) as server, connect(f"ws://127.0.0.1:{server.port}") as socket:
        for value in (1.0, 2.0):
            await socket.send(message(value, stream="arm"))
            assert json.loads(await socket.recv())["stream"] == "arm"
        while not sink.transitions:
            await anyio.lowlevel.checkpoint()
    assert sink.transitions[0].stream == "connection-1/arm"


@pytest.mark.parametrize("is_plain", [False, True], ids=["a FeedStep", "a plain tuple"])
async def test_connections_may_give_their_streams_the_same_names(is_plain: bool) -> None:
    def decode(data: bytes) -> Any:
        step = CODEC.decode(data)
        assert isinstance(step, FeedStep)
        return tuple(step[:6]) if is_plain else step

    sink = RecordingSink()

    async def robot(port: int, first: float) -> None:
        async with connect(f"ws://127.0.0.1:{port}") as socket:
            for number in range(3):
                await socket.send(message(first + number, 1.0, stream=7))
                assert json.loads(await socket.recv())["stream"] == 7

    async with policy_server(sink, decode=decode) as server:
        await asyncio.gather(robot(server.port, 10.0), robot(server.port, 20.0))
        while len(sink.transitions) < 4:
            await anyio.lowlevel.checkpoint()
    assert len({t.stream for t in sink.transitions}) == 2
    assert all(t.next_observation[0] == t.observation[0] + 1 for t in sink.transitions)


async def test_a_run_that_ends_leaves_no_connection_behind_and_its_recording_replays(tmp_path: Path) -> None:
    sink, path = RecordingSink(), tmp_path / "session.jsonl"
    async with policy_server(sink, record=path) as server:
        robots = [await connect(f"ws://127.0.0.1:{server.port}") for _ in range(3)]
        for number in (1, 2):
            for robot in robots:
                await robot.send(message(number, 1.0))
                await robot.recv()
        while len(sink.transitions) < 3:
            await anyio.lowlevel.checkpoint()
    assert sink.transitions
    assert len({t.stream for t in sink.transitions}) == 3
    kept = list(sink.items)
    for robot in robots:
        await robot.wait_closed()
    assert sink.items == kept, "who was connected still produced after the run"
    again = await replayed(path)
    assert [f for f in facts(again) if len(f) > 2] == [f for f in facts(sink) if len(f) > 2]


async def test_what_waits_for_its_reward_when_the_run_ends_is_counted() -> None:
    sink = RecordingSink()
    options = FeedOptions(delayed_rewards=DelayedRewards(timeout_sec=60.0))
    async with policy_server(sink, options=options) as server, connect(f"ws://127.0.0.1:{server.port}") as socket:
        for value in (1.0, 2.0, 3.0):
            await socket.send(message(value, None))
            await socket.recv()
    (dropped,) = [event for event in sink.events if isinstance(event, TransitionsDropped)]
    assert (dropped.count, dropped.reason) == (2, "run ended before the reward came")


@pytest.mark.parametrize(
    ("config", "headers", "status"),
    [
        ({"token": lambda: "secret"}, {}, 401),
        ({"token": lambda: "secret"}, {"Authorization": "Bearer wrong"}, 401),
        ({}, {"Origin": "https://evil.example"}, 403),
        ({"max_connections": 0}, {}, 503),
    ],
)
async def test_who_may_not_connect_is_refused(config: Any, headers: dict[str, str], status: int) -> None:
    async with policy_server(RecordingSink(), **config) as server:
        with pytest.raises(InvalidStatus) as refused:
            await drive(server.port, [1.0], **headers)
    assert refused.value.response.status_code == status


async def test_another_host_name_is_refused() -> None:
    async with policy_server(RecordingSink()) as server:
        with pytest.raises(InvalidStatus) as refused:
            async with connect("ws://evil.example", host="127.0.0.1", port=server.port, proxy=None):
                pass
    assert refused.value.response.status_code == 403


async def test_the_right_token_opens() -> None:
    async with policy_server(RecordingSink(), token=lambda: "secret") as server:
        assert await drive(server.port, [7.0], Authorization="Bearer secret") == [7]


async def test_a_server_that_others_can_reach_wants_a_token() -> None:
    with pytest.raises(ConfigurationError, match="token: expected one"):
        PolicyServer(decode=CODEC.decode, encode=CODEC.encode, host="0.0.0.0")


async def test_a_policy_that_fails_ends_the_server_s_run() -> None:
    class Broken(Echo):
        def act_one(self, observation: Tree) -> tuple[Any, dict[str, Any]]:
            raise ZeroDivisionError

    server = PolicyServer(decode=CODEC.decode, encode=CODEC.encode)

    async def provoke() -> None:
        await server.started.wait()
        with pytest.raises(ConnectionClosed):
            await drive(server.port, [1.0])

    provoking = asyncio.create_task(provoke())
    with anyio.fail_after(60), pytest.raises(ActingFailedError):
        await server.run(Broken(), RecordingSink())
    await provoking


# --- codecs and the inbox ------------------------------------------------------------------------

SPACE = spaces.Dict(
    {"x": spaces.Box(-1.0, 1.0, (2,)), "mode": spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)])}
)


@pytest.mark.parametrize("make", [JsonCodec, MessagePackCodec])
async def test_codecs_read_structured_observations(make: type[JsonCodec | MessagePackCodec]) -> None:
    import msgspec

    codec = make(SPACE, spaces.Box(-1.0, 1.0, (2,)))
    pack = msgspec.json if make is JsonCodec else msgspec.msgpack
    facts = {"observation": {"x": [0.5, -0.5], "mode": [2, [0, 1]]}, "reward": 1, "sequence": 3}
    step = codec.decode(pack.encode(facts))
    assert not isinstance(step, tuple) or step.reward == 1.0
    assert step.observation["x"].dtype == np.float32  # type: ignore[union-attr]
    assert int(step.observation["mode"][0]) == 2  # type: ignore[union-attr]
    for wrong in ({"x": [0.5, -0.5]}, {"x": [0.5, 7.0], "mode": [2, [0, 1]]}, {"x": [0.5, 0.0], "mode": [3, [0, 1]]}):
        with pytest.raises(ValueError, match="observation: expected"):
            codec.decode(pack.encode({"observation": wrong}))


async def test_actions_are_lists_or_numbers() -> None:
    from optix_stream.feed_session import FeedAction

    codec = JsonCodec(SPACE, spaces.Box(-1.0, 1.0, (2,)))
    assert json.loads(codec.encode(FeedAction(np.array([0.5, -0.25]), np.int32(4), 9))) == {  # type: ignore[arg-type]
        "action": [0.5, -0.25],
        "stream": 4,
        "decision_id": 9,
    }
    with pytest.raises(ConfigurationError, match="action space"):
        JsonCodec(SPACE, spaces.MultiBinary(2))


async def test_an_inbox_that_is_full_refuses_and_counts_what_is_lost() -> None:
    inbox = Inbox(3, max_bytes=100)
    assert [inbox.put(text, 1.0) for text in (b"a", b"b", b"c", b"d")] == [True, True, True, False]
    assert not inbox.is_losing
    inbox.lose()
    assert inbox.is_losing
    assert inbox.take(2) == [(1.0, b"a"), (1.0, b"b")]
    assert (inbox.take(2), inbox.take(2)) == ([(1.0, b"c")], [])
    assert (inbox.take_lost(), inbox.take_lost()) == (1, 0)
    assert inbox.put(b"x" * 200, 1.0)  # One that is too large goes in alone.
    assert not inbox.put(b"y", 1.0)
    assert await inbox.wait()
    inbox.take(2)
    assert inbox.put(b"y" * 100, 1.0)
    inbox.take(2)
    inbox.close()
    assert not await inbox.wait()


@pytest.mark.parametrize("size", [1, 50], ids=["messages", "bytes"])
async def test_whoever_waits_for_room_goes_on_when_half_of_it_is_free(size: int) -> None:
    inbox = Inbox(4 if size == 1 else 1000, max_bytes=200)
    while inbox.put(b"x" * size, 1.0):
        pass
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(inbox.wait_for_room())
        await asyncio.sleep(0)
        inbox.take(1)
        await asyncio.sleep(0)
        assert not waiting.done()
        inbox.take(1)


async def test_a_burst_holds_up_the_sender_and_loses_nothing() -> None:
    class Slow(RecordingSink):
        async def push(self, item: Any) -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            await super().push(item)

    async def play(socket: ServerConnection) -> None:
        for value in range(500):
            await socket.send(message(value))

    sink, options = Slow(), ConnectionOptions(inbox_messages=4, patience_sec=60.0)
    async with serving(play) as url:
        await run_feed(WebSocketFeed(url, decode=CODEC.decode, reconnect=None, connection=options), sink)
    assert len(sink.transitions) == 499
    assert not any(isinstance(event, TransitionsDropped | GapDetected) for event in sink.events)


async def test_a_sink_that_waits_does_not_keep_the_socket_from_being_drained() -> None:
    """And what could not be held is counted."""
    everything_sent = asyncio.Event()

    class Blocked(RecordingSink):
        async def push(self, item: Any) -> None:
            await everything_sent.wait()
            await super().push(item)

    async def play(socket: ServerConnection) -> None:
        for value in range(100):
            await socket.send(message(value))
        await (await socket.ping())  # Answered only by a client that reads.
        everything_sent.set()

    options = ConnectionOptions(inbox_messages=10, patience_sec=0.01)
    async with serving(play) as url:
        sink = Blocked()
        await run_feed(WebSocketFeed(url, decode=CODEC.decode, reconnect=None, connection=options), sink)
    lost = sum(event.count for event in sink.events if isinstance(event, TransitionsDropped))
    # Of the messages one opens; the rest are transitions or lost.
    assert lost > 50
    assert len(sink.transitions) + lost == 99
    assert any(isinstance(event, GapDetected) for event in sink.events)
