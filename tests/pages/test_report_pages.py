"""The report's pages in a browser, opened from a disk as users open them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from chromium import LEAST_CONTRAST, Watched, chromium
from small_evaluation import COLUMNS, NAMES, NEW, OLD, make_evaluation

from open_miipher.evaluation.report import write_report
from open_miipher.evaluation.report_plan import plan_report
from open_miipher.evaluation.results import INPUT, Evaluation, Sounds
from open_miipher.evaluation.votes import read_votes, sum_votes

pytestmark = pytest.mark.slow
TITLE = '"Tried" & <img src=x onerror="harmed = 1">'


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report in a folder whose name has to be quoted in an address."""
    root = tmp_path_factory.mktemp("report")
    evaluation = make_evaluation(root / "sounds")
    folder = root / "what #1 says, 100% ☃"
    trusted = {
        evaluation.sounds[NAMES[1]].restored[NEW].resolve(): (0.2, "the <i>tail</i> is gone"),
        evaluation.sounds[NAMES[0]].restored[OLD].resolve(): (0.9, ""),
    }
    write_report(folder, evaluation, plan_report(evaluation, trusted, 5, 60.0), title=TITLE)
    return folder


def address(folder: Path, page: str = "index.html", place: str = "") -> str:
    return (folder / page).as_uri() + place


@pytest.fixture
def opened(browser, folder):
    """A function that opens a page; at the end it must have complained of nothing."""
    watched = []

    def opens(page="index.html", place="", **options):
        watched.append(Watched(browser, **options))
        watched[-1].page.goto(address(folder, page, place))
        return watched[-1].page

    yield opens
    for one in watched:
        one.check()
        one.page.context.close()


def in_table(page) -> list[str]:
    return page.locator("table.files tbody a").all_inner_texts()


def test_tables_show_all_names_as_they_are_and_run_none_of_them(opened):
    page = opened()
    page.wait_for_selector("table.files tbody tr")
    assert page.locator("h1").inner_text() == TITLE
    names = page.locator("table.files tbody a").evaluate_all("all => all.map(x => x.textContent)")
    assert names[0] == NAMES[1]  # trusted least
    assert set(names) >= {NAMES[0], NAMES[3], "not utf-8 \\xff.wav"}
    assert page.evaluate("window.harmed") is None
    assert page.locator("main script, main b, main i:not(.legend i), main img").count() == 0
    means = page.locator("table").nth(0)
    assert means.locator("thead th").all_inner_texts() == [
        *("Mean of the files", "input", OLD, NEW, "Files"),
    ]
    assert means.locator("tr", has_text="ESTOI").locator(".best").inner_text() == "0.65"
    differences = page.locator("table").nth(1).locator("tr", has_text="ESTOI")
    assert "+0.10 ▲ better" in differences.locator("td").nth(2).inner_text()
    assert page.locator(".chart svg rect").count() > 10
    assert "nisqa (no <weights>)" in page.locator("main").inner_text()


def test_files_are_sorted_by_any_column_and_found_by_name(opened):
    page = opened()
    page.wait_for_selector("table.files tbody tr")
    page.get_by_role("button", name="ESTOI").click()
    page.wait_for_function("document.querySelector('table.files a').textContent.includes('script')")
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("ESTOI")
    page.get_by_role("button", name="ESTOI").click()  # best first
    page.wait_for_function("document.querySelector('table.files a').textContent == 'the best.wav'")
    page.get_by_label("Values of").select_option(label=f"{NEW} less {OLD}")
    page.wait_for_function("document.querySelector('table.files .sorted + td, td.sorted')")
    assert page.locator("td.sorted").all_inner_texts() == ["+0.10"] * 6
    page.get_by_label("Name contains").fill("ПРИМЕР")
    page.wait_for_function("document.querySelectorAll('table.files tbody tr').length == 1")
    assert in_table(page) == [NAMES[1]]
    page.get_by_label("Name contains").fill("")
    page.get_by_label("with problems").check()
    page.wait_for_function("document.querySelectorAll('table.files tbody tr').length == 1")
    assert in_table(page) == [NAMES[3]]
    page.get_by_label("with problems").uncheck()
    page.get_by_label("with sound").check()
    page.wait_for_function("document.querySelectorAll('table.files tbody tr').length == 5")


def cursors(page) -> list[float]:
    return page.locator(".cursor").evaluate_all("all => all.map(x => parseFloat(x.style.left))")


