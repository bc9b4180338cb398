"""What runs one ragged batch: ours, nn.LSTM, ONNX Runtime and OpenVINO, of the same weights.

Owns how each is fed and set to its best, and that all give the same numbers. Knows no clock.
Packages that are not installed are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence, pad_sequence

from bilstm_server.model import BiLSTM, RaggedBatch
from bilstm_server.model.kernels import choose_kernel

OURS = "ours"
REFERENCE = "reference kernel"
PACKED = "nn.LSTM packed"
PADDED = "nn.LSTM padded"
ONNX_RUNTIME = "ONNX Runtime"
OPENVINO = "OpenVINO"

COMPETITORS = ("onnx", "onnxruntime", "openvino")  # packages, of the extra `bench`
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of outputs between -1 and 1
DIRECTIONS = ("", "_reverse")  # suffixes of nn.LSTM's parameters
CPU = torch.device("cpu")

Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A bidirectional nn.LSTM, and a ragged batch for it in the same dtype."""

    lstm: nn.LSTM
    lengths: NDArray[np.int64]  # [B]
    x: Tensor  # [N, D]: the sequences one after the other

    @cached_property
    def split(self) -> Sequence[Tensor]:
        """B times [T, D]"""
        return torch.split(self.x, self.lengths.tolist())

    @cached_property
    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The padded input [T, B, D] and the lengths [B], as other libraries take them."""
        return pad_sequence(list(self.split)).float().numpy(), self.lengths.astype(np.int32)

    def ragged(self, padded: Tensor) -> Tensor:
        """[T, B, 2H] -> [N, 2H]"""
        steps = torch.arange(padded.shape[0])
        return padded.transpose(0, 1)[steps < torch.from_numpy(self.lengths)[:, None]]

    def weights(self, layer: int, direction: str, order: str) -> list[NDArray[np.float32]]:
        """W_ih [4H, D], W_hh [4H, H], b_ih and b_hh [4H], the gates in this order instead of
        nn.LSTM's: input, forget, cell (g), output."""
        found = []
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            parameter = self.lstm.get_parameter(f"{name}_l{layer}{direction}")
            gates = dict(zip("ifgo", parameter.detach().float().chunk(4), strict=True))
            found.append(torch.cat([gates[gate] for gate in order]).numpy())
        return found


@dataclass(frozen=True)
class System:
    """One way to run a case. `outputs` turns what `run` returns into [N, 2H]."""

    run: Run
    outputs: Callable[[Any], Tensor] | None = None  # None: not to be checked
    note: str | None = None


def systems(case: Case) -> dict[str, System]:
    """All that are installed and can run the case's dtype. Raises `ValueError` for one that
    computes something else than nn.LSTM."""
    packed = pack_sequence(list(case.split), enforce_sorted=False)
    padded = pad_sequence(list(case.split))
    found = {
        OURS: _ours(case, "auto"),
        REFERENCE: _ours(case, "reference"),
        PACKED: System(lambda: case.lstm(packed)),
        PADDED: System(lambda: case.lstm(padded)),
    }
    missing = missing_packages(COMPETITORS)
    if case.x.dtype == torch.float32 and not {"onnx", "onnxruntime"} & set(missing):
        found[ONNX_RUNTIME] = _onnx_runtime(case)
    if "openvino" not in missing:
        found[OPENVINO] = _openvino(case)
    _check(case, found)
    return found


def missing_packages(wanted: Iterable[str]) -> list[str]:
    return sorted(name for name in wanted if find_spec(name) is None)


def _check(case: Case, found: dict[str, System]) -> None:
    judge = nn.LSTM(
        case.lstm.input_size, case.lstm.hidden_size, case.lstm.num_layers, bidirectional=True
    ).eval()
    judge.load_state_dict(case.lstm.state_dict())
    packed = pack_sequence([x.float() for x in case.split], enforce_sorted=False)
    expected = case.ragged(pad_packed_sequence(judge(packed)[0])[0])
    for name, system in found.items():
        if system.outputs is not None:
            error = float((system.outputs(system.run()).float() - expected).abs().max())
            if not error <= TOLERANCES[case.x.dtype]:
                raise ValueError(f"{name} is {error:.1e} off nn.LSTM's output, {case.x.dtype}")


