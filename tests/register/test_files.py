"""Backups are whole while the system writes; after a restoration nobody from before writes."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from pipeline.config import Database
from pipeline.errors import LeaseLost, PipelineError, RegistryError, StaleEpoch
from pipeline.register import engine as engine_module
from pipeline.register import files, migrate
from pipeline.register.checkpoints import State
from pipeline.register.damage import first_of
from pipeline.register.engine import connect
from pipeline.register.files import backup, examine, restore
from pipeline.register.sql import SqlRegistry
from tests.register.filled import ROWS, fill
from tests.register.making import by_hand, change, claimed, column, everything, power_cut

WHO = {"actor": "ada", "reason": "the disk broke"}


@pytest.fixture
def database(sqlite_at_head: Database) -> Database:
    """A SQLite file with rows in every table."""
    fill(sqlite_at_head)
    return sqlite_at_head


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the backup goes, in a folder of its own."""
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept" / "tidemark.backup"


def rows(database: Database):
    engine = connect(database)
    found = everything(engine)
    engine.dispose()
    return found


def test_a_backup_holds_everything_and_says_what(database: Database, file: Path) -> None:
    """One file, nothing beside it; the hash of the last entry is told, to be noted elsewhere."""
    told: list[tuple[int, int]] = []
    found = backup(database, file, progress=lambda done, total: told.append((done, total)))
    assert list(file.parent.iterdir()) == [file]
    assert told[-1][0] == told[-1][1] > 0
    assert found.bytes == file.stat().st_size
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (found.entries, found.revision) == (ROWS, migrate.head())
    engine = connect(database)
    assert [found.head] == column(engine, "SELECT hash FROM ledger WHERE id = 3")
    engine.dispose()
    assert rows(Database(url=f"sqlite:///{file}")) == rows(database)


