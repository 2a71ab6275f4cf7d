"""Bits per byte of documents, by either model; `keras.ops` alone, on every backend."""

from blt.scoring.blt_scorer import BltScorer
from blt.scoring.entropy_scorer import EntropyScorer
from blt.scoring.shard import score_shard
from blt.scoring.summary import summarize_scores

__all__ = ["BltScorer", "EntropyScorer", "score_shard", "summarize_scores"]
