"""Pages and plots of a run, made from the run folder alone."""

from __future__ import annotations

from dpm.report.page import read_section, write_report

__all__ = ["read_section", "write_report"]
