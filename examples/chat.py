r"""A chat room: what one client says, all the others hear.

    $ python examples/chat.py
    listening on 127.0.0.1:3000

    $ nc 127.0.0.1 3000
    Your name? ada
    * you are here with: nobody
    * grace joined
    grace: hello!

Every client has an outbox of its own, and a task that sends what is in it. Speaking only puts lines into the
outboxes, so a client that does not read stops nobody else: its outbox fills, further lines skip it, and when
it reads again it is told how many it missed. Memory is bounded, for the outboxes as for the lines that come
in, and what comes in cannot steer the others' terminals: control characters are replaced.
"""

import asyncio
import sys
from contextlib import suppress

from aionet import (
    AsyncTcpConnectionServer,
    AsyncTcpSocket,
    ConnectionLimits,
    ConnectionLostError,
    LimitExceededError,
    SocketClosedError,
    TcpOptions,
    serve,
)

LONGEST_LINE = 1000  # bytes
LONGEST_NAME = 20  # characters
OUTBOX_LINES = 100
LIMITS = ConnectionLimits(max_connections=500)
OPTIONS = TcpOptions(send_buffer=32 * 1024)  # bytes that the kernel holds for a client that does not read


class Member:
    """A client that has told its name."""

    def __init__(self, name: str, socket: AsyncTcpSocket) -> None:
        self.name = name
        self.socket = socket
        self.outbox: asyncio.Queue[str] = asyncio.Queue(OUTBOX_LINES)
        self.missed = 0

    def hear(self, line: str) -> None:
        """Take `line` into the outbox if there is room. Never waits."""
        if self.outbox.full():
            self.missed += 1
        else:
            self.outbox.put_nowait(line)

    async def send_outbox(self) -> None:
        """Send what is in the outbox, as fast as this client reads."""
        with suppress(ConnectionLostError, SocketClosedError):  # whoever reads from the socket is told too
            while True:
                lines = [await self.outbox.get()]
                while not self.outbox.empty():
                    lines.append(self.outbox.get_nowait())
                if self.missed:
                    lines.append(f"* you missed {self.missed} lines")
                    self.missed = 0
                await self.socket.write("".join(f"{line}\n" for line in lines).encode())


class Room:
    def __init__(self) -> None:
        self.members: dict[str, Member] = {}

    async def welcome(self, socket: AsyncTcpSocket) -> None:
        """Serve one client, from its name to its leaving."""
        try:
            if name := await self.ask_name(socket):
                await self.talk(Member(name, socket))
        except LimitExceededError:
            await socket.write(b"* that line is too long, goodbye\n")

    async def ask_name(self, socket: AsyncTcpSocket) -> str:
        """Return a name that is free, or an empty one if the client leaves."""
        await socket.write(b"Your name? ")
        while line := await socket.read_line(LONGEST_LINE):
            name = printable(line)[:LONGEST_NAME]
            if name and name not in self.members:
                return name
            await socket.write(b"That name is taken. Your name? " if name else b"Your name? ")
        return ""

    async def talk(self, member: Member) -> None:
        """Pass on what `member` says, until it leaves."""
        member.hear(f"* you are here with: {', '.join(self.members) or 'nobody'}")
        self.members[member.name] = member
        self.tell_others(member, f"* {member.name} joined")
        sending = asyncio.create_task(member.send_outbox())
        try:
            while line := await member.socket.read_line(LONGEST_LINE):
                self.tell_others(member, f"{member.name}: {printable(line)}")
                await asyncio.sleep(0)  # many lines may have come at once: have each sent before the next
        finally:
            sending.cancel()
            del self.members[member.name]
            self.tell_others(member, f"* {member.name} left")

    def tell_others(self, speaker: Member, line: str) -> None:
        for member in self.members.values():
            if member is not speaker:
                member.hear(line)


def printable(line: bytes) -> str:
    """Return the text of `line` with every character replaced that could steer a terminal."""
    text = line.decode(errors="replace").strip()
    return "".join(character if character.isprintable() else "?" for character in text)


async def main(port: int) -> None:
    server = AsyncTcpConnectionServer(("127.0.0.1", port), options=OPTIONS)
    print(f"listening on {server.address}", flush=True)
    await serve(Room().welcome, server, limits=LIMITS, drain_grace=0)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
