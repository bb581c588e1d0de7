"""The program of the simulated cloud account: moto's server on a Unix socket. Standard library and moto only.

Started as `python3 -I awsserver.py SOCKET FOLDER...`; the folders hold the packages.
"""

import sys


def main() -> None:
    """Serve until killed."""
    socket, *folders = sys.argv[1:]
    sys.path[:0] = folders

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # pyright: ignore[reportMissingTypeStubs]
    from werkzeug.serving import WSGIRequestHandler, run_simple

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """The door keeps the record."""

        def address_string(self) -> str:
            """A Unix socket has no address."""
            return "door"

    run_simple(f"unix://{socket}", 0, DomainDispatcherApplication(create_backend_app), threaded=True, request_handler=Handler)


main()
