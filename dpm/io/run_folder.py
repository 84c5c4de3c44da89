"""Where everything lies in a run folder (DESIGN section 5); others' scripts rely on these names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run folder.  Nothing is created until `create` is called.

    Parameters
    ----------
    root : Path
        The run folder itself.
    """

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.json"

    @property
    def cubes(self) -> Path:
        return self.root / "cubes"

    @property
    def psf(self) -> Path:
        return self.root / "calibration" / "psf"

    @property
    def distortion(self) -> Path:
        return self.root / "calibration" / "distortion"

    @property
    def wcs(self) -> Path:
        """Each exposure's header WCS with its look-up tables, as small FITS files."""
        return self.root / "calibration" / "wcs"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def exposures(self) -> Path:
        return self.tables / "exposures.parquet"

    @property
    def detections(self) -> Path:
        return self.tables / "detections"

    @property
    def matches(self) -> Path:
        """Which detection belongs to which star, one part an exposure (written by the frame stage)."""
        return self.tables / "matches"

    @property
    def frame_catalog(self) -> Path:
        """Averages of the first pass's detections (written by the frame stage)."""
        return self.tables / "frame_catalog.parquet"

    @property
    def catalog(self) -> Path:
        return self.tables / "catalog.parquet"

    @property
    def motions(self) -> Path:
        """Motions against the members, and who they are (written by the motions stage)."""
        return self.tables / "motions.parquet"

    @property
    def detector_maps(self) -> Path:
        """Members' mean motions in cells of the detectors, before and after corrections (written by the motions stage)."""
        return self.tables / "detector_maps.parquet"

    @property
    def artificial_stars(self) -> Path:
        """The artificial stars, what went in and what came out."""
        return self.tables / "artificial_stars.parquet"

    @property
    def completeness(self) -> Path:
        """Completeness curves from the artificial stars."""
        return self.tables / "completeness.parquet"

    @property
    def selection(self) -> Path:
        """Which real and artificial stars pass the selection, its cuts, and the counts at each step."""
        return self.tables / "selection"

    @property
    def measurements(self) -> Path:
        """Second pass, one row a star and exposure, one part an exposure."""
        return self.tables / "measurements"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def atlas_index(self) -> Path:
        """The atlas' files, one row a file: stack, place in the atlas' frame, corners on the sky."""
        return self.images / "atlas.ecsv"

    @property
    def atlas_pages(self) -> Path:
        """Zoomable pages of the atlas' pictures, a folder each."""
        return self.images / "atlas"

    @property
    def charts(self) -> Path:
        """Finding charts."""
        return self.images / "charts"

    @property
    def report(self) -> Path:
        return self.root / "report" / "index.html"

    def cube(self, detector: str, filter_name: str) -> Path:
        """Path of the zarr cube of one detector and filter."""
        return self.cubes / f"{detector}_{filter_name}.zarr"

    def wcs_file(self, exposure: str, detector: str) -> Path:
        """Path of the stored header WCS of one exposure of one detector."""
        return self.wcs / f"{exposure}_{detector}.fits"

    def detections_file(self, exposure: str, detector: str) -> Path:
        """Path of the first pass's table of one exposure of one detector."""
        return self.detections / f"{exposure}_{detector}.parquet"

    def measurements_file(self, exposure: str, detector: str) -> Path:
        """Path of the second pass's table of one exposure of one detector."""
        return self.measurements / f"{exposure}_{detector}.parquet"

    def matches_file(self, exposure: str, detector: str) -> Path:
        """Path of the match table of one exposure of one detector."""
        return self.matches / f"{exposure}_{detector}.parquet"

    def psf_file(self, detector: str, filter_name: str) -> Path:
        """Path of the ePSF library of one detector and filter."""
        return self.psf / f"STDPSF_{detector}_{filter_name}.fits"

    def brightness_file(self, detector: str, filter_name: str) -> Path:
        """Path of the ePSF's change with brightness, psi_1, of one detector and filter."""
        return self.psf / f"BFPSF_{detector}_{filter_name}.fits"

    def perturbed_psf_file(self, exposure: str, detector: str, filter_name: str) -> Path:
        """Path of the ePSF of one exposure of one detector, where it differs from the library's."""
        return self.psf / "perturbed" / f"STDPSF_{detector}_{filter_name}_{exposure}.fits"

    def create(self) -> None:
        """Make the folders that every run has."""
        calibration = (self.psf, self.distortion, self.wcs)
        for folder in (self.root, self.work, self.logs, self.cubes, *calibration, self.tables, self.detections):
            folder.mkdir(parents=True, exist_ok=True)
