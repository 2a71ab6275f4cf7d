"""Hypothesis makes the same examples in every run, so that a change is what makes a test fail.

`HYPOTHESIS_PROFILE=explore` makes new ones; what they find gets a test of its own.
"""

import os

from hypothesis import settings

settings.register_profile("same", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
