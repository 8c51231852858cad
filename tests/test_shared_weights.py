from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from optix_stream.learner.shared_weights import SharedWeights, WeightsLayout, create_memory
from optix_stream.testing.comparing import same_tree
from optix_stream.types import Array

# Every array holds the number of its publication, so that a set of two publications shows itself.
WRITER = """
import sys
import numpy as np
from optix_stream.learner.shared_weights import SharedWeights, WeightsLayout
import msgspec
weights = SharedWeights(int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=WeightsLayout))
print("ready", flush=True)
number = 1
while True:
    number += 1
    weights.write({name: np.full(spec.shape, number, spec.dtype) for name, spec in weights.layout.arrays.items()})
"""


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = create_memory()
    yield descriptor
    os.close(descriptor)


def arrays(number: float) -> dict[str, Array]:
    return {
        "kernel": np.full((60, 70), number, np.float32),
        "bias": np.full(7, number, np.float64),
        "scalar": np.asarray(number, np.int64),
        "none": np.zeros((0, 3), np.float32),
    }


def test_what_is_written_is_read_with_its_version(memory: int) -> None:
    writer = SharedWeights.create(memory, arrays(1))
    reader = SharedWeights(memory, writer.layout)
    for number in (1, 2, 3, 4):
        if number > 1:
            writer.write(arrays(number))
        assert reader.version == number
        version, got = reader.read()
        assert version == number
        assert same_tree(got, arrays(number))
        assert {name: array.dtype for name, array in got.items()} == {n: a.dtype for n, a in arrays(1).items()}
    writer.close()
    reader.close()


def test_what_was_read_does_not_change(memory: int) -> None:
    writer = SharedWeights.create(memory, arrays(1))
    _, got = writer.read()
    for number in (2, 3):
        writer.write(arrays(number))
    assert same_tree(got, arrays(1))
    writer.close()


def test_other_shapes_or_names_do_not_fit_and_get_memory_of_their_own(memory: int) -> None:
    first = SharedWeights.create(memory, arrays(1))
    assert first.fits(arrays(2))
    assert not first.fits({"bias": np.zeros(7)})
    assert not first.fits(arrays(1) | {"bias": np.zeros(8)})
    assert not first.fits(arrays(1) | {"bias": np.zeros(7, np.float32)})
    second = SharedWeights.create(memory, {"bias": np.zeros(9)})
    assert second.layout.offset >= first.layout.end
    second.write({"bias": np.full(9, 5.0)})
    assert same_tree(first.read()[1], arrays(1))
    assert same_tree(second.read()[1], {"bias": np.full(9, 5.0)})
    first.close()
    second.close()


def test_the_memory_has_no_name_and_is_gone_with_its_last_user(memory: int) -> None:
    weights = SharedWeights.create(memory, arrays(1))
    assert os.fstat(memory).st_nlink == 0
    weights.close()


def start_writer(memory: int, layout: WeightsLayout) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(memory), msgspec.json.encode(layout).decode()],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[memory],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_reader_never_sees_a_torn_set_while_another_process_writes(memory: int) -> None:
    reader = SharedWeights.create(memory, arrays(1))
    seen: set[int] = set()
    with start_writer(memory, reader.layout) as process:
        while len(seen) < 200:
            version, got = reader.read()
            values = {float(value) for array in got.values() for value in array.ravel()}
            assert values == {float(version)}
            seen.add(version)
        process.kill()
    reader.close()


def test_a_writer_killed_at_any_moment_leaves_a_whole_set(memory: int) -> None:
    weights = SharedWeights.create(memory, arrays(1))
    for _ in range(5):
        with start_writer(memory, weights.layout) as process:
            before = weights.version
            while weights.version < before + 50:
                pass
            process.kill()
        version, got = weights.read()
        assert {float(value) for array in got.values() for value in array.ravel()} == {float(got["scalar"])}
        assert version >= before
        weights.write(arrays(1))
        assert same_tree(weights.read()[1], arrays(1))
    weights.close()


def test_the_torn_reads_that_the_guard_prevents_do_happen(memory: int) -> None:
    """Copies taken without looking at the sequence numbers are torn: the tests above can fail."""
    weights = SharedWeights.create(memory, arrays(1))
    torn = False
    with start_writer(memory, weights.layout) as process:
        while not torn:
            kernel = weights._slots[0][: 60 * 70 * 4].view(np.float32).copy()
            torn = len(np.unique(kernel)) > 1
        process.kill()
    weights.close()
