"""Synthetic populations and fits of them to luminosity functions and CMDs."""

from dpm.science.populations.fit import PopulationFit, fit_population
from dpm.science.populations.synthetic import (
    Companions,
    draw_masses,
    draw_population,
    measure_population,
    theoretical_luminosity_function,
)
from dpm.science.populations.templates import PopulationTemplates, population_templates

__all__ = [
    "Companions",
    "PopulationFit",
    "PopulationTemplates",
    "draw_masses",
    "draw_population",
    "fit_population",
    "measure_population",
    "population_templates",
    "theoretical_luminosity_function",
]
