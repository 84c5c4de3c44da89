"""The one registry of table columns: name, type, unit, UCD and meaning of everything that dpm writes.

Tables are written with this metadata, and the documentation's tables are made from it.  Names follow DESIGN section 5;
others' scripts read them.  A column that no stage has filled yet is absent from a table, never filled with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = [
    "ARTIFICIAL_FATE_COLUMNS",
    "ARTIFICIAL_INPUT_COLUMNS",
    "CATALOG_COLUMNS",
    "CATALOG_FILTER_COLUMNS",
    "DETECTION_COLUMNS",
    "DETECTOR_MAP_COLUMNS",
    "EXPOSURE_COLUMNS",
    "MATCH_COLUMNS",
    "MEASUREMENT_COLUMNS",
    "MOTION_COLUMNS",
    "SELECTION_COLUMNS",
    "SELECTION_COUNT_COLUMNS",
    "STAR_COMPLETENESS_COLUMNS",
    "STAR_COMPLETENESS_FILTER_COLUMNS",
    "Column",
    "markdown_table",
]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name : str
        Its name in the file; for per-filter columns the part after ``{f}_``.
    dtype : str
        Numpy type name; ``str`` for text.
    unit : str
        Unit as astropy spells it; empty for none.
    ucd : str
        IVOA unified content descriptor.
    description : str
        Meaning in one line.
    """

    name: str
    dtype: str
    unit: str
    ucd: str
    description: str


# What second-pass columns mean where it differs from the first pass.
_MEASURED = {
    "x": "raw column that this exposure alone gives, linear about the joint position, 0-based, of the full detector",
    "y": "raw row that this exposure alone gives, linear about the joint position, 0-based, of the full detector",
    "flux": "total flux at the joint position (method 2) on the ePSF's normalisation, pixel area not applied",
    "significance": "flux over flux_error",
}

DETECTION_COLUMNS: tuple[Column, ...] = (
    Column("exposure", "str", "", "meta.id;obs.image", "exposure, as the stem of its file name"),
    Column("detector", "str", "", "meta.id;instr.det", "detector (one chip)"),
    Column("filter", "str", "", "meta.id;instr.filter", "filter"),
    Column("x", "float64", "pix", "pos.cartesian.x;instr.det", "raw column, 0-based, of the full detector"),
    Column("y", "float64", "pix", "pos.cartesian.y;instr.det", "raw row, 0-based, of the full detector"),
    Column("x_error", "float32", "pix", "stat.error;pos.cartesian.x", "one-sigma error of x"),
    Column("y_error", "float32", "pix", "stat.error;pos.cartesian.y", "one-sigma error of y"),
    Column("flux", "float64", "flux", "phot.count", "total flux as fitted on the ePSF's normalisation, pixel area not applied"),
    Column("flux_error", "float32", "flux", "stat.error;phot.count", "one-sigma error of flux"),
    Column("area", "float32", "", "instr.pixel", "pixel area over the nominal one; flux * area is comparable over the detector"),
    Column("sky", "float32", "flux", "instr.skyLevel", "local sky level per pixel"),
    Column("sky_rms", "float32", "flux", "stat.stdev;instr.skyLevel", "scatter of the sky pixels about the local sky"),
    Column("qfit", "float32", "", "stat.fit.goodness", "sum |residual| in the fit box / (flux * sum of the ePSF); 0 is perfect"),
    Column("qfit_expected", "float32", "", "stat.fit.goodness", "qfit that photon and read noise alone leave after a fit"),
    Column("radxs", "float32", "", "stat.fit.residual", "flux in excess of the ePSF at 1 <= r < 2.5 pixels, over the star's flux"),
    Column("chi", "float32", "", "stat.fit.chi2", "square root of the reduced chi-square of the fit"),
    Column("peak", "float32", "flux", "phot.count;stat.max", "highest pixel value used, sky included"),
    Column("significance", "float32", "", "stat.snr", "matched-filter significance of the detection"),
    Column("n_pixels", "int16", "", "meta.number;instr.pixel", "pixels with weight in the fit box"),
    Column("flags", "int32", "", "meta.code", "bits of StarFlag"),
)

