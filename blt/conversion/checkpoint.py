"""Checkpoints of other libraries: a JSON config and named arrays, read with suspicion.

A checkpoint is a folder or a file:

    folder   config.json or params.json; *.safetensors (one, or several, with or without
             model.safetensors.index.json), or one .npz
    file     x.safetensors or x.npz; its config is x.json, or config.json or params.json beside it

Weights are read one at a time, when they are asked for. Pickles (.pth, .pt, .bin) can run code when
they are read; they are refused unless the user says that they are trusted.
"""

import dataclasses
import functools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # importing it teaches NumPy, and so safetensors, the type bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from blt.dataset.storage import (
    Place,
    PlaceLike,
    as_place,
    atomic_path,
    kept_copy,
    place_errors,
    read_json,
    stat,
    write_json,
)
from blt.errors import UserError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_SHARDS_GLOB = "model-[0-9]*-of-[0-9]*.safetensors"
MAX_CONFIG_BYTES = 16 << 20
MAX_WEIGHT_BYTES = 64 << 30  # of all files of a checkpoint, unpacked
MAX_WEIGHTS = 100_000

_NAME_CHARS = 100
_CONFIG_NAMES = (CONFIG_NAME, "params.json")
_PICKLES = (".pth", ".pt", ".bin")
_FLOATS = (np.dtype("float64"), np.dtype("float32"), np.dtype("float16"))
_FLOATS += (np.dtype(ml_dtypes.bfloat16),)
_SAFETENSORS_FLOATS = ("F64", "F32", "F16", "BF16")
_VECTORS_PREFIX = "w/"  # of weights in files that hold other arrays as well


@dataclasses.dataclass(frozen=True)
class Weight:
    """An array that is read when it is asked for.

    Attributes:
      shape: of the array.
      load: returns the array, of a floating-point type.
    """

    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
      path: as the user gave it.
      config_path: the file that the config is from.
      config: the config, as it stands there.
      weights: the weights by name.
    """

    path: Place
    config_path: Place
    config: Mapping[str, Any]
    weights: Mapping[str, Weight]


def read_checkpoint(path: PlaceLike, *, trust_pickle: bool = False) -> Checkpoint:
    """Reads a checkpoint's config, and names and shapes of its weights.

    Args:
      path: a folder or a file, as the module says; the files of one in a store are copied here,
        once.
      trust_pickle: read pickles, too (needs PyTorch).

    Raises:
      UserError: a file is missing, damaged, too large or of another kind.
    """
    path = as_place(path)
    with place_errors(path):
        files = list(_weight_files(path))
        total = sum(stat(file).size for file in files)
        if total > MAX_WEIGHT_BYTES:
            raise UserError(f"{path}: {total} bytes; over {MAX_WEIGHT_BYTES} are not read.")
        config_path = _find_config(path)
        config = read_config(config_path)
    weights: dict[str, Weight] = {}
    for file in files:
        with kept_copy(file) as copy:
            found = _read_file(copy, trust_pickle)
        for name, weight in found.items():
            if name in weights:
                raise UserError(
                    f"{file}: holds the weight {quote(name)}, which another file of the "
                    f"checkpoint holds as well. Leave one set of weights in {path}."
                )
            weights[name] = weight
    if len(weights) > MAX_WEIGHTS:
        raise UserError(f"{path}: {len(weights)} weights; over {MAX_WEIGHTS} are not read.")
    return Checkpoint(path, config_path, config, weights)


def write_checkpoint(
    folder: Place, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> None:
    """Writes a folder of a config and float32 weights; the config last, each file atomically.

    An index and the shards of weights that were there are removed: readers would take them.
    """
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        temporary.touch()
        usual_mode = temporary.stat().st_mode
        save_file(dict(weights), temporary, metadata={"format": "pt"})
        temporary.chmod(usual_mode)  # safetensors makes a file that only its owner can read
    (folder / INDEX_NAME).unlink(missing_ok=True)
    for shard in folder.glob(_SHARDS_GLOB):
        shard.unlink()
    write_json(folder / CONFIG_NAME, config)


def read_config(path: Place) -> dict[str, Any]:
    """Reads a JSON object; raises UserError if the file is something else, or too large."""
    if path.is_file() and stat(path).size > MAX_CONFIG_BYTES:
        raise UserError(f"{path}: a config over {MAX_CONFIG_BYTES} bytes is not read.")
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: must hold a JSON object, but holds another value.")
    return config


def quote(name: Any) -> str:
    """Returns a name from a foreign file, fit for a message: short, and without control codes."""
    return ascii(str(name)[:_NAME_CHARS])


def _find_config(path: Place) -> Place:
    if path.is_dir():
        wanted = [path / name for name in _CONFIG_NAMES]
    else:
        wanted = [path.with_suffix(".json"), *(path.with_name(name) for name in _CONFIG_NAMES)]
    for candidate in wanted:
        if candidate.is_file():
            return candidate
    names = " or ".join(candidate.name for candidate in wanted)
    raise UserError(f"{path}: has no config; put its {names} beside the weights.")


def _weight_files(path: Place) -> Iterator[Place]:
    """Yields the files that hold the weights of a checkpoint."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; a checkpoint is needed.")
    if path.is_file():
        yield path
        return
    if (path / INDEX_NAME).is_file():
        files = list(_indexed_files(path / INDEX_NAME))
        if (path / WEIGHTS_NAME).is_file() and path / WEIGHTS_NAME not in files:
            raise UserError(
                f"{path}: holds two sets of weights, {WEIGHTS_NAME} and those that {INDEX_NAME} "
                "names. Move one of them away."
            )
        yield from files
        return
    by_suffix = {
        suffix: sorted(file for file in path.glob(f"*{suffix}") if file.is_file())
        for suffix in (".safetensors", ".npz", *_PICKLES)
    }
    for found in by_suffix.values():
        if found:
            yield from found
            return
    raise UserError(f"{path}: holds no weights (*.safetensors or .npz).")


