"""What a policy is made of, when each part is to be described by plain data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from optix_stream.types import Array


class PolicyPart(ABC):
    """A frozen function that another process can have too; its module must import no framework.

    Attributes:
        generator: what it draws from; None: it is deterministic.
    """

    __slots__ = ()

    generator: np.random.Generator | None = None

    @abstractmethod
    def describe(self) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        """What is the same for all its like as plain data, and the arrays that learning changes."""

    @classmethod
    @abstractmethod
    def restore(
        cls, structure: Mapping[str, Any], arrays: Mapping[str, Array], generator: np.random.Generator | None
    ) -> Self:
        """The part that was described; one that draws does so from ``generator``, if there is one."""
