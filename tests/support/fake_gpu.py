"""A FAKE of TensorRT and of CUDA's runtime, because the tests' machines have no GPU.

It stands for the modules ``tensorrt`` and ``cuda.bindings.runtime``. Its "engine" holds
the ONNX file, and its "GPU" computes with onnxruntime on the CPU, out of memory that
only its own copies reach. Work of a stream is done when the stream is waited for, not
before: a missing wait, a wrong address, shape or size gives wrong answers here, too.
What it cannot show: speed, real arithmetic, and what a real driver refuses.
"""

import ctypes
import enum
import importlib.machinery
import json
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

CUDA, TENSORRT = "cuda.bindings.runtime", "tensorrt"
FLOAT_BYTES = 4


class Error(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorInvalidValue = 1  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1  # noqa: N815
    cudaMemcpyDeviceToHost = 2  # noqa: N815


OK = Error.cudaSuccess


class Cuda(types.ModuleType):
    """What ``cuda.bindings.runtime`` offers of what hsi_runtime uses.

    Attributes:
        devices: GPUs that are there.
        driver: Answer of the driver to the first question.
        free: Bytes that the GPU has left.
        failing: Error of all work from now on.
        lasts: Waits that succeed; at the next, the GPU is lost.
    """

    cudaError_t, cudaMemcpyKind = Error, Kind  # noqa: N815

    def __init__(self) -> None:
        super().__init__(CUDA)
        self.devices, self.driver, self.failing = 1, OK, OK
        self.free = 1 << 30
        self.name, self.major, self.minor = b"Fake GPU", 8, 7
        self.memory: dict[int, tuple[Any, str]] = {}
        self.streams: dict[int, list[Callable[[], Any]]] = {}
        self.waits, self.lasts = 0, sys.maxsize

    def cudaGetDeviceCount(self) -> tuple[Error, int | None]:  # noqa: N802
        return self.driver, None if self.driver else self.devices

    def cudaGetDeviceProperties(self, device: int) -> tuple[Error, Any]:  # noqa: N802
        assert device == 0
        return OK, types.SimpleNamespace(
            name=self.name, major=self.major, minor=self.minor
        )

    def cudaGetErrorString(self, code: int) -> tuple[Error, bytes]:  # noqa: N802
        return OK, Error(code).name.encode()

    def cudaMalloc(self, size: int) -> tuple[Error, int | None]:  # noqa: N802
        if size > self.free:
            return Error.cudaErrorMemoryAllocation, None
        self.free -= size
        return self._allocate(size, "device")

    def cudaMallocHost(self, size: int) -> tuple[Error, int]:  # noqa: N802
        return self._allocate(size, "pinned")

    def cudaFree(self, address: int) -> tuple[Error]:  # noqa: N802
        held, _ = self.memory.pop(address)
        self.free += len(held)
        return (OK,)

    def cudaFreeHost(self, address: int) -> tuple[Error]:  # noqa: N802
        del self.memory[address]
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:  # noqa: N802
        assert flags == 1, "the default stream would wait for all others"
        handle = 1000 + len(self.streams)
        self.streams[handle] = []
        return OK, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[Error]:  # noqa: N802
        del self.streams[stream]
        return (OK,)

    def cudaMemcpyAsync(  # noqa: N802
        self, target: int, source: int, size: int, kind: Kind, stream: int
    ) -> tuple[Error]:
        up = kind == Kind.cudaMemcpyHostToDevice
        if not (
            self.holds(target, size, "device" if up else "pinned")
            and self.holds(source, size, "pinned" if up else "device")
        ):
            return (Error.cudaErrorInvalidValue,)
        self.streams[stream].append(lambda: ctypes.memmove(target, source, size))
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:  # noqa: N802
        self.waits += 1
        if self.waits > self.lasts:
            self.failing = Error.cudaErrorIllegalAddress
        if self.failing:
            return (self.failing,)
        while self.streams[stream]:
            self.streams[stream].pop(0)()
        return (OK,)

    def holds(self, address: int, size: int, where: str) -> bool:
        """Tell whether memory of a kind has that many bytes from an address on."""
        held, kind = self.memory.get(address, (b"", ""))
        return kind == where and len(held) >= size

    def _allocate(self, size: int, kind: str) -> tuple[Error, int]:
        held = ctypes.create_string_buffer(b"\xff" * size, size)  # not a number
        address = ctypes.addressof(held)
        self.memory[address] = held, kind
        return OK, address


class Tensorrt(types.ModuleType):
    """What ``tensorrt`` offers of what hsi_runtime uses.

    Attributes:
        builds: How many engines were built.
        refuse: What the next step complains of, by step: parse, build, deserialize,
            context, enqueue.
        flaw: Added to the scores of engines built from now on.
        step_seconds: What each of the two steps of a build takes.
    """

    def __init__(self, cuda: Cuda, version: str) -> None:
        super().__init__(TENSORRT)
        self.__spec__ = importlib.machinery.ModuleSpec(TENSORRT, None)
        self.__version__ = version
        self.cuda, self.builds, self.flaw, self.step_seconds = cuda, 0, 0.0, 0.0
        self.refuse: dict[str, str] = {}
        self.listener: Any = None
        for kind in (
            ILogger, IProgressMonitor, NetworkDefinitionCreationFlag, BuilderFlag,
            MemoryPoolType,
        ):  # fmt: skip
            setattr(self, kind.__name__, kind)

    def refuses(self, step: str) -> bool:
        """Complain to the logger, as TensorRT does, where a step must fail."""
        if step not in self.refuse:
            return False
        self.listener.log(ILogger.ERROR, self.refuse[step])
        return True

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        self._listen(logger)
        return Builder(self)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        self._listen(logger)
        return OnnxParser(self, network)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        assert self.cuda.devices, "without a GPU this pointer is null"
        self._listen(logger)
        return Runtime(self)

    def _listen(self, logger: Any) -> None:
        assert self.listener in (None, logger), "TensorRT keeps the first logger"
        self.listener = logger


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase: str) -> None:
        raise NotImplementedError


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 0


