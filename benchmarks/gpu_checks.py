"""Run all checks that need a GPU, with random weights and generated audio (benchmarks/gpu.sh)."""

import argparse
import importlib.util
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from check_runner import LONGEST, ROOT, CheckRunner, Outcome

from open_miipher.base.threads import num_cores

NEEDED = (
    "transformers",
    "hydra",
    "soundfile",
    "soxr",
    "safetensors",
    "pytest",
    "scipy",
    "braceexpand",
)
# bfloat16 has 8 bits: each of some hundred successive operations has a rounding error of 2^-9.
LARGEST_ERROR = {"features": 0.05, "waveform": 0.2}
# Of what is to compute in float32, against float64. TF32 has errors of 3e-4, bfloat16 of 2e-3.
LARGEST_FLOAT32_ERROR = 2e-5
FAMILIES = {
    "miipher2": ("feature_cleaner", "wavefit_pretrain", "wavefit_finetune"),
    "sidon": ("feature_predictor", "vocoder_pretrain", "vocoder_finetune"),
}
WAVEFIT, WAVENEXT2 = ("miipher2", "wavefit_pretrain"), ("miipher2", "wavenext2_pretrain")
ALONE = (("sidon", "vocoder_pretrain"), WAVEFIT, WAVENEXT2)
TRAIN_BATCH = {"miipher2": 32, "sidon": 16}
MOST_SHOWN = 16
"""Chunks of 20 s that keep a GPU busy: more of them would take the profile's time for nothing."""

PIECES = 4
"""Of a crop in stage 3, of which there are so many times fewer."""

ENCODERS = "encoders of random weights"
"""The check that makes what most others use."""

_GENERATOR = "model.vocoder.generator"
SMALL = {
    "wavefit_pretrain": [
        f"{_GENERATOR}.down_channels=[16,16,16,16]",
        f"{_GENERATOR}.up_channels=[16,16,16,16,16]",
    ],
    "vocoder_pretrain": ["model.vocoder.channels=64"],
    "wavenext2_pretrain": [f"{_GENERATOR}.width=32", f"{_GENERATOR}.feed_forward_width=64"],
}
"""Sizes of the vocoders of a rehearsal: few CPUs compute fast in bfloat16."""