MEASUREMENT_COLUMNS: tuple[Column, ...] = (
    Column("id", "int64", "", "meta.id;src", "star of the catalogue; 0 for one that the catalogue leaves out"),
    *(
        replace(column, description=_MEASURED.get(column.name, column.description))
        for column in DETECTION_COLUMNS
    ),
    Column("xy_covariance", "float32", "pix2", "stat.covariance", "covariance of x and y"),
    Column("flux_free", "float64", "flux", "phot.count", "flux with the position free in this exposure (method 1)"),
    Column("flux_free_error", "float32", "flux", "stat.error;phot.count", "one-sigma error of flux_free"),
    Column("flux_small", "float64", "flux", "phot.count", "flux from the 3 x 3 pixels at the peak, sky close by (method 3)"),
    Column("flux_small_error", "float32", "flux", "stat.error;phot.count", "one-sigma error of flux_small"),
    Column("neighbor_ratio", "float32", "", "phot.flux;arith.ratio", "neighbours' light over the star's own in the fit box"),
)

EXPOSURE_COLUMNS: tuple[Column, ...] = (
    Column("exposure", "str", "", "meta.id;obs.image", "exposure, as the stem of its file name"),
    Column("file", "str", "", "meta.file", "file it was read from"),
    Column("telescope", "str", "", "meta.id;instr.tel", "telescope"),
    Column("instrument", "str", "", "meta.id;instr", "instrument"),
    Column("detector", "str", "", "meta.id;instr.det", "detector (one chip)"),
    Column("filter", "str", "", "meta.id;instr.filter", "filter"),
    Column("band", "str", "", "meta.id;instr.filter", "prefix of the filter's columns in the catalogue"),
    Column("cube", "str", "", "meta.file", "cube that holds it, inside cubes/"),
    Column("index", "int32", "", "meta.number", "its place along the cube's exposure dimension"),
    Column("target", "str", "", "meta.id;src", "target name in the header"),
    Column("epoch", "float64", "yr", "time.epoch", "middle of the exposure, decimal Julian year (TCB)"),
    Column("exptime", "float64", "s", "time.duration;obs.exposure", "effective exposure time"),
    Column("flux_unit", "str", "", "meta.unit", "unit of fluxes: DN/s or electron/s"),
    Column("x_origin", "int32", "pix", "pos.cartesian.x;instr.det", "full-detector column of the array's first pixel"),
    Column("y_origin", "int32", "pix", "pos.cartesian.y;instr.det", "full-detector row of the array's first pixel"),
    Column("nx", "int32", "pix", "meta.number", "columns of the array"),
    Column("ny", "int32", "pix", "meta.number", "rows of the array"),
    Column("pixel_scale", "float64", "arcsec", "instr.pixel;pos.angDistance", "nominal pixel scale"),
    Column("va_scale", "float64", "", "instr.param", "velocity aberration scale factor"),
    Column("saturation", "float64", "flux", "instr.saturation", "lowest value of saturated pixels, NaN where none is"),
    Column("noise_source", "str", "", "meta.note", "what the noise planes were made from"),
    Column("zero_point_vega", "float64", "mag", "phot.mag;arith.zp", "Vega zero point of fluxes, NaN where unknown"),
    Column("zero_point_ab", "float64", "mag", "phot.mag;arith.zp", "AB zero point of fluxes, NaN where unknown"),
    Column("crds_context", "str", "", "meta.version", "CRDS_CTX"),
    Column("calibration_version", "str", "", "meta.version", "CAL_VER"),
    Column("sdp_version", "str", "", "meta.version", "SDP_VER"),
    Column("prd_version", "str", "", "meta.version", "PRD_VER"),
    Column("n_detections", "int32", "", "meta.number", "rows of the first pass"),
    Column("n_matched", "int32", "", "meta.number", "detections that belong to a star of the master frame"),
    Column("n_reference", "int32", "", "meta.number", "stars that the transform rests on"),
    Column("a", "float64", "", "pos.wcs.cdmatrix", "x = a u + b v + x_shift; u, v corrected pixels from the detector's centre"),
    Column("b", "float64", "", "pos.wcs.cdmatrix", "see a"),
    Column("c", "float64", "", "pos.wcs.cdmatrix", "y_master = c u + d v + y_shift"),
    Column("d", "float64", "", "pos.wcs.cdmatrix", "see c"),
    Column("x_shift", "float64", "pix", "pos.wcs.crpix", "see a"),
    Column("y_shift", "float64", "pix", "pos.wcs.crpix", "see c"),
    Column("residual_rms", "float64", "pix", "stat.stdev;pos", "per-axis scatter of good stars about the frame, raw pixels"),
    Column("zero_point", "float64", "mag", "phot.mag;arith.zp", "added to instrumental magnitudes to match the central exposure"),
    Column("zero_point_error", "float64", "mag", "stat.error;phot.mag;arith.zp", "error of zero_point"),
)

