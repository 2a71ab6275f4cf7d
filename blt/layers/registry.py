"""Layers by name: what configs ask for, and where users add their own."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from blt.errors import ConfigError, near_names

Builder = Callable[..., keras.layers.Layer]

# Every layer takes these, whether its constructor names them or not.
_LAYER_ARGUMENTS = ("name", "dtype", "trainable")


class Registry:
    """Names of layers of one kind, and what makes them.

    Args:
      key: what configs call the name, for messages, such as "attention_type".
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._builders: dict[str, Builder] = {}

    def __iter__(self) -> Iterable[str]:
        return iter(self._builders)

    def register(self, name: str, builder: Builder | None = None) -> Any:
        """Adds a layer: a class, or a function that returns one. Also works as a decorator.

        Raises:
          ConfigError: the name is taken.
        """
        if builder is None:
            return lambda decorated: self.register(name, decorated)
        if self._builders.setdefault(name, builder) is not builder:
            raise ConfigError(f"{self._key} {name!r} is registered already; choose another name.")
        return builder

    def create(self, name: str, arguments: Mapping[str, Any]) -> keras.layers.Layer:
        """Makes the layer of that name.

        Raises:
          ConfigError: there is no such name, or it does not take one of the arguments; the near
            ones are listed.
        """
        if name not in self._builders:
            raise ConfigError(
                f"{self._key} {name!r}: not one of {sorted(self._builders)}."
                + near_names(str(name), self._builders)
            )
        check_keys(f"{self._key} {name!r}", arguments, self.argument_names(name))
        return self._builders[name](**arguments)

    def argument_names(self, name: str) -> list[str]:
        """Returns the arguments that a layer takes."""
        named = argument_names(self._builders[name])
        return [*named, *(each for each in _LAYER_ARGUMENTS if each not in named)]


def argument_names(builder: Builder) -> list[str]:
    """Returns what a class or a function takes by name, without `self`."""
    is_class = isinstance(builder, type)
    # Of a class itself Python 3.10 shows Keras's `__new__`, which takes anything.
    signature = inspect.signature(builder.__init__ if is_class else builder)
    parameters = list(signature.parameters.values())[is_class:]
    return [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def check_keys(what: str, config: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises ConfigError for the first key that is not known, with the near ones."""
    known = list(known)
    for key in config:
        if key not in known:
            raise ConfigError(
                f"{what}: {key!r} is not a key of it; known are {', '.join(sorted(known))}."
                + near_names(str(key), known)
            )


def split_type(config: str | Mapping[str, Any], default: str) -> tuple[str, dict[str, Any]]:
    """Splits a config into its type and the rest; a string is a type alone.

    >>> split_type({"type": "swiglu", "hidden_dim": 8}, "mlp")
    ('swiglu', {'hidden_dim': 8})
    """
    if isinstance(config, str):
        return config, {}
    rest = dict(config)
    return rest.pop("type", default), rest
