"""Cubes: metadata, shards, padding, growth, and the exposure table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpm.io.cubes import (
    bounding_box,
    create_cube,
    cube_rows,
    open_cube,
    read_exposure,
    read_exposure_table,
    shard_file,
    update_rows,
    write_exposure,
)
from dpm.io.errors import InputError
from dpm.io.run_folder import RunFolder
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag


def _row(name: str, x0: int = 0, y0: int = 0, nx: int = 40, ny: int = 30, **more: Any) -> dict[str, Any]:
    return {
        "exposure": name,
        "file": f"{name}_flc.fits",
        "detector": "WFC1",
        "filter": "F814W",
        "band": "acswfc_f814w",
        "target": "T",
        "epoch": 2005.0,
        "exptime": 100.0,
        "flux_unit": "electron/s",
        "x_origin": x0,
        "y_origin": y0,
        "nx": nx,
        "ny": ny,
        "pixel_scale": 0.05,
        "va_scale": 1.0,
        "zero_point_vega": float("nan"),
        "zero_point_ab": np.float64(25.5),
        **more,
    }


def _image(row: dict[str, Any], seed: int = 1) -> ExposureImage:
    rng = np.random.default_rng(seed)
    shape = (row["ny"], row["nx"])

    def plane(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, shape).astype(np.float32)

    return ExposureImage(
        name=row["exposure"],
        detector="WFC1",
        filter="F814W",
        sci=plane(-1, 100),
        var_read=plane(0.1, 0.2),
        poisson_factor=plane(0.01, 0.02),
        flat_variance=plane(0, 1e-6),
        area=plane(0.9, 1.1),
        dq=rng.integers(0, 64, shape).astype(np.uint8),
        x_origin=row["x_origin"],
        y_origin=row["y_origin"],
        exptime=100.0,
    )


def test_padding_is_bad_and_exposures_come_back(tmp_path: Path) -> None:
    rows = [_row("a", 10, 20), _row("b", 15, 18, epoch=2004.0)]
    assert bounding_box(rows) == ((32, 45), (10, 18))
    path = tmp_path / "WFC1_F814W.zarr"
    places = create_cube(path, "WFC1", "F814W", rows)
    assert places == {"b": 0, "a": 1}
    images = {name: _image(row, seed) for seed, (name, row) in enumerate(zip("ab", rows))}
    for name, image in images.items():
        write_exposure(path, places[name], image, err=image.sci)
    for name, image in images.items():
        back = read_exposure(path, places[name])
        assert (back.x_origin, back.y_origin, back.shape) == (image.x_origin, image.y_origin, image.shape)
        assert np.array_equal(back.sci, image.sci) and np.array_equal(back.dq, image.dq)
        assert np.allclose(back.var_read, image.var_read, rtol=3e-4) and np.allclose(back.area, image.area, rtol=5e-6)
        assert np.isnan(back.saturation) and not back.noise_fallback
    cube = open_cube(path)
    assert dict(cube.sizes) == {"exposure": 2, "y": 32, "x": 45}
    assert cube["x"].values[0] == 10 and cube["y"].values[0] == 18
    assert cube["exposure"].values.tolist() == ["b", "a"] and cube["epoch"].values.tolist() == [2004.0, 2005.0]
    assert (cube["dq"].values[1, :2] == PixelFlag.BAD).all() and np.isnan(cube["sci"].values[1, :2]).all()
    part = cube["sci"].sel(exposure="a", x=slice(20, 24), y=slice(25, 26)).values
    assert np.array_equal(part, images["a"].sci[5:7, 10:15])


def test_one_shard_an_exposure(tmp_path: Path) -> None:
    row = _row("a", nx=600, ny=300)
    create_cube(tmp_path / "c.zarr", "WFC1", "F814W", [row, _row("b", nx=600, ny=300)])
    write_exposure(tmp_path / "c.zarr", 0, _image(row))
    files = [path for path in (tmp_path / "c.zarr" / "sci" / "c").rglob("*") if path.is_file()]
    assert files == [shard_file(tmp_path / "c.zarr", 0)]
    layout = json.loads((tmp_path / "c.zarr" / "sci" / "zarr.json").read_text())
    assert layout["zarr_format"] == 3
    assert layout["chunk_grid"]["configuration"]["chunk_shape"] == [1, 512, 768]
    assert layout["codecs"][0]["configuration"]["chunk_shape"] == [1, 256, 256]
    with pytest.raises(InputError, match="not in the cube"):
        read_exposure(tmp_path / "c.zarr", 1)


def test_attributes_are_strict_json(tmp_path: Path) -> None:
    create_cube(tmp_path / "c.zarr", "WFC1", "F814W", [_row("a")])
    update_rows(tmp_path / "c.zarr", {0: {"saturation": float("nan"), "sha256": "00"}})

    def refuse(text: str) -> None:
        raise AssertionError(text)

    content = json.loads((tmp_path / "c.zarr" / "zarr.json").read_text(), parse_constant=refuse)
    row = content["attributes"]["exposures"][0]
    assert row["saturation"] is None and row["zero_point_vega"] is None and row["zero_point_ab"] == 25.5


def test_a_cube_grows_without_losing_pixels(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    first = _row("b")
    create_cube(path, "WFC1", "F814W", [first], settings={"gwcs": False})
    image = _image(first)
    write_exposure(path, 0, image)
    update_rows(path, {0: {"sha256": "00"}})
    places = create_cube(path, "WFC1", "F814W", [_row("a"), first], settings={"gwcs": False})
    assert places == {"b": 0, "a": 1}
    assert np.array_equal(read_exposure(path, 0).sci, image.sci)
    assert [row.get("sha256") for row in cube_rows(path)] == ["00", None]
    assert open_cube(path)["exposure"].values.tolist() == ["b", "a"]
    create_cube(path, "WFC1", "F814W", [_row("a"), first], settings={"gwcs": True})
    assert [row.get("sha256") for row in cube_rows(path)] == [None, None]


def test_a_cube_is_made_anew_when_it_no_longer_fits(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    rows = [_row("a"), _row("b")]
    create_cube(path, "WFC1", "F814W", rows)
    write_exposure(path, 0, _image(rows[0]))
    assert create_cube(path, "WFC1", "F814W", rows[1:]) == {"b": 0}
    assert not shard_file(path, 0).exists()
    assert create_cube(path, "WFC1", "F814W", [_row("b", nx=50)]) == {"b": 0}
    assert open_cube(path).sizes["x"] == 50
    assert sorted(item.name for item in tmp_path.iterdir()) == ["c.zarr"]


@pytest.mark.parametrize(("key", "value"), [("detector", "WFC2"), ("filter", "F606W"), ("flux_unit", "DN/s")])
def test_rows_of_another_kind_are_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"b_flc.fits \[{key}\]"):
        create_cube(tmp_path / "c.zarr", "WFC1", "F814W", [_row("a"), _row("b", **{key: value})])
    assert not (tmp_path / "c.zarr").exists()


def test_an_exposure_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="also in a_flc.fits"):
        create_cube(tmp_path / "c.zarr", "WFC1", "F814W", [_row("a"), _row("a", file="a_flt.fits")])


def test_images_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    create_cube(tmp_path / "c.zarr", "WFC1", "F814W", [_row("a"), _row("b")])
    with pytest.raises(ValueError, match="index 1 is for"):
        write_exposure(tmp_path / "c.zarr", 1, _image(_row("a")))
    with pytest.raises(ValueError, match="does not fit"):
        write_exposure(tmp_path / "c.zarr", 0, _image(_row("a", nx=41)))


def test_exposure_table(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    create_cube(folder.cube("WFC1", "F814W"), "WFC1", "F814W", [_row("a"), _row("b")])
    table = read_exposure_table(folder)
    assert table["exposure"].tolist() == ["a", "b"] and table["index"].tolist() == [0, 1]
    assert set(table["cube"]) == {"WFC1_F814W.zarr"}
    assert table.colnames[0] == "exposure" and table.colnames[-1] == "prd_version"
    assert table["x_origin"].dtype == np.int32 and np.isnan(table["saturation"]).all()
    assert len(read_exposure_table(RunFolder(tmp_path / "empty"))) == 0


def test_reading_does_not_import_dask(tmp_path: Path) -> None:
    create_cube(tmp_path / "c.zarr", "WFC1", "F814W", [_row("a")])
    write_exposure(tmp_path / "c.zarr", 0, _image(_row("a")))
    code = (
        "import sys; from dpm.io.cubes import read_exposure; "
        f"read_exposure({str(tmp_path / 'c.zarr')!r}, 0); "
        "sys.exit('dask' in sys.modules or 'xarray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
