"""A comparison as text, and the command line that prints it."""

from tests.records.examples import certificate, found, four_cells, header, lost
from zeroth.records import (
    Bootstrap,
    RecordFile,
    cautions,
    compare_attacks,
    comparison_frame,
    contingency_frame,
    record_path,
    write_json,
)
from zeroth.records.__main__ import main, norm_of


def test_the_table_says_what_the_numbers_say():
    a, b = four_cells(30, 1, 9, 10)
    told = compare_attacks(a, b, resampling=Bootstrap(resamples=999))
    table = comparison_frame(told, ("attack/one", "attack/two"))
    assert list(table.columns) == ["", "A: attack/one", "B: attack/two", "B - A", "images", "McNemar p"]
    low, high = 100 * told["success"]["low"], 100 * told["success"]["high"]
    assert table.iloc[0].tolist() == ["success %", "62.0", "78.0", f"+16.0 [{low:+.1f}, {high:+.1f}]", "50", "0.0215"]
    # 31 x 10 + 19 x 100 and 39 x 10 + 11 x 100 queries
    assert table.iloc[1, [1, 2]].tolist() == ["44.2 (median 10.0)", "29.8 (median 10.0)"]
    assert table.iloc[2].tolist() == [
        "to success",
        *["10.0 (median 10.0)"] * 2,
        "+0.0 [+0.0, +0.0]",
        "30 (0 differ)",
        "-",
    ]
    assert contingency_frame("success", told["success"]).to_numpy().tolist() == [["A yes", 30, 1], ["A no", 9, 10]]


def test_cautions_name_what_should_have_been_shared():
    method = {"epsilon": 0.2, "accept": "all", "kappa": 0, "mu": 1}
    one, two = (
        header(
            config={
                "attack": {"class_path": f"zeroth.attacks.{name}", "init_args": {**method, **own}},
                "data": {"class_path": "datamodules.MNIST", "init_args": {"val_size": size}},
                "images": {"split": split, "count": count},
                "budget": budget,
                "targeted": targets,
                "victim": {"output": "logits", "checkpoint_sha256": sha256},
                "seed": seed,
            },
            seed=seed,
            checkpoint_sha256=sha256,
        )
        for name, own, size, split, count, budget, targets, sha256, seed in (
            ("ZONGD", {"damping": 1}, 5000, "test", None, 400, "none", "c" * 64, 0),
            (
                "NESPGD",
                {"epsilon": 0.3, "accept": "iterates", "kappa": 5, "mu": 2},
                0,
                "val",
                9,
                500,
                "all",
                "d" * 64,
                4,
            ),
        )
    )
    assert cautions(one, two) == [
        "checkpoint_sha256 is 'cccccccccccc...' in A and 'dddddddddddd...' in B",
        "seed is 0 in A and 4 in B",
        "attack.class_path is 'zeroth.attacks.ZONGD' in A and 'zeroth.attacks.NESPGD' in B",
        "attack.init_args.epsilon is 0.2 in A and 0.3 in B",
        "attack.init_args.accept is 'all' in A and 'iterates' in B",
        "attack.init_args.kappa is 0 in A and 5 in B",
        "data.init_args.val_size is 5000 in A and 0 in B",
        "images.split is 'test' in A and 'val' in B",
        "budget is 400 in A and 500 in B",
        "targeted is 'none' in A and 'all' in B",
    ]
    assert cautions(one, one) == []
    sure = [header("certificate", config={"certify": {"sigma": sigma}}) for sigma in (0.25, 0.5)]
    assert cautions(*sure) == ["certify.sigma is 0.25 in A and 0.5 in B"]


def test_a_published_record_file_has_the_norm_of_its_cell(tmp_path, capsys):
    folder = write(tmp_path / "results" / "records", "attack", [found(0, 10), lost(1)])
    records = (folder / "attack.jsonl").rename(folder / "ours.jsonl")
    assert norm_of(records) == "linf"
    write_json(tmp_path / "results" / "ours.json", {"norm": "l2"})
    write_json(folder / "report.json", {"norm": "l1"})
    assert norm_of(records) == "l2"
    assert main(["compare", str(records), str(records), "--resamples", "9"]) == 0
    assert "\n  l2 " in capsys.readouterr().out


