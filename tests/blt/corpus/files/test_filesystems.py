"""Inputs in a store: one that lists late, breaks off and fails, as object stores do."""

import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.corpus.files import filesystems
from blt.corpus.files.filesystems import StoredFile, open_input, size_of, use_remote
from blt.errors import UserError, WorkError
from tests.blt.corpus.helpers import encode
from tests.blt.corpus.readers.test_arrow import write_file


class Store:
    """Objects in memory, at most `every` bytes a read, with faults as they are told."""

    def __init__(self, objects, every=7000):
        self.objects, self.every = objects, every
        self.num_unlisted = self.num_unseen = 0  # answers that do not show what is there yet
        self.faults = []  # of the next reads: an error, or b"" for a stream that breaks off
        self.num_opened = 0

    def find(self, argument):
        if self.num_unlisted:
            self.num_unlisted -= 1
            return []
        below = argument.rstrip("/*") + "/"
        return [self.stat(path) for path in self.objects if (path + "/").startswith(below)]

    def stat(self, path):
        if self.num_unseen or path not in self.objects:
            self.num_unseen = max(0, self.num_unseen - 1)
            raise FileNotFoundError(2, "No such object", path)
        return StoredFile(path, len(self.objects[path]), 1_700_000_000_000_000_000)

    def open(self, path):
        store = self
        self.num_opened += 1
        if path not in self.objects:
            raise FileNotFoundError(2, "No such object", path)

        class Stream(io.BytesIO):
            def read(self, size=-1):
                fault = store.faults.pop(0) if store.faults else None
                if isinstance(fault, OSError):
                    raise fault
                return b"" if fault == b"" else super().read(min(size, store.every))

        return Stream(self.objects[path])


@pytest.fixture
def store(monkeypatch, tmp_path):
    pauses = []
    monkeypatch.setattr(filesystems.time, "sleep", pauses.append)
    rows = {"text": ["p"] * 3}
    sink = io.BytesIO()
    pq.write_table(pa.table(rows), sink)
    objects = {
        "st://b/in/a.jsonl.gz": gzip.compress(b'{"text": "a"}\n' * 5000),
        "st://b/in/b.txt": b"b" * 50_000,
        "st://b/in/c.parquet": sink.getvalue(),
        "st://b/in/d/e.arrow": write_file(tmp_path / "w", pa.table(rows)).read_bytes(),
        "st://b/in/d/.hidden": b"x",
        "st://b/in/_SUCCESS": b"",
    }
    store = Store(objects)
    store.pauses = pauses
    monkeypatch.setattr(filesystems, "_remote", None)  # and put back what was there
    use_remote(store)
    return store


def counts(result):
    found = {}
    for _, _, source, _ in result.documents:
        found[source] = found.get(source, 0) + 1
    return found


WHOLE = {"a.jsonl.gz": 5000, "b.txt": 1, "c.parquet": 3, "d/e.arrow": 3}


def test_a_folder_in_a_store_is_read_as_one_here(store, tmp_path):
    result = encode(tmp_path / "out", "st://b/in", max_document_bytes=1000)
    assert counts(result) == WHOLE
    assert result.documents[5000][1] == b"b" * 50_000
    single = encode(tmp_path / "one", "st://b/in/d/e.arrow")
    assert counts(single) == {"e.arrow": 3}
    pieces = encode(tmp_path / "split", "st://b/in/b.txt", target_shard_bytes=900, doc_per="line")
    assert counts(pieces) == {"b.txt": 1}


def test_reads_that_fail_or_break_off_go_on_where_they_stopped(store, tmp_path):
    broken = OSError(5, "connection reset")
    store.faults = [None, broken, b"", None, broken, None, b"", broken, None, None, b"", None]
    result = encode(tmp_path / "out", "st://b/in")
    assert counts(result) == WHOLE
    assert not store.faults
    assert not result.rejects


def test_a_listing_that_lags_is_asked_again(store, tmp_path):
    store.num_unlisted, store.num_unseen = 2, 2
    assert counts(encode(tmp_path / "out", "st://b/in")) == WHOLE
    assert store.pauses[:2] == [0.2, 1.0]
    with pytest.raises(UserError, match="st://b/none: no such file or folder"):
        encode(tmp_path / "none", "st://b/none")
    with pytest.raises(UserError, match=r"st://b/\*\*: matches no file"):
        store.objects.clear()
        encode(tmp_path / "none", "st://b/**")


def test_a_store_that_stays_broken_is_named(store, tmp_path):
    store.faults = [None] + [OSError(5, "no route to host")] * 100
    with pytest.raises(WorkError, match=r"st://b/in/b\.txt: cannot be read \(no route to host\)"):
        encode(tmp_path / "out", "st://b/in/b.txt")
    assert len(store.faults) == 96


def test_a_path_with_a_scheme_needs_a_store(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystems, "_remote", None)
    with pytest.raises(UserError, match=r"st://x/y: cannot be looked for \(nothing here opens"):
        encode(tmp_path / "out", "st://x/y")


def test_files_of_a_store_can_be_sought_in(store):
    data = bytes(range(256)) * 100
    store.objects["st://x"] = data
    assert size_of("st://x") == len(data)
    with open_input("st://x") as file:
        file.seek(-100, 2)
        assert file.read() == data[-100:]
        file.seek(5)
        assert file.read(10_000) == data[5:10_005]
        assert file.tell() == 10_005
        file.seek(10**6)
        assert file.read(1) == b""
    with open_input("st://x", buffering=0) as raw:
        assert raw.read(100_000) == data[: store.every]
