"""Stores on loopback, for tests: what stands before them spoils requests as it is told."""

import base64
import dataclasses
import email.utils
import hmac
import itertools
import logging
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

from blt.dataset.storage import store_client
from tests.emulators.fake_gcs import FakeGcs
from tests.emulators.fault_proxy import FaultProxy

_NUMBERS = itertools.count(1)


@dataclasses.dataclass
class Bucket:
    """A new, empty bucket of a store.

    Attributes:
      url: such as `gs://bucket-7`.
      proxy: what its requests go through.
      server: the emulator behind it.
    """

    url: str
    proxy: FaultProxy
    server: object

    def put(self, key, data):
        """Puts an object under any key; also one that ends in a slash."""
        name = self.url.partition("://")[2]
        if self.url.startswith("gs"):
            self.server.put(name, key, data)
        else:
            self.server.client.put_object(Bucket=name, Key=key, Body=data)

    def num_uploads(self):
        """Counts the uploads that were begun, and neither completed nor aborted."""
        name = self.url.partition("://")[2]
        if self.url.startswith("gs"):
            return sum(upload[0] == name for upload in self.server.uploads.values())
        return len(self.server.client.list_multipart_uploads(Bucket=name).get("Uploads", []))


class MotoS3:
    """Moto's server, with a client of it that the tests may use."""

    def __init__(self):
        import boto3
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.url = "http://{}:{}".format(*self._server.get_host_and_port())
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        self.stop = self._server.stop


class Azurite:
    """Azurite's blob server, in a process of its own."""

    account = "devstoreaccount1"  # and its key, both well known
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/{self.account}"
        flags = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        flags += ["--location", str(folder), "--blobPort", str(port)]
        self._process = subprocess.Popen(["azurite-blob", *flags])
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionError:
                time.sleep(0.1)

    def stop(self):
        self._process.terminate()
        self._process.wait()

    def make_container(self, name):
        """Makes a container, by a request that is signed as Azure asks for."""
        headers = {
            "x-ms-date": email.utils.formatdate(usegmt=True),
            "x-ms-version": "2021-12-02",
        }
        lines = ["PUT", *[""] * 11, *[f"{name}:{value}" for name, value in headers.items()]]
        lines += [f"/{self.account}/{self.account}/{name}", "restype:container"]
        digest = hmac.digest(base64.b64decode(self.key), "\n".join(lines).encode(), "sha256")
        signature = base64.b64encode(digest).decode()
        headers["Authorization"] = f"SharedKey {self.account}:{signature}"
        url = f"{self.url}/{name}?restype=container"
        request = urllib.request.Request(url, method="PUT", headers=headers)
        urllib.request.urlopen(request).close()


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory):
    if not shutil.which("azurite-blob"):
        pytest.skip("azurite is not installed")
    server = Azurite(tmp_path_factory.mktemp("azurite"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gcs_server():
    server = FakeGcs()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = MotoS3()
    yield server
    server.stop()


@pytest.fixture
def no_clients(monkeypatch):
    """Clients that other tests made lead to their proxies, which are gone."""
    monkeypatch.setattr(store_client, "_clients", {})


@pytest.fixture
def gcs_bucket(gcs_server, no_clients, monkeypatch):
    proxy = FaultProxy(gcs_server.url)
    monkeypatch.setenv("GOOGLE_BASE_URL", proxy.url)
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name = f"bucket-{next(_NUMBERS)}"
    gcs_server.buckets[name] = {}
    yield Bucket(f"gs://{name}", proxy, gcs_server)
    proxy.stop()
    del gcs_server.buckets[name]  # it lies in memory


@pytest.fixture
def s3_bucket(s3_server, no_clients, monkeypatch):
    proxy = FaultProxy(s3_server.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name = f"bucket-{next(_NUMBERS)}"
    s3_server.client.create_bucket(Bucket=name)
    yield Bucket(f"s3://{name}", proxy, s3_server)
    proxy.stop()
    while keys := s3_server.client.list_objects_v2(Bucket=name).get("Contents"):  # they, too
        objects = [{"Key": file["Key"]} for file in keys]
        s3_server.client.delete_objects(Bucket=name, Delete={"Objects": objects})


@pytest.fixture
def azure_bucket(azure_server, no_clients, monkeypatch):
    proxy = FaultProxy(azure_server.url)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{proxy.url}/{azure_server.account}")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azure_server.account)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure_server.key)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name = f"bucket-{next(_NUMBERS)}"
    azure_server.make_container(name)
    yield Bucket(f"az://{name}", proxy, azure_server)
    proxy.stop()


@pytest.fixture(params=["s3", "gcs"])
def bucket(request):
    """A bucket of each kind of store."""
    return request.getfixturevalue(f"{request.param}_bucket")


@pytest.fixture(params=["local", "s3", "gcs", "azure"])
def root(request, tmp_path):
    """An empty folder here, and in a bucket of each kind of store; Azure's where Azurite is."""
    if request.param == "local":
        return str(tmp_path / "root")
    return request.getfixturevalue(f"{request.param}_bucket").url + "/root"
