"""Describes an upload as an ingredient of a file. The upload is untrusted, so this runs in a confined process."""

from __future__ import annotations

from pathlib import Path

import c2pa

from service.credentials.claims import UPLOAD
from service.credentials.library import OFFLINE


def write_ingredient(upload: Path, media_type: str, relation: str, target: Path) -> None:
    """Write to `target` the upload as an ingredient: its hash and the credentials that it has.

    `relation`: see `service.credentials.claims.relationship`. A container that cannot hold credentials gives an
    ingredient without any.
    """
    ingredient = {"title": "upload", "relationship": relation, "label": UPLOAD}
    with c2pa.Builder({"claim_generator_info": [{"name": "Duet"}]}, context=c2pa.Context.from_dict(OFFLINE)) as builder:
        with upload.open("rb") as file:
            builder.add_ingredient(ingredient, media_type, file)
        with target.open("wb") as archive:
            builder.write_ingredient_archive(UPLOAD, archive)
