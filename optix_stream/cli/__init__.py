"""The ``optix-stream`` command: train an agent, evaluate it, look at its checkpoints.

``parsing`` says what can be asked, ``dispatch`` answers and turns errors into one line and an exit
status. Environments and agents are loaded by name in ``loading``, so that nothing here needs an
extra before it is used.
"""

from optix_stream.cli.dispatch import main

__all__ = ["main"]
