"""Model files: written whole, the same bytes for the same weights, and read with suspicion.

A model file is Keras's `.keras`: a zip of a config, the weights in HDF5, and metadata. Reading one
runs no code from it: only classes of Keras and of this package are made.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from blt.dataset.storage import (
    Place,
    PlaceLike,
    as_place,
    atomic_path,
    kept_copy,
    place_errors,
)
from blt.errors import UserError
from blt.model.entropy_model import EntropyModel
from blt.ngram.model import is_ngram_path
from blt.tokenizer import VOCAB_SIZE

SUFFIX = ".keras"
MAX_MODEL_BYTES = 16 << 30
MAX_CONFIG_BYTES = 16 << 20
_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
_COPY_BYTES = 1 << 20
_TRUSTED_PACKAGES = ("keras", "blt")

# What each class of model is called in a message, and the command that makes it.
_KINDS = {
    "EntropyModel": ("an entropy model", "blt train-entropy"),
    "ByteLatentTransformer": ("a BLT", "blt train"),
}


def save_model(model: keras.Model, place: PlaceLike) -> None:
    """Writes a model file, atomically. Equal models give equal bytes.

    Raises:
      UserError: the name does not end with `.keras`.
      WorkError: it cannot be written.
    """
    check_model_name(place)
    with atomic_path(place) as temporary:
        model.save(temporary)
        _make_reproducible(temporary)


def check_model_name(place: PlaceLike) -> None:
    """Raises UserError unless the name is that of a model file."""
    if as_place(place).suffix != SUFFIX:
        raise UserError(f"{place}: a model file's name ends with {SUFFIX}; name it so.")


def _make_reproducible(path: Path) -> None:
    """Rewrites a `.keras` file without the time and the memory addresses of its making."""
    undated = path.with_name(f"{path.stem}-undated{SUFFIX}")
    try:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(undated, "w") as new:
            for name in sorted(old.namelist()):
                member = zipfile.ZipInfo(name, _EPOCH)
                with old.open(name) as source, new.open(member, "w", force_zip64=True) as target:
                    if name == "metadata.json":
                        metadata = json.loads(source.read())
                        metadata.pop("date_saved", None)
                        source = io.BytesIO(json.dumps(metadata, sort_keys=True).encode())
                    elif name == "config.json":
                        config = _without_addresses(json.loads(source.read()))
                        source = io.BytesIO(json.dumps(config).encode())
                    while block := source.read(_COPY_BYTES):
                        target.write(block)
        undated.replace(path)
    finally:
        undated.unlink(missing_ok=True)


def _without_addresses(value: Any) -> Any:
    """Leaves out the addresses by which Keras marks an object that stands in several places.

    In our models that is a precision policy, of which a copy does as well.
    """
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if key != "shared_object_id"}
        return {key: _without_addresses(inner) for key, inner in kept.items()}
    if isinstance(value, list):
        return [_without_addresses(inner) for inner in value]
    return value


def load_model_file(
    place: PlaceLike, expected_class: type[keras.Model], *, compile: bool = False
) -> keras.Model:
    """Reads a model file that must hold a model of `expected_class`.

    A file of a store comes to this machine once; see `blt.dataset.storage.local_copy`.

    Returns:
      The model; with `compile`, compiled as it was when it was saved.

    Raises:
      UserError: the file is missing, damaged or too large, would make objects of foreign classes,
        or holds another kind of model.
    """
    place = as_place(place)
    wanted, command = _KINDS[expected_class.__name__]
    _check_is_file(place, wanted, command)
    with kept_copy(place) as path:
        return _load(path, expected_class, compile=compile)


def _load(path: Path, expected_class: type[keras.Model], *, compile: bool) -> keras.Model:
    wanted, command = _KINDS[expected_class.__name__]
    config = _read_config(path)
    found = str(config.get("class_name"))
    if found != expected_class.__name__:
        called = _KINDS.get(found, (f"a model of class {found!r}", ""))[0]
        raise UserError(
            f"{path}: holds {called}, but {wanted} is needed here, as made by `{command}`."
        )
    try:
        model = keras.models.load_model(path, compile=compile, safe_mode=True)
    except Exception as error:  # damage shows itself in HDF5, JSON, Keras, or our constructors
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as {wanted} ({reason}). Make it again.") from error
    if not isinstance(model, expected_class):
        raise UserError(f"{path}: does not hold {wanted}. Make one with `{command}`.")
    if name := find_non_finite_weight(model):
        raise UserError(
            f"{path}: its weight {name} holds NaN or an infinity, so that it can compute nothing. "
            f"Its training diverged, or the file is damaged: make it again with `{command}`, with "
            "a lower --learning-rate."
        )
    return model


def _check_is_file(place: Place, wanted: str, command: str) -> None:
    with place_errors(place):
        if place.is_file():
            return
        if place.is_dir():
            models = sorted(place.glob(f"*{SUFFIX}"))
            hint = f"Give {models[0]}." if models else f"Make one with `{command}`."
            raise UserError(f"{place}: is a folder; the file of {wanted} is needed. {hint}")
    raise UserError(f"{place}: no such file; {wanted} is needed. Make one with `{command}`.")


def find_non_finite_weight(model: keras.Model) -> str | None:
    """Returns the path of a weight that holds NaN or an infinity; None if there is none."""
    for weight in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            return str(weight.path)
    return None


def _read_config(path: Path) -> dict[str, Any]:
    """Checks the outside of a model file and returns its config."""
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise UserError(f"{path}: {size} bytes; model files over {MAX_MODEL_BYTES} are not read.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            missing = [name for name in _MEMBERS if name not in members]
            if missing:
                raise UserError(f"{path}: not a {SUFFIX} model file ({missing[0]} is not in it).")
            # Keras stores without compression: a member larger than the archive is a zip bomb.
            if sum(info.file_size for info in members.values()) > size:
                raise UserError(f"{path}: compressed, which no {SUFFIX} file is. Not read.")
            if members["config.json"].file_size > MAX_CONFIG_BYTES:
                raise UserError(f"{path}: its config is over {MAX_CONFIG_BYTES} bytes. Not read.")
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a {SUFFIX} model file, or damaged ({error}).") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a {SUFFIX} model file (its config is not an object).")
    for module, class_name in _classes_in(config):
        package = module.split(".")[0]
        if package not in _TRUSTED_PACKAGES or class_name == "Lambda":
            raise UserError(
                f"{path}: asks for the class {module}.{class_name}, which is not Keras's or ours. "
                "Not read: a model file must not run foreign code."
            )
    return config


def _classes_in(value: Any) -> Iterator[tuple[str, str]]:
    """Yields (module, class name) of all objects that a Keras config would make."""
    if isinstance(value, dict):
        if "class_name" in value:
            module = value.get("module")
            if module is None:  # registered under `package>name`
                module = str(value.get("registered_name") or "").split(">")[0]
            yield str(module), str(value["class_name"])
        for inner in value.values():
            yield from _classes_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _classes_in(inner)


def read_model_class(place: PlaceLike) -> str:
    """Returns the name of the class of the model in a file, without making the model.

    Raises:
      UserError: the file is missing or is not a model file.
    """
    place = as_place(place)
    _check_is_file(place, "a model", "blt train")
    with kept_copy(place) as path:
        return str(_read_config(path).get("class_name"))


def load_entropy_model(place: PlaceLike) -> EntropyModel:
    """Reads an entropy model.

    Raises:
      UserError: as `load_model_file`, when it is an n-gram model, and when its vocabulary is not
        the one of our tokens.
    """
    if is_ngram_path(place):
        raise UserError(
            f"{place}: an n-gram model cannot be kept inside a model file. Leave it out here, and "
            "give it to `blt patch` and `blt score`."
        )
    model = load_model_file(place, EntropyModel)
    if model.vocab_size != VOCAB_SIZE:
        raise UserError(
            f"{place}: has a vocabulary of {model.vocab_size} ids, but byte shards have "
            f"{VOCAB_SIZE}. Use a model that `blt train-entropy` made."
        )
    return model


def fingerprint(model: keras.Model) -> str:
    """Returns what identifies the function that a model computes: 64 hex digits.

    sha256 over the class, the canonical config, and every weight by path. Names that Keras counts
    up, the optimizer, and saving and loading do not change it; any weight or option does.
    """
    digest = hashlib.sha256()
    described = {"class": type(model).__name__, "config": _canonical(model.get_config())}
    digest.update(json.dumps(described, sort_keys=True, separators=(",", ":")).encode())
    weights = {weight.path.partition("/")[2]: weight for weight in model.weights}
    for path in sorted(weights):
        values = keras.ops.convert_to_numpy(weights[path])
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        digest.update(f"\n{path} {values.dtype.name} {list(values.shape)}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _canonical(value: Any) -> Any:
    """Reduces a Keras config to what matters: no names, and objects as class and config."""
    if isinstance(value, dict):
        if "class_name" in value and "config" in value:
            return {"class": value["class_name"], "config": _canonical(value["config"])}
        # Only layers are both named and trainable; a precision policy's name is what it is.
        left_out = {"name", "trainable"} if "trainable" in value else set()
        return {k: _canonical(v) for k, v in value.items() if k not in left_out}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return value
