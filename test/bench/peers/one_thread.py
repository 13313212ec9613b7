"""One thread with requests: one_thread.py LISTING FILES_URL FOLDER. One file after the other over one connection."""

import sys

import requests


def main(listing, files_url, folder):
    session = requests.Session()
    session.trust_env = False
    marker = None
    while True:
        page = session.get(listing, params={"next-marker": marker} if marker else None).json()
        for name in page["FileNames"]:
            answer = session.get(files_url + name)
            answer.raise_for_status()
            with open(f"{folder}/{name}", "wb") as file:
                file.write(answer.content)
        marker = page.get("NextMarker")
        if marker is None:
            return


main(*sys.argv[1:])
