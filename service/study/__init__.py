"""Blind studies: people rate clips without knowing which are real. Records, votes, and the page."""
