"""Write the log-mels of speech to files, as a conditional model hears them in training.

    python dataset/script/make_mels.py experiment=ljspeech +output_dir=mel256

Takes the overrides of src/train.py. Of data.train.dir_list and data.test.dir_list, every file
a/b.wav gets OUTPUT_DIR/a/b.npy, float32, (bands, frames), by the front end in model.mel. Training
takes them by data.train.mel_dir=OUTPUT_DIR, and src/generate.py vocodes them by --mel-dir. What is
there already is kept, so that the same command goes on after an interruption. Exit status: 0 done,
2 wrong use.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.base.paths import printable
from open_miipher.commands import Parser

if TYPE_CHECKING:
    from open_miipher.data.files import Files

_DEFAULT_MODEL = "model=diffwave_vocoder_64"


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="key=value",
        help=f"+output_dir=DIR, and as for src/train.py; {_DEFAULT_MODEL} if no model is given",
    )
    return parser.parse_args()


@exit_on_user_error
def main() -> int:
    """Find the files and make a mel of each."""
    overrides = _arguments().overrides
    given = [o.partition("=")[2] for o in overrides if o.lstrip("+").startswith("output_dir=")]
    if len(given) != 1 or not given[0]:
        raise UserError("give one folder for the mels: +output_dir=DIR")
    others = [o for o in overrides if not o.lstrip("+").startswith("output_dir=")]
    if not any(o.startswith("model=") for o in others):
        others = [_DEFAULT_MODEL, *others]
    from open_miipher.config import compose_plain  # all this is slow to import
    from open_miipher.data.files import Files

    plain = compose_plain(others)
    data, front_end = plain["data"], plain["model"].get("mel")
    if front_end is None:
        raise UserError(f"model={plain['name']} has no model.mel: give one that hears mels")
    if front_end["sample_rate"] != data["sample_rate"]:
        raise UserError(
            f"model.mel.sample_rate={front_end['sample_rate']} is not "
            f"data.sample_rate={data['sample_rate']}: make them equal"
        )
    dir_list = list(dict.fromkeys([*data["train"]["dir_list"], *data["test"]["dir_list"]]))
    if not dir_list:
        raise UserError("data.train.dir_list is empty; give it directories of audio")
    files = Files(dir_list)
    _check(files)
    _write_all(files, Path(given[0]), front_end)
    return 0


def _check(files: "Files") -> None:
    """Check that every file can have a mel of its own.

    Raises:
        UserError: two would have the same name, or a file has several channels.
    """
    seen: dict[Path, Path] = {}
    for number in range(len(files)):
        file = files[number]
        name = Path(file.entry.file_path).with_suffix("")
        if file.info.num_channels > 1:
            raise UserError(f"{printable(file.path)} has several channels: a mel is of one")
        if name in seen:
            raise UserError(
                f"{printable(seen[name])} and {printable(file.path)} would have one mel, "
                f"{name}.npy: rename one, or make the mels of each directory apart"
            )
        seen[name] = file.path


def _write_all(files: "Files", output_dir: Path, front_end: dict[str, Any]) -> None:
    """Write the mels that are missing.

    Raises:
        UserError: a file cannot be read or written, or the folder holds mels of another front end.
    """
    import json
    from dataclasses import asdict

    import numpy as np
    import torch
    from tqdm import tqdm

    from open_miipher.audio.mel import FRONT_END_NAME, LogMel, MelConfig, check_front_end
    from open_miipher.base.atomic import replacing, write_lines
    from open_miipher.base.registry import from_mapping

    config = from_mapping(MelConfig, front_end, "model.mel")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    log_mel, made = LogMel(config).to(device), 0
    check_front_end(output_dir, config)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_lines(output_dir / FRONT_END_NAME, [json.dumps(asdict(config), indent=1)])
        for number in tqdm(range(len(files)), unit="file", disable=not sys.stderr.isatty()):
            file = files[number]
            path = (output_dir / file.entry.file_path).with_suffix(".npy")
            if path.exists():
                continue
            num_samples = file.num_samples(config.sample_rate)
            waveform = torch.from_numpy(file.read(0, 0, num_samples, config.sample_rate))
            with torch.inference_mode():
                mel = log_mel(waveform[None].to(device))[0].T
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, open(temporary, "wb") as opened:
                np.save(opened, mel.cpu().numpy(), allow_pickle=False)
            made += 1
    except OSError as error:
        raise UserError(f"{printable(output_dir)}: {error.strerror}") from error
    kept = f", {len(files) - made} were there" if made < len(files) else ""
    print(f"{printable(output_dir)}: {made} mels of {config.n_mels} bands{kept}")


if __name__ == "__main__":
    sys.exit(main())
