"use strict";
// The page of all files, and the page of one. `#file-12` in the address is the thirteenth worst.

const ROWS = 50; // of the table of files, at once
let summary;
let overview; // the element, kept while one file is looked at
let scrolled = 0; // how far
let open = null; // the file that is looked at: {place, player}
const list = { sort: "", of: "", bestFirst: false, search: "", problems: false, heard: false, page: 0 };

const column = (name) => summary.columns.find((one) => one.name === name);
const first = () => summary.series.length - summary.systems.length; // of the systems, among the series
const color = (number) => `var(--series-${number < first() ? 0 : 1 + ((number - first()) % 5)})`;
const directions = { 1: ["↑", "higher is better"], 0: ["", ""], "-1": ["↓", "lower is better"] };

function shownValue(one, value, signed = false) {
  if (value == null) return "–";
  const rounded = Number(value.toFixed(one.decimals)) || 0; // no zero has a sign
  const text = rounded.toFixed(one.decimals).replace("-", "−");
  return signed && rounded > 0 ? `+${text}` : text;
}

function heading(one) {
  const [arrow, meaning] = directions[one.better];
  const unit = one.unit.replace(/^(-?[\d.]+)-(-?[\d.]+)$/, "$1 … $2").replaceAll("-", "−"); // a range
  return [
    `${one.title} `,
    el("small", {}, unit && `${unit} `, arrow && el("span", { title: meaning, "aria-label": meaning }, arrow)),
  ];
}

// ---- the summary

function best(one, values) {
  const known = values.filter((value) => value != null);
  if (one.better === 0 || known.length < 2) return null;
  return one.better > 0 ? Math.max(...known) : Math.min(...known);
}

function meansTable() {
  const head = el("tr", {}, el("th", { scope: "col" }, "Mean of the files"),
    summary.series.map((name) => el("th", { scope: "col" }, el("bdi", {}, name))),
    el("th", { scope: "col" }, "Files"));
  const rows = summary.columns.map((one, number) => {
    const means = summary.means.map((of) => of[number]);
    const top = best(one, means.map((mean) => mean && mean[0]));
    const counts = [...new Set(means.filter(Boolean).map((mean) => mean[3]))];
    return el("tr", {}, el("th", { scope: "row" }, heading(one)),
      means.map((mean) => mean == null
        ? el("td", {}, "–")
        : el("td", {},
          el("span", { class: mean[0] === top && "best" }, shownValue(one, mean[0])),
          interval(one, mean))),
      el("td", {}, counts.join(" / ") || "–"));
  });
  return el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Means" },
    el("table", {}, el("thead", {}, head), el("tbody", {}, rows)));
}

const interval = (one, mean, signed = false) => el("span", { class: "interval" },
  `${shownValue(one, mean[1], signed)} … ${shownValue(one, mean[2], signed)}`);

function differencesTable() {
  const name = ({ of, less }) => `${summary.series[of]} less ${summary.series[less]}`;
  const head = el("tr", {}, el("th", { scope: "col" }, "Mean difference"),
    summary.differences.map((pair) => el("th", { scope: "col" }, el("bdi", {}, name(pair)))));
  const rows = summary.columns.map((one, number) => el("tr", {},
    el("th", { scope: "row" }, heading(one)),
    summary.differences.map((pair) => {
      const mean = pair.means[number];
      if (mean == null) return el("td", {}, "–");
      return el("td", {}, `${shownValue(one, mean[0], true)} `, verdict(one, mean), interval(one, mean, true));
    })));
  return el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Differences" },
    el("table", {}, el("thead", {}, head), el("tbody", {}, rows)));
}

function verdict(one, [, low, high]) {
  if (low <= 0 && high >= 0) return el("span", { class: "verdict quiet" }, "not clear");
  const up = low > 0;
  if (one.better === 0) return el("span", { class: "verdict" }, up ? "▲ higher" : "▼ lower");
  return up === one.better > 0
    ? el("span", { class: "verdict good" }, "▲ better")
    : el("span", { class: "verdict bad" }, "▼ worse");
}

