"""Copies of a store's files on this machine: one each, bounded, safe among those who need them."""

import os
import threading
import time

import pytest

from blt.dataset import storage
from blt.dataset.storage import local_copy
from blt.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(cache):
    return sorted(path.name for path in cache.iterdir())


def test_those_who_need_a_file_at_once_share_one_copy(bucket, cache):
    url = f"{bucket.url}/model.keras"
    storage.create(url, b"x" * 3_000_000)
    bucket.proxy.requests.clear()
    copies = []
    threads = [threading.Thread(target=lambda: copies.append(local_copy(url))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copies) == 8
    assert len(set(copies)) == 1
    assert copies[0].read_bytes() == b"x" * 3_000_000
    assert copies[0].suffix == ".keras"
    assert sum(asked == "bytes=0-1048575" for _, _, asked in bucket.proxy.requests) == 1
    assert names(cache) == [copies[0].name]


def test_a_file_that_was_replaced_gets_another_copy(bucket, cache):
    url = f"{bucket.url}/model.keras"
    storage.create(url, b"one")
    first = local_copy(url)
    storage.replace(url, b"two")
    assert (local_copy(url).read_bytes(), first.read_bytes()) == (b"two", b"one")


def test_the_copies_not_used_for_longest_go(bucket, cache, monkeypatch):
    monkeypatch.setenv("BLT_CACHE_BYTES", "25")
    copies = []
    for number in range(3):
        storage.create(f"{bucket.url}/{number}", b"%d" % number * 10)
        copies.append(local_copy(f"{bucket.url}/{number}"))
        os.utime(copies[-1], (number, number))
        if number == 1:
            assert local_copy(f"{bucket.url}/0") == copies[0]  # used again
    assert names(cache) == sorted(path.name for path in (copies[0], copies[2]))


def test_what_a_killed_process_left_goes_after_a_day(bucket, cache):
    cache.mkdir()
    for name, age in (("part-old", 2 * 24 * 3600), ("part-new", 60)):
        (cache / name).write_bytes(b"half")
        os.utime(cache / name, (time.time() - age,) * 2)
    storage.create(f"{bucket.url}/a", b"a")
    assert names(cache) == ["part-new", "part-old"]
    copy = local_copy(f"{bucket.url}/a")
    assert names(cache) == sorted((copy.name, "part-new"))


def test_copies_are_not_taken_from_a_folder_of_another_user(bucket, cache, monkeypatch):
    storage.create(f"{bucket.url}/a", b"a")
    cache.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UserError, match="belongs to another user.*Set BLT_CACHE"):
        local_copy(f"{bucket.url}/a")
