"""Fuzzing: altered files for every reader and the record codec, and what must hold for them.

`python -m tests.fuzz --reader jsonl` runs for minutes; `tests/blt/corpus/test_fuzz.py` and
`tests/blt/formats/test_fuzz.py` take the same alterations and laws for seconds.
"""
