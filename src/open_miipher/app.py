"""The page to try a model on: drop or record speech, restore it here, hear, see and download it.

Nothing leaves the machine: no fonts, scripts or counts from elsewhere. What visitors send is read
in blocks, after its header was checked against the limits, and lies in a temporary folder that goes
with the server; what is older than an hour goes before.
"""

import errno
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_miipher.audio.io import AudioInfo, AudioReader, AudioWriter, probe, read
from open_miipher.base.amounts import duration, size
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.evaluation.spectrograms import Panel, draw_spectrograms
from open_miipher.restoration import FileSink, RestoreOptions, Restorer, Source

if TYPE_CHECKING:
    import gradio

_KEPT_SECONDS = 3600
_MOST_WAITING = 30  # visitors; the next one is told that the queue is full
_PICTURED_SECONDS = 60.0  # a spectrogram of more takes hundreds of MB, and shows less
_MOST_SAMPLES_A_SECOND = 2 * 192_000  # of all channels: a picture of 1 GB may call itself audio
_BLOCK_FRAMES = 1 << 16
_GREY = "#888888"

_TITLE = "Open-Miipher-2"
_INTRODUCTION = """\
# Open-Miipher-2: restore speech

Drop recordings or record yourself, and hear what the model makes of them. All of it is computed on
the machine that shows this page, and nothing is kept. It takes {limits}.
"""
_STYLE = """\
.gradio-container { max-width: 1100px !important; margin: 0 auto; }
footer, #downloads .label-clear-button { display: none !important; }
"""


@dataclass(frozen=True)
class Limits:
    """What a visitor may send at once.

    Attributes:
        minutes: of each file.
        megabytes: of each file.
        files: how many.

    Raises:
        UserError: on construction, if one of them is not above 0.
    """

    minutes: float = 10.0
    megabytes: float = 100.0
    files: int = 10

    def __post_init__(self) -> None:
        if not (self.minutes > 0 and 0 < self.megabytes < float("inf") and self.files >= 1):
            raise UserError(
                f"limits of {self.minutes:g} minutes, {self.megabytes:g} MB, {self.files} files: "
                "choose numbers above 0"
            )

    def __str__(self) -> str:
        return (
            f"at most {self.files} files at once, each up to {self.minutes:g} minutes and "
            f"{self.megabytes:g} MB"
        )


@dataclass(frozen=True)
class Restored:
    """What became of one recording: files of a folder of its own, and a sentence about them."""

    name: str
    before: Path
    after: Path
    picture: Path
    sentence: str


