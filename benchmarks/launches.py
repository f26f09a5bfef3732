"""Counts what a step has a GPU start, on a machine that has none.

What is not compiled is counted by the profiler, while a CPU computes it. What is compiled goes the
way that `torch.compile` has for a GPU, up to the code: the compiler plans its kernels for tensors
of a pretended H200, which have shapes and no contents. A kernel that it fuses counts once, and so
does an operation that it leaves to a library; operations that are there on a CPU alone count not at
all. No code is made: torch's own operations compute the step.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor import compile_fx, config, decomposition, scheduler
from torch._inductor.debug import DebugContext
from torch._inductor.fx_utils import FakeTensorUpdater
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._pytree import tree_map

_H200 = DeviceProperties(
    type="cuda",
    index=0,
    multi_processor_count=132,
    cc=90,
    major=9,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
)
_COMPILED = "compiled"  # in the profile

# What makes or looks at tensors without computing anything.
_FREE = re.compile(
    r"aten::(empty|new_empty|as_strided|view|_unsafe_view|reshape|_reshape_alias|transpose|t|permute|"
    r"slice|select|expand|unsqueeze|squeeze|detach|alias|unbind|split|narrow|unfold|resize_|set_|"
    r"result_type|item|_local_scalar_dense|to|lift_fresh|view_as_real|view_as_complex|is_|numpy_T|"
    r"resolve_conj|resolve_neg|flatten|unflatten)"
)

# What is one operation for a GPU, however a CPU does it.
_WHOLE = re.compile(
    r"aten::(convolution|convolution_backward|_fft_\w+|sum|mean|col2im|im2col|copy_|"
    r"_weight_norm_interface\w*)$"
)

# Names of what a compiled graph hands to a library but only looks at tensors.
_FREE_IN_GRAPHS = re.compile(r"view_as_|permute|slice\.|MultiOutput|alias|unsqueeze|reinterpret")


@contextlib.contextmanager
def planned_for_a_gpu() -> Iterator[Counter[str]]:
    """Inside the block, what is compiled is planned for a GPU, counted, and left uncompiled.

    Yields:
        The kernels of all graphs, by kind.
    """
    planned: Counter[str] = Counter()

    def inner_compile(
        gm: fx.GraphModule, inputs: Sequence[Any], **about: Any
    ) -> Callable[..., Any]:
        planned.update(_kernels(gm, inputs, about))
        run = gm.forward

        def computed(*arguments: Any) -> Any:
            with record_function(_COMPILED):
                return run(*arguments)

        return make_boxed_func(computed)

    def compile_here(*arguments: Any, stock: Any = compile_fx.compile_fx, **words: Any) -> Any:
        return stock(*arguments, **{"inner_compile": inner_compile, **words})

    with (
        patch.object(compile_fx, "compile_fx", compile_here),
        patch.object(decomposition, "is_gpu", lambda _: True),
        patch.object(DeviceProperties, "create", lambda _: _H200),
        patch.object(scheduler, "has_triton", lambda: True),
        config.patch(force_disable_caches=True),
        functorch_config.patch(enable_autograd_cache=False),
    ):
        yield planned


def _kernels(gm: fx.GraphModule, inputs: Sequence[Any], about: dict[str, Any]) -> Counter[str]:
    """Count the kernels of a graph, as the compiler plans them for a GPU."""
    mode = next(x.fake_mode for x in inputs if hasattr(x, "fake_mode"))

    def there(x: Any) -> Any:
        if isinstance(x, torch.device):
            return torch.device("cuda", 0)
        if isinstance(x, Tensor):
            with mode:
                return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")
        return x

    graph = fx.Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    for node, own in zip(gm.graph.nodes, graph.nodes, strict=True):
        own.meta = {**node.meta, "val": tree_map(there, node.meta.get("val"))}
        own.kwargs = {name: there(value) for name, value in own.kwargs.items()}
    twin = fx.GraphModule(gm, graph)
    passed = {k: about.get(k, False) for k in ("is_inference", "is_backward")}
    with V.set_fake_mode(mode), DebugContext():
        compile_fx._recursive_record_original_output_strides(twin)
        compile_fx._recursive_post_grad_passes(twin, is_inference=passed["is_inference"])
        FakeTensorUpdater(twin.graph).incremental_update()
        lowered = GraphLowering(twin, shape_env=mode.shape_env, **passed)
        with V.set_graph_handler(lowered), V.set_extern_kernel_nodes([]):
            lowered.run(*map(there, inputs))
            nodes = scheduler.Scheduler(lowered.operations).nodes
    kinds: Counter[str] = Counter()
    for node in nodes:
        if isinstance(node, scheduler.ExternKernelSchedulerNode):
            name = getattr(node.node, "python_kernel_name", None) or type(node.node).__name__
            if not _FREE_IN_GRAPHS.search(name):
                kinds[name.removeprefix("torch.ops.").removeprefix("extern_kernels.")] += 1
        elif not isinstance(node, scheduler.NopKernelSchedulerNode):
            kinds["fused"] += 1
    return kinds


def started(work: Callable[[], object]) -> Counter[str]:
    """Count the operations that are not compiled, by name."""
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        work()
    names: Counter[str] = Counter()

    def count(event: Any) -> bool:
        if event.name == _COMPILED:
            return True
        below = [] if _WHOLE.match(event.name) else [count(e) for e in event.cpu_children]
        is_one = event.name.startswith("aten::") and not _FREE.match(event.name)
        names[event.name.removeprefix("aten::")] += is_one and not any(below)
        return is_one or any(below)

    for event in watched.events():
        if event.cpu_parent is None:
            count(event)
    return +names
