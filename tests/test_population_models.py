"""Models over colour-magnitude diagrams: loci of binaries, what ``[population]`` asks for, and the report's section."""

from __future__ import annotations

import re

import numpy as np
import pytest
from report_fixture import make_run

from dpm.config import ConfigError, parse_options
from dpm.io.tables import catalog_columns, read_table, write_table
from dpm.models.options import PopulationOptions
from dpm.report.data import load_run
from dpm.report.sections import build_sections
from dpm.science.isochrones import Isochrone
from dpm.science.populations import ModelsError, binary_locus, draw_population, read_models

HEAD = """\
#  Np = 40   [M/H] = -1.900   Z = 0.0002500   Y = 0.24700000   Age (Myr) = {age}
#    M/Mo(ini)     M/Mo(fin)    log(L/Lo)  logTe        F090W     F150W
"""
COOL = "#   log(t)       Mwd   log(Teff)log(L/Lo) F090W F150W\n"
BANDS = {"niriss_f090w": "F090W", "niriss_f150w": "F150W"}


def isochrone_file(folder, age=12000.0):
    """Magnitudes that fall with the logarithm of the mass, and colours that redden with them."""
    mass = np.geomspace(0.1, 0.8, 40)
    bright = 3.5 - 8.0 * np.log10(mass / 0.8) + 1e-5 * age
    rows = [f"{m:.10f} {m:.10f} -1.0 3.6 {b:.4f} {b - 0.4 - 0.08 * (b - 3.0):.4f}" for m, b in zip(mass, bright)]
    path = folder / f"{age:.0f}.isc_jwst"
    path.write_text(HEAD.format(age=age) + "\n".join(rows) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path):
    track = tmp_path / "COOL061"
    track.write_text(COOL + "".join(f" {t} 0.61 4.0 -2.0 {11 + 2 * t - 16} {10.9 + 2 * t - 16}\n" for t in (8, 9, 10)))
    return {"isochrones": (isochrone_file(tmp_path),), "tracks": (str(track),)}


def test_equal_masses_are_twice_as_bright_at_the_same_colour():
    mass = np.geomspace(0.1, 0.8, 30)
    single = Isochrone(12.0, mass, {"a": 10.0 - 5.0 * mass, "b": 9.0 - 4.0 * mass}, columns={"phase": mass})
    pairs = binary_locus(single)
    for band in "ab":
        np.testing.assert_allclose(single.magnitudes[band] - pairs.magnitudes[band], 2.5 * np.log10(2.0), atol=1e-12)
    some = binary_locus(single, 0.5)
    assert some.mass[0] >= 0.2 and some.mass[-1] == 0.8 and some.columns["phase"].size == some.mass.size
    flux = 10 ** (-0.4 * single(some.mass)) + 10 ** (-0.4 * single(0.5 * some.mass))
    np.testing.assert_allclose(np.column_stack(list(some.magnitudes.values())), -2.5 * np.log10(flux), atol=1e-12)
    assert binary_locus(single, 0.1).mass.size == 0
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        binary_locus(single, 1.2)


def test_locus_bounds_drawn_pairs():
    """No drawn pair is brighter than equal masses of the colour at the brighter star's mass."""
    mass = np.geomspace(0.1, 0.8, 60)
    single = Isochrone(12.0, mass, {"a": 10.0 - 5.0 * mass, "b": 9.0 - 4.0 * mass})
    drawn = draw_population(single, 4000, -1.0, 3, pair_fraction=1.0)
    brighter = np.maximum(drawn["initial_mass"], drawn["second_mass"])
    edge = binary_locus(single)(brighter, ["a"])[:, 0]
    assert np.all(drawn["a_mag"] >= edge - 1e-9) and np.min(drawn["a_mag"] - edge) < 0.01


