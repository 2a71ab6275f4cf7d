"""Generation: prompts in, bytes out, one at a time.

Patches are decided as bytes come. After token t its entropy model says how hard token t + 1 is to
guess, and the rule whether t + 1 opens a patch; if so, t ends one, the global transformer takes a
step, and t already reads the result. Greedy generation gives the argmax of full forward passes.

Each row draws from a random generator of its own, so a prompt gives the same whatever it shares a
batch with.
"""

import codecs
import dataclasses
import functools
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from blt.errors import ConfigError
from blt.generation.incremental import IncrementalBlt, make_room
from blt.layers.patcher import cut_context
from blt.layers.registry import check_keys
from blt.model.blt import ByteLatentTransformer
from blt.model.compiled import compile_function
from blt.patching.rules import find_patch_lengths
from blt.tokenizer import BYTE_OFFSET, EOS_ID, NEWLINE_ID, PAD_ID, frame_tokens

_FIRST_ROOM = 16  # bytes in a patch that caches have room for at first


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How to generate.

    Attributes:
      max_new_tokens: bytes at most; generation also ends where the model says EOS.
      temperature: 0 takes the likeliest byte; else logits are divided by it.
      top_k: draw from the k likeliest alone; None for all.
      top_p: draw from the likeliest whose probabilities sum to p; None for all.
      seed: of the draws; a number, or one for each prompt. Equal prompts of equal seed give the
        same.
      strip_prompt: give back what is new alone.
      return_bytes: give back bytes, instead of text in which bytes that are no UTF-8 show as
        U+FFFD.
      stream: give back an iterator of what is new, piece by piece (of lists of pieces, one for each
        prompt, where the prompts are a list); together they are what is new.
      use_cache: False computes all anew for every byte, to compare with.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | Sequence[int] = 0
    strip_prompt: bool = False
    return_bytes: bool = False
    stream: bool = False
    use_cache: bool = True

    def __post_init__(self) -> None:
        seeds = self.seed if isinstance(self.seed, list | tuple | np.ndarray) else [self.seed]
        for name, is_right, wanted in (
            ("max_new_tokens", _is_whole(self.max_new_tokens), "at least 0"),
            ("temperature", _is_real(self.temperature), "at least 0"),
            ("top_k", self.top_k is None or _is_whole(self.top_k, 1), "at least 1, or None"),
            ("top_p", self.top_p is None or _is_share(self.top_p), "in (0, 1], or None"),
            ("seed", all(map(_is_whole, seeds)), "at least 0, or such for each prompt"),
        ):
            if not is_right:
                raise ConfigError(f"{name} must be {wanted}, got {getattr(self, name)!r}.")


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, numbers.Integral) and value >= least


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and value >= 0


def _is_share(value: Any) -> bool:
    return isinstance(value, numbers.Real) and 0 < value <= 1


Prompt = str | bytes | bytearray


def generate(
    model: ByteLatentTransformer, prompts: Prompt | Iterable[Prompt], **options: Any
) -> Any:
    """Goes on with prompts.

    Args:
      model: a BLT that can cut patches itself: with a rule, and the entropy model that it needs.
      prompts: text or bytes, or a list of them; they may be empty and of unequal lengths. BOS is
        put before each. Numbers are refused, since they may be ids or bytes:
        `blt.tokenizer.tokens_to_bytes(ids)` makes a prompt of ids, `bytes(values)` one of bytes.
      **options: see `GenerationConfig`.

    Returns:
      Text (bytes with `return_bytes`) for one prompt, a list for a list; an iterator with `stream`.

    Raises:
      ConfigError: an option is unknown or out of range, there are no prompts, a prompt is neither
        text nor bytes, or the model cannot cut patches.
    """
    check_keys("generate", options, [f.name for f in dataclasses.fields(GenerationConfig)])
    config = GenerationConfig(**options)
    is_one = isinstance(prompts, Prompt)
    raw = [_raw_bytes("prompts", prompts)] if is_one else _raw_prompts(prompts)
    if not raw:
        raise ConfigError("generate: there are no prompts; give at least one, if an empty one.")
    seeds = (
        [config.seed] * len(raw) if isinstance(config.seed, numbers.Integral) else list(config.seed)
    )
    if len(seeds) != len(raw):
        raise ConfigError(f"seed: {len(seeds)} seeds for {len(raw)} prompts; give one for each.")
    new_bytes = _run(model, raw, config, seeds)
    if config.stream:
        return _pieces(new_bytes, len(raw), config, is_one)
    rows = [bytearray(b"" if config.strip_prompt else prompt) for prompt in raw]
    for step in new_bytes:
        for row, byte in zip(rows, step, strict=True):
            if byte is not None:
                row.append(byte)
    results = [
        bytes(row) if config.return_bytes else row.decode("utf-8", "replace") for row in rows
    ]
    return results[0] if is_one else results


