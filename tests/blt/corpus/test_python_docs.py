import gzip
import json
import sys

import pytest

from blt.corpus import python_docs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("docs") / "docs.jsonl.gz"
    counts = python_docs.write_python_docs(path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return counts, [json.loads(line) for line in file], path


def test_the_corpus_is_some_2400_short_documents(corpus):
    counts, documents, _ = corpus
    assert 2000 < len(documents) < 3000
    assert 1_500_000 < sum(len(d["text"].encode()) for d in documents) < 2_000_000
    assert counts["documents"] == len(documents)
    assert counts["bytes"] == sum(len(d["text"].encode()) for d in documents)


def test_documents_are_sorted_and_distinct(corpus):
    _, documents, _ = corpus
    ids = [document["id"] for document in documents]
    assert ids == sorted(set(ids))
    assert len({document["text"] for document in documents}) == len(documents)


def test_topics_and_docstrings_are_there_under_their_names(corpus):
    _, documents, _ = corpus
    texts = {document["id"]: document["text"] for document in documents}
    assert "assert_stmt" in texts["topics/assert"]
    assert texts["json"].startswith("JSON (JavaScript Object Notation)")
    assert "json.decoder.JSONDecoder" in texts
    assert not any(name.startswith(("test.", "idlelib")) for name in texts)


def test_the_header_names_no_time_and_no_file(corpus):
    header = corpus[2].read_bytes()[:10]
    assert header[3:8] == bytes(5)  # no flags, so no name, and no time


def test_nothing_is_imported(tmp_path, monkeypatch):
    library = tmp_path / "lib"
    (library / "json").mkdir(parents=True)
    text = "A docstring that is long enough. " * 8
    (library / "json" / "__init__.py").write_text(f'"""{text}"""\nraise SystemExit\n')
    (library / "heapq.py").write_text(f'class A:\n    def b(self):\n        """{text}x"""\n')
    (library / "queue.py").write_text("not python")
    (library / "bisect.py").write_text(f'"""{text} \\ud800"""')
    monkeypatch.setattr(python_docs.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    monkeypatch.setattr(python_docs, "_topics", dict)
    counts = python_docs.write_python_docs(tmp_path / "x.jsonl.gz")
    with gzip.open(tmp_path / "x.jsonl.gz", "rt") as file:
        assert [json.loads(line)["id"] for line in file] == ["heapq.A.b", "json"]
    assert counts == {"documents": 2, "topics": 0, "bytes": 2 * len(text) + 1}
    assert sys.modules["json"].__file__ != str(library / "json" / "__init__.py")
