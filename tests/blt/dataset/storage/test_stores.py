"""What a store does that it should not: fails, stalls, breaks off, loses answers, says no."""

import contextlib
import datetime
import errno
import importlib.metadata
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from blt.dataset import storage
from blt.dataset.storage import ChangedError, store_client, store_reader
from blt.errors import WorkError

DATA = bytes(range(256)) * 20_000
SECRET = "do-not-show-this"


@pytest.fixture(autouse=True)
def few_retries(monkeypatch):
    """Clients of their own for each test, which give up after three attempts and wait little."""
    backoff = {"init_backoff": datetime.timedelta(milliseconds=5)}
    monkeypatch.setattr(store_client, "_RETRY", {"max_retries": 2, "backoff": backoff})
    monkeypatch.setattr(store_client, "_clients", {})
    for module in (store_client, store_reader):
        monkeypatch.setattr(module, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def read(place):
    with storage.open_read(place) as file:
        return file.read()


ACTIONS = {
    "stat": ("HEAD", "/in", lambda url: storage.stat(f"{url}/in/a").size == 3),
    "list": ("GET", "list-type", lambda url: len(list(storage.list_below(f"{url}/in"))) == 1),
    "read": ("GET", "/in", lambda url: read(f"{url}/in/a") == b"one"),
    "create": ("PUT", "/new", lambda url: storage.create(f"{url}/new", b"1")),
    "replace": ("PUT", "/in", lambda url: storage.replace(f"{url}/in/a", b"1")),
}


@pytest.mark.parametrize("kind", ["503", "429", "reset", "late", "stall"])
@pytest.mark.parametrize("action", ACTIONS)
def test_requests_that_fail_for_a_while_are_tried_again(bucket, monkeypatch, action, kind):
    monkeypatch.setattr(store_client, "REQUEST_SECONDS", 1.0)
    storage.create(f"{bucket.url}/in/a", b"one")
    method, match, act = ACTIONS[action]
    if kind.isdigit():
        bucket.proxy.add("fail", method, match, times=2, status=int(kind))
    else:
        bucket.proxy.add(kind, method, match, times=1)
    assert act(bucket.url)
    assert not any(fault.times for fault in bucket.proxy.faults)


def test_a_read_that_breaks_off_goes_on_where_it_stopped(bucket):
    place = f"{bucket.url}/data"
    storage.create(place, DATA)
    bucket.proxy.add("cut", "GET", "data", times=15)  # more than may fail without any progress
    assert storage.read_range(place, 0, len(DATA)) == DATA
    starts = [int(asked[6:].split("-")[0]) for method, _, asked in bucket.proxy.requests if asked]
    assert len(starts) >= 16
    assert starts[1] > len(DATA) // 4
    steps = itertools.pairwise(starts)
    assert all(following >= start - (1 << 16) for start, following in steps)
    bucket.proxy.add("cut", "GET", "data", times=3)
    assert read(place) == DATA


def test_what_stays_broken_fails_within_a_bound_and_is_named(bucket):
    place = f"{bucket.url}/data"
    storage.create(place, DATA)
    bucket.proxy.add("fail", "GET", "data", times=100)
    with pytest.raises(OSError, match="HTTP 503.* after 2 more attempts") as caught:
        storage.read_range(place, 0, 10)
    assert caught.value.filename == place
    assert bucket.proxy.faults[0].times == 97
    bucket.proxy.faults.clear()
    bucket.proxy.add("reset", "GET", "list-type", times=100)
    with pytest.raises(OSError, match="after 2 more attempts"):
        list(storage.list_below(bucket.url))


def test_the_lost_answer_of_a_create_is_a_success(bucket):
    place = f"{bucket.url}/plan"
    bucket.proxy.add("lost", "PUT", "plan")
    version = storage.create(place, b"token 1")
    assert not bucket.proxy.faults[0].times
    assert storage.stat(place).version == version
    bucket.proxy.add("lost", "PUT", "plan")
    with pytest.raises(FileExistsError):
        storage.create(place, b"token 2")
    assert read(place) == b"token 1"


def test_the_lost_answer_of_a_replace_is_a_success(bucket):
    place = f"{bucket.url}/plan"
    first = storage.create(place, b"first")
    bucket.proxy.add("lost", "PUT", "plan")
    version = storage.replace(place, b"second", if_version=first)
    assert not bucket.proxy.faults[0].times
    assert storage.stat(place).version == version
    bucket.proxy.add("lost", "DELETE", "plan")
    storage.delete(place)
    assert list(storage.list_below(bucket.url)) == []


@pytest.mark.parametrize("kind", ["fail", "reset", "lost", "cut"])
@pytest.mark.parametrize("step", ["begin", "part", "complete"])
def test_uploads_in_parts_are_whole_or_not_there(bucket, kind, step):
    place = f"{bucket.url}/big"
    data = DATA * 5
    method, match = {
        "begin": ("POST", "uploads"),
        "part": ("PUT", "partNumber=2"),
        "complete": ("POST", "uploadId"),
    }[step]
    bucket.proxy.add(kind, method, match)
    try:
        with storage.open_write(place) as file:
            file.write(data)
    except OSError as error:
        assert error.filename == place
    else:
        assert read(place) == data
    assert not bucket.proxy.faults[0].times
    listed = list(storage.list_below(bucket.url))
    assert listed == [] or read(place) == data


@pytest.mark.parametrize(
    ("method", "match"), [("PUT", "partNumber=2"), ("POST", "uploadId")], ids=["part", "complete"]
)
def test_an_upload_that_fails_leaves_nothing(bucket, method, match):
    bucket.proxy.add("fail", method, match, times=100)
    with pytest.raises(OSError, match="HTTP 503"), storage.open_write(f"{bucket.url}/big") as file:
        file.write(DATA * 5)
    assert list(storage.list_below(bucket.url)) == []
    if not importlib.metadata.version("obstore").startswith("0.11."):  # which aborts none of these
        assert bucket.num_uploads() == 0


@pytest.mark.parametrize(
    ("status", "code", "number", "message"),
    [
        (403, "AccessDenied", "EACCES", r"no permission \(AccessDenied\): let the account"),
        (401, "InvalidSecurity", "EACCES", r"no permission \(InvalidSecurity\)"),
        (400, "ExpiredToken", "EACCES", "credentials have expired, renew them"),
        (404, "NoSuchBucket", "ENXIO", "there is no bucket s?g?c?3?s?://bucket-.*check its name"),
        (301, "PermanentRedirect", "EREMOTE", "another region, set AWS_REGION to its region"),
        (
            400,
            "AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region><Code>x",
            "EREMOTE",
            "another region, set AWS_REGION to eu-west-1",
        ),
        (501, "NotImplemented", "EIO", r"HTTP 501 Not Implemented \(NotImplemented\)"),
    ],
)
@pytest.mark.parametrize("action", ["list", "read", "create"])
def test_refusals_are_one_line_that_says_what_to_do(bucket, action, status, code, number, message):
    storage.create(f"{bucket.url}/in/a", b"one")
    method, match, act = ACTIONS[action]
    body = f"<Error><Code>{code}</Code></Error>".encode()
    bucket.proxy.add("fail", method, match, times=100, status=status, body=body)
    with pytest.raises(OSError, match=message) as caught:
        act(bucket.url)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.filename.startswith(bucket.url)
    assert caught.value.errno == getattr(errno, number)


def test_a_bucket_that_is_not_there_is_said_to_be_missing(bucket):
    missing = bucket.url + "-none"
    for act in (
        lambda: list(storage.list_below(missing)),
        lambda: storage.find(f"{missing}/in"),
        lambda: storage.find(f"{missing}/*.txt"),
        lambda: storage.create(f"{missing}/a", b""),
    ):
        with pytest.raises(OSError, match=f"there is no bucket {missing}, check its name"):
            act()


def test_names_are_not_taken_for_the_words_of_a_store(bucket):
    name = "redirect NoSuchBucket ExpiredToken status code: 403 computeMetadata"
    with pytest.raises(FileNotFoundError):
        storage.stat(f"{bucket.url}/{name}/latest/api/token")
    body = f"<Error><Code>NoSuchKey</Code><Key>{name}</Key></Error>".encode()
    bucket.proxy.add("fail", "GET", "computeMetadata", status=404, body=body)
    with pytest.raises(FileNotFoundError):
        storage.read_range(f"{bucket.url}/{name}", 0, 1)
    storage.create(f"{bucket.url}/{name}", b"1")
    with pytest.raises(FileExistsError):
        storage.create(f"{bucket.url}/{name}", b"2")


def test_no_credentials_are_said_to_be_missing(s3_bucket, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        if name not in ("AWS_ENDPOINT_URL", "AWS_REGION"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="no credentials were found, set AWS_ACCESS_KEY_ID"):
        storage.stat(f"{s3_bucket.url}/a")


def test_an_account_that_is_not_named_is_said_to_be_missing(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    message = "no credentials were found, set AZURE_STORAGE_ACCOUNT_NAME and"
    with pytest.raises(OSError, match=message):
        storage.stat("az://container/a")


@pytest.mark.parametrize("scheme", ["hf", "hdfs", "file", "https"])
def test_a_scheme_that_is_not_read_is_named_at_once(scheme):
    with pytest.raises(
        OSError, match=rf"{scheme}:// is not read; gs://, s3:// and az:// are.*blt\["
    ):
        storage.find(f"{scheme}://x/y")


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(
        OSError, match=r"gs:// needs the package obstore: pip install 'blt\[stores\]"
    ):
        storage.stat("gs://bucket/x")


def test_names_that_the_client_cannot_have_are_named(s3_bucket):
    s3_bucket.put("in//x", b"1")
    with pytest.raises(OSError, match="names with empty parts, . or .. cannot be read .*in//x"):
        list(storage.list_below(s3_bucket.url))
    with pytest.raises(OSError, match="names with empty parts"):
        storage.stat(f"{s3_bucket.url}/in//x")


def test_a_store_is_not_imported_before_it_is_used():
    code = "import sys, blt.dataset.storage; print('obstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_forked_process_is_told_and_does_not_hang(gcs_bucket):
    storage.create(f"{gcs_bucket.url}/a", b"1")
    code = f"""
        import os
        from blt.dataset import storage
        if not os.fork():
            print(storage.stat("{gcs_bucket.url}/a").size, flush=True)  # nothing was used before
            os._exit(0)
        os.wait()
        storage.stat("{gcs_bucket.url}/a")
        if not os.fork():
            try:
                storage.stat("{gcs_bucket.url}/a")
            except OSError as error:
                print(error, flush=True)
            os._exit(0)
        os.wait()
        print(storage.stat("{gcs_bucket.url}/a").size)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    first, error, last = done.stdout.splitlines()
    assert (first, last) == ("1", "1"), done
    assert "this process was forked from one that had used a store" in error


def test_threads_share_a_client(bucket):
    storage.create(f"{bucket.url}/a", DATA)
    client = store_client._clients[bucket.url]
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(read(f"{bucket.url}/a") == DATA))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
    assert store_client._clients[bucket.url] is client


def test_errors_travel_between_processes(bucket):
    with pytest.raises(ChangedError) as caught:
        storage.replace(f"{bucket.url}/none", b"", if_version="x")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_an_upload_follows_a_file_that_is_written(bucket):
    place = f"{bucket.url}/large"

    def num_parts():
        return sum("partNumber" in path for _, path, _ in bucket.proxy.requests)

    with storage.atomic_path(place, is_appended=True) as path, open(path, "wb") as file:
        for _ in range(5):
            file.write(DATA)
        file.flush()
        while not num_parts():
            time.sleep(0.01)
        assert not list(storage.list_below(bucket.url))
        file.write(b"end")
    assert read(place) == DATA * 5 + b"end"
    assert bucket.num_uploads() == 0


@pytest.mark.parametrize("kind", ["raises", "refused", "lost"])
def test_of_an_upload_that_ends_badly_nothing_is_seen(bucket, kind):
    place = f"{bucket.url}/large"

    def refuse():
        raise WorkError("taken by another")

    if kind == "lost":  # the last answer: made again, whole
        bucket.proxy.add("lost", "POST", "uploadId")
    may_publish = refuse if kind == "refused" else (lambda: None)
    expected = contextlib.nullcontext() if kind == "lost" else pytest.raises((WorkError, KeyError))
    with (
        expected,
        storage.noted_publications(may_publish),
        storage.atomic_path(place, is_appended=True) as path,
    ):
        path.write_bytes(DATA * 5)
        time.sleep(0.3)
        if kind == "raises":
            raise KeyError
    found = [file.path for file in storage.list_below(bucket.url)]
    assert found == [place] * (kind == "lost")
    assert kind != "lost" or read(place) == DATA * 5
