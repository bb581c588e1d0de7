"""Which addresses a door dials, in every spelling that leads somewhere else."""

import asyncio
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.doors.addresses import is_public, own_addresses, resolve
from gearcase.errors import Refused

NOT_PUBLIC = """
0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254 172.16.0.1 172.31.255.255
192.0.0.192 192.0.2.1 192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 ::8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::a00:1 100::1 2001::1 2001:db8::1
2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1
""".split()
PUBLIC = "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.32.0.1 192.0.1.1 198.20.0.1 ::ffff:8.8.8.8 2606:4700::1111 2a00:1450::1".split()


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_what_leads_home_is_not_public(text):
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_the_internet_is_public(text):
    assert is_public(ipaddress.ip_address(text))


@given(st.integers(0, 2**32 - 1))
def test_a_mapped_address_is_as_public_as_the_one_that_it_maps(number):
    plain = ipaddress.IPv4Address(number)
    assert is_public(ipaddress.IPv6Address(0xFFFF << 32 | number)) == is_public(plain)
    assert not is_public(plain) or plain.is_global, "Python knows none that we do not"


def test_the_machine_s_own_addresses_are_known():
    assert ipaddress.ip_address("127.0.0.1") in own_addresses()


def test_a_name_that_leads_to_this_machine_is_refused_unless_the_operator_means_it():
    with pytest.raises(Refused) as error:
        asyncio.run(resolve("localhost", private=False))
    assert error.value.code == "private_address" and "allow_private" in error.value.remedy
    assert "127.0.0.1" in asyncio.run(resolve("localhost", private=True))


@pytest.mark.parametrize("text", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"])
def test_a_number_in_any_base_is_where_it_leads(text):
    with pytest.raises(Refused) as error:
        asyncio.run(resolve(text, private=False))
    assert error.value.code in ("private_address", "unresolved")


def test_a_name_that_does_not_exist_is_an_error_that_says_so():
    with pytest.raises(Refused) as error:
        asyncio.run(resolve("no-such-name.invalid", private=False))
    assert error.value.code == "unresolved"