CATALOG_COLUMNS: tuple[Column, ...] = (
    Column("id", "int64", "", "meta.id;meta.main", "star number, from North to South"),
    Column("ra", "float64", "deg", "pos.eq.ra;meta.main", "right ascension, ICRS, at ref_epoch"),
    Column("dec", "float64", "deg", "pos.eq.dec;meta.main", "declination, ICRS, at ref_epoch"),
    Column("ra_error", "float32", "mas", "stat.error;pos.eq.ra", "one-sigma error of ra * cos(dec)"),
    Column("dec_error", "float32", "mas", "stat.error;pos.eq.dec", "one-sigma error of dec"),
    Column("ra_dec_corr", "float32", "", "stat.correlation;pos.eq", "correlation of the errors of ra and dec"),
    Column("ref_epoch", "float64", "yr", "meta.ref;time.epoch", "epoch of ra and dec, Julian year (TCB)"),
    Column("x", "float64", "pix", "pos.cartesian.x", "master frame, grows to the West, 0-based"),
    Column("y", "float64", "pix", "pos.cartesian.y", "master frame, grows to the North, 0-based"),
    Column("x_error", "float32", "pix", "stat.error;pos.cartesian.x", "one-sigma error of x"),
    Column("y_error", "float32", "pix", "stat.error;pos.cartesian.y", "one-sigma error of y"),
    Column("pmra", "float64", "mas yr-1", "pos.pm;pos.eq.ra", "motion in ra * cos(dec); what it counts from is in the metadata"),
    Column("pmdec", "float64", "mas yr-1", "pos.pm;pos.eq.dec", "motion in dec; what it counts from is in the metadata"),
    Column("pmra_error", "float32", "mas yr-1", "stat.error;pos.pm;pos.eq.ra", "one-sigma error of pmra"),
    Column("pmdec_error", "float32", "mas yr-1", "stat.error;pos.pm;pos.eq.dec", "one-sigma error of pmdec"),
    Column("ra_pmra_corr", "float32", "", "stat.correlation;pos.eq.ra;pos.pm", "correlation of the errors of ra and pmra"),
    Column("ra_pmdec_corr", "float32", "", "stat.correlation;pos.eq.ra;pos.pm", "correlation of the errors of ra and pmdec"),
    Column("dec_pmra_corr", "float32", "", "stat.correlation;pos.eq.dec;pos.pm", "correlation of the errors of dec and pmra"),
    Column("dec_pmdec_corr", "float32", "", "stat.correlation;pos.eq.dec;pos.pm", "correlation of the errors of dec and pmdec"),
    Column("pmra_pmdec_corr", "float32", "", "stat.correlation;pos.pm", "correlation of the errors of pmra and pmdec"),
    Column("pmra_relative", "float64", "mas yr-1", "pos.pm;pos.eq.ra", "motion in ra * cos(dec) against the members"),
    Column("pmdec_relative", "float64", "mas yr-1", "pos.pm;pos.eq.dec", "motion in dec against the members"),
    Column("member_probability", "float32", "", "stat.probability", "of membership, from motions; NaN where unknown"),
    Column("parallax", "float64", "mas", "pos.parallax.trig", "parallax against the stars that tie the exposures"),
    Column("parallax_error", "float32", "mas", "stat.error;pos.parallax.trig", "one-sigma error of parallax"),
    Column("n_epochs", "int16", "", "meta.number;time.epoch", "epochs with a measurement (apart by 0.1 yr or more)"),
    Column("baseline", "float32", "yr", "time.interval", "time between the first and the last measurement"),
    Column("flags", "int32", "", "meta.code", "bits of StarFlag, any exposure"),
)