function chart(one, number) {
  const most = Math.max(1, ...one.counts.flat());
  const histograms = one.counts.map((counts, of) => {
    const mean = summary.means[of][number];
    if (mean == null) return null;
    const text = `${summary.series[of]}: mean ${shownValue(one, mean[0])}`;
    const width = 240 / counts.length;
    const edge = (bin) => one.edges[0] + (bin / counts.length) * (one.edges[1] - one.edges[0]);
    const place = ((mean[0] - one.edges[0]) / (one.edges[1] - one.edges[0])) * 240;
    return [
      el("div", { class: "name" }, el("bdi", {}, summary.series[of]),
        el("span", { class: "quiet" }, shownValue(one, mean[0]))),
      el("svg", { viewBox: "0 0 240 40", preserveAspectRatio: "none", role: "img", "aria-label": text },
        counts.map((count, bin) => count > 0 && el("rect", {
          x: bin * width, width: width - 0.8, y: 40 - (40 * count) / most, height: (40 * count) / most,
          fill: color(of),
        }, el("title", {}, `${count} from ${shownValue(one, edge(bin))} to ${shownValue(one, edge(bin + 1))}`))),
        el("line", { x1: place, x2: place, y1: 0, y2: 40, stroke: "var(--text)", "vector-effect": "non-scaling-stroke" })),
    ];
  });
  return el("div", { class: "chart" }, el("h3", {}, heading(one)), histograms,
    el("div", { class: "edges" }, one.edges.map((value) => el("span", {}, shownValue(one, value)))));
}

// ---- all files

const row = async (place) =>
  (await report.load(`rows-${Math.floor(place / summary.rows_a_page)}`))[place % summary.rows_a_page];

const better = (name) => (name === "trust" || name === "name" ? 1 : column(name).better);

// Return one number of what was measured of a file, or null: of a series, of a difference
// ("d" and its number), or, with "", the worst of the systems.
function pick(values, of, direction) {
  if (of === "") {
    const known = values.slice(first()).filter((value) => value != null);
    if (!known.length) return null;
    return direction < 0 ? Math.max(...known) : Math.min(...known);
  }
  if (of[0] !== "d") return values[Number(of)];
  const { of: more, less } = summary.differences[Number(of.slice(1))];
  return values[more] == null || values[less] == null ? null : values[more] - values[less];
}

// Trust has values of systems alone; those of other series are none.
const withSeries = (trust) => [...Array(first()).fill(null), ...trust];

async function ordered() {
  let places = [...Array(summary.num_files).keys()];
  if (list.problems) places = await report.load("problems");
  if (list.heard) {
    const heard = new Set(summary.shown);
    places = places.filter((place) => heard.has(place));
  }
  if (list.search || list.sort === "name") {
    const names = await report.load("names");
    const wanted = list.search.toLowerCase();
    places = places.filter((place) => names[place].toLowerCase().includes(wanted));
    if (list.sort === "name") places = [...places].sort((a, b) => (names[a] < names[b] ? -1 : 1));
    if (list.sort === "name") return list.bestFirst ? places.reverse() : places;
  }
  if (list.sort === summary.sorted_by && list.of === "" && !list.bestFirst) return places;
  if (!list.sort) return places;
  const loaded = await report.load(`column-${list.sort}`);
  const series = list.sort === "trust" ? withSeries(loaded) : loaded;
  const direction = better(list.sort);
  const sign = (direction < 0 ? -1 : 1) * (list.bestFirst ? -1 : 1);
  const keys = places.map((place) => {
    const value = pick(series.map((of) => (of === null ? null : of[place])), list.of, direction);
    return value === null ? Infinity : sign * value; // what has no value comes last
  });
  const order = [...places.keys()].sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b));
  return order.map((number) => places[number]);
}

