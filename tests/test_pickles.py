"""Malicious pickles, damaged pickles, and the objects that real ones hold beside the weights."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import io
import os
import pickle
import struct
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segformer import CheckpointError
from segformer.checkpoints import pickles, torch_files
from segformer.checkpoints.pickles import InertObject
from segformer.checkpoints.stored_tensor import Storage
from segformer.checkpoints.weight_file import Metadata, open_weight_file

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def torch_file(value: Any, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def in_zip(pickled: bytes, **entries: bytes) -> bytes:
    """A file as torch.save writes it, but with this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in entries.items():
            archive.writestr(f"archive/{name.replace('__', '/')}", data)
    return file.getvalue()


def in_legacy(pickled: bytes) -> bytes:
    head = b"".join(pickle.dumps(v, 2) for v in (torch_files._MAGIC, torch_files._VERSION, {}))
    return head + pickled + pickle.dumps([], 2)


def read_tensors(data: bytes) -> tuple[dict[str, torch.Tensor], Metadata]:
    """All tensors of a file's state dict, and what the file says about itself."""
    file = open_weight_file(data)
    return file.read(file.tensors), file.metadata


def refusal(data: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_tensors(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_tensors(data: bytes) -> dict[Any, Any]:
    """Assert that the two tensors are read, and return the metadata."""
    tensors, meta = read_tensors(data)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in tensors.items())
    return dict(meta)


# --- harm -----------------------------------------------------------------------------------------


class Calls:
    """An object whose pickle is a function call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


class State:
    """An object whose pickle is a function call, followed by a state for its result."""

    def __init__(self, function: Callable[..., Any], state: Any) -> None:
        self.parts = (function, (), state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A file that each harmful pickle in this module would create."""
    path = tmp_path / "written_by_the_pickle"
    yield path
    assert not path.exists()


def harms(trap: Path) -> dict[str, tuple[Any, str]]:
    """Values that do harm when unpickled, each with what the refusal must name."""
    code = f"open({str(trap)!r}, 'w').close()"
    return {
        "a shell": (Calls(os.system, f"touch {trap}"), f"'{os.system.__module__}.system'"),
        "exec": (Calls(exec, code), "exec'"),
        "eval": (Calls(eval, code), "eval'"),
        "deep inside": ({"state_dict": {"a": [({"b": (Calls(exec, code),)},)]}}, "exec'"),
        "beside weights": ({"state_dict": TENSORS, "meta": {"hook": Calls(exec, code)}}, "exec'"),
        "as a key": ({"state_dict": TENSORS, Calls(exec, code): 1}, "exec'"),
        "a file": (Calls(open, str(trap), "w"), "io.open'"),
        "an import": (Calls(__import__, "os"), "__import__'"),
        "of a function's call": (Calls(getattr, Calls(__import__, "os"), "system"), "__import__'"),
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("harm", list(harms(Path("x"))))
def test_code_is_named_but_not_run(harm: str, legacy: bool, trap: Path) -> None:
    value, name = harms(trap)[harm]
    message = refusal(torch_file(value, legacy=legacy))
    assert name in message
    assert "is code and is not executed; if you trust the file, load it with" in message


def test_pythons_own_unpickler_runs_the_harmful_pickles(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    for number, harm in enumerate(("a shell", "exec", "eval", "deep inside", "beside weights")):
        trap = tmp_path / str(number)
        pickle.loads(pickle.dumps(harms(trap)[harm][0]))
        assert trap.exists()


RAW = {
    # The protocol 0 instructions INST and OBJ, and GLOBAL without a call.
    "inst": b"(S'touch TRAP'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch TRAP'\no.",
    "global alone": b"cos\nsystem\n.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch TRAP\x85R.",
    "dotted": b"cposix\nsystem.__call__\n(S'touch TRAP'\ntR.",
    "an extension": b"\x80\x02\x82\x01.",
    "a buffer": b"\x80\x05\x97.",
    "a private builtin": b"c__builtin__\ncompile\n.",
}


@pytest.mark.parametrize("name", list(RAW))
@pytest.mark.parametrize("wrap", [in_zip, in_legacy])
def test_every_way_to_name_code_is_refused(
    name: str, wrap: Callable[[bytes], bytes], trap: Path
) -> None:
    assert "executed" in refusal(wrap(RAW[name].replace(b"TRAP", bytes(trap))))


def test_getattr_is_not_called(trap: Path) -> None:
    """mmengine's pickles name methods by getattr, so it may appear; it is not called."""
    pickled = (
        b"c__builtin__\ngetattr\n(c__builtin__\ngetattr\n(cnumpy\nndarray\nS'__globals__'\ntRS'os'"
        b"\ntR(S'touch " + bytes(trap) + b"'\ntR."
    )
    assert "holds a whole __builtin__.getattr" in refusal(in_zip(pickled))


def test_a_pickled_state_changes_no_class() -> None:
    """BUILD would call __setstate__, or set attributes of classes that all of Python shares."""
    before = dict(vars(collections.OrderedDict)), dict(vars(Storage))
    odd = {"__class__": 1, "__setstate__": 2, "__reduce__": 3, "items": 4}
    for target in (b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"):
        state = pickle.dumps((None, odd), 2)[2:-1]
        assert "is not a state dict" in refusal(in_zip(b"\x80\x02" + target + state + b"b."))
    assert (dict(vars(collections.OrderedDict)), dict(vars(Storage))) == before
    assert not hasattr(torch_files._tensor, "items")
    # An OrderedDict with a state is what every state_dict() is: its _metadata.
    ordered = collections.OrderedDict(TENSORS)
    ordered._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    assert_tensors(torch_file(ordered))
    value = pickles.load(io.BytesIO(pickle.dumps(State(Namespace, odd), 2)), {})
    assert isinstance(value, InertObject)


Namespace = argparse.Namespace


def test_modules_named_in_a_pickle_are_not_imported() -> None:
    """To Python's unpickler, the name of an existing module is enough to run its file."""
    assert "this" not in sys.modules
    refusal(in_zip(b"cthis\nanything\n."))
    pickles.load(io.BytesIO(b"cmmengine.never.heard.of\nThing\n."), {})
    assert "this" not in sys.modules
    assert "mmengine" not in sys.modules


def test_names_that_only_look_harmless_are_refused() -> None:
    for module in ("numpyevil", "torch_evil", "mmsegx.a", "collectionsx", "builtins2"):
        assert f"'{module}.Thing'" in refusal(in_zip(f"c{module}\nThing\n.".encode()))
    assert "'argparse.FileType'" in refusal(in_zip(b"cargparse\nFileType\n."))
    assert "'builtins.exec'" in refusal(in_zip(b"cbuiltins\nexec\n."))


# --- what is stored beside weights ----------------------------------------------------------------


@pytest.fixture
def mmengine() -> Iterator[types.ModuleType]:
    """Classes like those of mmengine, which is not installed; tests remove them before reading."""
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    modules = {name: types.ModuleType(name) for name in names}
    sys.modules.update(modules)
    module = modules[names[-1]]

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.array([1.5, 2.5])
            self._statistics_methods = {"mean": HistoryBuffer.mean}

        def mean(self) -> float:
            raise AssertionError("must not be called")

        def __setstate__(self, state: Any) -> None:
            raise AssertionError("must not be called")

    class Config(dict[str, Any]):
        pass

    for cls in (HistoryBuffer, Config):
        cls.__module__ = module.__name__
        cls.__qualname__ = cls.__name__
        setattr(module, cls.__name__, cls)
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    HistoryBuffer.mean.__module__ = module.__name__
    yield module
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_weights_are_read_beside_mmengines_objects(
    mmengine: types.ModuleType, protocol: int
) -> None:
    history = mmengine.HistoryBuffer()
    beside = {
        "meta": {"dataset_meta": {"classes": ("a", "b")}, "time": datetime(2024, 1, 1), "seed": 1},
        "message_hub": {
            "log_scalars": collections.OrderedDict({"train/loss": history}),
            "runtime_info": mmengine.Config(iter=3, path=Path("/a"), scale=np.float64(2)),
            "resumed_keys": {"loss": True},
        },
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(4)}}, "param_groups": []},
        "args": argparse.Namespace(lr=1e-3),
        "found": {1, 2},
        "frozen": frozenset({(1, 2)}),
        "array": np.array(["text", {"a": 1}], dtype=object),
        "counts": collections.Counter("aab"),
        "default": collections.defaultdict(list, {"x": [1]}),
        "queue": collections.deque([1, 2]),
        ("a", 1): torch.float16,
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
    }
    file = io.BytesIO()
    torch.save({"state_dict": TENSORS, **beside}, file, pickle_protocol=protocol)
    for name in [name for name in sys.modules if name.startswith("mmengine")]:
        del sys.modules[name]
    meta = assert_tensors(file.getvalue())
    assert meta["dataset_meta"] == {"classes": ("a", "b")}
    assert meta["time"].name == "datetime.datetime"
    assert not any(name.startswith("mmengine") for name in sys.modules)


def test_weights_are_read_beside_lightnings_hyperparameters() -> None:
    """What `save_hyperparameters()` keeps: losses, and optimizers with their options."""
    beside = {
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {
            "loss": torch.nn.CrossEntropyLoss(weight=torch.ones(3)),
            "optimizer": functools.partial(torch.optim.AdamW, lr=6e-5),
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(4)}}, "param_groups": [{}]}],
        "callbacks": {"EarlyStopping": {"best_score": torch.tensor(0.5)}},
    }
    assert assert_tensors(torch_file({"state_dict": TENSORS, **beside})) == {}
    for call in (functools.partial(os.system, "true"), functools.reduce):
        message = refusal(torch_file({"state_dict": TENSORS, "hyper_parameters": {"f": call}}))
        assert "is code and is not executed" in message


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_every_dtype_and_layout_of_tensor_is_read(legacy: bool) -> None:
    base = torch.arange(24.0)
    tensors: dict[str, Any] = {
        str(dtype): torch.arange(5).to(dtype) for dtype in torch_files._DTYPES.values()
    }
    tensors |= {
        "view": base[4:10].view(2, 3),
        "transposed": base.view(4, 6).T,
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    read, _ = read_tensors(torch_file(tensors, legacy=legacy))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name], tensor), name
    read["view"].zero_()  # its memory is not shared
    assert torch.equal(read["transposed"], base.view(4, 6).T)


