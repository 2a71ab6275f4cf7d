import gzip

import pytest

from blt.corpus import EncodeConfig, build_plan, discover_inputs
from blt.corpus.files.detect import shard_family
from tests.blt.corpus.helpers import encode, make_dataset

TABLE = b"id,text\n%d,a\n"


def planned(folder, **options):
    payloads = build_plan(discover_inputs([folder]).files, EncodeConfig(**options))
    entries = [entry for payload in payloads for entry in payload["files"]]
    return {e["source"]: (e["format"], e.get("note", "").partition(": ")[2]) for e in entries}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("part-00000", "part-#"),
        ("part-00002.csv", "part-#"),
        ("part-00002.CSV.gz", "part-#"),
        ("part.csv.3", "part.#"),
        ("x.csv-00000-of-00002", "x-#-of-#"),
        ("x-00001-of-00002", "x-#-of-#"),
        ("x.csv.gz-00001-of-00002", "x-#-of-#"),
        ("000000_0", "#_#"),
        ("part-00000-6d3e-c000.csv", "part-#-6d3e-c000"),
        ("part-00001-6d3e-c000", "part-#-6d3e-c000"),
        ("README", None),
        ("v2.csv", None),
        ("-", None),
    ],
)
def test_shards_of_a_dataset_are_known_by_their_names(name, family):
    assert shard_family(name) == family


@pytest.mark.parametrize(
    ("name", "sibling"),
    [
        ("part-00000", "part-00002.csv"),
        ("part-00001", "part-00000.csv.gz"),
        ("x-00001-of-00002", "x.csv-00000-of-00002"),
        ("part-00001.gz", "part-00000.csv"),
        ("part-00000.dat", "part-00001.dat.csv"),
    ],
)
def test_a_shard_that_shows_nothing_is_read_as_its_siblings_are(tmp_path, name, sibling):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, shard in enumerate((name, sibling)):
        data = TABLE % number
        (folder / shard).write_bytes(gzip.compress(data) if ".gz" in shard else data)
    (folder / "notes").write_bytes(b"text")
    (folder / "part-1-notes").write_bytes(b"text")
    found = planned(folder)
    assert found[name] == ("csv", f"taken as csv, as {sibling} beside it is.")
    assert found["notes"][0] == found["part-1-notes"][0] == "text"
    result = encode(tmp_path / "out", folder)
    documents = {doc_id: raw for doc_id, raw, _, _ in result.documents}
    assert documents == {"0": b"a", "1": b"a", "notes": b"text", "part-1-notes": b"text"}


@pytest.mark.parametrize(
    "files",
    [
        {"part-1.csv": TABLE % 1, "part-2.tsv": b"id\ttext\n1\ta\n"},  # they do not agree
        {"part-1.csv": TABLE % 1, "part-2.txt": b"text"},
        {"part-1.jsonl": b'{"text": "a"}\n'},  # has lines that can be told
        {"part-1": TABLE % 1},  # shows as little
        {"other-1.csv": TABLE % 1},
        {"d/part-1.csv": TABLE % 1},  # in another folder
    ],
)
def test_without_siblings_that_agree_it_is_text(tmp_path, files):
    for name, data in {"part-0": TABLE % 0, **files}.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    assert planned(tmp_path / "in")["part-0"] == ("text", "")


def test_what_has_other_columns_is_text_and_noted(tmp_path):
    (tmp_path / "report-2023").write_bytes(b"It was a good year, a very good one, too.\n")
    (tmp_path / "report-2024.csv").write_bytes(TABLE % 1)
    format_name, note = planned(tmp_path)["report-2023"]
    assert (format_name, "has 3 fields in its first row" in note) == ("text", True)


def test_what_is_known_by_itself_is_not_changed(tmp_path):
    (tmp_path / "part-0.csv").write_bytes(TABLE % 1)
    (tmp_path / "part-1").write_bytes(b'{"id": 1, "msg": "x"}\n')  # looks like JSON, and is text
    (tmp_path / "part-2").write_bytes(b'{"text": "x"}\n')
    (tmp_path / "part-3").touch()
    (tmp_path / "part-4").write_bytes(TABLE % 1)
    found = {name: format_name for name, (format_name, _) in planned(tmp_path).items()}
    formats = {"part-0.csv": "csv", "part-1": "text", "part-2": "jsonl", "part-3": "empty"}
    assert found == {**formats, "part-4": "text"}  # since they do not agree
    said = planned(tmp_path, format_of=["part-4=text", "part-[12]=text"])
    assert said["part-4"] == ("text", "")


def test_a_shard_that_comes_later_is_told_by_what_was_planned_before(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "part-0.csv").write_bytes(TABLE % 0)
    make_dataset(tmp_path / "out", folder)
    (folder / "part-1").write_bytes(TABLE % 1)
    make_dataset(tmp_path / "out", folder)
    rows = (tmp_path / "out" / "_plan.json").read_text()
    assert '"format": "csv"' in rows
    assert '"format": "text"' not in rows