function choice(label, value, options, choose) {
  const select = el("select", { onchange: () => choose(select.value) },
    options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  return el("label", {}, label, select);
}

function tick(label, key) {
  const box = el("input", {
    type: "checkbox", checked: list[key],
    onchange: () => change({ [key]: box.checked }),
  });
  return el("label", { class: "tick" }, box, label);
}

function change(changes) {
  Object.assign(list, { page: 0 }, changes);
  return showFiles();
}

function sortBy(name) {
  return change(name === list.sort ? { bestFirst: !list.bestFirst } : { sort: name, bestFirst: false });
}

function choices() {
  const sorts = [
    ...(summary.has_trust ? [["trust", "trust"]] : []),
    ...summary.columns.map((one) => [one.name, one.title]),
    ["name", "name"],
  ];
  const series = [
    ["", summary.systems.length > 1 ? "the worst of the systems" : summary.systems[0]],
    ...summary.series.map((name, number) => [String(number), name])
      .filter(([number]) => summary.systems.length > 1 || Number(number) < first()),
    ...summary.differences.map(({ of, less }, number) =>
      [`d${number}`, `${summary.series[of]} less ${summary.series[less]}`]),
  ];
  const [low, high] = {
    name: ["A to Z", "Z to A"], 0: ["lowest first", "highest first"],
  }[list.sort === "name" ? "name" : better(list.sort)] ?? ["worst first", "best first"];
  const search = el("input", {
    type: "search", value: list.search,
    oninput: () => change({ search: search.value }),
  });
  return el("div", { class: "choices" },
    choice("Sort by", list.sort, sorts, (sort) => change({ sort, bestFirst: false })),
    choice("Order", list.bestFirst ? "b" : "w", [["w", low], ["b", high]], (order) => change({ bestFirst: order === "b" })),
    choice("Values of", list.of, series, (of) => change({ of })),
    el("label", {}, "Name contains", search),
    tick("with sound", "heard"),
    tick("with problems", "problems"));
}

let asked = 0;

// Draw the table again; what was asked for meanwhile wins.
async function showFiles() {
  const number = ++asked;
  const places = await ordered();
  const pages = Math.max(1, Math.ceil(places.length / ROWS));
  list.page = Math.min(list.page, pages - 1);
  const start = list.page * ROWS;
  const rows = await Promise.all(places.slice(start, start + ROWS).map(async (place) => [place, await row(place)]));
  if (number !== asked) return;
  const section = overview.querySelector("#files");
  const focused = document.activeElement?.closest("#files [data-key]")?.dataset.key;
  section.querySelector(".results").replaceChildren(filesTable(rows), pager(places.length, start, pages));
  const kept = section.querySelector(".choices");
  const typing = kept.contains(document.activeElement) && document.activeElement.type === "search";
  if (!typing) kept.replaceWith(choices());
  if (focused) section.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function filesTable(rows) {
  const columns = [...(summary.has_trust ? [{ name: "trust", title: "trust", unit: "", decimals: 2, better: 1 }] : []), ...summary.columns];
  const isSorted = (name) => name === list.sort;
  const direction = (name) =>
    isSorted(name) && ((better(name) < 0) === list.bestFirst ? "ascending" : "descending");
  const looks = (name) => (isSorted(name) ? "sorted" : "other");
  const button = (name, content) => el("button", { type: "button", "data-key": name, onclick: () => sortBy(name) }, content);
  const head = el("tr", {},
    el("th", { scope: "col", "aria-sort": direction("name") }, button("name", "File")),
    el("th", { scope: "col", class: "other" }, "Seconds"),
    columns.map((one) => el("th", { scope: "col", class: looks(one.name), "aria-sort": direction(one.name) },
      button(one.name, heading(one)))));
  const body = rows.map(([place, file]) => el("tr", {},
    el("td", {}, el("a", { href: `#file-${place}` }, el("bdi", {}, file.name)),
      file.shown && summary.shown.length < summary.num_files && el("span", { class: "mark quiet" }, "sound"),
      file.problems.length > 0 && el("span", { class: "mark bad" }, "problems")),
    el("td", { class: "other" }, file.seconds == null ? "–" : file.seconds.toFixed(1)),
    columns.map((one, number) => {
      const values = one.name === "trust"
        ? withSeries(file.trust)
        : file.values.map((of) => of[number - (summary.has_trust ? 1 : 0)]);
      return el("td", { class: looks(one.name) }, shownValue(one, pick(values, list.of, one.better), list.of[0] === "d"));
    })));
  return el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Files" },
    el("table", { class: "files" }, el("thead", {}, head), el("tbody", {}, body)));
}

function pager(count, start, pages) {
  const to = (label, page) => el("button", {
    type: "button", disabled: page < 0 || page >= pages, "data-key": label,
    onclick: async () => {
      await change({ page });
      find("#files").scrollIntoView();
    },
  }, label);
  const text = count ? `${start + 1}–${Math.min(start + ROWS, count)} of ${count.toLocaleString("en")}` : "no such file";
  return el("div", { class: "pager" }, to("Previous", list.page - 1), el("span", { role: "status" }, text), to("Next", list.page + 1));
}

function drawOverview() {
  const heard = summary.shown.length;
  overview = el("div", {},
    el("h1", {}, summary.title),
    el("p", { class: "quiet" }, `${summary.num_files.toLocaleString("en")} files, ${summary.made}. `,
      `Small figures are 95 % intervals of the mean over files. ↑ higher is better, ↓ lower is better, ★ best mean.`),
    meansTable(),
    summary.left_out.length > 0 && el("p", { class: "quiet" }, "Not measured: ",
      summary.left_out.map(([name, why]) => `${name} (${why})`).join("; "), "."),
    summary.differences.length > 0 && [
      el("h2", {}, "Differences, file by file"),
      el("p", { class: "quiet" }, "Over the files that both have. A difference is clear if its interval does not hold 0."),
      differencesTable(),
    ],
    el("h2", {}, "How the files are spread"),
    el("p", { class: "quiet" }, "Number of files by value; the line is the mean. The first and last bars hold what lies beyond."),
    el("div", { class: "charts" }, summary.columns.map(chart)),
    el("section", { id: "files" }, el("h2", {}, "Files"),
      el("p", { class: "quiet" }, heard < summary.num_files
        ? `${heard.toLocaleString("en")} of them can be heard and seen: the worst, the best, and some between.`
        : "All of them can be heard and seen."),
      choices(), el("div", { class: "results" })),
    el("p", { class: "keys" }, el("kbd", {}, "j"), " ", el("kbd", {}, "k"), " next and previous file, ", el("kbd", {}, "Enter"), " opens it"));
}

// ---- one file

async function stepFrom(place, by) {
  const heard = new Set(summary.shown);
  const places = (await ordered()).filter((one) => heard.has(one) || one === place || !heard.size);
  const at = places.indexOf(place);
  return at < 0 ? places[0] : places[at + by];
}

function valuesTable(file) {
  const head = el("tr", {}, el("th", { scope: "col" }, "Value"), summary.series.map((name) => el("th", { scope: "col" }, el("bdi", {}, name))));
  const rows = summary.columns.map((one, number) => {
    const values = file.values.map((of) => of[number]);
    const top = best(one, values);
    return el("tr", {}, el("th", { scope: "row" }, heading(one)),
      values.map((value) => el("td", {}, el("span", { class: value != null && value === top && "best" }, shownValue(one, value)))));
  });
  return el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Values" },
    el("table", {}, el("thead", {}, head), el("tbody", {}, rows)));
}

