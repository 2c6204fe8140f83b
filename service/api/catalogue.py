"""The models that requests can name."""

from __future__ import annotations

import threading

from model.checkpoint.manifest import Manifest
from service.api.problems import FieldError, Problem


class Catalogue:
    """The models of this service, by name."""

    def __init__(self, manifests: dict[str, Manifest], default: str) -> None:
        """Raises ValueError if `default` is not one of them."""
        if default not in manifests:
            here = ", ".join(manifests) or "none"
            raise ValueError(f"DUET_DEFAULT_MODEL is {default!r}; the models here are: {here}")
        self.manifests = manifests
        self.default = default
        self._hashes: dict[str, str] = {}
        self._lock = threading.Lock()

    def find(self, name: str | None) -> Manifest:
        """The model of this name, or the default one. Raises Problem 422 for an unknown name."""
        manifest = self.manifests.get(self.default if name is None else name)
        if manifest is None:
            wrong = FieldError("model", name, f"one of {', '.join(self.manifests)}")
            raise Problem(422, "unknown_model", "This service has no model of this name.", [wrong])
        return manifest

    def weights_hash(self, name: str) -> str:
        """SHA-256 of the model's weights, computed once: gigabytes take seconds to read."""
        with self._lock:
            if name not in self._hashes:
                self._hashes[name] = self.manifests[name].weights_hash
            return self._hashes[name]
