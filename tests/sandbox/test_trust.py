"""The stores of authorities that are written for a box, read by the programs that read them."""

import subprocess

from gearcase.doors.authority import Authority
from gearcase.sandbox.trust import certificates, java_store


def test_java_reads_the_store_with_its_seal(tmp_path):
    both = Authority(["a.test-name"]).certificate + b"\nsome words\n" + Authority(["b.test-name"]).certificate
    (tmp_path / "store").write_bytes(java_store(certificates(both + both)))
    command = ["keytool", "-list", "-v", "-keystore", tmp_path / "store", "-storepass", "changeit"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("trustedCertEntry") == 2 and "a.test-name" in told.stdout and "b.test-name" in told.stdout
    tampered = bytearray(java_store(certificates(both)))
    tampered[100] ^= 1
    (tmp_path / "store").write_bytes(tampered)
    assert subprocess.run(command, capture_output=True, timeout=60).returncode != 0


def test_only_whole_certificates_are_taken():
    one = Authority(["a.test-name"]).certificate
    assert len(certificates(one)) == 1 and certificates(one[:-30]) == [] and certificates(b"") == []
    assert len(certificates(one.replace(b"\n", b"\r\n"))) == 1
