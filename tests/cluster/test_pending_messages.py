"""Messages that wait until they are received back from Redis."""

import asyncio
from typing import Any

from sockjs_tornado.cluster.pending_messages import PendingMessages


async def test_a_release_that_is_cancelled_while_its_last_message_is_delivered() -> None:
    delivered: list[Any] = []
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    pending = PendingMessages(lambda room, tag, message: delivered.append(message.message))
    pending.add("room", pending.create_tag(through_redis=False), "x", ())
    releasing = asyncio.create_task(pending.release_all())
    await asyncio.sleep(0)
    # The delivery runs before the task.
    releasing.cancel()
    await asyncio.wait([releasing])
    assert releasing.cancelled()
    assert (delivered, errors, bool(pending), pending.releases_all) == (["x"], [], False, False)
