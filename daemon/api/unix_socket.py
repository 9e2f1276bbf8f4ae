"""
The Unix socket that meltd binds itself (OPS.md): uvicorn's own ``uds=`` would make it writable for everybody.

Under a umask that leaves no moment in which the socket is open to others; a stale one is probed before it is
removed; one that lives, or a file that is no socket, is never touched; at the end it is removed only if it is
still the one that we made. Under systemd socket activation (``LISTEN_FDS``) the given one is used and left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from melt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

BACKLOG: Final = 128
PATH_BYTES_MAX: Final = 107
"""sun_path holds 108 bytes with its end."""
LISTEN_FDS_START: Final = 3
PROBE_TIMEOUT_S: Final = 2.0


@dataclass(slots=True, kw_only=True)
class BoundSocket:
    """A listening socket, and what is needed to remove it later."""

    socket: socket.socket
    path: Path
    inode: tuple[int, int] | None
    """(device, inode) of the path that we made; None: it was handed to us."""

    def close(self) -> None:
        """Stop listening; remove the path if it is still ours."""
        self.socket.close()
        if self.inode is None:
            return
        with contextlib.suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self.inode:
                self.path.unlink()
        self.inode = None


def bind(
    path: Path,
    *,
    mode: int = 0o660,
    owner: str | None = None,
    group: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> BoundSocket:
    """
    Listen on ``path``, or on the socket that systemd handed over.

    Raises :class:`melt.errors.ConfigError` when another process listens there, something else lies there, or the
    owner can't be set.
    """
    handed = _handed_over(os.environ if environ is None else environ)
    if handed is not None:
        return handed
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise ConfigError(f"the socket path {path} is longer than {PATH_BYTES_MAX} bytes: set socket.path")
    uid, gid = _uid(owner), _gid(group)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        with _lock(path):
            _remove_stale(path)
            return _bind(path, mode, uid, gid)
    except OSError as error:
        raise ConfigError(f"can't listen on {path}: {error.strerror or error}") from error


def _bind(path: Path, mode: int, uid: int, gid: int) -> BoundSocket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # The umask is the process's: this runs at start, before there are other threads that make files.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        found = path.lstat()
        bound = BoundSocket(socket=listener, path=path, inode=(found.st_dev, found.st_ino))
        if (uid, gid) != (-1, -1):
            os.chown(path, uid, gid, follow_symlinks=False)
        path.chmod(mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return bound


@contextlib.contextmanager
def _lock(path: Path) -> Generator[None, None, None]:
    """Two daemons that start together must not both find a stale socket and remove each other's."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on. Raises ConfigError for anything else that lies there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"{path} exists and is not a socket: move it away, or set another socket.path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:
                raise ConfigError(f"{path} is in use or can't be probed: {error.strerror or error}") from error
        else:
            raise ConfigError(f"another process listens on {path}: is meltd running already?")
    path.unlink()


def _handed_over(environ: Mapping[str, str]) -> BoundSocket | None:
    """The first socket of systemd's socket activation, if it is meant for this process."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or not environ.get("LISTEN_FDS", "").isdigit():
        return None
    if int(environ["LISTEN_FDS"]) < 1:
        return None
    listener = socket.socket(fileno=LISTEN_FDS_START)
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM:
        listener.close()
        raise ConfigError("LISTEN_FDS: the socket that was handed over is not a Unix stream socket")
    os.set_inheritable(LISTEN_FDS_START, False)
    listener.setblocking(False)
    name = listener.getsockname()
    return BoundSocket(socket=listener, path=Path(name if isinstance(name, str) else os.fsdecode(name)), inode=None)


def _uid(owner: str | None) -> int:
    if owner is None:
        return -1
    try:
        return int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise ConfigError(f"socket.owner: there is no user {owner!r}") from None


def _gid(group: str | None) -> int:
    if group is None:
        return -1
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"socket.group: there is no group {group!r}") from None
