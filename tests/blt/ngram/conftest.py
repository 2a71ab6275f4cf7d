"""Real text, and models of it."""

import pydoc_data.topics

import pytest

from blt.ngram.config import NgramConfig
from blt.ngram.counting import count_documents
from blt.ngram.model import build_model
from blt.tokenizer import frame_tokens


@pytest.fixture(scope="session")
def documents():
    """Python's help topics: [(name, tokens)]."""
    topics = sorted(pydoc_data.topics.topics.items())
    return [frame_tokens(text.encode()) for _, text in topics]


@pytest.fixture(scope="session")
def make_model(documents):
    """Makes a model of the first 60 documents."""

    def make(**options):
        config = NgramConfig(**options)
        return build_model(count_documents(documents[:60], config.order + 1), config)

    return make


@pytest.fixture(scope="session")
def model(make_model):
    return make_model(order=4, min_count=2)
