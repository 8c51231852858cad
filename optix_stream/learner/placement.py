"""Which learner a run gets."""

from __future__ import annotations

from typing import Literal, TypeAlias

from optix_stream.clock import Clock
from optix_stream.contracts import BaseAgent, PolicyPublisher, PortablePolicy, Reproducible, TransitionLearner
from optix_stream.errors import ConfigurationError
from optix_stream.learner.child import ProcessOptions
from optix_stream.learner.contract import Learner
from optix_stream.learner.process import ProcessLearner, can_run_processes
from optix_stream.learner.thread import ThreadLearner
from optix_stream.recipes import AgentRecipe

LearnerPlacement: TypeAlias = Literal["thread", "process"] | ProcessOptions | None
"""``"thread"``, ``"process"`` or how the process is run; None: what suits the agent and the pipeline."""


def make_learner(
    agent: BaseAgent | AgentRecipe, placement: LearnerPlacement, *, is_live: bool, clock: Clock, max_failures: int
) -> Learner:
    """The learner for an agent, or for how one is made.

    Where nothing is said, what is live gets a process, if the agent can say how it is made, learns from windows, and
    its policy can act in another process than it learns; everything else gets a thread.

    Args:
        agent: what learns.
        placement: where.
        is_live: whether the pipeline's source never pauses.
        clock: stamps events.
        max_failures: transitions in a row on which ``learn_one`` may raise before the run fails.

    Raises:
        ConfigurationError: a process for an agent that nobody says how to make, another word, or no agent.
    """
    if not isinstance(agent, BaseAgent | AgentRecipe):
        raise ConfigurationError(f"agent: expected a BaseAgent or an AgentRecipe, got {agent!r}")
    if placement not in ("thread", "process", None) and not isinstance(placement, ProcessOptions):
        raise ConfigurationError(f"learner: expected 'thread', 'process' or ProcessOptions, got {placement!r}")
    made = None if isinstance(agent, AgentRecipe) else agent
    recipe = agent if isinstance(agent, AgentRecipe) else agent.recipe if isinstance(agent, Reproducible) else None
    if placement is None:
        suits = is_live and recipe is not None and can_run_processes() and (made is None or _can_be_elsewhere(made))
        placement = "process" if suits else "thread"
    if placement == "thread":
        return ThreadLearner(made if made is not None else _make(recipe), max_failures)
    if recipe is None:
        raise ConfigurationError(
            "learner='process': expected an AgentRecipe, or an agent that has one, as one made by for_spaces; "
            f"got {type(made).__name__}"
        )
    return ProcessLearner(recipe, clock, placement if isinstance(placement, ProcessOptions) else None, made)


def _can_be_elsewhere(agent: BaseAgent) -> bool:
    if isinstance(agent, TransitionLearner) or not isinstance(agent, PolicyPublisher):
        return False
    policy = agent.publish_policy()
    return isinstance(policy, PortablePolicy) and policy.export() is not None


def _make(recipe: AgentRecipe | None) -> BaseAgent:
    assert recipe is not None
    agent = recipe.make()
    if not isinstance(agent, BaseAgent):
        raise ConfigurationError(f"{recipe.factory}: expected a BaseAgent, got {type(agent).__name__}")
    return agent
