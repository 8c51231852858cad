"""``main``: runs what was asked for, and turns errors into one line and an exit status."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence

from optix_stream.cli import evaluation, inspection, training, tuning
from optix_stream.cli.parsing import build_parser
from optix_stream.errors import CheckpointError, ConfigurationError, OptixStreamError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """The ``optix-stream`` command.

    Args:
        argv: arguments without the program's name; by default those of the process.

    Returns:
        The exit status: 0; 1 where a run failed; 2 where what was asked for cannot be done; 130
        where it was interrupted before it could stop cleanly.
    """
    is_debug = False
    try:
        arguments = build_parser().parse_args(argv)
        is_debug = arguments.debug
        _set_up_logging(is_debug)
        match arguments.command:
            case "train":
                training.train(training.settings_of(arguments))
            case "tune":
                tuning.tune(tuning.settings_of(arguments))
            case "evaluate":
                evaluation.evaluate(arguments.checkpoint_dir, arguments.episodes, arguments.seed, arguments.json)
            case _:
                inspection.inspect(arguments.checkpoint_dir, arguments.json)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        cause = _innermost(error)
        if isinstance(cause, ConfigurationError | CheckpointError):
            return _fail(str(cause), 2, is_debug)
        if isinstance(cause, OptixStreamError):
            return _fail(str(cause), 1, is_debug)
        return _fail(". ".join([f"{type(cause).__name__}: {cause}", *_notes(cause)]), 1, is_debug)
    return 0


def _set_up_logging(is_debug: bool) -> None:
    """Records go to standard error only on request; what matters in them is shown as an event."""
    if is_debug:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    else:
        # Without a handler, logging would print warnings, with tracebacks, through the display.
        logging.getLogger("optix_stream").addHandler(logging.NullHandler())


def _fail(message: str, status: int, is_debug: bool) -> int:
    if is_debug:
        traceback.print_exc()
    sys.stderr.write(f"optix-stream: {' '.join(message.split())}\n")
    return status


def _notes(error: BaseException) -> list[str]:
    """What was added to an error, such as what an environment expected."""
    return list(getattr(error, "__notes__", ()))


def _innermost(error: BaseException) -> BaseException:
    """What went wrong inside task groups."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
