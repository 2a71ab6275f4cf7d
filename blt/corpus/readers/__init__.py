"""Readers: a module for each format; records, and rejects for what is none."""
