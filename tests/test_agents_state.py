"""Saved state that is damaged is refused before anything changes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from optix_stream.agents import StreamACAgent
from optix_stream.agents.state import write_state
from optix_stream.errors import CheckpointError
from optix_stream.types import Array, Transition


@dataclass
class Box:
    shape: tuple[int, ...]


@dataclass
class Discrete:
    n: int
    start: int = 0


def make_agent(seed: int) -> StreamACAgent:
    agent = StreamACAgent.for_spaces(Box((2,)), Discrete(2), hidden=(8,), seed=seed)
    for index in range(5):
        agent.learn_one(Transition(np.array([index, 1.0]), index % 2, 1.0, np.array([index + 1, 1.0])))
    return agent


Damage = Callable[[Path], None]


def change_state(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "state.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return damage


def without_state(name: str) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "state.json"
        state = json.loads(file.read_text())
        del state[name]
        file.write_text(json.dumps(state))

    return damage


def change_arrays(change: Callable[[dict[str, Array]], object]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "arrays.safetensors"
        arrays = load_file(file)
        change(arrays)
        save_file(arrays, file)

    return damage


def put(name: str, array: Array) -> Damage:
    return change_arrays(lambda arrays: arrays.update({name: array}))


def without_array(name: str) -> Damage:
    return change_arrays(lambda arrays: arrays.pop(name))


def cut(name: str, length: int) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / name
        file.write_bytes(file.read_bytes()[:length])

    return damage


def flip(position: int) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "arrays.safetensors"
        content = bytearray(file.read_bytes())
        content[position] ^= 0xFF
        file.write_bytes(bytes(content))

    return damage


def overwrite(content: bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "arrays.safetensors").write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / "state.json").unlink(), "cannot read weights"),
        (lambda folder: (folder / "arrays.safetensors").unlink(), "cannot read weights"),
        (lambda folder: (folder / "state.json").write_text("[]"), r"expected format 2, got \[\]"),
        (lambda folder: (folder / "state.json").write_text("[" * 100_000), "cannot read weights"),
        (change_state(format=1), "expected format 2, got 1"),
        (cut("state.json", 40), "cannot read weights"),
        (cut("arrays.safetensors", 300), "cannot read weights"),
        (flip(20), "cannot read weights"),
        (without_state("agent"), "cannot read weights"),
        (without_state("streams"), "cannot read weights"),
        (without_state("rng"), "cannot read weights"),
        (change_state(rng={"bit_generator": "MT19937"}), "cannot read weights"),
        (change_state(steps="many"), "cannot read weights"),
        (change_state(observations=None), "cannot read weights"),
        (change_state(streams=[0, 0]), "expected streams by name or number"),
        (change_state(streams=[[1]]), "expected streams by name or number"),
        (change_state(streams=[1, 2]), r"streams/traces: expected F32\[2, .*got F32\[1, "),
        (without_array("rewards"), r"expected arrays \['rewards'\]"),
        (put("more", np.zeros(1)), r"got \['more'\] that do not belong"),
        (put("rewards", np.zeros(3)), r"rewards: expected F64\[2\], got F64\[3\]"),
        (put("rewards", np.zeros(2, np.float32)), r"rewards: expected F64\[2\], got F32\[2\]"),
        (put("rewards", np.array([1.0, np.nan])), "rewards: expected finite numbers"),
        (overwrite(pickle.dumps(np.zeros(2))), "cannot read weights"),
    ],
)
def test_damage_is_refused_and_changes_nothing(damage: Damage, match: str, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    make_agent(1).save_weights(str(folder))
    agent = make_agent(2)
    before = agent.capture_state()
    damage(folder)
    with pytest.raises(CheckpointError, match=match):
        agent.load_weights(str(folder))
    after = agent.capture_state()
    np.testing.assert_array_equal(after.parameters, before.parameters)
    assert after.steps == before.steps
    assert after.rng == before.rng
    assert list(after.streams) == list(before.streams)


def test_without_streams_there_is_nothing_to_stack(tmp_path: Path) -> None:
    agent = StreamACAgent.for_spaces(Box((2,)), Discrete(2), hidden=(8,), seed=3)
    agent.save_weights(str(tmp_path / "saved"))
    loaded = make_agent(1)
    loaded.load_weights(str(tmp_path / "saved"))
    assert loaded.capture_state().streams == {}
    np.testing.assert_array_equal(loaded.capture_state().parameters, agent.capture_state().parameters)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot save weights"):
        make_agent(1).save_weights(str(tmp_path / "file" / "saved"))
    with pytest.raises(CheckpointError, match="cannot save weights"):
        write_state(str(tmp_path / "other"), {}, {"number": float("nan")})
