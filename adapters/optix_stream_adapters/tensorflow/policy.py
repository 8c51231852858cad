"""What acts: an immutable policy made of copies, safe from any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from optix_stream.contracts import Decision
from optix_stream.types import Array, Tree
from optix_stream_adapters.tensorflow.actions import Sampler
from optix_stream_adapters.tensorflow.forward import Forward

Prepare: TypeAlias = Callable[[Tree], Array]
"""A tree of columns ``[N, …]`` to the float32 rows that the network takes."""


class ModelPolicy:
    """``sample(forward(prepare(observations)))``.

    A generator that samples is shared with the agent's other policies, so that one seed fixes a
    lockstep run whatever is published when.

    Args:
        version: of the weights.
        prepare: encodes and normalises, frozen.
        forward: the network, frozen.
        sample: decides, frozen.
    """

    __slots__ = ("_forward", "_prepare", "_sample", "version")

    def __init__(self, version: int, prepare: Prepare, forward: Forward, sample: Sampler) -> None:
        self.version = version
        self._prepare = prepare
        self._forward = forward
        self._sample = sample

    def act(self, observations: Tree) -> Decision:
        """Decide for ``N`` observations; ``extras`` has what learning wants back."""
        return self._sample(self._forward(self._prepare(observations)))
