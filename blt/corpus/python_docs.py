"""The quickstart's corpus: the documentation that every Python carries with it.

The topics of `help()` (`pydoc_data.topics`), one document each ("topics/assert"), and the
docstrings of the standard library's modules, classes and functions ("json.decoder.JSONDecoder").
The modules are parsed, never imported or run.
"""

import ast
import gzip
import inspect
import itertools
import json
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from blt.dataset.storage import PlaceLike, atomic_path

# Shorter ones ("Return True if so.") teach a model little. With this limit Python 3.10 to 3.12 give
# 2,300 to 2,500 documents, 1.7 MB.
MIN_DOCSTRING_BYTES = 180
_SKIPPED_MODULES = {"test", "idlelib", "lib2to3", "ensurepip", "turtledemo", "pydoc_data"}
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "__pycache__"}
_SURROGATES = re.compile("[\ud800-\udfff]")  # which UTF-8 cannot hold
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def write_python_docs(path: PlaceLike) -> dict[str, int]:
    """Writes the corpus as gzipped JSON Lines of `{"id", "text"}`, sorted by id.

    The same interpreter gives the same file.

    Returns:
      The number of `documents`, of `topics` among them, and of `bytes` of text.
    """
    topics = ((f"topics/{name}", text) for name, text in sorted(_topics().items()))
    names: dict[str, str] = {}  # by text: the first of equal texts is kept
    for name, text in itertools.chain(topics, _docstrings()):
        names.setdefault(text, name)
    documents: dict[str, str] = {}
    for text, name in names.items():
        documents.setdefault(name, text)
    num_topics = sum(name.startswith("topics/") for name in documents)
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
    ):
        for doc_id in sorted(documents):
            value = {"id": doc_id, "text": documents[doc_id]}
            packed.write(json.dumps(value, ensure_ascii=False).encode("utf-8") + b"\n")
    num_bytes = sum(len(text.encode("utf-8")) for text in documents.values())
    return {"documents": len(documents), "topics": num_topics, "bytes": num_bytes}


def _topics() -> dict[str, str]:
    from pydoc_data.topics import topics

    return dict(topics)


def _docstrings() -> Iterator[tuple[str, str]]:
    """Yields (dotted name, docstring) of the standard library, in the order of its files."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in sorted(sys.stdlib_module_names - _SKIPPED_MODULES):
        for path in (library / f"{name}.py", *sorted((library / name).rglob("*.py"))):
            parts = path.relative_to(library).with_suffix("").parts
            if not path.is_file() or _SKIPPED_FOLDERS.intersection(parts):
                continue
            module = ".".join(parts).removesuffix(".__init__")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the library's own old escapes
                tree = _parse(path)
            if tree is not None:
                yield from _docstrings_of(tree, module)


def _parse(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _docstrings_of(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, _DOCUMENTED):
        text = ast.get_docstring(node, clean=False)
        text = inspect.cleandoc(text or "")
        if not _SURROGATES.search(text) and len(text.encode("utf-8")) >= MIN_DOCSTRING_BYTES:
            yield name, text
    for child in ast.iter_child_nodes(node):
        is_named = isinstance(child, _DOCUMENTED)
        yield from _docstrings_of(child, f"{name}.{child.name}" if is_named else name)
