"""An API of orders in twelve pages. After four of them its database is gone, and it answers 500 for good."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PORT = 18761

pages = 0


class Orders(BaseHTTPRequestHandler):
    def do_GET(self):
        global pages
        page = int(parse_qs(urlsplit(self.path).query).get("page", ["1"])[0])
        pages += 1
        if pages <= 4:
            rows = [{"id": page * 100 + n, "month": page, "total": 10 * page + n} for n in range(30)]
            self.answer(200, {"page": page, "orders": rows})
        else:
            self.answer(500, {"error": "connection to database lost"})

    def answer(self, status, told):
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", PORT), Orders)
print("ready", flush=True)
server.serve_forever()
