"""The local HTTP API on a Unix socket (DESIGN section 6): routes, problem documents, peers, the socket itself."""

from __future__ import annotations

from daemon.api.app import ApiOptions, build_api
from daemon.api.serving import UnixServer
from daemon.api.unix_socket import BoundSocket, bind

__all__ = ["ApiOptions", "BoundSocket", "UnixServer", "bind", "build_api"]
