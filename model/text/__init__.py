"""Prompts and captions as tokens: a frozen encoder that ships in a package and needs no network."""
