"""The page as a program: driven in a browser, and by many visitors who mean no good."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speech import voice, write_wav

from open_miipher.restoration import Restorer

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
RATE = 24000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a page, and the process that shows it, whose files lie in its folder."""
    pytest.importorskip("gradio", reason="no gradio: no page tried")
    folder, port = tmp_path_factory.mktemp("page"), free_port()
    words = ["--port", str(port), "--max-minutes", "3", "--max-megabytes", "20"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "src/app.py"), *words, "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert lines[0].startswith("default: model default-")
        assert lines[1] == f"open http://127.0.0.1:{port} in a browser; Ctrl-C ends it\n"
        yield f"http://127.0.0.1:{port}", process, folder
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not list(folder.glob("open-miipher-app-*"))
    finally:
        process.kill()


@contextmanager
def opened(address: str, **options):
    """The page in Chromium, which must ask for nothing but the server and complain of nothing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: no page tried")
    if shutil.which("chromium") is None:
        pytest.skip("no chromium: no page tried")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(**options)
        page.set_default_timeout(120_000)
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#restore")
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []


@pytest.fixture
def noisy(tmp_path):
    """Two files of a voice in noise."""
    paths = []
    for seed in range(2):
        noise = 0.02 * np.random.default_rng(seed).standard_normal(3 * RATE)
        paths.append(tmp_path / f"noisy {seed}.wav")
        write_wav(paths[-1], voice(seed, 3.0, RATE) + noise.astype(np.float32), RATE)
    return paths


def give(page, paths) -> None:
    page.set_input_files("#files input[type=file]", [str(path) for path in paths])
    for path in paths:
        page.wait_for_selector(f'#files :text("{path.stem}")')


def sound_at(page, address: str) -> np.ndarray:
    return soundfile.read(io.BytesIO(page.request.get(address).body()), dtype="float32")[0]


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")], ids=str
)
def test_files_are_dropped_restored_heard_and_downloaded(server, noisy, width, scheme):
    address, _, _ = server
    viewport = {"width": width, "height": 900}
    with opened(address, viewport=viewport, color_scheme=scheme) as page:
        give(page, noisy)
        page.click("#restore")
        page.wait_for_selector("#picture img")
        links = page.locator("#downloads a[href]")
        assert links.count() == 2
        loaded = "document.querySelector('#picture img').naturalWidth > 600"
        page.wait_for_function(loaded)
        for number, path in enumerate(noisy):
            if number:
                page.click(f'#choice label:has-text("{path.name}")')
            page.wait_for_selector(f'#sentence :text("{path.name}")')
            given, _ = soundfile.read(path, dtype="float32")
            expected, _ = Restorer.from_checkpoint(device="cpu").restore(given, RATE)
            for player, sound in (("before", given), ("after", expected)):
                link = page.locator(f"#{player} a[href*='.wav']")
                heard = sound_at(page, link.get_attribute("href"))
                np.testing.assert_allclose(heard, sound, rtol=0, atol=1 / 32768)
                page.wait_for_selector(f"#{player} :text('0:03')")  # its length, once decoded
            download = sound_at(page, links.nth(number).get_attribute("href"))
            np.testing.assert_allclose(download, expected, rtol=0, atol=1 / 32768)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width  # nothing to scroll sideways


def test_what_cannot_be_restored_is_told_on_the_page(server, tmp_path):
    address, _, _ = server
    bad = tmp_path / "program.wav"
    bad.write_bytes(Path(sys.executable).read_bytes()[:100_000])
    with opened(address) as page:
        page.click("#restore")
        page.wait_for_selector('#problems :text("There is nothing yet")')
        give(page, [bad])
        page.click("#restore")
        page.wait_for_selector('#problems :text("program.wav cannot be opened as audio")')
        assert page.locator("#picture img").count() == 0


def memory(process, field: str) -> float:
    """GB of a process, by the field's name in /proc."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) / 1e6


def test_ten_visitors_at_once_some_of_them_hostile(server, noisy, tmp_path):
    """Alive, memory bounded, a sentence for each bad file, the good ones restored."""
    client = pytest.importorskip("gradio_client")
    address, process, _ = server
    long = tmp_path / "two hours.flac"
    with soundfile.SoundFile(long, "w", 16000, 1, "PCM_16") as file:
        for _ in range(120):
            file.write(np.zeros(60 * 16000, np.int16))
    bomb = tmp_path / "bomb.wav"
    shutil.make_archive(str(tmp_path / "bomb"), "zip", ROOT / "config")
    (tmp_path / "bomb.zip").rename(bomb)
    program = tmp_path / "program.mp3"
    program.write_bytes(Path(sys.executable).read_bytes()[:1_000_000])
    minutes = tmp_path / "three minutes.wav"
    write_wav(minutes, np.tile(voice(3, 9.0, RATE), 20), RATE)
    sent = [[minutes], [minutes], [long], [bomb], [program], *([path] for path in noisy * 2), noisy]
    assert len(sent) == 10
    before = memory(process, "VmRSS")

    def visit(paths):
        visitor = client.Client(address, verbose=False, httpx_kwargs={"timeout": 300})
        files = [client.handle_file(str(path)) for path in paths]
        answer = visitor.predict(files, None, "default", 1.0, api_name="/restore")
        problems, downloads = answer[0]["value"], answer[-1]["value"]
        return problems or "", len(downloads or [])

    with ThreadPoolExecutor(10) as visitors:
        answers = list(visitors.map(visit, sent))
    most = memory(process, "VmHWM")
    print(f"{before:.2f} GB before ten visitors, {most:.2f} GB at most")
    problems = dict(zip(["long", "bomb", "program"], answers[2:5], strict=True))
    assert problems["long"][0].startswith("two hours.flac is 2.00 h long; this page takes at most")
    assert problems["bomb"][0] == "bomb.wav cannot be opened as audio: it is a zip archive"
    assert problems["program"][0].startswith("program.mp3 cannot be opened as audio")
    assert [answers[k] for k in (0, 1, 5, 6, 7, 8, 9)] == [("", 1)] * 6 + [("", 2)]
    assert process.poll() is None
    assert most - before < 1.5  # batches of the model, not what the files would decode to


def test_a_file_of_too_many_bytes_is_refused_while_it_comes(server, tmp_path):
    httpx = pytest.importorskip("httpx")
    address, process, folder = server
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(200_000_000)
    before = memory(process, "VmRSS")
    with large.open("rb") as file:
        answer = httpx.post(f"{address}/gradio_api/upload", files={"files": file}, timeout=120)
    assert answer.status_code == 413
    assert memory(process, "VmRSS") - before < 0.2
    kept = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert kept < 100_000_000
