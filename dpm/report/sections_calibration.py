"""The report's sections on the calibration: ePSFs, what changes them, and the distortion."""

from __future__ import annotations

from dpm.report import plots_distortion as distortion
from dpm.report import plots_epsf as epsf
from dpm.report import plots_perturbation as perturbation
from dpm.report.calibration import load_builds, load_solutions
from dpm.report.calibration_tables import build_table, solution_table
from dpm.report.data import RunData, read_json
from dpm.report.section import MAX_MAPS, Section, some

__all__ = [
    "brightness_section",
    "colour_section",
    "distortion_section",
    "epsf_build_section",
    "epsf_section",
    "perturbation_section",
]

_MANY_EXPOSURES = 10  # more rows than that are folded


def epsf_section(data: RunData) -> Section:
    """ePSF libraries: the grid, and how its nodes differ from their mean."""
    section = Section(
        "epsf",
        "ePSF",
        "The libraries that the fits used (calibration/psf), and how far each node is from their mean.",
        wide=True,
    )
    paths = sorted(data.folder.psf.glob("STDPSF_*.fits")) if data.folder.psf.is_dir() else []
    for path in paths:
        section.images += epsf.plot_epsf(path)
    if section.empty:
        section.absent = "Absent: calibration/psf holds no library."
    return section


def epsf_build_section(data: RunData) -> Section:
    """How the ePSFs were built: rounds, pixel phase, scatter of the samplings."""
    section = Section(
        "epsf-build",
        "ePSF build",
        "How the ePSFs were built from this run's own stars. The build has converged where a round changes less than the "
        "stars' noise leaves. Samplings scatter like their errors (one) where ePSF, positions and noise model are right. "
        "Positions are compared with averages over dithers, in which errors with pixel phase cancel. QFIT and RADXS "
        "against magnitude: see Fit quality.",
    )
    builds = load_builds(data)
    for build in builds:
        pictures = some(epsf.plot_convergence(build)) + some(epsf.plot_sampling_scatter(build))
        pictures += some(epsf.plot_build_phase(build))
        section.images += pictures if len(section.images) + len(pictures) <= MAX_MAPS else []
    section.tables = [build_table(data, builds)] if builds else []
    return section


def perturbation_section(data: RunData) -> Section:
    """What the ePSFs of single exposures change, and whether that helped."""
    section = Section(
        "perturbation",
        "ePSF of single exposures",
        "Whether an exposure has an ePSF of its own (breathing, focus). It is made from the exposure's bright, isolated stars, and "
        "used only where stars that were left out when it was made fit significantly better with it.",
        wide=True,
    )
    found = read_json(data.folder.psf / "perturb.json", data.warnings).get("exposures")
    exposures = {name: values for name, values in found.items() if isinstance(values, dict)} if isinstance(found, dict) else {}
    if exposures:
        section.images = some(perturbation.plot_exposures(exposures))
        section.images += perturbation.plot_changes(data.folder, exposures)
        section.tables = [perturbation.exposure_table(exposures)]
        section.folded = len(exposures) > _MANY_EXPOSURES
    return section


def brightness_section(data: RunData) -> Section:
    """How the ePSFs change with a star's charge."""
    section = Section(
        "brightness",
        "ePSF and brightness",
        "How the ePSF changes with a star's charge (brighter-fatter): psi(z) = psi_0 + z psi_1. The change is used for bright "
        "stars only where stars that were left out when it was made fit significantly better with it.",
        wide=True,
    )
    found = sorted(read_json(data.folder.psf / "brightness.json", data.warnings).items())
    cubes = {cube: entry for cube, entry in found if isinstance(entry, dict) and isinstance(entry.get("term"), dict)}
    for cube, entry in cubes.items():
        pictures = some(perturbation.plot_brightness_curve(cube, entry["term"]))
        pictures += some(perturbation.plot_term(data.folder.psf / f"BFPSF_{cube}.fits"))
        section.images += pictures if len(section.images) + len(pictures) <= MAX_MAPS else []
    section.tables = [perturbation.brightness_table(cubes)] if cubes else []
    return section


def colour_section(data: RunData) -> Section:
    """How fits depend on the stars' colours."""
    section = Section(
        "colour",
        "ePSF and colour",
        "Slopes over the stars' colour at equal magnitude, from stars in common between filters. Redder stars have a wider ePSF: "
        "RADXS and the wave of positions with pixel phase then grow with colour. One standard deviation on either side; measured, "
        "not corrected.",
        wide=True,
    )
    found = read_json(data.folder.psf / "colour.json", data.warnings)
    bands = found.get("bands")
    if isinstance(bands, dict) and bands:
        section.images = some(perturbation.plot_colour_slopes(found["colour"], bands))
        section.tables = [perturbation.colour_table(found["colour"], bands)]
    elif "words" in found:
        section.absent = f"Absent: {found['words']}."
    return section


def distortion_section(data: RunData) -> Section:
    """The solved distortion: maps, residuals after each term, and what changes between exposures and filters."""
    section = Section(
        "distortion",
        "Distortion solution",
        "The distortion that was solved from this run's own detections (calibration/distortion): the correction, what is "
        "left of stars' residuals after each term, the pixel scale of every exposure, and how filters differ. Residuals "
        "are those of the measurements that the last solution used.",
        wide=True,
    )
    solutions = load_solutions(data)
    for solution in solutions:
        pictures = []
        for name in solution.filters:
            for plot in (distortion.plot_correction, distortion.plot_term_maps, distortion.plot_term_histograms):
                pictures += some(plot(solution, name))
        for whole in (distortion.plot_filter_differences, distortion.plot_pixel_scales, distortion.plot_exposure_changes):
            pictures += some(whole(solution))
        if len(section.images) + len(pictures) <= MAX_MAPS or not section.images:
            section.images += pictures
        else:
            section.text += f" Not drawn, to keep the page small: {solution.detector}."
    section.tables = [solution_table(solutions)] if solutions else []
    return section
