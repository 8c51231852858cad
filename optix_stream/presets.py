"""Settings that the command line starts from, by environment and agent: data, no behaviour.

The general ones are sane anywhere; the named ones are public tuned settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

_SHORT_RUN: Mapping[str, Any] = {"reference_windows": 24, "minimal_effect": 0.7, "effect_unit": "news"}
"""Answers in tens of windows. What that costs is printed by ``decisions.py --reference-windows 24``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """How to train.

    Attributes:
        num_envs: environments stepped side by side.
        window_size: transitions a window, over all of them.
        judge: who decides what a score means.
        evidence: keywords for the evidence judge's ``EvidenceConfig``.
        smoothing: scores that the threshold judge averages over, and what is displayed.
        plateau_threshold: windows without improvement until the threshold judge says COOLING.
        dormant_threshold: likewise until DORMANT.
        degradation_threshold: share of the best score below which it says that the policy is degraded.
        agent: keywords for the agent's ``for_spaces``.
    """

    num_envs: int = 8
    window_size: int = 2048
    judge: Literal["evidence", "threshold"] = "evidence"
    evidence: Mapping[str, Any] = field(default_factory=lambda: _SHORT_RUN)
    smoothing: int = 10
    plateau_threshold: int = 10
    dormant_threshold: int = 30
    degradation_threshold: float = 0.5
    agent: Mapping[str, Any] = field(default_factory=dict)


_STREAMING = Preset(num_envs=1, window_size=1024, smoothing=5, plateau_threshold=5, dormant_threshold=15)

_REPLAYING = Preset(num_envs=1, window_size=1024, smoothing=10, plateau_threshold=20, dormant_threshold=60)

_GENERAL: Mapping[str, Preset] = {
    "ppo": Preset(),
    "dqn": _REPLAYING,
    "sac": _REPLAYING,
    "td3": _REPLAYING,
    "reinforce": Preset(),
    "stream-ac": _STREAMING,
    "stream-q": _STREAMING,
}

_PPO_LUNAR_LANDER = Preset(
    num_envs=16,
    window_size=4096,
    agent={
        "epochs": 6, "minibatch_size": 128, "gamma": 0.999, "gae_lambda": 0.98, "learning_rate": 7e-4,
        "schedule_steps": 300_000, "entropy_coef": 0.01, "normalize_observations": True, "normalize_rewards": True,
    },
)  # fmt: skip

# Public tuned settings, those of the RL Zoo unless they did worse here.
_NAMED: Mapping[tuple[str, str], Preset] = {
    ("CartPole-v1", "ppo"): Preset(
        num_envs=8,
        window_size=256,
        evidence={"reference_windows": 32, "minimal_effect": 5.0, "effect_unit": "score"},
        smoothing=40,
        plateau_threshold=40,
        dormant_threshold=120,
        agent={
            "epochs": 20, "minibatch_size": 256, "gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3,
            "schedule_steps": 100_000, "max_grad_norm": 5.0, "normalize_observations": True, "jit_compile": True,
        },
    ),
    ("CartPole-v1", "dqn"): Preset(
        num_envs=1,
        window_size=1024,
        agent={
            "hidden": (64, 64), "learning_rate": 1e-3, "gamma": 0.98, "n_step": 5, "increment": 64,
            "target_interval": 64, "exploration_steps": 8000, "epsilon_end": 0.04, "scale_observations": True,
        },
    ),
    ("MountainCar-v0", "dqn"): Preset(
        num_envs=1,
        window_size=2048,
        agent={
            "hidden": (64, 64), "learning_rate": 1e-3, "gamma": 0.98, "n_step": 8, "increment": 64,
            "target_interval": 100, "exploration_steps": 24_000, "epsilon_end": 0.07, "scale_observations": True,
        },
    ),
    ("LunarLander-v3", "dqn"): Preset(
        num_envs=1,
        window_size=2048,
        agent={
            "hidden": (128, 128), "learning_rate": 6.3e-4, "batch_size": 128, "n_step": 3, "increment": 64,
            "target_interval": 125, "exploration_steps": 15_000, "buffer_size": 50_000,
        },
    ),
    ("Pendulum-v1", "sac"): Preset(
        num_envs=1,
        window_size=500,
        agent={
            "hidden": (64, 64), "batch_size": 64, "increment": 32, "update_ratio": 2.0, "learning_starts": 300,
            "tau": 0.01, "target_entropy": -2.0, "layer_norm": False,
        },
    ),
    ("Pendulum-v1", "td3"): Preset(
        num_envs=1,
        window_size=500,
        agent={
            "hidden": (64, 64), "gamma": 0.98, "batch_size": 64, "increment": 32, "update_ratio": 2.0,
            "learning_starts": 300, "tau": 0.01, "exploration_std": 0.3, "noise_correlation": 0.8, "layer_norm": False,
        },
    ),
    # Single pushes lead nowhere: noise goes on for some 50 steps, and a policy for several times as many.
    ("MountainCarContinuous-v0", "sac"): Preset(
        num_envs=1,
        window_size=1024,
        agent={
            "hidden": (64, 64), "increment": 256, "learning_starts": 1000, "gamma": 0.999, "tau": 0.01,
            "noise_correlation": 0.98, "scale_observations": True,
        },
    ),
    ("LunarLanderContinuous-v3", "sac"): Preset(
        num_envs=1,
        window_size=2048,
        agent={"hidden": (128, 128), "learning_starts": 5000, "tau": 0.01},
    ),
    ("HalfCheetah-v5", "sac"): Preset(
        num_envs=1,
        window_size=5000,
        agent={"hidden": (128, 128), "update_ratio": 2.0, "learning_starts": 2000, "tau": 0.01},
    ),
    ("Acrobot-v1", "ppo"): Preset(
        num_envs=16,
        window_size=1024,
        smoothing=20,
        plateau_threshold=20,
        dormant_threshold=60,
        agent={
            "epochs": 4, "minibatch_size": 64, "gae_lambda": 0.94, "learning_rate": 7e-4,
            "schedule_steps": 100_000, "normalize_observations": True, "normalize_rewards": True,
        },
    ),
    ("LunarLander-v3", "ppo"): _PPO_LUNAR_LANDER,
    ("LunarLanderContinuous-v3", "ppo"): _PPO_LUNAR_LANDER,
}  # fmt: skip


def preset_for(env_id: str, agent: str) -> Preset:
    """The settings for this pair, or the agent's general ones."""
    return _NAMED.get((env_id, agent), _GENERAL[agent])
