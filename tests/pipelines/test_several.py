"""Commands that read several datasets together, against the same corpus as one dataset."""

import collections
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.cli import command
from blt.commands import calibrate, decode, inspect, report
from blt.dataset import storage
from blt.dataset.manifest import read_manifest
from blt.dataset.storage import as_place, read_json
from blt.formats.boundaries import read_boundaries
from blt.formats.scores import read_scores
from blt.formats.training_shard import read_training_shard
from pipelines import encode, export, pack, patch, repatch, score, train_ngram
from tests.shared import dataset_files

PACKED = ("--seq-len", 128, "--max-patches", 60, "--target-shard-bytes", "6KB")


def run(module, *argv):
    return command.main(module, [str(arg) for arg in argv])


def done(module, *argv):
    assert run(module, *argv) == 0


@pytest.fixture(scope="module")
def root(small_corpus, small_bytes, tmp_path_factory):
    """The corpus as one dataset, `whole`, and as two, `a` and `b`; and what is made of them.

    The names of the shards of `b` are those of `a`, too.
    """
    root = tmp_path_factory.mktemp("several")
    shutil.copytree(small_bytes, root / "whole")
    for name, files in (("a", ("0.jsonl",)), ("b", ("1.jsonl", "2.jsonl"))):
        (root / "corpus" / name).mkdir(parents=True)
        for file in files:
            shutil.copy(small_corpus / file, root / "corpus" / name)
        flags = ("--keep-fields", "lang", "--target-shard-bytes", "5KB")
        done(encode, "--input", root / "corpus" / name, "--output", root / name, *flags)
    done(train_ngram, "--data", root / "whole", "--output", root / "whole.ngram")
    done(train_ngram, "--data", root / "a", root / "b", "--output", root / "ab.ngram")
    cut = ("--entropy-model", root / "whole.ngram", "--threshold-nats", 2.0)
    cut += ("--keep-entropies", "f16")
    for name, data in (("whole", ["whole"]), ("a", ["a"]), ("b", ["b"]), ("ab", ["a", "b"])):
        places = [root / one for one in data]
        done(patch, "--data", *places, "--output", root / f"patches-{name}", *cut)
    return root


def shard_names(folder):
    return [shard.name for shard in read_manifest(folder).shards]


def boundaries_by_document(folder):
    """(doc_id, part) -> patch lengths and entropies."""
    found = {}
    for name in shard_names(folder):
        for row in read_boundaries(folder / name):
            assert (row.doc_id, row.part) not in found
            found[row.doc_id, row.part] = row.patch_lengths.tolist(), row.entropies.tolist()
    return found


def documents(folder):
    """doc_id -> its split, its tokens and its patch lengths, from training shards."""
    tokens, lengths, splits = (collections.defaultdict(list) for _ in range(3))
    for name in shard_names(folder):
        for sequence in read_training_shard(folder / name):
            starts = np.cumsum(sequence.patch_lengths) - sequence.patch_lengths
            for segment, doc_id in enumerate(sequence.doc_ids, 1):
                is_here = sequence.segment_ids == segment
                tokens[doc_id] += sequence.tokens[is_here].tolist()
                lengths[doc_id] += sequence.patch_lengths[is_here[starts]].tolist()
                splits[doc_id].append(name.split("-")[0])
    return {i: (set(splits[i]), tokens[i], lengths[i]) for i in tokens}


def made_from(folder):
    return read_manifest(folder).parents


def joined(root, *names):
    return "+".join(read_manifest(root / name).sha256 for name in names)


def test_boundaries_are_those_of_each_and_of_the_whole(root):
    found = boundaries_by_document(root / "patches-ab")
    assert found == boundaries_by_document(root / "patches-whole")
    assert len(found) == 60
    whole, both = (read_manifest(root / f"patches-{name}") for name in ("whole", "ab"))
    assert both.totals == whole.totals
    assert both.config == whole.config and both.fingerprints == whole.fingerprints
    assert both.parents == {"byte_shards": joined(root, "a", "b")}
    apart = [root / "patches-a" / name for name in shard_names(root / "patches-a")]
    apart += [root / "patches-b" / name for name in shard_names(root / "patches-b")]
    together = [root / "patches-ab" / name for name in shard_names(root / "patches-ab")]
    assert [p.read_bytes() for p in together] == [p.read_bytes() for p in apart]
    # Both have a shard 0, and that of the second goes by another number.
    assert apart[0].name == shard_names(root / "patches-b")[0]
    assert len({path.name for path in together}) == len(together)


