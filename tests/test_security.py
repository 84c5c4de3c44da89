"""What others' files may not do: fill the memory, choose where dpm writes, or run code."""

import gzip
import os
import pickle
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from exposure_mocks import write_ccd, write_jwst

from dpm.config import ConfigError, load_options
from dpm.io.arrays import read_arrays
from dpm.io.errors import InputError
from dpm.io.exposure_files import read_exposure_headers
from dpm.io.fits_files import MOST_BYTES
from dpm.io.stdgdc import read_stdgdc

DPM = Path(__file__).resolve().parent.parent / "dpm"


@pytest.mark.parametrize("name", ["F1/../../../evil", "F..", "F1 ", "F1\\evil", "F090W/" + 30 * "A"])
def test_filter_names_never_become_paths(tmp_path, name):
    for path in (
        write_jwst(tmp_path / "a_cal.fits", primary={"FILTER": name, "PUPIL": "CLEAR"}),
        write_ccd(tmp_path / "a_flc.fits", primary={"FILTER1": "CLEAR1L", "FILTER2": name, "FILTER": name}),
    ):
        if name.strip() == "F1":
            continue
        with pytest.raises(InputError, match="FILTER"):
            read_exposure_headers(path)


def test_compressed_image_that_declares_a_giant_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a_cal.fits"
    good = write_jwst(tmp_path / "good_cal.fits")
    with fits.open(good) as hdulist:
        science = fits.CompImageHDU(np.zeros((64, 64), np.float32), hdulist["SCI"].header, name="SCI")
        fits.HDUList([hdulist[0], science, *hdulist[2:]]).writeto(path)
    content = path.read_bytes()
    for key in ("ZNAXIS1", "ZNAXIS2"):
        card = re.search(rb"%s *= +64" % key.encode(), content)[0]
        content = content.replace(card, card[:-6] + b"200000")
    path.write_bytes(content)
    assert len(content) < 2_000_000
    with pytest.raises(InputError, match=r"SCI,1\]: it declares 160 GB"):
        read_exposure_headers(path)


def test_constant_plane_that_declares_a_giant_is_refused(tmp_path):
    path = write_ccd(tmp_path / "a_flc.fits")
    with fits.open(path, mode="update") as hdulist:
        plane = fits.ImageHDU(name="D2IMARR")
        plane.header["PIXVALUE"], plane.header["NPIX1"], plane.header["NPIX2"] = 0.0, 100_000, 100_000
        hdulist.append(plane)
    with pytest.raises(InputError, match="it declares 80 GB"):
        read_exposure_headers(path)


def test_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("dpm.io.fits_files.MOST_BYTES", 50_000_000)
    path = tmp_path / "a_cal.fits.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(60):
            stream.write(bytes(1_000_000))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(InputError, match="once uncompressed"):
        read_exposure_headers(path)
    assert MOST_BYTES > 1e9


def test_distortion_file_that_declares_a_giant_is_refused(tmp_path):
    path = tmp_path / "STDGDC.fits"
    layers = [fits.CompImageHDU(np.zeros((64, 64), np.float32), name=name) for name in ("XGC", "YGC")]
    fits.HDUList([fits.PrimaryHDU(), *layers]).writeto(path)
    content = path.read_bytes()
    card = re.search(rb"ZNAXIS2 = +64", content)[0]
    path.write_bytes(content.replace(card, card[:-12] + b"100000000000"))
    with pytest.raises(InputError, match="it declares"):
        read_stdgdc(path)


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_nothing_is_unpickled_from_a_file(tmp_path):
    marker = tmp_path / "ran"
    array = np.empty(1, dtype=object)
    array[0] = Malicious(marker)
    with (tmp_path / "a.npz").open("wb") as stream:
        np.savez(stream, x=array)
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(tmp_path / "a.npz")
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises((ValueError, OSError)):
        read_arrays(tmp_path / "plain.npz")
    assert not marker.exists()
    words = re.compile(r"\bpickle\b|allow_pickle=True|\beval\(|\bexec\(|yaml\.load\(|\bmarshal\b|\bshelve\b")
    found = [str(path) for path in DPM.rglob("*.py") if words.search(path.read_text())]
    assert not found


CODE = ["!!python/object/apply:os.system ['touch ran']", "__import__('os').system('touch ran')", "$(touch ran)"]


@pytest.mark.parametrize("text", CODE)
def test_no_code_from_a_configuration(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "field.toml"
    for line in ("[run]\nname = {}", "[cluster]\nuse = {}", "[psf]\nsource = {}", "[input]\nexposures = [{}]"):
        path.write_text(line.format(repr(text) if "'" not in text else f'"{text}"'))
        with suppress(ConfigError):
            load_options(path)
    path.write_text("[cluster]\nstages = ['os']\n")
    with pytest.raises(ConfigError, match="stages"):
        load_options(path)
    assert not (tmp_path / "ran").exists() and os.listdir(tmp_path) == ["field.toml"]
