"""The standard library's default contexts, whatever becomes of the key log.

Theory of operation
-------------------
`ssl.create_default_context` has the keys of all connections written to the file that the environment names
(``SSLKEYLOGFILE``), for debugging, and raises if it cannot open it. A log that cannot be written must not
change what a program does: here that is a warning, once for each file, and the context logs no keys.
"""

from __future__ import annotations

import functools
import os
import ssl
import sys

from ..announcing import Log

__all__ = ["default_context"]

_log = Log("aionet.tls")

_KEY_LOG = "SSLKEYLOGFILE"


def default_context(purpose: ssl.Purpose, *, cafile: str | None = None) -> ssl.SSLContext:
    """Return `ssl.create_default_context` of these. Raises `OSError` for a `cafile` that cannot be read."""
    try:
        return ssl.create_default_context(purpose, cafile=cafile)
    except OSError as error:
        path = os.environ.get(_KEY_LOG)
        if not path or error.filename != path:
            raise
        _warn(path, error.strerror)
    return _without_key_log(purpose, cafile)


@functools.cache
def _warn(path: str, why: str) -> None:
    _log.warning("TLS keys are not logged: cannot write %s (%s): %s", path, _KEY_LOG, why)


def _without_key_log(purpose: ssl.Purpose, cafile: str | None) -> ssl.SSLContext:
    """What `ssl.create_default_context` does before it comes to the key log."""
    is_client = purpose is ssl.Purpose.SERVER_AUTH
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if is_client else ssl.PROTOCOL_TLS_SERVER)
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if cafile is not None:
        context.load_verify_locations(cafile=cafile)
    elif is_client:
        context.load_default_certs(purpose)
    return context
