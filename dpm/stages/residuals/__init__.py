"""Residual images on request: each exposure minus the light of all stars of the catalogue, and stacks on the master frame.

Not a stage of a run: it reads what a finished run left (cubes, ``calibration``, ``tables``) and writes ``images/``.
"""

from __future__ import annotations

__all__: list[str] = []
