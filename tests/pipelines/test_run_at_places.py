"""`blt run` with every place in a bucket gives what it gives here: the same bytes by name."""

import hashlib
import io
import re

import pyarrow.parquet as pq
import pytest
import yaml

from blt.cli import command
from blt.dataset import storage
from pipelines import run
from tests.blt.places import contents, copy_to

# What tells of the run that made it: tokens, and versions of files.
_OF_THE_RUN = re.compile(r"(^|/)(_plan\.json|_units/.*)$")
_SECONDS = re.compile(r'("(?:[\w ]*_)?(?:seconds|sec)": )[\d.]+')
_HEX = re.compile(r"\b[0-9a-f]{12,64}\b")
_TEXTS = (".json", ".yaml", ".html")


def call(*argv):
    return command.main(run, [str(arg) for arg in argv])


def write_config(place, corpus, **changes):
    """Writes a corpus and the config of a chain that hardly trains to a place."""
    copy_to(corpus, f"{place}/corpus")
    value = {
        "input": f"{place}/corpus",
        "output": f"{place}/run",
        "valid_fraction": 0.3,
        "encode": {"target_shard_bytes": "8KB", "keep_fields": "lang"},
        "train_entropy": {"steps": 2, "batch_size": 2, "seq_len": 64},
        "calibrate": {"target_patch_bytes": 3},
        "pack": {"seq_len": 64},
        "train": {"steps": 2, "batch_size": 2},
        "score": {"by": "lang,source"},
        **changes,
    }
    storage.replace(f"{place}/config.yaml", yaml.safe_dump(value).encode())
    return f"{place}/config.yaml"


def results(place):
    """Returns what a run made, by name; texts name no place, and files by their names.

    Manifests name the input, which lies elsewhere, and what follows names manifests by their
    sha256.
    """
    found = {k: v for k, v in contents(f"{place}/run").items() if not _OF_THE_RUN.search(k)}
    names = {hashlib.sha256(data).hexdigest(): name for name, data in found.items()}
    names |= {digest[:12]: f"{name}[:12]" for digest, name in names.items()}
    for name, data in found.items():
        if name.endswith(_TEXTS):
            text = data.decode().replace(str(place), "PLACE")
            text = _HEX.sub(lambda match: names.get(match[0], match[0]), text)
            found[name] = _SECONDS.sub(r"\1", text)
    sources = pq.read_table(io.BytesIO(found.pop("bytes/_sources.parquet")))
    # Those of files in stores are not taken.
    found["sources"] = sources.drop_columns(["sha256"]).to_pylist()
    return found


def without_seconds(words):
    return re.sub(r"[\d.]+ (s|ms|min)\b", "", words)


@pytest.fixture(scope="module")
def here(small_corpus, made_once):
    """A run whose every place is here: what it made."""

    def make(place):
        assert call(write_config(place, small_corpus)) == 0

    return results(made_once("chain", make))


@pytest.mark.parametrize("store", ["gcs", pytest.param("s3", marks=pytest.mark.slow)])
def test_the_whole_chain_in_a_store_is_the_chain_here(
    store, request, here, small_corpus, tmp_path, capsys, monkeypatch
):
    bucket = request.getfixturevalue(f"{store}_bucket")
    monkeypatch.setenv("BLT_CACHE", str(tmp_path / "cache"))
    config = write_config(bucket.url, small_corpus)
    assert call(config) == 0
    assert f"All of it lies in {bucket.url}/run:" in capsys.readouterr().out
    found = results(bucket.url)
    assert found.keys() == here.keys()
    assert [name for name in here if found[name] != here[name]] == []
    for name in ("threshold.yaml", "_run.json", "report.html", "scores-blt/_summary.json"):
        assert name in found
    before = {file.path: file.version for file in storage.list_below(f"{bucket.url}/run")}
    assert call(config) == 0
    assert capsys.readouterr().err.count("already done") == 8
    after = {file.path: file.version for file in storage.list_below(f"{bucket.url}/run")}
    assert after.keys() == before.keys()
    again = {f"{bucket.url}/run/{name}" for name in ("_run.json", "report.html")}
    assert {path for path in before if after[path] != before[path]} <= again
    assert results(bucket.url) == found
    storage.replace(config, storage.as_place(config).read_bytes() + b"seed: 5\n")
    assert call(config) == 2
    said = capsys.readouterr().err
    assert f"--output {bucket.url}/run: was made otherwise." in said
    assert "seed (0, now 5)" in said
