"""`blt convert` from a store and to one."""

import json

import pytest

from blt.dataset import storage
from blt.dataset.storage import as_place
from pipelines.cli import main
from tests.blt.conversion.checkpoints import random_hf_blt, save_folder
from tests.blt.places import contents, copy_to


def convert(*args):
    return main(["convert", *map(str, args)])


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BLT_CACHE", str(tmp_path / "cache"))


def test_there_and_back_is_what_it_is_here(bucket, tmp_path, capsys):
    save_folder(tmp_path / "hf", *random_hf_blt())
    root = f"{bucket.url}/models"
    copy_to(tmp_path / "hf", f"{root}/hf")
    written = []
    for place in (tmp_path, root):
        argv = ("--from", "hf", f"{place}/hf", "--to", "keras", f"{place}/m.keras", "--json")
        assert convert(*argv) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary.pop("output") == f"{place}/m.keras"
        argv = ("--from", "keras", f"{place}/m.keras", "--to", "hf", f"{place}/back")
        assert convert(*argv) == 0
        assert f"-> {place}/back" in capsys.readouterr().out
        written.append((summary, contents(f"{place}/back"), as_place(f"{place}/m.keras")))
    (expected, files, here), (found, found_files, there) = written
    assert found == expected
    assert found_files == files
    assert set(files) == {"config.json", "model.safetensors"}
    assert there.read_bytes() == here.read_bytes()


def test_what_would_be_read_with_the_new_weights_is_removed(gcs_bucket, tmp_path):
    save_folder(tmp_path / "hf", *random_hf_blt())
    root = as_place(gcs_bucket.url)
    assert convert("--from", "hf", tmp_path / "hf", "--to", "keras", root / "m.keras") == 0
    old = ("model-00001-of-00002.safetensors", "model.safetensors.index.json")
    for name in (*old, "notes.txt"):
        storage.replace(root / "back" / name, b"{}")
    argv = ("--from", "keras", root / "m.keras", "--to", "hf", root / "back")
    assert convert(*argv) == 2
    assert convert(*argv, "--overwrite") == 0
    assert set(contents(root / "back")) == {"config.json", "model.safetensors", "notes.txt"}


def test_mistakes_name_the_url(gcs_bucket, tmp_path, capsys):
    url = gcs_bucket.url

    def refusal(*argv):
        assert convert(*argv) == 2
        *progress, err = capsys.readouterr().err.splitlines()
        assert progress in ([], [f"convert: reading {argv[2]}"])
        return err

    target = ("--to", "keras", f"{url}/o.keras")
    assert f"{url}/hf: no such file or folder" in refusal("--from", "hf", f"{url}/hf", *target)
    assert "there is no bucket gs://gone" in refusal("--from", "hf", "gs://gone/hf", *target)
    to_gone = ("--from", "hf", tmp_path, "--to", "keras", "gs://gone/o.keras")
    assert "there is no bucket gs://gone" in refusal(*to_gone)
    storage.replace(f"{url}/hf/config.json", b"{}")
    assert f"{url}/hf: holds no weights" in refusal("--from", "hf", f"{url}/hf", *target)
    storage.replace(f"{url}/hf/model.safetensors", b"damaged")
    err = refusal("--from", "hf", f"{url}/hf", *target)
    assert f"{url}/hf/model.safetensors: damaged, or not a .safetensors file" in err
    assert not as_place(f"{url}/o.keras").exists()
