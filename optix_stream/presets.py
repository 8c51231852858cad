"""Settings that the command line starts from, by environment and agent: data, no behaviour.

The general ones are sane anywhere; the named ones are public tuned settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """How to train.

    Attributes:
        num_envs: environments stepped side by side.
        window_size: transitions a window, over all of them.
        smoothing: scores that the judge averages over.
        plateau_threshold: windows without improvement until COOLING.
        dormant_threshold: windows without improvement until DORMANT.
        degradation_threshold: share of the best score below which the policy counts as degraded.
        agent: keywords for the agent's ``for_spaces``.
    """

    num_envs: int = 8
    window_size: int = 2048
    smoothing: int = 10
    plateau_threshold: int = 10
    dormant_threshold: int = 30
    degradation_threshold: float = 0.5
    agent: Mapping[str, Any] = field(default_factory=dict)


_STREAMING = Preset(num_envs=1, window_size=1024, smoothing=5, plateau_threshold=5, dormant_threshold=15)

_GENERAL: Mapping[str, Preset] = {
    "ppo": Preset(),
    "reinforce": Preset(),
    "stream-ac": _STREAMING,
    "stream-q": _STREAMING,
}

_NAMED: Mapping[tuple[str, str], Preset] = {}


def preset_for(env_id: str, agent: str) -> Preset:
    """The settings for this pair, or the agent's general ones."""
    return _NAMED.get((env_id, agent), _GENERAL[agent])
