"""Inputs in a store: one that lists late, breaks off and fails, as object stores do."""

import datetime
import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.corpus import EncodeConfig, build_plan, discover_inputs, encode_unit
from blt.corpus.files import filesystems
from blt.corpus.files.filesystems import open_input, size_of
from blt.dataset.storage import store_client
from blt.errors import UserError, WorkError
from tests.blt.corpus.helpers import encode
from tests.blt.corpus.readers.test_arrow import write_file

NOTHING_LISTED = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


@pytest.fixture
def store(bucket, tmp_path, monkeypatch):
    """A bucket with files of several formats below `in`."""
    monkeypatch.setattr(store_client, "_clients", {})
    backoff = {"init_backoff": datetime.timedelta(milliseconds=5)}
    monkeypatch.setattr(store_client, "_RETRY", {"max_retries": 2, "backoff": backoff})
    rows = {"text": ["p"] * 3}
    sink = io.BytesIO()
    pq.write_table(pa.table(rows), sink)
    bucket.put("in/a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 5000))
    bucket.put("in/b.txt", b"b" * 50_000)
    bucket.put("in/c.parquet", sink.getvalue())
    bucket.put("in/d/e.arrow", write_file(tmp_path / "w", pa.table(rows)).read_bytes())
    bucket.put("in/d/.hidden", b"x")
    bucket.put("in/_SUCCESS", b"")
    bucket.put("in/d/", b"")
    return bucket


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that were waited, without waiting."""
    waited = []
    monkeypatch.setattr(filesystems.time, "sleep", waited.append)
    return waited


def counts(result):
    found = {}
    for _, _, source, _ in result.documents:
        found[source] = found.get(source, 0) + 1
    return found


WHOLE = {"a.jsonl.gz": 5000, "b.txt": 1, "c.parquet": 3, "d/e.arrow": 3}


def test_a_folder_in_a_store_is_read_as_one_here(store, tmp_path):
    result = encode(tmp_path / "out", f"{store.url}/in", max_document_bytes=1000)
    assert counts(result) == WHOLE
    assert result.documents[5000][1] == b"b" * 50_000
    single = encode(tmp_path / "one", f"{store.url}/in/d/e.arrow")
    assert counts(single) == {"e.arrow": 3}
    options = {"target_shard_bytes": 900, "doc_per": "line"}
    pieces = encode(tmp_path / "split", f"{store.url}/in/b.txt", **options)
    assert counts(pieces) == {"b.txt": 1}


def test_reads_that_fail_or_break_off_go_on_where_they_stopped(store, tmp_path, pauses):
    for name in ("a.jsonl.gz", "b.txt", "c.parquet", "d(/|%2F)e.arrow"):
        for kind in ("cut", "fail", "reset", "cut"):
            store.proxy.add(kind, "GET", name.replace(".", "(.|%2E)") + "$")
    result = encode(tmp_path / "out", f"{store.url}/in")
    assert counts(result) == WHOLE
    assert not any(fault.times for fault in store.proxy.faults)
    assert not result.rejects


def test_what_a_store_shows_late_is_asked_for_again(store, tmp_path, pauses):
    store.proxy.add("fail", "GET", "list-type", times=2, status=200, body=NOTHING_LISTED)
    store.proxy.add("fail", "HEAD", "b(.|%2E)txt", times=2, status=404)
    assert counts(encode(tmp_path / "out", f"{store.url}/in")) == WHOLE
    assert not any(fault.times for fault in store.proxy.faults)
    assert pauses == [0.2, 1.0] * 2
    with pytest.raises(UserError, match=f"{store.url}/none: no such file or folder"):
        encode(tmp_path / "none", f"{store.url}/none")
    with pytest.raises(UserError, match=r"none/\*\*: matches no file"):
        encode(tmp_path / "none", f"{store.url}/none/**")


def test_a_store_that_stays_broken_is_named(store, tmp_path, pauses):
    config = EncodeConfig()
    [payload] = build_plan(discover_inputs([f"{store.url}/in/b.txt"]).files, config)
    store.proxy.add("fail", "GET", "b(.|%2E)txt", times=100)
    message = (
        rf"{store.url}/in/b\.txt: cannot be read "
        r"\(HTTP 503 Service Unavailable after 2 more attempts\)"
    )
    with pytest.raises(WorkError, match=message):
        encode_unit(payload, config, tmp_path / "out", 0)
    assert store.proxy.faults[0].times == 97
    with pytest.raises(UserError, match=message):
        encode(tmp_path / "out", f"{store.url}/in/b.txt")
    store.proxy.add("fail", "GET", "list-type", times=100, status=403)
    message = rf"--input {store.url}/in: cannot be looked for \(no permission \(403 Forbidden\)"
    with pytest.raises(UserError, match=message):
        encode(tmp_path / "out", f"{store.url}/in")


def test_a_scheme_that_is_not_read_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"hdfs://x/y: cannot be looked for \(hdfs:// is not read"):
        encode(tmp_path / "out", "hdfs://x/y")


def test_files_of_a_store_can_be_sought_in(store):
    path, data = f"{store.url}/x", bytes(range(256)) * 100
    store.put("x", data)
    assert size_of(path) == len(data)
    with open_input(path) as file:
        file.seek(-100, 2)
        assert file.read() == data[-100:]
        file.seek(5)
        assert file.read(10_000) == data[5:10_005]
    with open_input(path, buffering=0) as raw:
        assert raw.read(100_000) == data
