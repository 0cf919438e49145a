"""asyncio's protocol on uvloop: https://uvloop.readthedocs.io/user/index.html#using-uvloop"""

import uvloop
from asyncio_protocol import main

if __name__ == "__main__":
    uvloop.run(main())
