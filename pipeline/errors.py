"""What can go wrong, named once: each error says in its docstring what happens next."""

from __future__ import annotations

from collections.abc import Sequence


class PipelineError(Exception):
    """The root. At the command line: one line on standard error and exit code 1."""


class SettingsError(PipelineError):
    """A setting is unknown, of the wrong type or out of range. Nothing starts; exit code 2."""


class Away(PipelineError):
    """Something outside gives no answer now. It is asked again until run.outage_limit_s."""


class SourceError(PipelineError):
    """Records cannot be read or written: the broker, topic or file is not there."""


class BrokerAway(SourceError, Away):
    """The broker gives no answer now."""


class TransactionLost(SourceError):
    """What was published since the last Kafka transaction is not out, or nobody knows. Partitions
    are taken anew, and their readings again from the last checkpoint."""


class MadeAnew(SourceError):
    """A topic is another one by the same name: its offsets mean other records. None is taken."""

    def __init__(self, topic: str, how: str) -> None:
        super().__init__(
            f"topic {topic} was made anew ({how}): "
            "give it another name, or start on another database"
        )


class RegistryError(PipelineError):
    """The database is not there, or its schema is not at head."""


class DatabaseAway(RegistryError, Away):
    """The database takes no transaction now; the whole of it may be tried again."""


class StaleEpoch(RegistryError):
    """Another process owns the partition now. This one writes nothing and gives it up."""


class LeaseLost(RegistryError):
    """A request's lease passed to another process. This one's result is thrown away."""


class VersionConflict(RegistryError):
    """The champion is no longer the one that the candidate was measured against, or what it was
    made from is not to be learned any more. Its request is given back."""


class ArtifactCorrupt(RegistryError):
    """Stored bytes do not match their sha256. They are not used."""


class ArtifactPruned(ArtifactCorrupt):
    """Stored bytes went by a person's or a schedule's order; their hash stays. It says when."""


class GaveUp(PipelineError):
    """`tidemark run` starts a child no more: at the command line, with its last lines."""

    def __init__(self, what: str, lines: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.lines = tuple(lines)


class Interrupted(PipelineError):
    """The process was told to stop in mid-training. The request is given back as it was."""


class TrainingFailed(PipelineError):
    """A consolidation has no usable result (no data, a loss that is not finite)."""
