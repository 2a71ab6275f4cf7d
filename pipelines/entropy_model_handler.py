"""An entropy model for Beam's RunInference, for pipelines that people compose themselves.

    handler = EntropyModelHandler("entropy.keras", rule=PatchRule(threshold_nats=1.3))
    results = documents | RunInference(handler)  # bytes in, an EntropyResult for each out

It runs the engine that `blt patch` runs and gives the same numbers. `blt patch` itself drives the
engine without RunInference, over whole shards: docs/architecture.md says why.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

from blt.dataset.storage import PlaceLike, as_place
from blt.engine.options import FLOAT32
from blt.patching.rules import PatchRule, find_patch_lengths
from blt.tokenizer import BOS_ID, VOCAB_SIZE, frame_tokens

NAMESPACE = "blt.engine"
DEFAULT_BATCH_SIZE = 256

Document = bytes | np.ndarray


class EntropyResult(NamedTuple):
    """What the model says about one element.

    Attributes:
      entropies: [num_tokens] float32, nats; entry t is about token t given those before it, and 0
        for BOS. None if the element was refused.
      token_nats: [num_tokens] float32, -ln p(token t); 0 for BOS. None likewise.
      patch_lengths: [num_patches] int32, sums to num_tokens; None without a rule.
      error: why the element was refused, in words; None if it was not.
    """

    entropies: np.ndarray | None = None
    token_nats: np.ndarray | None = None
    patch_lengths: np.ndarray | None = None
    error: str | None = None


class EntropyModelHandler(ModelHandler[Document, EntropyResult, Any]):
    """Runs an entropy model on documents: one result for each, in their order.

    An element is a document's bytes, of any encoding, which are framed as `BOS bytes EOS`; or its
    tokens, [num_tokens] integers in 0..259 that begin with BOS. Keyed elements need Beam's
    `KeyedModelHandler(handler)`.

    An element that is neither does not fail its batch: its result has an `error`, and the metric
    `refused_elements` counts it. RunInference's own `with_exception_handling` would give up the
    whole batch.

    Results depend neither on the batch nor on its size. There is no padding to the longest
    document, so batches need not be of equal lengths; but the end of each batch is padded to the
    engine's rows, so large batches are faster.

    Args:
      model: a file from `blt train-entropy` or `blt train-ngram`, where the workers see it: a path,
        or a URL of a store.
      rule: also cut each document into patches. With its `reset_on_newline`, entropies and nats are
        those of lines.
      precision: "float32", "bfloat16" or "auto": see `blt.engine.precision`.
      batch_size: documents in a batch. A fixed number, since Beam's estimate for a good one takes
        batches of one document first.
      resource_hints: Beam's, for the inference step, for example
        `{"accelerator": "type:nvidia-l4;count:1;install-nvidia-driver"}`.

    Raises:
      ValueError: the batch size is not positive.
    """

    def __init__(
        self,
        model: PlaceLike,
        *,
        rule: PatchRule | None = None,
        precision: str = FLOAT32,
        batch_size: int = DEFAULT_BATCH_SIZE,
        resource_hints: Mapping[str, Any] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._model = as_place(model)
        self._rule = rule
        self._precision = precision
        self._resource_hints = dict(resource_hints or {})

    def load_model(self) -> Any:
        """Returns the engine; a process loads it once, and its threads share it.

        Raises:
          UserError: the file is not there or holds no entropy model.
        """
        from blt.engine import LineEngine, get_entropy_engine, import_engine_backend

        import_engine_backend(self._model)
        engine = get_entropy_engine(self._model, precision=self._precision)
        if self._rule is not None and self._rule.reset_on_newline:
            return LineEngine(engine)
        return engine

    def run_inference(
        self,
        batch: Sequence[Document],
        model: Any,
        inference_args: dict[str, Any] | None = None,
    ) -> list[EntropyResult]:
        """Returns a result for each element, in order.

        Args:
          batch: the elements.
          model: the engine, from `load_model`.
          inference_args: there are none; see `validate_inference_args`.
        """
        results = [EntropyResult()] * len(batch)
        tokens = {}
        for index, element in enumerate(batch):
            try:
                tokens[index] = _read_tokens(element)
            except ValueError as error:
                results[index] = EntropyResult(error=str(error))
                Metrics.counter(NAMESPACE, "refused_elements").inc()
        for found in model.run(tokens.items()):
            own = tokens[found.key]
            lengths = None
            if self._rule is not None:
                lengths = find_patch_lengths(own, found.entropies, self._rule)
            results[found.key] = EntropyResult(found.entropies, found.token_nats, lengths)
        return results

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        """Raises ValueError if there are any: all settings are the handler's."""
        if inference_args:
            raise ValueError(
                f"EntropyModelHandler takes no inference_args, got {sorted(inference_args)}."
            )

    def update_model_path(self, model_path: str | None = None) -> None:
        """Raises ValueError for another path: boundaries of two models would be mixed."""
        if model_path:
            raise ValueError(
                f"EntropyModelHandler keeps to its model; it cannot change to {model_path}. "
                "Run the pipeline again with another handler."
            )

    def get_num_bytes(self, batch: Iterable[Document]) -> int:
        """Returns the size of the elements that are documents, as they came."""
        sizes = (
            element.nbytes if isinstance(element, np.ndarray) else len(element)
            for element in batch
            if isinstance(element, np.ndarray | bytes)
        )
        return sum(sizes)

    def get_metrics_namespace(self) -> str:
        return NAMESPACE

    def get_resource_hints(self) -> dict[str, Any]:
        return self._resource_hints

    def share_model_across_processes(self) -> bool:
        """False: a server process would have to pickle every batch there and every result back."""
        return False


def _read_tokens(element: Document) -> np.ndarray:
    """Returns an element's tokens; ValueError says why it has none."""
    if isinstance(element, bytes):
        return frame_tokens(element)
    if not isinstance(element, np.ndarray):
        raise ValueError(
            f"neither bytes nor an array of tokens, but {type(element).__name__}; encode text first"
        )
    if element.ndim != 1 or element.dtype.kind not in "iu":
        raise ValueError(
            f"tokens must be [num_tokens] integers, not {element.dtype} of shape {element.shape}"
        )
    if not len(element) or element[0] != BOS_ID:
        raise ValueError(f"tokens must begin with BOS ({BOS_ID})")
    if element.min() < 0 or element.max() >= VOCAB_SIZE:
        raise ValueError(f"a token id is outside 0..{VOCAB_SIZE - 1}")
    return element
