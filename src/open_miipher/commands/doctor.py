"""Say in one screen what this machine can run, and how to mend what it cannot.

Exit status 0: training runs, on a CPU at least; 1: an essential part is broken. Needs only the
standard library, so that it also speaks when packages are missing; nothing is downloaded, and no
key is printed.
"""

import importlib
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from open_miipher.base.compilers import missing_for_kernels
from open_miipher.base.errors import UserError
from open_miipher.base.gpu_support import Driver, gpu_problem, read_driver
from open_miipher.base.paths import existing_parent
from open_miipher.base.shipped import IS_INSTALLED
from open_miipher.base.threads import num_cores
from open_miipher.commands import Parser

try:
    import resource
except ImportError:  # Windows, which sets no such limits
    resource = None  # type: ignore[assignment]

PACKAGES = ("transformers", "hydra", "soundfile", "av", "soxr", "safetensors", "scipy", "wandb")
WITHOUT_IMAGE = (
    "without an image, for cu126: .venv/bin/pip install --require-hashes "
    "-r container/requirements-cu126.lock"
)
REBUILD = (
    "install the package again, into a new environment"
    if IS_INSTALLED
    else "build the environment again: rm -r .venv; make setup"
)
CPU_BF16 = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")
"""What CPUs with instructions for bfloat16 have, as torch names it: x86's, then Arm's."""

GIB = 2**30


@dataclass
class Finding:
    """One line of the screen; `mend` says what to do about a `note`, a `problem`, a `broken`."""

    level: str
    topic: str
    text: str
    mend: str = ""


def load(name: str) -> ModuleType | str:
    """Return the module, or the reason why it cannot be imported (its own errors included)."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError, UserError) as error:
        return (
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'}"
        )


def check_python() -> Iterator[Finding]:
    """Python's version and the packages of the lock file."""
    version = sys.version.split()[0]
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python may run this file
        yield Finding("broken", "Python", version, "use Python 3.11 or newer")
    else:
        yield Finding("ok", "Python", f"{version} in {sys.prefix}")
    modules = {name: load(name) for name in PACKAGES}
    reasons = [f"{name}: {module}" for name, module in modules.items() if isinstance(module, str)]
    if reasons:
        yield Finding("broken", "packages", "\n".join(reasons), REBUILD)
    found = [
        f"{name} {module.__version__}"
        for name, module in modules.items()
        if not isinstance(module, str)
    ]
    if found:
        yield Finding("ok", "packages", ", ".join(found))


def check_torch() -> Iterator[Finding]:
    """The torch wheel, the driver under it, the GPUs, NCCL and gloo."""
    torch = load("torch")
    if isinstance(torch, str):
        yield Finding("broken", "torch", f"cannot be imported: {torch}", REBUILD)
        return
    wheel = torch.version.cuda or "none (CPU wheel)"
    yield Finding("ok", "torch", f"{torch.__version__}, built for CUDA {wheel}")
    torchaudio = load("torchaudio")
    if isinstance(torchaudio, str):
        mend = f"torch and torchaudio must be a matched pair: {REBUILD}"
        yield Finding("broken", "torchaudio", torchaudio, mend)
    yield check_cpu(torch)
    driver = read_driver()
    yield from check_driver(torch, driver)
    yield from check_gpus(torch, driver)
    yield check_kernels("cuda" if driver and torch.cuda.is_available() else "cpu")
    yield check_gloo(torch)


def check_kernels(device_type: str) -> Finding:
    """Whether kernels can be compiled where they run."""
    missing = missing_for_kernels(device_type)
    use = "trainer.compile=true" + (" and fused kernels" if device_type == "cuda" else "")
    if missing is None:
        return Finding("ok", "compiler", f"here, for {use}")
    what, _, mend = missing.partition("; ")
    return Finding("note", "compiler", f"{use}: this machine lacks {what}", mend)


def check_cpu(torch: ModuleType) -> Finding:
    """Whether the CPU computes in bfloat16 at more than the speed of float32."""
    found = torch.cpu.get_capabilities()
    name = found.get("cpu_name", found["architecture"])
    able = [feature for feature in CPU_BF16 if found.get(feature)]
    if not able:
        return Finding("ok", "CPU", f"{name}, no bfloat16: float32 is fastest on it")
    text = (
        f"{name}, computes in bfloat16 ({', '.join(able)}): --amp bf16 may restore faster on it; "
        "not measured\nFirst compare with --amp no: some of torch's convolutions in bfloat16 were "
        "wrong on such CPUs"
    )
    return Finding("ok", "CPU", text)


