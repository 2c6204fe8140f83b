"""Prompts and captions as tokens: a frozen encoder that ships in a package and needs no network."""

ENCODERS = {"wordllama": 256}
"""Encoders by name, and the channels of their token vectors."""
