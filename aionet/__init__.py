"""aionet: an asyncio-native networking toolkit.

This module only re-exports; each name lives in the file that explains it.
"""

from .addresses import AddressLike, IpAddress, SocketAddress, UnixAddress
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
    SocketBusyError,
    SocketClosedError,
    TlsError,
    TlsTruncatedError,
)
from .options import KeepAlive, TcpOptions, UnixOptions
from .resolving import Resolver
from .tcp_connection_server import AsyncTcpConnectionServer
from .tcp_info import TcpInfo, TcpState
from .tcp_socket import AsyncTcpSocket
from .unix_connection_server import AsyncUnixConnectionServer
from .unix_socket import AsyncUnixSocket
from .version import __version__
