"""`blt encode` on a filesystem of Beam's, of which a fake keeps its objects in a folder here."""

import gzip
import io
import os
import re

import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem

from blt.cli import command
from blt.corpus.files import filesystems
from blt.dataset.manifest import read_manifest
from pipelines import encode
from pipelines.beam_files import BeamFiles

FAULTS = []  # of the next reads


class _FailingReads(io.FileIO):
    def read(self, size=-1):
        if FAULTS:
            raise FAULTS.pop()
        return super().read(size)


class FakeStore(FileSystem):
    """`fakestore://x/y` is the file x/y of the folder in `FAKE_STORE`."""

    @classmethod
    def scheme(cls):
        return "fakestore"

    def _here(self, path):
        return os.path.join(os.environ["FAKE_STORE"], path.removeprefix("fakestore://"))

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        head, _, tail = path.rpartition("/")
        return head, tail

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        root = os.environ["FAKE_STORE"]
        for folder, _, names in os.walk(root):
            for name in names:
                relative = os.path.relpath(os.path.join(folder, name), root)
                path = "fakestore://" + relative
                if path.startswith(dir_or_prefix):
                    yield self.metadata(path)

    def metadata(self, path):
        info = os.stat(self._here(path))
        return FileMetadata(path, info.st_size, info.st_mtime)

    def exists(self, path):
        return os.path.isfile(self._here(path))

    def open(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        assert compression_type == CompressionTypes.UNCOMPRESSED
        return _FailingReads(self._here(path))

    def size(self, path):
        return self.metadata(path).size_in_bytes

    last_updated = size
    mkdirs = create = copy = rename = delete = checksum = None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(filesystems.time, "sleep", lambda seconds: None)
    below = tmp_path / "store" / "b" / "in"
    (below / "d").mkdir(parents=True)
    (below / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 20))
    (below / "d" / "b.txt").write_bytes(b"text")
    yield below
    FAULTS.clear()


def run(*argv):
    return command.main(encode, [str(arg) for arg in argv])


@pytest.mark.parametrize(
    ("argument", "documents"),
    [
        ("fakestore://b/in", 21),
        ("fakestore://b/in/", 21),
        ("fakestore://b/in/*.gz", 20),
        ("fakestore://b/**/b.txt", 1),
        ("fakestore://b/in/d/b.txt", 1),
    ],
)
def test_paths_folders_and_globs_lead_to_files(folder, tmp_path, argument, documents):
    FAULTS.extend([BeamIOError("reset", {"x": ConnectionError("reset")}), RuntimeError("503")])
    assert run("--input", argument, "--output", tmp_path / "bytes") == 0
    assert read_manifest(tmp_path / "bytes").totals["documents"] == documents
    assert not FAULTS


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("fakestore://b/absent", "--input fakestore://b/absent: no such file or folder"),
        ("noscheme://b/x", r"--input noscheme://b/x: cannot be looked for \(Unable to get"),
    ],
)
def test_what_leads_nowhere_is_one_line_and_status_2(folder, tmp_path, capsys, argument, message):
    assert run("--input", argument, "--output", tmp_path / "bytes") == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.count("\n") == 1, err


def test_any_failure_of_a_store_is_an_oserror(folder):
    files = BeamFiles()
    with pytest.raises(FileNotFoundError):
        files.stat("fakestore://b/absent")
    with pytest.raises(OSError, match="ValueError|Unable to get"):
        files.stat("noscheme://b")
    FAULTS.append(KeyError("odd"))
    with pytest.raises(OSError, match="KeyError: 'odd'"):
        files.open("fakestore://b/in/d/b.txt").read(5)


def test_what_lies_in_a_store_grows_too_and_is_not_read_again(folder, tmp_path, capsys):
    argv = ("--input", "fakestore://b/in", "--output", tmp_path / "bytes", "--drop-duplicates")
    assert run(*argv) == 0
    assert read_manifest(tmp_path / "bytes").totals["documents"] == 2
    FAULTS.extend([OSError("must not be read")] * 9)
    assert run(*argv) == 0
    assert "already done" in capsys.readouterr().out
    assert len(FAULTS) == 9
    FAULTS.clear()
    (folder / "c.txt").write_bytes(b"more")
    assert run(*argv) == 0
    assert "1 new file; the rest was planned before" in capsys.readouterr().err
    rows = pq.read_table(tmp_path / "bytes" / "_sources.parquet").to_pylist()
    assert [(row["source"], row["sha256"]) for row in rows] == [
        ("a.jsonl.gz", None),
        ("d/b.txt", None),
        ("c.txt", None),
    ]
    (folder / "c.txt").write_bytes(b"else")
    os.utime(folder / "c.txt", (10**9, 10**9))
    assert run(*argv) == 2
    assert "fakestore://b/in/c.txt (was modified)" in capsys.readouterr().err
