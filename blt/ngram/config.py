"""What an n-gram model is asked for."""

import dataclasses

from blt.dataset.splits import DEFAULT_SEED, DEFAULT_VALID_FRACTION
from blt.errors import ConfigError
from blt.ngram.grams import MAX_ORDER

DEFAULT_ORDER = 6
DEFAULT_MIN_COUNT = 2
DEFAULT_MAX_MEGABYTES = 64.0
DEFAULT_SAMPLE_BYTES = 100_000_000


@dataclasses.dataclass(frozen=True)
class NgramConfig:
    """How an n-gram model is made.

    Attributes:
      order: tokens of context that it looks back at most.
      min_count: grams of three tokens and more that were seen less often are left out.
      max_megabytes: size of the file; `min_count` is raised until it fits (1 MB is 10**6 bytes).
      sample_bytes: about how much text is counted; documents are chosen by a hash of their id.
      valid_fraction: documents held out; never counted.
      seed: of both hashes.

    Raises:
      ConfigError: a value is out of its range.
    """

    order: int = DEFAULT_ORDER
    min_count: int = DEFAULT_MIN_COUNT
    max_megabytes: float = DEFAULT_MAX_MEGABYTES
    sample_bytes: int = DEFAULT_SAMPLE_BYTES
    valid_fraction: float = DEFAULT_VALID_FRACTION
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MAX_ORDER:
            raise ConfigError(f"--order {self.order}: must be from 1 to {MAX_ORDER}.")
        if self.min_count < 1:
            raise ConfigError(f"--min-count {self.min_count}: must be 1 or more.")
        if not 2 <= self.max_megabytes <= 16_000:
            raise ConfigError(f"--max-megabytes {self.max_megabytes:g}: must be from 2 to 16,000.")
        if self.sample_bytes < 1:
            raise ConfigError(f"--sample-bytes {self.sample_bytes}: must be 1 or more.")
