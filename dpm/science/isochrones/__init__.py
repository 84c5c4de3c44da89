"""Isochrones and white dwarf cooling sequences: readers, interpolation in mass, distance and extinction."""

from dpm.science.isochrones.cooling import (
    CoolingTrack,
    SurfaceColors,
    interpolate_tracks,
    read_basti_cooling,
    read_bergeron_colors,
    read_cooling_track,
    read_montreal,
)
from dpm.science.isochrones.extinction import band_extinctions, extinction_law, extinction_ratio
from dpm.science.isochrones.isochrone import Isochrone, interpolate_quadratic
from dpm.science.isochrones.readers import read_basti, read_isochrones, read_mist, read_parsec
from dpm.science.isochrones.white_dwarfs import Lifetimes, final_mass, white_dwarf_isochrone

__all__ = [
    "CoolingTrack",
    "Isochrone",
    "Lifetimes",
    "SurfaceColors",
    "band_extinctions",
    "extinction_law",
    "extinction_ratio",
    "final_mass",
    "interpolate_quadratic",
    "interpolate_tracks",
    "read_basti",
    "read_basti_cooling",
    "read_bergeron_colors",
    "read_cooling_track",
    "read_isochrones",
    "read_mist",
    "read_montreal",
    "read_parsec",
    "white_dwarf_isochrone",
]
