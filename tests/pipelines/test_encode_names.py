"""Names that the user gives: of fields that lie in folders' names, that are ours, or that are
nowhere."""

import json

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from blt.cli import command
from blt.corpus import decode_dataset
from blt.dataset.manifest import read_manifest
from blt.formats.byte_shard import read_documents
from pipelines import encode
from tests.blt.corpus.readers.test_tar import tar_bytes


@pytest.fixture
def hive(tmp_path):
    """Two tables in folders of partitions."""
    for lang in ("en", "de%20x", "__HIVE_DEFAULT_PARTITION__"):
        folder = tmp_path / "hive" / f"lang={lang}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"id": [f"{lang}1"], "text": ["t"]}), folder / "part-0.parquet")
    return tmp_path / "hive"


def run(output, *argv):
    return command.main(encode, ["--output", str(output), *map(str, argv)])


def metas(output):
    manifest = read_manifest(output, "byte_shards")
    paths = [manifest.shard_path(shard) for shard in manifest.shards]
    documents = [parts[0] for path in paths for parts in read_documents(path)]
    return [json.loads(record.meta) if record.meta else None for record in documents]


def test_keys_of_folders_are_fields(hive, tmp_path):
    assert run(tmp_path / "out", "--input", hive, "--keep-fields", "lang") == 0
    assert metas(tmp_path / "out") == [{"lang": None}, {"lang": "de x"}, {"lang": "en"}]
    named = hive / "lang=en" / "part-0.parquet"
    assert run(tmp_path / "one", "--input", named, "--keep-fields", "lang", "--strict") == 0
    assert metas(tmp_path / "one") == [{"lang": "en"}]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "arrow", "txt", "md"])
def test_keys_of_folders_are_fields_in_every_format(suffix, tmp_path):
    folder = tmp_path / "in" / "year=2020" / "lang=en"
    folder.mkdir(parents=True)
    path = folder / f"x.{suffix}"
    if suffix == "arrow":
        feather.write_feather(pa.table({"text": ["a"]}), path)
    else:
        contents = {"jsonl": '{"text": "a"}\n', "txt": "a\n\n \nb", "md": "a"}
        path.write_text(contents.get(suffix, "text\na\n"))
    fields = ("--keep-fields", "lang,year", "--strict")
    for doc_per in ("file", "line", "paragraph"):
        output = tmp_path / doc_per
        argv = ("--input", tmp_path / "in", *fields, "--doc-per", doc_per)
        assert run(output, *argv) == 0
        found = metas(output)
        assert all(meta["lang"] == "en" and meta["year"] == "2020" for meta in found)
        back = tmp_path / f"{doc_per}-back"
        decode_dataset(output, back)
        if suffix in ("txt", "md"):
            assert (back / "year=2020/lang=en" / path.name).read_bytes() == path.read_bytes()


def test_the_files_own_field_comes_before_a_folders(tmp_path):
    (tmp_path / "lang=en").mkdir()
    (tmp_path / "lang=en" / "x.jsonl").write_text('{"text": "a", "lang": "fr"}\n{"text": "b"}\n')
    argv = ("--input", tmp_path / "lang=en", "--keep-fields", "lang")
    assert run(tmp_path / "out", *argv) == 0
    assert metas(tmp_path / "out") == [{"lang": "fr"}, {"lang": "en"}]


def test_a_name_that_is_empty_is_refused(hive, tmp_path, capsys):
    """Was: passed over."""
    assert run(tmp_path / "out", "--input", hive, "--keep-fields", 'lang,""') == 2
    assert 'a name is empty in lang,""' in capsys.readouterr().err


def test_a_name_that_no_table_has_is_said_before_the_work(hive, tmp_path, capsys):
    argv = ("--input", hive, "--keep-fields", "lang,langg", "--id-field", "docid")
    assert run(tmp_path / "out", *argv) == 0
    shown = capsys.readouterr()
    for text in (shown.err, shown.out):
        assert "warning: --keep-fields langg: no " in text
        assert "Did you mean 'lang'?" in text
        assert "warning: --id-field docid: no " in text
    assert run(tmp_path / "strict", *argv, "--strict") == 2
    refused = capsys.readouterr().err
    assert "--id-field docid" in refused and "--keep-fields langg" in refused
    assert not (tmp_path / "strict").exists()