ARTIFICIAL_INPUT_COLUMNS: tuple[Column, ...] = (
    Column("id", "int64", "", "meta.id;meta.main", "artificial star's number, as drawn"),
    Column("in_ra", "float64", "deg", "pos.eq.ra", "right ascension put in, ICRS, at the catalogue's ref_epoch"),
    Column("in_dec", "float64", "deg", "pos.eq.dec", "declination put in, ICRS, at the catalogue's ref_epoch"),
    Column("in_x", "float64", "pix", "pos.cartesian.x", "master frame position put in, 0-based"),
    Column("in_y", "float64", "pix", "pos.cartesian.y", "master frame position put in, 0-based"),
    Column("in_pmra", "float64", "mas yr-1", "pos.pm;pos.eq.ra", "motion in ra * cos(dec) put in; where the catalogue has motions"),
    Column("in_pmdec", "float64", "mas yr-1", "pos.pm;pos.eq.dec", "motion in dec put in; where the catalogue has motions"),
)

ARTIFICIAL_FATE_COLUMNS: tuple[Column, ...] = (
    Column("found", "bool", "", "meta.code", "any star was found within 0.5 master pixel"),
    Column("recovered", "bool", "", "meta.code", "found and kept, within 0.5 pixel and 1 mag in every band, on no star as bright"),
)

CATALOG_FILTER_COLUMNS: tuple[Column, ...] = (
    Column("mag", "float32", "mag", "phot.mag", "magnitude; its system and zero point are in the column's metadata"),
    Column("mag_error", "float32", "mag", "stat.error;phot.mag", "one-sigma error of mag, with that of the ePSF where it is known"),
    Column("mag_rms", "float32", "mag", "stat.stdev;phot.mag", "scatter of single-exposure magnitudes"),
    Column("flux", "float64", "flux", "phot.count", "mean flux, pixel area and zero points applied"),
    Column("flux_error", "float32", "flux", "stat.error;phot.count", "one-sigma error of flux"),
    Column("qfit", "float32", "", "stat.fit.goodness", "median QFIT of the exposures used; 0 is perfect"),
    Column("radxs", "float32", "", "stat.fit.residual", "median RADXS of the exposures used"),
    Column("chi", "float32", "", "stat.fit.chi2", "median chi of the exposures used"),
    Column("sky", "float32", "flux", "instr.skyLevel", "mean local sky per pixel"),
    Column("sky_rms", "float32", "flux", "stat.stdev;instr.skyLevel", "mean local sky scatter"),
    Column("neighbor_ratio", "float32", "", "phot.flux;arith.ratio", "median of neighbours' light over its own in the fit box"),
    Column("n_exposures", "int16", "", "meta.number;obs.exposure", "exposures that cover the star"),
    Column("n_good", "int16", "", "meta.number;obs.exposure", "exposures used in the average"),
    Column("saturated", "bool", "", "meta.code", "saturated in every exposure used"),
)

