"""Lines of JSON: the quick parser gives what the standard library's does."""

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.corpus.config import EncodeConfig
from blt.corpus.readers.jsonl_reader import read_jsonl
from blt.corpus.records import Document
from blt.dataset.units import no_progress

NUMBERS = ("-0", "0", "1.0", "1e3", "1E+400", "-1e-400", "0.1e1", "NaN", "-Infinity", "01", "1.")
INTEGERS = ("9" * 18, "9" * 19, "9" * 20, "-" + "9" * 19, "18446744073709551615", "9" * 400)
STRINGS = st.one_of(
    st.text(max_size=8).map(json.dumps),
    st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(['"\\ud83d\\ude00"', '"\\ud800"', '"\\u0000"', '"\x01"', '"\\x"', '"\ufeff"']),
)
VALUES = st.recursive(
    st.one_of(STRINGS, st.sampled_from((*NUMBERS, *INTEGERS, "true", "null"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]"),
        st.lists(st.tuples(st.sampled_from(("id", "text", "k", "")), inner), max_size=3).map(
            lambda items: "{" + ",".join(f'"{key}": {value}' for key, value in items) + "}"
        ),
    ),
    max_leaves=6,
)
OBJECTS = st.lists(
    st.tuples(st.sampled_from(("id", "text", "text", "n", "n.k", "m")), VALUES), max_size=5
).map(lambda items: "{" + ",".join(f'"{key}":{value}' for key, value in items) + "}")


def read_line(folder, line, config):
    path = folder / "x.jsonl"
    path.write_bytes(line)
    entry = {
        "path": str(path),
        "source": "x",
        "format": "jsonl",
        "compression": "plain",
        "size": len(line),
        "num_bytes": len(line),
    }
    return [
        (record.doc_id, b"".join(record.parts), record.meta)
        if isinstance(record, Document)
        else record
        for record in read_jsonl(entry, config, no_progress)
    ]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(OBJECTS, VALUES).map(lambda text: text.encode("utf-8", "replace")),
    st.one_of(st.just(b""), st.binary(min_size=1, max_size=2)),
    st.integers(0, 40),
    st.sampled_from(((), ("n",), ("n.k", "m"))),
    st.sampled_from(("keep", "replace")),
)
def test_the_quick_parser_gives_what_the_standard_library_gives(
    tmp_path_factory, line, put, at, keep_fields, utf8
):
    line = line[:at] + put + line[at:]
    config = EncodeConfig(keep_fields=keep_fields, utf8=utf8)
    folder = tmp_path_factory.mktemp("lines")
    quick = read_line(folder, line, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orjson, "loads", json_error)
        assert quick == read_line(folder, line, config)


def json_error(raw):
    raise orjson.JSONDecodeError("not read", "", 0)


@pytest.mark.parametrize("number", ["9" * 19, "9" * 20, "-" + "9" * 30, "1.50", "1e2"])
def test_a_number_keeps_its_digits_as_an_id_and_in_a_kept_field(tmp_path, number):
    line = f'{{"id": {number}, "text": "a", "n": [{number}]}}'.encode()
    as_json = json.dumps(json.loads(number))
    doc_id = {"1e2": "100"}.get(number, number)
    expected = (doc_id, b"a", f'{{"n": [{as_json}]}}'.encode())
    assert read_line(tmp_path, line, EncodeConfig(keep_fields=("n",))) == [expected]


def deeper(levels, call, *arguments):
    """Calls with so many more calls below."""
    return deeper(levels - 1, call, *arguments) if levels else call(*arguments)


@pytest.mark.parametrize(
    "head", [b'{"text": "a", "x": ', b'{"text": "a", "id": 99999999999999999999, "x": ']
)
def test_how_deep_the_call_is_does_not_show(tmp_path, head):
    """Found by fuzzing: just below Python's limit, a line was one reject or another."""
    for levels in (400, 490, 498, 499, 500, 900, 950, 1000, 1030):
        line = head + b"[" * levels + b'"]\\"["' + b"]" * levels + b"}"
        lines = b"\n".join((line, line[:-2], line[:-1] + b"]"))
        found = read_line(tmp_path, lines, EncodeConfig())
        assert deeper(200, read_line, tmp_path, lines, EncodeConfig()) == found
        is_read = levels < (500 if b"id" in head else 1020)
        assert isinstance(found[0], tuple) == is_read
        reasons = {record.reason for record in found[1:]}
        assert reasons == ({"invalid_json"} if levels < 500 else {"too_deep"})
