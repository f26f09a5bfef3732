"""Start everything that a batch needs on a GPU at once: CUDA graphs, one for each shape of a batch.

A batch takes hundreds of kernels. To launch them one by one costs the process some milliseconds,
which with few or short chunks is longer than they run.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from open_miipher.base.errors import notice

WARM_UP = 2
"""Batches of a shape that are launched kernel by kernel before one is captured as well: a shape
that hardly comes back is not worth a graph."""

MOST_GRAPHS = 32
"""Graphs that are kept. Each has its output, and all share the memory in between."""

Inputs = Sequence[Tensor | None]
Replay = Callable[[Inputs], Tensor]


class Graphs:
    """A function of tensors; what it launches is captured and replayed for shapes that return.

    Args:
        function: called with the rest of the arguments and then the tensors, on the device; it
            waits for nothing, copies nothing from the host, and draws no random numbers of torch's.
        device: that tensors are moved to.
        capture: returns what replays a function on inputs of the same shapes.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        device: torch.device,
        capture: "Callable[[Callable[..., Tensor], Inputs], Replay] | None" = None,
    ) -> None:
        self._function, self._device = function, device
        self._capture = capture or Capture(device)
        self._seen: Counter[Any] = Counter()
        self._replays: OrderedDict[Any, Replay] = OrderedDict()
        self._gave_up = False

    def __call__(self, inputs: Inputs, *rest: Any) -> Tensor:
        """Return what the function does.

        Args:
            inputs: tensors, or None, anywhere.
            rest: other arguments; a graph is for their values.

        Returns:
            The result, on the device, until the next call.
        """
        key = (*(None if x is None else x.shape for x in inputs), *rest)
        if key in self._replays:
            self._replays.move_to_end(key)
            return self._replays[key](inputs)
        there = [None if x is None else x.to(self._device) for x in inputs]
        result = self._function(*rest, *there)
        self._seen[key] += 1
        if self._seen[key] > WARM_UP and not self._gave_up:
            try:
                # After a launch by this very thread: the handles of cuBLAS and the plans of cuDNN
                # are a thread's own, and none can be made in a capture.
                self._replays[key] = self._capture(partial(self._function, *rest), there)
            except RuntimeError as error:  # torch's, of a capture: out of memory, not permitted, …
                self._gave_up = True
                reason = str(error).strip().partition("\n")[0]
                notice(f"no CUDA graph could be captured ({reason}): kernels are launched singly")
            if len(self._replays) > MOST_GRAPHS:
                self._replays.popitem(last=False)
        return result


class Capture:
    """Captures graphs on one GPU that share their memory: they run one after the other.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, function: Callable[..., Tensor], inputs: Inputs) -> Replay:
        """Capture what a function launches.

        Args:
            function: see `Graphs`; this thread has called it with inputs of these shapes.
            inputs: on the device; they are the graph's own from then on.
        """
        graph = torch.cuda.CUDAGraph()
        where = {"pool": self._pool, "stream": self._stream}
        # Other threads may use the device meanwhile: they measure statistics of files.
        where["capture_error_mode"] = "thread_local"
        # torch's own context does not leave its stream where a capture fails.
        with (
            torch.cuda.device(self._device),
            torch.cuda.stream(self._stream),
            torch.cuda.graph(graph, **where),
        ):
            output = function(*inputs)

        def replay(given: Inputs) -> Tensor:
            for own, x in zip(inputs, given, strict=True):
                if own is not None and x is not None:
                    own.copy_(x)
            graph.replay()
            return output

        return replay


def bucket(num_frames: int) -> int:
    """Return the length that chunks so long are padded to, at most a sixteenth more."""
    step = 1 << max(0, num_frames.bit_length() - 5)
    return -(-num_frames // step) * step