MOTION_COLUMNS: tuple[Column, ...] = (
    Column("id", "int64", "", "meta.id;meta.main", "star of the catalogue"),
    Column("pmra_relative", "float64", "mas yr-1", "pos.pm;pos.eq.ra", "motion in ra * cos(dec) against the members"),
    Column("pmdec_relative", "float64", "mas yr-1", "pos.pm;pos.eq.dec", "motion in dec against the members"),
    Column("pmra_relative_error", "float32", "mas yr-1", "stat.error;pos.pm;pos.eq.ra", "its error, the transform's included"),
    Column("pmdec_relative_error", "float32", "mas yr-1", "stat.error;pos.pm;pos.eq.dec", "its error, the transform's included"),
    Column("pmra_relative_pmdec_relative_corr", "float32", "", "stat.correlation;pos.pm", "correlation of the two"),
    Column("member_probability", "float32", "", "stat.probability", "of membership, from motions; NaN where unknown"),
    Column("member", "bool", "", "meta.code", "inside the circle of its magnitude in the vector-point diagram"),
    Column("reference", "bool", "", "meta.code", "one of the stars that the motions are measured against"),
    Column("n_positions", "int32", "", "meta.number", "single positions that the slope rests on"),
    Column("motion_chi2", "float32", "", "stat.fit.chi2", "chi-square of the single positions about the even motion"),
    Column("motion_degrees", "int32", "", "stat.fit.dof", "its degrees of freedom"),
    Column("pmra_slope", "float64", "mas yr-1", "pos.pm;pos.eq.ra", "slope of all single positions"),
    Column("pmdec_slope", "float64", "mas yr-1", "pos.pm;pos.eq.dec", "slope of all single positions"),
    Column("pmra_slope_error", "float32", "mas yr-1", "stat.error;pos.pm;pos.eq.ra", "one-sigma error, that of pmra at least"),
    Column("pmdec_slope_error", "float32", "mas yr-1", "stat.error;pos.pm;pos.eq.dec", "one-sigma error, that of pmdec at least"),
    Column("pmra_two_epoch", "float64", "mas yr-1", "pos.pm;pos.eq.ra", "difference of the first and last epoch's means"),
    Column("pmdec_two_epoch", "float64", "mas yr-1", "pos.pm;pos.eq.dec", "difference of the first and last epoch's means"),
    Column("parallax", "float64", "mas", "pos.parallax.trig", "parallax against the stars that tie the exposures"),
    Column("parallax_error", "float32", "mas", "stat.error;pos.parallax.trig", "one-sigma error of parallax"),
    Column("parallax_pmra_corr", "float32", "", "stat.correlation", "of the errors of parallax and the pmra solved with it"),
    Column("parallax_pmdec_corr", "float32", "", "stat.correlation", "of the errors of parallax and the pmdec solved with it"),
    Column("pmra_reference", "float64", "mas yr-1", "pos.pm;pos.eq.ra", "the reference catalogue's own motion"),
    Column("pmdec_reference", "float64", "mas yr-1", "pos.pm;pos.eq.dec", "the reference catalogue's own motion"),
    Column("pmra_reference_error", "float32", "mas yr-1", "stat.error;pos.pm;pos.eq.ra", "its error"),
    Column("pmdec_reference_error", "float32", "mas yr-1", "stat.error;pos.pm;pos.eq.dec", "its error"),
    Column("pmra_combined", "float64", "mas yr-1", "pos.pm;pos.eq.ra", "reference's motion as prior, with the new positions"),
    Column("pmdec_combined", "float64", "mas yr-1", "pos.pm;pos.eq.dec", "reference's motion as prior, with the new positions"),
    Column("pmra_combined_error", "float32", "mas yr-1", "stat.error;pos.pm;pos.eq.ra", "one-sigma error of pmra_combined"),
    Column("pmdec_combined_error", "float32", "mas yr-1", "stat.error;pos.pm;pos.eq.dec", "one-sigma error of pmdec_combined"),
)

