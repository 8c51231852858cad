"""What acts: an immutable policy of three parts, safe from any thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from optix_stream.contracts import Decision, Policy, PolicyExport, PortablePolicy
from optix_stream.policies.parts import PolicyPart
from optix_stream.recipes import find
from optix_stream.types import Array, Tree

Prepare: TypeAlias = Callable[[Tree], Array]
"""A tree of columns ``[N, …]`` to the float32 rows that the network takes."""
Forward: TypeAlias = Callable[[Array], Array]
"""float32 ``[N, …]`` in, float32 ``[N, units]`` out; never changes its answer."""
Sampler: TypeAlias = Callable[[Array], Decision]
"""Network outputs ``[N, units]`` in, a decision out."""

_PARTS = ("prepare", "forward", "sample")


class ComposedPolicy(PortablePolicy):
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

    @property
    def generator(self) -> np.random.Generator | None:
        return self._sample.generator if isinstance(self._sample, PolicyPart) else None

    def export(self) -> PolicyExport | None:
        structure: dict[str, Any] = {}
        arrays: dict[str, Array] = {"version": np.asarray(self.version, np.int64)}
        for name, part in zip(_PARTS, (self._prepare, self._forward, self._sample), strict=True):
            if not isinstance(part, PolicyPart):
                return None
            kind = type(part)
            described, columns = part.describe()
            structure[name] = {"part": f"{kind.__module__}:{kind.__qualname__}", "structure": described}
            arrays.update({f"{name}/{key}": column for key, column in columns.items()})
        return PolicyExport(f"{__name__}:compose", structure, arrays)


def compose(structure: Mapping[str, Any], arrays: Mapping[str, Array], generator: np.random.Generator | None) -> Policy:
    """The policy that was exported; without a generator it does not explore."""
    parts: list[Any] = []
    for name in _PARTS:
        share = {key.removeprefix(f"{name}/"): column for key, column in arrays.items() if key.startswith(f"{name}/")}
        part: type[PolicyPart] = find(structure[name]["part"])
        parts.append(part.restore(structure[name]["structure"], share, generator))
    return ComposedPolicy(int(arrays["version"]), *parts)
