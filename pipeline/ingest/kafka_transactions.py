"""Results and how far they go in one Kafka transaction: kafka-python's transactional producer.

A zombie is fenced by the group, not by a name of its own: the offsets in a transaction carry the
member and its generation, and the broker refuses those of a member that was replaced (KIP-447).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

from kafka import KafkaProducer, TopicPartition
from kafka import errors as said
from kafka.structs import OffsetAndMetadata

from pipeline.config import TRANSACTIONS_SINCE, Kafka
from pipeline.errors import BrokerAway, SettingsError, SourceError, TransactionLost
from pipeline.ingest.kafka_client import first_line, reach, too_old, translated
from pipeline.ingest.kafka_sink import FLUSH_S, producer
from pipeline.ingest.kafka_source import KafkaSource
from pipeline.outage import Outage
from pipeline.records import Outgoing

#: A transaction that takes longer is aborted by the broker, in milliseconds. It takes some 20; what
#: a killed process left open holds up readers, and the next owner, for so long.
TRANSACTION_MS = 10_000
#: What says that a transaction did not happen, and may another time.
LOST = (
    said.CommitFailedError,
    said.FencedInstanceIdError,
    said.InvalidProducerEpochError,
    said.InvalidProducerIdMappingError,
    said.InvalidTxnStateError,
    said.OutOfOrderSequenceNumberError,
    said.ProducerFencedError,
    said.RebalanceInProgressError,
    said.TransactionAbortedError,
    said.TransactionCoordinatorFencedError,
    said.UnknownProducerIdError,
)


class KafkaTransactions:
    """Transactions of one member of a consumer group.

    Nothing is sent before `commit`, so a transaction is open for milliseconds, however long a poll
    takes. After any failure the producer is another one by the same name: its beginning ends what
    the former one left open, so that `done` tells what became of it.

    Parameters
    ----------
    source
        The member whose partitions the results are of.
    outage
        How long a broker that is away is waited for; by default not at all.

    Raises
    ------
    SettingsError
        The broker is too old.
    SourceError
        No broker answers, or it takes no transactions from us.
    """

    def __init__(self, kafka: Kafka, source: KafkaSource, outage: Outage | None = None) -> None:
        self.kafka = kafka
        self.source = source
        self.outage = outage or Outage("broker")
        self.name = f"{kafka.group_id}/{source.topic}/{kafka.group_instance_id or uuid4().hex}"
        self._producer: KafkaProducer | None = None
        self._begin()

    def done(self, partitions: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Offset up to which results are out, and the mark beside it, where there is one."""
        return self.outage.ask(partial(self.source.committed, partitions))

    def commit(self, records: Sequence[Outgoing], done: Mapping[int, tuple[int, str]]) -> None:
        """Let the records out, and note how far that is, with a mark.

        Raises
        ------
        TransactionLost
            It did not happen, or nobody knows; the broker is there again.
        StaleEpoch
            This process is no member of the group any more.
        SourceError
            The broker refuses: a record is too large, or not allowed.
        """
        member = self.source.member()
        offsets = {
            TopicPartition(self.source.topic, number): OffsetAndMetadata(offset, mark, -1)
            for number, (offset, mark) in done.items()
        }
        if self._producer is None:
            self.outage.ask(self._begin)
        try:
            with translated(self.kafka):
                self._transact(records, offsets, member)
        except SourceError as exc:
            self.close()
            if not _lost(exc):
                raise
            self.outage.ask(self._begin)
            reason = first_line(exc.__cause__ or exc)
            raise TransactionLost(f"a Kafka transaction was lost: {reason}") from exc

    def _begin(self) -> None:
        """A new producer; the broker ends what one of the same name left open."""
        with translated(self.kafka):
            reach(self.kafka)
            self._producer = made = producer(
                self.kafka, transactional_id=self.name, transaction_timeout_ms=TRANSACTION_MS
            )
            new = made.config["api_version"] >= TRANSACTIONS_SINCE
            try:
                if new:
                    made.init_transactions()
            except BaseException:
                self.close()
                raise
        if not new:
            self.close()
            raise SettingsError(too_old(self.kafka))

    def _transact(
        self, records: Sequence[Outgoing], offsets: Mapping[TopicPartition, Any], member: Any
    ) -> None:
        """One transaction; each record is acknowledged before the offsets are sent.

        kafka-python's own `send_offsets_to_transaction` and `commit_transaction` wait without end
        for a broker that is away.
        """
        made: Any = self._producer
        manager = made._transaction_manager  # noqa: SLF001
        made.begin_transaction()
        sent = [_send(made, record) for record in records]
        made.flush(timeout=FLUSH_S)
        for future in sent:
            if future.failed():
                raise future.exception
        self._wait(manager.send_offsets_to_transaction(offsets, member))
        self._wait(manager.begin_commit())

    def _wait(self, result: Any) -> None:
        made: Any = self._producer
        made._sender.wakeup()  # noqa: SLF001
        if not result.wait(timeout_ms=FLUSH_S * 1000):
            raise said.KafkaTimeoutError("no answer about a transaction")

    def close(self) -> None:
        """Leave at once; what was not committed is not out."""
        gone, self._producer = self._producer, None
        if gone is not None:
            with suppress(said.KafkaError):
                gone._sender.force_close()  # noqa: SLF001
                gone.close(timeout=FLUSH_S)


def _send(to: KafkaProducer, record: Outgoing) -> Any:
    """kafka-python sends no record without key and value: such a one has an empty value."""
    value = b"" if record.key is None and record.value is None else record.value
    return to.send(record.topic, key=record.key, value=value, headers=list(record.headers))


def _lost(exc: SourceError) -> bool:
    """Whether a transaction may succeed another time; of an error state kafka-python tells only in
    words, by an exception of no kind."""
    cause = exc.__cause__
    return isinstance(exc, BrokerAway) or isinstance(cause, LOST) or type(cause) is said.KafkaError
