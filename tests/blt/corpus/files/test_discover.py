import io
import os
from collections import Counter

import pytest

from blt.corpus import EncodeConfig, build_plan, discover_inputs
from blt.corpus.files.standard_input import KeptInput, keep_standard_input
from blt.corpus.left_out import LeftOutRule
from blt.corpus.patterns import matches_any
from blt.corpus.readers.registry import read_records
from blt.corpus.records import Document, Filtered
from blt.errors import UserError
from tests.blt.corpus.readers.test_tar import tar_bytes


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("a.txt", "sub/b.txt", "sub/deep/c.txt", ".hidden", "_SUCCESS", "sub/.git/x"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def sources(*arguments):
    return [file.source for file in discover_inputs(arguments).files]


def skipped(*arguments):
    return [(skip.path, skip.reason) for skip in discover_inputs(arguments).skipped]


def test_a_folder_gives_all_below_it_but_hidden_and_marker_files(tree):
    assert sources("in") == ["a.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert skipped("in") == [
        ("in/.hidden", "hidden"),
        ("in/_SUCCESS", "name that begins with _"),
        ("in/sub/.git", "hidden"),
    ]


def test_a_file_is_called_by_its_bare_name_with_size_and_time(tree):
    (file,) = discover_inputs([tree / "sub/b.txt"]).files
    assert (file.path, file.source, file.size) == (str(tree / "sub/b.txt"), "b.txt", 9)
    assert file.mtime_ns == (tree / "sub/b.txt").stat().st_mtime_ns
    assert sources(tree / ".hidden") == [".hidden"]


def test_a_glob_names_files_from_its_fixed_start(tree):
    assert sources("in/sub/*.txt") == ["b.txt"]
    assert sources("in/*/b.txt") == ["sub/b.txt"]
    assert sources("in/**/*.txt") == ["a.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert sources("in/**") == ["a.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert sources("in/s*") == ["sub/b.txt", "sub/deep/c.txt"]
    assert sources("*/a.txt") == ["in/a.txt"]
    assert sources("in/_*") == ["_SUCCESS"]
    assert skipped("in/*") == skipped("in")
    assert skipped("in/**/*") == skipped("in/**") == skipped("in")


# Of each kind, as paths below a corpus; all else in `CORPUS` is read.
LEFT_OUT = {
    "hidden": [".DS_Store", ".github/ci.yml", "pkg/.gitignore", "a/.x.txt.swp"],
    "underscore": ["_SUCCESS", "pkg/__init__.py", "_internal/a.py", "t/_delta_log/0.json"],
    "leftover": [
        *("a.txt~", "#a.txt#", "x.jsonl.bak", "poetry.lock", "b.parquet.incomplete"),
        *("c.zip.crdownload", "Thumbs.db", "DESKTOP.INI", "d.csv.part", "e.tmp"),
    ],
    "checksums": ["x.jsonl.sha256", "SHA256SUMS", "MD5SUMS.txt", "a/checksums.txt", "x.crc"],
    "bookkeeping": [
        *("s/state.json", "s/dataset_info.json", "s/dataset_dict.json"),
        "hub/datasets--me--corpus/refs/main",
    ],
}
CORPUS = ["a.txt", "s/data.json", "lock", "part", "refs/main", "checksums/a.txt", "x.backup"]


def write_tree(folder):
    for path in sum(LEFT_OUT.values(), CORPUS):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)


def test_what_is_no_corpus_is_left_out_by_one_rule(tmp_path, monkeypatch):
    write_tree(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    members = tar_bytes(dict.fromkeys(sum(LEFT_OUT.values(), CORPUS), b"x"))
    (tmp_path / "x.tar").write_bytes(members)
    for argument in ("in", "in/**", "in/*", "in/**/*", "@list"):
        (tmp_path / "list").write_text("in\n")
        found = discover_inputs([argument])
        assert [file.source for file in found.files] == sorted(CORPUS), argument
        numbers = {kind: left_out.number for kind, left_out in found.left_out.items()}
        # A folder counts as one.
        assert numbers == {kind: len(paths) for kind, paths in LEFT_OUT.items()}, argument
    (payload,) = build_plan(discover_inputs(["x.tar"]).files, EncodeConfig())
    records = list(read_records(payload["files"][0], EncodeConfig(), lambda n: None))
    kept = [r.source for r in records if isinstance(r, Document)]
    assert sorted(kept) == [f"x.tar/{path}" for path in sorted(CORPUS)]
    assert Counter(r.reason for r in records if isinstance(r, Filtered)) == {
        "left_out_member": sum(map(len, LEFT_OUT.values()))
    }


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        ({"takes_hidden": True}, ("hidden", "underscore")),
        ({"takes_leftovers": True}, ("leftover", "checksums", "bookkeeping")),
        ({"takes_hidden": True, "takes_leftovers": True}, LEFT_OUT),
    ],
)
def test_flags_take_what_is_left_out(rule, kinds, tmp_path):
    write_tree(tmp_path)
    taken = sorted(sum((LEFT_OUT[kind] for kind in kinds), CORPUS))
    for argument in (tmp_path, f"{tmp_path}/**"):
        found = discover_inputs([argument], rule=LeftOutRule(**rule))
        assert [file.source for file in found.files] == taken
        assert list(found.left_out) == [kind for kind in LEFT_OUT if kind not in kinds]


