"""Where the hyperparameters of these agents have to lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optix_stream.agents.settings import AMOUNT, ANY, SHARE, number_of

_RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("gamma", "gae_lambda", "tau", "epsilon_end", "importance_exponent"), SHARE),
    **dict.fromkeys(("learning_rate", "value_learning_rate", "temperature_learning_rate"), AMOUNT),
    **dict.fromkeys(("entropy_coef", "value_coef", "clip_range", "max_grad_norm", "target_kl"), AMOUNT),
    **dict.fromkeys(("exploration_std", "smoothing_std", "smoothing_clip"), AMOUNT),
    "target_entropy": ANY,
}


def check_hyperparams(params: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check those that these agents have; what else a subclass has is its own.

    Args:
        params: what is to be in force.
        defaults: of the agent; what is None there may be None.

    Raises:
        ConfigurationError: one is no finite number, or out of its range.
    """
    for name, default in defaults.items():
        if name in params and name in _RANGES and not (default is None and params[name] is None):
            number_of(name, params[name], _RANGES[name])
