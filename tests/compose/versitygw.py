#!/usr/bin/env python
"""A stand-in for versitygw: moto's server behind a check of AWS signatures (version 4).

Takes the part of versitygw's command line and environment that docker-compose.yml uses. Objects are kept in memory; the
folder is only checked.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
from werkzeug.wrappers import Request, Response

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/\d{8}/(?P<region>[^/]+)/s3/aws4_request, ?"
    r"SignedHeaders=(?P<headers>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


class Server:
    """WSGI application: answers the health path to everyone, S3 to requests signed with the root credentials only."""

    def __init__(self, credentials: Credentials, region: str, health: str) -> None:
        self._credentials = credentials
        self._region = region
        self._health = health
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        if request.path == self._health:
            return Response("OK")(environ, start_response)
        if not self._is_signed(request):
            denied = "<Error><Code>SignatureDoesNotMatch</Code><Message>wrong signature</Message></Error>"
            return Response(denied, status=403, mimetype="application/xml")(environ, start_response)
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return answer

    def _is_signed(self, request: Request) -> bool:
        given = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
        if not given or (given["key"], given["region"]) != (self._credentials.access_key, self._region):
            return False
        headers = {name: request.headers[name] for name in given["headers"].split(";") if name in request.headers}
        url = f"http://{request.host}{request.environ['REQUEST_URI']}"
        signed = AWSRequest(method=request.method, url=url, headers=headers)
        signed.context["timestamp"] = request.headers.get("X-Amz-Date", "")
        signer = S3SigV4Auth(self._credentials, "s3", self._region)
        text = signer.string_to_sign(signed, signer.canonical_request(signed))
        return bool(signer.signature(text, signed) == given["signature"])


def main() -> None:
    backend, folder = sys.argv[1:]
    if backend != "posix" or not os.access(folder, os.W_OK):
        raise SystemExit(f"{backend} {folder}: only posix, and a writable folder")
    credentials = Credentials(os.environ["ROOT_ACCESS_KEY"], os.environ["ROOT_SECRET_KEY"])
    server = Server(credentials, os.environ["VGW_REGION"], os.environ["VGW_HEALTH"])
    run_simple("0.0.0.0", int(os.environ["VGW_PORT"].removeprefix(":")), server, threaded=True)


if __name__ == "__main__":
    main()
