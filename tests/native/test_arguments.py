"""Arguments good and bad do on the compiled engine what they do on the portable one."""

from __future__ import annotations

import json

import pytest

from .support import run_script

CASES = {
    "read": [
        *(
            "0",
            "-1",
            "-(2**70)",
            "True",
            "False",
            "'5'",
            "b'5'",
            "None",
            "1.0",
            "1.5",
            "2**31",
            "2**62",
            "2**70",
        ),
        *("3", "Index(3)", "Integer(3)", "[]", "object()"),
    ],
    "read_into": [
        *("bytearray()", "bytearray(3)", "b'abc'", "'abc'", "None", "5", "memoryview(bytearray(9))[::2]"),
        *("memoryview(b'abc')", "array.array('I', [0, 0])", "(ctypes.c_char * 5)()", "(ctypes.c_int * 3)()"),
        *("memoryview(bytearray(9))[2:2]", "memoryview(bytearray(9))[2:6]", "mmap.mmap(-1, 100)"),
        *(
            "memoryview(bytearray(8)).cast('B', (2, 4))",
            "memoryview(array.array('d', [0.0]))",
            "io.BytesIO()",
        ),
        *("array.array('I')", "released()"),
    ],
    "write": [
        *(
            "b''",
            "b'abc'",
            "bytearray(3)",
            "'abc'",
            "None",
            "5",
            "True",
            "[]",
            "[1]",
            "memoryview(bytes(9))[::2]",
        ),
        *(
            "memoryview(bytes(8)).cast('B', (2, 4))",
            "array.array('I', [1, 2])",
            "memoryview(array.array('d', [1]))",
        ),
        *("(ctypes.c_int * 3)()", "mmap.mmap(-1, 100)", "released()", "Bytes(b'abc')"),
    ],
    "write_vectored": [
        *("[]", "()", "[b'']", "[b'', b'']", "[b'a', b'', b'c']", "None", "5", "b'abc'", "'abc'", "[None]"),
        *("[b'a', 'b']", "[b'a', 5]", "iter([b'a', b'b'])", "{b'a': 1}", "(b for b in [b'a'])", "{b'a'}"),
        *("[memoryview(bytes(9))[::2]]", "[array.array('I', [1, 2]), b'x']", "[released()]"),
        *("[b'x'] * 64", "[b'x'] * 65", "[b'x'] * 2000", "[b'', b'x'] * 1500", "[b''] * 100", "raising()"),
    ],
}

PROGRAM = """
import array, ctypes, io, json, mmap


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Integer(Index):
    '''As those of numpy: no int, but as good as one.'''

    def __lt__(self, other):
        return self.value < other

    def __gt__(self, other):
        return self.value > other


class Bytes(bytes):
    pass


def released():
    view = memoryview(bytearray(5))
    view.release()
    return view


def raising():
    yield b"a"
    raise KeyError("of the iterator")


async def outcome(method, argument, state):
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        raw = socket.create_connection(("127.0.0.1", server.address.port))
        sock = await server.accept()
    raw.settimeout(5)
    raw.sendall(b"received data, all of it")
    if state == "buffered":
        assert await sock.peek(100)
    elif state == "closed":
        sock.abort()
    elif state == "eof sent":
        await sock.send_eof()
    try:
        given = eval(argument)
        result = await getattr(sock, method)(given)
        if method == "read_into":
            result = [result, bytes(memoryview(given).cast("B"))[:result].decode("latin-1")]
    except BaseException as error:
        result = [cls.__name__ for cls in type(error).__mro__]
    if isinstance(result, bytes):
        result = result.decode("latin-1")
    if state == "eof sent":
        sent = raw.recv(10000)
    else:
        if not sock.closed:
            await sock.send_eof()
        sent = b""
        try:
            while data := raw.recv(10000):
                sent += data
        except ConnectionResetError:
            pass
    again = None
    if not sock.closed:
        raw.shutdown(socket.SHUT_WR)
        again = (await sock.read()).decode("latin-1")
    sock.abort()
    raw.close()
    return [result, sent.decode("latin-1"), again]


async def main():
    for method, arguments in CASES.items():
        for argument in arguments:
            for state in ("connected", "buffered", "closed", "eof sent"):
                found = await outcome(method, argument, state)
                print(json.dumps([f"{state}: {method}({argument})", found]))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def outcomes():
    """Of every case, on both engines."""
    found = {}
    for engine in ("native", "portable"):
        done = run_script(f"CASES = {CASES!r}\n" + PROGRAM, engine=engine)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        found[engine] = dict(map(json.loads, done.stdout.splitlines()))
    return found


def raised(*found):
    """Whether all of them are errors: which one, if two things are wrong, is nobody's business."""
    return all("BaseException" in outcome[0] for outcome in found)


@pytest.mark.parametrize("method", CASES)
def test_both_engines_agree(outcomes, method):
    names = [name for name in outcomes["portable"] if f": {method}(" in name]
    assert names
    different = {
        name: {engine: outcomes[engine][name] for engine in outcomes}
        for name in names
        if outcomes["native"][name] != outcomes["portable"][name]
        and not (name.startswith("closed: ") and raised(outcomes["native"][name], outcomes["portable"][name]))
    }
    assert not different, json.dumps(different, indent=1)
