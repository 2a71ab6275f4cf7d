"""A report of what lies in a store is byte for byte that of what lies here."""

import pytest

from blt.cli.command import main
from blt.commands import report
from blt.dataset.storage import as_place
from tests.blt.places import copy_to

from .artefacts import write_run


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Two runs, of two corpora."""
    folder = tmp_path_factory.mktemp("report") / "here"
    write_run(folder / "first")
    write_run(folder / "second", documents={"a": b"another corpus. " * 30}, entropies=False)
    return folder


def write(capsys, output, *folders):
    """Returns a report's bytes, and what the command says."""
    assert main(report, [*map(str, folders), "--output", str(output)]) == 0
    return as_place(output).read_bytes(), capsys.readouterr().out


@pytest.fixture(scope="module")
def page(here):
    assert main(report, [f"{here}/first", "--output", f"{here}/page.html"]) == 0
    return (here / "page.html").read_bytes()


def test_a_report_is_the_same_wherever_things_lie(bucket, here, page, capsys):
    there = f"{bucket.url}/deep/there"
    copy_to(here, there)
    capsys.readouterr()
    found, said = write(capsys, f"{there}/new.html", f"{there}/first")
    assert found == page
    assert said.endswith(f" -> {there}/new.html\n")


def test_places_of_both_kinds_are_in_one_report(gcs_bucket, here, tmp_path, capsys):
    there = f"{gcs_bucket.url}/there"
    copy_to(here / "first", f"{there}/first")
    second = here / "second"
    expected, _ = write(capsys, tmp_path / "expected.html", here / "first", second)
    found, _ = write(capsys, tmp_path / "both.html", f"{there}/first", second)
    assert found.replace(b"there/first", b"here/first") == expected


def test_what_is_no_page_is_not_replaced(bucket, here, capsys):
    copy_to(here / "first", bucket.url)
    output = as_place(f"{bucket.url}/bytes/_manifest.json")
    before = output.read_bytes()
    assert main(report, [bucket.url, "--output", str(output)]) == 2
    assert "exists and is no HTML page" in capsys.readouterr().err
    assert main(report, [bucket.url, "--output", f"{bucket.url}/bytes"]) == 2
    assert "/bytes: is a folder" in capsys.readouterr().err
    assert output.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(bucket, capsys, tmp_path):
    assert main(report, [f"{bucket.url}/no", "--output", str(tmp_path / "page.html")]) == 2
    assert f"{bucket.url}/no: no such folder." in capsys.readouterr().err