def check_driver(torch: ModuleType, driver: Driver | None) -> Iterator[Finding]:
    """Whether the driver is there, and can run the wheel's CUDA."""
    if driver is None:
        yield Finding("note", "driver", "no NVIDIA driver: everything runs on the CPU, slowly")
        return
    text = f"{driver.release}, runs CUDA up to {driver.cuda_version[0]}.{driver.cuda_version[1]}"
    yield Finding("ok", "driver", text)
    if not torch.cuda.is_available() and gpu_problem(torch, driver) is None:
        mend = "check nvidia-smi, CUDA_VISIBLE_DEVICES, and in a container its --nv or --gpus"
        yield Finding("problem", "GPUs", "a driver but no usable GPU", mend)


def check_gpus(torch: ModuleType, driver: Driver | None) -> Iterator[Finding]:
    """Each GPU, whether driver and wheel can use it, and NCCL."""
    for i, capability in enumerate(driver.capabilities if driver else ()):
        problem = gpu_problem(torch, driver, i)
        if problem is not None:
            yield Finding("problem", f"GPU {i}", problem.text, f"{problem.mend}\n{WITHOUT_IMAGE}")
        elif i < torch.cuda.device_count():
            properties = torch.cuda.get_device_properties(i)
            bf16 = "bf16" if capability >= (8, 0) else "no fast bf16: trainer.amp=fp16"
            text = (
                f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, "
                f"compute capability {capability[0]}.{capability[1]}, {bf16}"
            )
            yield Finding("ok", f"GPU {i}", text)
    if not torch.cuda.is_available():
        return
    if torch.distributed.is_nccl_available():
        version = ".".join(str(part) for part in torch.cuda.nccl.version())
        yield Finding("ok", "NCCL", version)
    else:
        yield Finding("problem", "NCCL", "not in this torch", "install the ordinary torch wheel")


def check_gloo(torch: ModuleType) -> Finding:
    """Whether processes on this machine can meet (a group of one opens the network device)."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_gloo_available():
        return Finding("broken", "gloo", "not in this torch", "install the ordinary torch wheel")
    try:
        store = distributed.HashStore()
        distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        distributed.destroy_process_group()
    except RuntimeError as error:
        mend = "name a network interface of this machine: export GLOO_SOCKET_IFNAME=lo"
        return Finding("problem", "gloo", str(error).splitlines()[0], mend)
    return Finding("ok", "gloo", "opens its network device")


def check_audio() -> Iterator[Finding]:
    """The libraries that code MP3, Vorbis and Opus."""
    numpy, codec = load("numpy"), load("open_miipher.audio.codec")
    if isinstance(numpy, str) or isinstance(codec, str):
        yield Finding("broken", "codecs", str(codec), REBUILD)
        return
    waveform = numpy.zeros(12_000, "float32")
    for name, setting in (("mp3", 64), ("vorbis", 1), ("opus", 24)):
        try:
            getattr(codec, name)(waveform, 24_000, setting)
        except codec.CodecError as error:
            yield Finding("broken", "codecs", str(error), REBUILD)
            return
    libsndfile = codec.soundfile.__libsndfile_version__
    yield Finding("ok", "codecs", f"MP3, Vorbis and Opus round trips work; libsndfile {libsndfile}")


def writable(path: Path) -> bool:
    """Whether a file can really be made there (rights, read-only mounts, quotas, full disks)."""
    try:
        with tempfile.TemporaryFile(dir=existing_parent(path)) as file:
            file.write(b"x")
    except OSError:
        return False
    return True


def check_folders() -> Iterator[Finding]:
    """Caches, output/ and the space there."""
    home = Path.home()
    caches = {
        "HF_HOME": home / ".cache/huggingface",
        "TORCH_HOME": home / ".cache/torch",
        "TRITON_CACHE_DIR": home / ".triton",
        "WANDB_DIR": Path.cwd(),
    }
    good = []
    for variable, default in caches.items():
        path = Path(os.environ.get(variable) or default).expanduser().absolute()
        free = shutil.disk_usage(existing_parent(path)).free / GIB
        if writable(path):
            good.append(f"{variable} {path} ({free:.0f} GiB free)")
        else:
            mend = f"export {variable}=/a/folder/you/may/write"
            yield Finding("problem", "cache", f"{variable} {path} is not writable", mend)
    if good:
        yield Finding("ok", "caches", "\n".join(good))
    output = Path.cwd() / "output"
    free = shutil.disk_usage(existing_parent(output)).free / GIB
    if not writable(output):
        mend = "name another place: trainer.output_dir=/a/folder/you/may/write"
        yield Finding("broken", "output/", f"{output} is not writable", mend)
    elif free < 20:
        level = "broken" if free < 0.5 else "problem"
        mend = "free some: a checkpoint of the paper's size takes a few GB; trainer.keep_last=2"
        yield Finding(level, "output/", f"only {free:.1f} GiB free in {output}", mend)
    else:
        yield Finding("ok", "output/", f"writable, {free:.0f} GiB free")


def check_wandb() -> Finding:
    """Where wandb would log; the key itself is never shown."""
    key = bool(os.environ.get("WANDB_API_KEY"))
    mode = os.environ.get("WANDB_MODE") or ("online" if key else "offline")
    text = f"{mode} (WANDB_API_KEY is {'set' if key else 'not set'})"
    if mode == "online" and not key:
        return Finding("problem", "wandb", text, "export WANDB_API_KEY=…, or unset WANDB_MODE")
    return Finding("ok", "wandb", text + ("; later: wandb sync DIR" if mode == "offline" else ""))


def cgroup_value(name: str) -> str:
    """Return a limit of this process's control group (version 2), or "max"."""
    try:
        own = Path("/proc/self/cgroup").read_text().split("0::", 1)[1].splitlines()[0].strip()
        folder = Path("/sys/fs/cgroup" + own)
        path = folder / name if (folder / name).exists() else Path("/sys/fs/cgroup") / name
        return path.read_text().strip()
    except (OSError, IndexError):
        return "max"


