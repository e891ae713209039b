"""Rows and headers that the tests of the records are made of."""

from zeroth.records import AttackRecord, CertificateRecord, RecordHeader
from zeroth.records.rows import to_frame


def header(kind="attack", **changes):
    values = {"kind": kind, "seed": 0, "checkpoint_sha256": "c" * 64, "config": {"attack": {"epsilon": 0.2, "q": 40}}}
    return RecordHeader(**{**values, **changes})


def found(index, queries=10, *, spent=None, label=0, predicted=1, target=None, l2=0.5, seconds=1.0):
    """An image whose attack succeeded after ``queries`` and spent ``spent``."""
    return AttackRecord(
        index=index,
        label=label,
        target=target,
        predicted=predicted,
        success=True,
        queries=queries if spent is None else spent,
        queries_to_success=queries,
        l0=12,
        l1=4 * l2,
        l2=l2,
        linf=l2 / 4,
        seconds=seconds,
    )


def lost(index, queries=100, reason="budget", *, label=0, predicted=0, target=None, seconds=1.0):
    """An image whose attack failed."""
    return AttackRecord(
        index=index,
        label=label,
        target=target,
        predicted=predicted,
        success=False,
        queries=queries,
        queries_to_success=-1,
        l0=None,
        l1=None,
        l2=None,
        linf=None,
        seconds=seconds,
        fail_reason=reason,
    )


def certificate(idx, radius=0.5, *, label=3, predict=3, time=1.0):
    """A certified image; ``predict=-1`` abstains."""
    return CertificateRecord(idx=idx, label=label, predict=predict, radius=radius, correct=predict == label, time=time)


def attacks(*rows):
    """A table of attacked images."""
    return to_frame("attack", rows)


def certificates(*rows):
    """A table of certified images."""
    return to_frame("certificate", rows)


def four_cells(both, only_a, only_b, neither):
    """Two runs with the given numbers of images in the cells of McNemar's table."""
    cells = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b + [(False, False)] * neither
    return tuple(attacks(*(found(i) if c[side] else lost(i) for i, c in enumerate(cells))) for side in (0, 1))
