"""The memory that incomplete requests and messages may take together."""

from sockjs_tornado.wire.budget import UNCOUNTED_BYTES, BudgetShare, ByteBudget


def test_a_budget_counts_what_is_not_free() -> None:
    budget = ByteBudget(10)
    first, second = BudgetShare(budget), BudgetShare(budget)
    assert first.fits(UNCOUNTED_BYTES + 10)
    assert not first.fits(UNCOUNTED_BYTES + 11)
    first.resize(UNCOUNTED_BYTES)
    assert budget.used == 0
    first.resize(UNCOUNTED_BYTES + 6)
    assert budget.used == 6
    # What it has is its own.
    assert first.fits(UNCOUNTED_BYTES + 10)
    assert second.fits(UNCOUNTED_BYTES + 4)
    assert not second.fits(UNCOUNTED_BYTES + 5)
    assert second.fits(UNCOUNTED_BYTES)
    second.resize(UNCOUNTED_BYTES + 4)
    first.resize(1)
    assert budget.used == 4
    assert first.fits(UNCOUNTED_BYTES + 6)
    assert BudgetShare(ByteBudget(0)).fits(2**70)
