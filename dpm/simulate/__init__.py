"""Simulated star fields with full truth: JWST-like ``_cal`` and HST-like ``_flc`` files.

Stands apart: it shares no code with the pipeline that measures, and pipeline code never opens the truth.
"""

from dpm.simulate.field import SimulatedField, simulate_field
from dpm.simulate.options import Effects, SimulationOptions, Visit

__all__ = ["Effects", "SimulatedField", "SimulationOptions", "Visit", "simulate_field"]
