"""The catalogue as a notebook shows it: what it holds, band by band, above its first rows."""

from __future__ import annotations

import html

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.models.display import card

__all__ = ["Catalog"]

BRIGHT_ERROR = 0.05  # mag: stars better than this count as well measured in the table of bands
SHOWN_ROWS = 5


class Catalog(Table):
    """An astropy table whose picture in a notebook begins with a summary; a selection of rows is one too."""

    def _repr_html_(self) -> str:
        bands = [name.removesuffix("_mag") for name in self.colnames if name.endswith("_mag")]
        facts: dict[str, str] = {"stars": f"{len(self):,}"}
        if "ref_epoch" in self.colnames and len(self):
            facts["epoch of the positions"] = f"{float(self['ref_epoch'][0]):.3f}"
        errors = [self._finite(name) for name in ("ra_error", "dec_error") if name in self.colnames]
        if errors and all(len(error) for error in errors):
            facts["position error, mas"] = f"{min(error.min() for error in errors):.3f} at best, {np.median(errors[0]):.3f} median"
        if "pmra" in self.colnames:
            facts["with motions"] = f"{len(self._finite('pmra')):,}"
            facts["motions count from"] = str(self.meta.get("pm_zero_point", "?"))
        if "member_probability" in self.colnames:
            facts["members (P > 0.9)"] = f"{int(np.sum(self._finite('member_probability') > 0.9)):,}"
        rows = "".join(self._band(band) for band in bands)
        heads = "".join(
            f"<th>{head}</th>" for head in ("band", "stars", "brightest", "faintest", f"better than {BRIGHT_ERROR} mag", "system")
        )
        first = Table(self[:SHOWN_ROWS], copy=False)._repr_html_()
        return f"{card('catalogue', facts)}<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{first}"

    def _finite(self, name: str) -> NDArray[np.float64]:
        values = np.asarray(self[name], float)
        return values[np.isfinite(values)]

    def _band(self, band: str) -> str:
        """A row of the table of bands."""
        magnitude = self._finite(f"{band}_mag")
        extremes = [f"{value:.2f}" for value in (magnitude.min(), magnitude.max())] if len(magnitude) else ["", ""]
        good = int(np.sum(self._finite(f"{band}_mag_error") < BRIGHT_ERROR)) if f"{band}_mag_error" in self.colnames else 0
        system = str((self[f"{band}_mag"].info.meta or {}).get("system", ""))
        cells = [band, f"{len(magnitude):,}", *extremes, f"{good:,}", system]
        return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
