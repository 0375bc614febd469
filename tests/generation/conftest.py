"""The shipped model, loaded once."""

import pytest
from shipped import make_spec

from diffcore.generation import load_pipeline


@pytest.fixture(scope="session")
def pipeline():
    return load_pipeline(make_spec())