def test_training_shards_hold_the_same_documents_as_those_of_the_whole(root, tmp_path):
    whole = ("--data", root / "whole", "--patches", root / "patches-whole")
    done(pack, *whole, "--output", tmp_path / "whole", *PACKED)
    both = ("--data", root / "a", root / "b", "--patches", root / "patches-ab")
    done(pack, *both, "--output", tmp_path / "ab", *PACKED)
    assert documents(tmp_path / "ab") == documents(tmp_path / "whole")
    one, two = (read_manifest(tmp_path / name) for name in ("whole", "ab"))
    assert one.config == two.config
    for name in ("documents", "bytes", "tokens", "patches", "held_out_documents"):
        assert one.totals[name] == two.totals[name]
    expected = {"byte_shards": joined(root, "a", "b"), "boundaries": joined(root, "patches-ab")}
    assert two.parents == expected


def test_boundaries_that_were_made_apart_give_the_same_training_shards(root, tmp_path, capsys):
    both = ("--data", root / "a", root / "b")
    done(pack, *both, "--patches", root / "patches-ab", "--output", tmp_path / "one", *PACKED)
    capsys.readouterr()
    apart = ("--patches", root / "patches-a", "--patches", root / "patches-b")
    done(pack, *both, *apart, "--output", tmp_path / "two", *PACKED, "--json")
    names = shard_names(tmp_path / "one")
    assert names == shard_names(tmp_path / "two")
    one, two = dataset_files(tmp_path / "one"), dataset_files(tmp_path / "two")
    assert [one[name] for name in names] == [two[name] for name in names]
    assert made_from(tmp_path / "two") == {
        "byte_shards": joined(root, "a", "b"),
        "boundaries": joined(root, "patches-a", "patches-b"),
    }
    said = json.loads(capsys.readouterr().out)
    assert said["data"] == [str(root / "a"), str(root / "b")]
    assert said["patches"] == [str(root / "patches-a"), str(root / "patches-b")]


@pytest.mark.parametrize(
    ("data", "patches", "words"),
    [
        ("ab", "ba", "but in another order"),
        ("ba", "ab", "but in another order"),
        ("ab", "a", "no boundaries of --data"),
        ("a", "ab", "made from more byte shards than --data"),
        ("aa", "ab", "are the same dataset; give it once"),
        ("ab", "aa", "are the same dataset; give it once"),
    ],
)
def test_boundaries_of_others_are_refused_by_all(root, tmp_path, capsys, data, patches, words):
    places = ["--data", *(root / name for name in data)]
    places += ["--patches", *(root / f"patches-{name}" for name in patches)]
    more = {
        pack: (),
        export: ("--to", "meta-arrow"),
        score: ("--model", root / "whole.ngram"),
        repatch: ("--rule", "space"),
    }
    for module, flags in more.items():
        assert run(module, *places, *flags, "--output", tmp_path / "out") == 2
        message = capsys.readouterr().err.splitlines()
        assert words in message[-1], module.NAME
    assert not (tmp_path / "out").exists()


def test_boundaries_of_different_rules_are_refused(root, tmp_path, capsys):
    done(patch, "--data", root / "b", "--rule", "space", "--output", tmp_path / "space")
    places = ("--data", root / "a", root / "b", "--patches", root / "patches-a", tmp_path / "space")
    capsys.readouterr()
    assert run(pack, *places, "--output", tmp_path / "train") == 2
    message = capsys.readouterr().err
    assert f"{root / 'patches-a'} and {tmp_path / 'space'}: patch boundaries" in message
    assert "rule is 'entropy' there and 'space' here" in message and message.count("\n") == 1


@pytest.mark.parametrize("flags", [("--rule", "space"), ("--threshold-nats", 2.5)])
def test_repatch_gives_what_patch_gives(root, tmp_path, flags):
    both = ("--data", root / "a", root / "b")
    cut = () if flags[0] == "--rule" else ("--drop-entropies",)
    model = ("--entropy-model", root / "whole.ngram", "--keep-entropies", "f16")
    done(patch, *both, *model, *flags, "--output", tmp_path / "patch")
    for number, places in enumerate((("patches-ab",), ("patches-a", "patches-b"))):
        output = tmp_path / f"repatch-{number}"
        places = ("--patches", *(root / name for name in places))
        done(repatch, *places, *both, *flags, "--output", output)
        assert boundaries_by_document(output) == boundaries_by_document(tmp_path / "patch")
        assert shard_names(output) == shard_names(tmp_path / "patch")
        assert made_from(output)["byte_shards"] == joined(root, "a", "b")
    if cut:
        done(repatch, *places, *flags, *cut, "--output", tmp_path / "dropped")
        done(pack, *both, "--patches", tmp_path / "dropped", "--output", tmp_path / "t", *PACKED)
        assert made_from(tmp_path / "t")["boundaries"] == joined(tmp_path, "dropped")


