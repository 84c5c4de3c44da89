"""The command line: help is instant, exit codes are as DESIGN section 5 says, init writes what can be run."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dpm.cli.run
import dpm.stages
from dpm import config
from dpm.cli.main import app

STAGES = ("fake_stages.numbers", "fake_stages.scaled", "fake_stages.total")


@pytest.fixture
def field(tmp_path, monkeypatch):
    """Three input files, a TOML file, and the tiny stages in place of dpm's own."""
    for n in range(3):
        (tmp_path / f"in_{n}.dat").write_text(str(n))
    (tmp_path / "field.toml").write_text('[input]\nexposures = ["in_*.dat"]\n')
    monkeypatch.setattr(dpm.stages, "STAGES", STAGES)
    monkeypatch.setattr(dpm.cli.run, "report_step", lambda: ("report", lambda folder: None, ()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dpm_command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['dpm', '--help']\n"
        "from dpm.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'numpy', 'numba', 'astropy', 'dask', 'distributed', 'xarray', 'pydantic', 'matplotlib'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert result.returncode == 0, result.stderr
    for command in ("demo", "init", "run", "status", "report", "export", "simulate", "stage"):
        assert command in result.stdout


def test_import_dpm_is_light_and_names_resolve():
    code = (
        "import sys, dpm; assert not {'numpy', 'numba', 'astropy', 'dask'} & set(sys.modules)\n"
        "dpm.Options, dpm.StarFlag\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    with pytest.raises(AttributeError, match="has no attribute 'opn'"):
        dpm.opn  # noqa: B018
    assert "open" in dir(dpm)


def test_run_status_plan_and_stage(field):
    assert dpm_command("status", "field.toml").exit_code == 3
    plan = dpm_command("run", "field.toml", "--plan")
    assert plan.exit_code == 0 and "numbers      to run: not run yet" in plan.output and not (field / "run").exists()
    result = dpm_command("run", "field.toml")
    assert result.exit_code == 0, result.output
    assert dpm_command("status", "run").exit_code == 0
    (field / "field.toml").write_text('[input]\nexposures = ["in_*.dat"]\n[find]\nthreshold = 3\n')
    status = dpm_command("status", "field.toml")
    assert status.exit_code == 3 and "[find] threshold (5.0 -> 3.0) changed" in status.output
    stale = dpm_command("stage", "total", "field.toml")
    assert stale.exit_code == 3 and "needs scaled" in stale.output
    assert dpm_command("stage", "scaled", "field.toml").exit_code == 0
    assert dpm_command("stage", "total", "field.toml", "--cluster", "none").exit_code == 0
    assert tomllib.loads((field / "run" / "config.toml").read_text())["find"]["threshold"] == 3.0


def test_a_stage_alone_says_its_warnings(field, monkeypatch):
    monkeypatch.setattr("fake_stages.numbers.finalise", lambda *_: {"warnings": ["five is few"]})
    result = dpm_command("stage", "numbers", "field.toml")
    assert result.exit_code == 0 and "warning: five is few" in result.output


def test_partitions_from_the_command_line(field):
    for index in (0, 1):
        result = dpm_command("stage", "numbers", "field.toml", "--partition", index, "--of", 2)
        assert result.exit_code == 0, result.output
    assert dpm_command("stage", "numbers", "run", "--finalise").exit_code == 0
    assert dpm_command("stage", "scaled", "run", "--partition", 0, "--of", 2).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "nothere.toml"), 2, "nothere.toml: no such file"),
        (("run", "bad.toml"), 2, "did you mean 'threshold'"),
        (("run", "empty.toml"), 2, "exposures is empty"),
        (("run", "field.toml", "--cluster", "locl"), 1, "did you mean 'local'"),
        (("run", "field.toml", "--workers", "0"), 2, "--workers"),
        (("stage", "nmbers", "field.toml"), 2, "there is no stage 'nmbers'"),
        (("stage", "numbers", "field.toml", "--partition", "0"), 2, "go together"),
        (("stage", "numbers", "field.toml", "--finalise"), 3, "no partition has run"),
        (("report", "field.toml"), 3, "there is no catalogue yet"),
        (("export", "field.toml", "out.ecsv"), 3, "there is no catalogue yet"),
        (("export", "field.toml", "out.doc"), 2, "the formats are ecsv, fits, hats, parquet, votable"),
        (("simulate", "out", "--epochs", "now"), 2, "years by commas"),
        (("simulate", "out", "-i", "wfpc2"), 2, "'wfpc2' is not one of niriss"),
        (("simulate", "out", "--size", "9"), 2, "9 is too small"),
        (("simulate", "."), 1, "name a new folder"),
        (("init", "nothere"), 1, "no such folder"),
        (("demo", "."), 1, "name a new folder"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_errors_and_exit_codes(field, arguments, code, message):
    (field / "bad.toml").write_text("[find]\ntreshold = 3\n")
    (field / "empty.toml").write_text("[find]\nthreshold = 3\n")
    result = dpm_command(*arguments)
    assert (result.exit_code, message in result.output) == (code, True), result.output


def test_failed_part_is_named_and_exit_code_is_one(field):
    (field / "in_1.dat").write_text("fail")
    result = dpm_command("run", "field.toml")
    assert (
        result.exit_code == 1 and "in_1.dat: not a number" in result.output and "1 of 3 parts failed" in result.output
    )


def test_init_writes_a_file_that_loads(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = dpm_command("init", shared_data / "real" / "wfc3uvis_f814w_3dithers", "-o", "new.toml")
    assert result.exit_code == 0, result.output
    options = config.load_options(tmp_path / "new.toml")
    assert len(options.input.exposures) == 3 and options.frame.min_exposures == 3
    assert options.run.directory == str(tmp_path / "run")
    (tmp_path / "run").mkdir()
    assert dpm_command("init", shared_data / "real" / "wfc3uvis_f814w_3dithers", "-o", "two.toml").exit_code == 0
    assert config.load_options(tmp_path / "two.toml").run.directory == str(tmp_path / "run_two")
    assert dpm_command("init", shared_data / "real" / "wfc3uvis_f814w_3dithers", "-o", "new.toml").exit_code == 1
    assert dpm_command("init", tmp_path).exit_code == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_ends_with_a_table_and_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = dpm_command("demo", "new")
    assert result.exit_code == 0, result.output
    assert result.output.count("found against true") == 2
    report = tmp_path / result.output.split()[-1]
    assert report.name == "index.html" and report.is_file()
    again = dpm_command("demo", "new")
    assert again.exit_code == 0 and again.output.count("up to date") == len(dpm.stages.STAGES) + 1
