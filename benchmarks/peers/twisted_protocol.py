"""https://docs.twisted.org/en/stable/core/howto/servers.html and .../core/howto/producers.html"""

from common import BACKLOG, CHUNK, announce, bulk
from twisted.internet import interfaces, protocol, reactor
from zope.interface import implementer


class Echo(protocol.Protocol):
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


@implementer(interfaces.IPushProducer)
class Bulk(protocol.Protocol):
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        while not self.paused:
            self.transport.write(CHUNK)

    def stopProducing(self) -> None:
        self.paused = True


if __name__ == "__main__":
    factory = protocol.Factory.forProtocol(Bulk if bulk() else Echo)
    port = reactor.listenTCP(0, factory, backlog=BACKLOG, interface="127.0.0.1")
    reactor.callWhenRunning(announce, port.getHost().port)
    reactor.run()
