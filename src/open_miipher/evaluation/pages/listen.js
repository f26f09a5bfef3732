"use strict";
// The blind test: two sounds of a file, their names hidden, in an order and on sides that the
// report and the listener's name decide. Votes stay in the browser until they are saved as a file.

let summary;
let test = null; // {listener, trials, votes, at, player}

// Random numbers from 0 to 1 that a text decides: FNV-1a's hash, then xorshift (Marsaglia, 2003).
function randomFrom(text) {
  let state = 2166136261;
  for (const byte of new TextEncoder().encode(text)) state = Math.imul(state ^ byte, 16777619);
  state ||= 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  for (let round = 0; round < 16; round++) next(); // texts that are nearly the same part ways
  return next;
}

function shuffled(items, random) {
  const order = [...items];
  for (let end = order.length - 1; end > 0; end--) {
    const other = Math.floor(random() * (end + 1));
    [order[end], order[other]] = [order[other], order[end]];
  }
  return order;
}

// Which two are compared, as kind and label: systems, else the one system and its input.
function pairs() {
  const systems = summary.systems.map((name) => ({ kind: "system", label: name }));
  if (systems.length > 1) return systems.flatMap((one, at) => systems.slice(at + 1).map((other) => [one, other]));
  return summary.series.length > 1 ? [[{ kind: "input", label: summary.series[0] }, systems[0]]] : [];
}

function trialsFor(listener) {
  const random = randomFrom(`${summary.id} ${listener}`);
  const all = summary.shown.flatMap((place) => pairs().map(([first, second]) => ({ place, first, second })));
  return shuffled(all, random).map((trial) => ({ ...trial, swapped: random() < 0.5 }));
}

const keyOf = ({ place, first, second }) => `${place} ${first.label} ${second.label}`;
const storeOf = (listener) => `votes ${summary.id} ${listener}`;

function save() {
  const content = {
    format: "open-miipher votes 1",
    report: summary.id,
    listener: test.listener,
    votes: Object.values(test.votes),
  };
  const link = el("a", {
    href: URL.createObjectURL(new Blob([`${JSON.stringify(content, null, 1)}\n`], { type: "application/json" })),
    download: `votes-${test.listener.replace(/[^\p{L}\p{N}]+/gu, "-")}.json`,
  });
  link.click();
  URL.revokeObjectURL(link.href);
}

function keep() {
  kept.set(storeOf(test.listener), JSON.stringify(test.votes));
  tell(kept.works ? "" : "This browser keeps nothing of this page: save the votes before you close it.");
}

function begin(listener) {
  const trials = trialsFor(listener);
  const votes = JSON.parse(kept.get(storeOf(listener)) ?? "{}");
  kept.set("listener", listener);
  const at = trials.findIndex((trial) => !(keyOf(trial) in votes));
  test = { listener, trials, votes, at: at < 0 ? trials.length : at, player: null };
  return drawTrial();
}

function draw(...content) {
  test?.player?.close();
  find("#main").replaceChildren(...content);
}

function drawStart() {
  const count = summary.shown.length * pairs().length;
  if (!count) {
    draw(el("h1", {}, "Blind test"), el("p", {},
      "There is nothing to compare: it takes two systems, or one and its inputs, and files that can be heard."));
    return;
  }
  const name = el("input", { type: "text", required: true, maxlength: 60, value: kept.get("listener") ?? "", autocomplete: "off" });
  draw(el("h1", {}, "Blind test"),
    el("p", {}, `${count} comparisons. Each is of one recording, as two of these left it: `,
      [...new Set(pairs().flat().map((one) => one.label))].map((label, at) => [at > 0 && ", ", el("bdi", {}, label)]),
      ". Which is which is hidden, and all are made equally loud."),
    el("p", {}, "Votes stay in this browser; you can stop and go on later under the same name. Save them as a file at the end, and hand that on."),
    el("form", {
      class: "choices",
      onsubmit: (event) => {
        event.preventDefault();
        if (name.value.trim()) begin(name.value.trim());
      },
    }, el("label", {}, "Your name, or any other", name), el("button", { class: "main" }, "Begin")));
  name.focus();
}