def test_sounds_play_and_all_pictures_share_the_cursor(opened):
    page = opened(place="#file-0")
    page.wait_for_selector(".player")
    assert page.locator(".seen").count() == 4 + 2
    page.wait_for_function("[...document.images].every(x => x.complete && x.naturalWidth == 250)")
    assert "trust 0.20, the <i>tail</i> is gone" in page.locator("main").inner_text()
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("open.player.time > 0.3")
    assert page.evaluate("!open.player.element.paused && open.player.element.duration > 1.9")
    page.keyboard.press("3")  # the same place of another sound
    assert page.evaluate("[open.player.current, open.player.time > 0.3]") == [2, True]
    assert page.get_by_label(NEW).is_checked()
    page.wait_for_function("!open.player.element.paused")
    assert page.evaluate("open.player.elements.filter(x => !x.paused).length") == 1
    page.keyboard.press("Space")  # the button has the focus: it is pressed, once
    assert page.evaluate("open.player.element.paused")
    at = page.evaluate("open.player.time / 2 * 100")
    assert cursors(page) == pytest.approx([at] * 6, abs=0.1)
    box = page.locator(".seen").nth(4).bounding_box()
    page.locator(".seen").nth(4).click(position={"x": box["width"] * 0.75, "y": 20})
    assert cursors(page) == pytest.approx([75] * 6, abs=0.5)
    page.get_by_label("input", exact=False).first.check(force=True)
    assert page.evaluate("open.player.time") == pytest.approx(1.5, abs=0.02)


def test_a_sound_ends_and_starts_again(opened):
    page = opened(place="#file-0")
    page.wait_for_selector(".player")
    page.evaluate("open.player.seek(1.8)")
    page.keyboard.press("Space")
    page.wait_for_function("!open.player.isPlaying")
    assert page.get_by_role("button", name="Play").is_visible()
    page.keyboard.press("Space")
    page.wait_for_function("open.player.isPlaying && open.player.time < 1")


def test_equally_loud_means_equal_levels(opened):
    page = opened(place="#file-0")
    page.wait_for_selector(".player")
    page.get_by_label("equally loud").check()
    levels = page.evaluate(
        "open.player.elements.map((x, i) => x.volume * open.player.sounds[i].level)"
    )
    assert levels == pytest.approx([min(levels)] * 4)
    page.get_by_label("equally loud").uncheck()
    assert page.evaluate("open.player.elements.every(x => x.volume == 1)")


def test_all_of_it_can_be_done_with_keys(opened):
    page = opened()
    page.wait_for_selector("table.files tbody tr")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_selector(".player")
    first = page.locator("h1").inner_text()
    page.keyboard.press("2")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[open.player.current, open.player.time]") == [1, 0.5]
    page.keyboard.press("j")
    page.wait_for_function("open?.place == 1")
    assert page.locator("h1").inner_text() != first
    page.keyboard.press("k")
    page.wait_for_function("open?.place == 0")
    page.keyboard.press("k")  # there is none before
    assert page.locator("h1").inner_text() == first
    page.keyboard.press("Tab")
    focused = "getComputedStyle(document.activeElement)"
    assert page.evaluate(f"{focused}.outlineStyle + {focused}.outlineWidth") == "solid3px"


