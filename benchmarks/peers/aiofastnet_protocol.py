"""A protocol on aiofastnet's transports over uvloop: https://pypi.org/project/aiofastnet/"""

import asyncio

import aiofastnet
import uvloop
from asyncio_protocol import main

if __name__ == "__main__":
    with asyncio.Runner(loop_factory=aiofastnet.loop_factory(uvloop.new_event_loop)) as runner:
        runner.run(main())
