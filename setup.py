"""What `--setup_file` of Beam's Dataflow runner needs; everything else is in pyproject.toml."""

from setuptools import setup

setup()
