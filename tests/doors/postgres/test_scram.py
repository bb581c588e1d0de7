"""The client's side of SCRAM-SHA-256, by the example of RFC 7677."""

import pytest

from gearcase.doors.postgres.scram import Scram
from gearcase.errors import Refused

CHALLENGE = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def begun():
    scram = Scram("pencil", "rOprNGfwEbeRWgbNEkqO")
    scram._bare = "n=user,r=rOprNGfwEbeRWgbNEkqO"  # the example names a user, PostgreSQL does not
    return scram


def test_the_proof_is_that_of_the_standard():
    assert begun().final(CHALLENGE).endswith(b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")


def test_a_server_that_knows_the_password_is_believed_and_another_is_not():
    scram = begun()
    scram.final(CHALLENGE)
    scram.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    with pytest.raises(Refused):
        scram.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=")


@pytest.mark.parametrize(
    "challenge", [b"", b"r=x,s=W22Z,i=1", b"r=rOprNGfwEbeRWgbNEkqOx,s=???,i=1", CHALLENGE.replace(b"4096", b"999999999")]
)
def test_a_challenge_that_is_none_is_refused(challenge):
    with pytest.raises(Refused):
        begun().final(challenge)
