"""Settings of the library `c2pa`."""

from typing import Any

OFFLINE: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
"""An untrusted file must not make the library fetch an address."""
