"""The reverse proxies whose X-Forwarded headers are honoured and whose connections are not limited."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from service.settings import Settings


class TrustedProxies:
    """The networks of DUET_TRUSTED_PROXIES."""

    def __init__(self, settings: Settings) -> None:
        given = settings.proxy_networks
        # A dual-stack socket shows its IPv4 clients as ::ffff:a.b.c.d.
        mapped = (f"::ffff:{each.network_address}/{96 + each.prefixlen}" for each in given if each.version == 4)
        self.networks = (*given, *map(ip_network, mapped))

    def __contains__(self, address: str) -> bool:
        """Whether a connection from `address` is a trusted proxy's."""
        if not self.networks:
            return False
        try:
            client = ip_address(address)
        except ValueError:  # not an IP connection
            return False
        return any(client in network for network in self.networks)
