"""Weights saved and loaded: all of them or none, and nothing that a file says is believed."""

import io
import json
import os
import stat
import struct
import zipfile
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
import pytest

import fastconv as fc
from layers import CASES, MODELS, make_cnn
from support import differences, output_of, same_bits, snapshot

KEEPERS = [case for case in CASES + MODELS if list(case.make().named_parameters())]
SUFFIXES = [
    ".npz",
    pytest.param(".safetensors", marks=pytest.mark.skipif(
        find_spec("safetensors") is None, reason="safetensors is not installed"
    )),
]
every_format = pytest.mark.parametrize("suffix", SUFFIXES)


def state(model):
    return {path: value for path, _, name, value in model.named_parameters() if not name.startswith("dLd")}


def small():
    return fc.ConvBlock(2, 3, 3, 1, 1)


@every_format
@pytest.mark.parametrize("case", KEEPERS, ids=str)
def test_a_model_that_loads_computes_the_same(case, suffix, tmp_path, rng):
    layer, other, A = case.make(), case.make(), case.input(rng)
    layer.forward(A)  # running statistics
    fc.save(layer, tmp_path / f"weights{suffix}")
    fc.load(other, str(tmp_path / f"weights{suffix}"))
    for name, value in state(layer).items():
        found = state(other)[name]
        assert same_bits(found, value), name
        assert found.flags.writeable
        assert found.flags.c_contiguous
    assert same_bits(layer.forward(A), other.forward(A))
    assert os.listdir(tmp_path) == [f"weights{suffix}"]


@every_format
def test_a_cnn(suffix, tmp_path, rng, dtype):
    model, other, A = make_cnn(dtype), make_cnn(dtype), rng.standard_normal((2, 3, 20)).astype(dtype)
    fc.save(model, tmp_path / f"w{suffix}")
    fc.load(other, tmp_path / f"w{suffix}")
    assert same_bits(model.forward(A), other.forward(A))


