"""The names by which Keras finds our classes in model files, once `blt` is imported; without Keras.

Keras looks a class up by the name that it was registered under, such as `blt>EntropyModel`, and
imports no module that a file names, but for its own (`_retrieve_class_or_fn` in
keras/src/saving/serialization_lib.py, Keras 3.15). Registering a class means importing Keras, which
takes seconds, and `import blt` must not. So under each name stands, from the moment that Keras is
imported, something that imports `blt.model` when Keras first makes an object of it. The classes
then register themselves in its place.

Keras may be imported before this package, or after it. Of a later import Python tells those alone
who stand in `sys.meta_path`, as `_AfterKeras` does.
"""

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

PACKAGE = "blt"
_HOME = "blt.model"  # importing it registers all of these
CLASS_NAMES = (
    "AdaptiveBandRMSNorm",
    "ByteEmbedding",
    "ByteLatentTransformer",
    "CausalAttention",
    "DecoderCrossAttention",
    "EncoderCrossAttention",
    "EntropyModel",
    "GEGLU",
    "GlobalTransformer",
    "LocalDecoder",
    "LocalEncoder",
    "MLP",
    "MixtureOfExperts",
    "Patcher",
    "SwiGLU",
    "TiedOutput",
    "TransformerLayer",
    "UnitOffsetRMSNorm",
)


class _NotYetImported:
    """Stands for a class of ours: Keras asks it for an object, and the class makes it."""

    def __init__(self, registered_name: str) -> None:
        self._registered_name = registered_name

    def from_config(self, config: Mapping[str, Any]) -> Any:
        importlib.import_module(_HOME)
        # Not `get_registered_object`: while Keras loads, that still finds what stands here.
        registered = sys.modules["keras"].saving.get_custom_objects()
        return registered[self._registered_name].from_config(config)


class _AfterKeras:
    """A finder that finds Keras as the others do, and registers our names once it is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register(module)

        spec.loader.exec_module = execute_and_register
        return spec


def _register(keras: ModuleType) -> None:
    # Not with a Keras so old, or so far from imported, that it has no place for them.
    saving = getattr(keras, "saving", None)
    if hasattr(saving, "get_custom_objects"):
        registered = saving.get_custom_objects()
        for name in (f"{PACKAGE}>{each}" for each in CLASS_NAMES):
            registered.setdefault(name, _NotYetImported(name))


def register_names() -> None:
    """Lets Keras find our classes: now if it is imported, else as soon as it is."""
    if "keras" in sys.modules:
        _register(sys.modules["keras"])
    else:
        sys.meta_path.insert(0, _AfterKeras())
