"""Spend more than there is: sixteen callers at once, until nothing is answered any more."""

import json
import threading
import urllib.error
import urllib.request
from typing import Any

BODY = {"model": "scripted", "max_tokens": 4000, "messages": [{"role": "user", "content": "go on and on"}]}
told: dict[str, Any] = {"answered": 0, "refused": 0, "why": ""}
turn = threading.Lock()


def spend() -> None:
    """Call until a call is refused."""
    while True:
        request = urllib.request.Request("http://model.box/v1/messages", json.dumps(BODY).encode())
        request.add_header("content-type", "application/json")
        try:
            urllib.request.urlopen(request).read()
        except urllib.error.HTTPError as error:
            with turn:
                told["refused"] += 1
                told["why"] = f"{error.code} {json.load(error)['error']['message'].partition('. ')[0]}"
            return
        with turn:
            told["answered"] += 1


threads = [threading.Thread(target=spend) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(told))
