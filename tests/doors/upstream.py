"""A raw HTTP server outside, and a record that keeps what it is told."""

import asyncio


class Facts:
    def __init__(self):
        self.events = []

    def append(self, event, agent=""):
        self.events.append(event)
        return len(self.events)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


class Upstream:
    """A raw HTTP server outside: hears each request whole, answers with what `answer` gives."""

    def __init__(self, answer=None, tls=None):
        self.tls = tls
        self.answer = answer or (lambda head, body: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        self.heads, self.bodies, self.tasks = [], [], set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head.decode())
                body = await self._body(reader, head.lower())
                self.bodies.append(body)
                said = self.answer(head, body)
                if isinstance(said, bytes):
                    writer.write(said)
                else:
                    async for part in said:
                        writer.write(part)
                        await writer.drain()
                    writer.close()
                    await writer.wait_closed()
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.transport.abort()

    async def _body(self, reader, head):
        if b"transfer-encoding: chunked" in head:
            parts = []
            while size := int((await reader.readline()).strip(), 16):
                parts.append(await reader.readexactly(size))
                await reader.readexactly(2)
            await reader.readexactly(2)
            return b"".join(parts)
        for line in head.split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return await reader.readexactly(int(line.partition(b":")[2]))
        return b""

    def header(self, name, at=-1):
        found = [line.partition(":")[2].strip() for line in self.heads[at].split("\r\n") if line.lower().startswith(f"{name}:")]
        return found[0] if len(found) == 1 else found or None
