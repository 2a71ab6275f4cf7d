import html.parser
import re
import types
import zlib

import numpy as np
import pytest

from blt.cli.command import main
from blt.commands import report
from blt.dataset.manifest import read_manifest
from blt.engine import DocumentEntropies
from blt.inspection.artefacts import open_dataset
from blt.inspection.documents import Document
from blt.inspection.measures import measure_patches, measure_scores
from blt.report import collect, examples, headline_figures, made, render_page
from blt.report.markup import document, heat_level
from blt.report.page import context_bytes
from blt.tokenizer import frame_tokens

from .artefacts import (
    DOCUMENTS,
    HOSTILE_ID,
    write_bytes,
    write_patches,
    write_run,
    write_scores,
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run_folder):
    return render_page(collect([run_folder]))


class Reader(html.parser.HTMLParser):
    """Collects tags, their attributes and the text between them."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.addresses, self.text, self.ids = [], [], "", []
        self.open = []
        self.feed(markup)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        self.addresses += [named[name] for name in ("href", "src", "xlink:href") if name in named]
        self.ids += [named["id"]] if "id" in named else []
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "br", "link"):
            self.open.pop()

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_but_itself(page):
    reader = Reader(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert all(address.startswith("#") for address in reader.addresses)
    assert "http" not in page.replace("http-equiv", "")
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page)
    assert reader.open == []  # every tag is closed, in order
    assert len(page.encode()) < 500_000


def test_identifiers_are_unique_and_references_lead_somewhere(page):
    reader = Reader(page)
    assert len(reader.ids) == len(set(reader.ids))
    wanted = {address[1:] for address in reader.addresses}
    wanted |= set(re.findall(r"url\(#([\w-]+)\)", page))
    assert wanted <= set(reader.ids)


def test_the_same_input_gives_the_same_bytes(run_folder, page):
    assert render_page(collect([run_folder])) == page
    assert not re.search(r"20\d\d-\d\d-\d\d", page)  # no date


def test_sections_appear_for_what_is_found(page):
    ids = set(Reader(page).ids)
    assert {"losses", "patches", "scores", "ahead", "documents", "made"} <= ids
    assert page.count("<svg ") == 5  # two losses, patch lengths, distribution, sizes


def test_a_dataset_alone_is_enough(tmp_path):
    write_bytes(tmp_path / "bytes")
    page = render_page(collect([tmp_path / "bytes"]))
    assert set(Reader(page).ids) == {"made"}
    assert "<b>5</b><span>documents</span>" in page


def test_hostile_text_and_ids_are_shown_and_not_obeyed(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;id&#x27;)&lt;/script&gt;\\x1b[31m\\u{202e}" in page
    for forbidden in "\x1b\u202e\u200b\x00":
        assert forbidden not in page
    assert "\\x1b" in page and "\\xff" in page and "\\u{200b}" in page


def test_headline_figures_are_those_of_the_manifests_and_summaries(run_folder):
    (figures,) = headline_figures(collect([run_folder]))
    assert figures["corpus"] is None
    num_bytes = sum(map(len, DOCUMENTS.values()))
    assert (figures["documents"], figures["bytes"]) == (5, num_bytes)
    patches = read_manifest(run_folder / "patches").totals["patches"]
    assert figures["mean_patch_bytes"] == num_bytes / patches
    assert list(figures["bits_per_byte"]) == ["BLT", "entropy model", "zlib"]
    assert 2.0 < figures["bits_per_byte"]["BLT"] < 2.1


def test_runs_on_different_text_are_kept_apart(run_folder, tmp_path):
    documents = {"other": bytes(range(256)) * 2, "noise": b"".join(map(bytes, [range(9, 99)] * 3))}
    other = write_run(tmp_path / "other", bits=5.0, documents=documents)
    found = collect([run_folder, other])
    alone = [headline_figures(collect([folder]))[0] for folder in (run_folder, other)]
    together = headline_figures(found)
    assert [figures.pop("corpus") for figures in together] == ["run/bytes", "other/bytes"]
    assert together == [{k: v for k, v in figures.items() if k != "corpus"} for figures in alone]
    page = render_page(found)
    reader = Reader(page)
    assert len(reader.ids) == len(set(reader.ids))
    assert {a[1:] for a in reader.addresses if a.startswith("#")} <= set(reader.ids)
    first, second = page.split('<section class="corpus">')[1:]
    for section, (own, foreign) in ((first, alone), (second, alone[::-1])):
        for name in ("BLT", "zlib"):
            assert f">{own['bits_per_byte'][name]:.3f}<" in section
            assert f">{foreign['bits_per_byte'][name]:.3f}<" not in section
        zlib, blt = own["bits_per_byte"]["zlib"], own["bits_per_byte"]["BLT"]
        assert f">{blt - zlib:+.3f}<" in section
        assert section.count("Entropy model") >= 1  # its own curve
    assert "<code>other</code>" not in first
    assert "fox" not in second


def test_two_models_of_one_corpus_have_names_of_their_own(tmp_path):
    data = write_bytes(tmp_path / "bytes")
    patches = write_patches(tmp_path / "patches", data)
    for name, bits in (("a", 2.0), ("b", 3.0)):
        write_scores(tmp_path / name / "scores-blt", data, patches, bits=bits)
    (figures,) = headline_figures(collect([tmp_path / "a", tmp_path / "b"]))
    labels = ["BLT (a/scores-blt)", "BLT (b/scores-blt)", "zlib"]
    assert list(figures["bits_per_byte"]) == labels


def test_scores_of_other_documents_of_one_corpus_are_not_compared(tmp_path):
    """Was: one table; "against zlib" of one was taken from the documents of another."""
    data = write_bytes(tmp_path / "bytes")
    patches = write_patches(tmp_path / "patches", data)
    some = {"repeats": DOCUMENTS["repeats"]}
    size = len(some["repeats"])
    write_scores(
        tmp_path / "a",
        data,
        patches,
        bits=2.0,
        documents=some,
        split="train",
        trained_on={"documents": 1, "bytes": size},
    )
    write_scores(tmp_path / "b", data, patches, bits=3.0, role="entropy_model")
    found = collect([tmp_path / "a", tmp_path / "b"])
    (figures,) = headline_figures(found)
    assert list(figures["bits_per_byte"]) == ["entropy model", "zlib"]  # held out
    by_model = {scores["model"]: scores for scores in figures["scores"]}
    assert by_model["BLT"]["split"] == "train"
    assert by_model["BLT"]["trained_on"] == {"documents": 1, "bytes": size}
    page = render_page(found)
    tables = re.findall(r"<table[^>]*>.*?</table>", page, re.DOTALL)
    first, second = (table for table in tables if "Bits per byte of" in table)
    assert "the held-out split" in first and "not known" in first and "BLT" not in first
    assert "the split for training" in second and "100%" in second
    zlib_bits = 8 * len(zlib.compress(some["repeats"], 6)) / size
    assert f"{2.0 - zlib_bits:+.3f}" in second


def test_corpora_of_like_named_folders_are_told_apart(tmp_path):
    for name in ("x", "y"):
        write_run(tmp_path / name / "run", documents={name: name.encode() * 300})
    names = [found.name for found in collect([tmp_path / n / "run" for n in "xy"]).corpora()]
    assert names == ["x/run/bytes", "y/run/bytes"]


def test_patches_that_begin_inside_characters_are_said_with_the_flag(page):
    assert "Of all, 1 begins inside a UTF-8 character (" in page
    assert "--snap-utf8 moves these boundaries" in page


def test_long_lists_in_a_config_are_cut_and_the_rest_is_counted():
    assert made._words(["a", "b"]) == "a, b"
    words = made._words([f"in-{number}.txt" for number in range(5000)])
    assert words.endswith("in-19.txt, … and 4,980 more")


def test_where_zlib_is_ahead_is_said_with_documents(page):
    # The model needs 2 bits and a little everywhere; zlib less where the text repeats itself.
    section = page[page.index('id="ahead"') : page.index('id="documents"')]
    rows = re.findall(r'<tr><td class="long">(.*?)</td><td class="number">(.*?)</td>', section)
    assert rows == [("repeats", "3,000"), ("zh", "168")]
    assert "for 2 of 4 documents (50.0%): 1,584 bytes long on average" in section
    assert "sees 512 bytes" in section


def test_where_no_compressor_is_ahead_the_nearest_document_is_named(tmp_path):
    data = write_bytes(tmp_path / "bytes")
    patches = write_patches(tmp_path / "patches", data)
    write_scores(tmp_path / "scores", data, patches, bits=0.01)
    page = render_page(collect([tmp_path / "scores"]))
    assert "<b>zlib</b> is ahead of the BLT at none of 4 documents." in page
    assert "nearest at <code>repeats</code> (3,000 bytes)" in page


def test_how_far_a_model_sees_follows_from_how_it_was_scored():
    assert context_bytes({"window": 512}) == 512
    assert context_bytes({"window": 128, "num_layers": 2}) == 255
    assert context_bytes({}) is None


def test_patches_are_counted_by_length_without_bos(tmp_path):
    data = write_bytes(tmp_path / "bytes")
    write_patches(tmp_path / "patches", data)
    measured = measure_patches(open_dataset(tmp_path / "patches"))
    # tokens after BOS are the bytes and EOS: full patches of 4, and what is left.
    sizes = [len(text) + 1 for text in DOCUMENTS.values()]
    assert measured.lengths[4] == sum(size // 4 for size in sizes)
    assert measured.lengths[1:4].tolist() == [
        sum(s % 4 == rest for s in sizes) for rest in (1, 2, 3)
    ]
    assert measured.longest == 4 and not measured.is_sampled


def test_a_large_dataset_is_sampled_and_said_to_be(tmp_path):
    data = write_bytes(tmp_path / "bytes")
    patches = write_patches(tmp_path / "patches", data)
    write_scores(tmp_path / "scores", data, patches)
    measured = measure_patches(open_dataset(tmp_path / "patches"), max_rows=2)
    assert (measured.num_rows, measured.is_sampled) == (2, True)
    scores = measure_scores(open_dataset(tmp_path / "scores"), "BLT", max_rows=1)
    assert (scores.num_rows, scores.num_scored, scores.is_sampled) == (1, 1, True)


def test_best_and_worst_leave_out_short_and_empty_documents(run_folder):
    scores = measure_scores(open_dataset(run_folder / "scores-blt"), "BLT")
    assert [score.doc_id for score in scores.best] == ["fox", HOSTILE_ID, "repeats", "zh"]
    assert [score.doc_id for score in scores.worst] == ["zh", "repeats", HOSTILE_ID, "fox"]
    assert scores.num_scored == 4


def test_bytes_are_coloured_by_their_own_entropy():
    shown = Document(
        doc_id="d",
        source="",
        num_bytes=3,
        num_parts=1,
        tokens=frame_tokens(b"a\n<"),
        patch_lengths=np.array([1, 2, 2]),
        entropies=np.array([0.0, 5.0, 0.1, 1.0, 2.0], np.float32),
    )
    assert document(shown) == (
        '<div class="document" dir="ltr">'
        '<i title="2 bytes; nats: 5.00 0.10"><u class="heat-6">a</u><s>⏎</s><br></i>'
        '<i title="1 byte; nats: 1.00"><u class="heat-2">&lt;</u></i></div>'
    )


def test_colours_begin_at_the_limits_of_the_legend():
    assert [heat_level(nats) for nats in (0.0, 0.2499, 0.25, 0.75, 3.999, 4.0)] == [
        0,
        0,
        1,
        2,
        5,
        6,
    ]


def test_without_entropies_or_model_patches_are_shaded_and_it_is_said(tmp_path):
    page = render_page(collect([write_run(tmp_path / "run", entropies=False)]))
    assert "every other patch is shaded instead" in page
    assert 'class="alternate"' in page
    assert 'class="heat-' not in page


@pytest.mark.parametrize("reset_on_newline", [None, True])
def test_entropies_that_were_not_kept_are_computed_as_for_the_boundaries(
    monkeypatch, reset_on_newline
):
    class CountTokens:
        """An engine for which an entropy is the number of tokens before it."""

        fingerprint, precision, context = "", "float32", types.MappingProxyType({"context": "all"})

        def run(self, parts, counters=None):
            for key, tokens, *_ in parts:
                before = np.arange(len(tokens), dtype=np.float32)
                yield DocumentEntropies(key, before, before)

    monkeypatch.setattr("blt.engine.get_entropy_engine", lambda path: CountTokens())
    monkeypatch.setattr(examples, "_find_model", lambda paths, manifest: "model")
    manifest = types.SimpleNamespace(config={"reset_on_newline": reset_on_newline})
    shown = Document("d", "", num_bytes=4, num_parts=1, tokens=frame_tokens(b"a\nbc"))
    artefacts = types.SimpleNamespace(model_paths=[])
    (found,) = examples._with_entropies(artefacts, manifest, [shown])
    expected = [0, 1, 2, 1, 2, 3] if reset_on_newline else [0, 1, 2, 3, 4, 5]
    assert found.entropies.tolist() == expected


def test_the_command_writes_the_page_and_says_where(run_folder, tmp_path, capsys):
    output = tmp_path / "new" / "report.html"
    assert main(report, [str(run_folder), "--output", str(output)]) == 0
    assert str(output) in capsys.readouterr().out
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "nowhere", "no such folder"),
        (lambda path: path, "nothing to report on"),
    ],
)
def test_folders_without_artefacts_are_refused(tmp_path, capsys, make, words):
    output = tmp_path / "out" / "report.html"
    assert main(report, [str(make(tmp_path)), "--output", str(output)]) == 2
    assert words in capsys.readouterr().err
    assert not output.exists()


def test_an_output_that_is_a_folder_is_refused(run_folder, tmp_path, capsys):
    assert main(report, [str(run_folder), "--output", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
