"""The one writer of a SQLite file: what is acknowledged is durable, whatever happens to the others."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from worker_compat.errors import StoreUnavailable
from worker_compat_sqlite import SqliteWriter, open_writer
from worker_compat_sqlite.connection import _PROBLEMS

REPO = Path(__file__).parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'adapters'}"}
CREATE = "CREATE TABLE notes (id integer PRIMARY KEY, text text UNIQUE NOT NULL)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(CREATE)
        connection.commit()
    return path


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[SqliteWriter]:
    async with open_writer(path) as writer:
        yield writer


def insert(text: str) -> Callable[[sqlite3.Connection], str]:
    def function(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))
        return text

    return function


def count(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute("SELECT count(*) FROM notes").fetchone()
    return int(number)


def stored(path: Path) -> set[str]:
    """What another process would see."""
    with closing(sqlite3.connect(path)) as connection:
        return {text for (text,) in connection.execute("SELECT text FROM notes")}


class Gate:
    """A function that stays on the writer thread until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.entered.set()
        assert self._open.wait(20)

    def open(self) -> None:
        self._open.set()


@asynccontextmanager
async def occupied(writer: SqliteWriter) -> AsyncIterator[Gate]:
    """The writer thread is busy inside; what is submitted meanwhile makes the next group."""
    gate = Gate()
    task = asyncio.create_task(writer.run(gate))
    assert await asyncio.to_thread(gate.entered.wait, 20)
    try:
        yield gate
    finally:
        gate.open()
        await asyncio.gather(task, return_exceptions=True)


