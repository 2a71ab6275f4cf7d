import pytest

from blt.corpus import EncodeConfig, build_plan, check_inputs, decode_dataset, discover_inputs
from blt.corpus.format_rules import rule_for, unmatched_rules
from blt.errors import UserError
from tests.blt.corpus.helpers import encode, make_dataset
from tests.blt.corpus.readers.test_tar import tar_bytes

LOG = b'{"level": 30, "msg": "a"}\n{"level": 30, "msg": "b"}\n'
TABLE = b"text\na\nb\n"
FILES = {"logs/app.jsonl": LOG, "logs/x.csv": TABLE, "t.csv": TABLE, "a.dat": b"one\ntwo\n"}


@pytest.fixture
def folder(tmp_path):
    for name, data in FILES.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "in"


def raws(result, archive=""):
    return {(source.removeprefix(archive), raw) for _, raw, source, _ in result.documents}


EXPECTED = {
    ("logs/app.jsonl", LOG),
    ("logs/x.csv", TABLE),
    ("t.csv", b"a"),
    ("t.csv", b"b"),
    ("a.dat", b"one\ntwo\n"),
}


def test_a_rule_gives_the_format_of_what_it_is_like(folder, tmp_path):
    result = encode(tmp_path / "out", folder, format_of=["logs/**=text"])
    assert raws(result) == EXPECTED
    assert result.counts["format_of.logs/**=text"] == 2


@pytest.mark.parametrize("pattern", ["logs/**", "x.tar/logs/**"])
def test_of_members_too_and_they_come_back(tmp_path, pattern):
    (tmp_path / "x.tar").write_bytes(tar_bytes(FILES))
    options = {"format_of": (f"{pattern}=text",)}
    result = encode(tmp_path / "out", tmp_path / "x.tar", **options)
    assert raws(result, "x.tar/") == EXPECTED
    assert result.counts[f"format_of.{pattern}=text"] == 2
    dataset = make_dataset(tmp_path / "data", tmp_path / "x.tar", **options)
    decode_dataset(dataset, tmp_path / "back")
    assert (tmp_path / "back/x.tar/logs/app.jsonl").read_bytes() == LOG
    assert (tmp_path / "back/x.tar/logs/x.csv").read_bytes() == TABLE


def test_the_first_rule_counts_and_a_member_has_its_archives_unless_it_has_its_own():
    rules = ("*.csv=text", "t.*=jsonl", "x.tar=bytes", "lang=en/**=tsv")
    assert rule_for(rules, "a/t.csv") == "*.csv=text"
    assert rule_for(rules, "a/t.json") == "t.*=jsonl"
    assert rule_for(rules, "x.tar", "t.csv") == "*.csv=text"
    assert rule_for(rules, "x.tar", "a/b") == "x.tar=bytes"
    assert rule_for(rules, "x.tar", "lang=en/b") == "lang=en/**=tsv"
    assert rule_for(rules, "lang=en/b") == "lang=en/**=tsv"
    assert rule_for(rules, "b") is None
    assert rule_for((), "b") is None


def test_other_formats_than_text_and_back_to_what_they_seem(folder, tmp_path):
    rules = ["t.csv=auto", "*.dat=csv", "logs/*=bytes"]
    result = encode(
        tmp_path / "out", folder, format="text", format_of=rules, text_field="one", doc_per="line"
    )
    expected = {("logs/app.jsonl", LOG), ("logs/x.csv", TABLE), ("a.dat", b"two")}
    assert raws(result) == expected
    assert [r["reason"] for r in result.rejects] == ["missing_column"]  # t.csv has no column "one"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["logs/**"], r"--format-of logs/\*\*: PATTERN=FORMAT expected, such as"),
        (["=text"], "--format-of =text: PATTERN=FORMAT expected"),
        (["*.x=txet"], r"'txet' is no format; it must be one of auto, text.* Did you mean 'text'"),
        ("*.x=text", "a list of PATTERN=FORMAT expected"),
        ([7], "--format-of 7: PATTERN=FORMAT"),
    ],
)
def test_what_is_no_rule_is_named(rules, message):
    with pytest.raises(UserError, match=message):
        EncodeConfig(format_of=rules)


def test_bytes_do_not_go_with_what_would_change_them():
    with pytest.raises(UserError, match=r"--format-of \*\.bin=bytes: keeps every byte"):
        EncodeConfig(format_of=["*.bin=bytes"], strip_bom=True)


def plan(folder, rules):
    return build_plan(discover_inputs([folder]).files, EncodeConfig(format_of=rules))


def test_rules_that_mean_no_file_are_named(folder):
    rules = ("*.cvs=text", "t.csv=text", "t.*=text")
    first, second = unmatched_rules(plan(folder, rules), rules)
    assert first.message == ("--format-of *.cvs=text: is like no file. Did you mean '*.csv'?")
    assert "--format-of t.*=text: applies to no file, since an earlier rule" in second.message


def test_before_the_work_nothing_is_said_where_members_may_be_meant(folder):
    (folder / "x.tar").write_bytes(tar_bytes({"a.log": b"a"}))
    rules = ("*.log=jsonl", "*.none=text")
    payloads = plan(folder, rules)
    assert unmatched_rules(payloads, rules) == []
    totals = {"format_of.*.log=jsonl": 1, "format_of.*.none=text": 0}
    (found,) = unmatched_rules(payloads, rules, totals)
    assert found.name == "*.none=text"


def test_a_refusal_says_how_to_take_the_files_as_texts(folder):
    message = r"no such field in .*app\.jsonl; .*--format-of '\*\.jsonl=text'"
    with pytest.raises(UserError, match=message):
        check_inputs(plan(folder, ()), EncodeConfig())
    check_inputs(plan(folder, ("*.jsonl=text",)), EncodeConfig())
    (folder / "t.csv").write_bytes(b"id,body\n1,a\n")
    with pytest.raises(UserError, match=r"t\.csv .*--format-of '\*\.csv=text'"):
        check_inputs(plan(folder, ("*.jsonl=text",)), EncodeConfig())


def test_what_only_looks_like_json_refuses_nothing_but_a_field_that_is_asked_for(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.txt").write_bytes(b"text")
    for name in ("a.json", "log"):
        (folder / name).write_bytes(LOG)
    check_inputs(plan(folder, ()), EncodeConfig())
    config = EncodeConfig(text_field="mgs")
    payloads = build_plan(discover_inputs([folder]).files, config)
    with pytest.raises(UserError, match=r"--text-field mgs: no such .*a\.json.*Did you mean 'msg'"):
        check_inputs(payloads, config)
    (folder / "t.csv").write_bytes(b"mgs\na\n")  # it is what the field is of
    check_inputs(build_plan(discover_inputs([folder]).files, config), config)