def _indexed_files(index: Place) -> Iterator[Place]:
    """Yields the files that an index names; each must lie beside it."""
    weight_map = read_config(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: weight_map is missing; it says which file holds which weight.")
    for name in sorted({str(value) for value in weight_map.values()}):
        if not name.endswith(".safetensors") or any(each in name for each in "/\\:\0"):
            raise UserError(
                f"{index}: names the file {quote(name)}; only names of .safetensors files in "
                "the same folder are read."
            )
        if not (index.parent / name).is_file():
            raise UserError(f"{index}: names {name}, which is not beside it. Fetch that file, too.")
        yield index.parent / name


def _read_file(path: Path, trust_pickle: bool) -> dict[str, Weight]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in _PICKLES:
        if not trust_pickle:
            raise UserError(
                f"{path}: a pickle, which can run code when it is read. Get the checkpoint as "
                ".safetensors, or give --trust-pickle if you trust its source."
            )
        return _read_pickle(path)
    raise UserError(
        f"{path}: not a checkpoint; its name must end with .safetensors or .npz, or it must be a "
        "folder that holds such files."
    )


def _read_safetensors(path: Path) -> dict[str, Weight]:
    try:
        file = safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    weights = {}
    for name, part in slices.items():
        if part.get_dtype() not in _SAFETENSORS_FLOATS:
            raise _not_floats(path, name, part.get_dtype())
        load = functools.partial(file.get_tensor, name)
        weights[name] = Weight(tuple(part.get_shape()), load)
    return weights


def _read_npz(path: Path) -> dict[str, Weight]:
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
        if total > MAX_WEIGHT_BYTES:
            raise UserError(
                f"{path}: {total} bytes unpacked; over {MAX_WEIGHT_BYTES} are not read."
            )
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name.startswith(_VECTORS_PREFIX)]
            arrays = {name: file[name] for name in names or file.files}
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise _damaged(path, error) from error
    return {
        name.removeprefix(_VECTORS_PREFIX): _weight_of(path, name, array)
        for name, array in arrays.items()
    }


def _weight_of(path: Path, name: str, array: np.ndarray) -> Weight:
    if array.dtype not in _FLOATS:
        raise _not_floats(path, name, array.dtype.name)
    return Weight(array.shape, lambda: array)


def _read_pickle(path: Path) -> dict[str, Weight]:
    """Reads tensors, and nothing else, from a pickle of PyTorch's."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path}: reading a pickle needs PyTorch; pip install torch.") from error
    try:
        tensors = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # PyTorch's advice is to read it without weights_only: not here
        raise UserError(
            f"{path}: damaged, or holds more than tensors, which alone are read from a pickle. Get "
            "the checkpoint as .safetensors."
        ) from error
    if isinstance(tensors, dict) and isinstance(tensors.get("model"), dict):
        tensors = tensors["model"]
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise UserError(f"{path}: must hold a dict of tensors, alone or under 'model'.")
    return {
        name: Weight(tuple(tensor.shape), functools.partial(_torch_to_numpy, tensor))
        for name, tensor in tensors.items()
    }


def _torch_to_numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().float().numpy()  # NumPy's bridge knows no bfloat16


def _damaged(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path}: damaged, or not a {path.suffix} file ({reason}). Fetch it again.")


def _not_floats(path: Path, name: str, dtype: str) -> UserError:
    return UserError(
        f"{path}: the weight {quote(name)} is of type {dtype}; float32, float16 and bfloat16 "
        "are read. Get a checkpoint that is not quantized."
    )
