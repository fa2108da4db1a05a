"""CUDA's memory on a FAKE; the driver is asked by the real cuda-bindings, too."""

from typing import Any

import numpy as np
import pytest

from hsi_runtime.engines.nvidia import cuda_memory
from hsi_runtime.engines.nvidia.cuda_memory import Buffer, Gpu, Stream, load, probe
from hsi_runtime.errors import EngineError, ResourceError


def test_gpu_is_described(fake_gpu: Any) -> None:
    assert probe(load()) == Gpu("Fake GPU", "8.7")


def test_machine_answers_with_a_gpu_or_a_sentence() -> None:
    cuda = pytest.importorskip(cuda_memory.MODULE)
    code, count = cuda.cudaGetDeviceCount()
    if code or not count:
        with pytest.raises(EngineError, match="--device cpu"):
            probe(cuda)
    else:
        assert probe(cuda).name


def test_real_bindings_have_what_is_used(fake_gpu: Any) -> None:
    import importlib
    import sys

    pytest.importorskip("cuda.bindings")
    fake = sys.modules.pop(cuda_memory.MODULE)
    cuda = importlib.import_module(cuda_memory.MODULE)
    used = [name for name in dir(type(fake)) if name.startswith("cuda")]
    assert len(used) > 9
    assert [name for name in used if not hasattr(cuda, name)] == []
    assert cuda.cudaStreamNonBlocking == cuda_memory.NON_BLOCKING
    for kind in ("cudaError_t", "cudaMemcpyKind"):
        for member in getattr(fake, kind):
            assert getattr(getattr(cuda, kind), member.name) == member


def test_values_travel_to_the_gpu_and_back_in_order(fake_gpu: Any) -> None:
    cuda = load()
    first, second = Buffer(cuda, 6), Buffer(cuda, 6)
    first.values[:] = np.arange(6)
    stream = Stream(cuda)
    stream.upload(first, 4)
    stream.wait()
    first.values[:] = -1
    stream.download(first, 3)
    assert (first.values == -1).all()  # not before it is waited for
    stream.wait()
    np.testing.assert_array_equal(first.values, [0, 1, 2, -1, -1, -1])
    with pytest.raises(EngineError, match="cudaErrorInvalidValue"):
        stream.upload(second, 7)


def test_lack_of_memory_is_told_apart(fake_gpu: Any) -> None:
    cuda = load()
    with pytest.raises(ResourceError, match="GPU's memory ran out"):
        Buffer(cuda, fake_gpu.cuda.free)
    failed = (cuda.cudaError_t.cudaErrorIllegalAddress,)
    with pytest.raises(EngineError, match="cudaErrorIllegalAddress; start again"):
        cuda_memory.check(cuda, failed)
    assert cuda_memory.check(cuda, (cuda.cudaError_t.cudaSuccess,)) is None
