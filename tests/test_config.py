"""The configuration: every error names file and key; what is written can be read again."""

from dataclasses import replace

import pytest

from dpm.config import ConfigError, load_options, open_run, parse_options, render_options
from dpm.models.options import Options


@pytest.fixture
def write(tmp_path):
    """Writes field.toml and an exposure beside it, and returns the file's path."""
    (tmp_path / "data").mkdir()
    for name in ("b_cal.fits", "a_cal.fits"):
        (tmp_path / "data" / name).touch()

    def write_text(text):
        path = tmp_path / "field.toml"
        path.write_text(text)
        return path

    return write_text


def test_relative_paths_and_patterns(write, tmp_path):
    path = write('[input]\nexposures = ["data/*_cal.fits", "data/a_cal.fits"]\n[run]\ndirectory = "out"\n')
    options = load_options(path)
    assert options.input.exposures == (str(tmp_path / "data/a_cal.fits"), str(tmp_path / "data/b_cal.fits"))
    assert options.run.directory == str(tmp_path / "out")
    assert options.psf == Options().psf


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[find]\ntreshold = 4", r"unknown key 'treshold' in \[find\] \(did you mean 'threshold'\?\)"),
        ("[fidn]\nthreshold = 4", r"unknown table or key 'fidn' \(did you mean 'find'\?\)"),
        ("threshold = 4", r"threshold belongs into \[find\]"),
        ("find = 3", r"write \[find\] on a line of its own"),
        ('[find]\nthreshold = "high"', r"\[find\] threshold = \"high\": has to be a number \(default 5.0\)"),
        ("[find]\npasses = 1.5", r"\[find\] passes = 1.5: has to be a whole number"),
        ("[find]\nfit_sky = 1", r"has to be true or false"),
        ("[frame]\nmin_exposures = 0", r"\[frame\] min_exposures = 0: has to be a number at least 1"),
        ('[input]\nexposures = "a.fits"', r"\[input\] exposures = .* has to be a list"),
        ('[input]\nexposures = ["data/*_flc.fits"]', r"\[input\] exposures: nothing matches 'data/\*_flc.fits'"),
        ('[input]\nreference = "gaia.ecsv"', r"\[input\] reference = 'gaia.ecsv': no such file"),
        (
            '[psf]\nsource = "biuld"',
            r'\[psf\] source = \'biuld\': no such file or folder: .*; allowed are also "build"',
        ),
        ('[photometry]\nzero_points = {a = "x"}', r"\[photometry\] zero_points.a = \"x\": has to be a number"),
        ("[photometry]\nencircled_energy = {a = 1.2}", r"\[photometry\] encircled_energy.a = 1.2: has to be .*1"),
        ('[photometry]\nsystem = "STMAG"', r"\[photometry\] system = \"STMAG\": has to be 'auto', 'instrumental', 'vega' or 'ab'"),
        ("[find", "not a TOML file"),
    ],
)
def test_errors_name_file_and_key(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_options(path)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file; `dpm init`"):
        load_options(tmp_path / "field.toml")


@pytest.mark.parametrize("notes", [False, True])
def test_written_options_come_back(tmp_path, notes):
    import tomllib

    data = {
        "find": {"threshold": 4, "fit_sky": True},
        "photometry": {"zero_points": {"niriss_f090w.NIS": 26.3, "acswfc_f814w": 25}, "encircled_energy": {"acswfc_f814w": 0.9}},
        "frame": {"scale": 0.04},
    }
    options = parse_options(data, "field.toml", tmp_path)
    again = parse_options(tomllib.loads(render_options(options, notes)), "config.toml", tmp_path)
    assert again == options
    assert f"passes = {options.find.passes}" in render_options(options)


def test_open_run_takes_folder_or_file_and_survives_a_move(write, tmp_path):
    path = write('[input]\nexposures = ["data/*_cal.fits"]\n')
    folder, options = open_run(path)
    assert folder.root == tmp_path / "run"
    folder.create()
    folder.config.write_text(render_options(options))
    moved = tmp_path / "moved"
    folder.root.rename(moved)
    again, changed = open_run(moved)
    assert again.root == moved and changed == replace(options, run=replace(options.run, directory=str(moved)))
    assert open_run(moved / "config.toml")[0].root == moved
    with pytest.raises(ConfigError, match="not a run folder"):
        open_run(tmp_path / "data")
