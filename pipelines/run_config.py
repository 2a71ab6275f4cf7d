"""The YAML file of `blt run`: read, and checked before any work."""

from collections.abc import Callable
from typing import Any

import yaml

from blt.dataset.splits import DEFAULT_SEED, DEFAULT_VALID_FRACTION
from blt.dataset.storage import Place
from blt.errors import UserError, near_names

STAGES = ("encode", "train-entropy", "calibrate", "patch", "pack", "train", "score", "report")


def read_config(path: Place) -> dict[str, Any]:
    """Reads and checks the YAML file of a run.

    Raises:
      UserError: it is missing, not YAML, or has a key that nothing knows (with the near ones).
    """
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a YAML file ({_yaml_problem(error)}).") from error
    sections = [stage.replace("-", "_") for stage in STAGES]
    known = (*_TOP_LEVEL, *sections)
    if not isinstance(config, dict):
        raise UserError(f"{path}: a mapping with the keys {', '.join(known)} expected.")
    for key in config:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}.{near_names(str(key), known)}")
    for section in sections:
        if not isinstance(config.setdefault(section, {}) or {}, dict):
            raise UserError(f"{path}: {section} must be a mapping of its flags.")
        config[section] = config[section] or {}
    config.setdefault("seed", DEFAULT_SEED)
    config.setdefault("valid_fraction", DEFAULT_VALID_FRACTION)
    for key, (is_right, wanted) in _TOP_LEVEL.items():
        if key not in config:
            raise UserError(f"{path}: the key {key!r} is missing.")
        if not is_right(config[key]):
            raise UserError(f"{path}: {key}: {wanted} expected, got {config[key]!r}.")
    return config


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                continue  # a list or a mapping, which YAML refuses as a key
            if key.value in seen:
                problem = f"the key {key.value!r} stands there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _is_paths(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(path, str) and path for path in values)


# What is right for each key that is no section, and what to say if it is not.
_TOP_LEVEL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "input": (_is_paths, "a path, or a list of paths,"),
    "output": (lambda value: isinstance(value, str) and bool(value), "the path of a folder"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "valid_fraction": (
        lambda value: type(value) in (int, float) and 0 <= value <= 1,
        "a number between 0 and 1",
    ),
}


def _yaml_problem(error: Exception) -> str:
    """Returns where a YAML file is wrong, and how, in a few words."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).replace("\n", " ")
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
