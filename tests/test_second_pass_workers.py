"""The second pass of a crowded field gives the same bits for any tiles, any number of workers, and after a worker was killed."""

import shutil

import numpy as np
import pytest
from typer.testing import CliRunner
from worker_killer import killing_one

from dpm.cli.main import app
from dpm.config import load_options
from dpm.execute import create_executor
from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.options import ClusterOptions
from dpm.run.parts import Parts
from dpm.run.single import run_stage
from dpm.simulate import Effects, SimulationOptions, Visit, simulate_field
from dpm.stages.second_pass import field as second_pass_field


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Eight exposures of 320 x 320 pixels with five stars in a hundred pixels, run to the end in this process."""
    folder = tmp_path_factory.mktemp("crowd")
    visit = Visit(n_dithers=4, dither=0.05)
    effects = Effects(galaxies=0, fine_distortion=False, filter_distortion=False)
    options = SimulationOptions(visits=(visit,), n_pixels=320, n_stars=6000, cluster_radius=0.0, seed=5, effects=effects)
    simulate_field(folder / "field", options)
    config = folder / "field.toml"
    config.write_text(
        f'[input]\nexposures = ["{folder}/field/*_cal.fits"]\nreference = "{folder}/field/reference.ecsv"\n'
        f'[psf]\nsource = "{folder}/field/truth/stdpsf"\n[run]\ndirectory = "{folder / "run"}"\n'
        '[distortion]\nsource = "wcs"\n'
    )
    result = CliRunner().invoke(app, ["run", str(config), "--cluster", "none"])
    assert result.exit_code == 0, result.output
    return load_options(config), RunFolder(folder / "run")


def products(folder):
    """Catalogue and measurements, column by column."""
    tables = [read_table(folder.catalog)] + [read_table(path) for path in sorted(folder.measurements.glob("*.parquet"))]
    return [(name, np.asarray(table[name])) for table in tables for name in table.colnames]


def again(crowd, executor):
    """Products of the second pass, run once more, with what the motions add to its catalogue."""
    options, folder = crowd
    shutil.rmtree(folder.work / "second_pass")
    for stage in ("second_pass", "motions"):
        run_stage(folder, options, executor, stage)
    return products(folder)


def assert_same(one, other):
    assert len(one) == len(other)
    for (name, a), (name_b, b) in zip(one, other):
        assert name == name_b
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_same_bits_for_any_tiles_and_workers(crowd, monkeypatch):
    _, folder = crowd
    first = products(folder)
    assert len(read_table(folder.catalog)) > 1500
    tiles = []
    plan_tiles = second_pass_field.plan_tiles

    def counted(*arguments):
        made = plan_tiles(*arguments)
        tiles.append(len(made.tiles))
        return made

    monkeypatch.setattr("dpm.stages.second_pass.field.plan_tiles", counted)
    serial = create_executor("none", ClusterOptions())
    for seconds in (1e-6, 0.4, 1e6):
        monkeypatch.setattr(second_pass_field, "TILE_SECONDS", seconds)
        assert_same(first, again(crowd, serial))
    assert tiles[0] > tiles[1] > tiles[2] == 1
    monkeypatch.setattr(second_pass_field, "TILE_SECONDS", 0.4)
    for workers in (1, 2):
        executor = create_executor("local", ClusterOptions(workers=workers))
        try:
            assert_same(first, again(crowd, executor))
        finally:
            executor.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_same_bits_after_a_worker_was_killed(crowd, monkeypatch):
    _, folder = crowd
    first = products(folder)
    monkeypatch.setattr(second_pass_field, "TILE_SECONDS", 0.4)
    executor = create_executor("local", ClusterOptions(workers=2))
    try:
        with killing_one(folder.work, "second_pass_files/found/*.arrow"):
            assert_same(first, again(crowd, executor))
    finally:
        executor.close()


@pytest.mark.slow
def test_a_run_killed_while_the_stage_is_closed_loses_nothing(crowd, monkeypatch):
    _, folder = crowd
    first = products(folder)
    executor = create_executor("none", ClusterOptions())
    with monkeypatch.context() as patch:
        # After the files that tasks left for each other are removed, and before the stage counts as complete.
        patch.setattr(Parts, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            again(crowd, executor)
    assert not list(folder.work.glob("second_pass_files/pixels/*"))
    options, _ = crowd
    for stage in ("second_pass", "motions"):
        run_stage(folder, options, executor, stage)
    assert_same(first, products(folder))
