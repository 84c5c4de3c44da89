"""What a reader should know before trusting the tables: mixed versions, guessed noise, errors that do not hold."""

from __future__ import annotations

import numpy as np

from dpm.models.flags import STAR_FLAG_MEANINGS, StarFlag
from dpm.report.data import RunData, band_label
from dpm.report.select import finite_width, measured_residuals
from dpm.report.summary import stage_entries

__all__ = ["collect_warnings"]

_VERSION_COLUMNS = {
    "calibration_version": "calibration software (CAL_VER)",
    "crds_context": "CRDS context",
    "sdp_version": "data processing (SDP_VER)",
    "prd_version": "project reference data (PRD_VER)",
}
_NOISE_FALLBACKS = {"ERR": "ERR alone", "gain and read_noise": "the gain and read noise of the configuration"}


def collect_warnings(data: RunData) -> list[str]:
    """Everything about the run that a reader should know before trusting it."""
    found = list(data.warnings)
    for source in (data.provenance, {} if data.catalog is None else data.catalog.meta):
        extra = source.get("warnings", [])
        found += [str(text) for text in extra] if isinstance(extra, list) else [str(extra)]
    told = [entry["summary"] for entry in stage_entries(data).values() if isinstance(entry.get("summary"), dict)]
    found += [str(text) for summary in told for text in summary.get("warnings", [])]
    found += _flag_warnings(data) + _scatter_warnings(data)
    if not told:
        found += _version_warnings(data) + _noise_warnings(data)
    if data.exposures is not None:
        found += _exposure_warnings(data)
    if data.catalog is None:
        found.append("There is no catalogue in this run folder yet: the frame stage has not finished.")
    elif len(data.catalog) == 0:
        found.append(
            "The catalogue is empty: no star was found in as many exposures as [frame] min_exposures asks for."
        )
    return list(dict.fromkeys(found))


def _version_warnings(data: RunData) -> list[str]:
    found: list[str] = []
    if data.exposures is None:
        return found
    for name, words in _VERSION_COLUMNS.items():
        if name not in data.exposures.colnames:
            continue
        for telescope in sorted({str(value) for value in data.exposures["telescope"]}):
            same = np.array([str(value) == telescope for value in data.exposures["telescope"]])
            versions = sorted({str(value) for value in data.exposures[name][same]} - {""})
            if len(versions) > 1:
                found.append(
                    f"The {telescope} exposures come from different versions of the {words}: {', '.join(versions)}. "
                    "Flat fields and flux calibration may differ between them; get them all from one processing."
                )
    return found


def _noise_warnings(data: RunData) -> list[str]:
    table = data.exposures
    if table is None or "noise_source" not in table.colnames:
        return []
    guessed = {str(row["exposure"]): str(row["noise_source"]) for row in table}
    guessed = {name: source for name, source in guessed.items() if source in _NOISE_FALLBACKS}
    if not guessed:
        return []
    sources = "; ".join(_NOISE_FALLBACKS[source] for source in sorted(set(guessed.values())))
    return [f"The noise of {_named(list(guessed))} does not come from the file's own variances but from {sources}."]


def _flag_warnings(data: RunData) -> list[str]:
    """Degradations that most of the catalogue carries."""
    flags = data.catalog_column("flags")
    if flags is None or flags.size == 0:
        return []
    found = []
    for flag in (
        StarFlag.EPSF_EXTRAPOLATED, StarFlag.DISTORTION_EXTRAPOLATED, StarFlag.POSITION_RELATIVE, StarFlag.NOISE_FALLBACK,
        StarFlag.FEW_EXPOSURES,
    ):  # fmt: skip
        share = np.count_nonzero(flags & int(flag)) / flags.size
        if share > 0.5:
            found.append(f"{100 * share:.0f} % of the stars carry the flag {flag.name}: {STAR_FLAG_MEANINGS[flag]}.")
    return found


def _scatter_warnings(data: RunData) -> list[str]:
    """Bands whose fits or positions scatter far more than their errors say."""
    found = []
    for band, sample in data.samples.items():
        chi = sample["chi"][sample.matched & np.isfinite(sample["chi"])]
        if chi.size >= 30 and np.median(chi) > 1.5:
            found.append(
                f"Half of the fits in {band_label(band)} have a chi above {np.median(chi):.1f}: the noise planes are "
                "too small or the ePSF does not fit, and the errors are too small by about that factor."
            )
        good, factor = measured_residuals(sample)
        if good.sum() < 30:
            continue
        pulls = [factor * sample[f"d{name}"][good] / sample[f"{name}_error"][good] for name in ("x", "y")]
        width = np.sqrt(np.mean([finite_width(values) ** 2 for values in pulls]))
        if width > 2:
            found.append(
                f"Positions of well-measured stars in {band_label(band)} scatter {width:.1f} times as much as the "
                "errors of single fits say: distortion that is left, or an ePSF that does not fit, rules there. See "
                "the residual maps and the pixel phase."
            )
    return found


def _exposure_warnings(data: RunData) -> list[str]:
    assert data.exposures is not None
    table, found = data.exposures, []
    if "n_matched" in table.colnames and "n_detections" in table.colnames:
        lost = [str(row["exposure"]) for row in table if row["n_detections"] > 0 and row["n_matched"] <= 0]
        if lost:
            found.append(
                f"No detection of {_named(lost)} belongs to a star of the master frame: left out of the catalogue."
            )
    if "residual_rms" in table.colnames:
        rms = np.asarray(table["residual_rms"], dtype=float)
        if np.isfinite(rms).sum() >= 3:
            limit = 3 * np.nanmedian(rms)
            poor = [str(row["exposure"]) for row in table if row["residual_rms"] > limit]
            if poor:
                found.append(f"Residuals of {_named(poor)} are more than three times the median of all exposures.")
    return found


def _named(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