def test_a_backup_is_of_one_moment_while_others_write(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows always change together; a copy of a page now and a page then would show it."""
    monkeypatch.setattr(files, "PAGES", 1)
    engine = connect(database)
    change(engine, "CREATE TABLE pair (id INTEGER PRIMARY KEY, n INTEGER, pad BLOB)")
    for id_ in range(200):  # some pages between the two rows
        change(engine, "INSERT INTO pair VALUES (:id, 0, zeroblob(12000))", id=id_)
    before = column(engine, "SELECT COUNT(*) FROM pair WHERE n = 0")
    writes = []

    def write(done: int, total: int) -> None:
        """Between each two pages, somebody else's transaction."""
        writes.append(change(engine, "UPDATE pair SET n = n + 1 WHERE id IN (0, 199)"))

    backup(database, file, progress=write)
    assert len(writes) > 200
    assert before == [200]
    copy = connect(Database(url=f"sqlite:///{file}"))
    assert column(copy, "SELECT DISTINCT n FROM pair") == [0]
    assert column(engine, "SELECT n FROM pair WHERE id = 0") == [len(writes)]
    copy.dispose()
    engine.dispose()


def test_an_interrupted_backup_leaves_the_old_one(database: Database, file: Path) -> None:
    """Ctrl-C: no half file under the name, nor beside it."""
    backup(database, file)
    before = file.read_bytes()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(database, file, force=True, progress=interrupt)
    assert list(file.parent.iterdir()) == [file]
    assert file.read_bytes() == before


def test_a_broken_chain_is_not_backed_up_as_if_it_were_whole(
    database: Database, file: Path
) -> None:
    """Somebody edited the ledger: the copy is not given its name."""
    engine = connect(database)
    change(engine, "DROP TRIGGER ledger_no_update")
    change(engine, "UPDATE ledger SET actor = 'eve' WHERE id = 2")
    engine.dispose()
    with pytest.raises(RegistryError, match="chain is broken at entry 2"):
        backup(database, file)
    assert list(file.parent.iterdir()) == []


def test_a_backup_replaces_nothing_unasked(database: Database, file: Path) -> None:
    """Another file only with force; never the database itself, by whatever name, nor a device."""
    file.write_text("precious")
    with pytest.raises(RegistryError, match="is there already"):
        backup(database, file)
    backup(database, file, force=True)
    assert examine(file).entries == ROWS
    itself = Path(database.url.removeprefix("sqlite:///"))
    link = file.with_name("link")
    link.symlink_to(itself)
    pipe = file.with_name("pipe")
    os.mkfifo(pipe)
    for name in (itself, link, pipe, file.parent):
        with pytest.raises(RegistryError, match="is there already"):
            backup(database, name, force=True)
    assert len(rows(database)["ledger"]) == ROWS


def test_after_a_restoration_nobody_from_before_can_write(database: Database, file: Path) -> None:
    """Owners and trainers of the lost time hold epochs and fences that are over."""
    registry = SqlRegistry(database)
    stream = registry.open_stream("readings", ["a"])
    registry.acquire(stream.id, 0, "a")
    backup(database, file)
    epoch = max(registry.acquire(stream.id, 0, "zombie").epoch for _ in range(5))
    registry.save(stream.id, 0, epoch, next_offset=7, state=State(b"later"))
    registry.submit(by_hand(stream))
    claim = claimed(registry)
    restore(database, file, force=True, **WHO)

    with pytest.raises(StaleEpoch):
        registry.save(stream.id, 0, epoch, next_offset=8, state=State(b"zombie"))
    registry.submit(by_hand(stream))
    with pytest.raises(LeaseLost):
        registry.renew(claim, 60)
    restored = registry.acquire(stream.id, 0, "new")
    assert restored.epoch > epoch
    assert (restored.next_offset, restored.head) == (None, b"")
    registry.save(stream.id, 0, restored.epoch, next_offset=1, state=State(b"new"))
    registry.close()


def test_a_restored_history_is_the_backed_up_one(database: Database, file: Path) -> None:
    """But for epochs, claims and one entry more, which says who, why and from what."""
    before = rows(database)
    found = backup(database, file)
    engine = connect(database)
    change(engine, "DELETE FROM metrics")
    after = restore(database, file, force=True, **WHO)
    restored = rows(database)
    assert {name for name in before if restored[name] != before[name]} == {
        "checkpoints",
        "requests",
        "ledger",
    }
    assert restored["ledger"][:-1] == before["ledger"]
    assert after.entries == ROWS + 1
    assert column(engine, "SELECT kind FROM ledger WHERE actor = 'ada' AND id = 4") == ["restored"]
    (entry,) = column(engine, "SELECT entry FROM ledger WHERE id = 4")
    assert found.sha256 in entry
    assert WHO["reason"] in entry
    assert column(engine, "SELECT status FROM requests ORDER BY id") == ["pending"] * 2 + ["done"]
    assert not list(Path(database.url.removeprefix("sqlite:///")).parent.glob("*.partial*"))
    with engine.connect() as conn:
        assert first_of(conn) is None
    engine.dispose()


def test_a_database_with_content_is_not_overwritten_unasked(database: Database, file: Path) -> None:
    """An empty one, and one that is not there, need no force."""
    backup(database, file)
    before = rows(database)
    with pytest.raises(RegistryError, match="has content: --force writes over it"):
        restore(database, file, **WHO)
    assert rows(database) == before
    new = Database(url=f"sqlite:///{file.parent / 'new.db'}")
    restore(new, file, **WHO)
    assert rows(new)["metrics"] == before["metrics"]


@pytest.mark.parametrize("who", [{"actor": ""}, {"actor": "rollback"}, {"reason": " "}])
def test_nobody_restores_and_nothing_without_a_reason(
    database: Database, file: Path, who: dict[str, str]
) -> None:
    """It is in the ledger for good: it stays as it is."""
    backup(database, file)
    before = rows(database)
    with pytest.raises(PipelineError, match=f"--{next(iter(who))}"):
        restore(database, file, force=True, **WHO | who)
    assert rows(database) == before


def test_a_running_system_is_not_restored(database: Database, file: Path) -> None:
    """One line, and nothing is changed."""
    backup(database, file)
    registry = SqlRegistry(database)
    registry.run_as("stream@here:1")
    before = rows(database)
    with pytest.raises(RegistryError, match="stop tidemark first"):
        restore(database, file, force=True, **WHO)
    registry.close()
    assert rows(database) == before


def test_an_interrupted_restoration_changes_nothing(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one transaction: Ctrl-C in its midst leaves what was there."""
    monkeypatch.setattr(files, "PAGES", 5)
    backup(database, file)
    engine = connect(database)
    change(engine, "DELETE FROM metrics")
    before = rows(database)

    def interrupt(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(database, file, force=True, progress=interrupt, **WHO)
    assert rows(database) == before
    engine.dispose()


def test_a_power_cut_in_a_backup_or_a_restoration_leaves_all_or_nothing(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every few pages: what was there is there, and the next one goes through all the same."""
    monkeypatch.setattr(files, "PAGES", 20)
    backup(database, file)
    kept, held = file.read_bytes(), rows(database)
    engine = connect(database)
    change(engine, "DELETE FROM metrics")
    engine.dispose()
    before, cuts = rows(database), 0
    while power_cut(lambda step: backup(database, file, force=True, progress=step), after=cuts):
        assert file.read_bytes() == kept
        assert rows(database) == before
        cuts += 1
    assert cuts > 2
    assert file.read_bytes() != kept
    file.write_bytes(kept)
    cuts = 0
    while power_cut(
        lambda step: restore(database, file, force=True, progress=step, **WHO), after=cuts
    ):
        left = rows(database)
        assert left == before or left["metrics"] == held["metrics"]  # the last step is its commit
        examine(Path(database.url.removeprefix("sqlite:///")))
        cuts += 1
    assert cuts > 2
    assert rows(database)["metrics"] == held["metrics"] != before["metrics"]
    assert list(file.parent.iterdir()) == [file]


def test_who_reads_meanwhile_sees_the_old_or_the_new(database: Database, file: Path) -> None:
    """An open question keeps its snapshot: the restoration waits for nobody who reads."""
    backup(database, file)
    engine = connect(database)
    change(engine, "DELETE FROM metrics")
    answers = []
    reader = sqlite3.connect(database.url.removeprefix("sqlite:///"), check_same_thread=False)
    reader.execute("BEGIN")
    answers.append(reader.execute("SELECT COUNT(*) FROM metrics").fetchone()[0])
    thread = threading.Thread(target=restore, args=(database, file), kwargs=WHO | {"force": True})
    thread.start()
    thread.join(60)
    answers.append(reader.execute("SELECT COUNT(*) FROM metrics").fetchone()[0])
    reader.execute("COMMIT")
    answers.append(reader.execute("SELECT COUNT(*) FROM metrics").fetchone()[0])
    reader.close()
    engine.dispose()
    assert answers == [0, 0, ROWS]


def spoilt(file: Path, how: str) -> None:
    """Make a sound backup something else."""
    if how == "text":
        file.write_text("not a database " * 100)
    elif how == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "gone":
        file.unlink()
    elif how == "other":
        file.unlink()
        sqlite3.connect(file).execute("CREATE TABLE x (y)").connection.close()
    else:
        conn = sqlite3.connect(file)
        conn.executescript(how)
        conn.close()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("text", r"is no tidemark backup: file is not a database$"),
        ("cut", r"(damaged|no tidemark backup|malformed)"),
        ("empty", r"is no tidemark backup$"),
        ("gone", r"no such file$"),
        ("other", r"is no tidemark backup$"),
        (
            "UPDATE alembic_version SET version_num = '9999'",
            r"has schema 9999, this tidemark knows up to \d+: use the version that wrote it",
        ),
        (
            "DROP TRIGGER ledger_no_delete; DELETE FROM ledger WHERE id = 2",
            r"chain is broken at entry 2$",
        ),
        ("PRAGMA foreign_keys = OFF; DELETE FROM streams", r"rows without their parent$"),
    ],
)
def test_what_is_no_sound_backup_is_refused(
    database: Database, file: Path, how: str, says: str
) -> None:
    """One line, and the database stays as it is."""
    backup(database, file)
    before = rows(database)
    spoilt(file, how)
    with pytest.raises(RegistryError, match=says) as refused:
        restore(database, file, force=True, **WHO)
    assert "\n" not in str(refused.value)
    assert rows(database) == before


