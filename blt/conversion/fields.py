"""Fields of foreign configs, checked one by one; every message names the file and the field."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blt.errors import UserError

MAX_INTEGER = 1 << 30  # no size in a config is larger
MAX_NUMBER = 1e38  # what float32 holds
_REQUIRED: Any = object()
_shown = reprlib.repr  # of values, which may be as long as a file


class Fields:
    """A config, or a section of one. A field that is null counts as not there.

    Args:
      values: the config.
      path: the file that it is from.
      section: the names that lead to it in the file.
      whole: the fields that this is a section of; None for the whole config.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        path: Path,
        section: str = "",
        whole: "Fields | None" = None,
    ) -> None:
        self._values = values
        self.path = path
        self._section = section
        # Names, with those of their sections, for all sections of a config.
        self._asked: set[str] = set() if whole is None else whole._asked
        self._expected: set[str] = set() if whole is None else whole._expected

    def error(self, name: str, problem: str) -> UserError:
        """Returns an error about a field, for the caller to raise."""
        return UserError(f"{self.path}: {self._section}{name}: {problem}")

    def has(self, name: str) -> bool:
        self._asked.add(self._section + name)
        return self._values.get(name) is not None

    def get(self, name: str, default: Any = _REQUIRED) -> Any:
        """Returns a field as it is; without a default, it must be there."""
        self._asked.add(self._section + name)
        value = self._values.get(name)
        if value is None:
            if default is _REQUIRED:
                raise self.error(name, "missing; add it to the config.")
            return default
        return value

    def section(self, name: str, default: Any = _REQUIRED) -> "Fields":
        """Returns the fields inside a field."""
        values = self.get(name, default)
        if not isinstance(values, dict):
            raise self.error(name, "must be an object.")
        return Fields(values, self.path, f"{self._section}{name}.", self)

    def expect(self, name: str, value: Any) -> None:
        """Counts a field as asked for, with all inside it, if it says what is known anyway."""
        if self._values.get(name) == value:
            self._expected.add(self._section + name)

    def never_asked(
        self, no_matter: Iterable[str], usual: Mapping[str, Sequence[Any]]
    ) -> list[str]:
        """Returns the names of fields that say something, and that nobody asked for.

        Args:
          no_matter: names, in any section, of fields that change nothing of what a model computes.
          usual: values, by name, with which a field says nothing that our model does not do.

        A field that is null or an empty text, list or object says nothing; false and 0 say
        something. A section that nobody opened is one field.
        """
        found = []
        for name, value in self._values.items():
            path = self._section + name
            if value is None or value in ("", [], {}) or value in usual.get(name, ()):
                continue
            if name in no_matter or path in self._expected:
                continue
            if path not in self._asked:
                found.append(path)
            elif isinstance(value, dict):
                found += self.section(name).never_asked(no_matter, usual)
        return found

    def unwrap(self, names: Iterable[str]) -> "Fields":
        """Returns the fields inside the first of some fields that hold an object, or these."""
        for name in names:
            if isinstance(self._values.get(name), dict):
                return self.section(name)
        return self

    def integer(self, name: str, default: Any = _REQUIRED) -> Any:
        """Returns a whole number from 1 on."""
        value = self.get(name, default)
        if value is default:
            return value
        if not _is_number(value) or value != int(value) or not 1 <= value <= MAX_INTEGER:
            raise self.error(
                name, f"must be a whole number from 1 to {MAX_INTEGER}, is {_shown(value)}."
            )
        return int(value)

    def number(self, name: str, default: Any = _REQUIRED) -> Any:
        """Returns a finite number."""
        value = self.get(name, default)
        if value is default:
            return value
        if not _is_number(value):
            raise self.error(name, f"must be a number, is {_shown(value)}.")
        return float(value)

    def positive(self, name: str, default: Any = _REQUIRED) -> Any:
        """Returns a finite number above 0."""
        value = self.number(name, default)
        if value is not default and value <= 0:
            raise self.error(name, f"must be above 0, is {_shown(value)}.")
        return value

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, f"must be true or false, is {_shown(value)}.")
        return value

    def integers(self, name: str) -> list[int]:
        """Returns a list of whole numbers from 1 on."""
        values = self.get(name)
        if not isinstance(values, list) or not all(
            isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= MAX_INTEGER for v in values
        ):
            raise self.error(
                name, f"must be a list of whole numbers from 1 on, is {_shown(values)}."
            )
        return values

    def only(self, name: str, allowed: Sequence[Any], default: Any = _REQUIRED) -> Any:
        """Returns a field that changes what the model computes, and of which we know some values.

        Raises:
          UserError: it has another value.
        """
        value = self.get(name, default)
        if value not in allowed:
            known = " or ".join(repr(each) for each in allowed)
            raise self.error(name, f"is {_shown(value)}, but only {known} can be converted.")
        return value


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= MAX_NUMBER


def head_options(
    fields: Fields, dim: int, *, heads: str, kv_heads: str = "", head_dim: str = ""
) -> dict[str, Any]:
    """Returns `num_heads`, `num_kv_heads` and `head_dim` of an attention.

    Args:
      fields: where they stand.
      dim: width of the attention.
      heads, kv_heads, head_dim: names of the fields; "" for none there. As many key heads as query
        heads, which share the width, unless the config says otherwise.

    Raises:
      UserError: a field is missing, or the numbers do not go together.
    """
    num_heads = fields.integer(heads)
    num_kv_heads = fields.integer(kv_heads, num_heads)
    if num_heads % num_kv_heads:
        raise fields.error(kv_heads, f"is {num_kv_heads}, no divisor of {heads}, {num_heads}.")
    width = fields.integer(head_dim, None)
    if width is None and dim % num_heads:
        raise fields.error(heads, f"is {num_heads}, no divisor of the width, {dim}.")
    width = width or dim // num_heads
    if width % 2:
        raise fields.error(head_dim or heads, f"the width of a head, {width}, must be even.")
    return {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": width}
