"""dpm: distributed photometry and proper motions from dithered JWST and HST exposures of star fields."""

__version__ = "0.1.0"
