"""The authority of a run: it is trusted where it is named, for its hosts, and nowhere else."""

import ssl
import sys

import pytest

from gearcase.doors.authority import Authority
from gearcase.errors import UsageError

HOST = "api.test-name"


def shake_hands(server, trusted, name, offers=("h2", "http/1.1")):
    """A handshake in memory; returns the protocol that was agreed on. Raises ssl.SSLError."""
    client = ssl.create_default_context(cadata=trusted.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.set_alpn_protocols(list(offers))
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(back, there, server_hostname=name)
    theirs = server.wrap_bio(there, back, server_side=True)
    done = set()
    for _ in range(10):
        for side in (ours, theirs):
            if side not in done:
                try:
                    side.do_handshake()
                    done.add(side)
                except ssl.SSLWantReadError:
                    pass
    assert len(done) == 2
    return ours.selected_alpn_protocol()


def test_a_client_that_trusts_it_gets_http_1_1_and_the_name():
    authority = Authority([HOST])
    assert shake_hands(authority.server(HOST), authority.certificate, HOST) == "http/1.1"


def test_another_name_another_run_and_a_name_that_is_not_its_own_are_not_trusted():
    authority, other = Authority([HOST]), Authority([HOST])
    for server, name in (
        (authority.server(HOST), "evil.example"),
        (other.server(HOST), HOST),
        (authority.server("evil.example"), "evil.example"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(server, authority.certificate, name)
    wide = Authority([HOST, "evil.example"])  # the positive control of the last
    assert shake_hands(wide.server("evil.example"), wide.certificate, "evil.example")


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(UsageError) as error:
        Authority([HOST])
    assert error.value.code == "missing_extra" and "gearcase[secrets]" in error.value.remedy
