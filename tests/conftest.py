"""Hypothesis makes the same examples in every run, so that a change is what makes a test fail.

`HYPOTHESIS_PROFILE=explore` makes new ones; what they find gets a test of its own.
"""

import os

from hypothesis import settings

from tests.emulators.fixtures import (  # noqa: F401 (pytest finds them here)
    azure_bucket,
    azure_server,
    bucket,
    gcs_bucket,
    gcs_server,
    no_clients,
    root,
    s3_bucket,
    s3_server,
)

settings.register_profile("same", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names long bytes by their argument: those of a gzip file tell the time of each process."""
    return argname if isinstance(val, bytes) and len(val) > 15 else None