def test_a_backup_of_an_older_schema_can_be_restored(tmp_path: Path) -> None:
    """The one from before the upgrade: restored as it was, then `tidemark migrate`."""
    old = Database(url=f"sqlite:///{tmp_path / 'old.db'}")
    migrate.upgrade(old, "0001")
    backup(old, tmp_path / "kept")
    migrate.upgrade(old)
    restore(old, tmp_path / "kept", force=True, **WHO)
    assert migrate.current_and_head(old)[0] == "0001"
    migrate.upgrade(old)


def test_a_backup_with_other_pages_can_be_restored(
    database: Database, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite copies no pages of another size into a database with a log, as older ones have."""
    backup(database, file)
    monkeypatch.setattr(engine_module, "PAGE", 4096)
    older = Database(url=f"sqlite:///{tmp_path / 'older.db'}")
    migrate.upgrade(older)
    restore(older, file, **WHO)
    assert page(older) == 4096 != page(database)
    assert len(rows(older)["ledger"]) == ROWS + 1


def page(database: Database) -> int:
    """Bytes of a page, as the file's header says (big endian, at 16)."""
    header = Path(database.url.removeprefix("sqlite:///")).read_bytes()[:18]
    return int.from_bytes(header[16:], "big")


def test_a_copy_by_hand_is_a_backup_too(database: Database, file: Path, tmp_path: Path) -> None:
    """Of a stopped system, with cp."""
    shutil.copy(database.url.removeprefix("sqlite:///"), file)
    assert examine(file).entries == ROWS


def test_postgresql_has_tools_of_its_own(postgresql_at_head: Database, file: Path) -> None:
    """One line names them."""
    with pytest.raises(RegistryError, match="pg_dump --format=custom"):
        backup(postgresql_at_head, file)
    with pytest.raises(RegistryError, match="pg_restore"):
        restore(postgresql_at_head, file, **WHO)
