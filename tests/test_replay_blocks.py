"""What is remembered is saved in blocks, and a block that has not changed is not written again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_stream.errors import CheckpointError
from optix_stream.replay_blocks import ReplayBlocks
from optix_stream.replay_buffer import Experience, ReplayBuffer
from optix_stream.types import Array

CAPACITY = 20


def make_columns() -> dict[str, Array]:
    return {"observations": np.zeros((CAPACITY, 2), np.float32), "actions": np.zeros(CAPACITY, np.int64)}


def make_blocks(columns: dict[str, Array]) -> ReplayBlocks:
    return ReplayBlocks(columns, block_bytes=4 * 16)


def new_folder(parent: Path) -> Path:
    folder = parent / f"{len(list(parent.iterdir()))}"
    folder.mkdir()
    return folder


@settings(max_examples=50)
@given(rounds=st.lists(st.tuples(st.lists(st.integers(0, CAPACITY - 1), max_size=5), st.booleans()), max_size=6))
def test_every_save_holds_the_columns_of_its_moment(
    rounds: list[tuple[list[int], bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    parent = tmp_path_factory.mktemp("saves")
    columns = make_columns()
    blocks = make_blocks(columns)
    saved: list[tuple[Path, dict[str, Array]]] = []
    for number, (places, forgets) in enumerate(rounds):
        columns["actions"][places] = number + 1
        columns["observations"][places] = number + 0.5
        blocks.touch(np.array(places, np.int64))
        if forgets:
            blocks.forget()
        folder = new_folder(parent)
        blocks.save(folder, CAPACITY)
        saved.append((folder, {name: column.copy() for name, column in columns.items()}))
    for folder, expected in saved:
        read = make_blocks(make_columns()).read(folder, CAPACITY, blocks.rows)
        for name, column in expected.items():
            np.testing.assert_array_equal(read[name], column)


def written(folder: Path, before: Path) -> list[str]:
    """The blocks that are other files than those of the save before."""
    return [
        path.name
        for path in sorted((folder / "blocks").iterdir())
        if not (before / "blocks" / path.name).exists() or not os.path.samefile(path, before / "blocks" / path.name)
    ]


def test_only_what_has_changed_is_written(tmp_path: Path) -> None:
    columns = make_columns()
    blocks = make_blocks(columns)
    first, second, third = (new_folder(tmp_path) for _ in range(3))
    blocks.save(first, CAPACITY)
    assert len(list((first / "blocks").iterdir())) == 5
    blocks.touch(np.array([0, 19]))
    blocks.save(second, CAPACITY)
    assert written(second, first) == ["000000.safetensors", "000004.safetensors"]
    shutil.rmtree(first)  # A link keeps what it shares.
    blocks.save(third, CAPACITY)
    assert written(third, second) == []
    make_blocks(make_columns()).read(third, CAPACITY, blocks.rows)


def test_what_is_gone_or_another_file_is_written(tmp_path: Path) -> None:
    columns = make_columns()
    blocks = make_blocks(columns)
    first, second = new_folder(tmp_path), new_folder(tmp_path)
    blocks.save(first, CAPACITY)
    (first / "blocks" / "000001.safetensors").unlink()
    (first / "blocks" / "000002.safetensors").write_bytes(b"something else")
    blocks.save(second, CAPACITY)
    assert written(second, first) == ["000001.safetensors", "000002.safetensors"]
    read = make_blocks(make_columns()).read(second, CAPACITY, blocks.rows)
    np.testing.assert_array_equal(read["actions"], columns["actions"])


def test_blocks_of_other_columns_are_refused(tmp_path: Path) -> None:
    blocks = make_blocks(make_columns())
    folder = new_folder(tmp_path)
    blocks.save(folder, 10)
    full = new_folder(tmp_path)
    blocks.save(full, 12)
    with pytest.raises(CheckpointError, match=r"actions: expected I32\[4\], got I64\[4\]"):
        make_blocks(make_columns() | {"actions": np.zeros(CAPACITY, np.int32)}).read(folder, 10, blocks.rows)
    with pytest.raises(CheckpointError, match=r"000002\.safetensors: .*expected I64\[4\], got I64\[2\]|observations"):
        blocks.read(folder, 12, blocks.rows)
    with pytest.raises(CheckpointError, match=r"cannot read .*000003\.safetensors"):
        make_blocks(make_columns()).read(full, 16, blocks.rows)


def test_a_large_buffer_writes_its_new_rows_only(tmp_path: Path) -> None:
    size, width = 3000, 500
    buffer = ReplayBuffer(size, (width,), (), np.int64)

    def add(count: int) -> None:
        observations = np.random.default_rng(count).normal(size=(count, width)).astype(np.float32)
        flags = np.zeros(count, np.bool_)
        buffer.add(
            Experience(
                observations=observations,
                actions=np.arange(count),
                rewards=np.ones(count),
                next_observations=observations,
                terminated=flags,
                ends=flags,
                streams=np.zeros(count, np.int32),
                stream_ids=(0,),
            )
        )

    folders = [tmp_path / str(number) for number in range(4)]
    add(size)
    buffer.save(str(folders[0]))
    for folder, before in zip(folders[1:], folders, strict=False):
        add(10)
        buffer.save(str(folder))
        total = len(list((folder / "blocks").iterdir()))
        assert total > 2
        # The first block has the new rows, the last one the row that they continue, the first time.
        assert len(written(folder, before)) <= 2
    other = ReplayBuffer(size, (width,), (), np.int64)
    other.load(str(folders[-1]))
    rng, other_rng = np.random.default_rng(0), np.random.default_rng(0)
    drawn, again = buffer.draw(50, 0.9, rng), other.draw(50, 0.9, other_rng)
    np.testing.assert_array_equal(drawn.observations, again.observations)
    np.testing.assert_array_equal(drawn.returns, again.returns)