def score_rows(folder):
    rows = []
    for name in shard_names(folder):
        rows += read_scores(folder / name).to_pylist()
    return rows


def test_scores_of_both_are_those_of_each(root, tmp_path):
    model = ("--model", root / "whole.ngram", "--split", "all", "--by", "lang")
    for name, data in (("a", "a"), ("b", "b"), ("ab", "ab")):
        places = [root / one for one in data]
        patches = [root / f"patches-{one}" for one in data]
        flags = ("--data", *places, "--patches", *patches, *model)
        done(score, *flags, "--output", tmp_path / name)
    found = score_rows(tmp_path / "ab")
    assert found == score_rows(tmp_path / "a") + score_rows(tmp_path / "b")
    assert len(found) == 60
    one, two, both = (read_json(tmp_path / name / "_summary.json") for name in ("a", "b", "ab"))
    assert both["nats"] == pytest.approx(one["nats"] + two["nats"], rel=1e-12)
    assert both["bytes"] == one["bytes"] + two["bytes"]
    assert sorted(both["by"]["lang"]["values"]) == ["de", "en"]


def test_a_field_that_one_dataset_lacks_groups_the_others(root, tmp_path, capsys):
    done(encode, "--input", root / "corpus" / "b", "--output", tmp_path / "plain")
    flags = ("--model", root / "whole.ngram", "--by", "lang", "--split", "all")
    capsys.readouterr()
    done(score, "--data", root / "a", tmp_path / "plain", *flags, "--output", tmp_path / "scores")
    assert "warning" not in capsys.readouterr().err
    groups = read_json(tmp_path / "scores" / "_summary.json")["by"]["lang"]
    assert groups["with_field"] == 20
    assert sum(group["documents"] for group in groups["values"].values()) == 60


def test_a_model_of_both_knows_what_of_each_it_was_trained_on(root, tmp_path, capsys):
    model = ("--model", root / "ab.ngram")

    def scored(name, *data):
        capsys.readouterr()
        done(score, "--data", *data, *model, "--output", tmp_path / name)
        summary = read_json(tmp_path / name / "_summary.json")
        return summary, capsys.readouterr().err

    both, said = scored("ab", root / "a", root / "b")
    assert both["split"] == "valid" and both["trained_on"] == {"documents": 0, "bytes": 0}
    assert "trained on these byte shards" in said
    one, said = scored("a", root / "a")
    assert one["split"] == "valid" and 0 < one["documents"] < both["documents"]
    other, said = scored("whole", root / "whole")
    assert other["split"] == "all" and other["trained_on"] is None and "trained on" not in said
    mixed, said = scored("mixed", root / "whole", root / "b")
    assert mixed["split"] == "valid" and f"trained on {root / 'b'}, so" in said
    flags = ("--split", "all", "--output", tmp_path / "all")
    done(score, "--data", root / "whole", root / "b", *model, *flags)
    trained_on = read_json(tmp_path / "all" / "_summary.json")["trained_on"]
    held_out = both["documents"] - one["documents"]
    assert trained_on["documents"] == 40 - held_out  # of b; whole is another dataset


def test_the_ngram_model_of_both_is_that_of_the_whole(root):
    whole, both = (read_json(root / f"{name}.ngram.json") for name in ("whole", "ab"))
    same = ("fingerprint", "documents", "bytes", "held_out_bits_per_byte")
    assert [whole["summary"][n] for n in same] == pytest.approx([both["summary"][n] for n in same])
    assert both["identity"]["parents"] == {"byte_shards": joined(root, "a", "b")}


def test_the_threshold_of_both_is_that_of_the_whole(root, tmp_path):
    flags = ("--entropy-model", root / "whole.ngram", "--target-patch-bytes", 3, "--by", "lang")
    done(calibrate, "--data", root / "whole", *flags, "--output", tmp_path / "whole.yaml")
    done(calibrate, "--data", root / "a", root / "b", *flags, "--output", tmp_path / "ab.yaml")
    texts = [(tmp_path / name).read_text() for name in ("whole.yaml", "ab.yaml")]
    assert texts[0] == texts[1] and "threshold_nats" in texts[0]


