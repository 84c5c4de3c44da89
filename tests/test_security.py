"""What others' files may not do: fill the memory, choose where dpm writes, or run code."""

import gzip
import os
import pickle
import re
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from exposure_mocks import write_ccd, write_jwst

from dpm.config import ConfigError, load_options
from dpm.io.arrays import read_arrays
from dpm.io.errors import InputError
from dpm.io.exposure_files import read_exposure_headers, read_exposure_pixels
from dpm.io.fits_files import MOST_BYTES
from dpm.io.gwcs_fit import fit_gwcs
from dpm.io.reference import read_reference
from dpm.io.stdgdc import read_stdgdc
from dpm.models.options import InputOptions

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


@pytest.mark.parametrize("pack", ["zip", "bz2", "lzma", "gzip"])
def test_packed_bomb_under_another_name_is_refused(tmp_path, monkeypatch, pack):
    """astropy goes by a file's first bytes, not its name, and unpacks an archive onto the disk."""
    monkeypatch.setattr("dpm.io.fits_files.MOST_BYTES", 5_000_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    bomb = b"SIMPLE  =" + bytes(8_000_000)
    for name in ("a_cal.fits", "STDGDC.fits", "gaia.fits"):
        path = tmp_path / name
        if pack == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.writestr("a_cal.fits", bomb)
        else:
            path.write_bytes(__import__(pack).compress(bomb, **{"gzip": {"compresslevel": 1}, "lzma": {"preset": 0}}.get(pack, {})))
        assert path.stat().st_size < 1_000_000
        reader = {"a_cal.fits": read_exposure_headers, "STDGDC.fits": read_stdgdc, "gaia.fits": read_reference}[name]
        with pytest.raises(InputError, match="once uncompressed" if pack == "gzip" else "the file is packed"):
            reader(path)
    assert not list((tmp_path / "scratch").iterdir())


def asdf_extension(compression, declared):
    """An ASDF extension of a few bytes with one block that declares to be larger."""
    packed = zlib.compress(bytes(1000))
    header = struct.pack(">I4sQQQ16s", 0, compression, len(packed), len(packed), declared, bytes(16))
    content = b"#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n--- {meta: {wcs: !core/ndarray-1.0.0 {source: 0}}}\n...\n"
    content += b"\xd3BLK" + struct.pack(">H", len(header)) + header + packed
    column = fits.Column("ASDF_METADATA", f"{len(content)}B", array=np.frombuffer(content, np.uint8)[None])
    return fits.BinTableHDU.from_columns([column], name="ASDF")


def test_asdf_bomb_is_not_looked_at_or_refused(tmp_path):
    """The ASDF extension is for ``[input] gwcs = true`` alone; its blocks may be compressed."""
    path = write_jwst(tmp_path / "a_cal.fits")
    for declared, words in ((200_000_000_000, "its blocks declare 200 GB"), (1000, "not installed|cannot be read")):
        with fits.open(path) as hdulist:
            hdulist = fits.HDUList([hdu.copy() for hdu in hdulist if hdu.name != "ASDF"])
        hdulist.append(asdf_extension(b"zlib", declared))
        hdulist.writeto(path, overwrite=True)
        ((_, pixels),) = read_exposure_pixels(path, [read_exposure_headers(path)[0].detector.name], InputOptions())
        assert np.isfinite(pixels.image.sci).any() and "gwcs" not in pixels.wcs_source.lower()
        with fits.open(path) as hdulist, pytest.raises(InputError, match=words):
            fit_gwcs(path, hdulist, (64, 64), (0, 0))


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
