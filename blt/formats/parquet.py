"""Parquet files at any place: of one in a store, the ranges alone are read that are asked for."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from blt.dataset.storage import PlaceLike, open_source


@contextlib.contextmanager
def open_parquet(place: PlaceLike, **options: Any) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file.

    Args:
      place: where it lies.
      **options: of `pq.ParquetFile`.

    Raises:
      OSError: it is not there, or cannot be read.
      pa.ArrowException: it is damaged, or no Parquet file.
    """
    source = open_source(place)
    with contextlib.ExitStack() as resources:
        if not isinstance(source, str):
            resources.enter_context(source)
        yield resources.enter_context(pq.ParquetFile(source, **options))
