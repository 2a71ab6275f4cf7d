"""What holds at every place: here, in an S3 and in a Google Cloud Storage."""

import io
import os
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.dataset import storage
from blt.dataset.storage import ChangedError

DATA = bytes(range(256)) * 20_000  # 5 MB


def names(folder):
    """Returns what lies below a folder, by the rest of the path."""
    start = folder.rstrip("/") + "/"
    return sorted(file.path.removeprefix(start) for file in storage.list_below(folder))


def read(place):
    with storage.open_read(place) as file:
        return file.read()


def put(place, data=b""):
    with storage.open_write(place) as file:
        file.write(data)


def test_what_is_written_is_read(root):
    place = f"{root}/a/b.bin"
    version = storage.create(place, b"one")
    assert read(place) == b"one"
    assert storage.stat(place).version == version
    assert storage.replace(place, b"other") != version
    assert read(place) == b"other"
    put(place, DATA)
    assert read(place) == DATA
    storage.delete(place)
    storage.delete(place)
    assert names(root) == []
    with pytest.raises(FileNotFoundError, match="No such file"):
        storage.stat(place)
    with pytest.raises(FileNotFoundError):
        storage.open_read(place)


def test_empty_files_are_files(root):
    storage.create(f"{root}/created", b"")
    put(f"{root}/written")
    storage.create(f"{root}/created", b"")
    assert names(root) == ["created", "written"]
    assert read(f"{root}/created") == read(f"{root}/written") == b""
    assert storage.read_range(f"{root}/created", 0, 0) == b""


