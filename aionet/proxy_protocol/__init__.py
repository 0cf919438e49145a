"""The PROXY protocol of HAProxy, versions 1 and 2: how a proxy tells a server who the client is.

`header` is the value, `layout` the bytes it is made of; `parsing` and `building` lead from one to the other
without any I/O; `preface` reads a header from a socket.
"""

from .header import ProxyHeader
from .layout import TlvType
from .parsing import parse_header
from .preface import ProxyProtocol
from .tls_details import ProxyTls

__all__ = ["ProxyHeader", "ProxyProtocol", "ProxyTls", "TlvType", "parse_header"]
