"""The peer's part of the learning benchmark: stable-baselines3 with the same budget, evaluations and threads."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scores import PEER, TEST_EPISODES, TEST_SEED, Curve, Result, mean_return
from tasks import Task


def run_peer(name: str, task: Task, seed: int) -> Result:
    # By name, so that the types do not depend on what is installed: the peer is no part of the project.
    load: Callable[[str], Any] = importlib.import_module
    sb3, torch = load(PEER.replace("-", "_")), load("torch")
    common = f"{sb3.__name__}.common"
    VecNormalize = load(f"{common}.vec_env").VecNormalize  # noqa: N806
    NormalActionNoise = load(f"{common}.noise").NormalActionNoise  # noqa: N806
    make_vec_env = load(f"{common}.env_util").make_vec_env

    torch.set_num_threads(1)
    assert task.peer is not None
    algorithm, settings = task.peer[0], dict(task.peer[1])
    for key, value in settings.items():
        if isinstance(value, tuple) and value[0] == "linear":
            settings[key] = lambda left, top=value[1]: top * left
    env: Any = make_vec_env(task.env, n_envs=settings.pop("n_envs", 1), seed=seed)
    normalize = VecNormalize(env, gamma=settings["gamma"]) if settings.pop("normalize", False) else None
    if "action_noise" in settings:
        shape = env.action_space.shape
        settings["action_noise"] = NormalActionNoise(np.zeros(shape), settings["action_noise"] * np.ones(shape))
    model = getattr(sb3, algorithm)("MlpPolicy", normalize or env, seed=seed, device="cpu", **settings)

    def act(observations: Any) -> Any:
        seen = observations if normalize is None else normalize.normalize_obs(observations)
        return model.predict(seen, deterministic=True)[0]

    curve = Curve(task, seed, lambda: act)
    best: list[Any] = [-math.inf, None, None]

    def watch(_locals: Any, _globals: Any) -> bool:
        score = curve.point(model.num_timesteps, is_last=False)
        if score is not None and curve.level >= best[0]:
            moments = None if normalize is None else (normalize.obs_rms.mean.copy(), normalize.obs_rms.var.copy())
            best[:] = [curve.level, {k: v.clone() for k, v in model.policy.state_dict().items()}, moments]
        return True

    start = time.perf_counter()
    model.learn(task.steps, callback=watch)
    train_sec = time.perf_counter() - start - curve.sec
    if best[1] is not None:
        model.policy.load_state_dict(best[1])
        if normalize is not None:
            normalize.obs_rms.mean, normalize.obs_rms.var = best[2]
    return Result(
        task=name,
        library=PEER,
        seed=seed,
        score=mean_return(act, task.env, TEST_EPISODES, TEST_SEED),
        steps=model.num_timesteps,
        reached=curve.reached,
        train_sec=train_sec,
        curve=curve.points,
    )
