"""A fake provider that costs next to nothing: canned chat completions over raw HTTP/1.1, so that what is in front of it is measured.

A request with `"stream":true` gets 200 chunks, 50 a second. Prints its address on the first line. An argument is the number of seconds
after which it answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop

CHUNKS, INTERVAL = 200, 0.02
DELAY = float(sys.argv[1]) if __name__ == "__main__" and len(sys.argv) > 1 else 0.0
USAGE = {"prompt_tokens": 60, "completion_tokens": 5, "total_tokens": 65}


def _answer() -> bytes:
    message = {"role": "assistant", "content": "Hello there, this is it."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-5-mini", "choices": [choice], "usage": USAGE}
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)


def _chunk(**fields: object) -> bytes:
    body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini", "choices": [], **fields}
    data = b"data: " + json.dumps(body).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


ANSWER = _answer()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECES = [
    _chunk(choices=[{"index": 0, "delta": {"content": f"word{number} "}, "finish_reason": None}]) for number in range(CHUNKS)
]
LAST = (
    _chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _chunk(usage=USAGE)
    + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


class Provider(asyncio.Protocol):
    """One connection; a request is taken to be whole when its body has as many bytes as its header says."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class does not inherit from it
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, _, rest = self.received.partition(b"\r\n\r\n")
            lower = head.lower()
            length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in lower else 0
            if len(rest) < length:
                return
            body, self.received = rest[:length], rest[length:]
            if b'"stream":true' in body.replace(b": ", b":"):
                self.task = asyncio.ensure_future(self.stream())
            elif DELAY:
                asyncio.get_running_loop().call_later(DELAY, self.transport.write, ANSWER)
            else:
                self.transport.write(ANSWER)

    async def stream(self) -> None:
        self.transport.write(HEAD)
        began = asyncio.get_running_loop().time()
        for number, piece in enumerate(PIECES):
            await asyncio.sleep(began + number * INTERVAL - asyncio.get_running_loop().time())
            self.transport.write(piece)
        self.transport.write(LAST)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
