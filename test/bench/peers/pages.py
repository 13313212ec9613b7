"""What both event-loop versions share: a page of the listing, and the files of a page over several connections."""

import aiohttp


def session(connections):
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections))


async def list_page(http, listing, marker):
    async with http.get(listing, params={"next-marker": marker} if marker else None) as answer:
        answer.raise_for_status()
        page = await answer.json()
        return page["FileNames"], page.get("NextMarker")


async def fetch_some(http, names, files_url, folder):
    """Takes names from an iterator that several of these share, until there is none left."""
    for name in names:
        async with http.get(files_url + name) as answer:
            answer.raise_for_status()
            body = await answer.read()
        with open(f"{folder}/{name}", "wb") as file:
            file.write(body)
