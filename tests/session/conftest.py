"""Fixtures of the tests of sessions."""

import pytest
from doubles import FakeManager


@pytest.fixture
def manager() -> FakeManager:
    return FakeManager()
