"""Finds few-step solvers for a model: those whose clips are nearest to a finer solver's clips of the same noise."""