async function drawTrial() {
  if (test.at >= test.trials.length) return drawEnd();
  const { at, trials } = test;
  const trial = trials[at];
  const file = await report.load(`file-${trial.place}`);
  const heard = [trial.first, trial.second].map((one) =>
    file.sounds.find((sound) => sound.kind === one.kind && sound.label === one.label));
  if (heard.includes(undefined)) { // one of the two could not be read
    trials.splice(at, 1);
    return drawTrial();
  }
  const sounds = trial.swapped ? heard.reverse() : heard;
  const reference = file.sounds.find((sound) => sound.kind === "reference");
  const names = ["A", "B", ...(reference ? ["clean reference"] : [])];
  let update = () => {};
  const player = new Player(reference ? [...sounds, reference] : sounds, () => update());
  const [bar, updateBar] = transport(player);
  player.level(true);
  const radios = names.map((_, number) => el("input", { type: "radio", name: "sound", checked: number === 0, onchange: () => player.choose(number) }));
  const wasHeard = new Set();
  const buttons = ["A is better", "No difference", "B is better"].map((label, number) =>
    el("button", { type: "button", disabled: true, onclick: () => vote(at, number) }, label, " ", el("kbd", {}, "qwe"[number])));
  const hint = el("p", { class: "quiet" }, "Hear both before you vote.");
  update = () => {
    updateBar();
    radios[player.current].checked = true;
    if (player.isPlaying) wasHeard.add(player.current);
    const isReady = wasHeard.has(0) && wasHeard.has(1);
    for (const button of buttons) button.disabled = !isReady;
    hint.hidden = isReady;
  };
  update();
  draw(el("h1", {}, `Comparison ${at + 1} of ${trials.length}`),
    el("progress", { value: at, max: trials.length, "aria-label": "Comparisons done" }),
    el("h2", {}, "Which is better?"),
    el("fieldset", { class: "sounds", "aria-label": "What is heard" },
      names.map((label, number) => el("label", {}, radios[number], label, el("kbd", {}, String(number + 1))))),
    bar, el("div", { class: "votes" }, buttons), hint,
    el("div", { class: "pager" },
      el("button", { type: "button", disabled: at === 0, onclick: () => back(at) }, "Back"),
      el("button", { type: "button", disabled: !Object.keys(test.votes).length, onclick: save }, "Save votes")),
    el("p", { class: "keys" }, el("kbd", {}, "space"), " play or pause, ", el("kbd", {}, "1"), " ", el("kbd", {}, "2"), " which sound, ",
      el("kbd", {}, "q"), " ", el("kbd", {}, "w"), " ", el("kbd", {}, "e"), " vote"));
  Object.assign(test, { player, buttons });
  find("#main").focus({ preventScroll: true });
}

// Of a comparison that is left already, but still drawn, a second press counts for nothing.
async function vote(at, number) {
  if (test.at !== at) return;
  test.at += 1;
  const trial = test.trials[at];
  const { name } = (await report.load(`rows-${Math.floor(trial.place / summary.rows_a_page)}`))[trial.place % summary.rows_a_page];
  const [left, right] = trial.swapped ? [trial.second, trial.first] : [trial.first, trial.second];
  test.votes[keyOf(trial)] = {
    file: name, first: trial.first.label, second: trial.second.label,
    better: [left.label, null, right.label][number], heard_as_a: left.label,
    time: new Date().toISOString(),
  };
  keep();
  await drawTrial();
}

function back(at) {
  if (test.at !== at) return;
  test.at -= 1;
  return drawTrial();
}

function drawEnd() {
  const votes = Object.values(test.votes);
  const rows = pairs().map(([first, second]) => {
    const own = votes.filter((one) => one.first === first.label && one.second === second.label);
    const count = (better) => own.filter((one) => one.better === better).length;
    return el("tr", {}, el("th", { scope: "row" }, el("bdi", {}, first.label), " / ", el("bdi", {}, second.label)),
      [first.label, null, second.label].map((better) => el("td", {}, String(count(better)))));
  });
  draw(el("h1", {}, "All compared"), el("p", {}, "Save the votes as a file, and hand it on. These are yours:"),
    el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Votes" }, el("table", {},
      el("thead", {}, el("tr", {}, ["Pair", "First better", "No difference", "Second better"].map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, rows))),
    el("div", { class: "pager" }, el("button", { class: "main", type: "button", onclick: save }, "Save votes")));
  test.player = null;
}

function press(event) {
  const player = test?.player;
  if (!player || !isForPage(event)) return;
  if (/^[1-3]$/.test(event.key)) player.choose(Number(event.key) - 1);
  else if ("qwe".includes(event.key)) test.buttons["qwe".indexOf(event.key)].click();
  else if (event.key === " ") {
    event.preventDefault();
    player.toggle();
  }
}

async function start() {
  setUpTheme();
  summary = await report.load("summary");
  find("header .title").textContent = summary.title;
  document.title = `Blind test – ${summary.title}`;
  addEventListener("keydown", press);
  drawStart();
}

start();
