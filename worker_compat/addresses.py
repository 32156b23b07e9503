"""Which IP addresses belong to the public Internet; every other one is this machine's or somebody's own network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# Written out, because the answers of Python's `is_global` differ between its versions. Sources: the IANA registries
# of special-purpose addresses (RFC 6890), and 168.63.129.16, which leads every machine in Azure to its own host.
_NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
            "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
            "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
        ),
    )
)  # fmt: skip
# Everything outside of it is loopback, local, multicast or reserved, or has an IPv4 address inside: mapped (::ffff/96),
# compatible (::/96), NAT64 (64:ff9b::/96, 64:ff9b:1::/48).
_UNICAST_6 = IPv6Network("2000::/3")
# Protocol assignments with Teredo, documentation, 6to4, documentation.
_NOT_PUBLIC_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that ``text`` is in its usual spelling, IPv6 without brackets; None for a name or anything else."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether the public Internet routes ``address``. One that has an IPv4 address inside, or a zone, is not public."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    inside = address.scope_id is None and address in _UNICAST_6
    return inside and not any(address in network for network in _NOT_PUBLIC_6)