def check_limits() -> Iterator[Finding]:
    """CPU, memory, shared memory and open files."""
    cpus = num_cores()
    quota = cgroup_value("cpu.max").split()
    allowed = cpus if quota[0] == "max" else min(cpus, int(quota[0]) / int(quota[1]))
    memory = memory_bytes()
    text = f"{allowed:g} CPU cores, {memory / GIB:.0f} GiB memory may be used"
    if memory == math.inf:
        yield Finding("ok", "machine", f"{allowed:g} CPU cores")
    elif memory < 4 * GIB:
        yield Finding("problem", "machine", text, "give it 4 GiB or more")
    else:
        yield Finding("ok", "machine", text)
    if Path("/dev/shm").is_dir() or sys.platform == "linux":
        yield check_shared_memory()
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 1024:
        yield Finding("problem", "open files", f"{soft}", f"ulimit -n {hard}")
    else:
        yield Finding("ok", "open files", f"{soft}")


def memory_bytes() -> float:
    """Return how much memory this process may use; infinity where the system does not tell."""
    limit = cgroup_value("memory.max")
    allowed = math.inf if limit == "max" else int(limit)
    if not hasattr(os, "sysconf"):  # Windows
        return allowed
    return min(allowed, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def check_shared_memory() -> Finding:
    """Where loader workers hand batches over."""
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    if shared < GIB:
        mend = "docker --shm-size=8g, or trainer.num_workers=0 (loader workers hand over there)"
        return Finding("problem", "/dev/shm", f"{shared / 2**20:.0f} MiB", mend)
    return Finding("ok", "/dev/shm", f"{shared / GIB:.0f} GiB")


def check_restoring() -> Iterator[Finding]:
    """How the model that comes with the project would restore here: precision and batches."""
    torch, restoration = load("torch"), load("open_miipher.restoration")
    if isinstance(torch, str) or isinstance(restoration, str):
        return  # said above
    try:
        restorer = restoration.Restorer.from_checkpoint()
    except UserError as error:
        mend = REBUILD if IS_INSTALLED else "get the files again: git checkout pretrained"
        yield Finding("problem", "restoring", str(error).splitlines()[0], mend)
        return
    except RuntimeError as error:
        mend = "read what is said of the GPUs above; --device cpu needs none"
        yield Finding("problem", "restoring", str(error).splitlines()[0], mend)
        return
    device = restorer.model.device
    kind = "bf16" if restorer.model.amp == "bf16" else "float32"
    how = f"in {restorer.trial}" if restorer.trial else "several chunks side by side"
    yield Finding("ok", "restoring", f"on {device}, in {kind}, {how}")


def findings() -> Iterator[Finding]:
    """Every check in the order of the screen."""
    yield from check_python()
    yield from check_torch()
    yield from check_restoring()
    yield from check_audio()
    yield from check_folders()
    yield check_wandb()
    yield from check_limits()


def show() -> int:
    """Print the screen and return the exit status."""
    levels, troubled = [], set()
    for finding in findings():
        levels.append(finding.level)
        if finding.level in ("problem", "broken"):
            troubled.add(finding.topic)
        lines = finding.text.splitlines()
        print(f"{finding.level:8}{finding.topic:13}{lines[0]}", flush=True)
        for line in lines[1:]:
            print(f"{'':21}{line}", flush=True)
        arrow = "->"
        for line in finding.mend.splitlines():
            print(f"{'':21}{arrow} {line}", flush=True)
            arrow = "  "
    if "broken" in levels:
        print("\nTraining does not run here yet: mend what is marked broken.")
        return 1
    problems = levels.count("problem")
    what = "Training runs" if "restoring" in troubled else "Training and restoring run"
    print(f"\n{what} here{f'; {problems} to mend' if problems else ''}.")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, which has no options, and show."""
    Parser(description=__doc__).parse_args(argv)
    return show()
