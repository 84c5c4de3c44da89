"""A run from Python: paste it into a notebook cell by cell, or run it as a script."""

from distributed import Client

import dpm

if __name__ == "__main__":
    run = dpm.open("field.toml")  # or a run folder
    with Client(n_workers=2, threads_per_worker=1) as client:  # your own cluster's client works the same way
        run.start(cluster=client)  # returns at once; a notebook shows the progress
        run.wait()  # an interrupt cancels; .start() again goes on from there
    catalog = run.catalog
    bright = catalog[catalog["niriss_f090w_mag_error"] < 0.01]
    bright.write("bright.ecsv", overwrite=True)
    cube = run.cube("NIRISS_F090W")  # xarray, read lazily
    print(cube.sci.isel(exposure=0).mean().compute().item())
