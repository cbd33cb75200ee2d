"""Helpers of the tests that run programs."""

from programs import without_slow_records


def test_records_about_what_blocked_the_event_loop_are_left_out() -> None:
    log = (
        "before\n"
        "Echo.on_message blocked the event loop for 0.200 s, in which no client was served: use `async def`\n"
        "WARNING sockjs_tornado: the event loop was blocked for at least 0.200 s, by an async callback\n"
        "after\n"
    )
    assert without_slow_records(log) == "before\nafter\n"
