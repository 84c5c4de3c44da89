"""One run as an object: lazy tables, cubes as xarray, and work that does not block the notebook."""

from __future__ import annotations

import html
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpm import config
from dpm.execute import create_executor
from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.notebook.catalog import Catalog
from dpm.notebook.progress import NotebookProgress
from dpm.report import read_section, write_report
from dpm.run.pipeline import RunResult, run_pipeline
from dpm.run.status import StageState, stage_states

if TYPE_CHECKING:
    import xarray
    from astropy.table import Table

    from dpm.io.atlas_files import AtlasFiles
    from dpm.models.distortion import MapDistortion
    from dpm.models.epsf import GriddedEPSF
    from dpm.report.section import Section

__all__ = ["Run", "open_run"]

REPORT_FILES = ("report/index.html",)


def open_run(path: str | Path) -> Run:
    """Open a run folder, or the TOML file of a run that need not exist yet.

    Parameters
    ----------
    path : str or Path
        A run folder, or a TOML file.

    Returns
    -------
    Run

    Raises
    ------
    dpm.config.ConfigError
        If it is neither, or its configuration cannot be used.
    """
    return Run(*config.open_run(path))


class Run:
    """A run folder and what it was told; nothing is read before it is asked for.

    Parameters
    ----------
    folder : RunFolder
        Where everything lies.
    options : Options
        Everything that it was told.

    Examples
    --------
    >>> run = dpm.open("field.toml")            # doctest: +SKIP
    >>> run.start(cluster=client)               # returns at once
    >>> run.wait()                              # Ctrl-C (or the stop button) cancels
    >>> run.catalog["ra", "dec", "niriss_f090w_mag"]
    """

    def __init__(self, folder: RunFolder, options: Options) -> None:
        self.folder = folder
        self.options = options
        self._tables: dict[Path, tuple[int, Table]] = {}
        self._thread: threading.Thread | None = None
        self._cancel = threading.Event()
        self._progress = NotebookProgress(self.cancel)
        self._result: RunResult | None = None
        self._error: BaseException | None = None

    @property
    def catalog(self) -> Catalog:
        """The catalogue, with units and UCDs."""
        return Catalog(self._table(self.folder.catalog), copy=False)

    @property
    def exposures(self) -> Table:
        """One row an exposure: transforms, zero points, residuals."""
        return self._table(self.folder.exposures)

    @property
    def detections(self) -> dict[str, Path]:
        """Files of the first pass by ``<exposure>_<detector>``; `detections_of` reads one."""
        return {path.stem: path for path in sorted(self.folder.detections.glob("*.parquet"))}

    def detections_of(self, name: str) -> Table:
        """Detections of one exposure of one detector.

        Parameters
        ----------
        name : str
            A key of `detections`, or the exposure's name alone where it has one detector.

        Raises
        ------
        KeyError
            If there is no such file.
        """
        known = self.detections
        fitting = [key for key in known if key == name or key.rpartition("_")[0] == name]
        if len(fitting) != 1:
            more = ", ..." if len(known) > 10 else ""
            shown = ", ".join(fitting or list(known)[:10]) + ("" if fitting else more)
            raise KeyError(f"no detections of {name!r}; there are {shown or 'none'}")
        return self._table(known[fitting[0]])

    @property
    def cubes(self) -> list[str]:
        """Names of the cubes, ``<DETECTOR>_<FILTER>``."""
        return [path.stem for path in sorted(self.folder.cubes.glob("*.zarr"))]

    def cube(self, name: str) -> xarray.Dataset:
        """One cube as a lazy dataset with dims (exposure, y, x).

        Parameters
        ----------
        name : str
            One of `cubes`.

        Raises
        ------
        KeyError
            If there is no such cube.
        """
        if name not in self.cubes:
            raise KeyError(f"no cube {name!r}; there are {', '.join(self.cubes) or 'none'}")
        from dpm.io.cubes import open_cube

        return open_cube(self.folder.cubes / f"{name}.zarr")

    def epsf(self, name: str) -> GriddedEPSF:
        """The ePSFs that a detector's exposures in one filter were fitted with.

        Parameters
        ----------
        name : str
            ``<DETECTOR>_<FILTER>``, as of `cubes`.

        Raises
        ------
        FileNotFoundError
            If there are none yet.
        """
        from dpm.io.brightness_file import read_epsf

        detector, _, filter_name = name.rpartition("_")
        path, term = self.folder.psf_file(detector, filter_name), self.folder.brightness_file(detector, filter_name)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there yet; the stage psf makes it")
        return read_epsf(path, str(term) if term.exists() else "")

    def distortion(self, name: str) -> MapDistortion:
        """The geometric distortion of a detector in one filter.

        Parameters
        ----------
        name : str
            ``<DETECTOR>_<FILTER>``, as of `cubes`.

        Raises
        ------
        FileNotFoundError
            If none was solved: the headers' own stands then.
        """
        from dpm.io.stdgdc import read_stdgdc

        path = self.folder.distortion / f"STDGDC_{name}.fits"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: none was solved (yet), the headers' own is used")
        return read_stdgdc(path)

    def section(self, name: str) -> Section:
        """One section of the report, drawn now: ``run.section("distortion")`` as a cell's last line shows its figures.

        Parameters
        ----------
        name : str
            Of a section; a wrong one raises `KeyError` that names all.
        """
        return read_section(self.folder, name)

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, configuration, input checksums, timings and warnings; empty before the first run."""
        return json.loads(self.folder.provenance.read_text()) if self.folder.provenance.is_file() else {}

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.folder.report

    def residuals(self, *exposures: str) -> list[Path]:
        """Write data minus model to ``images``, and say which files.

        Parameters
        ----------
        *exposures : str
            Names; only their images are made then.  All exposures and the stacks of every band by default.

        Raises
        ------
        FileNotFoundError
            If the second pass has not run yet.
        KeyError
            If the run has no such exposure.
        """
        if not self.folder.measurements.is_dir():
            raise FileNotFoundError(f"{self.folder.measurements}: the second pass has not run yet")
        from dpm.stages.residuals.write import write_residuals

        return write_residuals(self.folder, self.options, exposures)

    @property
    def atlas(self) -> AtlasFiles:
        """The atlas: ``run.atlas.stacks``, and ``pixels, wcs = run.atlas.cutout("niriss_f090w")``."""
        from dpm.io.atlas_files import AtlasFiles

        return AtlasFiles(self.folder)

    def chart(self, *ids: int, size: float = 20.0, stack: str | None = None) -> list[Path]:
        """Draw finding charts of stars of the catalogue, and say which files.

        Parameters
        ----------
        *ids : int
        size : float
            Side, arcsec.
        stack : str, optional
            One of ``run.atlas.stacks``; the last one by default.
        """
        from dpm.report.charts import catalog_targets, draw_charts

        return draw_charts(self.folder, catalog_targets(self.catalog, ids), size, stack)

    def states(self) -> list[StageState]:
        """State of every stage."""
        return stage_states(self.folder, self.options)

    def start(self, cluster: Any = None, workers: int | None = None, restart: bool = False) -> Run:
        """Run every stage that is not up to date in a thread of its own; returns at once.

        Parameters
        ----------
        cluster : str, Path or distributed.Client, optional
            See `dpm.execute.create_executor`; ``[cluster] use`` when None.  A client stays open.
        workers : int, optional
            Threads, or processes of a local cluster.
        restart : bool
            Remove all finished parts first.

        Raises
        ------
        RuntimeError
            If it is running already.
        """
        if self.running:
            raise RuntimeError("this run is going on already: .wait() for it or .cancel() it")
        options = self.options
        self._cancel.clear()
        self._result = self._error = None
        self._progress = NotebookProgress(self.cancel)
        sizes = options.cluster if workers is None else replace(options.cluster, workers=workers)

        def work() -> None:
            try:
                executor = create_executor(options.cluster.use if cluster is None else cluster, sizes)
                try:
                    self._result = run_pipeline(
                        self.folder,
                        options,
                        executor,
                        last=[("report", write_report, REPORT_FILES)],
                        restart=restart,
                        observer=self._progress,
                        cancel=self._cancel,
                        config_text=config.render_options(options),
                    )
                finally:
                    executor.close()
            except BaseException as error:
                # It belongs to whoever waits for this run.
                self._error = error
                self._progress.stopped(str(error))
            else:
                self._progress.stopped("complete")

        self._thread = threading.Thread(target=work, name="dpm run", daemon=True)
        self._progress.show()
        self._thread.start()
        return self

    def wait(self) -> RunResult:
        """Wait for the run that `start` began; an interrupt cancels it.

        Raises
        ------
        RuntimeError
            If nothing was started, or whatever stopped the run.
        """
        if self._thread is None:
            raise RuntimeError("nothing to wait for: .start() first")
        try:
            while self._thread.is_alive():
                self._thread.join(timeout=0.2)
        except KeyboardInterrupt:
            self.cancel()
            self._thread.join()
            raise
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def run(self, cluster: Any = None, workers: int | None = None, restart: bool = False) -> RunResult:
        """`start` and `wait`."""
        return self.start(cluster, workers, restart).wait()

    def cancel(self) -> None:
        """Stop between parts; finished parts are kept."""
        self._cancel.set()

    @property
    def running(self) -> bool:
        """Whether `start`'s thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def _table(self, path: Path) -> Table:
        """A table, read again only when its file changed."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there yet; .run() makes it")
        from dpm.io.tables import read_table

        stamp = path.stat().st_mtime_ns
        if path not in self._tables or self._tables[path][0] != stamp:
            self._tables[path] = (stamp, read_table(path))
        return self._tables[path][1]

    def __repr__(self) -> str:
        states = ", ".join(f"{state.name} {state.state}" for state in self.states())
        return f"Run({str(self.folder.root)!r}: {states})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(state.name)}</td><td>{state.state}</td>"
            f"<td><progress max='{max(state.parts, 1)}' value='{state.done}'></progress></td><td>{html.escape(state.reason)}</td>"
            f"<td style='text-align:right'>{f'{state.seconds:.1f} s' if state.seconds else ''}</td></tr>"
            for state in self.states()
        )
        links = [path for path in (self.folder.catalog, self.folder.report) if path.is_file()]
        where = "".join(f"<li><code>{html.escape(str(path))}</code></li>" for path in links)
        cubes = "".join(f"<li>cube <code>{html.escape(name)}</code></li>" for name in self.cubes)
        return (
            f"<div><b>dpm run</b> <code>{html.escape(str(self.folder.root))}</code>, "
            f"{len(self.options.input.exposures)} files<table>"
            "<thead><tr><th>stage</th><th>state</th><th></th><th></th><th>time</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
            f"<ul>{cubes}{where}</ul></div>"
        )
