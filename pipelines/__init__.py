"""Beam pipelines: where the work of `blt` runs, never what the result is."""