def test_a_pickle_of_anything_but_a_state_dict_is_refused() -> None:
    message = refusal(torch_file(torch.nn.Linear(2, 2)))
    assert "holds a whole torch.nn.modules.linear.Linear" in message
    assert "save its state_dict() instead" in message
    for value in ([torch.ones(2)], {"epoch": 3}, {1: torch.ones(2)}, 3, None):
        assert "is not a state dict" in refusal(torch_file(value))


def test_the_refusal_of_another_archive_names_its_kind() -> None:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but such files still circulate
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), file)
    assert "is a TorchScript program; save the network's state_dict()" in refusal(file.getvalue())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", "no weights")
    assert "is a zip archive, but none of torch.save" in refusal(file.getvalue())
    assert "is big-endian" in refusal(in_zip(pickle.dumps({}, 2), byteorder=b"big"))


# --- headers that lie -----------------------------------------------------------------------------


def claim(
    shape: tuple[Any, ...], stride: tuple[Any, ...], count: Any = 4, offset: Any = 0
) -> bytes:
    """A file with one tensor of this shape and layout, over a storage of 4 float32 values."""

    class Claim:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (STORAGE, offset, shape, stride, False, None)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if value is STORAGE else None

    file = io.BytesIO()
    Pickler(file, 2).dump({"a": Claim()})
    return in_zip(file.getvalue(), data__0=struct.pack("<4f", 1, 2, 3, 4))