function trustOf(file) {
  return file.trust.map((value, number) => value != null && el("p", {},
    summary.systems.length > 1 && [el("bdi", {}, summary.systems[number]), ": "],
    `trust ${value.toFixed(2)}`, file.reasons[number] && `, ${file.reasons[number]}`));
}

function picture(sound, caption, shown, seek, key) {
  const cursor = el("div", { class: "cursor" });
  const at = (event) => {
    const box = seen.getBoundingClientRect();
    seek(((event.clientX - box.left) / box.width) * shown.seconds);
  };
  const seen = el("div", { class: "seen", onpointerdown: at, onpointermove: (event) => event.buttons & 1 && at(event) },
    el("img", { src: `pictures/${key}.webp`, alt: caption, draggable: "false" }), cursor);
  const top = shown.highest_hz / 1000;
  const kilohertz = [`${+top.toFixed(1)} kHz`, +(top / 2).toFixed(1), 0]
    .map((text, step) => el("span", { style: `top: ${50 * step}%` }, String(text)));
  const figure = el("figure", { "data-key": key },
    el("figcaption", {}, el("b", {}, el("bdi", {}, caption)),
      sound.is_whole ? null : el("span", { class: "quiet" }, `the first ${sound.seconds.toFixed(0)} s`)),
    el("div", { class: "picture" }, el("div", { class: "hertz", "aria-hidden": "true" }, kilohertz), seen));
  return { figure, cursor };
}

