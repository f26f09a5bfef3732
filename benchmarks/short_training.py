"""Train small chains of three stages for a few steps in a source tree, and score what they restore.

With the same seeds in two trees, it shows what a change of the code does to training:

    python benchmarks/short_training.py --tree OTHER --speech-dir S --noise-dir N --test-dir T \
        --noisy-dir TEST/noisy --clean-dir TEST/clean --output-dir O

Both chains learn on the CPU in float32: `demo` (log-mel, conformer, WaveFit with power) and `sidon`
(a small w2v-BERT of random weights, LoRA, DAC's decoder). Writes O/scores_CHAIN.json: the mean
losses of the last 50 steps of each stage, and what src/evaluate.py measures of the restored files.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAST_STEPS = 50
WIDTH, LAYERS = 64, 4
DISCRIMINATORS = [
    "model.discriminators.multi_period.channels=[4,8,16]",
    "model.discriminators.multi_period.periods=[5,11]",
    "model.discriminators.multi_band_stft.channels=4",
    "model.discriminators.multi_band_stft.win_lengths=[512]",
]
OVERRIDES = {
    ("demo", 1): ["model=demo_feature_cleaner", "trainer.batch_size=8"],
    ("demo", 2): ["model=demo_wavefit_pretrain", "trainer.batch_size=4"],
    ("demo", 3): ["model=demo_wavefit_finetune", "trainer.batch_size=4"],
    ("sidon", 1): [
        "model=sidon_feature_predictor",
        "data.crop_seconds=4",
        "optimizer.cleaner.lr=1e-3",
        "optimizer.cleaner.warmup_steps=20",
        "trainer.batch_size=4",
    ],
    ("sidon", 2): [
        "model=sidon_vocoder_pretrain",
        "model.vocoder.sample_rate=24000",
        "model.vocoder.channels=64",
        "model.vocoder.upsampling_rates=[8,5,4,3]",
        *DISCRIMINATORS,
        "optimizer.generator.lr=1e-3",
        "optimizer.discriminator.lr=1e-3",
        "trainer.batch_size=2",
    ],
    ("sidon", 3): [
        "model=sidon_vocoder_finetune",
        "data.crop_seconds=4",
        "trainer.batch_size=1",
        "optimizer.generator.lr=5e-4",
        "optimizer.discriminator.lr=5e-4",
    ],
}
SIDON = ["data.sample_rate=24000", "trainer.ema.enabled=false", "trainer.logger.kind=none"]


def write_encoder(folder: Path) -> None:
    """Write a small w2v-BERT of random weights, with its extractor."""
    import torch
    from torch import nn
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 2 * WIDTH}
    model = Wav2Vec2BertModel(Wav2Vec2BertConfig(num_attention_heads=4, **sizes))
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)


def run(tree: Path, words: list[str], log: Path) -> None:
    """Run a script of a source tree.

    Raises:
        CalledProcessError: it failed; its output is in the log.
    """
    with log.open("w") as file:
        command = [sys.executable, *words]
        subprocess.run(command, cwd=tree, stdout=file, stderr=subprocess.STDOUT, check=True)


def train(chain: str, stage: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Train one stage; return the means of its last losses."""
    output = arguments.output_dir / chain
    keys = {
        "data.train.dir_list": f"[{arguments.speech_dir}]",
        "data.train.noise_dir_list": f"[{arguments.noise_dir}]",
        "data.test.dir_list": f"[{arguments.test_dir}]",
        "trainer.max_steps": arguments.steps,
        "trainer.validate_every": arguments.steps,
        "trainer.save_every": arguments.steps,
        "trainer.sample_every": 0,
        "trainer.log_every": 1,
        "trainer.num_workers": 0,
        "trainer.amp": "no",
        "trainer.device": "cpu",
        "trainer.output_dir": output / f"stage{stage}",
    }
    overrides = OVERRIDES[chain, stage] + [f"{key}={value}" for key, value in keys.items()]
    if chain == "sidon":
        overrides += SIDON
        if stage < 3:
            source = f"model.encoder.source={arguments.output_dir / 'encoder'}"
            overrides += [source, f"model.encoder.layer={LAYERS}"]
    if stage == 3:
        overrides += [
            f"model.cleaner_ckpt_dir={output / 'stage1'}",
            f"model.vocoder_ckpt_dir={output / 'stage2'}",
        ]
    run(arguments.tree, ["src/train.py", *overrides], output / f"stage{stage}.log")
    lines = (output / f"stage{stage}" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines)]
    last = [r for r in rows if r["split"] == "train" and r["step"] > arguments.steps - LAST_STEPS]
    names = last[0].keys() - {"step", "split", "seconds", "lr"}
    losses = {name: sum(row[name] for row in last) / len(last) for name in sorted(names)}
    checks = {f"validation_{k}": v for k, v in rows[-1].items() if rows[-1]["split"] != "train"}
    return losses | {k: v for k, v in checks.items() if isinstance(v, float)}


def main() -> None:
    """Train, restore and score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("speech", "noise", "test", "noisy", "clean", "output"):
        parser.add_argument(f"--{name}-dir", type=Path, required=True)
    parser.add_argument("--tree", type=Path, default=ROOT, help="whose code trains and restores")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--chain", choices=["demo", "sidon"], nargs="+", default=["demo", "sidon"])
    arguments = parser.parse_args()
    for name, path in vars(arguments).items():
        if isinstance(path, Path):
            setattr(arguments, name, path.resolve())
    write_encoder(arguments.output_dir / "encoder")
    scores = {}
    for chain in arguments.chain:
        output = arguments.output_dir / chain
        output.mkdir(parents=True, exist_ok=True)
        losses = {f"stage{n}": train(chain, n, arguments) for n in (1, 2, 3)}
        restored = output / "restored"
        options = ["--ckpt-dir", output / "stage3", "--input-audio-dir", arguments.noisy_dir]
        words = [*options, "--output-dir", restored, "--device", "cpu", "--overwrite"]
        run(arguments.tree, ["src/inference.py", *map(str, words)], output / "restore.log")
        words = ["--restored-dir", restored, "--reference-dir", arguments.clean_dir]
        words += ["--output-dir", output / "scores"]
        run(ROOT, ["src/evaluate.py", *map(str, words)], output / "evaluate.log")
        summary = json.loads((output / "scores" / "summary.json").read_text())
        scores[chain] = {**losses, "restored": summary}
        path = arguments.output_dir / f"scores_{'_'.join(arguments.chain)}.json"
        path.write_text(json.dumps(scores, indent=2) + "\n")
        print(json.dumps({chain: scores[chain]}, indent=2), flush=True)


if __name__ == "__main__":
    main()
