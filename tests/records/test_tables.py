"""Summaries as text, one line a run."""

from io import StringIO

from rich.console import Console

from tests.records.examples import certificate, found, lost
from zeroth.records import (
    attack_frame,
    attack_summary,
    certificate_frame,
    certificate_summary,
    markdown_table,
    rich_table,
)
from zeroth.records.rows import to_frame

ATTACK = attack_summary(to_frame("attack", [found(0, 1000, l2=0.25), lost(1, 3000)]))
NOTHING = attack_summary(to_frame("attack", []))
FRAME = attack_frame({"[bold]a|b": ATTACK, "none": NOTHING}, norm="linf")


def test_a_line_of_an_attack_table():
    assert FRAME.iloc[0].to_dict() == {
        "run": "[bold]a|b",
        "n": "2",
        "clean %": "100.0 [34.2, 100.0]",
        "success %": "50.0 [9.5, 90.5]",
        "robust %": "50.0 [9.5, 90.5]",
        "queries": "2,000 (median 2,000)",
        "to success": "1,000 (median 1,000)",
        "linf median": "0.0625",
    }
    assert FRAME.iloc[1].tolist() == ["none", "0", "-", "-", "-", "-", "-", "-"]


def test_certificates_of_runs_with_other_radii_share_a_table():
    rows = to_frame("certificate", [certificate(0, 0.5), certificate(1, 0, predict=-1)])
    runs = {"a": certificate_summary(rows, [0, 0.5]), "b": certificate_summary(rows, [1.0])}
    frame = certificate_frame(runs).set_index("run")
    assert list(frame.columns) == ["n", "ACR", "abstain %", "CA(0) %", "CA(0.5) %", "CA(1) %"]
    assert frame.loc["a"].tolist() == ["2", "0.250", *["50.0 [1.3, 98.7]"] * 3, "-"]
    assert frame.loc["b"].tolist() == ["2", "0.250", "50.0 [1.3, 98.7]", "-", "-", "0.0 [0.0, 84.2]"]


def test_markdown_is_a_table_of_equal_columns():
    lines = markdown_table(FRAME).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[1].replace(" ", "").replace("-", "") == "||" + ":|" * 7
    cells = [cell.strip() for cell in lines[2].replace(r"\|", "/").strip("|").split("|")]
    assert cells == ["[bold]a/b", *FRAME.iloc[0].tolist()[1:]]


def test_the_terminal_shows_names_and_intervals_as_they_are():
    out = StringIO()
    Console(file=out, width=160).print(rich_table(FRAME, title="MNIST"))
    text = out.getvalue()
    assert "MNIST" in text
    assert "[bold]a|b" in text
    assert "50.0 [9.5, 90.5]" in text
