"""A mixture of experts in place of a feed-forward network.

Every token goes to its `top_k` experts and none is dropped, unless a capacity is set. Without one,
each expert runs on every token and the weights of those that were not chosen are 0: exact, of one
shape on every backend, independent of the other tokens, and as costly as all experts together. With
a capacity, an expert runs on that many tokens alone, and those that come later in the batch go
without it: cheap, but what a token gets then depends on the tokens around it.
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from blt.errors import ConfigError
from blt.layers.feed_forward import create_ffn_from_config
from blt.layers.registry import check_keys

_GATING_DEFAULTS = {
    "gating_type": "linear",
    "top_k": 2,
    "capacity_factor": None,
    "balance_loss_weight": 0.01,
}


@keras.saving.register_keras_serializable(package="blt")
class MixtureOfExperts(keras.layers.Layer):
    """`sum_e g_e(x) expert_e(x)` over the experts chosen for x.

    g is the softmax over the experts, kept for the `top_k` largest and scaled to sum to 1.

    Args:
      num_experts: feed-forward networks.
      expert_config: `{"ffn_config": ...}`, see `create_ffn_from_config`.
      gating_config: `gating_type` ("linear"), `top_k`, `capacity_factor` (an expert takes
        `capacity_factor * top_k * tokens / num_experts` tokens; None for no limit) and
        `balance_loss_weight`.

    Call:
      x: [..., dim].
      is_token: [...] bool, the places that count in the balance loss; None for all.

    Returns:
      [..., output_dim or dim]. In training, the balance loss of Fedus et al. 2021 (arXiv
      2101.03961, equation 4) is added: `num_experts * sum_e (share of tokens sent to e) * (mean
      probability of e)`, times its weight; it is 1 times the weight where all is even.

    Raises:
      ConfigError: a key is not known, or a number is out of range.
    """

    def __init__(
        self,
        num_experts: int,
        *,
        expert_config: Mapping[str, Any] | None = None,
        gating_config: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        expert_config, gating_config = dict(expert_config or {}), dict(gating_config or {})
        check_keys("expert_config", expert_config, ["ffn_config"])
        check_keys("gating_config", gating_config, _GATING_DEFAULTS)
        gating_config = {**_GATING_DEFAULTS, **gating_config}
        if gating_config["gating_type"] != "linear":
            raise ConfigError(
                f"gating_type {gating_config['gating_type']!r}: 'linear' is the only one."
            )
        if num_experts < 1:
            raise ConfigError(f"num_experts must be at least 1, got {num_experts}.")
        if not 1 <= gating_config["top_k"] <= num_experts:
            raise ConfigError(
                f"top_k must be in [1, num_experts = {num_experts}], got {gating_config['top_k']}."
            )
        capacity = gating_config["capacity_factor"]
        if capacity is not None and capacity <= 0:
            raise ConfigError(f"capacity_factor must be above 0, or None, got {capacity}.")
        self.num_experts = num_experts
        self.expert_config = expert_config
        self.gating_config = gating_config
        self.router = keras.layers.Dense(
            num_experts, use_bias=False, name="router", dtype="float32"
        )
        self.experts = [
            create_ffn_from_config(
                expert_config.get("ffn_config", "swiglu"),
                name=f"expert_{i}",
                dtype=self.dtype_policy,
            )
            for i in range(num_experts)
        ]

    def build(self, input_shape: Any) -> None:
        self.router.build(input_shape)
        for expert in self.experts:
            expert.build(input_shape)

    def call(self, x: Any, is_token: Any = None, training: bool | None = None) -> Any:
        inner_shape = x.shape[1:-1]
        flat = ops.reshape(x, (-1, x.shape[-1]))
        probabilities = ops.softmax(self.router(ops.cast(flat, "float32")), axis=-1)
        top, chosen = ops.top_k(probabilities, self.gating_config["top_k"])
        is_chosen = ops.sum(ops.one_hot(chosen, self.num_experts, dtype="float32"), axis=1)
        weights = is_chosen * probabilities / ops.sum(top, axis=-1, keepdims=True)
        if training:
            self._add_balance_loss(probabilities, is_chosen, is_token)
        y = self._run_experts(flat, weights)
        return ops.reshape(y, (-1, *inner_shape, y.shape[-1]))

    def _run_experts(self, flat: Any, weights: Any) -> Any:
        """flat [tokens, dim], weights [tokens, num_experts] float32 -> [tokens, output_dim]."""
        factor = self.gating_config["capacity_factor"]
        y = 0.0
        for number, expert in enumerate(self.experts):
            weight = ops.cast(weights[:, number, None], self.compute_dtype)
            if factor is None:
                y = y + weight * expert(flat)
            else:
                y = y + self._run_within_capacity(expert, flat, weight, factor)
        return y

    def _run_within_capacity(self, expert: Any, flat: Any, weight: Any, factor: float) -> Any:
        num_tokens = ops.shape(flat)[0]  # a tensor where the batch is not known beforehand
        share = factor * self.gating_config["top_k"] / self.num_experts
        capacity = ops.cast(ops.ceil(share * ops.cast(num_tokens, "float32")), "int32")
        if flat.shape[0] is not None:
            capacity = min(num_tokens, math.ceil(share * num_tokens))
        # The chosen tokens in order, then the others, whose weight is 0.
        order = ops.argsort(
            ops.cast(weight[:, 0] == 0, "int32") * num_tokens
            + ops.arange(num_tokens, dtype="int32")
        )
        taken = order[:capacity]
        y = ops.take(weight, taken, axis=0) * expert(ops.take(flat, taken, axis=0))
        return ops.segment_sum(y, taken, num_segments=num_tokens)

    def _add_balance_loss(self, probabilities: Any, is_chosen: Any, is_token: Any) -> None:
        counted = ops.ones_like(probabilities[:, 0])
        if is_token is not None:
            counted = ops.cast(ops.reshape(is_token, (-1,)), "float32")
        total = ops.maximum(ops.sum(counted), 1.0)
        sent = ops.sum(is_chosen * counted[:, None], axis=0) / total / self.gating_config["top_k"]
        mean = ops.sum(probabilities * counted[:, None], axis=0) / total
        loss = self.num_experts * ops.sum(ops.stop_gradient(sent) * mean)
        self.add_loss(self.gating_config["balance_loss_weight"] * loss)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.experts[0].compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "expert_config": self.expert_config,
            "gating_config": self.gating_config,
        }