def test_exported_files_are_those_of_each_under_numbers_of_their_own(root, tmp_path):
    flags = ("--to", "meta-arrow", "--data", root / "a", root / "b", "--patches")
    done(export, *flags, root / "patches-ab", "--output", tmp_path / "ab")
    done(export, *flags, root / "patches-a", root / "patches-b", "--output", tmp_path / "apart")
    rows = {}
    for name in ("a", "b"):
        flags = ("--to", "meta-arrow", "--data", root / name, "--patches", root / f"patches-{name}")
        done(export, *flags, "--output", tmp_path / name)
        for file in shard_names(tmp_path / name):
            with pa.ipc.open_file(tmp_path / name / file) as reader:
                rows.update({row["sample_id"]: row for row in reader.read_all().to_pylist()})
    for output in ("ab", "apart"):
        names = shard_names(tmp_path / output)
        assert len(set(names)) == len(shard_names(root / "a")) + len(shard_names(root / "b"))
        found = {}
        for file in names:
            assert (tmp_path / output / f"{file}.complete").exists()
            with pa.ipc.open_file(tmp_path / output / file) as reader:
                found.update({row["sample_id"]: row for row in reader.read_all().to_pylist()})
        assert found == rows and len(rows) == 60


def test_a_rejected_document_is_named_by_the_number_that_its_shard_goes_by(root, tmp_path):
    (tmp_path / "bad").write_bytes(b"\xff\xfe no text")
    done(encode, "--input", tmp_path / "bad", "--format", "text", "--output", tmp_path / "bytes")
    cut = ("--entropy-model", root / "whole.ngram", "--threshold-nats", 2.0)
    data = ("--data", root / "a", tmp_path / "bytes")
    done(patch, *data, *cut, "--keep-entropies", "f16", "--output", tmp_path / "patches")
    flags = ("--to", "meta-arrow", "--max-lost-fraction", 1, "--output", tmp_path / "arrow")
    done(export, *data, "--patches", tmp_path / "patches", *flags)
    (row,) = pq.read_table(tmp_path / "arrow" / "_rejects.parquet").to_pylist()
    shard = shard_names(tmp_path / "patches")[-1]
    assert row["source"].startswith(f"bytes-{shard[8:17]}")
    assert row["source"].split(".")[0] != shard_names(tmp_path / "bytes")[0].split(".")[0]


