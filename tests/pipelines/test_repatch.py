"""`blt repatch` on what `blt patch` made, and what takes its boundaries after it."""

import json
import shutil
import subprocess
import sys

import pytest

from blt.cli import command
from blt.commands import inspect as inspect_command
from blt.dataset.manifest import read_manifest
from blt.formats.boundaries import read_boundaries
from pipelines import pack, patch, repatch, score
from tests.shared import dataset_files

RULE = ["--rule", "monotonic", "--threshold-nats", "0.05"]


def run(module, *argv):
    return command.main(module, [str(arg) for arg in argv])


@pytest.fixture(scope="module")
def make_patches(small_bytes, small_entropy_model, tmp_path_factory):
    def make(*options):
        output = tmp_path_factory.mktemp("patches") / "patches"
        argv = ["--data", small_bytes, "--entropy-model", small_entropy_model, *options]
        assert run(patch, *argv, "--output", output) == 0
        return output

    return make


@pytest.fixture(scope="module")
def kept(make_patches):
    return make_patches("--threshold-nats", "1.5", "--keep-entropies", "f16")


@pytest.fixture(scope="module")
def not_kept(make_patches):
    return make_patches("--threshold-nats", "1.5")


@pytest.fixture(scope="module")
def repatched(kept, small_bytes, tmp_path_factory):
    output = tmp_path_factory.mktemp("repatched") / "patches"
    assert run(repatch, "--patches", kept, "--data", small_bytes, *RULE, "--output", output) == 0
    return output


def test_shards_are_those_of_patch(make_patches, kept, repatched):
    expected = make_patches(*RULE, "--keep-entropies", "f16")
    found = read_manifest(repatched, "boundaries")
    assert found.shards == read_manifest(expected).shards
    assert found.totals == read_manifest(expected).totals
    assert found.config == read_manifest(expected).config
    assert found.fingerprints == read_manifest(expected).fingerprints
    assert found.totals["patches"] != read_manifest(kept).totals["patches"]


def test_the_lineage_names_both_parents(kept, repatched, small_bytes):
    assert read_manifest(repatched).parents == {
        "byte_shards": read_manifest(small_bytes).sha256,
        "boundaries": read_manifest(kept).sha256,
    }


def test_worker_processes_and_a_second_run_give_the_same(kept, repatched, small_bytes, tmp_path):
    argv = ["--patches", kept, "--data", small_bytes, *RULE, "--output", tmp_path / "patches"]
    assert run(repatch, *argv, "--direct_num_workers", "2") == 0
    assert dataset_files(tmp_path / "patches") == dataset_files(repatched)
    assert run(repatch, *argv) == 0
    assert dataset_files(tmp_path / "patches") == dataset_files(repatched)


def test_what_comes_after_takes_them(repatched, small_bytes, small_entropy_model, tmp_path, capsys):
    assert run(pack, "--data", small_bytes, "--patches", repatched, "--output", tmp_path / "t") == 0
    packed = read_manifest(tmp_path / "t")
    assert packed.fingerprints == read_manifest(repatched).fingerprints
    assert packed.config["patch_rule"]["rule"] == "monotonic"
    argv = ["--data", small_bytes, "--patches", repatched, "--model", small_entropy_model]
    assert run(score, *argv, "--output", tmp_path / "scores") == 0
    assert run(inspect_command, repatched, "--data", small_bytes) == 0
    assert "boundaries inside characters" in capsys.readouterr().out


def test_a_rule_without_entropies_needs_none(not_kept, tmp_path, capsys):
    argv = ["--patches", not_kept, "--rule", "static", "--patch-size", "4", "--json"]
    assert run(repatch, *argv, "--output", tmp_path / "patches") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["stage"] == "repatch"
    assert "boundaries_inside_characters" not in summary  # without --data it is not known


def test_snapped_patches_begin_at_characters(
    kept, small_bytes, small_entropy_model, tmp_path, capsys
):
    argv = ["--patches", kept, "--data", small_bytes, "--threshold-nats", "1.5"]
    assert run(repatch, *argv, "--output", tmp_path / "plain") == 0
    inside = read_manifest(tmp_path / "plain").totals["boundaries_inside_characters"]
    assert inside > 0
    out = capsys.readouterr().out
    assert f"  of these, {inside:,} begin inside a UTF-8 character (" in out
    assert "such characters are split between patches; --snap-utf8 moves" in out
    assert run(inspect_command, tmp_path / "plain", "--data", small_bytes) == 0
    assert f"of the patches, {inside:,} begin inside a UTF-8" in capsys.readouterr().out
    assert run(repatch, *argv, "--snap-utf8", "--output", tmp_path / "snapped") == 0
    snapped = read_manifest(tmp_path / "snapped")
    assert snapped.totals["boundaries_inside_characters"] == 0
    assert "  of these, 0 begin inside a UTF-8 character\n" in capsys.readouterr().out
    assert snapped.config["snap_utf8"] is True
    argv = ["--data", small_bytes, "--patches", tmp_path / "snapped"]
    argv += ["--model", small_entropy_model, "--output", tmp_path / "scores"]
    assert run(score, *argv) == 0
    assert "tells of bytes that are not read yet" in capsys.readouterr().err


