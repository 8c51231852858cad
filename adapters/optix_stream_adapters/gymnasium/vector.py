"""Steps a vector environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from optix_stream.batching import batch_of, batch_row, merge
from optix_stream.clock import Clock
from optix_stream.contracts import Policy, StreamItem
from optix_stream.trees import as_tree, map_tree
from optix_stream.types import Array, Transition, TransitionBatch, Tree
from optix_stream.wire import decode, encode, pack, unpack
from optix_stream_adapters.gymnasium.stepper import Learn, Stepper, Visit, note_action, note_observation
from optix_stream_adapters.gymnasium.vector_infos import info_of_step


class VectorStepper(Stepper):
    """Steps a vector environment in any autoreset mode; sub-environment ``i`` is stream ``i``.

    Args:
        env: reset before the first step.
        policy: what acts.
        seed: of the first reset.
        clock: stamps transitions.
        learn: lets the agent learn from each step; None: it learns from windows.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        policy: Policy,
        seed: int | None,
        clock: Clock,
        learn: Learn | None = None,
    ) -> None:
        self._env = env
        self._policy = policy
        self._seed = seed
        self._now = clock.now
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._stream_ids = tuple(range(env.num_envs))
        self._is_resetting = np.zeros(env.num_envs, np.bool_)
        self._observations: Tree = None
        self._learn = learn
        self._held: list[TransitionBatch] = []
        self._told: list[StreamItem] = []
        """What the agent's failures in the last step left to be told."""
        self._held_count = 0

    def step_until(self, count: int, visit: Visit) -> None:
        if self._observations is None:
            seed, self._seed = self._seed, None
            self._observations = self._reset(seed=seed)
        while self._held_count < count and visit.goes_on and not self._told:
            self._step(visit)

    def take(self) -> Sequence[StreamItem]:
        held, self._held, self._held_count = self._held, [], 0
        told, self._told = self._told, []
        return [*merge(held), *told] if held else told

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "observation": None if self._observations is None else pack(encode(self._observations)),
            "is_resetting": self._is_resetting,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["observation"] is not None:
            self._observations, self._seed = decode(unpack(state["observation"])), None
            self._is_resetting = np.asarray(state["is_resetting"], np.bool_)

    def _step(self, visit: Visit) -> None:
        # In NEXT_STEP mode, the step after an episode's end only resets and is no transition.
        live = np.flatnonzero(~self._is_resetting)

        def pick(column: Array) -> Array:
            return column[live]

        decision = self._policy.act(self._observations)
        # Copied before the step, because an environment may hand out one buffer again and again.
        before = map_tree(pick, self._observations)
        actions = pick(decision.actions)
        try:
            after, rewards, terminated, truncated, infos = self._env.step(decision.actions)
        except Exception as error:
            note_action(error, self._env.action_space, decision.actions)
            note_observation(error, self._env.single_observation_space)
            raise
        if visit.is_cancelled:
            return
        after = as_tree(after)
        done = np.logical_or(terminated, truncated)
        if len(live):
            batch = TransitionBatch(
                observations=before,
                actions=actions,
                rewards=np.asarray(pick(rewards), np.float64),
                next_observations=map_tree(pick, self._final(after, done, infos)),
                terminated=pick(terminated),
                truncated=pick(truncated),
                streams=live.astype(np.int32),
                stream_ids=self._stream_ids,
                extras={name: pick(column) for name, column in decision.extras.items()},
                infos=[info_of_step(infos, int(index)) for index in live] if infos else None,
                times=np.full(len(live), self._now()),
            )
            self._hold(batch if self._learn is None else self._learn_each(batch, self._learn))
        self._observations = after
        if self._mode is AutoresetMode.NEXT_STEP:
            self._is_resetting = done
        elif self._mode is AutoresetMode.DISABLED and done.any():
            self._observations = self._reset(options={"reset_mask": done})

    def _reset(self, **arguments: Any) -> Tree:
        try:
            return as_tree(self._env.reset(**arguments)[0])
        except Exception as error:
            note_observation(error, self._env.single_observation_space)
            raise

    def _hold(self, batch: TransitionBatch | None) -> None:
        if batch is not None:
            self._held.append(batch)
            self._held_count += len(batch)

    def _learn_each(self, batch: TransitionBatch, learn: Learn) -> TransitionBatch | None:
        """The rows that the agent could learn from."""
        transitions = [batch_row(batch, row) for row in range(len(batch))]
        outcomes = [learn(transition) for transition in transitions]
        learned = [item for item, outcome in zip(transitions, outcomes, strict=True) if outcome[0] is item]
        if len(learned) == len(transitions):
            return batch
        self._told.extend(told for outcome in outcomes for told in outcome if not isinstance(told, Transition))
        return batch_of(learned) if learned else None

    def _final(self, observations: Tree, done: Array, infos: Mapping[str, Any]) -> Tree:
        """What each sub-environment saw last; in SAME_STEP mode ``observations`` are those after the reset."""
        if self._mode is not AutoresetMode.SAME_STEP or not done.any():
            return observations
        final = map_tree(np.copy, observations)
        for index in np.flatnonzero(done):
            _put(final, int(index), as_tree(infos["final_obs"][index]))
        return final


def _put(columns: Tree, index: int, row: Tree) -> None:
    def put(column: Array, value: Any) -> None:
        column[index] = value

    map_tree(put, columns, row)