class Checks(CheckRunner):
    """The checks, one after the other: first what `benchmarks/README.md` has rows for.

    Args:
        out, device, seconds, longest: see `CheckRunner`.
        scratch: folder for the encoders, some gigabytes that are not needed afterwards.
        tiny: use small models, short audio and few steps, to rehearse on a CPU.
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
        self.amp = "bf16" if device == "cuda" else "no"
        self.folders = {family: scratch / family for family in FAMILIES}

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
        yield ENCODERS, self.make_encoders
        for family, stage in ALONE:
            yield f"the model of {family}_{stage} alone", self.apart(self.model, family, stage)
        yield "directory with Sidon", partial(self.directory, "sidon", "vocoder_finetune")
        yield "tests marked gpu", self.tests
        yield "resampling and front ends in float32", self.apart(self.front_ends)
        for family in FAMILIES:
            yield f"bf16 against float32, {family}", self.apart(self.compare_bf16, family)
        last = partial(self.directory, "miipher2", "wavenext2_finetune")
        yield "directory with USM and WaveNeXt 2", last
        yield "tokenise with EnCodec", self.tokenise
        for place in range(3):
            for family, stages in FAMILIES.items():
                yield f"train {family}_{stages[place]}", partial(self.train, family, stages[place])
        yield f"train {'_'.join(WAVENEXT2)}", partial(self.train, *WAVENEXT2)
        for family, stages in FAMILIES.items():
            yield f"what stays in float32, {family}", self.apart(self.float32_parts, family)
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

    def make_encoders(self) -> Outcome:
        """Write encoders of the papers' sizes (or small ones) as `save_pretrained` does."""
        from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel
        from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig
        from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel

        small = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
        torch.manual_seed(0)
        tower = Gemma4AudioModel(Gemma4AudioConfig(**(small if self.tiny else {})))
        tower.save_pretrained(self.folders["miipher2"])
        small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        sizes = {"num_hidden_layers": 8, **(small if self.tiny else {})}  # so many are used
        bert = Wav2Vec2BertModel(Wav2Vec2BertConfig(**sizes))
        bert.save_pretrained(self.folders["sidon"])
        SeamlessM4TFeatureExtractor().save_pretrained(self.folders["sidon"])
        counts = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (tower, bert)]
        return True, " and ".join(f"{count:.1f} M parameters" for count in counts), {}

    @torch.inference_mode()
    def front_ends(self) -> Outcome:
        """Compare resampling and log-mel features with those of the CPU."""
        from open_miipher.audio.mel import LogMel, MelConfig
        from open_miipher.recipes.parts import at_rate

        waveform = speech_like(2.0, 24000)
        lengths = torch.full((2,), waveform.shape[1])
        mel = LogMel(MelConfig())
        here = {"at_rate": at_rate(waveform, lengths, 24000, 16000)[0], "log_mel": mel(waveform)}
        waveform, lengths = waveform.to(self.device), lengths.to(self.device)
        there = {"at_rate": at_rate(waveform, lengths, 24000, 16000)[0]}
        there["log_mel"] = mel.to(self.device)(waveform)
        return self.judge({k: relative_error(v, there[k].cpu()) for k, v in here.items()})

    def float32_parts(self, family: str) -> Outcome:
        """Compare every layer that is to compute in float32, under autocast, with float64."""
        from open_miipher.base.precision import stays_in_float32
        from open_miipher.base.registry import build
        from open_miipher.config import compose_plain
        from open_miipher.discriminators import DISCRIMINATORS

        cleaner, vocoder = self.parts(family)
        plain = compose_plain([f"model={family}_{FAMILIES[family][1]}", self.encoder(family)])
        networks = nn.ModuleDict({"cleaner": cleaner, "vocoder": vocoder})
        for name, spec in plain["model"]["discriminators"].items():
            networks[name] = build(DISCRIMINATORS, spec)
        networks.to(self.device).eval()
        errors: dict[str, float] = {}

        def compare(name: str, layer: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
            with torch.autocast(given[0].device.type, enabled=False):
                exact = layer._conv_forward(  # type: ignore[operator]
                    given[0].double(), layer.weight.double(), layer.bias.double()
                )
            errors[name] = relative_error(exact, output)

        for name, module in networks.named_modules():
            for path, layer in module.named_modules() if stays_in_float32(module) else ():
                if isinstance(layer, nn.Conv1d | nn.Conv2d):
                    full = f"{name}.{path}".rstrip(".")
                    layer.register_forward_hook(partial(compare, full))
        seconds = 0.12 if self.tiny else 1.0
        waveform = speech_like(seconds, cleaner.encoder.sample_rate).to(self.device)
        lengths = torch.full((2,), waveform.shape[1], device=self.device)
        with torch.no_grad(), torch.autocast(torch.device(self.device).type, torch.bfloat16):
            features, _ = cleaner(waveform, lengths)
            noise = torch.randn(2, features.shape[1] * vocoder.hop_length, device=self.device)
            spoken = vocoder.generate(features, noise)
            for name in plain["model"]["discriminators"]:
                networks[name](spoken)
        if not errors:
            return False, "no layer is marked", {}
        return self.judge(errors)

    def judge(self, errors: dict[str, float]) -> Outcome:
        """Hold errors of what computes in float32 against their bound."""
        bad = {name: error for name, error in errors.items() if not error < LARGEST_FLOAT32_ERROR}
        shown = bad or dict([max(errors.items(), key=itemgetter(1))])
        said = ", ".join(f"{name} {error:.1e}" for name, error in shown.items())
        said = f"{len(errors)} parts, {'too large' if bad else 'largest error'}: {said}"
        return not bad, f"{said} (at most {LARGEST_FLOAT32_ERROR})", errors

    @torch.inference_mode()
    def compare_bf16(self, family: str) -> Outcome:
        """Compare features and waveform of bfloat16 weights, without autocast, with float32."""
        from open_miipher.base.precision import store_in_bf16, without_parametrisations

        cleaner, vocoder = (part.to(self.device).eval() for part in self.parts(family))
        waveform = speech_like(0.24 if self.tiny else 10.0, cleaner.encoder.sample_rate)
        lengths = torch.tensor([waveform.shape[1], waveform.shape[1] // 2], device=self.device)
        waveform = waveform.to(self.device)
        features, _ = cleaner(waveform, lengths)
        samples = features.shape[1] * vocoder.hop_length
        noise = torch.randn(len(features), samples, device=self.device)
        exact = {"features": features, "waveform": vocoder.generate(features, noise)}
        for part in (cleaner, vocoder):
            without_parametrisations(part)
            store_in_bf16(part)
        rounded = {"features": cleaner(waveform, lengths)[0]}
        rounded["waveform"] = vocoder.generate(features, noise)
        errors = {name: relative_error(exact[name], rounded[name]) for name in exact}
        said = ", ".join(f"{k} {e:.4f} (at most {LARGEST_ERROR[k]})" for k, e in errors.items())
        return all(errors[k] <= LARGEST_ERROR[k] for k in errors), f"error {said}", errors

    def encoder(self, family: str) -> str:
        """Return the override that names a family's encoder."""
        return f"model.encoder.source={self.folders[family]}"

    def parts(self, family: str, vocoder: str = "") -> tuple[nn.Module, nn.Module]:
        """Build a family's cleaner, with adapters that do something, and its vocoder.

        Args:
            family: its name.
            vocoder: the stage that it is trained in; by default, the family's second.
        """
        from open_miipher.base.registry import build
        from open_miipher.cleaners import CLEANERS
        from open_miipher.config import compose_plain
        from open_miipher.encoders import ENCODERS
        from open_miipher.vocoders import VOCODERS

        stage = vocoder or FAMILIES[family][1]
        small = SMALL[stage] if self.tiny else []
        common = (f"model={family}_{FAMILIES[family][0]}", self.encoder(family))
        first = compose_plain([*common])["model"]
        second = compose_plain([f"model={family}_{stage}", common[1], *small])["model"]
        torch.manual_seed(0)
        encoder = build(ENCODERS, first["encoder"])
        cleaner = build(CLEANERS, first["cleaner"], encoder)
        for parameter in cleaner.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1 * parameter[0].numel() ** -0.5)
        rate = encoder.sample_rate / encoder.hop_length
        vocoder = build(VOCODERS, second["vocoder"], encoder.width, rate)
        for module in vocoder.modules():  # untrained, it changes nearly nothing
            if family == "miipher2" and isinstance(module, nn.Conv1d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        return cleaner, vocoder

    def model(self, family: str, stage: str) -> Iterator[Outcome]:
        """Measure a chain on batches of chunks, with the copies to the GPU and back.

        By batch size for chunks of 20 s, with CUDA graphs and without, until more are slower; and
        by length of the chunks, as long together; `net` is without what chunks share with others.
        OUT_DIR/profile_FAMILY_STAGE.txt says where the time goes.
        """
        from open_miipher.restoration import Chain, RestoreOptions
        from open_miipher.restoration.graphs import Graphs

        cleaner, vocoder = self.parts(family, stage)
        cleaner.merge()
        chain = Chain(cleaner, vocoder, self.device, self.amp)
        usual, sizes = (0.12, (1, 2)) if self.tiny else (20.0, (1, 4, 16, 64, 128))
        speeds: dict[int, float] = {}
        figures: dict[str, Any] = {"by_batch_size": speeds, "launched": {}, "memory_bytes": {}}
        figures["captured"] = []  # the sizes
        figures |= {"by_chunk_seconds": {}, "net_by_chunk_seconds": {}}
        cuda = self.device == "cuda"

        def found(size: int, seconds: float, repeats: int, captured: bool = True) -> float:
            # Each with graphs of its own: those of other shapes would keep their memory.
            chain._graphs = Graphs(chain._compute, chain.device) if cuda and captured else None
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            return speed(chain, size, seconds, repeats)

        def said() -> Outcome:
            shown = ", ".join(f"{value:.4g} by {size}" for size, value in speeds.items())
            shown = f"times real time: {shown} chunks of {usual:g} s"
            if cuda and not figures["captured"]:
                return False, f"{shown}; no graph was captured", figures
            return True, shown, figures

        for size in sizes:
            try:
                latest = found(size, usual, repeats=3)
                best = max(speeds.values(), default=0.0)
                speeds[size] = latest
                figures["times_real_time"] = max(speeds.values())
                figures["captured"] += [size] if chain._graphs and chain._graphs._replays else []
                yield said()
                figures["launched"][size] = found(size, usual, 2, captured=False)
            except torch.OutOfMemoryError:
                break
            if cuda:
                figures["memory_bytes"][size] = torch.cuda.max_memory_allocated()
            if latest < best:
                break
        size = min(MOST_SHOWN, max(speeds, key=lambda size: speeds[size]))
        chain._graphs = None
        with torch.profiler.profile() as profile:
            speed(chain, size, usual, repeats=1)
        order = "self_device_time_total" if cuda else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=order, row_limit=40)
        (self.out / f"profile_{family}_{stage}.txt").write_text(table)
        yield said()
        shared = RestoreOptions().overlap_seconds
        for factor in (0.25, 0.5, 1.5):  # as much audio at once
            seconds = factor * usual
            gross = found(max(1, round(size / factor)), seconds, repeats=2)
            figures["by_chunk_seconds"][seconds] = gross
            figures["net_by_chunk_seconds"][seconds] = gross * (1 - min(shared / seconds, 0.5))
            yield said()

    def directory(self, family: str, stage: str) -> Outcome:
        """Measure a run over a directory of FLAC files into another, with worker processes."""
        from open_miipher.corpus.feeding import MOST_WORKERS

        num_files, workers = ("2", 1) if self.tiny else ("1200", max(1, num_cores() - 1))
        words = ["benchmarks/restore.py", "--model", f"{family}_{stage}", "--device", self.device]
        words += ["--amp", self.amp, "--workers", str(min(workers, MOST_WORKERS))]
        words += ["--files", num_files, "--output-format", "flac"]
        if self.tiny:
            words += ["--seconds", "1"]
        return self.benchmark(f"directory_{family}_{stage}", words, [self.encoder(family)])

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
        amp = f"trainer.amp={self.amp}"
        workers = 0 if self.tiny else max(1, num_cores() - 2)
        extra = [f"trainer.batch_size={batch}", f"trainer.num_workers={workers}", amp]
        extra += [self.encoder(family), *overrides]
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
        words += ["--device", self.device, "--amp", self.amp]
        size = ("1", "2", "1") if self.tiny else ("8", "60", "16")
        for option, value in zip(("--files", "--seconds", "--batch-size"), size, strict=True):
            words += [option, value]
        return self.benchmark(f"restore_{family}_{stage}", words, [self.encoder(family)])


def speech_like(seconds: float, sample_rate: int) -> Tensor:
    """Make two different sounds of gliding harmonics in noise: (2, samples)."""
    t = torch.arange(round(seconds * sample_rate)) / sample_rate
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(2, len(t))
    for row, pitch in enumerate((110.0, 190.0)):
        phase = 2 * torch.pi * torch.cumsum(pitch * (1 + 0.1 * torch.sin(4 * t)), 0) / sample_rate
        voice = torch.stack([torch.sin(k * phase) / k for k in range(1, 20)]).sum(0)
        noise[row] += 0.1 * voice * torch.sin(9 * t + row).clamp_min(0)
    return noise


def speed(chain: Any, batch_size: int, seconds: float, repeats: int = 3) -> float:
    """Return how many times as fast as real time a chain restores batches, the median."""
    from open_miipher.restoration.graphs import WARM_UP

    frames = round(seconds * chain.input_rate / chain.input_hop)
    waveform = speech_like(frames * chain.input_hop / chain.input_rate, chain.input_rate)[:1]
    waveform = waveform.repeat(batch_size, 1)
    if chain.device.type == "cuda":
        waveform = waveform.pin_memory()  # as restoring does
    lengths = torch.full((batch_size,), waveform.shape[1])
    keys = torch.arange(batch_size)
    taken = []
    for _ in range(WARM_UP + 1 + repeats):
        began = time.perf_counter()
        chain.restore(waveform, lengths, keys, keys)
        taken.append(time.perf_counter() - began)
    return batch_size * seconds / statistics.median(taken[-repeats:])


def relative_error(exact: Tensor, rounded: Tensor) -> float:
    """Return ‖a - b‖ / ‖a‖."""
    return float((exact.float() - rounded.float()).norm() / exact.float().norm())


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