def test_what_a_file_holds(tmp_path):
    model = fc.ResBlock(2, 3, 3)
    fc.save(model, tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz", allow_pickle=False) as file:
        names = set(file)
        assert same_bits(file["residual_connection.layers.1.running_V"], np.ones((1, 3, 1, 1)))
    assert {name.rpartition(".")[2] for name in names} == {"W", "b", "BW", "Bb", "running_M", "running_V"}
    assert "convolution_layers.0.layers.0.conv2d_stride1.W" in names
    fc.save(model, tmp_path / "again.npz")
    assert (tmp_path / "w.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_files_of_numpy_load(tmp_path):
    model, values = small(), state(small())
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "w.npz", **{n: np.asfortranarray(a).astype(">f8") for n, a in values.items()})
        fc.load(model, tmp_path / "w.npz")
        for name, value in state(model).items():
            assert same_bits(value, values[name])


@every_format
def test_weights_of_any_layout(suffix, tmp_path, rng):
    layer = fc.Linear(3, 2)
    W, b = rng.standard_normal((3, 2)), np.broadcast_to(np.array(0.5, ">f8"), (2,))
    layer.W, layer.b = W.T[:, ::-1], b
    fc.save(layer, tmp_path / f"w{suffix}")
    other = fc.Linear(3, 2)
    other.b = np.zeros(2)
    fc.load(other, tmp_path / f"w{suffix}")
    assert same_bits(other.W, W.T[:, ::-1].copy())
    assert same_bits(other.b, np.full(2, 0.5))


@every_format
def test_a_bias_that_is_none_is_not_there(suffix, tmp_path):
    layer, other = fc.Conv2d(1, 1, 1, 1), fc.Conv2d(1, 1, 1, 1)
    layer.b = other.b = None
    fc.save(layer, tmp_path / f"w{suffix}")
    fc.load(other, tmp_path / f"w{suffix}")
    assert other.b is None
    unchanged(fc.Conv2d(1, 1, 1, 1), tmp_path / f"w{suffix}", "missing: 'conv2d_stride1.b'")


# ---- files that do not fit -----------------------------------------------------------------------


def unchanged(model, path, match, error=ValueError):
    before = snapshot(model)
    with pytest.raises(error, match=match):
        fc.load(model, path)
    assert not differences(before, vars(model))


@every_format
def test_files_of_another_model(suffix, tmp_path):
    path = tmp_path / f"w{suffix}"
    fc.save(small(), path)
    unchanged(fc.ConvBlock(2, 4, 3, 1, 1), path, r"W has shape \(3, 2, 3, 3\).*\(4, 2, 3, 3\)")
    unchanged(fc.ConvBlock(2, 3, 3, 1, 1, dtype="float32"), path, "float64.*float32")
    unchanged(fc.BatchNorm2d(3), path, "missing: 'BW'.*not of this model: 'layers.0")
    unchanged(fc.ReLU(), path, "not of this model")


def npz(path, **entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("__", "."), data)
    return path


def npy_bytes(a, **changes):
    file = io.BytesIO()
    np.lib.format.write_array(file, a, allow_pickle=True)
    data = file.getvalue()
    for old, new in changes.get("replace", []):
        assert old in data
        data = data.replace(old, new)
    return data


def linear(path, W=None, **more):
    """A file for Linear(2, 2) with another W."""
    W = npy_bytes(np.ones((2, 2))) if W is None else W
    return npz(path, W__npy=W, b__npy=npy_bytes(np.ones((2, 1))), **more)


class Bomb:
    def __reduce__(self):
        return os.abort, ()


HEADER = b"'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), "
CODE = b"__import__('os').abort()"
HOSTILE = {
    "pickled": (lambda: npy_bytes(np.array([[Bomb(), 1], [1, 1]], object)), "dtype object"),
    "structured": (lambda: npy_bytes(np.zeros((2, 2), "f8,f8")), "dtype"),
    "text": (lambda: npy_bytes(np.full((2, 2), "1")), "dtype"),
    "truncated": (lambda: npy_bytes(np.ones((2, 2)))[:-3], "ends after 24|ends after 29"),
    "too long": (lambda: npy_bytes(np.ones((2, 2))) + b"x", "goes on"),
    "no array": (lambda: b"hello", "damaged"),
    "empty": (lambda: b"", "damaged"),
    "a shape of petabytes": (
        lambda: npy_bytes(np.ones((2, 2)), replace=[(b"(2, 2), ", b"(2**50,)")]), "damaged|shape"),
    "a huge shape": (lambda: npy_bytes(np.ones((2, 2)), replace=[(b"(2, 2), ", b"(99999,)")]), "shape"),
    "a negative shape": (lambda: npy_bytes(np.ones((2, 2)), replace=[(b"(2, 2), ", b"(-2,-2),")]), "shape"),
    "code as header": (
        lambda: npy_bytes(np.ones((2, 2)), replace=[(HEADER, CODE.ljust(len(HEADER)))]),
        "damaged"),
    "a deep header": (lambda: b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"[" * 9000, "damaged"),
    "a header of gigabytes": (lambda: b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31), "version"),
    "no version": (lambda: b"\x93NUMPY\x09\x00" + struct.pack("<H", 9), "damaged"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_arrays(kind, tmp_path):
    make, match = HOSTILE[kind]
    unchanged(fc.Linear(2, 2), linear(tmp_path / "w.npz", make()), match)


def test_hostile_archives(tmp_path):
    path = tmp_path / "w.npz"
    one = npy_bytes(np.ones((2, 2)))
    unchanged(fc.Linear(2, 2), linear(path, **{"../../evil": b"x"}), "other files")
    evil = linear(path, **{"../../evil.npy": one})
    unchanged(fc.Linear(2, 2), evil, r"not of this model: '\.\./\.\./evil'")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(linear(path), "a") as archive:
        archive.writestr("W.npy", one)
    unchanged(fc.Linear(2, 2), path, "twice")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("W.npy", one)
        archive.writestr("b.npy", npy_bytes(np.ones((2, 1))))
    unchanged(fc.Linear(2, 2), path, "compressed by method")
    path.write_bytes(b"")
    unchanged(fc.Linear(2, 2), path, "damaged")
    path.write_bytes(os.urandom(1000))
    unchanged(fc.Linear(2, 2), path, "damaged")


def test_a_bomb_is_not_unpacked(tmp_path):
    """A gigabyte of zeros in a megabyte: no more of it is read than the model has."""
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.npy", npy_bytes(np.ones((400, 1))))
        with archive.open("W.npy", "w", force_zip64=True) as member:
            member.write(npy_bytes(np.zeros((400, 400))))
            for _ in range(64):
                member.write(bytes(1 << 24))
    script = f"""
    import resource, fastconv as fc
    model = fc.Linear(400, 400)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        fc.load(model, {str(path)!r})
    except ValueError as error:
        print(error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    error, kibibytes = output_of(script).splitlines()
    assert "W goes on after its 1280000 bytes" in error
    assert int(kibibytes) < 32 * 1024


@every_format
def test_every_truncation_and_many_changed_bytes(suffix, tmp_path):
    """A clear error, or, where a changed byte is padding or a number of safetensors, a model that works."""
    path, random = tmp_path / f"w{suffix}", Random(1)
    fc.save(fc.Linear(2, 2), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        unchanged(fc.Linear(2, 2), path, "damaged|fit")
    accepted = 0
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(random.randint(1, 3)):
            data[random.randrange(len(data))] = random.randrange(256)
        path.write_bytes(bytes(data))
        model = fc.Linear(2, 2)
        before = snapshot(model)
        refused = ""
        try:
            fc.load(model, path)
        except ValueError as error:
            refused = str(error)
        if refused:
            assert str(path) in refused
            assert not differences(before, vars(model))
        else:
            accepted += 1
            assert (model.W.shape, model.b.shape, model.W.dtype) == ((2, 2), (2, 1), float)
    assert accepted < 300


def test_a_changed_number_is_found_by_the_checksum(tmp_path):
    path = tmp_path / "w.npz"
    layer = fc.Linear(2, 2, weight_init_fn=lambda *shape: np.full(shape, 1.25))
    fc.save(layer, path)
    path.write_bytes(path.read_bytes().replace(struct.pack("<d", 1.25), struct.pack("<d", 2.5), 1))
    unchanged(fc.Linear(2, 2), path, "CRC|checksum")


def test_hostile_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "w.safetensors"

    def write(header, data=b""):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)

    good = {"W": {"dtype": "F64", "shape": [2, 2], "data_offsets": [0, 32]}}
    for header, data in (
        (b"{" * 1000, b""), (good, b"short"), ({**good, "b": good["W"]}, bytes(64)), (b"[]", b""),
        ({"W": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 32]}}, bytes(32)),
        ({"W": {"dtype": "BF16", "shape": [2, 8], "data_offsets": [0, 32]}}, bytes(32)), (good, bytes(32)),
    ):
        write(header, data)
        unchanged(fc.Linear(2, 2), path, "damaged|fit")
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    unchanged(fc.Linear(2, 2), path, "damaged")


@every_format
def test_files_that_are_too_large_are_not_read(suffix, tmp_path):
    path = tmp_path / f"w{suffix}"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # no more than a length on the disk
    unchanged(fc.Linear(2, 2), path, f"{1 << 40} bytes, but")


# ---- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [fc.save, fc.load])
def test_paths_that_are_none(use, tmp_path):
    for path in (None, 3, b"w.npz", io.BytesIO(), object()):
        with pytest.raises(TypeError, match="path must be a path"):
            use(small(), path)
    for path in ("w", "w.npy", "w.pkl", "", "w.NPZ", tmp_path):
        with pytest.raises(ValueError, match=r"must end in \.npz or \.safetensors"):
            use(small(), path)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match="path must be that of a file"):
        use(small(), tmp_path / "folder.npz")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.npz")
        with pytest.raises(ValueError, match="path must be that of a file"):
            use(small(), tmp_path / "pipe.npz")
    with pytest.raises(FileNotFoundError, match=r"nowhere/w\.npz"):
        use(small(), tmp_path / "nowhere" / "w.npz")
    with pytest.raises(FileNotFoundError):
        fc.load(small(), tmp_path / "w.npz")


@pytest.mark.parametrize("model", [None, 3, "ReLU", [fc.ReLU()], fc.ReLU, {"W": np.ones(3)}], ids=repr)
@pytest.mark.parametrize("use", [fc.save, fc.load])
def test_models_that_are_none(use, model, tmp_path):
    with pytest.raises(TypeError, match="model must be a layer or model"):
        use(model, tmp_path / "w.npz")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", ["W", None, 1j, np.ones((2, 2), object), [[1.0], 2.0]], ids=repr)
def test_parameters_that_are_none(value, tmp_path):
    model, path = fc.MLP([2, 2, 2]), tmp_path / "w.npz"
    fc.save(model, path)
    whole = path.read_bytes()
    model.layers[2].W = value
    if value is not None:
        with pytest.raises((TypeError, ValueError), match=r"layers\.2\.W"):
            fc.save(model, path)
        with pytest.raises((TypeError, ValueError), match=r"layers\.2\.W"):
            model.astype("float32")
        assert model.layers[0].W.dtype == np.float64
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["w.npz"]


@every_format
def test_a_save_that_fails_leaves_the_old_file(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"w{suffix}"
    fc.save(small(), path)
    whole = path.read_bytes()

    def fails(*_):
        raise OSError("no space left")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(OSError, match="no space"):
                fc.save(small(), path)
        assert path.read_bytes() == whole
        assert os.listdir(tmp_path) == [path.name]

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fc.save(small(), path)
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="permissions and links as POSIX has them")
def test_permissions_and_links(tmp_path):
    path, link = tmp_path / "w.npz", tmp_path / "link.npz"
    before = os.umask(0o027)
    try:
        fc.save(small(), path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    link.symlink_to(path)
    fc.save(fc.ReLU(), link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    fc.load(fc.ReLU(), path)


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    fc.save(small(), path)
    whole = path.read_bytes()
    path.chmod(0o444)
    # As for anybody but root, who may write all.
    monkeypatch.setattr(os, "access", lambda name, mode: bool(os.stat(name).st_mode & 0o200))
    with pytest.raises(PermissionError, match=r"w\.npz"):
        fc.save(small(), path)
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == [path.name]


def test_names_as_long_as_the_system_takes(tmp_path):
    path = tmp_path / ("n" * 251 + ".npz")
    fc.save(small(), path)
    fc.load(small(), path)


def test_nothing_is_written_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    fc.save(small(), Path("here") / "w.npz")
    fc.load(small(), "here/w.npz")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["here", "here/w.npz"]


def test_without_safetensors_a_hint(tmp_path):
    path = str(tmp_path / "w.safetensors")
    script = f"""
    import sys
    sys.modules["safetensors"] = None
    import fastconv as fc
    for use in (fc.save, fc.load):
        try:
            use(fc.ReLU(), {path!r})
        except ImportError as error:
            print("pip install 'fastconv[safetensors]'" in str(error))
        open({path!r}, "a").close()
    """
    assert output_of(script).split() == ["True", "True"]


def test_a_layer_within_itself_and_one_held_twice(tmp_path):
    mlp, path = fc.MLP([2, 3, 2]), tmp_path / "w.npz"
    mlp.first, mlp.itself = mlp.layers[0], mlp
    mlp.layers[0].owner = mlp
    fc.save(mlp, path)
    with np.load(path) as file:
        assert sorted(file) == ["layers.0.W", "layers.0.b", "layers.2.W", "layers.2.b"]
    fc.load(mlp, path)
    assert mlp.astype("float32").layers[2].W.dtype == np.float32
