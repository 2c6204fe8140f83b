"""Evaluation: how well sound and picture of generated clips match."""
