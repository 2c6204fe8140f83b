"""A mark in the signal that says "made by Duet": added to generated pictures and sound, and found again.

It carries no payload. Pictures and sound have marks of their own, keyed pseudo-random patterns (`keys`) that are
independent of the clip. A detector knows the key and not the original. docs/provenance.md has the measurements.
"""