def test_models_of_files(files):
    assert read_models(PopulationOptions()) is None
    models = read_models(PopulationOptions(**files, bands=BANDS, distance_modulus=12.0, e_bv=0.2, r_v=3.0))
    assert [round(one.age, 3) for one in models.isochrones] == [12.0] and [track.mass for track in models.tracks] == [0.61]
    assert models.isochrones[0].bands == tuple(BANDS) and tuple(models.tracks[0].magnitudes) == tuple(BANDS)
    assert models.extinction["niriss_f150w"] == pytest.approx(0.6 * 0.3722 * 1.494**-2.07)
    assert models.shift("niriss_f150w") == pytest.approx(12.0 + models.extinction["niriss_f150w"])
    ratios = {"niriss_f090w": 0.5}
    given = read_models(PopulationOptions(**files, bands=BANDS, distance_modulus=12.0, e_bv=0.2, extinction_ratios=ratios))
    assert given.extinction["niriss_f090w"] == pytest.approx(0.31)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance_modulus": None}, r"\[population\] distance_modulus: not set"),
        ({"bands": {"niriss_f090w": "F090W"}}, r"\[population\] bands: two bands"),
        ({"bands": {"niriss_f090w": "F090W", "niriss_f150w": "F15W"}}, r"\[population\] bands: no magnitudes F15W .*F090W, F150W"),
        ({"track_bands": {"niriss_f200w": "F200W"}}, r"\[population\] track_bands: niriss_f200w not in bands"),
        ({"track_bands": {"niriss_f150w": "H"}}, r"\[population\] track_bands: no magnitudes H"),
        ({"ages": (5.0,)}, r"\[population\] ages: no isochrone of 5 Gyr; there are 12 Gyr"),
        ({"law": "G99"}, r"\[population\] law: .*G99"),
        ({"bands": {"x_f1": "F090W", "niriss_f150w": "F150W"}}, r"\[population\] extinction_ratios: no wavelength for x_f1"),
        ({"isochrones": ("none",)}, r"\[population\] isochrones: none: no such file"),
        ({"surface_colors": "none"}, r"\[population\] surface_colors: none"),
        ({"tracks": ("TRACK",)}, r"\[population\] tracks: "),
    ],
)
def test_errors_name_the_key(files, changes, message):
    options = {**files, "bands": BANDS, "distance_modulus": 12.0, **changes}
    if changes.get("tracks"):
        options["tracks"] = files["isochrones"]
    with pytest.raises(ModelsError, match=message):
        read_models(PopulationOptions(**options))


def test_too_many_isochrones(tmp_path):
    paths = tuple(isochrone_file(tmp_path, age) for age in range(8000, 14000, 1000))
    with pytest.raises(ModelsError, match=r"ages: 6 isochrones; choose at most 4 of 8, 9, .*13 Gyr"):
        read_models(PopulationOptions(isochrones=paths, bands=BANDS, distance_modulus=12.0))
    models = read_models(PopulationOptions(isochrones=paths, bands=BANDS, distance_modulus=12.0, ages=(12.1, 9.0)))
    assert [one.age for one in models.isochrones] == [9.0, 12.0]


def test_configuration_is_checked_before_the_run(files, tmp_path):
    data = {"isochrones": [files["isochrones"][0]], "bands": BANDS, "distance_modulus": 12.0}
    assert parse_options({"population": data}, "f.toml", tmp_path).population.bands == BANDS
    with pytest.raises(ConfigError, match=r"f.toml: \[population\] bands: two bands"):
        parse_options({"population": {**data, "bands": {}}}, "f.toml", tmp_path)
    with pytest.raises(ConfigError, match=r"f.toml: \[population\] mass_ratios.*: has to be .*1"):
        parse_options({"population": {**data, "mass_ratios": [1.5]}}, "f.toml", tmp_path)
    parse_options({"population": {**data, "bands": {}}}, "f.toml", tmp_path, check_files=False)


def test_section_is_where_it_is_asked_for(files, tmp_path):
    folder = make_run(tmp_path / "run", n_stars=300, n_exposures=2, cubes=False, psf=False)
    assert build_sections(load_run(folder), "models")[0].empty
    catalog = read_table(folder.catalog)
    bands = [name.removesuffix("_mag") for name in catalog.colnames if re.fullmatch(r"niriss_f\d+w_mag", name)]
    assert bands == list(BANDS)

    def section(system, **changes):
        catalog.meta["mag_system"] = system
        write_table(folder.catalog, catalog, catalog_columns(bands))
        wanted = {key: list(value) for key, value in files.items()} | {"distance_modulus": -18.0, "e_bv": 0.1} | changes
        lines = [f"{key} = {value!r}" for key, value in wanted.items()]
        names = ", ".join(f'{band} = "{name}"' for band, name in BANDS.items())
        folder.config.write_text("[population]\n" + "\n".join(lines) + f"\nbands = {{{names}}}\nmass_ratios = [1.0, 0.5]\n")
        return build_sections(load_run(folder), "models")[0]

    made = section("Vega")
    assert len(made.images) == 1 and "(m − M)₀ = -18" in made.images[0].caption and not made.absent
    assert "No model comes near the stars" in section("Vega", distance_modulus=3.0).images[0].caption
    assert "catalogue's magnitudes are AB" in section("AB").absent
    assert "[population] tracks: " in section("Vega", tracks=list(files["isochrones"])).absent