def test_create_has_one_winner(root):
    for number in range(5):
        place, outcomes = f"{root}/plan-{number}", []
        start = threading.Barrier(16)

        def attempt(token, place=place, outcomes=outcomes, start=start):
            start.wait()
            try:
                storage.create(place, token)
                outcomes.append(token)
            except FileExistsError:
                outcomes.append(None)

        threads = [threading.Thread(target=attempt, args=(b"%d" % i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 16
        assert [token for token in outcomes if token] == [read(place)]
    assert len(names(root)) == 5


def test_create_takes_what_is_there_with_the_same_bytes_for_its_own(root):
    place = f"{root}/plan"
    version = storage.create(place, b"token 1")
    assert storage.create(place, b"token 1") == version
    for other in (b"token 2", b"token 11"):
        with pytest.raises(FileExistsError):
            storage.create(place, other)
    assert read(place) == b"token 1"


def test_a_stale_version_replaces_nothing(root):
    place = f"{root}/plan"
    first = storage.create(place, b"first")
    second = storage.replace(place, b"second", if_version=first)
    assert second == storage.stat(place).version
    with pytest.raises(ChangedError, match="changed by someone else"):
        storage.replace(place, b"third", if_version=first)
    assert read(place) == b"second"
    assert storage.replace(place, b"second", if_version=first) == second  # our own, if asked twice
    storage.delete(place)
    with pytest.raises(ChangedError):
        storage.replace(place, b"fourth", if_version=second)
    assert names(root) == []


def test_of_those_who_replace_the_same_version_one_does(root):
    place, outcomes = f"{root}/plan", []
    version = storage.create(place, b"first")
    start = threading.Barrier(8)

    def attempt(token):
        start.wait()
        try:
            storage.replace(place, token, if_version=version)
            outcomes.append(token)
        except ChangedError:
            outcomes.append(None)

    threads = [threading.Thread(target=attempt, args=(b"%d" % i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    assert [token for token in outcomes if token] == [read(place)]


@pytest.mark.parametrize("size", [10, 25 << 20], ids=["small", "in_parts"])
def test_a_writer_that_raises_leaves_what_was_there(root, size):
    storage.create(f"{root}/old", b"old")
    for name in ("old", "new"):
        with pytest.raises(ZeroDivisionError), storage.open_write(f"{root}/{name}") as file:
            file.write(b"x" * size)
            assert "new" not in names(root)
            raise ZeroDivisionError
    assert names(root) == ["old"]
    assert read(f"{root}/old") == b"old"
    assert not os.path.isdir(root) or os.listdir(root) == ["old"]


def test_an_upload_in_parts_is_seen_when_it_is_whole(root):
    place = f"{root}/big"
    with storage.open_write(place) as file:
        for _ in range(5):
            file.write(DATA)
        assert names(root) == []
    assert read(place) == DATA * 5


def test_uploads_that_are_given_up_leave_no_parts(bucket):
    with pytest.raises(ZeroDivisionError), storage.open_write(f"{bucket.url}/big") as file:
        file.write(b"x" * (25 << 20))
        raise ZeroDivisionError
    assert bucket.num_uploads() == 0


def test_arrow_writes_and_reads_at_a_place(root):
    table = pa.table({"text": ["p"] * 1000})
    with storage.open_write(f"{root}/t.parquet") as file:
        pq.write_table(table, file)
    with storage.open_read(f"{root}/t.parquet") as file:
        assert pq.read_table(file).equals(table)


def test_ranges_are_exact(root):
    place = f"{root}/data"
    storage.create(place, DATA)
    for start, length in ((0, 1), (5, 1000), (len(DATA) - 3, 3), (1, len(DATA) - 1), (9, 0)):
        assert storage.read_range(place, start, length) == DATA[start : start + length]
    for start in (len(DATA) - 3, len(DATA), len(DATA) + 10):
        with pytest.raises(OSError, match="ends before the bytes that were asked for"):
            storage.read_range(place, start, 4)
    with pytest.raises(FileNotFoundError):
        storage.read_range(f"{root}/none", 0, 1)


def test_files_can_be_sought_in(root):
    place = f"{root}/data"
    storage.create(place, DATA)
    for buffering in (0, -1):
        with storage.open_read(place, buffering=buffering) as file:
            file.seek(-100, io.SEEK_END)
            assert file.read() == DATA[-100:]
            file.seek(5)
            assert file.read(100_000) == DATA[5:100_005]
            assert file.tell() == 100_005
            file.seek(10, io.SEEK_CUR)
            assert file.read(1) == DATA[100_015:100_016]
            file.seek(10**8)
            assert file.read(1) == b""
            file.seek(0)
            blocks = list(iter(lambda file=file: file.read(300_000), b""))
            assert b"".join(blocks) == DATA


def test_a_listing_has_what_stat_has(root):
    for name in ("a", "b/c", "b/d/e", "bc", "b/ü %41#?.txt"):
        storage.create(f"{root}/{name}", name.encode())
    storage.create(f"{root}x", b"beside")
    listed = sorted(storage.list_below(root), key=lambda file: file.path)
    assert names(root) == ["a", "b/c", "b/d/e", "b/ü %41#?.txt", "bc"]
    assert listed == [storage.stat(file.path) for file in listed]
    assert [file.size for file in listed] == [1, 3, 5, 14, 2]
    assert names(f"{root}/b") == names(f"{root}/b/") == ["c", "d/e", "ü %41#?.txt"]
    assert names(f"{root}/none") == []
    with pytest.raises(FileNotFoundError):
        storage.stat(f"{root}/b")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("a.txt", "a.txt"),
        ("d", "d/b.txt d/e/a.txt d/e/c.gz"),
        ("d/", "d/b.txt d/e/a.txt d/e/c.gz"),
        ("*.txt", "a.txt x[1].txt"),
        ("?.txt", "a.txt"),
        ("[!b].txt", "a.txt"),
        ("x[1].txt", "x[1].txt"),
        ("**/a.txt", "a.txt d/e/a.txt"),
        ("d/**", "d/b.txt d/e/a.txt d/e/c.gz"),
        ("**/e/*", "d/e/a.txt d/e/c.gz"),
        ("d/*", "d/b.txt d/e/a.txt d/e/c.gz"),
        ("d/*.txt", "d/b.txt"),
        ("*/b.txt", "d/b.txt"),
        ("*/e", "d/e/a.txt d/e/c.gz"),
        ("**/e", ""),
        ("none", ""),
        ("none/*", ""),
    ],
)
def test_find_takes_files_folders_and_globs(root, argument, expected):
    for name in ("a.txt", "d/b.txt", "d/e/a.txt", "d/e/c.gz", "x[1].txt"):
        storage.create(f"{root}/{name}", b"1")
    found = sorted(file.path for file in storage.find(f"{root}/{argument}"))
    assert [path.removeprefix(f"{root}/") for path in found] == expected.split()


def test_relative_paths_stay_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.create("a.txt", b"1")
    storage.create("d/b.txt", b"1")
    assert [file.path for file in storage.find("*.txt")] == ["a.txt"]
    assert [file.path for file in storage.find("d")] == ["d/b.txt"]


def test_names_that_stand_for_folders_are_left_out(bucket):
    for key in ("in/", "in/d/", "in/d/x", "in/e/", "in/both/", "in/both"):
        bucket.put(key, b"1" if key == "in/d/x" else b"")
    assert names(bucket.url) == ["in/both", "in/d/x"]
    assert names(f"{bucket.url}/in/e") == []


def test_a_bucket_is_a_folder_and_no_file(bucket):
    put(f"{bucket.url}/b/c.txt", b"x")
    put(f"{bucket.url}/a.txt", b"x")
    place = storage.as_place(f"{bucket.url}/")
    assert (place.exists(), place.is_dir(), place.is_file()) == (True, True, False)
    with pytest.raises(FileNotFoundError):
        storage.stat(bucket.url)


def test_the_folders_in_a_folder_are_told_in_order(root):
    for name in ("d/b/1", "d/b/2", "d/a-b/x/y", "d/a/x", "d/file", "e/x"):
        put(f"{root}/{name}", b"x")
    folder = storage.as_place(f"{root}/d")
    assert storage.subfolders(folder) == [folder / "a", folder / "a-b", folder / "b"]
    assert storage.subfolders(str(folder / "a")) == []


def test_listings_have_pages(gcs_bucket):
    for number in range(2500):
        gcs_bucket.put(f"n/{number:05d}", b"1")
    gcs_bucket.server.num_listings = 0
    assert names(gcs_bucket.url) == [f"n/{number:05d}" for number in range(2500)]
    assert gcs_bucket.server.num_listings == 3


def test_a_file_that_is_replaced_while_it_is_read_is_not_read_on(bucket):
    place = f"{bucket.url}/data"
    storage.create(place, DATA)
    with storage.open_read(place) as file:
        file.read(1000)
        storage.replace(place, DATA[::-1])
        with pytest.raises(ChangedError, match="changed by someone else"):
            file.read()


def test_create_without_hard_links_has_one_winner_too(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage.create(str(tmp_path / "plan"), b"first")
    with pytest.raises(FileExistsError):
        storage.create(str(tmp_path / "plan"), b"second")
    assert os.listdir(tmp_path) == ["plan"]
    assert (tmp_path / "plan").read_bytes() == b"first"
