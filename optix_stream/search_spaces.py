"""What the command line tunes, by agent: data, no behaviour. Beside ``presets``, which says where it starts."""

from __future__ import annotations

from collections.abc import Mapping

from optix_stream.optimizers.parameters import Bounds

_RATE = (1e-5, 1e-2)
_GAMMA = [0.9, 0.95, 0.98, 0.99, 0.995, 0.999]

LIVE: Mapping[str, Bounds] = {
    "ppo": {"learning_rate": _RATE},
    "reinforce": {"learning_rate": (1e-4, 1e-1)},
    "dqn": {"learning_rate": _RATE},
    "sac": {"learning_rate": _RATE},
    "td3": {"learning_rate": _RATE},
    "stream-ac": {"kappa_policy": (1.0, 10.0)},
    "stream-q": {"kappa_value": (1.0, 10.0)},
}
"""Hyperparameters that ``train --tuner`` may change while it learns."""

OFFLINE: Mapping[str, Bounds] = {
    "ppo": {
        "learning_rate": _RATE,
        "gamma": _GAMMA,
        "gae_lambda": [0.8, 0.9, 0.95, 0.98],
        "clip_range": [0.1, 0.2, 0.3],
        "entropy_coef": (1e-6, 3e-2),
        "epochs": [4, 10, 20],
        "minibatch_size": [64, 128, 256],
    },
    "reinforce": {
        "learning_rate": (1e-4, 1e-1),
        "value_learning_rate": (1e-4, 1e-2),
        "gamma": _GAMMA,
        "entropy_coef": (1e-6, 3e-2),
    },
    "dqn": {
        "learning_rate": _RATE,
        "gamma": _GAMMA,
        "batch_size": [32, 64, 128],
        "target_interval": (32, 2048),
        "update_ratio": [0.25, 0.5, 1.0],
        "n_step": [1, 3, 8],
    },
    "sac": {"learning_rate": _RATE, "gamma": _GAMMA, "tau": (1e-3, 5e-2), "batch_size": [64, 128, 256]},
    "td3": {
        "learning_rate": _RATE,
        "gamma": _GAMMA,
        "tau": (1e-3, 5e-2),
        "batch_size": [64, 128, 256],
        "exploration_std": (0.02, 0.5),
    },
    "stream-ac": {
        "kappa_policy": (1.0, 10.0),
        "kappa_value": (1.0, 10.0),
        "trace_lambda": (0.5, 0.95),
        "gamma": _GAMMA,
        "entropy_coef": (1e-4, 1e-1),
    },
    "stream-q": {"kappa_value": (1.0, 10.0), "trace_lambda": (0.5, 0.95), "gamma": _GAMMA},
}
"""Keywords of an agent's ``for_spaces`` that ``tune`` searches."""
