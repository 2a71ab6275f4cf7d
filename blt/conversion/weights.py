"""Which weight of ours is made of which of theirs, and the ways there and back.

Reference checkpoints store matrices [out, in]; ours are [in, out], and some that are applied to the
same input are one matrix: query, key and value; gate and up. N-gram tables are one below the other.
So each weight of ours is some of theirs, one below the other, transposed if it is a kernel.

Rotary positions turn pairs of components. Theirs are neighbours, (0, 1), (2, 3), …; ours are halves
apart. So in the matrices of queries and keys the rows of each head change places:

    theirs   0 1 2 3 4 5        row i of ours is row 2 i of theirs in the first half of the head,
    ours     0 2 4 1 3 5        and row 2 i - head_dim + 1 in the second
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from blt.conversion.checkpoint import Checkpoint, quote
from blt.errors import UserError

# Never used by the reference implementations: (the end of) their names.
_NEVER_USED = (
    "local_encoder.token_embedding_projection.weight",
    "freqs_cis",
    "inv_freq",
)
_NAMES_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Source:
    """A weight of a checkpoint.

    Attributes:
      name: there.
      shape: there.
      rotary_head_dim: width of the heads whose rows change places; None where none do.
    """

    name: str
    shape: tuple[int, ...]
    rotary_head_dim: int | None = None


@dataclasses.dataclass(frozen=True)
class Binding:
    """A weight of ours, and what it is made of.

    Attributes:
      path: attributes and indices that lead from the model to it, such as
        "transformer_layers.0.attention.qkv.kernel".
      sources: weights of a checkpoint, one below the other.
    """

    path: str
    sources: tuple[Source, ...]

    def pack(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Makes our weight, float32, of theirs."""
        rows = [
            rotary_to_halves(array.astype(np.float32), source.rotary_head_dim)
            for array, source in zip(arrays, self.sources, strict=True)
        ]
        return self._turn(rows[0] if len(rows) == 1 else np.concatenate(rows))

    def unpack(self, array: np.ndarray) -> list[np.ndarray]:
        """Makes their weights of ours, as `pack` takes them."""
        ends = np.cumsum([source.shape[0] for source in self.sources])
        parts = np.split(self._turn(array), ends[:-1])
        return [
            np.ascontiguousarray(rotary_to_neighbours(part, source.rotary_head_dim))
            for part, source in zip(parts, self.sources, strict=True)
        ]

    def _turn(self, array: np.ndarray) -> np.ndarray:
        return array.T if self.path.endswith(".kernel") else array


def rotary_to_halves(rows: np.ndarray, head_dim: int | None) -> np.ndarray:
    """Orders the rows of each head so that pairs are halves apart.

    Args:
      rows: [num_heads * head_dim, any width], pairs in neighbouring rows.
      head_dim: None leaves the rows as they are.

    >>> rotary_to_halves(np.arange(6)[:, None], 6)[:, 0]
    array([0, 2, 4, 1, 3, 5])
    """
    if head_dim is None:
        return rows
    return rows.reshape(-1, head_dim // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def rotary_to_neighbours(rows: np.ndarray, head_dim: int | None) -> np.ndarray:
    """Undoes `rotary_to_halves`."""
    if head_dim is None:
        return rows
    return rows.reshape(-1, 2, head_dim // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def check_weights(checkpoint: Checkpoint, bindings: Iterable[Binding]) -> list[str]:
    """Compares a checkpoint's weights with those that a model is made of.

    Returns:
      The names of weights that the reference implementations have, but never use.

    Raises:
      UserError: weights are missing, left over, or of another shape.
    """
    sources = {source.name: source for binding in bindings for source in binding.sources}
    described = f"the model that {checkpoint.config_path.name} describes"
    missing = [name for name in sources if name not in checkpoint.weights]
    if missing:
        raise UserError(
            f"{checkpoint.path}: {_weights(missing)} missing of {described}: {_some(missing)}. "
            "Fetch the checkpoint again, or fix its config."
        )
    surplus = [name for name in checkpoint.weights if name not in sources]
    never_used = [name for name in surplus if name.endswith(_NEVER_USED)]
    surplus = [name for name in surplus if name not in never_used]
    if surplus:
        raise UserError(
            f"{checkpoint.path}: {_weights(surplus)} left over, since {described} does not have "
            f"them: {_some(surplus)}. Fix the config if it is wrong; if it is right, the model has "
            "what ours cannot hold, and cannot be converted."
        )
    wrong = [
        f"{name} is {list(checkpoint.weights[name].shape)} and not {list(source.shape)}"
        for name, source in sources.items()
        if checkpoint.weights[name].shape != source.shape
    ]
    if wrong:
        raise UserError(
            f"{checkpoint.path}: {_weights(wrong)} not of the shape in {described}: "
            f"{_some(wrong)}. Fix the config, or fetch the checkpoint again."
        )
    return never_used


def _weights(names: Sequence[str]) -> str:
    return f"{len(names)} weight is" if len(names) == 1 else f"{len(names)} weights are"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(quote(name)[1:-1] for name in names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def load_weights(model: Any, bindings: Iterable[Binding], checkpoint: Checkpoint) -> None:
    """Gives a model the weights of a checkpoint, which `check_weights` has found fit.

    Raises:
      UserError: a weight holds NaN or an infinity, or a number beyond float32.
    """
    for binding in bindings:
        arrays = [checkpoint.weights[source.name].load() for source in binding.sources]
        with np.errstate(over="ignore"):  # said below
            packed = binding.pack(arrays)
        if not np.isfinite(packed).all():
            names = _some([source.name for source in binding.sources])
            raise UserError(
                f"{checkpoint.path}: {names}: holds NaN or an infinity, or a number beyond "
                "float32, so that the model could compute nothing. Fetch the checkpoint again."
            )
        find_variable(model, binding.path).assign(packed)


def export_weights(model: Any, bindings: Iterable[Binding]) -> dict[str, np.ndarray]:
    """Returns a model's weights under a checkpoint's names, float32."""
    weights = {}
    for binding in bindings:
        array = keras.ops.convert_to_numpy(find_variable(model, binding.path))
        array = array.astype(np.float32)
        for source, part in zip(binding.sources, binding.unpack(array), strict=True):
            weights[source.name] = part
    return weights


def find_variable(model: Any, path: str) -> Any:
    """Returns the variable that attributes and indices lead to."""
    found = model
    for step in path.split("."):
        found = found[int(step)] if step.isdigit() else getattr(found, step)
    return found


def same_weights(weights: Mapping[str, Any], first: str, second: str) -> bool:
    """Says whether two weights of a checkpoint are equal."""
    return np.array_equal(weights[first].load(), weights[second].load())
