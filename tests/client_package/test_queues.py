"""The bounds of the client's queues."""

from sockjs_tornado.client.queues import ReceiveQueue, SendQueue


async def test_the_receive_queue_counts_its_messages() -> None:
    receive_queue = ReceiveQueue(1000)
    assert not receive_queue.readable.is_set()
    receive_queue.put(["a"], 500)
    assert receive_queue.readable.is_set()
    assert (receive_queue.is_full, receive_queue.below_low_water) == (False, False)
    receive_queue.put(["b", "c"], 400)
    assert receive_queue.is_full
    assert [receive_queue.get(), receive_queue.get()] == ["a", "b"]
    assert (receive_queue.is_full, receive_queue.below_low_water) == (False, True)
    assert receive_queue.get() == "c"
    assert (len(receive_queue), receive_queue._size) == (0, 0)
    assert not receive_queue.readable.is_set()


async def test_empty_messages_have_a_bound_too() -> None:
    receive_queue, send_queue = ReceiveQueue(1000), SendQueue(1000)
    receive_queue.put([""] * 20, 0)
    assert receive_queue.is_full
    for _ in range(20):
        send_queue.put("")
    assert not send_queue.not_full.is_set()


async def test_the_send_queue_returns_batches() -> None:
    send_queue = SendQueue(10**7)
    messages = ["x" * 300_000, *("y" * 100_000 for _ in range(3)), *(str(number) for number in range(1500))]
    for message in messages:
        send_queue.put(message)
    batches = []
    while send_queue.not_empty.is_set():
        batches.append(send_queue.get_batch())
    assert [message for batch in batches for message in batch] == messages
    assert [len(batch) for batch in batches] == [1, 2, 1000, 501]
    assert send_queue.get_batch() == []
    assert send_queue._size == 0


async def test_a_cleared_send_queue_is_not_full() -> None:
    send_queue = SendQueue(10)
    assert send_queue.not_full.is_set()
    send_queue.put("x" * 100)
    assert not send_queue.not_full.is_set()
    send_queue.clear()
    assert send_queue.not_full.is_set()
    assert send_queue.get_batch() == []
