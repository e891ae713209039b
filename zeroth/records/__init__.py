"""Results on disk and on paper: row schema, files that survive a kill, summaries, tables.

Plots are in :mod:`zeroth.records.plots` and :mod:`zeroth.records.pictures`: matplotlib loads only where one is drawn.
"""

from zeroth.records.cases import CASES, Case, random_target, select_case
from zeroth.records.compare import Bootstrap, compare_attacks, compare_certificates
from zeroth.records.compare_tables import cautions, comparison_frame, contingency_frame, left_out_line
from zeroth.records.json_io import difference, plain, read_json, replacing, write_json, write_text
from zeroth.records.merging import write_merged
from zeroth.records.reading import (
    RecordMismatch,
    done_keys,
    find_records,
    header_path,
    merge_records,
    read_records,
    record_path,
)
from zeroth.records.schema import (
    ABSTAIN,
    SCHEMA_VERSION,
    AttackRecord,
    CertificateRecord,
    Kind,
    Record,
    RecordHeader,
    config_hash,
    file_sha256,
    flatten,
    floor_radius,
)
from zeroth.records.store import RecordFile
from zeroth.records.summary import (
    Norm,
    attack_summary,
    attacked_rows,
    certificate_summary,
    certified_accuracy,
    distortion_quartiles,
    distortion_summary,
    mean_interval,
    robust_accuracy_vs_epsilon,
    success_curve,
)
from zeroth.records.tables import attack_frame, certificate_frame, markdown_table, rich_table, terminal

__all__ = [
    "ABSTAIN",
    "CASES",
    "SCHEMA_VERSION",
    "AttackRecord",
    "Bootstrap",
    "Case",
    "CertificateRecord",
    "Kind",
    "Norm",
    "Record",
    "RecordFile",
    "RecordHeader",
    "RecordMismatch",
    "attack_frame",
    "attack_summary",
    "attacked_rows",
    "cautions",
    "certificate_frame",
    "certificate_summary",
    "certified_accuracy",
    "compare_attacks",
    "compare_certificates",
    "comparison_frame",
    "config_hash",
    "contingency_frame",
    "difference",
    "distortion_quartiles",
    "distortion_summary",
    "done_keys",
    "file_sha256",
    "find_records",
    "flatten",
    "floor_radius",
    "header_path",
    "left_out_line",
    "markdown_table",
    "mean_interval",
    "merge_records",
    "plain",
    "random_target",
    "read_json",
    "read_records",
    "record_path",
    "replacing",
    "rich_table",
    "robust_accuracy_vs_epsilon",
    "select_case",
    "success_curve",
    "terminal",
    "write_json",
    "write_merged",
    "write_text",
]
