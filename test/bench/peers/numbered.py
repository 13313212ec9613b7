"""One process with an event loop and no listing: numbered.py FILES_URL FILES FOLDER CONNECTIONS. Never more in flight."""

import asyncio
import sys

import uvloop
from pages import fetch_some, session


async def main(files_url, files, folder, connections):
    names = (f"file-{number:07}.bin" for number in range(files))
    async with session(connections) as http:
        await asyncio.gather(*(fetch_some(http, names, files_url, folder) for _ in range(connections)))


uvloop.install()
asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
