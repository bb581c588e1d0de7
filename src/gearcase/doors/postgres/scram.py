"""The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677) and of PostgreSQL's older md5 login."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from gearcase.errors import Refused

_MOST_ITERATIONS = 1_000_000


class Scram:
    """One login. The messages are `first`, `final`, and `verify` for what the server says last."""

    def __init__(self, password: str, nonce: str = "") -> None:
        self._password = password
        self._nonce = nonce or base64.b64encode(secrets.token_bytes(18)).decode()
        self._bare = f"n=,r={self._nonce}"
        self._signature = b""

    def first(self) -> bytes:
        """What the client says first."""
        return f"n,,{self._bare}".encode()

    def final(self, challenge: bytes) -> bytes:
        """The proof. Raises Refused `source_refused` for a challenge that is none."""
        try:
            said = dict(part.split("=", 1) for part in challenge.decode("ascii").split(","))
            nonce, salt, iterations = said["r"], base64.b64decode(said["s"], validate=True), int(said["i"])
        except (ValueError, KeyError) as error:
            raise _bad() from error
        if not nonce.startswith(self._nonce) or not 1 <= iterations <= _MOST_ITERATIONS:
            raise _bad()
        salted = hashlib.pbkdf2_hmac("sha256", self._password.encode(), salt, iterations)
        client = _hmac(salted, b"Client Key")
        without = f"c=biws,r={nonce}"
        whole = f"{self._bare},{challenge.decode('ascii')},{without}".encode()
        mask = _hmac(hashlib.sha256(client).digest(), whole)
        self._signature = _hmac(_hmac(salted, b"Server Key"), whole)
        proof = bytes(a ^ b for a, b in zip(client, mask, strict=True))
        return f"{without},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, said: bytes) -> None:
        """The server knows the password, too. Raises Refused `source_refused`."""
        if not hmac.compare_digest(said, b"v=" + base64.b64encode(self._signature)) or not self._signature:
            raise _bad()


def md5_answer(user: str, password: str, salt: bytes) -> bytes:
    """The answer to an md5 login."""
    inner = hashlib.md5((password + user).encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode() + b"\0"


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()


def _bad() -> Refused:
    remedy = "let the operator see whether `from` leads to the right server"
    return Refused("source_refused", "the live server's part of the login is wrong", remedy=remedy)