def _ours(case: Case, kernel: str) -> System:
    lstm = BiLSTM.from_torch(case.lstm).freeze(choose_kernel(kernel, CPU).kernel)
    return System(
        lambda: lstm.forward_ragged(case.x, RaggedBatch(case.lengths)),
        lambda returned: returned[0],
    )


def _onnx_runtime(case: Case) -> System:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Spinning threads fare as torch's do (see `bilstm_server.process.threads`): on busy cores this
    # is up to 2.7 times as fast, and at hidden 64 on idle ones it made no difference.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        _onnx_model(case), options, providers=["CPUExecutionProvider"]
    )
    feeds = dict(zip(("x", "lengths"), case.arrays, strict=True))
    return System(
        lambda: session.run(None, feeds),
        lambda returned: case.ragged(torch.from_numpy(returned[0])),
    )


def _onnx_model(case: Case) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    width, hidden = case.lstm.input_size, case.lstm.hidden_size
    constants = {"joined": np.array([0, 0, -1])}
    nodes = []
    y = "x"
    for layer in range(case.lstm.num_layers):
        parts: dict[str, list[NDArray[np.float32]]] = {}
        for direction in DIRECTIONS:
            w_ih, w_hh, b_ih, b_hh = case.weights(layer, direction, "iofg")
            for name, part in (("W", w_ih), ("R", w_hh), ("B", np.concatenate([b_ih, b_hh]))):
                parts.setdefault(f"{name}{layer}", []).append(part)
        constants |= {name: np.stack(both) for name, both in parts.items()}
        states, transposed, joined = (f"{name}{layer}" for name in ("states", "transposed", "y"))
        nodes += [
            helper.make_node(
                "LSTM",
                [y, *parts, "lengths"],
                [states],  # [T, 2, B, H]
                direction="bidirectional",
                hidden_size=hidden,
            ),
            helper.make_node("Transpose", [states], [transposed], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [transposed, "joined"], [joined]),
        ]
        y = joined
    graph = helper.make_graph(
        nodes,
        "bilstm",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", width]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]),
        ],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["T", "B", 2 * hidden])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized


def _openvino(case: Case) -> System:
    import openvino

    wanted = {torch.float32: "f32", torch.bfloat16: "bf16"}[case.x.dtype]
    compiled = openvino.Core().compile_model(
        _openvino_model(case),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": wanted,
        },
    )
    request = compiled.create_infer_request()
    for index, array in enumerate(case.arrays):
        request.set_input_tensor(index, openvino.Tensor(array))
    ran = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return System(
        lambda: request.infer(share_outputs=True),
        lambda returned: case.ragged(torch.from_numpy(returned[0])),
        None if ran == wanted else f"{OPENVINO} was asked for {wanted} and ran {ran}.",
    )


def _openvino_model(case: Case) -> Any:
    """Both directions as forward ones, the backward one between two reversals of every sequence.

    Its bidirectional LSTMSequence is no match: with lengths it becomes a loop over the steps, up
    to twice as slow, and with shapes that are not fixed it ignores the lengths.
    """
    import openvino
    from openvino import opset13 as ops

    (steps, sequences, width), hidden = case.arrays[0].shape, case.lstm.hidden_size
    x = ops.parameter([steps, sequences, width], np.float32)
    lengths = ops.parameter([sequences], np.int32)
    all_steps = ops.constant(np.full(sequences, steps, np.int32))
    zeros = ops.constant(np.zeros((sequences, 1, hidden), np.float32))
    y = ops.transpose(x, ops.constant([1, 0, 2]))  # [B, T, D]
    for layer in range(case.lstm.num_layers):
        both = []
        for direction in DIRECTIONS:
            w_ih, w_hh, b_ih, b_hh = case.weights(layer, direction, "figo")
            weights = (ops.constant(part[None]) for part in (w_ih, w_hh, b_ih + b_hh))
            own = ops.reverse_sequence(y, lengths, 0, 1) if direction else y
            states = ops.lstm_sequence(own, zeros, zeros, all_steps, *weights, hidden, "forward")
            own = ops.squeeze(states.output(0), ops.constant([1]))
            both.append(ops.reverse_sequence(own, lengths, 0, 1) if direction else own)
        y = ops.concat(both, 2)
    return openvino.Model([ops.transpose(y, ops.constant([1, 0, 2]))], [x, lengths])