def test_a_name_that_no_object_has_is_said_at_the_end(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text('{"text": "a", "lang": "en"}\n' * 3)
    argv = ("--input", tmp_path / "x.jsonl", "--keep-fields", "lang,lnag")
    assert run(tmp_path / "out", *argv) == 0
    assert "--keep-fields lnag: no document has such a field. Did you mean 'lang'?" in (
        capsys.readouterr().out
    )
    totals = read_manifest(tmp_path / "out", "byte_shards").totals
    assert (totals["with_field.lang"], totals["with_field.lnag"]) == (3, 0)
    assert run(tmp_path / "out", *argv, "--strict") == 1  # it is done already
    assert run(tmp_path / "strict", *argv, "--strict") == 1
    assert "--keep-fields lnag" in capsys.readouterr().err
    assert not (tmp_path / "strict" / "_manifest.json").exists()
    assert run(tmp_path / "strict", *argv) == 0


def test_a_field_that_some_documents_lack_is_counted(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text('{"text": "a", "lang": "en"}\n{"text": "b"}\n')
    argv = ("--input", tmp_path / "x.jsonl", "--keep-fields", "lang")
    assert run(tmp_path / "out", *argv, "--strict") == 0
    assert "field lang: in 1 of 2 documents" in capsys.readouterr().out


def test_the_default_id_field_need_not_be_there(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    assert run(tmp_path / "out", "--input", tmp_path / "x.jsonl", "--strict") == 0
    assert "warning" not in capsys.readouterr().out


def test_a_pattern_that_is_like_no_file_is_said(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.txt", "b.jsonl"):
        (folder / name).write_text('{"text": "a"}\n')
    argv = ("--input", folder, "--include", "*.txt", "*.jsnol")
    assert run(tmp_path / "out", *argv) == 0
    assert "--include *.jsnol: is like no file" in (err := capsys.readouterr().err)
    assert "Did you mean '*.jsonl'?" in err
    assert run(tmp_path / "strict", *argv, "--strict") == 2
    assert "--include *.jsnol" in capsys.readouterr().err
    assert run(tmp_path / "none", "--input", folder, "--include", "*.jsnol") == 2
    assert "Did you mean '*.jsonl'?" in capsys.readouterr().err


def test_what_was_changed_is_said(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text('{"text": "a", "x": NaN}\n{"text": "b", "x": "\\ud800"}\n')
    argv = ("--input", tmp_path / "x.jsonl", "--keep-fields", "x")
    assert run(tmp_path / "out", *argv) == 0
    out = capsys.readouterr().out
    assert "kept fields of 1 document: NaN or infinite, made null" in out
    assert "kept fields of 1 document: not Unicode" in out
    assert metas(tmp_path / "out") == [{"x": None}, {"x": "\ufffd"}]


def test_keep_fields_may_be_given_again_and_hold_commas(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a", "x": 1, "a,b": 2, "z": 3}\n')
    argv = ("--keep-fields", 'x,"a,b"', "--keep-fields", "z")
    assert run(tmp_path / "out", "--input", tmp_path / "x.jsonl", *argv) == 0
    assert metas(tmp_path / "out") == [{"a,b": 2, "x": 1, "z": 3}]


def test_the_dialect_is_taken_from_flags(tmp_path, capsys):
    (tmp_path / "x.csv").write_text('id|text\n1|"a \\"b\\""\n')
    argv = ("--input", tmp_path / "x.csv", "--csv-escape", "\\")
    assert run(tmp_path / "no", *argv) == 2
    assert "--csv-delimiter" in capsys.readouterr().err
    assert run(tmp_path / "out", *argv, "--csv-delimiter", "|") == 0
    (tmp_path / "y.tsv").write_text('id\ttext\n1\t"a ""b"""\n')
    assert run(tmp_path / "y", "--input", tmp_path / "y.tsv") == 0
    assert "--csv-quoting quotes" in capsys.readouterr().out


def test_formats_by_pattern(tmp_path, capsys):
    (tmp_path / "in" / "logs").mkdir(parents=True)
    (tmp_path / "in" / "logs" / "a.jsonl").write_text('{"msg": 1}\n')
    (tmp_path / "in" / "b.csv").write_text("text\na\n")
    argv = ("--input", tmp_path / "in", "--format-of")
    assert run(tmp_path / "out", *argv, "logs/**=text", "*.cvs=text") == 0
    captured = capsys.readouterr()
    message = "warning: --format-of *.cvs=text: is like no file. Did you mean '*.csv'?"
    assert message in captured.err
    assert message in captured.out
    manifest = read_manifest(tmp_path / "out", "byte_shards")
    assert manifest.config["format_of"] == ["logs/**=text", "*.cvs=text"]
    assert manifest.totals["format_of.logs/**=text"] == 1
    assert manifest.totals["documents"] == 2
    assert run(tmp_path / "no", *argv, "logs/**=text", "*.cvs=text", "--strict") == 2
    assert "--format-of *.cvs=text: is like no file." in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert run(tmp_path / "no", *argv, "logs/**=txt") == 2
    assert "'txt' is no format" in capsys.readouterr().err


def test_with_strict_a_pattern_that_no_member_is_like_is_an_error_at_the_end(tmp_path, capsys):
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a.log": b"a"}))
    argv = ("--input", tmp_path / "x.tar", "--strict", "--format-of")
    assert run(tmp_path / "out", *argv, "*.log=bytes") == 0
    assert run(tmp_path / "no", *argv, "*.lgo=bytes") == 1
    assert "--format-of *.lgo=bytes: is like no file." in capsys.readouterr().err


def test_an_escape_that_is_the_delimiter_of_the_format_is_refused(tmp_path, capsys):
    (tmp_path / "x.csv").write_text("id,text\n1,a\n")
    (tmp_path / "x.tsv").write_text("id\ttext\n1\ta\n")
    argv = ("--csv-escape", ",", "--input")
    assert run(tmp_path / "csv", *argv, tmp_path / "x.csv") == 2
    assert "--csv-escape ',': is the delimiter of csv" in capsys.readouterr().err
    assert not (tmp_path / "csv").exists()
    assert run(tmp_path / "tsv", *argv, tmp_path / "x.tsv") == 0
