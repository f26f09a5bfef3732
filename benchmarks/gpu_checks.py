"""Run all checks that need a GPU, with random weights and generated audio (benchmarks/gpu.sh)."""

import argparse
import importlib.util
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from check_runner import LONGEST, ROOT, CheckRunner, Outcome
from gpu_chains import FAMILIES, SMALL, Chains
from gpu_precision import compare_bf16, float32_parts, front_ends
from gpu_speed import model_alone

from open_miipher.base.threads import num_cores

NEEDED = (
    *("transformers", "hydra", "soundfile", "soxr", "av", "lameenc", "safetensors", "pytest"),
    *("scipy", "braceexpand"),
)
WAVEFIT, WAVENEXT2 = ("miipher2", "wavefit_pretrain"), ("miipher2", "wavenext2_pretrain")
ALONE = (("sidon", "vocoder_pretrain"), WAVEFIT, WAVENEXT2)
TRAIN_BATCH = {"miipher2": 32, "sidon": 16}
PIECES = 4
"""Of a crop in stage 3, of which there are so many times fewer."""

ENCODERS = "encoders of random weights"
"""The check that makes what most others use."""


class Checks(CheckRunner):
    """The checks, one after the other: first what `benchmarks/README.md` has rows for.

    Args:
        out, device, seconds, longest: see `CheckRunner`.
        scratch: folder for the encoders, which are not needed afterwards.
        tiny: see `Chains`.
    """

    def __init__(
        self,
        out: Path,
        scratch: Path,
        device: str,
        tiny: bool,
        seconds: float,
        longest: float = LONGEST,
    ) -> None:
        super().__init__(out, device, tiny, seconds, longest)
        self.chains = Chains(scratch, device, tiny)

    def run(self, only: Sequence[str]) -> bool:
        """Run the checks; return whether all passed.

        Args:
            only: those alone whose name has one of these in it; none: all.
        """
        for name, action in self.all():
            if not only or name == ENCODERS or any(part in name for part in only):
                self.check(name, action)
        return all(result.passed for result in self.results)

    def all(self) -> Iterator[tuple[str, Callable[[], Outcome]]]:
        """Yield names and checks. Those that use the device in this program have own processes."""
        yield ENCODERS, lambda: (True, self.chains.make_encoders(), {})
        for family, stage in ALONE:
            action = self.apart(model_alone, self.chains, self.out, family, stage)
            yield f"the model of {family}_{stage} alone", action
        yield "directory with Sidon", partial(self.directory, "sidon", "vocoder_finetune")
        yield "tests marked gpu", self.tests
        yield "resampling and front ends in float32", self.apart(front_ends, self.chains)
        for family in FAMILIES:
            yield f"bf16 against float32, {family}", self.apart(compare_bf16, self.chains, family)
        last = partial(self.directory, "miipher2", "wavenext2_finetune")
        yield "directory with USM and WaveNeXt 2", last
        yield "tokenise with EnCodec", self.tokenise
        for place in range(3):
            for family, stages in FAMILIES.items():
                yield f"train {family}_{stages[place]}", partial(self.train, family, stages[place])
        yield f"train {'_'.join(WAVENEXT2)}", partial(self.train, *WAVENEXT2)
        for family, stages in FAMILIES.items():
            yield f"what stays in float32, {family}", self.apart(float32_parts, self.chains, family)
            yield f"one process with {family}", partial(self.restore, family, stages[2])
        yield "two processes", self.two_processes
        yield "diffusion", self.diffusion
        yield f"train {'_'.join(WAVEFIT)}, compiled", self.compiled

    def tests(self) -> Outcome:
        """Run the tests that are marked gpu; a rehearsal only collects them."""
        files = sorted((ROOT / "tests").rglob("test_*.py"))
        marked = [str(path) for path in files if "mark.gpu" in path.read_text()]
        words = ["-m", "pytest", "-q", "-m", "gpu", *marked]
        if self.device == "cpu":
            words.append("--collect-only")
        passed, last = self.command("pytest", words)
        return passed, last, {}

    def directory(self, family: str, stage: str) -> Outcome:
        """Measure a run over a directory of FLAC files into another, with worker processes."""
        from open_miipher.corpus.feeding import MOST_WORKERS

        num_files, workers = ("2", 1) if self.tiny else ("1200", max(1, num_cores() - 1))
        words = ["benchmarks/restore.py", "--model", f"{family}_{stage}", "--device", self.device]
        words += ["--amp", self.chains.amp, "--workers", str(min(workers, MOST_WORKERS))]
        words += ["--files", num_files, "--output-format", "flac"]
        if self.tiny:
            words += ["--seconds", "1"]
        return self.benchmark(f"directory_{family}_{stage}", words, [self.chains.encoder(family)])

    def train(
        self,
        family: str,
        stage: str,
        launcher: Sequence[str] = (),
        overrides: Sequence[str] = (),
        how: str = "",
    ) -> Outcome:
        """Measure the training of a paper-size stage, and that its steps wait for nothing.

        Args:
            family: of the stage.
            stage: its name in the family.
            launcher: arguments for Python before the script.
            overrides: of the training.
            how: what the name of its log ends in.
        """
        words = [*launcher, "benchmarks/train.py", "--model", f"{family}_{stage}"]
        words += ["--device", self.device]
        batch = TRAIN_BATCH[family] // (PIECES if stage.endswith("finetune") else 1)
        batch = 2 if self.tiny else batch
        amp = f"trainer.amp={self.chains.amp}"
        workers = 0 if self.tiny else max(1, num_cores() - 2)
        extra = [f"trainer.batch_size={batch}", f"trainer.num_workers={workers}", amp]
        extra += [self.chains.encoder(family), *overrides]
        if self.tiny:
            words += ["--steps", "1", "--warmup", "1"]
            small = SMALL.get(stage.replace("finetune", "pretrain"))
            extra += [*small, "model.segment_seconds=0.2"] if small else []
        passed, said, figures = self.benchmark(f"train_{family}_{stage}{how}", words, extra)
        return passed and not figures["waits_a_step"], said, figures

    def two_processes(self) -> Outcome:
        """Train under torchrun on two GPUs, where there are two."""
        if self.device == "cuda" and torch.cuda.device_count() < 2:
            return True, "not tried: there is one GPU", {}
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        return self.train("miipher2", "feature_cleaner", launcher, how="_twice")

    def compiled(self) -> Outcome:
        """Train with compiled passes; code for a CPU takes too long for a rehearsal."""
        if self.device == "cpu":
            return True, "not tried: on a GPU alone", {}
        return self.train(*WAVEFIT, overrides=["trainer.compile=true"], how="_compiled")

    def diffusion(self) -> Outcome:
        """Measure the diffusions of the papers' sizes; a rehearsal measures a CPU's."""
        words = ["benchmarks/diffusion.py", "--device", self.device, "--repeats", "1"]
        return self.benchmark("diffusion", [*words, *([] if self.tiny else ["--paper"])], [])

    def tokenise(self) -> Outcome:
        """Measure an EnCodec of the published sizes on utterances of 2 to 15 s."""
        words = ["benchmarks/tokenising.py", "--device", self.device, "--no-memory"]
        size = ("4", "20") if self.tiny else ("1024", "1200")
        for option, value in zip(("--utterances", "--batch-seconds"), size, strict=True):
            words += [option, value]
        return self.benchmark("tokenise", words, [])

    def restore(self, family: str, stage: str) -> Outcome:
        """Measure the restoring of files by a paper-size chain, without worker processes."""
        words = ["benchmarks/restore.py", "--model", f"{family}_{stage}"]
        words += ["--device", self.device, "--amp", self.chains.amp]
        size = ("1", "2", "1") if self.tiny else ("8", "60", "16")
        for option, value in zip(("--files", "--seconds", "--batch-size"), size, strict=True):
            words += [option, value]
        return self.benchmark(f"restore_{family}_{stage}", words, [self.chains.encoder(family)])