def restore_file(path: Path, restorer: Restorer, limits: Limits, folder: Path) -> Restored:
    """Restore a visitor's file.

    Args:
        path: of the file, which may be anything.
        restorer: the model with its options.
        limits: of what is taken.
        folder: for the results; made here.

    Raises:
        UserError: the file is none that is taken, in one sentence with the name that it had; or
            the results cannot be written.
    """
    before, after = folder / "before.wav", folder / f"{path.stem}_restored.wav"
    picture = folder / "spectrograms.png"
    try:
        folder.mkdir(parents=True)
        info = _checked(path, limits)
        _copy(path, before)
        rate = restorer.options.output_rate(info.sample_rate, restorer.model)
        job = restorer.job(Source.from_file(path, info), FileSink(after, rate, "wav", "PCM_16"))
        for _ in restorer.restore_jobs([job], alone=True):
            if job.error is not None:
                raise job.error
        _draw([("before", before), ("after", after)], picture)
    except (UserError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(_told(error, path, folder)) from error
    seconds = info.num_frames / info.sample_rate
    sentence = f"**{printable(path.name)}**: {duration(seconds)} at {info.sample_rate} Hz restored"
    if job.trust is not None:
        reason = f" ({job.trust.reason})" if job.trust.reason else ""
        sentence += f"; trust {job.trust.score:.2f} of 1{reason}"
    return Restored(printable(path.name), before, after, picture, sentence)


def _told(error: UserError | OSError, path: Path, folder: Path) -> str:
    """Say what is wrong with a visitor's file, by the name that it had; no path of here."""
    name = printable(path.name)
    if isinstance(error, OSError):
        return f"{name}: what it becomes cannot be written here: {error.strerror}"
    text = str(error).replace(printable(path), name)
    return text.replace(f"{printable(folder)}/", f"{name}: ")


def _checked(path: Path, limits: Limits) -> AudioInfo:
    """Look at a file before anything of it is decoded but its end.

    Raises:
        UserError: it is no audio, or goes beyond the limits.
    """
    num_bytes = path.stat().st_size
    if num_bytes > 1e6 * limits.megabytes:
        raise UserError(f"{printable(path)} has {size(num_bytes)}; this page takes {limits}")
    with AudioReader(path) as reader:
        info = reader.info
    seconds = info.num_frames / info.sample_rate
    if seconds > 60 * limits.minutes:
        raise UserError(
            f"{printable(path)} is {duration(seconds)} long; this page takes {limits}: cut it, or "
            "use the command open-miipher restore, which takes any length"
        )
    if info.sample_rate * info.num_channels > _MOST_SAMPLES_A_SECOND:
        raise UserError(
            f"{printable(path)} has {info.num_channels} channels at {info.sample_rate} Hz, more "
            "than this page takes; the command open-miipher restore takes it"
        )
    return probe(path)


def _copy(path: Path, copy: Path) -> None:
    """Decode a file into one that every browser plays; read no more than its header says."""
    with AudioReader(path) as reader:
        info = reader.info
        with AudioWriter(copy, info.sample_rate, info.num_channels) as writer:
            for block in reader.blocks(_BLOCK_FRAMES):
                writer.write(block)


def _draw(sounds: Sequence[tuple[str, Path]], picture: Path) -> None:
    """Draw the beginnings of sounds below each other, on one scale."""
    from matplotlib.text import Text  # slow to import

    rows = []
    for title, path in sounds:
        with AudioReader(path) as reader:
            info = reader.info
        pictured = min(info.num_frames, round(_PICTURED_SECONDS * info.sample_rate))
        if pictured < info.num_frames:
            title = f"{title} (the first {_PICTURED_SECONDS:g} s)"
        waveform, rate = read(path, num_frames=pictured)
        rows.append([Panel(title, waveform.mean(axis=0), rate)])
    figure = draw_spectrograms(rows)
    figure.set_size_inches(6.5, 4.5)  # letters that can be read on a phone
    for text in figure.findobj(Text):  # to be read on a light page and on a dark one
        text.set_color(_GREY)
    for axes in figure.axes:
        axes.tick_params(color=_GREY)
    figure.savefig(picture, dpi=160, transparent=True)


def restore_files(
    paths: Sequence[Path],
    restorer: Restorer,
    limits: Limits,
    folder: Path,
    told: Callable[[int, int], None],
) -> tuple[list[Restored], list[str]]:
    """Restore a visitor's files; one that is not taken does not end the others.

    Args:
        paths: of the files.
        restorer: the model with its options.
        limits: of what is taken; files beyond their number are left.
        folder: for the results.
        told: is called with the number of files that are done, and of all.

    Returns:
        What was restored, and one sentence for each file that was not.
    """
    results, problems = [], []
    for number, path in enumerate(paths[: limits.files]):
        told(number, min(len(paths), limits.files))
        try:
            results.append(restore_file(path, restorer, limits, folder / f"{number}"))
        except UserError as error:
            problems.append(str(error))
    if len(paths) > limits.files:
        left = len(paths) - limits.files
        problems.append(f"the last {left} of {len(paths)} files are left: this page takes {limits}")
    return results, problems


def page(restorers: Mapping[str, Restorer], limits: Limits, folder: Path) -> "gradio.Blocks":
    """Build the page.

    Args:
        restorers: by the names that visitors choose from, the first one chosen.
        limits: of what is taken.
        folder: for what is restored.
    """
    import gradio as gr

    with gr.Blocks(
        title=_TITLE, analytics_enabled=False, delete_cache=(_KEPT_SECONDS // 6, _KEPT_SECONDS)
    ) as blocks:
        results = gr.State([], time_to_live=_KEPT_SECONDS, delete_callback=_remove)
        gr.Markdown(_INTRODUCTION.format(limits=limits))
        with gr.Row():
            with gr.Column(min_width=280):
                files = gr.File(label="Recordings", file_count="multiple", elem_id="files")
                recording = gr.Audio(
                    label="Or record one", sources=["microphone"], type="filepath", elem_id="record"
                )
            with gr.Column(min_width=280):
                names = list(restorers)
                model = gr.Dropdown(
                    names, value=names[0], label="Model", interactive=True, visible=len(names) > 1
                )
                strength = gr.Slider(
                    0,
                    1,
                    value=1,
                    step=0.05,
                    label="Strength",
                    info="Share of the restored sound; the rest is the recording as it was",
                )
                button = gr.Button("Restore", variant="primary", elem_id="restore")
                problems = gr.Markdown(visible=False, elem_id="problems")
        choice = gr.Radio([], label="Show", visible=False, elem_id="choice")
        looks = _looks()
        downloads = gr.File(label="Download", visible=False, interactive=False, elem_id="downloads")
        button.click(
            _restoring(restorers, limits, folder),
            [files, recording, model, strength, results],
            [results, problems, choice, *looks, downloads],
            api_name="restore",
            concurrency_limit=1,  # the model takes all cores, and a batch its memory
        )
        choice.input(_shown, [results, choice], looks, api_visibility="private")
    blocks.queue(max_size=_MOST_WAITING)
    return blocks


def _looks() -> list[Any]:
    """Lay out what `_shown` fills: a sentence, two sounds and a picture."""
    import gradio as gr

    sentence = gr.Markdown(visible=False, elem_id="sentence")
    with gr.Row():
        before, after = (
            gr.Audio(
                label=label,
                visible=False,
                interactive=False,
                buttons=["download"],
                elem_id=label.lower(),
            )
            for label in ("Before", "After")
        )
    picture = gr.Image(
        visible=False,
        interactive=False,
        show_label=False,
        buttons=["fullscreen", "download"],
        elem_id="picture",
    )
    return [sentence, before, after, picture]


def _shown(results: list[Restored], number: int | None) -> list[Any]:
    """Return what the page shows of one of the results: sentence, sounds and picture."""
    import gradio as gr

    if not results or number is None:
        return [gr.update(value=None, visible=False)] * 4
    result = results[number]
    values = [result.sentence, str(result.before), str(result.after), str(result.picture)]
    return [gr.update(value=value, visible=True) for value in values]


def _restoring(
    restorers: Mapping[str, Restorer], limits: Limits, folder: Path
) -> Callable[..., list[Any]]:
    """Return what the button does; see `page`."""
    import gradio as gr

    def restore(
        files: list[str] | None,
        recording: str | None,
        model: str,
        strength: float,
        earlier: list[Restored],
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio hands one over
    ) -> list[Any]:
        _remove(earlier)
        paths = [Path(path) for path in [*(files or []), *([recording] if recording else [])]]
        chosen = restorers[model]
        options = RestoreOptions(strength=strength, trust=True)
        restorer = Restorer(chosen.model, options, chosen.batch_size)
        own_folder = Path(tempfile.mkdtemp(dir=folder))
        results, problems = restore_files(
            paths,
            restorer,
            limits,
            own_folder,
            lambda done, of: progress((done, of), unit="files"),
        )
        if not results:
            own_folder.rmdir()
        if not paths:
            problems = ["There is nothing yet: drop a recording or record one first."]
        names = [(result.name, number) for number, result in enumerate(results)]
        return [
            results,
            gr.update(value="\n\n".join(problems), visible=bool(problems)),
            gr.update(choices=names, value=0 if names else None, visible=len(names) > 1),
            *_shown(results, 0),
            gr.update(value=[str(r.after) for r in results] or None, visible=bool(results)),
        ]

    return restore


def _remove(results: list[Restored]) -> None:
    """Remove the folder of what was restored together."""
    for result in results[:1]:
        shutil.rmtree(result.before.parents[1], ignore_errors=True)


def check_free(host: str, port: int) -> None:
    """Check that a server can listen there.

    Raises:
        UserError: something else does, or this machine has no such address.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} of {host} is in use: choose another one with --port, or end what "
                "listens there"
            ) from error
        raise UserError(
            f"nothing can listen at {host}, port {port} ({error.strerror}): choose another --host "
            "or --port"
        ) from error


def serve(restorers: Mapping[str, Restorer], limits: Limits, host: str, port: int) -> None:
    """Show the page until SIGINT or SIGTERM.

    Args:
        restorers: see `page`.
        limits: see `page`.
        host: name or address to listen at.
        port: to listen at.

    Raises:
        UserError: gradio is missing.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory(prefix="open-miipher-app-") as temporary:
        os.environ["GRADIO_TEMP_DIR"] = temporary  # read by gradio as it is imported
        try:
            import gradio as gr
        except ImportError as error:
            raise UserError("the page needs gradio: pip install '.[app]'") from error
        blocks = page(restorers, limits, Path(temporary))
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            max_file_size=round(1e6 * limits.megabytes),
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
                block_info_text_color="*neutral_500"
            ),
            css=_STYLE,
            footer_links=[],
        )
        print(f"open http://{host}:{port} in a browser; Ctrl-C ends it", flush=True)
        ended.wait()
        blocks.close(verbose=False)