DETECTOR_MAP_COLUMNS: tuple[Column, ...] = (
    Column("detector_epoch", "str", "", "meta.id;instr.det", "detector and mean epoch of its exposures"),
    Column("x", "float64", "pix", "pos.cartesian.x;instr.det", "middle of the cell, raw column, 0-based"),
    Column("y", "float64", "pix", "pos.cartesian.y;instr.det", "middle of the cell, raw row, 0-based"),
    Column("n_stars", "int32", "", "meta.number;src", "members with a position in the cell"),
    Column("pmra_before", "float64", "mas yr-1", "pos.pm;pos.eq.ra", "their mean relative motion as measured"),
    Column("pmdec_before", "float64", "mas yr-1", "pos.pm;pos.eq.dec", "their mean relative motion as measured"),
    Column("pmra_after", "float64", "mas yr-1", "pos.pm;pos.eq.ra", "the same with errors by place on the detectors taken out"),
    Column("pmdec_after", "float64", "mas yr-1", "pos.pm;pos.eq.dec", "the same with errors by place on the detectors taken out"),
    Column("error", "float32", "mas yr-1", "stat.error;pos.pm", "one-sigma error of the means, one axis"),
)

MATCH_COLUMNS: tuple[Column, ...] = (
    Column("id", "int64", "", "meta.id;src", "star of tables/frame_catalog.parquet that the detection belongs to"),
    Column("row", "int32", "", "meta.number", "row of the exposure's part of tables/detections, from 0"),
    Column("dx", "float32", "pix", "pos.cartesian.x;arith.diff", "measured raw column minus the one that the catalogue predicts"),
    Column("dy", "float32", "pix", "pos.cartesian.y;arith.diff", "measured raw row minus the one that the catalogue predicts"),
    Column("dmag", "float32", "mag", "phot.mag;arith.diff", "measured magnitude minus the catalogue's, NaN where there is none"),
    Column("used", "bool", "", "meta.code", "the detection is in the star's averages"),
)

SELECTION_COLUMNS: tuple[Column, ...] = (
    Column("id", "int64", "", "meta.id;src", "star of the catalogue, or artificial star"),
    Column("selected", "bool", "", "meta.code", "passes all steps (an artificial star: and was recovered)"),
    Column("failed_step", "int16", "", "meta.number", "the first step that the star fails, from 1 in their order; 0: none"),
)

STAR_COMPLETENESS_COLUMNS: tuple[Column, ...] = (
    Column("id", "int64", "", "meta.id;src", "star of the catalogue"),
    Column(
        "two_band_completeness", "float32", "", "stat.probability",
        "completeness, of the whole field, of stars with its magnitudes in the first two bands; NaN where unknown",
    ),
)

STAR_COMPLETENESS_FILTER_COLUMNS: tuple[Column, ...] = (
    Column(
        "completeness", "float32", "", "stat.probability",
        "share of artificial stars that were recovered at the star's place and magnitude; NaN where unknown",
    ),
    Column("completeness_error", "float32", "", "stat.error;stat.probability", "error of the completeness"),
    Column(
        "completeness_selected", "float32", "", "stat.probability", "the same, of those that were recovered and pass the selection"
    ),
)

SELECTION_COUNT_COLUMNS: tuple[Column, ...] = (
    Column("step", "str", "", "meta.id", "all stars, recovered ones (all real ones), then what is left after each step"),
    Column("n_real", "int64", "", "meta.number;src", "stars of the catalogue that are left"),
    Column("n_artificial", "int64", "", "meta.number;src", "artificial stars that are left"),
)


def markdown_table(columns: tuple[Column, ...], prefix: str = "") -> str:
    """The columns as a Markdown table for the documentation."""
    rows = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    rows += [f"| `{prefix}{c.name}` | {c.dtype} | {c.unit} | {c.description} |" for c in columns]
    return "\n".join(rows)