def _raw_prompts(prompts: Any) -> list[bytes]:
    """Returns the bytes of several prompts; raises ConfigError if they are something else."""
    try:
        given = None if isinstance(prompts, Mapping) else list(prompts)
    except TypeError:  # a single number, or nothing
        given = None
    if given is None:
        return [_raw_bytes("prompts", prompts)]
    return [_raw_bytes(f"prompts[{i}]", prompt) for i, prompt in enumerate(given)]


def _raw_bytes(name: str, prompt: Any) -> bytes:
    """Returns the bytes of a prompt; raises ConfigError if it is neither text nor bytes."""
    if isinstance(prompt, str):
        try:
            return prompt.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"generate: {name} holds an unpaired surrogate ({prompt[error.start]!a}), which is "
                "no text. Give bytes."
            ) from error
    if isinstance(prompt, bytes | bytearray):
        return bytes(prompt)
    raise ConfigError(
        f"generate: {name} is of type {type(prompt).__name__}, but a prompt is text or bytes. "
        "Numbers may be ids or bytes: for ids pass blt.tokenizer.tokens_to_bytes(ids), for values "
        "of bytes pass bytes(values)."
    )


def _pieces(
    new_bytes: Iterator[list[int | None]], num_rows: int, config: GenerationConfig, is_one: bool
) -> Iterator[Any]:
    """Yields what is new as it comes; text only up to the last whole character."""
    decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(num_rows)]

    def piece(row: int, byte: int | None, final: bool = False) -> Any:
        data = b"" if byte is None else bytes([byte])
        return data if config.return_bytes else decoders[row].decode(data, final)

    for step in new_bytes:
        pieces = [piece(row, byte) for row, byte in enumerate(step)]
        if any(pieces):
            yield pieces[0] if is_one else pieces
    pieces = [piece(row, None, final=True) for row in range(num_rows)]
    if any(pieces):
        yield pieces[0] if is_one else pieces


