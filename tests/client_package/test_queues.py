"""The bounds of what waits."""

from sockjs_tornado.client.queues import Inbox, Outbox


async def test_the_inbox_counts_what_is_in_it() -> None:
    inbox = Inbox(1000)
    assert not inbox.changed.is_set()
    inbox.put(["a"], 500)
    assert inbox.changed.is_set()
    assert (inbox.is_full, inbox.is_low) == (False, False)
    inbox.put(["b", "c"], 400)
    assert inbox.is_full
    assert [inbox.take(), inbox.take()] == ["a", "b"]
    assert (inbox.is_full, inbox.is_low) == (False, True)
    assert inbox.take() == "c"
    assert (len(inbox), inbox._size) == (0, 0)
    assert not inbox.changed.is_set()


async def test_empty_messages_have_a_bound_too() -> None:
    inbox, outbox = Inbox(1000), Outbox(1000)
    inbox.put([""] * 20, 0)
    assert inbox.is_full
    for _ in range(20):
        outbox.put("")
    assert not outbox.room.is_set()


async def test_nobody_waits_for_an_inbox_that_has_ended() -> None:
    inbox = Inbox(1000)
    inbox.put(["a"], 1)
    inbox.end()
    assert inbox.take() == "a"
    assert inbox.changed.is_set()


async def test_the_outbox_hands_out_batches() -> None:
    outbox = Outbox(10**7)
    messages = ["x" * 300_000, *("y" * 100_000 for _ in range(3)), *(str(number) for number in range(1500))]
    for message in messages:
        outbox.put(message)
    batches = []
    while outbox.filled.is_set():
        batches.append(outbox.take())
    assert [message for batch in batches for message in batch] == messages
    assert [len(batch) for batch in batches] == [1, 2, 1000, 501]
    assert outbox.take() == []
    assert outbox._size == 0


async def test_a_cleared_outbox_has_room() -> None:
    outbox = Outbox(10)
    assert outbox.room.is_set()
    outbox.put("x" * 100)
    assert not outbox.room.is_set()
    outbox.clear()
    assert outbox.room.is_set()
    assert outbox.take() == []