def test_no_model_library_is_imported(kept, tmp_path):
    code = (
        "import sys; from blt.cli import command; from pipelines import repatch; "
        "status = command.main(repatch, sys.argv[1:]); "
        "assert not {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules); sys.exit(status)"
    )
    argv = ["--patches", kept, *RULE, "--output", tmp_path / "patches"]
    subprocess.run([sys.executable, "-c", code, *map(str, argv)], check=True)


def test_a_damaged_shard_is_named_and_the_others_are_finished(kept, tmp_path, capsys):
    damaged = shutil.copytree(kept, tmp_path / "kept")
    names = [shard.name for shard in read_manifest(kept).shards]
    with open(damaged / names[0], "r+b") as file:
        file.seek(200)
        file.write(b"damage")
    argv = ["--patches", damaged, *RULE, "--output", tmp_path / "patches"]
    assert run(repatch, *argv) == 1
    assert names[0] in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "patches").glob("*.parquet")} == set(names[1:])
    assert not (tmp_path / "patches" / "_manifest.json").exists()
    shutil.copy(kept / names[0], damaged)
    assert run(repatch, *argv) == 0
    assert len(read_manifest(tmp_path / "patches").shards) == len(names)
    assert run(repatch, *argv[:2], "--threshold-nats", 1, *argv[-2:]) == 2  # another threshold


def test_first_positions_as_the_reference_has_them(make_patches, kept, tmp_path):
    argv = ["--rule", "combined", "--threshold-nats", "0.4", "--threshold-add-nats", "0.1"]
    argv += ["--compat", "meta"]
    expected = read_manifest(make_patches(*argv, "--keep-entropies", "f16"))
    assert run(repatch, "--patches", kept, *argv, "--output", tmp_path / "patches") == 0
    found = read_manifest(tmp_path / "patches")
    assert found.config == expected.config
    assert found.config["compat"] == "meta"
    for shard, other in zip(found.shards, expected.shards, strict=True):
        rows = read_boundaries(tmp_path / "patches" / shard.name)
        for row, same in zip(rows, read_boundaries(expected.shard_path(other)), strict=True):
            assert row.patch_lengths.tolist() == same.patch_lengths.tolist()
            starts = row.patch_lengths.cumsum().tolist()
            assert row.num_tokens < 4 or (starts[:2] == [1, 2] and 3 not in starts)


def test_dropped_entropies_are_gone(kept, tmp_path, capsys):
    argv = ["--patches", kept, *RULE, "--drop-entropies", "--output", tmp_path / "patches"]
    assert run(repatch, *argv) == 0
    sizes = [sum(len(f) for f in dataset_files(p).values()) for p in (kept, tmp_path / "patches")]
    assert sizes[1] < 0.6 * sizes[0]
    argv = ["--patches", tmp_path / "patches", *RULE, "--output", tmp_path / "again"]
    assert run(repatch, *argv) == 2
    assert "no entropies were kept with these" in capsys.readouterr().err


MISTAKES = {
    "no entropies": ("--patches {not_kept} --threshold-nats 1", "--keep-entropies f16"),
    "no bytes": ("--patches {kept} --rule space", "--data: missing; rule 'space'"),
    "not the parent": (
        "--patches {kept} --rule space --data {other}",
        "not the byte shards that",
    ),
    "another kind": ("--patches {bytes} --rule byte", "holds byte shards, but patch boundaries"),
    "another model's calibration": (
        "--patches {kept} --calibration {yaml}",
        "Calibrate again with the model",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(mistake, kept, not_kept, small_bytes, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    manifest = json.loads((small_bytes / "_manifest.json").read_text())
    (other / "_manifest.json").write_text(json.dumps({**manifest, "blt_version": "0"}))
    (tmp_path / "t.yaml").write_text("entropy_model: abc\ntargets: [{target_patch_bytes: 4}]\n")
    text, message = MISTAKES[mistake]
    places = {"kept": kept, "not_kept": not_kept, "bytes": small_bytes, "other": other}
    argv = text.format(**places, yaml=tmp_path / "t.yaml").split()
    assert run(repatch, *argv, "--output", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert message in err
    assert not (tmp_path / "out").exists()
