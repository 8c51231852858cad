"""Snapshots on disk, whole or absent whatever happens to the process or the machine."""

from optix_stream.checkpoints.registry import CheckpointRegistry, RunCheckpoint

__all__ = ["CheckpointRegistry", "RunCheckpoint"]
