"""Fixtures of the tests of sessions."""

import pytest
from doubles import FakeContainer


@pytest.fixture
def container() -> FakeContainer:
    return FakeContainer()