async def submitted(*coroutines: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Tasks that have begun, so that their calls wait in the order given."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    return tasks


@contextmanager
def locked_by_another_process(path: Path) -> Iterator[Callable[[], None]]:
    """Another process holds the write lock; the value gives it back and returns once that is done."""
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.readline();"
        "c.execute('ROLLBACK'); print('free', flush=True); sys.stdin.readline(); c.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout
        assert stdout.readline() == "locked\n"

        def release() -> None:
            stdin.write("\n")
            stdin.flush()
            assert stdout.readline() == "free\n"

        yield release
        process.kill()


async def refused(writer: SqliteWriter, function: Callable[[sqlite3.Connection], object]) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        await writer.run(function)
    return str(caught.value)


class TestGroups:
    async def test_a_hundred_producers_are_all_durable(self, writer: SqliteWriter, path: Path) -> None:
        async def produce(producer: int) -> list[str]:
            return [await writer.run(insert(f"{producer}-{number}")) for number in range(20)]

        acknowledged = await asyncio.gather(*(produce(producer) for producer in range(100)))

        assert stored(path) == {text for texts in acknowledged for text in texts}
        assert len(stored(path)) == 2000

    async def test_what_waits_is_committed_together_up_to_256_calls(self, writer: SqliteWriter) -> None:
        statements: list[str] = []
        await writer.run_alone(lambda connection: connection.set_trace_callback(statements.append))
        async with occupied(writer) as gate:
            tasks = await submitted(*(writer.run(insert(str(number))) for number in range(300)))
            statements.clear()
            gate.open()
            await asyncio.gather(*tasks)

        group = [statement for statement in statements if statement in {"BEGIN IMMEDIATE", "COMMIT"}]
        assert group == ["COMMIT", "BEGIN IMMEDIATE", "COMMIT", "BEGIN IMMEDIATE", "COMMIT"]
        second = statements[: -statements[::-1].index("BEGIN IMMEDIATE")]
        assert sum(statement.startswith("INSERT") for statement in second) == 256

    async def test_nobody_is_answered_before_the_commit(self, writer: SqliteWriter, path: Path) -> None:
        second = Gate()
        async with occupied(writer) as first:
            early, late = await submitted(writer.run(insert("early")), writer.run(second))
            first.open()
            assert await asyncio.to_thread(second.entered.wait, 20)
            # A round trip over the reader: an answer given too early would have arrived by now.
            assert await writer.read(count) == 0
            assert not early.done()
            second.open()
            await asyncio.gather(early, late)
        assert stored(path) == {"early"}

    @pytest.mark.parametrize("error", [KeyError("mine"), StoreUnavailable("mine"), sqlite3.OperationalError("mine")])
    async def test_a_failing_call_undoes_only_its_own_changes(
        self, writer: SqliteWriter, path: Path, error: Exception
    ) -> None:
        def fail(connection: sqlite3.Connection) -> None:
            insert("half")(connection)
            raise error

        async with occupied(writer) as gate:
            tasks = await submitted(
                writer.run(insert("one")),
                writer.run(fail),
                writer.run(insert("one")),
                writer.run(insert("two")),
            )
            gate.open()
            one, failed, twice, two = await asyncio.gather(*tasks, return_exceptions=True)

        assert (one, two) == ("one", "two")
        assert failed is error
        assert isinstance(twice, sqlite3.IntegrityError)
        assert stored(path) == {"one", "two"}

    @pytest.mark.parametrize("error", [StopIteration(), SystemExit()])
    async def test_an_error_that_no_future_can_carry_arrives_as_another(
        self, writer: SqliteWriter, error: BaseException
    ) -> None:
        def fail(connection: sqlite3.Connection) -> None:
            raise error

        with pytest.raises(RuntimeError, match=type(error).__name__):
            await writer.run(fail)
        assert await writer.run(insert("next")) == "next"

    async def test_a_failing_commit_fails_the_whole_group(self, writer: SqliteWriter, path: Path) -> None:
        await writer.run(
            lambda connection: connection.execute(
                "CREATE TABLE replies (note integer REFERENCES notes DEFERRABLE INITIALLY DEFERRED)"
            ).close()
        )

        async with occupied(writer) as gate:
            tasks = await submitted(
                writer.run(insert("lost")),
                writer.run(lambda connection: connection.execute("INSERT INTO replies VALUES (77)").close()),
            )
            gate.open()
            results = await asyncio.gather(*tasks, return_exceptions=True)

        assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
        assert all(isinstance(result.__cause__, sqlite3.Error) for result in results)
        assert results[0] is not results[1]
        assert stored(path) == set()
        assert await writer.run(insert("next")) == "next"

    @pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
    async def test_a_call_that_ends_the_transaction_fails_the_group(
        self, writer: SqliteWriter, path: Path, statement: str
    ) -> None:
        async with occupied(writer) as gate:
            tasks = await submitted(
                writer.run(lambda connection: connection.execute(statement).close()),
                writer.run(insert("other")),
            )
            gate.open()
            results = await asyncio.gather(*tasks, return_exceptions=True)

        assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
        assert stored(path) == set()
        assert await writer.run(insert("next")) == "next"

    async def test_settings_that_durability_rests_on(self, writer: SqliteWriter) -> None:
        def settings(connection: sqlite3.Connection) -> list[object]:
            names = ("journal_mode", "synchronous", "foreign_keys")
            return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

        assert await writer.run(settings) == ["wal", 2, 1]
        assert await writer.read(settings) == ["wal", 2, 1]


class TestReading:
    async def test_goes_on_while_the_writer_is_busy(self, writer: SqliteWriter) -> None:
        await writer.run(insert("one"))
        async with occupied(writer):
            assert await writer.read(count) == 1

    async def test_sees_one_snapshot(self, writer: SqliteWriter) -> None:
        gate = Gate()

        def count_twice(connection: sqlite3.Connection) -> tuple[int, int]:
            before = count(connection)
            gate(connection)
            return before, count(connection)

        reading = asyncio.create_task(writer.read(count_twice))
        assert await asyncio.to_thread(gate.entered.wait, 20)
        await writer.run(insert("one"))
        gate.open()

        assert await reading == (0, 0)
        assert await writer.read(count) == 1

    async def test_cannot_write(self, writer: SqliteWriter, path: Path) -> None:
        with pytest.raises(StoreUnavailable, match="read-only"):
            await writer.read(insert("one"))
        assert stored(path) == set()

    async def test_an_error_of_the_function_is_its_callers(self, writer: SqliteWriter) -> None:
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await writer.read(lambda connection: connection.execute("SELECT * FROM absent").fetchall())
        assert await writer.read(count) == 0


class TestAlone:
    async def test_runs_outside_a_transaction(self, writer: SqliteWriter) -> None:
        async with occupied(writer) as gate:
            before, alone, after = await submitted(
                writer.run(insert("before")),
                writer.run_alone(lambda connection: (connection.in_transaction, count(connection))),
                writer.run(insert("after")),
            )
            gate.open()
            await asyncio.gather(before, after)
            assert await alone == (False, 1)

    async def test_a_transaction_left_open_is_rolled_back(self, writer: SqliteWriter, path: Path) -> None:
        def leave_open(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN")
            insert("half")(connection)

        await writer.run_alone(leave_open)
        await writer.run(insert("next"))
        assert stored(path) == {"next"}

    async def test_its_error_is_its_callers(self, writer: SqliteWriter) -> None:
        with pytest.raises(ZeroDivisionError):
            await writer.run_alone(lambda connection: 1 / 0)
        assert await writer.run(insert("next")) == "next"

    async def test_waits_for_a_lock_like_any_other_call(self, path: Path) -> None:
        async with open_writer(path, busy_timeout_s=0.2) as writer:
            await writer.run(insert("one"))
            with locked_by_another_process(path) as release:
                began = time.monotonic()
                with pytest.raises(StoreUnavailable, match="locked"):
                    await writer.run_alone(lambda connection: connection.execute("BEGIN IMMEDIATE").close())
                assert 0.15 < time.monotonic() - began < 1.5
                release()
                await writer.run_alone(lambda connection: connection.execute("BEGIN IMMEDIATE").close())


class TestTrouble:
    async def test_a_lock_of_another_process(self, writer: SqliteWriter, path: Path) -> None:
        await writer.run(insert("before"))
        with locked_by_another_process(path) as release:
            began = time.monotonic()
            calls = [refused(writer, insert(f"canary-{number}")) for number in range(20)]
            texts = await asyncio.gather(*calls)
            assert time.monotonic() - began <= 2.1
            begin = "the SQLite database cannot be used: it is locked by another process: try again"
            assert all(text.startswith(begin) for text in texts)
            assert await writer.read(count) == 1

            release()
            began = time.monotonic()
            await writer.run(insert("after"))
            assert time.monotonic() - began < 1
        assert stored(path) == {"before", "after"}

    async def test_a_lock_that_is_given_back_in_time_is_only_a_delay(self, writer: SqliteWriter, path: Path) -> None:
        with locked_by_another_process(path) as release:
            (task,) = await submitted(writer.run(insert("one")))
            # The reader comes back only after its thread ran, by which time the writer meets the lock.
            await writer.read(count)
            release()
            assert await task == "one"

    async def test_a_file_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        async with open_writer(tmp_path / "absent.db") as writer:
            assert "missing" in await refused(writer, insert("one"))
            with pytest.raises(StoreUnavailable, match="missing"):
                await writer.read(count)
        assert list(tmp_path.iterdir()) == []

    async def test_create_makes_it_once(self, tmp_path: Path) -> None:
        path = tmp_path / "new.db"
        async with open_writer(path, create=True) as writer:
            await writer.run(lambda connection: connection.execute(CREATE).close())
            await writer.run(insert("one"))
            path.unlink()
            assert "missing" in await refused(writer, insert("two"))
        assert not path.exists()

    async def test_a_file_that_was_moved_away_and_back(self, writer: SqliteWriter, path: Path) -> None:
        await writer.run(insert("before"))
        away = path.with_name("away.db")
        path.rename(away)
        assert "missing" in await refused(writer, insert("lost"))
        with pytest.raises(StoreUnavailable, match="missing"):
            await writer.read(count)
        away.rename(path)
        await writer.run(insert("after"))
        assert await writer.read(count) == 2
        assert stored(path) == {"before", "after"}

    @pytest.mark.parametrize("how", ["replaced", "overwritten"])
    async def test_a_file_that_became_garbage(self, writer: SqliteWriter, path: Path, how: str) -> None:
        await writer.run(insert("before"))
        await writer.run_alone(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close())
        good = path.with_name("good.db")
        shutil.copy(path, good)
        garbage = path.with_name("garbage.db")
        garbage.write_bytes(b"this is no database " * 50)
        if how == "replaced":
            garbage.replace(path)
        else:
            shutil.copy(garbage, path)

        assert "damaged" in await refused(writer, insert("lost"))
        assert "damaged" in await refused(writer, insert("lost too"))
        with pytest.raises(StoreUnavailable, match="damaged"):
            await writer.read(count)

        good.replace(path)
        await writer.run(insert("after"))
        assert await writer.read(count) == 2
        assert stored(path) == {"before", "after"}

    async def test_a_directory_in_place_of_the_file(self, tmp_path: Path) -> None:
        async with open_writer(tmp_path) as writer:
            assert "may not be opened" in await refused(writer, insert("one"))

    async def test_a_full_disk(self, writer: SqliteWriter, path: Path) -> None:
        def limit_pages(connection: sqlite3.Connection, more: int) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count={pages + more}").close()

        await writer.run(insert("before"))
        await writer.run_alone(lambda connection: limit_pages(connection, 0))
        text = await refused(writer, insert("canary" * 10_000))
        assert text == "the SQLite database cannot be used: the disk is full: make room"
        assert "full" in await refused(writer, insert("canary" * 10_000))

        await writer.run_alone(lambda connection: limit_pages(connection, 1000))
        await writer.run(insert("after" * 10_000))
        assert stored(path) == {"before", "after" * 10_000}

    async def test_a_read_only_database(self, writer: SqliteWriter, path: Path) -> None:
        await writer.run_alone(lambda connection: connection.execute("PRAGMA query_only=ON").close())
        assert "read-only" in await refused(writer, insert("lost"))
        await writer.run(insert("after"))
        assert stored(path) == {"after"}

    async def test_the_cause_is_chained(self, tmp_path: Path) -> None:
        async with open_writer(tmp_path) as writer:
            with pytest.raises(StoreUnavailable) as caught:
                await writer.run(insert("one"))
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)

    async def test_a_call_that_takes_too_long(self, path: Path) -> None:
        async with open_writer(path, call_timeout_s=0.2) as writer, occupied(writer):
            began = time.monotonic()
            assert "did not answer within 0.2 s" in await refused(writer, insert("late"))
            assert time.monotonic() - began < 1
        # Its caller was told that it failed, so it is not run when its turn comes.
        assert stored(path) == set()

    async def test_too_many_waiting_calls(self, path: Path) -> None:
        async with open_writer(path, call_timeout_s=60) as writer:
            async with occupied(writer) as gate:
                tasks = await submitted(*(writer.run(insert(str(number))) for number in range(10_000)))
                assert "too many calls" in await refused(writer, insert("one too many"))
                gate.open()
                await asyncio.gather(*tasks)
            assert await writer.run(insert("next")) == "next"
        assert len(stored(path)) == 10_001


class TestCancellation:
    async def test_a_waiting_call_is_not_run(self, writer: SqliteWriter, path: Path) -> None:
        async with occupied(writer) as gate:
            one, two, three = await submitted(*(writer.run(insert(text)) for text in ("one", "two", "three")))
            two.cancel()
            gate.open()
            await asyncio.gather(one, three)
            with pytest.raises(asyncio.CancelledError):
                await two
        assert stored(path) == {"one", "three"}

    async def test_a_waiting_read_is_not_run(self, writer: SqliteWriter) -> None:
        gate, ran = Gate(), threading.Event()
        reading = asyncio.create_task(writer.read(gate))
        assert await asyncio.to_thread(gate.entered.wait, 20)
        (second,) = await submitted(writer.read(lambda connection: ran.set()))
        second.cancel()
        await asyncio.wait({second})
        gate.open()
        await reading
        assert await writer.read(count) == 0
        assert not ran.is_set()

    async def test_a_call_of_a_group_that_began_is_not_run_before_its_turn(
        self, writer: SqliteWriter, path: Path
    ) -> None:
        running = Gate()
        async with occupied(writer) as gate:
            held, given_up = await submitted(writer.run(running), writer.run(insert("given up")))
            gate.open()
            assert await asyncio.to_thread(running.entered.wait, 20)
            given_up.cancel()
            await asyncio.wait({given_up})
            running.open()
            await held
        await writer.run(insert("next"))
        assert stored(path) == {"next"}

    async def test_a_running_call_does_not_harm_its_group(self, writer: SqliteWriter, path: Path) -> None:
        running = Gate()
        async with occupied(writer) as gate:
            one, held, two = await submitted(writer.run(insert("one")), writer.run(running), writer.run(insert("two")))
            gate.open()
            assert await asyncio.to_thread(running.entered.wait, 20)
            held.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held
            running.open()
            await asyncio.gather(one, two)
        assert stored(path) == {"one", "two"}

    async def test_thousands_of_cancelled_calls_never_swap_answers(self, writer: SqliteWriter) -> None:
        async def ask(number: int) -> bool:
            text = f"answer {number}"
            task = asyncio.create_task(writer.run(lambda connection: text))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            if number % 2:
                task.cancel()
            try:
                return await task == text
            except asyncio.CancelledError:
                return True

        for _ in range(20):
            assert all(await asyncio.gather(*(ask(number) for number in range(200))))


class TestClosing:
    async def test_finishes_what_waits_and_leaves_nothing(self, path: Path) -> None:
        before = set(threading.enumerate())
        async with open_writer(path) as writer:
            async with occupied(writer) as gate:
                tasks = await submitted(*(writer.run(insert(str(number))) for number in range(300)))
                closing_down = asyncio.create_task(writer.close())
                await asyncio.sleep(0)
                assert "closed" in await refused(writer, insert("too late"))
                gate.open()
                await closing_down
                assert all(task.done() for task in tasks)
                await asyncio.gather(*tasks)
            await writer.close()
        await writer.close()

        # asyncio.to_thread's own threads may stay.
        assert not [thread for thread in set(threading.enumerate()) - before if "sqlite" in thread.name]
        assert not path.with_name("notes.db-wal").exists()
        assert len(stored(path)) == 300

    async def test_without_ever_a_call(self, tmp_path: Path) -> None:
        async with open_writer(tmp_path / "never.db"):
            pass
        assert list(tmp_path.iterdir()) == []

    async def test_checkpoints_also_when_another_process_goes_on(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as other:
            assert count(other) == 0
            async with open_writer(path) as writer:
                await writer.run(insert("one"))
            assert path.with_name("notes.db-wal").stat().st_size == 0
            assert count(other) == 1


WORKER = """
import asyncio, os, sqlite3, sys
from worker_compat_sqlite import open_writer

async def main(path, name, producers, each):
    async with open_writer(path, call_timeout_s=20, busy_timeout_s=10) as writer:
        async def produce(producer):
            for number in range(each):
                text = f"{name}-{producer}-{number}"
                await writer.run(lambda c: c.execute("INSERT INTO notes (text) VALUES (?)", (text,)).close())
                os.write(1, (text + "\\n").encode())
        await asyncio.gather(*(produce(producer) for producer in range(producers)))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


def worker(path: Path, name: str, producers: int, each: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WORKER, str(path), name, str(producers), str(each)]
    return subprocess.Popen(command, env=ENVIRON, stdout=subprocess.PIPE)


class TestProcesses:
    @pytest.mark.parametrize("acknowledgements", [1, 50, 1000])
    def test_kill_9_loses_nothing_that_was_acknowledged(self, path: Path, acknowledgements: int) -> None:
        with worker(path, "killed", 20, 1_000_000) as process:
            assert process.stdout
            seen = [process.stdout.readline() for _ in range(acknowledgements)]
            process.send_signal(signal.SIGKILL)
            seen += process.stdout.readlines()
        assert process.returncode == -signal.SIGKILL
        # A line that the kill cut off was not acknowledged to anybody.
        acknowledged = {line.decode().strip() for line in seen if line.endswith(b"\n")}

        assert len(acknowledged) >= acknowledgements
        assert acknowledged <= stored(path)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def test_four_processes_write_one_file(self, path: Path) -> None:
        processes = [worker(path, f"process{number}", 25, 20) for number in range(4)]
        outputs = [process.communicate(timeout=120)[0] for process in processes]

        assert [process.returncode for process in processes] == [0, 0, 0, 0]
        acknowledged = {line.decode() for output in outputs for line in output.splitlines()}
        assert len(acknowledged) == 2000
        assert stored(path) == acknowledged


def test_every_problem_names_a_remedy() -> None:
    assert [words for words in _PROBLEMS.values() if ": " not in words] == []
