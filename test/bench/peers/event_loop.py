"""One process with an event loop (asyncio, uvloop, aiohttp): event_loop.py LISTING FILES_URL FOLDER CONNECTIONS.

The pages one after the other, the next one listed while the files of one are fetched.
"""

import asyncio
import sys

import uvloop
from pages import fetch_some, list_page, session


async def main(listing, files_url, folder, connections):
    async with session(connections + 1) as http:
        names, marker = await list_page(http, listing, None)
        while names:
            following = asyncio.create_task(list_page(http, listing, marker)) if marker else None
            left = iter(names)
            await asyncio.gather(*(fetch_some(http, left, files_url, folder) for _ in range(connections)))
            names, marker = await following if following else (None, None)


uvloop.install()
asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
