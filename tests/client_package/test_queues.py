"""The bounds of what waits."""

from sockjs_tornado.client.queues import ReceiveQueue, SendQueue


async def test_the_inbox_counts_what_is_in_it() -> None:
    inbox = ReceiveQueue(1000)
    assert not inbox.readable.is_set()
    inbox.put(["a"], 500)
    assert inbox.readable.is_set()
    assert (inbox.is_full, inbox.below_low_water) == (False, False)
    inbox.put(["b", "c"], 400)
    assert inbox.is_full
    assert [inbox.get(), inbox.get()] == ["a", "b"]
    assert (inbox.is_full, inbox.below_low_water) == (False, True)
    assert inbox.get() == "c"
    assert (len(inbox), inbox._size) == (0, 0)
    assert not inbox.readable.is_set()


async def test_empty_messages_have_a_bound_too() -> None:
    inbox, outbox = ReceiveQueue(1000), SendQueue(1000)
    inbox.put([""] * 20, 0)
    assert inbox.is_full
    for _ in range(20):
        outbox.put("")
    assert not outbox.not_full.is_set()


async def test_nobody_waits_for_an_inbox_that_has_ended() -> None:
    inbox = ReceiveQueue(1000)
    inbox.put(["a"], 1)
    inbox.close()
    assert inbox.get() == "a"
    assert inbox.readable.is_set()


async def test_the_outbox_hands_out_batches() -> None:
    outbox = SendQueue(10**7)
    messages = ["x" * 300_000, *("y" * 100_000 for _ in range(3)), *(str(number) for number in range(1500))]
    for message in messages:
        outbox.put(message)
    batches = []
    while outbox.not_empty.is_set():
        batches.append(outbox.get_batch())
    assert [message for batch in batches for message in batch] == messages
    assert [len(batch) for batch in batches] == [1, 2, 1000, 501]
    assert outbox.get_batch() == []
    assert outbox._size == 0


async def test_a_cleared_outbox_has_room() -> None:
    outbox = SendQueue(10)
    assert outbox.not_full.is_set()
    outbox.put("x" * 100)
    assert not outbox.not_full.is_set()
    outbox.clear()
    assert outbox.not_full.is_set()
    assert outbox.get_batch() == []
