"""Hear the default model; then the main job, small but whole: three stages, a kill, restoring.

`make demo` runs this. Everything lands in output/demo/, or output/yours/ where your own recordings
are only restored, and every run starts anew.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.commands import Progress, run
from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.commands import Parser

ROOT = Path(__file__).resolve().parents[2]
AUDIO = ROOT / "dataset/demo"
# What a run makes, and what the next one removes; nothing else in the folder is touched.
MADE = (
    *("data", "clean", "noisy", "restored", "spectrograms.png"),
    *("stage1", "stage2", "stage3", "restored_by_stage3", "spectrograms_stage3.png"),
)

MODELS = ("demo_feature_cleaner", "demo_wavefit_pretrain", "demo_wavefit_finetune")
# Training steps of the three stages: on two CPU cores one, three and one and a half minutes.
STEPS = (300, 500, 250)
BATCH_SIZES = (8, 8, 8)


_ABOUT_THE_DEMO = """\
LSD: log-spectral distance to the clean file in dB; less is better. Minutes of training on half a
minute of synthetic speech show that every part works, not what the method can do.

"""


class Demo:
    """Runs the commands one after the other.

    Args:
        output: the folder that everything lands in.
        steps: training steps of each stage.
        audio_dir: the user's own noisy audio; then it is restored, and nothing is trained.
    """

    def __init__(self, output: Path, steps: Sequence[int], audio_dir: Path | None) -> None:
        import torch  # slow to import

        self.output, self.steps, self.audio_dir = output, steps, audio_dir
        gpus = torch.cuda.device_count()
        processes = min(gpus, 2) if gpus else 2
        self.torchrun = ["torchrun", "--standalone", "--nproc_per_node", str(processes)]

    def run(self) -> None:
        """Do everything, in order."""
        started = time.monotonic()
        self.clear()
        self.headline(f"Restore {self.audio_dir or 'noisy test files'} with the default model")
        self.prepare()
        self.restore("restored", "spectrograms.png")
        if self.audio_dir is None:
            self.headline(
                "Stage 1: the feature cleaner learns to clean the features of noisy speech"
            )
            self.train(1)
            self.headline("Stage 2: the vocoder learns to speak clean features; killed half-way")
            self.train(2)
            self.headline("Stage 3: the vocoder goes on with the features that the cleaner makes")
            self.train(3)
            self.headline("Restore the same files with what was trained in these minutes")
            self.restore("restored_by_stage3", "spectrograms_stage3.png", "stage3/ckpt/latest")
        self.headline(f"Done in {(time.monotonic() - started) / 60:.1f} minutes")
        print(self.farewell())

    def headline(self, text: str) -> None:
        """Begin a part."""
        print(f"\n=== {text}", flush=True)

    def shown(self, name: str = "") -> str:
        """Return a path in the output as one types it in the repository."""
        path = self.output / name
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)

    def clear(self) -> None:
        """Remove what an earlier run left."""
        found = [self.output / name for name in MADE if (self.output / name).exists()]
        found += self.output.glob("*.log")
        if found:
            print(f"Starting anew: the earlier results in {self.shown()} are removed.")
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.output.mkdir(parents=True, exist_ok=True)

    def prepare(self) -> None:
        """Copy and index the demo's audio; damage the held-back sentences for the test."""
        if self.audio_dir is not None:
            return
        from demo.results import make_test_files

        for name in ("speech/train", "speech/test", "noise"):
            shutil.copytree(AUDIO / name, self.output / "data" / name)
            script = "dataset/script/make_metadata_csv.py"
            command = ["python", script, "--root-dir", self.shown(f"data/{name}")]
            run(command, ROOT, self.output / "index.log")
        make_test_files(self.output)

    def train(self, number: int) -> None:
        """Train a stage; the second is killed in its middle, and resumed."""
        name, steps = f"stage{number}", self.steps[number - 1]
        save_every = max(1, steps // 3)
        overrides = [
            f"model={MODELS[number - 1]}",
            f"data.train.dir_list=[{self.shown('data/speech/train')}]",
            f"data.train.noise_dir_list=[{self.shown('data/noise')}]",
            f"data.test.dir_list=[{self.shown('data/speech/test')}]",
            f"trainer.batch_size={BATCH_SIZES[number - 1]}",
            f"trainer.max_steps={steps}",
            f"trainer.log_every={max(1, steps // 30)}",
            f"trainer.save_every={save_every}",
            f"trainer.validate_every={steps}",
            f"trainer.output_dir={self.shown(name)}",
        ]
        if number == 3:
            overrides += [
                f"model.cleaner_ckpt_dir={self.shown('stage1/ckpt/latest')}",
                f"model.vocoder_ckpt_dir={self.shown('stage2/ckpt/latest')}",
            ]
        log = self.output / f"{name}.log"
        progress = partial(Progress, self.output / name / "metrics.jsonl", steps)
        kill_at = save_every + max(1, steps // 10) if number == 2 else None
        command = [*self.torchrun, "src/train.py"]
        run([*command, *overrides], ROOT, log, progress(), kill_at)
        if kill_at is not None:
            print("  Killed with SIGKILL, all processes at once, as if the power had failed.")
            resume = f"trainer.ckpt_dir={self.shown(name)}/ckpt/latest"
            run([*command, resume], ROOT, log, progress())

    def restore(self, folder: str, picture: str, ckpt_dir: str | None = None) -> None:
        """Restore the test files, or the user's own, and show before and after."""
        from demo.results import compare

        options = {
            **({"--ckpt-dir": self.shown(ckpt_dir)} if ckpt_dir is not None else {}),
            "--input-audio-dir": str(self.audio_dir or self.shown("noisy")),
            "--output-dir": self.shown(folder),
        }
        arguments = [word for option in options.items() for word in option]
        command = ["python", "src/inference.py", *arguments]
        log = self.output / f"{folder}.log"
        # Status 1 after an unreadable file among the user's; the table then names it.
        run(command, ROOT, log, may_fail=self.audio_dir is not None)
        if not (self.output / folder / "manifest.jsonl").exists():
            raise UserError(f"nothing was restored: see {log}")
        print(compare(self.output, folder, picture, self.audio_dir))

    def farewell(self) -> str:
        """Say what lies where and what to try next."""
        restored = self.audio_dir or self.shown("noisy/")
        places = {
            "restored/": f"what the default model makes of {restored}",
            "spectrograms.png": "before and after",
        }
        if self.audio_dir is None:
            places |= {
                "clean/, noisy/": "the demo's test sentences, before and after they were damaged",
                "stage1/ … stage3/": "checkpoints (ckpt/latest), metrics.jsonl, train.log",
                "restored_by_stage3/": "what minutes of training give, and spectrograms_stage3.png",
            }
        about = "" if self.audio_dir else _ABOUT_THE_DEMO
        listed = "\n".join(f"  {name:20} {what}" for name, what in places.items())
        return f"""\
{about}In {self.shown()}:
{listed}

Next, after `source .venv/bin/activate`:
  python src/inference.py --input-audio-dir DIR --output-dir OUT
  python src/train.py -h
README.md says how to train, docs/data.md which data to take. `make doctor` says what runs here."""


def audio_directory(text: str) -> Path:
    """Check the user's directory before minutes of training.

    Raises:
        UserError: it is missing, or lies where the demo writes.
    """
    path = Path(text).expanduser().resolve()
    if not path.is_dir():
        raise UserError(f"AUDIO_DIR={text} is no directory")
    return path


@exit_on_user_error
def main() -> int:
    """Parse and run."""
    parser = Parser(prog="make demo", description=__doc__)
    parser.add_argument("--audio-dir", help="only restore this directory's audio")
    parser.add_argument("--output-dir", type=Path, help="default: output/demo, or output/yours")
    parser.add_argument(
        "--steps", type=int, nargs=3, default=STEPS, help="of the stages (default: %(default)s)"
    )
    arguments = parser.parse_args()
    audio_dir = audio_directory(arguments.audio_dir) if arguments.audio_dir else None
    default = ROOT / "output" / ("demo" if audio_dir is None else "yours")
    output = (arguments.output_dir or default).resolve()
    if audio_dir is not None and audio_dir.is_relative_to(output):
        raise UserError(f"AUDIO_DIR={audio_dir} lies in {output}, which a run clears: move it")
    Demo(output, arguments.steps, audio_dir).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
