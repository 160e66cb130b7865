"""Whose address a request counts for: only proxies that are named may say whom they heard."""

from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from boostedcalls.gateway.address import client_of
from boostedcalls.gateway.settings import GatewaySettings

PROXIES = tuple(ip_network(text) for text in ("10.0.0.0/8", "192.0.2.7/32", "2001:db8:ffff::/48"))
NEEDED = {
    "jwt_secret": "0123456789abcdef" * 2,
    "vapi_webhook_secret": "0123456789abcdef",
    "nats_url": "nats://127.0.0.1:4222",
}
FORGED = [
    ["198.51.100.1"],
    ["198.51.100.1, 198.51.100.2"],
    ["198.51.100.1", "10.0.0.1"],
    ["10.0.0.1"],
    ["127.0.0.1"],
    ["::1"],
    ["unknown", "_hidden"],
    ["'; DROP TABLE auth.tries; --"],
    [""],
    [","],
    ["198.51.100.1" + ", 10.0.0.1" * 5000],
]


def settings(**changes):
    return GatewaySettings(**NEEDED, **changes, _env_file=None)


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("trusted", [(), PROXIES])
def test_a_peer_that_is_no_proxy_counts_itself_whatever_it_says(forged, trusted, attacks):
    assert client_of("203.0.113.9", forged, trusted) == "203.0.113.9"
    attacks("Limits: forged X-Forwarded-For")


@pytest.mark.parametrize("forged", FORGED)
def test_what_a_client_forged_stands_left_of_what_the_proxy_heard(forged, attacks):
    assert client_of("10.1.1.1", [*forged, "203.0.113.9"], PROXIES) == "203.0.113.9"
    assert client_of("10.1.1.1", [", ".join([*forged, "203.0.113.9"])], PROXIES) == "203.0.113.9"
    attacks("Limits: forged X-Forwarded-For", 2)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", ["203.0.113.9, 10.2.2.2"], "203.0.113.9"),
        ("10.1.1.1", ["203.0.113.9", "192.0.2.7", " 10.2.2.2 "], "203.0.113.9"),
        ("10.1.1.1", ["203.0.113.9:51234"], "203.0.113.9"),
        ("10.1.1.1", ["[2001:db8::5]:443"], "2001:db8::/64"),
        ("2001:db8:ffff::1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", [], "10.1.1.1"),
        ("10.1.1.1", ["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
        ("192.0.2.8", ["203.0.113.9"], "192.0.2.8"),
        (None, ["203.0.113.9"], "none"),
        ("", ["203.0.113.9"], "none"),
    ],
)
def test_entries_of_proxies_are_followed_from_the_right(peer, forwarded, client):
    assert client_of(peer, forwarded, PROXIES) == client


@pytest.mark.parametrize(
    "entry",
    [
        "unknown", "_secret", "", "203.0.113", "203.0.113.9.1", "203.0.113.09", "0xcb007109", "3405803785", "[]",
        "[203.0.113.9]", "203.0.113.9:x", "203.0.113.9:123456", "2001:db8::g", "for=203.0.113.9", '"203.0.113.9"',
        "203.0.113.9\x00", "\u0662\u0660\u0663.0.113.9", "203.0.113.9;203.0.113.10", "localhost",
    ],
)  # fmt: skip
def test_what_is_no_address_ends_the_list_and_the_proxy_counts(entry, attacks):
    assert client_of("10.1.1.1", [f"198.51.100.1, {entry}"], PROXIES) == "10.1.1.1"
    assert client_of("10.1.1.1", [f"198.51.100.1, {entry}, 10.2.2.2"], PROXIES) == "10.2.2.2"
    attacks("Limits: malformed X-Forwarded-For", 2)


def test_ipv6_counts_by_its_first_64_bits(attacks):
    same = ["2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:DB8:1:2::%eth0", "2001:db8:1:2::1%25"]
    assert {client_of(peer, [], ()) for peer in same} == {"2001:db8:1:2::/64"}
    assert client_of("2001:db8:1:3::1", [], ()) == "2001:db8:1:3::/64"
    attacks("Limits: many addresses of one network", len(same))


def test_an_endless_list_of_proxies_is_not_followed_to_its_end():
    assert client_of("10.1.1.1", ["203.0.113.9" + ", 10.2.2.2" * 5000], PROXIES) == "10.2.2.2"


def test_proxies_are_written_as_addresses_and_networks():
    found = settings(trusted_proxies="192.0.2.7, 10.0.0.0/8,2001:db8:ffff::/48").trusted_proxies
    assert set(found) == set(PROXIES)
    assert settings().trusted_proxies == ()


@pytest.mark.parametrize("wrong", ["everybody", "10.0.0.1/8", "10.0.0.0/33", "*", "proxy.example.com"])
def test_what_is_no_network_is_refused_at_the_start(wrong):
    with pytest.raises(ValidationError):
        settings(trusted_proxies=wrong)


@pytest.mark.parametrize("given", ["myproxy", "10.0.0.1,myproxy", "10.0.0.1/8", "300.1.1.1"])
def test_what_is_no_address_of_a_proxy_is_named(monkeypatch, given):
    monkeypatch.setenv("TRUSTED_PROXIES", given)
    with pytest.raises(ValueError, match="is no address; write") as caught:
        GatewaySettings(**NEEDED, _env_file=None)
    assert str(caught.value).count("is no address") == 1


def test_a_port_for_operations_that_is_the_public_one_is_refused():
    with pytest.raises(ValueError, match="is the same as PORT"):
        GatewaySettings(**NEEDED, port=8000, operations_port=8000, _env_file=None)
