"""What acts: an immutable policy made of copies, safe from any thread."""

from __future__ import annotations

from optix_stream.policies.composed import ComposedPolicy as ModelPolicy
from optix_stream.policies.composed import Prepare

__all__ = ["ModelPolicy", "Prepare"]
