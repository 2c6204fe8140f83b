"""SSRF protection: webhooks go to public addresses only, unless the operator trusts all users.

Otherwise a user could reach through a webhook what only this machine can: its own ports, its network, the metadata
server of a cloud. A name may resolve to another address at any time, so the address itself is checked right before the
connection is made (`service.webhooks.sender`). The check at submission only reports mistakes early.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pydantic import HttpUrl, TypeAdapter, ValidationError

LONGEST_URL = 2000
"""Characters."""

PATIENCE = 2.0
"""Time limit of a host name lookup at submission, in seconds."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], list[str]]
"""Host and port to IP addresses, the best first; raises OSError as `socket.getaddrinfo`."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_TUNNELS = (ipaddress.IPv6Network("2001::/32"),)
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's host: DNS, health probes and the metadata agent of every virtual machine
            "192.88.99.0/24",  # 6to4 relays (RFC 7526)
            "3fff::/20",  # documentation (RFC 9637)
        ),
    )
)
LONGEST_LABEL = 63
"""Characters of one part of a host name (RFC 1035, section 2.3.4)."""
_UNKNOWN = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

_URL = TypeAdapter(HttpUrl)
_lookups = ThreadPoolExecutor(4, thread_name_prefix="lookup")


class TargetRefused(Exception):
    """Duet does not send there. The message, for the user, says why."""


def plain_url(text: str) -> str:
    """`text` normalised as by a browser: host in lower case and ASCII, numeric forms of an IP address written out.

    Raises TargetRefused if it is not an http or https URL, is too long, or has a fragment, user name or password.
    """
    if len(text) > LONGEST_URL:
        raise TargetRefused(f"it has {len(text)} characters")
    try:
        url = _URL.validate_python(text)
    except ValidationError as error:
        raise TargetRefused("it is not an http:// or https:// URL") from error
    if url.username is not None or url.password is not None:
        raise TargetRefused("it contains a user name or password")
    if url.fragment is not None:
        raise TargetRefused("it has a fragment, which is never sent")
    labels = (url.host or "").removesuffix(".").split(".")
    if not all(0 < len(label) <= LONGEST_LABEL for label in labels) and not (url.host or "").startswith("["):
        raise TargetRefused(f"each label of the host name must have 1 to {LONGEST_LABEL} characters")
    if len(str(url)) > LONGEST_URL:
        raise TargetRefused(f"normalised it has {len(str(url))} characters")
    return str(url)


def look_up(host: str, port: int) -> list[str]:
    """The addresses of `host` by the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def permitted(host: str, addresses: list[str], allow_private: bool) -> list[str]:
    """`addresses`, if all are allowed. Raises TargetRefused if one is not, or there is none: a name with both public
    and private addresses is suspicious."""
    if not addresses:
        raise TargetRefused(f"{host} has no address")
    if not allow_private and not all(_allowed(ipaddress.ip_address(each)) for each in addresses):
        raise TargetRefused(f"{host} is not a public address")
    return addresses


def check_target(url: str, allow_private: bool, lookup: Lookup = look_up) -> None:
    """Raise TargetRefused if nothing will be sent to the normalised `url`, as far as a lookup of PATIENCE seconds
    shows."""
    host = HttpUrl(url).host or ""
    host = host.removeprefix("[").removesuffix("]")
    future: Future[list[str]] = _lookups.submit(lookup, host, 0)
    try:
        permitted(host, future.result(PATIENCE), allow_private)
    except socket.gaierror as error:
        if error.errno in _UNKNOWN:
            raise TargetRefused(f"there is no host {host}") from error
    except TimeoutError:  # it is looked up again before sending
        future.cancel()
    except (OSError, UnicodeError) as error:
        raise TargetRefused(f"{host} cannot be looked up") from error


def _allowed(address: Address) -> bool:
    return is_public(address) and not is_own(address)


def is_own(address: Address) -> bool:
    """Whether this machine has the address, public or not: only then can a socket be bound to it."""
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def is_public(address: Address) -> bool:
    """Whether the address is public. IPv4 addresses embedded in IPv6 count as IPv4."""
    if any(address.version == net.version and address in net for net in _NOT_PUBLIC):
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address in _GLOBAL_UNICAST and address.is_global and not any(address in net for net in _TUNNELS)
