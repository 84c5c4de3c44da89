"""Synthetic populations and fits of them to luminosity functions and CMDs."""

from dpm.science.populations.fit import PopulationFit, fit_population
from dpm.science.populations.models import Models, ModelsError, binary_locus, read_models
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
    "Models",
    "ModelsError",
    "PopulationFit",
    "PopulationTemplates",
    "binary_locus",
    "draw_masses",
    "draw_population",
    "fit_population",
    "measure_population",
    "population_templates",
    "read_models",
    "theoretical_luminosity_function",
]
