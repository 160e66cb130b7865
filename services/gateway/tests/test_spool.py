"""The spool on a real disk: what was acknowledged is read back, whatever becomes of process, files or disk."""

import asyncio
import errno
import itertools
import os
import signal
import stat
import sys
import threading
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boostedcalls.gateway import spool as spool_module
from boostedcalls.gateway.app import build_app
from boostedcalls.gateway.segment import Record, decode, encode
from boostedcalls.gateway.spool import Refused, Spool

MIB = 1024**2
DAY = 24 * 3600
HEADERS = {"request_id": "r-1", "received_at": "2026-11-22T10:30:09.020Z"}


def records(*bodies):
    return [Record.of(body, HEADERS) for body in bodies]


def ids(found):
    return [record.id for record in found]


@asynccontextmanager
async def opened(folder, max_bytes=64 * MIB, **options):
    spool = Spool(folder, max_bytes, **options)
    try:
        yield spool
    finally:
        await spool.close()


async def everything(spool):
    """All records that can be taken, in their order; what is taken is finished."""
    found = []
    while taken := await spool.take():
        found += taken.contents.records
        await spool.finish(taken)
    return found


def endings(folder):
    return sorted(path.suffix for path in folder.iterdir())


bodies = st.lists(st.binary(max_size=60), min_size=1, max_size=4)
headers = st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=3)


@given(bodies, headers)
def test_what_is_written_is_read_back(found, kept):
    written = [Record.of(body, kept) for body in found]
    contents = decode(b"".join(map(encode, written)))
    assert (contents.records, contents.damaged, contents.torn_at) == (written, 0, None)


@given(bodies, headers, st.booleans())
def test_tail_torn_at_any_byte_loses_nothing_before_it_and_yields_no_wrong_record(found, kept, zeros):
    written = [Record.of(body, kept) for body in found]
    good = b"".join(map(encode, written[:-1]))
    last = encode(written[-1])
    for cut in range(1, len(last)):
        # The disk may have made room for the rest without writing it.
        tail = b"\0" * len(last) if zeros and cut == 1 else last[:cut]
        contents = decode(good + tail)
        assert (contents.records, contents.damaged, contents.torn_at) == (written[:-1], 0, len(good))


