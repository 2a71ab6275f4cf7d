"""Stores on loopback in processes of their own, for the benchmarks: an S3 and a Google one."""

import multiprocessing
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
BUCKET = "bench"


class Store:
    """A store, and the environment in which `url` means it.

    Args:
      kind: "gcs", or "s3".
      latency: seconds before each answer, of "gcs" alone.
    """

    def __init__(self, kind: str = "gcs", latency: float = 0.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        serve = {"gcs": _serve_gcs, "s3": _serve_s3}[kind]
        self._process = context.Process(target=serve, args=(theirs, latency), daemon=True)
        self._process.start()
        endpoint = self._connection.recv()
        self.url = {"gcs": "gs", "s3": "s3"}[kind] + f"://{BUCKET}"
        added = {
            "gcs": {"GOOGLE_BASE_URL": endpoint, "GOOGLE_BEARER_TOKEN": "test"},
            "s3": {
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_REGION": "us-east-1",
            },
        }[kind]
        self.environment = {**os.environ, **added, "NO_PROXY": "127.0.0.1"}

    def put(self, blobs: dict[str, bytes]) -> None:
        """Puts objects by key, past the requests; of "gcs" alone."""
        self._connection.send(blobs)
        self._connection.recv()

    def stop(self) -> None:
        self._process.kill()


def _serve_gcs(connection, latency: float) -> None:
    from tests.emulators.fake_gcs import FakeGcs, _Handler

    answer = _Handler._answer

    def late(self, *args, **kwargs):
        time.sleep(latency)
        return answer(self, *args, **kwargs)

    if latency:
        _Handler._answer = late
    server = FakeGcs()
    server.buckets[BUCKET] = {}
    connection.send(server.url)
    while True:
        for key, data in connection.recv().items():
            server.put(BUCKET, key, data)
        connection.send(True)


def _serve_s3(connection, latency: float) -> None:
    import logging

    from tests.emulators.fixtures import MotoS3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = MotoS3()
    server.client.create_bucket(Bucket=BUCKET)
    connection.send(server.url)
    connection.recv()