def write(folder, kind, rows, norm=None, **changes):
    with RecordFile(record_path(folder, kind), header(kind, **changes)) as file:
        for row in rows:
            file.append(row)
    if norm:
        write_json(folder / "report.json", {"norm": norm})
    return folder


def test_the_command_pairs_run_folders_and_record_files(tmp_path, capsys):
    a = write(tmp_path / "attack" / "a", "attack", [found(0, 10), lost(1), found(2, 6)], norm="l2")
    b = write(tmp_path / "attack" / "b", "attack", [found(2, 4), found(1, 50), found(0, 9)], norm="l1", seed=1)
    assert main(["compare", str(a), str(b), "--resamples", "99", "--confidence", ".9"]) == 0
    out = capsys.readouterr().out
    assert "A: attack/a" in out and "B: attack/b" in out
    assert "66.7" in out and "100.0" in out
    assert "\n  l2 " in out and "\n  l1 " in out  # two runs, two norms
    drawn = "Tango's score interval of rates, BCa bootstrap of means, 99 resamples, seed 0"
    assert f"note     90 % intervals: {drawn}; McNemar's exact test\n" in out and "3 (3 differ)" in out
    assert "caution  seed is 0 in A and 1 in B\n" in out
    words = ["compare", str(a / "attack.jsonl"), str(b), "--markdown", "--norm", "l0", "--seed", "3"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first.count("\n| ---") == 2 and "| l0 " in first and "| l1 " not in first
    assert "B: attack/b |" in first and "A: a/attack.jsonl |" in first
    assert main(words) == 0
    assert capsys.readouterr().out == first
    assert "are one run" not in first
    assert main(["compare", str(a), str(a), "--resamples", "9"]) == 0
    assert (
        "caution  A and B have the same settings: they are one run, or the repetition of one\n"
        in capsys.readouterr().out
    )


def test_the_command_compares_certificates(tmp_path, capsys):
    a = write(tmp_path / "certify" / "a", "certificate", [certificate(0, 0.3), certificate(1, 0.6)])
    b = write(tmp_path / "certify" / "b", "certificate", [certificate(0, 0.8), certificate(1, 0, predict=-1)])
    assert main(["compare", str(a), str(b), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]] for line in lines if "|" in line
    }
    assert cells["CA(0) %"] == ["100.0", "50.0"]
    assert cells["CA(0.75) %"] == ["0.0", "50.0"]
    assert cells["certified radius"] == ["0.45 (median 0.45)", "0.4 (median 0.4)"]
    assert cells["CA(0)"] == ["B yes", "B no"]
    assert cells["A yes"] == ["1", "1"]


def test_the_command_refuses_with_exit_code_2(tmp_path, capsys):
    a = write(tmp_path / "attack" / "a", "attack", [found(0), found(1)])
    b = write(tmp_path / "attack" / "b", "attack", [found(0), found(7)])
    c = write(tmp_path / "certify" / "c", "certificate", [certificate(0)])
    for words, message in (
        ([a, b], "A and B hold different images: 1 (1) only in A, 1 (7) only in B."),
        ([a, c], "A holds attack records and B certificate records"),
        ([c, a], "A holds certificate records and B attack records"),
        (
            [a, tmp_path / "nothing"],
            f"{tmp_path / 'nothing'} does not exist: give a run folder, runs/<job>/<name>, or a",
        ),
        ([a, tmp_path], f"no attack or certificate records in {tmp_path}"),
        ([a, a, "--confidence", "95"], "confidence must lie strictly between 0 and 1 (say 0.95), got 95.0"),
    ):
        assert main(["compare", *map(str, words)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"python -m zeroth.records: error: {message}")