def _run(
    model: ByteLatentTransformer,
    prompts: list[bytes],
    config: GenerationConfig,
    seeds: list[int],
) -> Iterator[list[int | None]]:
    """Yields the new byte of each row, None once a row has ended."""
    if model.patch_rule is not None and model.patch_rule.snap_utf8:
        raise ConfigError(
            "generate: the model was made for patches that are snapped to UTF-8 characters "
            "(snap_utf8); where those begin depends on bytes that are not there yet. Train one on "
            "boundaries without --snap-utf8."
        )
    if model.patcher is None or (model.patch_rule.needs_entropies and model.entropy_model is None):
        raise ConfigError(
            "generate: the model cannot cut patches. Give it a patch_rule, and the entropy_model "
            "that the rule needs."
        )
    rows = [_Row(model, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    driver = (_CachedDriver if config.use_cache and can_cache(model) else _FullDriver)(model)
    logits = driver.begin(rows) if config.max_new_tokens else None
    for number in range(config.max_new_tokens):
        step: list[int | None] = []
        for row, row_logits in zip(rows, logits, strict=True):
            token = None if row.ended else choose_token(row_logits, config, row.rng)
            row.ended = row.ended or token == EOS_ID
            step.append(None if row.ended else token - BYTE_OFFSET)
            row.append(PAD_ID + BYTE_OFFSET if row.ended else token)
        if all(row.ended for row in rows):
            return
        yield step
        if number + 1 < config.max_new_tokens:
            logits = driver.step(rows)


def can_cache(model: ByteLatentTransformer) -> bool:
    """Says whether the caches hold all that a patch looks at: the bytes of that patch alone.

    Where patches also see the bytes of those before them, every byte takes a full pass.
    """
    cross_attention_layers = model.local_encoder.cross_attention_layers
    return all(layer.window == 1 for layer in cross_attention_layers)


def choose_token(logits: np.ndarray, config: GenerationConfig, rng: np.random.Generator) -> int:
    """Chooses the next token, a byte or EOS, from logits [vocab_size]."""
    logits = logits.astype(np.float64)
    allowed = np.zeros(len(logits), bool)
    allowed[EOS_ID] = True
    allowed[BYTE_OFFSET:] = True
    logits[~allowed] = -np.inf
    if config.temperature == 0:
        return int(np.argmax(logits))
    logits = (logits - logits.max()) / config.temperature
    order = np.argsort(-logits, kind="stable")
    weights = np.exp(logits[order])
    if config.top_k is not None:
        weights[config.top_k :] = 0.0
    weights /= weights.sum()
    if config.top_p is not None:
        before = np.cumsum(weights) - weights
        weights[before >= config.top_p] = 0.0  # the one that reaches p stays
        weights /= weights.sum()
    total = np.cumsum(weights)
    place = np.searchsorted(total, rng.random() * total[-1], side="right")
    return int(order[min(place, np.flatnonzero(weights)[-1])])


class _Row:
    """The tokens of one prompt, their entropies, and where its patches end."""

    def __init__(self, model: ByteLatentTransformer, prompt: bytes, seed: int) -> None:
        self._rule = model.patch_rule
        self.tokens = frame_tokens(prompt, add_eos=False).astype(np.int32)
        # Entry t is about token t. While token t is the last one, there may be an entry t + 1.
        self.entropies = np.zeros(1, np.float32)
        self.rng = np.random.default_rng(seed)
        self.ended = False

    def append(self, token: int) -> None:
        self.tokens = np.append(self.tokens, np.int32(token))

    def entropy_segment(self) -> int:
        """Returns which segment the last token is of, for the entropy model; see `cut_context`."""
        if not self._rule.reset_on_newline:
            return 1
        return 1 + int(np.count_nonzero(self.tokens[:-1] == NEWLINE_ID))

    def patch_lengths(self, num_tokens: int) -> np.ndarray:
        """Cuts the first tokens; there may be one more than there are, whatever it will be."""
        tokens = np.append(self.tokens, np.int32(BYTE_OFFSET))[:num_tokens]
        entropies = self.entropies[:num_tokens] if self._rule.needs_entropies else None
        return find_patch_lengths(tokens, entropies, self._rule)


class _Programs:
    """The compiled programs of one model."""

    def __init__(self, model: ByteLatentTransformer) -> None:
        self._model = model
        self._blt = IncrementalBlt(model)
        entropy_model, rule = model.entropy_model, model.patch_rule

        def entropies(tokens: Any, segment_ids: Any) -> Any:
            tokens, segment_ids = cut_context(tokens, segment_ids, rule)
            return entropy_model.compute_entropy(entropy_model(tokens, segment_ids=segment_ids))

        def stream(tokens: Any, segment_ids: Any, state: Any) -> tuple[Any, Any]:
            tokens, segment_ids = cut_context(tokens, segment_ids, rule)
            logits, state = entropy_model.stream(tokens, segment_ids, state)
            return entropy_model.compute_entropy(logits), state

        self.step = self._compile(self._blt.step)
        self.step_inside_patches = self._compile(
            lambda tokens, open_lengths, state: self._blt.step(tokens, open_lengths, None, state)
        )
        self.full = self._compile(lambda *arrays: model(*arrays))
        self.entropies = self._compile(entropies)
        self.stream = self._compile(stream)
        self._prefills: dict[tuple[int, int], Any] = {}

    def _compile(self, function: Any) -> Any:
        # XLA would take longer to compile than most texts take to make.
        return compile_function(self._model, function, jit_compile=False)

    def prefill(self, *arrays: Any, patch_room: int, byte_room: int) -> Any:
        rooms = patch_room, byte_room
        if rooms not in self._prefills:
            self._prefills[rooms] = self._compile(
                functools.partial(self._blt.prefill, patch_room=patch_room, byte_room=byte_room)
            )
        return self._prefills[rooms](*arrays)


def _programs_of(model: ByteLatentTransformer) -> _Programs:
    """Returns the model's programs, which live as long as it does."""
    if getattr(model, "_generation_programs", None) is None:
        model._generation_programs = _Programs(model)
    return model._generation_programs


def _room_for(number: int, least: int = _FIRST_ROOM) -> int:
    """Returns the least power of two times `least` that is not below `number`.

    Programs are compiled for shapes: so there are few of them, and a cache grows seldom.
    """
    room = least
    while room < number:
        room *= 2
    return room


class _CachedDriver:
    """Runs rows with what they have seen kept in caches."""

    def __init__(self, model: ByteLatentTransformer) -> None:
        self._model = model
        self._programs = _programs_of(model)
        self._needs_entropies = model.patch_rule.needs_entropies

    def begin(self, rows: list[_Row]) -> np.ndarray:
        """Reads the prompts; returns [rows, vocab_size] logits of the next tokens."""
        model, batch = self._model, len(rows)
        block = model.block_size
        if self._needs_entropies:
            block = max(block, model.entropy_model.block_size)
        # All but the last token of each, which the first step reads.
        counts = [len(row.tokens) - 1 for row in rows]
        num_tokens = _room_for(max(counts), block)
        tokens = np.full((batch, num_tokens), PAD_ID, np.int32)
        segment_ids = np.zeros_like(tokens)
        for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
            tokens[i, num_tokens - count :] = row.tokens[:-1]
            segment_ids[i, num_tokens - count :] = 1
        if self._needs_entropies:
            entropies, self._entropy_state = self._programs.stream(
                tokens, segment_ids, model.entropy_model.initial_state(batch)
            )
            entropies = ops.convert_to_numpy(entropies)
            for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
                row.entropies = np.append(np.float32(0), entropies[i, num_tokens - count :])

        cuts = [row.patch_lengths(len(row.tokens)) for row in rows]
        self._num_patches = np.array([len(cut) - 1 for cut in cuts])  # complete ones
        self._patch_room = _room_for(self._num_patches.max() + 1)
        self._byte_room = _room_for(max(cut[-1] for cut in cuts))
        patch_lengths = np.zeros((batch, self._patch_room), np.int32)
        for i, (cut, count) in enumerate(zip(cuts, counts, strict=True)):
            first = self._patch_room - len(cut)
            patch_lengths[i, first] = num_tokens - count
            patch_lengths[i, first + 1 :] = cut[:-1]
        self._state = self._programs.prefill(
            tokens,
            segment_ids,
            patch_lengths,
            patch_room=self._patch_room,
            byte_room=self._byte_room,
        )
        return self.step(rows)

    def step(self, rows: list[_Row]) -> np.ndarray:
        """Reads the last token of each row; returns logits as `begin` does."""
        tokens = np.array([row.tokens[-1] for row in rows], np.int32)
        if self._needs_entropies:
            segments = np.array([[row.entropy_segment()] for row in rows], np.int32)
            entropies, self._entropy_state = self._programs.stream(
                tokens[:, None], segments, self._entropy_state
            )
            for row, entropy in zip(rows, ops.convert_to_numpy(entropies), strict=True):
                row.entropies = np.append(row.entropies, entropy)
        cuts = [row.patch_lengths(len(row.tokens) + 1) for row in rows]
        closes = np.array([cut[-1] == 1 for cut in cuts])
        open_lengths = np.array(
            [cut[-2] if ends else cut[-1] - 1 for cut, ends in zip(cuts, closes, strict=True)],
            np.int32,
        )
        self._make_room(open_lengths, closes)
        if closes.any():
            logits, self._state = self._programs.step(tokens, open_lengths, closes, self._state)
        else:
            logits, self._state = self._programs.step_inside_patches(
                tokens, open_lengths, self._state
            )
        return ops.convert_to_numpy(logits)

    def _make_room(self, open_lengths: np.ndarray, closes: np.ndarray) -> None:
        self._num_patches += closes
        patches = _room_for(self._num_patches.max(), self._patch_room) - self._patch_room
        byte_states = _room_for(open_lengths.max() - 1, self._byte_room) - self._byte_room
        if patches or byte_states:
            self._state = make_room(self._state, patches=patches, byte_states=byte_states)
            self._patch_room += patches
            self._byte_room += byte_states


class _FullDriver:
    """Computes everything anew for every token: what the cache is measured against."""

    def __init__(self, model: ByteLatentTransformer) -> None:
        self._model = model
        self._programs = _programs_of(model)

    def begin(self, rows: list[_Row]) -> np.ndarray:
        """Returns [rows, vocab_size] logits of the next tokens."""
        return self.step(rows)

    def step(self, rows: list[_Row]) -> np.ndarray:
        """Does what `begin` does, for the tokens there are now."""
        counts = [len(row.tokens) for row in rows]
        tokens = np.full((len(rows), _room_for(max(counts))), PAD_ID, np.int32)
        segment_ids = np.zeros_like(tokens)
        for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
            tokens[i, :count] = row.tokens
            segment_ids[i, :count] = 1
        if self._model.patch_rule.needs_entropies:
            entropies = ops.convert_to_numpy(self._programs.entropies(tokens, segment_ids))
            for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
                row.entropies = np.append(np.float32(0), entropies[i, :count])
        cuts = [row.patch_lengths(count + 1) for row, count in zip(rows, counts, strict=True)]
        patch_lengths = np.zeros((len(rows), _room_for(max(map(len, cuts)))), np.int32)
        for i, cut in enumerate(cuts):
            patch_lengths[i, : len(cut)] = cut
        logits = ops.convert_to_numpy(self._programs.full(tokens, patch_lengths, segment_ids))
        return logits[np.arange(len(rows)), np.array(counts) - 1]
