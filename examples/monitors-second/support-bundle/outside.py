"""Here: three hosts of the web, with a list of 40 kB each."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 18762


class Lists(BaseHTTPRequestHandler):
    def do_GET(self):
        body = "".join(f"{n},{n * 37 % 101}\n" for n in range(5000)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", PORT), Lists)
print("ready", flush=True)
server.serve_forever()