function ticks(seconds) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60].find((one) => seconds / one <= 6) ?? 120;
  const count = Math.floor((seconds * 0.8) / step);
  const at = [...Array(count + 1).keys()].map((number) => [number * step, +(number * step).toFixed(1)]);
  at.push([seconds, `${seconds.toFixed(1)} s`]);
  return el("div", { class: "ticks", "aria-hidden": "true" },
    at.map(([time, text]) => el("span", { style: `left: ${(100 * time) / seconds}%` }, String(text))));
}

function legend(colors, low, high) {
  return el("span", { class: "legend" }, low, el("i", { style: `background: linear-gradient(to right, ${colors.join()})` }), high);
}

const decibels = (value) => `${value > 0 ? "+" : ""}${value} dB`.replace("-", "−");

// Return what shows and plays the sounds of a file; the player goes to `open`.
function drawSounds(shown) {
  let update = () => {};
  const player = new Player(shown.sounds, () => update());
  const [bar, updateBar] = transport(player);
  const radios = shown.sounds.map((_, number) => el("input", {
    type: "radio", name: "sound", checked: number === 0, onchange: () => player.choose(number),
  }));
  const sounds = el("fieldset", { class: "sounds", "aria-label": "What is heard" },
    shown.sounds.map((sound, number) => el("label", {}, radios[number], el("bdi", {}, sound.label), el("kbd", {}, String(number + 1)))));
  const levelled = el("input", { type: "checkbox", onchange: () => player.level(levelled.checked) });
  const pictures = shown.sounds.map((sound) => picture(sound, sound.label, shown, (time) => player.seek(time), sound.token));
  const hasInput = shown.sounds[0].kind === "input";
  const changes = shown.sounds.filter((sound) => hasInput && sound.kind === "system")
    .map((sound) => picture(sound, `${sound.label} less input`, shown, (time) => player.seek(time), `${sound.token}-change`));
  update = () => {
    updateBar();
    radios[player.current].checked = true;
    for (const { cursor } of [...pictures, ...changes]) cursor.style.left = `${(100 * player.time) / shown.seconds}%`;
    pictures.forEach(({ figure }, number) => figure.classList.toggle("heard", number === player.current));
  };
  update();
  open.player = player;
  const levels = legend(summary.level_colours, decibels(shown.top_db - summary.range_db), decibels(shown.top_db));
  const change = legend(summary.change_colours, `less, ${decibels(-summary.change_db)}`, `${decibels(summary.change_db)}, more`);
  return [
    el("div", { class: "player" }, sounds, bar),
    el("label", { class: "tick" }, levelled, "equally loud (all as the quietest)"),
    el("h2", {}, "Spectrograms "), el("p", { class: "quiet" }, "One scale for all: ", levels, ". Click to go there."),
    pictures.map(({ figure }) => figure), ticks(shown.seconds),
    changes.length > 0 && [
      el("h2", {}, "What changed"), el("p", { class: "quiet" }, "Output less input: ", change, "; black: no change."),
      changes.map(({ figure }) => figure), ticks(shown.seconds),
    ],
  ];
}

