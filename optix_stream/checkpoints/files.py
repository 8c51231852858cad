"""Files that are on the disk when they are said to be, and read only if they are what was written.

Nothing here follows a symbolic link out of a snapshot, and nothing is read before its size is known to be sane.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from optix_stream.errors import CheckpointError

LARGEST_SNAPSHOT = 1 << 40
"""Bytes that a snapshot may have, at most: a manifest that says more is not believed."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_DEEPEST = 16


class SavedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a snapshot.

    Attributes:
        path: relative to the snapshot, with ``/`` between its parts.
        size: bytes.
        sha256: of its content, in hexadecimal digits.
    """

    path: str
    size: int
    sha256: str


class FileHashes:
    """Hashes of files; those of files that several snapshots share are remembered, so that each is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int], str] = {}
        self._used: dict[tuple[int, int, int, int], str] = {}

    def hash(self, path: Path) -> SavedFile:
        """Size and hash of a regular file, without its path."""
        with open_plain(path) as file:
            status = os.fstat(file.fileno())
            key = _identity(status)
            digest = self._known.get(key) or hashlib.file_digest(file, "sha256").hexdigest()
            if status.st_nlink > 1:
                self._used[key] = digest
            return SavedFile("", status.st_size, digest)

    def forget_unused(self) -> None:
        """Keep those that were asked for since this was last called."""
        self._known, self._used = self._used, {}


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def open_plain(path: Path) -> io.BufferedReader:
    """A file to be read: nothing through a symbolic link, and no device or pipe that would wait."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"expected a regular file: {path}")
    return os.fdopen(descriptor, "rb")


def sync_file(path: Path) -> None:
    """Put a file's content on the disk."""
    with open_plain(path) as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Put a directory's names on the disk."""
    if os.name == "nt":  # Directories cannot be opened there; names are journalled.
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write a new file; it is on the disk when this returns, its name once its directory is."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Let a file have this content or the one before, whatever happens meanwhile."""
    part = path.with_name(f".part-{path.name}")
    part.unlink(missing_ok=True)
    write_file(part, content)
    part.replace(path)
    sync_directory(path.parent)


def files_in(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Every file below a directory, and then the directory itself.

    Raises:
        CheckpointError: there is something that is neither a file nor a directory, or has a name of other characters.
    """
    if depth > _DEEPEST:
        raise CheckpointError(f"{folder}: expected at most {_DEEPEST} directories within each other")
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = Path(entry.path)
        if not _PART.match(entry.name):
            raise CheckpointError(f"{folder}: expected names of letters, digits, '.', '_' and '-', got {entry.name!r}")
        if entry.is_dir(follow_symlinks=False):
            yield from files_in(path, depth + 1)
        elif entry.is_file(follow_symlinks=False):
            yield path
        else:
            raise CheckpointError(f"{path}: expected a file or a directory, not a link or a device")
    yield folder


def sync_tree(folder: Path, hashes: FileHashes) -> list[SavedFile]:
    """Put everything below a directory on the disk, and say what it is."""
    saved: list[SavedFile] = []
    for path in files_in(folder):
        if path.is_dir():
            sync_directory(path)
        else:
            sync_file(path)
            saved.append(msgspec.structs.replace(hashes.hash(path), path=path.relative_to(folder).as_posix()))
    return saved


def verify_tree(folder: Path, expected: list[SavedFile], besides: str) -> None:
    """Check that a directory holds these files, as they were, and no others.

    Args:
        folder: the directory.
        expected: its files.
        besides: one more that may be there.

    Raises:
        CheckpointError: it does not; the text says what was expected and what is there.
    """
    sizes = {file.path: file.size for file in expected}
    if len(sizes) < len(expected) or not 0 <= sum(sizes.values()) <= LARGEST_SNAPSHOT:
        raise CheckpointError(f"{folder}: expected at most {LARGEST_SNAPSHOT} bytes in files named once")
    try:
        found = {path.relative_to(folder).as_posix(): path for path in files_in(folder) if not path.is_dir()}
        found.pop(besides, None)
        if found.keys() != sizes.keys():
            missing, surplus = sorted(sizes.keys() - found.keys()), sorted(found.keys() - sizes.keys())
            raise CheckpointError(f"{folder}: expected files {missing} are missing, got {surplus} that do not belong")
        for file in expected:
            size = found[file.path].stat().st_size
            if size != file.size:
                raise CheckpointError(f"{folder / file.path}: expected {file.size} bytes, got {size}")
        for file in expected:
            got = FileHashes().hash(found[file.path])
            if got.sha256 != file.sha256:
                raise CheckpointError(
                    f"{folder / file.path}: damaged: expected SHA-256 {file.sha256}, got {got.sha256}"
                )
    except OSError as error:
        raise CheckpointError(f"cannot read {folder}: {error}") from error