def main() -> int:
    """Look for a GPU, run the checks, print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("out_dir", type=Path, help="gets gpu.json and the logs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small: to rehearse on a CPU")
    parser.add_argument(
        "--seconds",
        type=float,
        default=540.0,
        help="in which all ends; what is not done by then is not tried (default: %(default)g)",
    )
    parser.add_argument(
        "--longest",
        type=float,
        help=f"seconds that a check may take (default: {LONGEST:g}; four times that with --tiny)",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="checks whose name has one in it"
    )
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("error: no usable GPU is here; `make doctor` says why", file=sys.stderr)
        return 2
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"error: {sys.executable} lacks {', '.join(missing)}: make setup", file=sys.stderr)
        return 2
    from open_miipher.evaluation.tables import format_table

    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, lambda number, _: sys.exit(128 + number))  # and what runs is ended, too
    out = arguments.out_dir.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        longest = arguments.longest or LONGEST * (4 if arguments.tiny else 1)  # CPUs are slow
        sizes = (arguments.device, arguments.tiny, arguments.seconds, longest)
        checks = Checks(out, Path(scratch), *sizes)
        passed = checks.run(arguments.only)
    rows = [
        [r.check, "passed" if r.passed else "FAILED", f"{r.seconds:.0f}", r.summary]
        for r in checks.results
    ]
    print("\n" + format_table(["check", "result", "seconds", "figures"], rows))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