async function drawFile(place) {
  const file = await row(place);
  const shown = file.shown ? await report.load(`file-${place}`) : null;
  const [previous, next] = [await stepFrom(place, -1), await stepFrom(place, 1)];
  open = { place, player: null };
  const link = (label, key, to) => to === undefined
    ? el("span", { class: "quiet" }, label)
    : el("a", { href: `#file-${to}` }, label, " ", el("kbd", {}, key));
  return el("div", {},
    el("div", { class: "steps" }, el("a", { href: "#files" }, "All files"), link("Previous", "k", previous), link("Next", "j", next)),
    el("h1", {}, el("bdi", {}, file.name)), trustOf(file),
    file.problems.map((text) => el("p", { class: "bad" }, text)),
    shown?.sounds.length
      ? drawSounds(shown)
      : el("p", { class: "quiet" }, file.shown ? "None of its sounds can be read." : "Its sounds are not in this report, which keeps those of some files only."),
    (shown?.missing ?? []).map((text) => el("p", { class: "bad" }, text)),
    el("h2", {}, "Values"), valuesTable(file),
    el("p", { class: "keys" }, el("kbd", {}, "space"), " play or pause, ", el("kbd", {}, "1"), " … ", el("kbd", {}, "9"), " which sound, ",
      el("kbd", {}, "←"), " ", el("kbd", {}, "→"), " half a second back or on, ", el("kbd", {}, "j"), " ", el("kbd", {}, "k"), " next and previous file"));
}

// ---- the page

async function show() {
  const match = /^#file-(\d+)$/.exec(location.hash);
  const main = find("#main");
  if (overview.isConnected) scrolled = scrollY;
  open?.player?.close();
  open = null;
  if (match && Number(match[1]) < summary.num_files) {
    const element = await drawFile(Number(match[1]));
    if (location.hash !== match[0]) return;
    main.replaceChildren(element);
    document.title = `${element.querySelector("h1").textContent} – ${summary.title}`;
    scrollTo({ top: 0, behavior: "instant" });
    main.focus({ preventScroll: true });
    return;
  }
  const returns = !overview.isConnected && main.hasChildNodes();
  main.replaceChildren(overview);
  document.title = summary.title;
  if (location.hash === "#files" && !returns) find("#files").scrollIntoView({ behavior: "instant" });
  else scrollTo({ top: location.hash ? scrolled : 0, behavior: "instant" });
}

async function press(event) {
  if (!isForPage(event)) return;
  const player = open?.player;
  const step = { j: 1, k: -1 }[event.key];
  if (step && open) {
    const place = await stepFrom(open.place, step);
    if (place !== undefined) location.hash = `#file-${place}`;
  } else if (step) {
    const links = [...document.querySelectorAll("table.files a")];
    links[Math.min(links.length - 1, Math.max(0, links.indexOf(document.activeElement) + step))]?.focus();
  } else if (player && /^[1-9]$/.test(event.key)) {
    player.choose(Number(event.key) - 1);
  } else if (player && event.key === " ") {
    event.preventDefault();
    player.toggle();
  } else if (player && ["ArrowLeft", "ArrowRight"].includes(event.key) && !event.target.closest("input")) {
    player.seek(player.time + (event.key === "ArrowLeft" ? -0.5 : 0.5));
  }
}

async function start() {
  setUpTheme();
  summary = await report.load("summary");
  find("header .title").textContent = summary.title;
  list.sort = summary.sorted_by || "name";
  drawOverview();
  addEventListener("hashchange", show);
  addEventListener("keydown", press);
  await show();
  await showFiles();
  if (location.hash === "#files") find("#files").scrollIntoView({ behavior: "instant" });
}

start();
