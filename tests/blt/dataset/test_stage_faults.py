"""A stage in a store that spoils its requests at random: the right result, or a clear failure.

`BLT_FAULTS=1000` spoils so many.
"""

import datetime
import os
import random
import re
import time

import pytest

from blt.dataset.storage import as_place, atomic_path, sha256_file, store_client, store_reader
from blt.dataset.units import ShardInfo, UnitResult
from blt.errors import BltError
from tests.blt.dataset.test_stage_at_places import contents, make_stage, run
from tests.emulators.fault_proxy import Fault

NUM_FAULTS = int(os.environ.get("BLT_FAULTS", "60"))
KINDS = ("503", "429", "reset", "cut", "lost", "late", "stall")
SHARES = (0.05, 0.2, 0.5)  # of the requests of a run


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Clients that ask a second and third time, soon, and do not wait long for answers."""
    backoff = {"init_backoff": datetime.timedelta(milliseconds=5)}
    monkeypatch.setattr(store_client, "_RETRY", {"max_retries": 2, "backoff": backoff})
    monkeypatch.setattr(store_client, "_clients", {})
    monkeypatch.setattr(store_client, "REQUEST_SECONDS", 1.0)
    for module in (store_client, store_reader):
        monkeypatch.setattr(module, "PAUSES", (0.01, 0.01, 0.01))


def large_and_small(unit, output, progress):
    """Makes a shard in parts, or in one request, by the number of the unit."""
    num_bytes = (11 << 20) if unit.index == 0 else 100
    name = f"loud-{unit.index:05d}-000.txt"
    with atomic_path(output / name, is_appended=True) as path:
        path.write_bytes(unit.payload["text"].encode() * num_bytes)
        time.sleep(0.2 * (unit.index == 0))  # for the upload to begin
        digest = sha256_file(path)
    shard = ShardInfo(name=name, documents=1, bytes=1, tokens=1, sha256=digest)
    return UnitResult(shards=(shard,), counts={"documents": 1, "records": 1})


def test_whatever_a_store_spoils_the_result_is_right_or_the_failure_clear(bucket, tmp_path):
    rng = random.Random(0)
    texts = ["a", "b", "c", "d"]
    run(*make_stage(tmp_path / "undisturbed", large_and_small, texts=texts))
    expected = contents(tmp_path / "undisturbed")
    num_faults = num_failures = number = 0
    share = 0.0

    def spoil(method, path):
        nonlocal num_faults
        if rng.random() > share:
            return None
        num_faults += 1
        kind = rng.choice(KINDS)
        return Fault("fail", method, status=int(kind)) if kind.isdigit() else Fault(kind, method)

    while num_faults < NUM_FAULTS:
        number, share = number + 1, SHARES[number % len(SHARES)]
        stage, units = make_stage(f"{bucket.url}/{number}", large_and_small, texts=texts)
        bucket.proxy.spoil = spoil
        for _ in range(100):
            try:
                run(stage, units)
                break
            except (BltError, OSError) as error:
                num_failures += 1
                assert re.search(r"(gs|s3)://bucket-\d+/\d+", f"{error}"), error
                assert "\n" not in str(error)
        else:
            pytest.fail("never done")
        bucket.proxy.spoil = lambda method, path: None
        assert contents(f"{bucket.url}/{number}") == expected
        names = {name.name for name in (as_place(stage.output) / "_units").iterdir()}
        assert names == {f"0000{index}.json" for index in range(4)}
    print(f"{num_faults} faults in {number} runs, {num_failures} of them failed and were repeated")