class BuilderFlag(enum.Enum):
    TF32 = 6


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[Any]] = {}

    def set_shape(self, name: str, smallest: Any, best: Any, largest: Any) -> None:
        self.shapes[name] = [smallest, best, largest]


class BuilderConfig:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[OptimizationProfile] = []
        self.progress_monitor: IProgressMonitor | None = None
        self.workspace = 0

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.workspace = size

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class Network:
    model = b""


class Builder:
    def __init__(self, trt: Tensorrt) -> None:
        self.trt = trt

    def create_network(self, flags: int) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(
        self, network: Network, config: BuilderConfig
    ) -> memoryview | None:
        assert not config.flags
        assert config.workspace
        monitor = config.progress_monitor
        assert monitor is not None
        monitor.phase_start("Building", None, 2)
        for step in range(2):
            if not monitor.step_complete("Building", step):
                return None
            time.sleep(self.trt.step_seconds)
        monitor.phase_finish("Building")
        if self.trt.refuses("build"):
            return None
        self.trt.builds += 1
        (profile,) = config.profiles
        header = {
            "shapes": profile.shapes,
            "version": self.trt.__version__,
            "flaw": self.trt.flaw,
        }
        return memoryview(json.dumps(header).encode() + b"\n" + network.model)


class OnnxParser:
    def __init__(self, trt: Tensorrt, network: Network) -> None:
        self.trt, self.network, self.num_errors = trt, network, 0

    def parse(self, model: bytes) -> bool:
        onnx.checker.check_model(onnx.load_from_string(model))
        self.num_errors = int("parse" in self.trt.refuse)
        self.network.model = model
        return not self.num_errors

    def get_error(self, index: int) -> Any:
        return ParserError(self.trt.refuse["parse"])


class ParserError:
    def __init__(self, said: str) -> None:
        self.said = said

    def desc(self) -> str:
        return self.said

    def node_operator(self) -> str:
        return "DFT"

    def node_name(self) -> str:
        return "node_7"


class Runtime:
    def __init__(self, trt: Tensorrt) -> None:
        self.trt, self.engine_host_code_allowed = trt, False

    def deserialize_cuda_engine(self, engine: bytes) -> Any:
        assert not self.engine_host_code_allowed
        if self.trt.refuses("deserialize"):
            return None
        first, _, model = engine.partition(b"\n")
        header = json.loads(first)
        if header["version"] != self.trt.__version__:
            return None
        return Engine(self.trt, header, model)


class Engine:
    def __init__(self, trt: Tensorrt, header: dict[str, Any], model: bytes) -> None:
        self.trt, self.header = trt, header
        self.session = onnxruntime.InferenceSession(
            model, providers=["CPUExecutionProvider"]
        )

    def create_execution_context(self) -> Any:
        return None if self.trt.refuses("context") else ExecutionContext(self)


class ExecutionContext:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.cuda = engine, engine.trt.cuda
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.outputs = [o.name for o in engine.session.get_outputs()]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in (*self.engine.header["shapes"], *self.outputs)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self.engine.header["shapes"][name]
        self.shapes[name] = shape
        return all(
            low <= size <= high
            for low, size, high in zip(smallest, shape, largest, strict=True)
        )

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        zeros = {n: np.zeros(s, np.float32) for n, s in self.shapes.items()}
        made = self.engine.session.run([name], zeros)[0].shape
        return list(made)

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.trt.refuses("enqueue"):
            return False
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        if set(addresses) != {*shapes, *self.outputs}:
            return False

        def compute() -> None:
            inputs = {n: self._at(addresses[n], s).copy() for n, s in shapes.items()}
            found = self.engine.session.run(self.outputs, inputs)
            for name, values in zip(self.outputs, found, strict=True):
                flawed = values + np.float32(self.engine.header["flaw"])
                self._at(addresses[name], values.shape)[:] = flawed

        self.cuda.streams[stream].append(compute)
        return True

    def _at(self, address: int, shape: Sequence[int]) -> Any:
        count = int(np.prod(shape))
        assert self.cuda.holds(address, count * FLOAT_BYTES, "device")
        held = (ctypes.c_float * count).from_address(address)
        return np.ctypeslib.as_array(held).reshape(shape)


class Gpu:
    """Both modules, as `fake_gpu` gives them to a test."""

    def __init__(self, version: str = "11.4.1") -> None:
        self.cuda = Cuda()
        self.trt = Tensorrt(self.cuda, version)
