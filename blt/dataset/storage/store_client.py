"""The clients of stores: obstore, imported when the first URL is used, one client a bucket.

Credentials and endpoints are what the platform and the standard environment variables give.
"""

import contextlib
import datetime
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

from blt.dataset.storage.store_errors import as_os_error
from blt.dataset.storage.stored import scheme_of

PAUSES = (0.2, 1.0, 4.0)  # seconds before what obstore does not try again is tried again
REQUEST_SECONDS = 60.0  # for a request with its answer, of which a read asks 16 MiB at most
_RETRY = {
    "max_retries": 8,
    "retry_timeout": datetime.timedelta(minutes=2),
    "backoff": {"max_backoff": datetime.timedelta(seconds=8)},
}
_SCHEMES = ("gs", "s3", "az", "abfs", "abfss")

_Result = TypeVar("_Result")

_clients: dict[str, Any] = {}
_clients_lock = threading.Lock()
_is_forked = False  # after the parent had used a store: obstore would wait for ever


def _after_fork() -> None:
    global _is_forked, _clients_lock
    _is_forked = _is_forked or bool(_clients)
    _clients_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def check_scheme(place: str) -> None:
    """Raises OSError unless URLs of this kind are taken, and what reads them is installed."""
    scheme = scheme_of(place)
    if scheme not in _SCHEMES:
        raise OSError(
            errno.ENOTSUP,
            f"{scheme}:// is not read; gs://, s3:// and az:// are, by pip install 'blt[stores]'",
            place,
        )
    with translated(place):
        import obstore.store  # noqa: F401


@contextlib.contextmanager
def store_client(place: str) -> Iterator[tuple[ModuleType, Any, str]]:
    """Yields obstore, the client of a URL's bucket, and the key; raises what fails as OSError."""
    check_scheme(place)
    base, key = split_url(place)
    with translated(place):
        import obstore
        import obstore.store

        with _clients_lock:
            if base not in _clients:
                _clients[base] = obstore.store.from_url(
                    base,
                    retry_config=_RETRY,
                    client_options={
                        "timeout": datetime.timedelta(seconds=REQUEST_SECONDS),
                        "allow_http": True,  # where the environment names such an endpoint
                    },
                )
        yield obstore, _clients[base], key


@contextlib.contextmanager
def translated(place: str) -> Iterator[None]:
    if _is_forked:
        raise OSError(
            errno.ENOTSUP,
            "this process was forked from one that had used a store, and cannot use one itself; "
            "start it by spawn or as a program of its own",
            place,
        )
    try:
        yield
    except Exception as error:
        # Not from it: its text may hold a signed URL.
        raise as_os_error(error, place) from None


def asked_again(attempt: Callable[[], _Result]) -> _Result:
    """Returns what a request gives; for those that obstore asks once if they get no answer.

    It leaves it to us whether a request may be asked twice that may have been carried out.
    """
    for pause in PAUSES:
        try:
            return attempt()
        except ConnectionError:
            time.sleep(pause)
    return attempt()


def split_url(url: str) -> tuple[str, str]:
    """Returns the URL of a bucket, and the key in it."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key
