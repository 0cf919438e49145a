"""aionet: an asyncio-native networking toolkit.

This module only re-exports; each name lives in the file that explains it.
"""

from .addresses import AddressLike, IpAddress, SocketAddress, UnixAddress
from .close_reason import CloseCause, CloseReason
from .connection import Connection
from .draining import DrainReport, Straggler
from .engine import implementation
from .errors import (
    AionetError,
    ConnectError,
    ConnectionLostError,
    DeliveryError,
    IncompleteReadError,
    LimitExceededError,
    ProxyProtocolError,
    ResolveError,
    ResourceExhaustedError,
    SocketBusyError,
    SocketClosedError,
    SocketInheritedError,
    SuccessionError,
    TlsError,
    TlsTruncatedError,
    WorkerFailedError,
)
from .limiting.limits import ConnectionLimits
from .network_toolkit import NetworkToolkit
from .options import KeepAlive, TcpOptions, UnixOptions
from .proxy_protocol import ProxyHeader, ProxyProtocol, ProxyTls
from .relaying import RelayReport, relay
from .resolving import Resolver
from .running import new_event_loop, run, task_factory
from .serving import serve
from .signals import Signal
from .spawner import ConnectionSpawner
from .spawner_stats import SpawnerStats
from .tcp_connection_server import AsyncTcpConnectionServer
from .tcp_info import TcpInfo, TcpState
from .tcp_socket import AsyncTcpSocket
from .tls.server import ServerTls
from .tls_failure import TlsFailure
from .unix_connection_server import AsyncUnixConnectionServer
from .unix_socket import AsyncUnixSocket
from .version import __version__
from .wires.tls.info import TlsInfo
from .workers.running import run_workers

__all__ = [
    "AddressLike",
    "AionetError",
    "AsyncTcpConnectionServer",
    "AsyncTcpSocket",
    "AsyncUnixConnectionServer",
    "AsyncUnixSocket",
    "CloseCause",
    "CloseReason",
    "ConnectError",
    "Connection",
    "ConnectionLimits",
    "ConnectionLostError",
    "ConnectionSpawner",
    "DeliveryError",
    "DrainReport",
    "IncompleteReadError",
    "IpAddress",
    "KeepAlive",
    "LimitExceededError",
    "NetworkToolkit",
    "ProxyHeader",
    "ProxyProtocol",
    "ProxyProtocolError",
    "ProxyTls",
    "RelayReport",
    "ResolveError",
    "Resolver",
    "ResourceExhaustedError",
    "ServerTls",
    "Signal",
    "SocketAddress",
    "SocketBusyError",
    "SocketClosedError",
    "SocketInheritedError",
    "SpawnerStats",
    "Straggler",
    "SuccessionError",
    "TcpInfo",
    "TcpOptions",
    "TcpState",
    "TlsError",
    "TlsFailure",
    "TlsInfo",
    "TlsTruncatedError",
    "UnixAddress",
    "UnixOptions",
    "WorkerFailedError",
    "__version__",
    "implementation",
    "new_event_loop",
    "relay",
    "run",
    "run_workers",
    "serve",
    "task_factory",
]