def test_a_file_without_sounds_says_so(opened, folder):
    shown = {int(path.stem.removeprefix("file-")) for path in folder.glob("data/file-*.js")}
    (hidden,) = set(range(6)) - shown
    page = opened(place=f"#file-{hidden}")
    page.wait_for_selector("h1")
    assert "not in this report" in page.locator("main").inner_text()
    assert page.locator("table tbody tr").count() == len(COLUMNS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_have_contrast_and_the_choice_of_colours_is_kept(opened, scheme):
    page = opened(color_scheme=scheme)
    page.wait_for_selector("table.files tbody tr")
    seen = set()
    for _ in range(2):
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        seen.add(ground)
        assert page.evaluate(LEAST_CONTRAST)[0] >= 4.5, page.evaluate(LEAST_CONTRAST)
        page.locator("table.files a").first.click()
        page.wait_for_selector(".player")
        assert page.evaluate(LEAST_CONTRAST)[0] >= 4.5, page.evaluate(LEAST_CONTRAST)
        page.locator("#theme").click()
        page.go_back()
        page.reload()
        page.wait_for_selector("table.files tbody tr")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    assert len(seen) == 2


def test_nothing_is_wider_than_a_small_phone(opened):
    for name, place, ready in (
        ("index.html", "", "table.files tbody tr"),
        ("index.html", "#file-0", ".player"),
        ("listen.html", "", "form"),
    ):
        page = opened(name, place, width=320, height=640)
        page.wait_for_selector(ready)
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        if name == "listen.html":
            page.get_by_label("Your name").fill("Ann")
            page.keyboard.press("Enter")
            page.wait_for_selector(".votes")
            assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_votes_are_blind_kept_and_saved(opened, folder, tmp_path):
    page = opened("listen.html")
    page.get_by_label("Your name").fill("Ann Ü")
    page.get_by_role("button", name="Begin").click()
    page.wait_for_selector(".votes")
    assert "Comparison 1 of 5" in page.locator("h1").inner_text()
    content = page.content()
    assert not any(word in content for word in ("old ", "better</b>", "new &amp;", "new &"))
    better = page.get_by_role("button", name="A is better")
    assert better.is_disabled()  # nothing was heard yet
    page.keyboard.press("q")
    assert "Comparison 1 of 5" in page.locator("h1").inner_text()
    order = page.evaluate("test.trials.map(x => [x.place, x.swapped])")
    for number in range(3):
        page.wait_for_function(
            f"document.querySelector('h1').textContent.includes('{number + 1} of')"
        )
        page.keyboard.press("Space")
        page.wait_for_function("open = test.player.time > 0.05")
        page.keyboard.press("2")
        page.wait_for_function("!document.querySelector('.votes button').disabled")
        # The new system is always preferred, on whichever side it is; but once there is none.
        page.keyboard.press("w" if number == 2 else "q" if order[number][1] else "e")
    page.wait_for_function("document.querySelector('h1').textContent.includes('4 of 5')")
    page.reload()  # and go on later
    page.wait_for_function("document.querySelector('input').value == 'Ann Ü'")
    page.get_by_role("button", name="Begin").click()
    page.wait_for_selector(".votes")
    assert "Comparison 4 of 5" in page.locator("h1").inner_text()
    assert page.evaluate("test.trials.map(x => [x.place, x.swapped])") == order
    with page.expect_download() as download:
        page.get_by_role("button", name="Save votes").click()
    assert download.value.suggested_filename == "votes-Ann-Ü.json"
    download.value.save_as(tmp_path / "votes.json")
    votes = read_votes([tmp_path / "votes.json"])
    assert {vote.listener for vote in votes} == {"Ann Ü"}
    (found,) = sum_votes(votes)
    assert (found.first, found.second) == (OLD, NEW)
    assert (found.for_first, found.for_second, found.undecided) == (0, 2, 1)


def test_who_presses_twice_has_voted_once(opened):
    page = opened("listen.html")
    page.get_by_label("Your name").fill("Eve")
    page.keyboard.press("Enter")
    page.wait_for_selector(".votes")
    page.keyboard.press("Space")
    page.wait_for_function("test.player.time > 0.05")
    page.keyboard.press("2")
    page.wait_for_function("!document.querySelector('.votes button').disabled")
    page.evaluate("for (let time = 0; time < 3; time++) test.buttons[0].click()")
    page.wait_for_function("document.querySelector('h1').textContent.includes('2 of 5')")
    assert page.evaluate("Object.keys(test.votes).length") == 1
    page.evaluate("const old = find('.pager button'); old.click(); old.click()")
    page.wait_for_function("document.querySelector('h1').textContent.includes('1 of 5')")


def test_each_listener_has_an_order_and_sides_of_their_own(opened):
    page = opened("listen.html")
    page.wait_for_selector("form")
    orders = page.evaluate("""
        [...Array(200).keys()].map(x => trialsFor(`listener ${x}`).map(y => [y.place, y.swapped]))
    """)
    assert len({json.dumps(order) for order in orders}) > 190
    sides = np.array([[swapped for _, swapped in order] for order in orders])
    assert 0.42 < sides.mean() < 0.58
    first = np.bincount([order[0][0] for order in orders], minlength=6)
    assert np.count_nonzero(first) == 5
    assert first.max() < 70  # of 200, 40 are expected


def test_a_report_that_was_copied_in_part_says_so(browser, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "part")
    (tmp_path / "part/data/rows-0.js").unlink()
    page = Watched(browser).page
    page.goto(address(tmp_path / "part"))
    page.wait_for_function("document.querySelector('#told').textContent != ''")
    told = page.locator("#told").inner_text()
    assert told == "data/rows-0.js is missing: copy the whole folder of the report"


def test_five_thousand_files_open_and_turn_pages_in_two_seconds_of_script(browser, tmp_path):
    rng = np.random.default_rng(0)
    names = [f"speaker {x % 97}/recording number {x}.wav" for x in range(5000)]
    rows = []
    for name in names:
        for system in ("first", "second"):
            values = {column.name: float(rng.normal()) for column in COLUMNS}
            values |= {INPUT + key: value for key, value in values.items()}
            rows.append({"file": name, "system": system, "seconds": 3.0, **values, "problems": ""})
    nowhere = Path("/none.wav")
    sounds = {x: Sounds({"first": nowhere, "second": nowhere}, None, nowhere) for x in names}
    evaluation = Evaluation(["first", "second"], COLUMNS, rows, sounds, {})
    write_report(tmp_path / "report", evaluation, plan_report(evaluation, {}, 0, 60.0))
    watched = Watched(browser)
    page = watched.page
    measures = page.context.new_cdp_session(page)
    measures.send("Performance.enable")
    page.goto(address(tmp_path / "report"))
    page.wait_for_selector("table.files tbody tr")
    for _ in range(3):
        before = page.locator("table.files a").first.inner_text()
        page.get_by_role("button", name="Next").click()
        page.wait_for_function(
            "x => document.querySelector('table.files a').textContent != x", arg=before
        )
    page.get_by_label("Sort by").select_option(label="distance")
    page.wait_for_selector("th.sorted:has-text('distance')")
    page.get_by_label("Name contains").fill("number 4999")
    page.wait_for_function("document.querySelectorAll('table.files tbody tr').length == 1")
    found = {x["name"]: x["value"] for x in measures.send("Performance.getMetrics")["metrics"]}
    assert found["ScriptDuration"] < 2
    assert found["Nodes"] < 20_000
    watched.check()