@given(st.lists(st.binary(max_size=60), min_size=2, max_size=4), st.data())
def test_damage_of_any_byte_is_seen_and_yields_no_wrong_record(found, data):
    written = [Record.of(body, HEADERS) for body in found]
    whole = bytearray(b"".join(map(encode, written)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    starts = [0, *itertools.accumulate(len(encode(record)) for record in written)]
    hit = max(number for number, start in enumerate(starts) if start <= at)
    contents = decode(bytes(whole))
    assert (contents.damaged, contents.torn_at) == (1, None)
    assert contents.records[:hit] == written[:hit]
    # What stands behind it is read too, unless the damage is in its frame.
    assert contents.records[hit:] in (written[hit + 1 :], [])
    assert contents.records[hit:] == written[hit + 1 :] or at - starts[hit] < 16


async def test_what_was_appended_is_taken_in_its_order_and_kept_as_a_second_copy(tmp_path):
    async with opened(tmp_path) as spool:
        written = records(b"one", b"two", b"", b"\0" * 100_000)
        for record in written:
            await spool.append(record)
        taken = await spool.take()
        assert taken.contents.records == written
        assert await spool.take() is None
        await spool.append(later := records(b"later")[0])
        assert endings(tmp_path) == [".seg", ".seg"]
        await spool.finish(taken)
        assert await everything(spool) == [later]
        assert await spool.take() is None
    [copy] = tmp_path.iterdir()
    assert copy.suffix == ".done"
    assert decode(copy.read_bytes()).records == [*written, later]


async def test_appends_at_the_same_time_share_a_sync(tmp_path):
    synced = []
    async with opened(tmp_path, sync=synced.append) as spool:
        written = records(*(b"%d" % number for number in range(200)))
        await asyncio.gather(*map(spool.append, written))
        assert await everything(spool) == written
    # One for all of them, and one of the folder for the segment's name.
    assert len(synced) == 2


async def test_segment_that_has_grown_is_closed_and_segments_are_taken_oldest_first(tmp_path):
    async with opened(tmp_path, segment_bytes=1000) as spool:
        written = records(*(b"%03d" % number * 100 for number in range(12)))
        for record in written:
            await spool.append(record)
        assert len(endings(tmp_path)) > 3
        assert await everything(spool) == written


async def test_files_are_private(tmp_path):
    folder = tmp_path / "made" / "here"
    async with opened(folder) as spool:
        await spool.append(*records(b"personal data"))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


async def test_torn_tail_is_cut_off_when_the_segment_is_taken(tmp_path):
    one, two = records(b"stored", b"cut short")
    (tmp_path / "1770000000000-0.seg").write_bytes(encode(one) + encode(two)[:-1])
    async with opened(tmp_path) as spool:
        assert await everything(spool) == [one]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [encode(one)]


async def test_damaged_segment_is_drained_as_far_as_it_can_be_read_and_kept_as_it_is(tmp_path):
    one, two, three = map(encode, records(b"one", b"two", b"three"))
    damaged = one + two.replace(b"two", b"tWo") + three
    (tmp_path / "1770000000000-0.seg").write_bytes(damaged)
    (tmp_path / "1770000000001-0.seg").write_bytes(one + b"BCR1 and what is no frame" + three)
    async with opened(tmp_path, clock=lambda: 1e12) as spool:
        assert [record.body for record in await everything(spool)] == [b"one", b"three", b"one"]
        assert await spool.take() is None
    assert endings(tmp_path) == [".damaged", ".damaged"]
    assert min(tmp_path.iterdir()).read_bytes() == damaged


async def test_second_copies_go_first_when_space_runs_out_oldest_first(tmp_path):
    size = len(encode(*records(b"x" * 1000)))
    async with opened(tmp_path, max_bytes=3 * size, segment_bytes=size) as spool:
        for body in (b"a", b"b", b"c"):
            await spool.append(*records(body * 1000))
            await everything(spool)
        assert endings(tmp_path) == [".done"] * 3
        await spool.append(*records(b"d" * 1000))
        kept = [decode(path.read_bytes()).records[0].body[:1] for path in sorted(tmp_path.iterdir())]
        assert kept == [b"b", b"c", b"d"]


async def test_full_spool_refuses_until_it_is_drained_and_loses_nothing_that_it_took(tmp_path):
    size = len(encode(*records(b"x" * 1000)))
    async with opened(tmp_path, max_bytes=3 * size + 10) as spool:
        written = records(*(letter * 1000 for letter in (b"a", b"b", b"c", b"d", b"e")))
        outcomes = await asyncio.gather(*map(spool.append, written), return_exceptions=True)
        assert outcomes[:3] == [None] * 3
        assert [outcome.reason for outcome in outcomes[3:]] == ["full", "full"]
        # What is small enough is taken all the same.
        assert await everything(spool) == written[:3]
        await spool.append(written[4])
        assert await everything(spool) == [written[4]]


async def test_what_an_operator_must_see_counts_as_used_and_is_never_given_up(tmp_path):
    size = len(encode(*records(b"x" * 1000)))
    (tmp_path / "1770000000000-0.damaged").write_bytes(b"?" * size)
    (tmp_path / "1770000000000-0.rejected").write_bytes(b"?" * size)
    async with opened(tmp_path, max_bytes=2 * size) as spool:
        with pytest.raises(Refused, match="full"):
            await spool.append(*records(b"x" * 1000))
    assert endings(tmp_path) == [".damaged", ".rejected"]


async def test_second_copy_is_kept_for_a_day_after_it_was_drained(tmp_path):
    now = 1_770_000_000.0
    async with opened(tmp_path, clock=lambda: now) as spool:
        await spool.append(*records(b"one"))
        now += 10 * DAY
        await everything(spool)
        now += DAY - 1
        await spool.take()
        assert endings(tmp_path) == [".done"]
        now += 2
        await spool.take()
        assert endings(tmp_path) == []


async def test_small_segments_share_a_second_copy_so_that_files_do_not_pile_up(tmp_path):
    async with opened(tmp_path, segment_bytes=4000) as spool:
        written = records(*(b"%d" % number for number in range(60)))
        for record in written:
            await spool.append(record)
            assert await everything(spool) == [record]
    copies = sorted(tmp_path.iterdir())
    assert {path.suffix for path in copies} == {".done"}
    assert all(path.stat().st_size <= 4000 for path in copies)
    assert len(copies) <= 5
    assert [record for path in copies for record in decode(path.read_bytes()).records] == written


async def test_file_that_a_process_died_over_while_making_it_is_cleared_away(tmp_path):
    now = 1_770_000_000.0
    for name, age in (("old", 61), ("fresh", 1)):
        (tmp_path / f"{name}.new").touch()
        os.utime(tmp_path / f"{name}.new", (now - age, now - age))
    async with opened(tmp_path, clock=lambda: now) as spool:
        assert await spool.take() is None
    assert [path.name for path in tmp_path.iterdir()] == ["fresh.new"]


async def test_clock_that_is_set_back_does_not_change_the_order(tmp_path):
    now = 1_770_000_000.0
    async with opened(tmp_path, clock=lambda: now, segment_bytes=1) as spool:
        written = records(b"one", b"two", b"three")
        for record in written:
            await spool.append(record)
            now -= 3600
        assert await everything(spool) == written


async def test_two_writers_share_a_folder_and_neither_takes_what_the_other_is_writing(tmp_path):
    async with opened(tmp_path) as left, opened(tmp_path) as right:
        of_left, of_right = records(*(b"l%d" % n for n in range(20))), records(*(b"r%d" % n for n in range(20)))
        await asyncio.gather(*map(left.append, of_left), *map(right.append, of_right))
        assert ids(await everything(left)) == ids(of_left)
        assert ids(await everything(right)) == ids(of_right)
        await asyncio.gather(*map(left.append, of_left))
        in_hand = await left.take()
        assert await right.take() is None
        await left.release(in_hand)
        assert ids(await everything(right)) == ids(of_left)


WRITER = """
import asyncio, sys
from pathlib import Path
from boostedcalls.gateway.segment import Record
from boostedcalls.gateway.spool import Spool

async def main():
    spool = Spool(Path(sys.argv[1]), 1 << 30)
    for number in range(50):
        await spool.append(Record.of(b"%d" % number, {}))
    print("stored", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_segment_of_a_dead_process_is_taken_over_by_whoever_lives(tmp_path):
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert await writer.stdout.readline() == b"stored\n"
        async with opened(tmp_path) as spool:
            assert await spool.take() is None
            writer.send_signal(signal.SIGKILL)
            await writer.wait()
            assert [record.body for record in await everything(spool)] == [b"%d" % number for number in range(50)]
    finally:
        if writer.returncode is None:
            writer.kill()
        await writer.communicate()


class FailingDisk:
    """Syncs as long as it is well."""

    def __init__(self):
        self.ill = False

    def sync(self, handle):
        if self.ill:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(handle)


async def test_append_that_failed_is_refused_leaves_no_trace_and_the_next_one_works(tmp_path):
    disk = FailingDisk()
    async with opened(tmp_path, sync=disk.sync) as spool:
        before, failed, after = records(b"before", b"failed", b"after")
        await spool.append(before)
        disk.ill = True
        for _ in range(3):
            with pytest.raises(Refused, match="failed"):
                await spool.append(failed)
        assert endings(tmp_path) == [".seg"]
        disk.ill = False
        await spool.append(after)
        assert await everything(spool) == [before, after]


async def test_segment_that_cannot_even_be_closed_is_left_and_the_next_append_works(tmp_path):
    ill = False

    def sync(handle):
        if ill and stat.S_ISREG(os.fstat(handle).st_mode):
            # What was to be closed is gone, and a second close would hit somebody else's file.
            os.close(handle)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(handle)

    async with opened(tmp_path, sync=sync) as spool:
        before, failed, after = records(b"before", b"failed", b"after")
        await spool.append(before)
        ill = True
        with pytest.raises(Refused, match="failed"):
            await spool.append(failed)
        ill = False
        await spool.append(after)
        assert {before.id, after.id} <= set(ids(await everything(spool)))


async def test_webhooks_that_a_hanging_disk_kept_waiting_in_vain_are_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_PATIENCE", 0.05)
    goes_on = threading.Event()

    def sync(handle):
        goes_on.wait()
        os.fsync(handle)

    async with opened(tmp_path, sync=sync) as spool:
        try:
            at_the_disk, *behind = records(b"0", b"1", b"2", b"3")
            for record in (at_the_disk, *behind):
                with pytest.raises(Refused, match="slow"):
                    await spool.append(record)
        finally:
            goes_on.set()
        # Those behind it hold no memory any more: nobody was told that they are stored.
        assert await everything(spool) == [at_the_disk]


async def test_figures_do_not_wait_for_a_disk_that_hangs_and_hold_no_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_MEASURE_SECONDS", 0.01, raising=False)
    goes_on = threading.Event()
    goes_on.set()

    def clock():
        goes_on.wait()
        return 1_770_000_000.0

    async with opened(tmp_path, clock=clock) as spool:
        await spool.append(*records(b"one"))
        goes_on.clear()
        try:
            async with asyncio.timeout(30):
                for _ in range(50):
                    await spool.measure()
                # The loop's own threads are free: logins and look-ups of names need them.
                await asyncio.to_thread(bool)
        finally:
            goes_on.set()


async def test_first_append_that_fails_leaves_no_file(tmp_path):
    disk = FailingDisk()
    disk.ill = True
    async with opened(tmp_path, sync=disk.sync) as spool:
        with pytest.raises(Refused):
            await spool.append(*records(b"failed"))
        assert await spool.take() is None
        assert endings(tmp_path) == []


async def test_folder_that_was_taken_away_is_made_again(tmp_path):
    folder = tmp_path / "spool"
    async with opened(folder) as spool:
        await spool.append(*records(b"gone with its folder"))
        folder.rename(tmp_path / "away")
        written = records(b"one", b"two")
        for record in written:
            await spool.append(record)
        assert await everything(spool) == written


async def test_folder_that_cannot_be_made_refuses_until_it_can(tmp_path):
    (tmp_path / "spool").write_text("in the way")
    async with opened(tmp_path / "spool") as spool:
        with pytest.raises(Refused, match="failed"):
            await spool.append(*records(b"x"))
        assert await spool.take() is None
        (tmp_path / "spool").unlink()
        await spool.append(*records(b"x"))
        assert len(await everything(spool)) == 1


async def test_file_that_cannot_be_read_does_not_hold_up_the_others(tmp_path):
    (tmp_path / "1770000000000-0.seg").mkdir()
    async with opened(tmp_path) as spool:
        await spool.append(*records(b"x"))
        assert len(await everything(spool)) == 1


class PowerCut:
    """What a disk has after a power cut: each file as it was at its last sync, under the names of the folder's last."""

    def __init__(self):
        self.files = {}
        self.names = {}

    def sync(self, handle):
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(handle) as entries:
                self.names = {entry.name: entry.inode() for entry in entries}
        else:
            self.files[found.st_ino] = os.pread(handle, found.st_size, 0)

    def leave(self, folder):
        """Write what is left into an empty folder."""
        for name, inode in self.names.items():
            (folder / name).write_bytes(self.files.get(inode, b""))


async def test_webhook_that_was_answered_200_survives_a_power_cut_at_any_time(gateway, tmp_path):
    disk = PowerCut()
    async with opened(tmp_path / "spool", sync=disk.sync, segment_bytes=2000) as spool:
        app = build_app(replace(gateway.deps, spool=spool))
        secret = {"x-vapi-secret": gateway.webhook_secret}
        answered = set()
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as client:

            async def report(body):
                answer = await client.post("/api/calls/webhook/", content=body, headers=secret)
                assert (answer.status_code, answer.headers["x-stored"]) == (200, "spool")
                answered.add(body)

            for number in range(30):
                await asyncio.gather(*(report(b"%d %d" % (number, part) * 10) for part in range(number % 4 + 1)))
                left = tmp_path / f"after cut {number}"
                left.mkdir()
                disk.leave(left)
                async with opened(left) as after:
                    assert {record.body for record in await everything(after)} >= answered
    assert len(answered) > 60
