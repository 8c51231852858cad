"""What can be asked of the command."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NoReturn

import optix_stream
from optix_stream.checkpointing import EVERY_MINUTE, CheckpointEvery
from optix_stream.cli.evaluation import EPISODE_LIMIT
from optix_stream.cli.loading import AGENTS
from optix_stream.cli.tuners import DEFAULT_TUNER, TUNERS
from optix_stream.cli.tuning import PRUNERS
from optix_stream.errors import ConfigurationError

_DESCRIPTION = """\
Train reinforcement-learning agents on streams of transitions, until their score no longer improves.

  optix-stream train CartPole-v1                    train, save the best policy, evaluate it
  optix-stream evaluate ./checkpoints/CartPole-v1   evaluate it again
  optix-stream inspect ./checkpoints/CartPole-v1    list its snapshots
  optix-stream tune CartPole-v1                     search for good settings, by many short runs
"""

_TRAIN = f"""\
Train an agent in a Gymnasium environment until it is DORMANT (its score no longer improves), until
--max-steps, or until Ctrl-C. Either way the best policy is saved and evaluated; an episode of the
evaluation is cut off after {EPISODE_LIMIT:,} steps, and another Ctrl-C ends it at once. Progress goes to standard
error, the report to standard output.
"""


_TUNE = """\
Search for good settings of an agent, by many independent runs of the same number of steps (Optuna's TPE; poor runs are
given up early). The value of a run is the mean return of its best policy, without exploration.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """The parser; a mistake raises ConfigurationError."""
    parser = _Parser(
        prog="optix-stream", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"optix-stream {optix_stream.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_train(commands.add_parser("train", help="train an agent in an environment", description=_TRAIN))
    _add_evaluate(
        commands.add_parser(
            "evaluate",
            help="evaluate the best policy of a run",
            description="Evaluate the best policy in a checkpoint directory, without exploration. An episode is cut "
            f"off after {EPISODE_LIMIT:,} steps; its return counts as it is, and the report says how many were.",
        )
    )
    _add_inspect(
        commands.add_parser(
            "inspect",
            help="list and verify the snapshots of a run",
            description="List the snapshots in a checkpoint directory, verify the hash of each of their files, and "
            "show the settings of the latest run. The exit status is 2 where something is damaged.",
        )
    )
    _add_tune(commands.add_parser("tune", help="search for good settings of an agent", description=_TUNE))
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    agents = "; ".join(f"{name}: {source.summary}" for name, source in AGENTS.items())
    parser.add_argument("env_id", metavar="ENV_ID", help="a Gymnasium environment, such as CartPole-v1")
    parser.add_argument("--agent", choices=tuple(AGENTS), help=f"default: ppo ({agents})")
    parser.add_argument(
        "--learner",
        choices=("thread", "process"),
        default="thread",
        help="where it learns; default: thread. A process may die, and is started again",
    )
    parser.add_argument(
        "--tuner",
        choices=TUNERS,
        help=f"what changes hyperparameters while it learns; default: {DEFAULT_TUNER}",
    )
    parser.add_argument(
        "--params",
        type=Path,
        metavar="FILE.json",
        help="settings of the agent in place of the preset's: an object, or what optix-stream tune wrote",
    )
    parser.add_argument("--seed", type=_natural, metavar="N", help="default: 0; the same seed gives the same run")
    parser.add_argument(
        "--max-steps",
        type=_positive,
        metavar="N",
        help="stop after this many environment steps, rounded up to whole windows; default: no limit",
    )
    parser.add_argument(
        "--window-size",
        type=_positive,
        metavar="N",
        help="transitions to learn from at a time, over all environments; default: the preset's",
    )
    parser.add_argument(
        "--num-envs", type=_positive, metavar="N", help="environments side by side; default: the preset's"
    )
    _add_judging(parser)
    parser.add_argument(
        "--checkpoint-dir", type=Path, metavar="DIR", help="where snapshots go; default: ./checkpoints/ENV_ID"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in that directory, by the settings of its run; begin where there is none",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=_occasions,
        default=EVERY_MINUTE,
        metavar="N|SECs",
        help="save the state of the run after so many windows, or seconds such as 30s; default: 60s",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the run as a picture")
    parser.add_argument("--json", action="store_true", help="report as one line of JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the report")
    _add_debug(parser)


def _add_judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--judge",
        choices=("evidence", "threshold"),
        help="who decides what a score means; default: evidence, which states how often it errs",
    )
    parser.add_argument(
        "--minimal-effect",
        type=_above_zero,
        metavar="GAIN",
        help="smallest gain worth learning on for, in the preset's unit (of the score, or of its deviation); "
        "default: the preset's",
    )
    parser.add_argument(
        "--windows-per-false-alarm",
        type=_positive,
        metavar="N",
        help="windows without a change until one is called degraded all the same, on average; default: 10000",
    )
    parser.add_argument(
        "--rollback", action="store_true", help="go back to the best policy when the score falls, unless the world did"
    )


def _add_tune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("env_id", metavar="ENV_ID", help="a Gymnasium environment, such as CartPole-v1")
    parser.add_argument("--agent", choices=tuple(AGENTS), default="ppo", help="default: ppo")
    parser.add_argument("--trials", type=_positive, default=20, metavar="N", help="runs to make; default: 20")
    parser.add_argument(
        "--max-steps", type=_positive, default=50_000, metavar="N", help="environment steps of each; default: 50000"
    )
    parser.add_argument(
        "--episodes", type=_positive, default=20, metavar="N", help="of the evaluation of each; default: 20"
    )
    parser.add_argument("--pruner", choices=PRUNERS, default="median", help="what gives poor runs up; default: median")
    parser.add_argument("--seed", type=_natural, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="where the result goes; default: ./tuned-ENV_ID-AGENT.json"
    )
    parser.add_argument("--json", action="store_true", help="report as one line of JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the report")
    _add_debug(parser)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint_dir", type=Path, metavar="CHECKPOINT_DIR", help="made by optix-stream train")
    parser.add_argument("--episodes", type=_positive, default=20, metavar="N", help="default: 20")
    parser.add_argument(
        "--seed",
        type=_natural,
        metavar="N",
        help="of the first episode; default: 10000 + the run's, which repeats the evaluation after training",
    )
    parser.add_argument("--json", action="store_true", help="report as one line of JSON")
    _add_debug(parser)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint_dir", type=Path, metavar="CHECKPOINT_DIR", help="made by optix-stream train")
    parser.add_argument("--json", action="store_true", help="as one line of JSON")
    _add_debug(parser)


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="log to standard error, and show tracebacks")


def _natural(text: str) -> int:
    value = _integer(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"expected 0 to 2147483647, got {text}")
    return value


def _positive(text: str) -> int:
    value = _integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def _occasions(text: str) -> CheckpointEvery:
    """So many windows, or seconds."""
    if not text.endswith("s"):
        return CheckpointEvery(windows=_positive(text))
    try:
        return CheckpointEvery(sec=float(text[:-1]))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected windows such as 10, or seconds such as 30s, got {text!r}") from None


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text!r}")
    return value


def _integer(text: str) -> int:
    """An integer, also as ``1_000_000`` or ``1e6``."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(value)
