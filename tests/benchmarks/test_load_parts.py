"""The parts of the load test: messages, tracking, latencies, schedules."""

import asyncio
import itertools
import json
import time

import pytest
from load.messages import MIN_SIZE, MessageCodec, decode_frame, encode_array
from load.plan import Plan
from load.recorder import Recorder, merge, percentile_ms
from load.schedule import Schedule
from load.tracker import Tracker

MS = 1_000_000


class TestMessages:
    @pytest.mark.parametrize("size", [MIN_SIZE, MIN_SIZE + 1, 1000])
    def test_a_message_says_what_it_was_made_of(self, size: int) -> None:
        codec = MessageCodec(1, size)
        message = codec.encode(2**32 - 1, 7, 2**63)
        assert len(message) == size
        assert codec.decode(message) == (2**32 - 1, 7, 2**63)

    def test_it_needs_no_escape(self) -> None:
        codec = MessageCodec(1, 64)
        for number in range(500):
            message = codec.encode(number, number * 7919, number * 10**15)
            assert json.dumps(message.decode()) == f'"{message.decode()}"'
            assert b"%" not in message

    def test_no_character_of_it_may_change(self) -> None:
        codec = MessageCodec(1, 40)
        message = codec.encode(3, 4, 5)
        for place in range(40):
            for other in b"A/x?":
                changed = message[:place] + bytes([other]) + message[place + 1 :]
                assert changed == message or codec.decode(changed) is None

    @pytest.mark.parametrize("change", [lambda m: m[:-1], lambda m: m + b"x", lambda m: b"", lambda m: b"\xff" * 40])
    def test_neither_may_its_length(self, change) -> None:
        codec = MessageCodec(1, 40)
        assert codec.decode(change(codec.encode(3, 4, 5))) is None

    def test_another_run_s_message_is_none(self) -> None:
        assert MessageCodec(1, 40).decode(MessageCodec(2, 40).encode(3, 4, 5)) is None


class TestFrames:
    @pytest.mark.parametrize(
        ("frame", "messages"),
        [
            (b'a["x"]', [b"x"]),
            (b'a["x","y"]', [b"x", b"y"]),
            (b'a["x", "y"]', [b"x", b"y"]),
            (b'a[ "x","y" ]', [b"x", b"y"]),
            (b'a["\\u0078\\/"]', [b"x/"]),
            (b'a["x",1]', [b"x", b"1"]),
            (b"a[]", []),
            (b'a["x"', None),
            (b'["x"]', None),
            (b'a"x"', None),
            (b'a["x"]]', None),
            (b'a["x"y"]', None),
        ],
    )
    def test_messages_come_out(self, frame: bytes, messages: list[bytes] | None) -> None:
        assert decode_frame(frame) == messages

    def test_messages_go_in(self) -> None:
        assert encode_array([b"x", b"y"]) == b'["x","y"]'


class TestTracker:
    @pytest.mark.parametrize(
        ("sequences", "reordered", "duplicated", "lost"),
        [
            ([0, 1, 2, 3], 0, 0, 0),
            ([0, 2, 1, 3], 1, 0, 0),
            ([0, 2, 3, 1], 1, 0, 0),
            ([3, 2, 1, 0], 3, 0, 0),
            ([0, 1, 1, 2, 3], 0, 1, 0),
            ([0, 2, 1, 1, 3], 1, 1, 0),
            ([0, 1, 2, 3, 0], 0, 1, 0),
            ([0, 1, 3], 0, 0, 1),
            ([0, 1, 2], 0, 0, 1),
            ([1, 2, 3], 0, 0, 1),
            ([], 0, 0, 4),
        ],
    )
    def test_of_four_messages(self, sequences: list[int], reordered: int, duplicated: int, lost: int) -> None:
        tracker = Tracker()
        new = [tracker.add(9, sequence) for sequence in sequences]
        assert new.count(False) == duplicated
        assert (tracker.reordered, tracker.duplicated, tracker.lost(4)) == (reordered, duplicated, lost)

    def test_senders_have_nothing_to_do_with_each_other(self) -> None:
        tracker = Tracker()
        assert all(tracker.add(sender, sequence) for sender, sequence in [(1, 0), (2, 0), (2, 1), (1, 1)])
        assert (tracker.reordered, tracker.duplicated, tracker.received, tracker.lost(4)) == (0, 0, 4, 0)

    def test_what_is_corrupt_is_not_lost_as_well(self) -> None:
        tracker = Tracker()
        tracker.add(1, 0)
        tracker.corrupt += 1
        tracker.add(1, 2)
        assert (tracker.lost(3), tracker.lost(4)) == (0, 1)


