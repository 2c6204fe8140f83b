"""Reads the report of one file, which is untrusted: `service.credentials.child` runs this under limits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import av
import c2pa

from model.media import opening
from model.media.containers import MATROSKA, MP4, Signature, open_options
from service.credentials.claims import COMPOSITE, GENERATION, TRAINED
from service.credentials.library import OFFLINE
from service.credentials.report import Action, Ingredient, Model, Report, Verdict

MEDIA_TYPES = {
    MP4: "video/mp4",
    MATROSKA: "video/webm",
    "avi": "video/avi",
    "gif": "image/gif",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "ogg": "audio/ogg",
    "mpegts": "video/mp2t",
    "aac": "audio/aac",
    "aiff": "audio/aiff",
}
"""Media type by demuxer. Some of these containers cannot hold credentials."""

MAX_TEXT = 300
MAX_ENTRIES = 100
MAX_PIXELS = 2**27
"""Limits of what is reported, and of the pictures that the demuxer looks at."""

_CHANGED = ("ash.mismatch", "hashedURI.mismatch", "claimSignature.mismatch")
"""Ends of the codes for a changed file or statement: `dataHash.mismatch`, `bmffHash.mismatch` …"""

_UNKNOWN_SIGNER = "signingCredential.untrusted"


def read_report(descriptor: int, signature: Signature, trusted: str) -> Report:
    """The report of an open file. `trusted`: certificates in PEM, or empty."""
    report = Report(comment=_comment(descriptor, signature))
    settings: dict[str, Any] = {**OFFLINE, **({"trust": {"user_anchors": trusted}} if trusted else {})}
    media_type = MEDIA_TYPES[signature.demuxer]
    if media_type not in c2pa.Reader.get_supported_mime_types():
        return report
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        with (
            open(os.dup(descriptor), "rb") as file,
            c2pa.Reader(media_type, file, context=c2pa.Context.from_dict(settings)) as reader,
        ):
            store, state = json.loads(reader.json()), str(reader.get_validation_state())
    except c2pa.C2paError.ManifestNotFound:
        return report
    except c2pa.C2paError as error:
        return replace(report, credentials="unreadable", problems=[str(error)[:MAX_TEXT]])
    return _of_store(store, state, report.comment)


def _of_store(store: Mapping[str, Any], state: str, comment: str | None) -> Report:
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    problems = _failures(store.get("validation_results"))
    assertions = {str(each.get("label")): each.get("data") for each in manifest.get("assertions", [])}
    actions = [_action(each) for each in _actions(assertions)]
    signature = manifest.get("signature_info") or {}
    return Report(
        credentials=_verdict(state, problems),
        generated=_generated(each.source_type for each in actions),
        made_by=_generator(manifest),
        signed_by=_text(signature.get("common_name") or signature.get("issuer")),
        signed_at=_text(signature.get("time")),
        model=_model(assertions.get(GENERATION)),
        actions=actions[:MAX_ENTRIES],
        ingredients=[_ingredient(each) for each in manifest.get("ingredients", [])[:MAX_ENTRIES]],
        problems=[each[:MAX_TEXT] for each in problems[:MAX_ENTRIES]],
        comment=comment,
    )


def _failures(results: Any) -> list[str]:
    found = ((results or {}).get("activeManifest") or {}).get("failure") or []
    return [str(each.get("code")) for each in found]


def _verdict(state: str, problems: Iterable[str]) -> Verdict:
    if state == "Trusted":
        return "valid"
    if state == "Valid":
        return "untrusted"
    return "tampered" if any(code.endswith(_CHANGED) for code in problems) else "unreadable"


def _generated(source_types: Iterable[str | None]) -> Literal["all", "part"] | None:
    found = set(source_types)
    if COMPOSITE in found:
        return "part"
    return "all" if TRAINED in found else None


def _actions(assertions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    for label in ("c2pa.actions.v2", "c2pa.actions"):
        data = assertions.get(label)
        if isinstance(data, dict):
            return [each for each in data.get("actions", []) if isinstance(each, dict)]
    return []


def _action(action: Mapping[str, Any]) -> Action:
    return Action(
        _text(action.get("action")),
        _text(action.get("digitalSourceType")),
        _text(action.get("description")),
        _text(action.get("when")),
    )


def _ingredient(ingredient: Mapping[str, Any]) -> Ingredient:
    problems = _failures(ingredient.get("validation_results"))
    state = "Trusted" if not problems else "Valid" if set(problems) == {_UNKNOWN_SIGNER} else "Invalid"
    return Ingredient(
        _text(ingredient.get("title")),
        _text(ingredient.get("format")),
        _text(ingredient.get("relationship")),
        "none" if ingredient.get("active_manifest") is None else _verdict(state, problems),
    )


def _generator(manifest: Mapping[str, Any]) -> str | None:
    info = (manifest.get("claim_generator_info") or [{}])[0]
    if not info.get("name"):
        return _text(manifest.get("claim_generator"))
    return _text(" ".join(str(info[name]) for name in ("name", "version") if info.get(name)))


def _model(generation: Any) -> Model | None:
    model = generation.get("model") if isinstance(generation, dict) else None
    return Model(_text(model.get("name")), _text(model.get("weights_sha256"))) if isinstance(model, dict) else None


def _comment(descriptor: int, signature: Signature) -> str | None:
    try:
        with opening.open_descriptor(descriptor, MAX_PIXELS, 1, None, signature, open_options(0)) as container:
            comment = str(container.metadata.get("comment", ""))
    except (av.FFmpegError, opening.MediaError, ValueError):
        return None
    return _text(comment) if comment.startswith("Generated by Duet") else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:MAX_TEXT]
