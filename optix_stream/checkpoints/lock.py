"""One writer a directory: a lock that names its holder, and an epoch that goes up with each.

The operating system releases the lock when its holder ends, however it ends. Should it be broken nevertheless (by
removing the file, say), the epoch fences the old writer off: it finds another's in the file, and commits nothing more.
"""

from __future__ import annotations

import importlib
import os
import platform
import time
from pathlib import Path

import msgspec

from optix_stream.errors import CheckpointError, DirectoryInUseError

_NAME = "lock"
_LARGEST = 4096
_ATTEMPTS = 50
_WAIT_SEC = 0.002


class _Holder(msgspec.Struct, forbid_unknown_fields=True):
    epoch: int
    pid: int | None = None
    host: str | None = None
    since: float | None = None


class DirectoryLock:
    """Lets one process at a time write to a directory.

    Args:
        directory: exists by the time that the lock is taken.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._descriptor: int | None = None
        self.epoch = 0

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, above: int) -> None:
        """Take the lock, and an epoch higher than ``above`` and than all before.

        Raises:
            DirectoryInUseError: another writer has it.
            CheckpointError: the lock's file cannot be used.
        """
        try:
            self._descriptor = self._open_locked()
            before = _read(self._descriptor)
            self.epoch = max(above, before.epoch if before is not None else 0) + 1
            self._write(_Holder(self.epoch, os.getpid(), platform.node(), time.time()))
        except OSError as error:
            self._close()
            raise CheckpointError(f"cannot lock {self._path}: {error}") from error
        except BaseException:
            self._close()
            raise

    def check(self) -> None:
        """Make sure that nobody else has taken the directory.

        Raises:
            DirectoryInUseError: somebody has.
            OSError: the file cannot be read.
        """
        assert self._descriptor is not None
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise DirectoryInUseError(self._path.parent, None, None, None) from None
        try:
            holder = _read(descriptor)
        finally:
            os.close(descriptor)
        if holder is None or holder.epoch != self.epoch:
            raise _in_use(self._path.parent, holder)

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor is not None:
            try:
                self._write(_Holder(self.epoch))
            finally:
                self._close()

    def _open_locked(self) -> int:
        holder = None
        for _ in range(_ATTEMPTS):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            try:
                is_locked = _try_to_lock(descriptor)
                if is_locked and _is_at(self._path, descriptor):
                    taken, descriptor = descriptor, -1
                    return taken
                holder = None if is_locked else _read(descriptor)
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            if holder is not None and holder.pid is not None:
                break
            # It is between taking the lock and writing its name, or between the other two.
            time.sleep(_WAIT_SEC)
        raise _in_use(self._path.parent, holder)

    def _write(self, holder: _Holder) -> None:
        assert self._descriptor is not None
        content = msgspec.json.encode(holder) + b"\n"
        # Padded, so that it covers any before it without cutting the file to zero first.
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, content.ljust(512))
        os.fsync(self._descriptor)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _read(descriptor: int) -> _Holder | None:
    """Who is named in the file; None where nobody is, or nothing can be made of it."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        return msgspec.json.decode(os.read(descriptor, _LARGEST), type=_Holder)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _in_use(directory: Path, holder: _Holder | None) -> DirectoryInUseError:
    if holder is None:
        return DirectoryInUseError(directory, None, None, None)
    return DirectoryInUseError(directory, holder.pid, holder.host, holder.since)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the file is still the one of that name: somebody may have removed it meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _try_to_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            msvcrt = importlib.import_module("msvcrt")
            os.lseek(descriptor, _LARGEST, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl = importlib.import_module("fcntl")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
