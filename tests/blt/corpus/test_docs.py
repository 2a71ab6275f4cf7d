"""docs/encode.md names every reason and every flag, and no other."""

import re
from pathlib import Path

from blt.cli import command
from blt.corpus.admission.filters import FILTERS
from blt.corpus.planning.sources import SCHEMA
from blt.dataset.rejects import REASONS
from pipelines import encode

PAGE = (Path(__file__).parents[3] / "docs" / "encode.md").read_text("utf-8")


def section(title):
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_reasons_of_rejects_are_those_of_the_code_with_their_words():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section("Rejects"), re.MULTILINE)
    assert dict(rows) == REASONS
    assert len(rows) == len(REASONS)


def test_the_filters_are_those_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \|", section("Filters"), re.MULTILINE)
    assert sorted(rows) == sorted(FILTERS)


def test_the_columns_of_sources_are_those_of_the_code():
    (table,) = re.findall(r"```\n(.*?)```", section("Accounting"), re.DOTALL)
    assert re.findall(r"(\w+) +(string|int64|bool|map<[^>]*>)", table) == [
        (field.name, str(field.type)) for field in SCHEMA
    ]


def test_every_flag_named_is_one_of_the_command():
    known = {
        flag for action in command.build_parser(encode)._actions for flag in action.option_strings
    }
    assert set(re.findall(r"`(--[a-z0-9-]+)", PAGE)) <= known | {"--check"}
