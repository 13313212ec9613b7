"""Several processes with an event loop in each: combo.py LISTING FILES_URL FOLDER CONNECTIONS PROCESSES.

A bounded input queue carries page tokens: whoever takes one lists that page, puts the next token back at once, so that
another process can go on, and fetches the page's files. An output queue tells the collector which pages are done.
"""

import asyncio
import multiprocessing
import sys

import uvloop
from pages import fetch_some, list_page, session

FIRST = ""
LAST = None


async def work(tokens, done, listing, files_url, folder, connections):
    async with session(connections + 1) as http:
        while (token := tokens.get()) is not LAST:
            names, following = await list_page(http, listing, token)
            if following is not None:
                tokens.put(following)
            left = iter(names)
            await asyncio.gather(*(fetch_some(http, left, files_url, folder) for _ in range(connections)))
            done.put((token, following, len(names)))


def run(*arguments):
    uvloop.install()
    asyncio.run(work(*arguments))


def main(listing, files_url, folder, connections, processes):
    tokens = multiprocessing.Queue(maxsize=2 * processes)
    done = multiprocessing.Queue(maxsize=2 * processes)
    arguments = (tokens, done, listing, files_url, folder, connections // processes)
    workers = [multiprocessing.Process(target=run, args=arguments, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    tokens.put(FIRST)
    pages, announced, files = 0, 1, 0
    while pages < announced:
        _, following, count = done.get()
        pages += 1
        announced += following is not None
        files += count
        if pages % 100 == 0:
            print(f"{files} files", file=sys.stderr)
    for _ in workers:
        tokens.put(LAST)
    for worker in workers:
        worker.join()


main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]))