STORAGE = object()


def test_a_tensor_larger_than_its_storage_is_refused() -> None:
    tensors, _ = read_tensors(claim((2, 2), (2, 1)))
    assert torch.equal(tensors["a"], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    for lie in (
        claim((3, 2), (2, 1)),
        claim((2, 2), (2, 1), offset=1),
        claim((2, 2), (2, 1), count=5),
        claim((4,), (2,)),
        claim((8,), (0,)),
    ):
        assert "lies beyond the 4 values that are there" in refusal(lie)
    for lie in (
        claim((2, 2), (2,)),
        claim((-1, 2), (2, 1)),
        claim((2, 2), (-2, 1)),
        claim((2.0, 2), (2, 1)),
        claim((2, 2), (2, 1), offset=-1),
    ):
        assert "damaged" in refusal(lie)


def test_claims_beyond_the_file_take_no_memory() -> None:
    """An allocation of a terabyte would fail, or be noticed."""
    assert "claims tensors of 4,000,000,000,000 bytes in a file of" in refusal(
        claim((10**6, 10**6), (0, 0))
    )
    assert "damaged" in refusal(claim((10**12,), (1,), count=10**12))
    head = b"".join(pickle.dumps(v, 2) for v in (torch_files._MAGIC, torch_files._VERSION, {}))
    assert "damaged" in refusal(head + b"\x80\x02X\xff\xff\xff\x7fabc")
    assert "damaged" in refusal(in_zip(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc."))


def test_a_zip_bomb_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**7)
    assert "archive/data.pkl is compressed, which torch.save never does" in refusal(file.getvalue())


def test_deeply_nested_pickles_are_refused_without_a_stack_overflow() -> None:
    deep = b"\x80\x02)" + b"\x85" * 10**5
    assert "is not a state dict" in refusal(in_zip(deep + b"."))
    assert "is not a state dict" in refusal(in_zip(b"\x80\x02}" + deep[2:] + b"K\x01s."))
    # A key that has no hash shows that keys are not hashed, at any depth.
    assert "is not a state dict" in refusal(in_zip(b"\x80\x02}]\x85K\x01s."))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_damage_anywhere_raises_nothing_but_a_checkpoint_error(legacy: bool) -> None:
    data = bytearray(torch_file({"state_dict": TENSORS, "meta": {"a": [1]}}, legacy=legacy))
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for position in generator.integers(0, len(data), 3):
            damaged[position] = generator.integers(0, 256)
        with contextlib.suppress(CheckpointError):
            read_tensors(bytes(damaged))


def test_state_dicts_that_contain_each_other_end() -> None:
    """Dicts of dicts are searched for weights: each once, however often it is named."""
    deep: dict[str, Any] = {"weight": torch.ones(2)}
    for _ in range(60):
        deep = {"left": deep, "right": deep}
    deep["itself"] = deep
    file = open_weight_file(torch_file({"state_dict": TENSORS, "beside": deep}))
    assert list(file.beside) == [f"beside.{'left.' * 60}weight"]
    assert file.tensors.keys() == TENSORS.keys()
