"""A corpus comes back in a store as it does here, under the same names."""

import gzip

import pytest

from blt.cli.command import main
from blt.commands import decode
from blt.corpus import decode_dataset
from blt.errors import UserError
from tests.blt.corpus.helpers import make_dataset
from tests.blt.places import contents, copy_to


@pytest.fixture
def data(tmp_path):
    """Byte shards of sources whose names are in one another's way."""
    files = {
        "in/a.jsonl": b'{"text": "1"}\n',
        "in/a.jsonl.gz": gzip.compress(b'{"text": "2", "id": "\xc3\xbc"}\n'),
        "in/t.txt": b"4",
        "in/t.txt.gz": gzip.compress(b"5"),
        "in/x": b"a file",
        "in/deep/er/t.txt": b"6\n\n7\n",
        "in/a b%20c?#\xe9.txt": b"8",
        "in/d/x/y.txt": b"below",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return make_dataset(
        tmp_path / "bytes", tmp_path / "in", tmp_path / "in" / "d", target_shard_bytes=20
    )


def test_what_is_decoded_there_is_what_is_decoded_here(bucket, data, tmp_path):
    expected = decode_dataset(data, tmp_path / "out")
    copy_to(data, f"{bucket.url}/bytes")
    output = f"{bucket.url}/out"
    assert decode_dataset(f"{bucket.url}/bytes", output) == expected
    assert contents(output) == contents(tmp_path / "out")
    assert {"x", "d/x/y.txt"} <= contents(output).keys()
    assert decode_dataset(data, f"{output}2") == expected  # from here to there
    assert contents(f"{output}2") == contents(output)


def test_the_command_takes_urls(bucket, data, tmp_path, capsys):
    copy_to(data, f"{bucket.url}/bytes")
    argv = ["--data", f"{bucket.url}/bytes", "--output"]
    assert main(decode, [*argv, str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert main(decode, [*argv, f"{bucket.url}/out"]) == 0
    assert capsys.readouterr().out == said.replace(str(tmp_path), bucket.url)
    assert main(decode, [*argv, f"{bucket.url}/out"]) == 2
    assert f"--output {bucket.url}/out: is not empty." in capsys.readouterr().err


def test_files_and_folders_of_one_name_are_told_apart_as_they_are_here(bucket, tmp_path):
    for name in ("in/x", "in/d/x/y.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    for order in (("in/x", "in/d"), ("in/d", "in/x")):
        paths = [tmp_path / name for name in order]
        out = tmp_path / "out" / order[0]
        data = make_dataset(tmp_path / "data" / order[0], *paths)
        decode_dataset(data, out)
        decode_dataset(data, f"{bucket.url}/{order[0]}")
        assert contents(f"{bucket.url}/{order[0]}") == contents(out)


def test_control_characters_are_left_out_of_names_in_stores(bucket, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a\tb.txt", "a_b.txt", "a\x01b.txt"):
        (tmp_path / "in" / name).write_text(repr(name))
    data = make_dataset(tmp_path / "data", tmp_path / "in")
    decode_dataset(data, bucket.url + "/out")
    found = contents(bucket.url + "/out")
    assert sorted(found.values()) == [b"'a\\tb.txt'", b"'a\\x01b.txt'", b"'a_b.txt'"]
    assert "a_b.txt" in found


def test_what_is_not_there_is_named(bucket):
    with pytest.raises(UserError, match=f"{bucket.url}/bytes: no such folder"):
        decode_dataset(f"{bucket.url}/bytes", f"{bucket.url}/out")