def test_what_is_asked_for_by_name_is_taken(tmp_path, monkeypatch):
    write_tree(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    assert sources("in/x.jsonl.bak", "in/pkg/__init__.py") == ["__init__.py", "x.jsonl.bak"]
    assert sources("in/*.bak") == ["x.jsonl.bak"]
    assert sources("in/**/_*.py") == ["pkg/__init__.py"]
    assert sources("in/**/.git*") == ["pkg/.gitignore"]
    assert sources("in/**/__init__.py", "in/*.lock") == ["pkg/__init__.py", "poetry.lock"]
    found = discover_inputs(["in"], include=["*.bak", "lock"])
    assert [file.source for file in found.files] == ["lock", "x.jsonl.bak"]


def test_many_names_are_counted_and_some_are_kept(tmp_path):
    (tmp_path / "a.txt").touch()
    for number in range(1005):
        (tmp_path / f".{number:04}").touch()
    found = discover_inputs([tmp_path])
    assert found.left_out["hidden"].number == 1005
    assert found.left_out["hidden"].names[-1] == str(tmp_path / ".0999")
    assert len(found.skipped) == 1000


def test_a_path_that_exists_is_opened_as_it_stands(tree):
    (tree / "[a].txt").write_text("brackets")
    (tree / "d*r").mkdir()
    (tree / "d*r/x?.txt").write_text("x")
    assert sources("in/[a].txt") == ["[a].txt"]
    assert sources("in/[a]*txt") == ["a.txt"]
    assert sources("in/d*r") == ["x?.txt"]
    assert sources("in/d*r/x?.txt") == ["x?.txt"]


def test_the_same_file_counts_once(tree):
    os.symlink("a.txt", tree / "link.txt")
    assert sources("in", "in/a.txt", "in/*.txt", tree) == ["a.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert ("in/link.txt", "the same file as in/a.txt") in skipped("in")


def test_equal_names_become_paths_as_given(tree):
    (tree / "sub/a.txt").write_text("another")
    assert sources("in/a.txt", "in/sub/a.txt", "in/sub/b.txt") == [
        "b.txt",
        "in/a.txt",
        "in/sub/a.txt",
    ]
    assert sources("in/sub", "in/a.txt") == ["b.txt", "deep/c.txt", "in/a.txt", "in/sub/a.txt"]


def test_equal_names_in_absolute_folders_stay_when_the_corpus_is_moved(tmp_path):
    for name in ("train", "valid"):
        (tmp_path / "corpus" / name).mkdir(parents=True)
        (tmp_path / "corpus" / name / "part-0").write_text(name)
    expected = ["train/part-0", "valid/part-0"]
    assert sources(tmp_path / "corpus/train", tmp_path / "corpus/valid") == expected
    (tmp_path / "corpus").rename(tmp_path / "moved")
    assert sources(tmp_path / "moved/train", tmp_path / "moved/valid") == expected


def test_loops_pipes_and_dead_links_are_listed_not_followed(tree):
    os.symlink("..", tree / "sub/loop")
    os.symlink("nowhere", tree / "dead")
    os.mkfifo(tree / "pipe")
    assert sources("in") == ["a.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert {
        ("in/sub/loop", "link to a folder that was read already"),
        ("in/dead", "No such file or directory"),
        ("in/pipe", "not a regular file"),
    } <= set(skipped("in"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_listed(tree):
    (tree / "a.txt").chmod(0)
    assert ("in/a.txt", "no permission to read it") in skipped("in")


def test_names_that_are_not_utf8_can_be_opened_and_have_a_unicode_source(tree):
    path = os.fsencode(tree) + b"/caf\xe9.txt"
    with open(path, "wb") as file:
        file.write(b"x")
    found = [f for f in discover_inputs(["in"]).files if f.source.startswith("caf")]
    assert [file.source for file in found] == ["caf\\xe9.txt"]
    assert os.path.exists(found[0].path)


def test_the_order_of_arguments_does_not_matter_for_distinct_files(tree):
    assert sources("in/sub", "in/a.txt") == sources("in/a.txt", "in/sub")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("absent.txt", r"--input absent\.txt: no such file or folder"),
        ("in/*.parquet", r"--input in/\*\.parquet: matches no file"),
        ("empty", "--input empty: is a folder without files"),
        ("only", r"holds no file that can be read \(only/_SUCCESS: name that begins with _\)"),
        ("pipe", r"can be read \(pipe: not a regular file\). A pipe is read .*: give --input -"),
        ("x[1]/*.txt", r"matches no file. The folder x\[1\] is there; .*: x\[\[\]1\]/\*\.txt"),
        ("nul\0", "no such file"),
        ("", "no such file"),
    ],
)
def test_an_argument_that_leads_nowhere_is_named(tree, argument, message):
    (tree.parent / "empty").mkdir()
    (tree.parent / "only").mkdir()
    (tree.parent / "only/_SUCCESS").touch()
    os.mkfifo(tree.parent / "pipe")
    (tree.parent / "x[1]").mkdir()
    with pytest.raises(UserError, match=message):
        discover_inputs(["in", argument])


def test_no_argument_at_all_is_refused():
    with pytest.raises(UserError, match="no file was named"):
        discover_inputs([])


def chosen(*arguments, **options):
    return [file.source for file in discover_inputs(arguments, **options).files]


def test_include_and_exclude_choose_in_folders_and_globs(tree):
    (tree / "sub/b.bin").write_text("b")
    assert chosen("in", include=["*.txt"]) == ["a.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert chosen("in", exclude=["*.txt"]) == ["sub/b.bin"]
    assert chosen("in", include=["sub/*"]) == ["sub/b.bin", "sub/b.txt"]
    assert chosen("in", include=["sub/**"], exclude=["b.*"]) == ["sub/deep/c.txt"]
    assert chosen("in", exclude=["deep", "*.bin"]) == ["a.txt", "sub/b.txt"]
    assert chosen("in", exclude=["sub"]) == ["a.txt"]
    assert chosen("in/s*", exclude=["deep"]) == ["sub/b.bin", "sub/b.txt"]
    assert chosen("in/**", include=["*.bin"]) == ["sub/b.bin"]
    assert chosen("in/a.txt", exclude=["*"]) == ["a.txt"]  # named outright
    found = discover_inputs(["in"], include=["*.bin"], exclude=["deep"])
    reason = "--include and --exclude leave out 3 of what is in it"
    assert ("in", reason) in [(skip.path, skip.reason) for skip in found.skipped]
    with pytest.raises(UserError, match=r"holds no file that can be read .*leave out 2"):
        discover_inputs(["in"], exclude=["*"])


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*.txt", "a/b.txt", True),
        ("a/*.txt", "a/b/c.txt", False),
        ("**/c.txt", "c.txt", True),
        ("**/c.txt", "a/b/c.txt", True),
        ("a/**", "a/b/c", True),
        ("[ab].t?t", "b.tut", True),
        ("[!ab].txt", "a.txt", False),
        ("[]x].txt", "].txt", True),
        ("a[/]b", "a/b", False),
        ("[", "[", True),
        ("[z-a]", "z", False),
        ("a.b", "axb", False),
        ("(a|b)+", "(a|b)+", True),
        ("[^a]", "^", True),
        ("n\n*", "n\nx", True),
    ],
)
def test_patterns_mean_what_they_say(pattern, name, expected):
    assert matches_any(name, [pattern]) == expected


def test_a_list_names_arguments(tree):
    (tree.parent / "list").write_bytes(b"# files\r\nin/a.txt\r\n\n  \nin/sub\nin/*/b.txt\n")
    assert sources("@list") == ["a.txt", "b.txt", "deep/c.txt"]
    (tree / "#odd").write_text("x")
    (tree.parent / "@file").write_text("opened as it stands")
    (tree.parent / "list").write_bytes(b"./in/#odd\nin/caf\xe9.txt")
    with open(os.fsencode(tree) + b"/caf\xe9.txt", "wb"):
        pass
    assert sources("@list", "@file") == ["#odd", "@file", "caf\\xe9.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"--input @list: the list cannot be read \(No such file"),
        (b"# nothing\n\n", "--input @list: the list names no file"),
        (b"in/a.txt\nabsent\n", r"--input @list, line 2: absent: no such file or folder"),
        (b"@other\n", r"--input @list, line 1: @other: no such file"),
        (b"in\0absent\0", "line 2: absent: no such file"),
    ],
)
def test_a_list_that_leads_nowhere_is_named(tree, content, message):
    if content is not None:
        (tree.parent / "list").write_bytes(content)
    with pytest.raises(UserError, match=message):
        discover_inputs(["@list"])


def test_standard_input_is_the_file_that_holds_it(tree):
    kept = KeptInput(tree / "a.txt", 7)
    (file,) = discover_inputs(["-"], standard_input=kept).files
    assert (file.source, file.path, file.mtime_ns) == ("stdin", str(tree / "a.txt"), 7)
    with pytest.raises(UserError, match="--input -: no such file"):
        discover_inputs(["-"])


def test_equal_input_has_an_equal_copy(tmp_path):
    def copy(data):
        kept = keep_standard_input(io.BytesIO(data), tmp_path / "copy")
        return kept.place.read_bytes(), kept.mtime_ns

    first = copy(b"x" * 3_000_000)
    assert first[0] == b"x" * 3_000_000
    assert copy(b"y")[1] != first[1]
    assert copy(b"x" * 3_000_000) == first


def test_a_terminal_is_not_waited_for(tmp_path):
    class Terminal(io.BytesIO):
        def isatty(self):
            return True

    with pytest.raises(UserError, match="standard input is a terminal"):
        keep_standard_input(Terminal(b"typed"), tmp_path / "copy")
    (tmp_path / "copy").write_bytes(b"of a killed run")
    keep_standard_input(Terminal(b"typed"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"of a killed run"


def test_lists_may_have_a_byte_order_mark_or_nul_between_names(tree):
    (tree / "new\nline.txt").write_text("x")
    (tree.parent / "list").write_bytes(b"\xef\xbb\xbfin/a.txt\r\n")
    assert sources("@list") == ["a.txt"]
    (tree.parent / "list").write_bytes(b"in/new\nline.txt\0in/a.txt\0")
    assert sources("@list") == ["a.txt", "new\nline.txt"]


def test_names_that_are_alike_once_they_are_readable_get_numbers(tree):
    for name in (b"caf\xe9.txt", rb"caf\xe9.txt"):
        with open(os.fsencode(tree) + b"/" + name, "wb") as file:
            file.write(name)
    found = discover_inputs([str(tree)]).files
    assert len({file.source for file in found}) == len(found)
    (first, second) = [file for file in found if r"caf\xe9" in file.source]
    assert second.source == first.source + "~2"
    assert os.fsencode(first.path).endswith(rb"\xe9.txt")


def test_a_file_in_a_folder_called_as_an_archive_is_called_by_its_path(tree):
    (tree / "x.tar").write_bytes(b"")
    (tree.parent / "other" / "x.tar").mkdir(parents=True)
    (tree.parent / "other" / "x.tar" / "a.txt").write_bytes(b"")
    found = {file.source for file in discover_inputs([str(tree), str(tree.parent / "other")]).files}
    assert "x.tar" in found
    assert "x.tar/a.txt" not in found
    assert "other/x.tar/a.txt" in found


@pytest.mark.parametrize("names", [("blobs/5a67", "data/t.csv"), ("data/t.csv.gz", "other/5a67")])
def test_of_two_names_of_a_file_the_one_that_shows_its_format_counts(tmp_path, names):
    first, second = (tmp_path / name for name in names)
    for path in (first, second):
        path.parent.mkdir()
    first.write_text("text\na\n")
    second.symlink_to(first)
    found = discover_inputs([tmp_path])
    (file,) = found.files
    assert file.source == next(name for name in names if "t.csv" in name)
    (skipped,) = found.skipped
    assert skipped.reason == f"the same file as {file.path}"
