"""`--format-of PATTERN=FORMAT`: the format of the inputs whose name is like a pattern.

The first rule that an input is like counts; `--format` is for the others. Names are those that
`--include` means, that is sources; a member of an archive is known by its name in it as well, and
if no rule means it, by the rule that means its archive.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from blt.corpus.patterns import matches_any
from blt.corpus.unmatched import Unmatched
from blt.errors import UserError, near_names

_FLAG = "--format-of"
_PREFIX = "format_of."
_MAX_SUFFIXES = 100  # remembered for hints


def check_rules(rules: object, formats: Sequence[str]) -> tuple[str, ...]:
    """Returns rules as they are kept: "PATTERN=FORMAT" each.

    Args:
      rules: a list of them, or what else the user gave.
      formats: that there are.

    Raises:
      UserError: one is no rule; names it.
    """
    if not isinstance(rules, list | tuple):
        raise UserError(f"{_FLAG} {rules!r}: a list of PATTERN=FORMAT expected.")
    for rule in rules:
        pattern, equals, format_name = str(rule).rpartition("=")
        if not isinstance(rule, str) or not equals or not pattern:
            raise UserError(f"{_FLAG} {rule!s}: PATTERN=FORMAT expected, such as 'logs/**=text'.")
        if format_name not in formats:
            hint = near_names(format_name, formats)
            raise UserError(
                f"{_FLAG} {rule}: {format_name!a} is no format; it must be one of "
                f"{', '.join(formats)}.{hint}"
            )
    return tuple(rules)


def rule_for(rules: Sequence[str], source: str, member: str | None = None) -> str | None:
    """Returns the rule that means an input; None if none does.

    Args:
      rules: as in `EncodeConfig.format_of`.
      source: of a file, or of an archive.
      member: the name that a member of this archive has in it.
    """
    if not rules:
        return None
    if member is not None:
        names = (f"{source}/{member}", member)
        found = next((r for r in rules if any(matches_any(n, [_pattern(r)]) for n in names)), None)
        if found is not None:
            return found
    return next((rule for rule in rules if matches_any(source, [_pattern(rule)])), None)


def format_of_rule(rule: str) -> str:
    """
    >>> format_of_rule("lang=en/**=text")
    'text'
    """
    return rule.rpartition("=")[2]


def wanted_format(
    default: str, rules: Sequence[str], source: str, member: str | None = None
) -> str:
    """Returns the format that the user says an input has, `default` if no rule means it."""
    rule = rule_for(rules, source, member)
    return default if rule is None else format_of_rule(rule)


def count_rules(rules: Sequence[str], applied: Iterable[str | None]) -> Counter[str]:
    """Returns a unit's counts of the inputs that each rule means.

    Args:
      rules: as in `EncodeConfig.format_of`.
      applied: the rule of each input, or None.
    """
    counts = Counter({f"{_PREFIX}{rule}": 0 for rule in rules})
    counts.update(f"{_PREFIX}{rule}" for rule in applied if rule is not None)
    return counts


def unmatched_rules(
    payloads: Iterable[dict[str, Any]],
    rules: Sequence[str],
    totals: Mapping[str, int] | None = None,
) -> list[Unmatched]:
    """Returns the rules that mean no input.

    Args:
      payloads: of the plan.
      rules: as in `EncodeConfig.format_of`.
      totals: of the work, if it is done. Before, nothing can be said if there are archives.
    """
    if not rules:
        return []
    applied = {rule for rule in rules if totals and totals.get(f"{_PREFIX}{rule}")}
    alike: set[str] = set()
    suffixes: dict[str, None] = {}
    for entry in _entries(payloads):
        if entry["format"] == "tar" and totals is None:
            return []
        source = entry["source"]
        applied.add(rule_for(rules, source) or "")
        alike.update(rule for rule in rules if matches_any(source, [_pattern(rule)]))
        if len(suffixes) < _MAX_SUFFIXES:
            suffixes["*" + "".join(PurePosixPath(source).suffixes)] = None
    found = []
    for rule in dict.fromkeys(rules):
        if rule in applied:
            continue
        why = "is like no file." + near_names(_pattern(rule), suffixes)
        if rule in alike:
            why = "applies to no file, since an earlier rule means all that it is like."
        found.append(Unmatched(_FLAG, rule, f"{_FLAG} {rule}: {why}"))
    return found


def _entries(payloads: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for payload in payloads:
        yield from payload["files"]


def _pattern(rule: str) -> str:
    return rule.rpartition("=")[0]
