"""An API of exports: job 7 is queued for ever, with other words each time; job 8 is done 70 seconds after it was first asked about."""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 18763
asked = {}


class Jobs(BaseHTTPRequestHandler):
    def do_GET(self):
        first = asked.setdefault(self.path, time.monotonic())
        done = self.path == "/jobs/8" and time.monotonic() - first > 70
        told = {
            "job": self.path[-1],
            "state": "done" if done else "queued",
            "time": time.time(),
            "ahead": 3 + int(time.time()) % 4,
        }
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", PORT), Jobs)
print("ready", flush=True)
server.serve_forever()
