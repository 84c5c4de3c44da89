"""Small JSON files and the identities of inputs."""

import hashlib
import json
import math
import os

import numpy as np
import pytest

from dpm.io.run_folder import RunFolder
from dpm.run.files import read_json, write_json
from dpm.run.inputs import InputRegistry


def test_json_is_whole_and_standard(tmp_path):
    path = tmp_path / "a.json"
    data = {"n": np.int64(3), "x": np.float32(0.5), "bad": [math.nan, math.inf, 1.0], "path": tmp_path}
    write_json(path, data)
    assert math.isnan(read_json(path)["bad"][0])
    write_json(path, data, standard=True)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "n": 3,
        "x": 0.5,
        "bad": [None, None, 1.0],
        "path": str(tmp_path),
    }
    with pytest.raises(TypeError, match="ndarray cannot go into a JSON file"):
        write_json(path, {"pixels": np.zeros(3)})
    assert read_json(path)["n"] == 3 and len(list(tmp_path.iterdir())) == 1
    path.write_text("{half")
    assert read_json(path) is None and read_json(tmp_path / "none.json") is None


def test_identity_survives_touching_and_removal_but_not_change(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    path = tmp_path / "input.fits"
    path.write_text("one")
    registry = InputRegistry(folder)
    first = registry.identity(path, with_checksum=False)
    registry.add_checksums({str(path): {"sha256": hashlib.sha256(b"one").hexdigest()}})
    registry.save()
    os.utime(path, ns=(5, 5))
    assert InputRegistry(folder).identity(path, with_checksum=False) == first
    path.write_text("two")
    assert InputRegistry(folder).identity(path, with_checksum=False) != first
    path.unlink()
    assert InputRegistry(folder).identity(path, with_checksum=False) == first
    with pytest.raises(FileNotFoundError, match="other.fits: no such file"):
        registry.identity(tmp_path / "other.fits", with_checksum=True)


def test_a_folder_is_known_by_its_files(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    library = tmp_path / "library"
    library.mkdir()
    (library / "a.fits").write_text("a")
    before = InputRegistry(folder).identities(library)
    (library / "b.fits").write_text("b")
    after = InputRegistry(folder).identities(library)
    assert len(before) == 1 and len(after) == 2 and before[0] in after
