"""Trains the demo model within a given time."""