def test_decode_gives_both_back_and_keeps_files_of_one_name_apart(root, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    line = json.dumps({"id": "more", "text": "more"}) + "\n"
    (tmp_path / "more" / "0.jsonl").write_text(line)
    done(encode, "--input", tmp_path / "more", "--output", tmp_path / "c")
    data = ("--data", root / "a", root / "b", tmp_path / "c")
    capsys.readouterr()
    done(decode, *data, "--output", tmp_path / "out", "--json")
    said = json.loads(capsys.readouterr().out)
    assert (said["documents"], said["files"]) == (61, 4)
    assert said["data"] == [str(root / "a"), str(root / "b"), str(tmp_path / "c")]
    found = {}
    for path in (tmp_path / "out").rglob("*.jsonl*"):
        for row in map(json.loads, path.read_text().splitlines()):
            found[row["id"]] = row["text"]
    expected = {"more": "more"}
    for name in ("a", "b"):
        for path in (root / "corpus" / name).iterdir():
            for row in map(json.loads, path.read_text().splitlines()):
                expected[row["id"]] = row["text"]
    assert found == expected


def test_an_output_that_is_one_of_several_inputs_is_refused(root, tmp_path, capsys):
    flags = ("--rule", "space", "--overwrite")
    assert run(patch, "--data", root / "a", root / "b", *flags, "--output", root / "b") == 2
    assert "is what --data names, to be read" in capsys.readouterr().err


def test_a_run_of_several_is_done_once_and_resumed(root, tmp_path, capsys):
    argv = ("--data", root / "a", root / "b", "--rule", "byte", "--output", tmp_path / "p")
    done(patch, *argv)
    (tmp_path / "p" / shard_names(tmp_path / "p")[-1]).unlink()
    capsys.readouterr()
    done(patch, *argv)
    assert "units are finished; going on" in capsys.readouterr().err
    done(patch, *argv)
    assert "already done" in capsys.readouterr().out
    swapped = ("--data", root / "b", root / "a", *argv[3:])
    assert run(patch, *swapped) == 2
    assert "the byte shards read (another manifest)" in capsys.readouterr().err


def copy_to(folder, place):
    """Copies a dataset to a store."""
    for path in folder.rglob("*"):
        if path.is_file():
            storage.create(as_place(place) / str(path.relative_to(folder)), path.read_bytes())
    return place


def test_one_may_lie_here_and_another_in_a_bucket(root, bucket, tmp_path):
    there = copy_to(root / "b", f"{bucket.url}/b")
    data = ("--data", root / "a", there)
    done(patch, *data, "--rule", "space", "--output", f"{bucket.url}/patches")
    done(patch, "--data", root / "a", root / "b", "--rule", "space", "--output", tmp_path / "p")
    for name in shard_names(tmp_path / "p"):
        place = as_place(f"{bucket.url}/patches") / name
        assert place.read_bytes() == (tmp_path / "p" / name).read_bytes()
    done(patch, "--data", root / "a", "--rule", "space", "--output", tmp_path / "pa")
    done(patch, "--data", there, "--rule", "space", "--output", f"{bucket.url}/pb")
    patches = ("--patches", tmp_path / "pa", f"{bucket.url}/pb")
    done(pack, *data, *patches, "--output", tmp_path / "train", *PACKED)
    here = ("--data", root / "a", root / "b", "--patches", tmp_path / "p")
    done(pack, *here, "--output", tmp_path / "here", *PACKED)
    found, expected = (
        [(tmp_path / output / name).read_bytes() for name in shard_names(tmp_path / output)]
        for output in ("train", "here")
    )
    assert found == expected
    model = ("--model", root / "whole.ngram", "--split", "all")
    done(score, *data, *model, "--output", tmp_path / "scores")
    assert len(score_rows(tmp_path / "scores")) == 60
    done(train_ngram, *data, "--output", tmp_path / "m.ngram")
    assert (tmp_path / "m.ngram").read_bytes() == (root / "ab.ngram").read_bytes()
    flags = ("--entropy-model", root / "ab.ngram", "--target-patch-bytes", 3)
    done(calibrate, *data, *flags, "--output", tmp_path / "t.yaml")
    done(calibrate, "--data", root / "a", root / "b", *flags, "--output", tmp_path / "here.yaml")
    assert (tmp_path / "t.yaml").read_bytes() == (tmp_path / "here.yaml").read_bytes()
    done(decode, *data, "--output", tmp_path / "back")
    done(decode, "--data", root / "a", root / "b", "--output", tmp_path / "back-here")
    assert dataset_files(tmp_path / "back") == dataset_files(tmp_path / "back-here")


def test_a_report_shows_what_was_used_together_as_one_corpus(root, tmp_path):
    """Was: three corpora, and the texts of the scored documents "not found"."""
    scores = tmp_path / "scores"
    data = [root / "a", root / "b"]
    done(score, "--data", *data, "--model", root / "ab.ngram", "--split", "all", "--output", scores)
    boundaries = [root / "patches-a", root / "patches-b"]
    page = tmp_path / "report.html"
    done(report, *data, *boundaries, scores, "--output", page)
    page = page.read_text()
    assert "corpora, each by itself" not in page
    assert "<b>60</b><span>documents</span>" in page
    assert "Their texts are not shown" not in page
    assert page.count('<div class="document" dir=') == 10  # five best and five worst
    for one in data:
        assert f"{one.name} {read_manifest(one).sha256[:12]}" in page


def test_boundaries_of_several_are_inspected_with_their_documents(root, capsys):
    assert run(inspect, root / "patches-ab", "--documents", 1) == 0
    found = capsys.readouterr().out
    for one in ("a", "b"):
        assert f"manifest {read_manifest(root / one).sha256[:12]}… ({one}, beside it)" in found
    assert "The first documents, patches between |:" in found


def test_inspect_takes_the_byte_shards_of_several_from_elsewhere(root, tmp_path, capsys):
    shutil.copytree(root / "patches-ab", tmp_path / "alone" / "patches")
    alone = tmp_path / "alone" / "patches"
    assert run(inspect, alone) == 0
    assert "Give their folder with --data" in capsys.readouterr().out
    assert run(inspect, alone, "--data", root / "a", root / "b") == 0
    assert "The first documents, patches between |:" in capsys.readouterr().out
    assert run(inspect, alone, "--data", root / "b", root / "a") == 2
    assert "in another order" in capsys.readouterr().err
    shard = alone / shard_names(alone)[-1]
    assert run(inspect, shard, "--data", root / "a", root / "b") == 0
    assert "The first documents, patches between |:" in capsys.readouterr().out
