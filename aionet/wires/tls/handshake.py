"""`Handshake`: the handshake of a TLS wire, and what is needed for it and no longer.

Theory of operation
-------------------
The handshake runs in the task that asks for it, and goes through the same two buffers as everything later.

*A server that has to choose* its context gets the first flight of the client before the `ssl.SSLObject` is
made, because an object keeps the verification, the versions and the session tickets of the context that it
was made with, whatever context it is given later (SSL_set_SSL_CTX(3)). The choice may take its time. The
wire may be closed meanwhile: then the choice is cancelled, and the task is not.

*Records.* A peer decides how many records its flight has. OpenSSL is given a few small ones at a time
(`records.py`), others have a turn between, and a handshake of very many records fails. Of what comes behind
the handshake OpenSSL has no more than those few when it ends.

*A missing certificate.* In TLS 1.2 a server that requires one of a client without any answers with the
alert "handshake failure" (RFC 5246, 7.4.6), as where no cipher is shared; GnuTLS sends "decode error". What
tells is this side's own last flight: it began with a Certificate message that had no certificate.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

from ...accept_errors import is_shortage
from ...errors import ConnectionLostError, ResourceExhaustedError, SocketClosedError
from ...tls_failure import TlsFailure, explain, looks_like_tls
from .choice import ContextChoice, RefusedHandshakeError
from .records import MOST_OF_HANDSHAKE

if TYPE_CHECKING:
    from .wire import TlsWire

__all__ = ["Handshake"]

_CHUNK = 64 * 1024
_RECORD = 5  # type, version, length
_SMALL_RECORDS = 32  # that OpenSSL is given at once: more than an honest flight has
_MAY_MISS_A_CERTIFICATE = ("SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV1_ALERT_DECODE_ERROR")
_NO_CERTIFICATE = (
    b"\x0b\x00\x00\x03\x00\x00\x00"  # a Certificate message with an empty list (RFC 5246, 7.4.2)
)


class Handshake:
    """The handshake of one wire. The wire's attributes are its own, too."""

    __slots__ = (
        "_choice",
        "_choosing",
        "_count",
        "_flight",
        "_heard",
        "_initial",
        "server_name",
        "server_side",
    )

    def __init__(
        self, *, server_side: bool, server_name: str | None, choice: ContextChoice | None, initial: bytes
    ) -> None:
        """`choice` is asked for the context, if there is one; `initial` is ciphertext that came before."""
        self.server_side = server_side
        self.server_name = server_name
        """The name that the client asks for (SNI), as far as it is known."""
        self._choice = choice
        self._choosing: asyncio.Timeout | None = None
        self._flight = b""
        self._heard = False
        self._count = 0
        """Records of the peer's."""
        self._initial = initial

    async def run(self, wire: TlsWire) -> None:
        """Do it. Raises and cancel safety: as `TlsWire.shake_hands`."""
        if self._choice is not None:
            await self._choose(wire, self._choice)
        elif self.server_side:  # the client speaks first
            await self._hear(wire)
        while not self._step(wire) or wire._seal.failure is not None:
            await self._hear(wire)
        wire._lower.forget_sizes()

    async def _hear(self, wire: TlsWire) -> None:
        """Give OpenSSL what is next of the peer's records. Raises `TlsError` for a flood of them."""
        if not wire._feed_next(_SMALL_RECORDS):
            wire._take_in(await self._receive(wire), _SMALL_RECORDS)
        else:
            wire._state.budget -= 1
            if wire._state.budget <= 0:
                await wire._state.yield_turn()
                wire._refuse_if_closed("handshake")
        self._count += wire._unread_records
        if self._count > MOST_OF_HANDSHAKE:
            raise wire._lose_by("handshake", None, TlsFailure.RECORD_FLOOD)

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """The wire closes: end a choice that is in progress."""
        if self._choosing is not None and self._choosing.when() is None:
            self._choosing.reschedule(loop.time())

    async def _choose(self, wire: TlsWire, choice: ContextChoice) -> None:
        heard, chosen = bytearray(), False
        while not chosen:
            ciphertext = await self._receive(wire)
            heard += ciphertext
            chosen = choice.feed(ciphertext)
        self.server_name = choice.server_name
        self._choosing = asyncio.timeout(None)  # which is used to cancel what is within, not the task
        try:
            async with self._choosing:
                context = await choice.context()
        except RefusedHandshakeError as refusal:
            raise self._refuse(wire, refusal) from None
        except TimeoutError:
            raise wire._closed_error("handshake") from None
        finally:
            self._choosing = None
        wire._refuse_if_closed("handshake")
        wire._begin_tls(context, server_side=True)
        wire._take_in(bytes(heard), _SMALL_RECORDS)

    def _refuse(self, wire: TlsWire, refusal: RefusedHandshakeError) -> Any:
        wire._refuse_if_closed("handshake")
        try:
            wire._lower.begin_send(refusal.alert)
        except OSError:  # lost: there is no peer to read it
            pass
        return wire._lose_for("handshake", str(refusal), refusal.failure)

    def _step(self, wire: TlsWire) -> bool:
        """Go as far as what has come allows; whether the handshake is over."""
        try:
            wire._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            failure, by_peer = explain(error)
            if error.reason in _MAY_MISS_A_CERTIFICATE and self._has_shown_no_certificate():
                failure = TlsFailure.CERTIFICATE_MISSING
            raise wire._lose_by("handshake", error, failure, by_peer) from error
        finally:
            if not self.server_side and (flight := wire._encrypted.read()):
                self._flight = flight
                wire._encrypted.write(flight)
            wire._reply()
        return True

    def _has_shown_no_certificate(self) -> bool:
        return self._flight[_RECORD:].startswith(_NO_CERTIFICATE)

    async def _receive(self, wire: TlsWire) -> bytes:
        ciphertext, self._initial = self._initial, b""
        ciphertext = ciphertext or await _receive_below(wire)
        if not self._heard and not looks_like_tls(ciphertext):
            raise wire._lose_by("handshake", None, TlsFailure.PLAINTEXT)
        self._heard = True
        return ciphertext


async def _receive_below(wire: TlsWire) -> bytes:
    failure = wire._seal.failure
    try:
        if failure is None:
            ciphertext: bytes = await wire._lower.receive(_CHUNK)
        else:  # the peer waits for what was not sent: what it has said before, an alert perhaps, is all
            ciphertext = wire._lower.receive_now(_CHUNK)
    except BlockingIOError:
        assert failure is not None
        if is_shortage(failure):
            raise wire._error("handshake", failure) from failure
        raise wire._lose_by("handshake", failure, TlsFailure.RESET) from failure
    except ConnectionLostError as error:
        raise wire._lose_by("handshake", error, TlsFailure.RESET) from error
    except ResourceExhaustedError as error:
        raise wire._error("handshake", error) from error
    except SocketClosedError:
        raise wire._closed_error("handshake") from None
    except OSError as error:  # of the system, which `receive_now` passes on
        wire._refuse_if_closed("handshake")
        raise wire._lose_by("handshake", error, TlsFailure.RESET) from error
    wire._refuse_if_closed("handshake")
    if not ciphertext:
        raise wire._lose_by("handshake", None, TlsFailure.ENDED)
    return ciphertext
