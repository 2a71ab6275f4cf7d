"""A Google Cloud Storage in memory: the XML interface, as far as object_store speaks it.

Conditions are checked and carried out under one lock, listings come in pages, and nothing of a
multipart upload is seen before it is complete.
"""

import base64
import bisect
import dataclasses
import email.utils
import functools
import hashlib
import itertools
import re
import threading
import time
import xml.etree.ElementTree as ET
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from tests.emulators.loopback import LoopbackServer

PAGE_NAMES = 1000


class Refusal(Exception):
    """An answer other than 2xx."""

    def __init__(self, status, code):
        super().__init__(code)
        self.status, self.code = status, code


@dataclasses.dataclass(frozen=True)
class Blob:
    data: bytes
    generation: int
    changed: float

    @functools.cached_property
    def etag(self):
        return '"' + hashlib.md5(self.data).hexdigest() + '"'

    def headers(self):
        return {
            "ETag": self.etag,
            "Last-Modified": email.utils.formatdate(self.changed, usegmt=True),
            "x-goog-generation": str(self.generation),
        }


class FakeGcs:
    """The buckets, and the server that shows them at `url`."""

    def __init__(self):
        self.buckets = {}
        self.uploads = {}  # not yet complete, by id: (bucket, key, parts by number)
        self.num_listings = 0
        self._lock = threading.Lock()
        self._sorted = {}  # the keys of each bucket, while they stay the same
        self._numbers = itertools.count(1_700_000_000_000_001)
        handler = type("Handler", (_Handler,), {"gcs": self})
        self._server = LoopbackServer(handler)
        self.url = self._server.url

    def stop(self):
        self._server.stop()

    def bucket(self, name):
        if name not in self.buckets:
            raise Refusal(404, "NoSuchBucket")
        return self.buckets[name]

    def put(self, bucket, key, data, generation=None):
        """Puts a blob; `generation` is the one that must be there, 0 for none."""
        with self._lock:
            blobs = self.bucket(bucket)
            there = blobs[key].generation if key in blobs else 0
            if generation is not None and generation != there:
                raise Refusal(412, "PreconditionFailed")
            if key not in blobs:
                self._sorted.pop(bucket, None)
            blobs[key] = Blob(data, next(self._numbers), time.time())
            return blobs[key]

    def get(self, bucket, key, generation=None):
        blob = self.bucket(bucket).get(key)
        if blob is None or generation not in (None, blob.generation):
            raise Refusal(404, "NoSuchKey")
        return blob

    def delete(self, bucket, key):
        with self._lock:
            self.get(bucket, key)
            del self.buckets[bucket][key]
            self._sorted.pop(bucket, None)

    def begin_upload(self, bucket, key):
        self.bucket(bucket)
        upload = f"upload-{next(self._numbers)}"
        self.uploads[upload] = (bucket, key, {})
        return upload

    def upload(self, name):
        if name not in self.uploads:
            raise Refusal(404, "NoSuchUpload")
        return self.uploads[name]

    def complete(self, name, numbers):
        bucket, key, parts = self.upload(name)
        blob = self.put(bucket, key, b"".join(parts[number] for number in numbers))
        del self.uploads[name]
        return blob

    def page(self, bucket, prefix, delimiter, after, limit):
        """Returns blobs, folders, and where the next page begins (None of the last)."""
        with self._lock:
            self.num_listings += 1
            blobs = self.bucket(bucket)
            keys = self._sorted.get(bucket, [])
            if len(keys) != len(blobs):  # a test may have put some itself
                keys = self._sorted[bucket] = sorted(blobs)
            start = max(bisect.bisect_left(keys, prefix), bisect.bisect_right(keys, after))
            # Of folders, all that is below must be seen.
            keys = keys[start : None if delimiter else start + limit + 1]
            found = [(key, blobs[key]) for key in keys if key.startswith(prefix)]
        files, folders, last = [], [], None
        for key, blob in found:
            below = key.removeprefix(prefix)
            folder = prefix + below.partition(delimiter)[0] + delimiter if delimiter else ""
            is_below = delimiter and delimiter in below
            if is_below and (folder in folders or after.startswith(folder)):
                continue
            if len(files) + len(folders) == limit:
                return files, folders, last
            if is_below:
                folders.append(folder)
            else:
                files.append((key, blob))
            last = folder + "\U0010ffff" if is_below else key
        return files, folders, None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    gcs: FakeGcs

    def log_message(self, *args):
        pass

    def _answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, True).items()}
        bucket, _, key = url.path.lstrip("/").partition("/")
        try:
            self._route(unquote(bucket), unquote(key), query, body)
        except Refusal as refusal:
            self._answer(refusal.status, f"<Error><Code>{refusal.code}</Code></Error>".encode())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _route(self, bucket, key, query, body):
        gcs, upload = self.gcs, query.get("uploadId")
        match self.command:
            case "GET" if not key:
                self._list(bucket, query)
            case "GET" | "HEAD":
                generation = int(query["generation"]) if "generation" in query else None
                self._send(gcs.get(bucket, key, generation))
            case "PUT" if upload:
                gcs.upload(upload)[2][int(query["partNumber"])] = body
                self._answer(200, headers={"ETag": '"part"'})
            case "PUT":
                condition = self.headers.get("x-goog-if-generation-match")
                blob = gcs.put(bucket, key, body, None if condition is None else int(condition))
                self._answer(200, headers=blob.headers())
            case "POST" if upload:
                numbers = [int(n) for n in re.findall(rb"<PartNumber>(\d+)<", body)]
                blob = gcs.complete(upload, numbers)
                answer = _xml("CompleteMultipartUploadResult", {"ETag": blob.etag})
                self._answer(200, answer, {"x-goog-generation": str(blob.generation)})
            case "POST":
                fields = {"Bucket": bucket, "Key": key, "UploadId": gcs.begin_upload(bucket, key)}
                self._answer(200, _xml("InitiateMultipartUploadResult", fields))
            case "DELETE" if upload:
                gcs.uploads.pop(upload, None)
                self._answer(204)
            case "DELETE":
                gcs.delete(bucket, key)
                self._answer(204)

    def _send(self, blob):
        if self.headers.get("If-Match") not in (None, blob.etag):
            raise Refusal(412, "PreconditionFailed")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            self._answer(200, blob.data, blob.headers())
            return
        start, last = int(asked[1]), int(asked[2] or len(blob.data) - 1)
        data = blob.data[start : last + 1]
        if not data:
            raise Refusal(416, "InvalidRange")
        span = f"bytes {start}-{start + len(data) - 1}/{len(blob.data)}"
        self._answer(206, data, {**blob.headers(), "Content-Range": span})

    def _list(self, bucket, query):
        token = query.get("continuation-token", "")
        files, folders, following = self.gcs.page(
            bucket,
            query.get("prefix", ""),
            query.get("delimiter", ""),
            base64.urlsafe_b64decode(token).decode(),
            min(PAGE_NAMES, int(query.get("max-keys") or PAGE_NAMES)),
        )
        root = ET.Element("ListBucketResult")
        for key, blob in files:
            _add(ET.SubElement(root, "Contents"), _fields(key, blob))
        for folder in folders:
            _add(ET.SubElement(root, "CommonPrefixes"), {"Prefix": folder})
        _add(root, {"Name": bucket, "IsTruncated": str(following is not None).lower()})
        if following is not None:
            following = base64.urlsafe_b64encode(following.encode()).decode()
            _add(root, {"NextContinuationToken": following})
        self._answer(200, ET.tostring(root))


def _fields(key, blob):
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(blob.changed))
    return {
        "Key": key,
        "Size": str(len(blob.data)),
        "ETag": blob.etag,
        "Generation": str(blob.generation),
        "LastModified": f"{when}.{int(blob.changed % 1 * 1000):03d}Z",
    }


def _add(element, fields):
    for name, text in fields.items():
        ET.SubElement(element, name).text = text


def _xml(name, fields):
    root = ET.Element(name)
    _add(root, fields)
    return ET.tostring(root)
