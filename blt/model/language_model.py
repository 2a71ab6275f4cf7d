"""What our models share as Keras models: the methods that Keras's users call, as these expect them.

Keras's own would do for a model whose inputs are float vectors. Ours take ids in rows of a fixed
length, give float32 logits, and may hold another model inside.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from blt.errors import ConfigError

# The modes of Keras that need no data and lose nothing in a file. "gptq" and "awq" calibrate on
# text, and "float8" is a way to train.
QUANTIZATION_MODES = ("int8", "int4")


class ByteLanguageModel(keras.Model):
    """A model [batch, num_tokens] ids -> [batch, num_tokens, vocab_size] float32 logits.

    A subclass has an attribute `vocab_size`, and the names of its call's arguments in
    `input_names`; it builds itself in its constructor.
    """

    input_names: tuple[str, ...] = ("tokens", "segment_ids")
    vocab_size: int
    _quantization: dict[str, Any] | None = None

    def take_inputs(self, tokens: Any, *others: Any) -> tuple[Any, ...]:
        """Returns the call's arguments, in the order of `input_names`.

        `fit`, `evaluate` and `predict` give a model its inputs as one: here `tokens` may be a dict
        of arguments by name, or a list or tuple of them in order.

        Raises:
          ConfigError: an argument is not known, is given twice, `tokens` is not
            [batch, num_tokens], or `segment_ids` is not of its shape.
        """
        found = dict(zip(self.input_names, (tokens, *others), strict=True))
        if isinstance(tokens, Mapping | list | tuple):
            del found["tokens"]
            for name, value in self._by_name(tokens).items():
                if found.get(name) is not None:
                    raise ConfigError(f"inputs: {name!r} is given twice.")
                found[name] = value
            if found.get("tokens") is None:
                raise ConfigError("inputs: 'tokens' is missing.")
        shape = tuple(found["tokens"].shape)
        if len(shape) != 2:
            raise ConfigError(
                f"tokens: of shape {shape}, but rows are needed, [batch, num_tokens]. "
                "A single row is tokens[None]."
            )
        segment_ids = found["segment_ids"]
        if segment_ids is not None and tuple(segment_ids.shape)[1:] != shape[1:]:
            raise ConfigError(
                f"segment_ids: of shape {tuple(segment_ids.shape)}, but every token has one, and "
                f"tokens are of shape {shape}."
            )
        return tuple(found[name] for name in self.input_names)

    def _by_name(self, inputs: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
        """Names inputs that come as one."""
        names = self.input_names
        if not isinstance(inputs, Mapping):
            if len(inputs) > len(names):
                raise ConfigError(
                    f"{len(inputs)} inputs: at most {len(names)} are taken, {', '.join(names)}."
                )
            return dict(zip(names, inputs, strict=False))
        for name in inputs:
            if name not in names:
                raise ConfigError(f"inputs: {name!r} is not one of {', '.join(names)}.")
        return dict(inputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the logits.

        Args:
          input_shape: of the tokens, (batch, num_tokens); or a dict, list or tuple of the shapes of
            all inputs, as the call takes them.
        """
        if isinstance(input_shape, Mapping):
            input_shape = input_shape["tokens"]
        elif len(input_shape) and isinstance(input_shape[0], list | tuple):
            input_shape = input_shape[0]
        return (*input_shape, self.vocab_size)

    def compute_output_spec(self, tokens: Any, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        """Returns the logits as Keras describes a tensor: float32 under every precision policy."""
        names = self.input_names[1:]
        others = {**dict(zip(names, args, strict=False)), **kwargs}
        tokens = self.take_inputs(tokens, *(others.get(name) for name in names))[0]
        return keras.KerasTensor(self.compute_output_shape(tokens.shape), dtype="float32")

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any) -> None:
        """As Keras's; "sparse_categorical_crossentropy" is of logits, which this model gives."""
        if loss == "sparse_categorical_crossentropy":
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def get_compile_config(self) -> dict[str, Any] | None:
        return super().get_compile_config()

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        # Keras leaves this to models that override `compile`.
        self.compile(**keras.saving.deserialize_keras_object(dict(config)))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def save(self, filepath: str | Path, *args: Any, **kwargs: Any) -> None:
        """As Keras's, to a name that ends with `.keras`.

        Raises:
          ConfigError: it ends with `.h5` or `.hdf5`: of such a file Keras could not tell which
            package a class is of, and would not read it.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ConfigError(
                f"{filepath}: Keras could not read this model from an HDF5 file. Save it as "
                f"{Path(filepath).with_suffix('.keras')}; `save_weights` writes weights alone, to "
                "a name that ends with .weights.h5."
            )
        super().save(filepath, *args, **kwargs)

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",  # Keras's name
        verbose: bool | None = None,
        input_signature: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """As Keras's, with an `input_signature` that fixes the number of tokens in a row.

        Logits never depend on later tokens. So shorter rows can be padded, and their logits cut.

        Raises:
          ConfigError: there is no signature, or it leaves the number of tokens open. Keras's guess
            would be rows of floats of one block.
        """
        example = "input_signature=[keras.InputSpec(shape=(None, 512), dtype='int32')]"
        if input_signature is None:
            raise ConfigError(
                f"export: say how many tokens a row has, such as {example}. An exported model "
                "takes any number of rows of that length; pad shorter ones at their end."
            )
        for spec in keras.tree.flatten(input_signature):
            if spec.shape is None or None in tuple(spec.shape)[1:]:
                raise ConfigError(
                    f"export: a shape of {tuple(spec.shape or ())} leaves a length open, and "
                    f"models are exported for rows of one length, such as {example}."
                )
        super().export(
            filepath, format=format, verbose=verbose, input_signature=input_signature, **kwargs
        )

    @property
    def _default_save_signature(self) -> None:
        """On TensorFlow, what Keras adds to a SavedModel unasked: a program of its own guess."""
        return None

    def quantize(
        self,
        mode: str | None = None,
        config: Any = None,
        filters: str | Sequence[str] | Callable[[Any], bool] | None = None,
        **kwargs: Any,
    ) -> None:
        """As Keras's, of all dense layers; embeddings and norms keep their numbers.

        Files of the model keep it quantized. Quantizing is for inference: such layers do not train.

        Args:
          mode: "int8" or "int4".
          config: in place of `mode`, a `keras.quantizers` config of one of these.
          filters: names of layers, as regular expressions; None for all.

        Raises:
          ConfigError: of another mode, of a model that is quantized already, or where `filters` is
            a function, which a file cannot keep.
        """
        # Keras's wrapper around this method has made `config` of `mode`, or `mode` of `config`.
        if mode not in QUANTIZATION_MODES:
            raise ConfigError(
                f"quantize: mode {mode!r} is not one of {', '.join(QUANTIZATION_MODES)}."
            )
        if self._quantization is not None:
            raise ConfigError("quantize: this model is quantized already; load it anew.")
        if callable(filters):
            raise ConfigError(
                "quantize: filters must be names of layers as regular expressions; a model file "
                "could not keep a function."
            )
        patterns = [filters] if isinstance(filters, str) else filters
        described = {
            "mode": mode,
            "config": keras.saving.serialize_keras_object(config),
            "filters": patterns and list(patterns),
        }
        left_out = {id(layer) for layer in self._layers_not_quantized()}

        def is_chosen(layer: keras.layers.Layer) -> bool:
            if not isinstance(layer, keras.layers.Dense) or id(layer) in left_out:
                return False
            return patterns is None or any(re.search(each, layer.name) for each in patterns)

        super().quantize(mode, config=config, filters=is_chosen, **kwargs)
        self._quantization = described

    @property
    def quantized_mode(self) -> str | None:
        """The mode that `quantize` was called with; None for a model that is not quantized."""
        return self._quantization and self._quantization["mode"]

    def _layers_not_quantized(self) -> Sequence[keras.layers.Layer]:
        """Returns layers that `quantize` passes over."""
        return ()

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        # Only where there is something to say: the config is part of a model's fingerprint.
        return (
            config if self._quantization is None else {**config, "quantization": self._quantization}
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Any:
        """Makes the model of a config, quantized as the one that gave the config."""
        arguments = dict(config)
        quantization = arguments.pop("quantization", None)
        model = cls(**arguments)
        if quantization is not None:
            model.quantize(
                config=keras.saving.deserialize_keras_object(quantization["config"]),
                filters=quantization["filters"],
            )
        return model