class TestRecorder:
    def test_messages_count_when_they_arrive_and_latencies_when_they_were_due(self) -> None:
        recorder = Recorder()
        recorder.measure(100 * MS, 200 * MS)
        recorder.add(99 * MS, 98 * MS)
        recorder.add(101 * MS, 98 * MS)
        recorder.add(150 * MS, 140 * MS)
        recorder.add(260 * MS, 160 * MS)
        assert (recorder.count, recorder.total) == (2, 4)
        histogram = merge([recorder.encode()])
        assert histogram.get_total_count() == 2
        assert percentile_ms(histogram, 50) == pytest.approx(10, rel=0.001)
        assert percentile_ms(histogram, 100) == pytest.approx(100, rel=0.001)

    def test_histograms_are_added(self) -> None:
        encoded = []
        for latency in (1, 2, 3, 4):
            recorder = Recorder()
            recorder.measure(0, 10 * MS)
            recorder.add(latency * MS, 0)
            encoded.append(recorder.encode())
        histogram = merge(encoded)
        assert [round(percentile_ms(histogram, p) or 0) for p in (25, 50, 75, 100)] == [1, 2, 3, 4]

    def test_of_nothing_there_is_no_percentile(self) -> None:
        assert percentile_ms(merge([Recorder().encode()]), 50) is None

    def test_each_flush_tells_what_is_new(self) -> None:
        recorder = Recorder()
        recorder.add(MS, 0)
        recorder.add(MS, 0)
        assert recorder.flush()[0] == 2
        number, encoded = recorder.flush()
        assert (number, merge([encoded], digits=2).get_total_count()) == (0, 0)

    def test_no_latency_is_too_long_or_too_short(self) -> None:
        recorder = Recorder()
        recorder.measure(0, MS)
        recorder.add(10**15, 0)
        recorder.add(0, 1)
        assert merge([recorder.encode()]).get_total_count() == 2


class TestSchedule:
    async def test_each_time_is_kept(self) -> None:
        now = time.monotonic_ns()
        times = [now - MS, now + 5 * MS, now + 5 * MS, now + 10 * MS]
        fired: list[int] = []
        early: list[int] = []

        all_fired = asyncio.Event()

        def fire(due: int) -> None:
            fired.append(due)
            if time.monotonic_ns() < due:
                early.append(due)
            if len(fired) == len(times):
                all_fired.set()

        schedule = Schedule(iter(times), fire)
        async with asyncio.timeout(30):
            await all_fired.wait()
        schedule.finish()
        assert (fired, early) == (times, [])

    async def test_at_the_end_what_is_due_is_caught_up_on_and_nothing_else(self) -> None:
        now = time.monotonic_ns()
        fired: list[int] = []
        schedule = Schedule(iter([now - 1, now, now + 10**13]), fired.append)
        schedule.finish()
        assert fired == [now - 1, now]


def make_plan(**options: object) -> Plan:
    usual: dict[str, object] = {
        "url": "http://127.0.0.1:8080/echo",
        "transport": "websocket",
        "scenario": "echo",
        "sessions": 10,
        "in_flight": 1,
        "size": 64,
        "duration": 1,
        "warmup": 1,
        "rate": None,
        "processes": 1,
        "drain_timeout": 1,
        "progress": False,
        "run": 1,
    }
    return Plan(**(usual | options))


class TestPlan:
    def test_the_processes_share_the_sessions(self) -> None:
        plan = make_plan(processes=3)
        shares = [list(plan.share(index)) for index in range(3)]
        assert sorted(itertools.chain(*shares)) == list(range(10))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

    @pytest.mark.parametrize(
        ("options", "addresses"),
        [
            ({}, 1),
            ({"sessions": 50_000}, 5),
            ({"sessions": 50_000, "transport": "xhr"}, 10),
            ({"sessions": 5_000_000}, 500),
            ({"scenario": "connect"}, 64),
            ({"transport": "xhr", "keep_alive": False}, 64),
            ({"sessions": 50_000, "url": "http://192.0.2.1/echo"}, 1),
        ],
    )
    def test_many_connections_come_from_many_addresses(self, options: dict[str, object], addresses: int) -> None:
        plan = make_plan(**options)
        sources = {plan.source(number) for number in range(1000)}
        assert len(sources) == addresses
        assert (None in sources) == (addresses == 1)
