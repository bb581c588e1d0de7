"""The certificate authority of one run: it signs for the hosts whose TLS the http door opens, and only the run's boxes trust it.

Its key lives in this process's memory and nowhere else. Its certificate may sign for those hosts alone (name constraints), and only for
TLS servers, so that whoever had the key could not speak for any other host to a program inside; nobody outside trusts it at all.
`cryptography` makes the certificates: it is an extra, loaded when a box has such hosts.
"""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gearcase.errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_VALID = datetime.timedelta(days=390)
"""Longer than a run may last, shorter than what clients refuse for being long."""
_BEFORE = datetime.timedelta(days=1)


class Authority:
    """An authority for some hosts. `certificate` is what a box trusts, as PEM. Raises UsageError `missing_extra`."""

    def __init__(self, hosts: Iterable[str]) -> None:
        try:
            from cryptography import x509
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric import ec
            from cryptography.x509.oid import NameOID
        except ImportError:
            message = "a box with [secrets] makes certificates, and what makes them is not installed"
            raise UsageError("missing_extra", message, remedy="pip install 'gearcase[secrets]'", extra="secrets") from None
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Gearcase, this run only")])
        signs = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
        made = (
            _begun(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(signs, critical=True)
            .add_extension(x509.NameConstraints([x509.DNSName(host) for host in sorted(set(hosts))], None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        )
        self._certificate = self._signed(made)
        self.certificate = self._certificate.public_bytes(serialization.Encoding.PEM)

    def server(self, host: str) -> ssl.SSLContext:
        """What serves TLS as that host: HTTP/1.1 alone."""
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        signs = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        made = (
            _begun(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Gearcase")]), self._name, key.public_key())
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(signs, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _load(context, private + self._signed(made).public_bytes(encoding) + self.certificate)
        return context

    def _signed(self, made: x509.CertificateBuilder) -> x509.Certificate:
        from cryptography.hazmat.primitives import hashes

        return made.sign(self._key, hashes.SHA256())


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _VALID)
    )


def _load(context: ssl.SSLContext, chain: bytes) -> None:
    """Python's TLS reads keys from files alone: this one is in memory, and nobody else's."""
    descriptor = os.memfd_create("chain", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, chain)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
