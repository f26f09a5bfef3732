"use strict";
// What both pages need: data from scripts, elements, looks, storage, and the player.

// A page that was opened from a disk may not read files, but it may run scripts that lie beside it.
const report = {
  received: {},
  loading: {},

  receive(key, value) {
    this.received[key] = value;
  },

  // Return a promise of the data in data/KEY.js; it is loaded once.
  load(key) {
    this.loading[key] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `data/${encodeURIComponent(key)}.js`;
      script.onload = () => resolve(this.received[key]);
      script.onerror = () => {
        const problem = `data/${key}.js is missing: copy the whole folder of the report`;
        tell(problem); // of scripts on a disk, a browser reports no errors to the page
        reject(new Error(problem));
      };
      document.head.append(script);
    });
    return this.loading[key];
  },
};

// Make an element. Text stays text, whatever it holds: nothing is ever read as HTML.
function el(tag, properties = {}, ...children) {
  const drawn = ["svg", "rect", "line", "title", "path"].includes(tag);
  const element = drawn
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false && child !== ""));
  return element;
}

const find = (selector) => document.querySelector(selector);

function tell(text) {
  find("#told").textContent = text;
}

// What is kept between visits; a browser may refuse to, and then it is kept until the page closes.
const kept = {
  memory: {},
  works: true,

  get(key) {
    try {
      return localStorage.getItem(key) ?? this.memory[key] ?? null;
    } catch {
      this.works = false;
      return this.memory[key] ?? null;
    }
  },

  set(key, value) {
    this.memory[key] = value;
    try {
      localStorage.setItem(key, value);
    } catch {
      this.works = false;
    }
  },
};

function setUpTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = find("#theme");
  const isDark = () => (kept.get("theme") ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use ${isDark() ? "light" : "dark"} colours`);
  };
  button.addEventListener("click", () => {
    kept.set("theme", isDark() ? "light" : "dark");
    show();
  });
  system.addEventListener("change", show);
  show();
}

// Whether a key is meant for the page, and not for what has the focus.
function isForPage(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const target = event.target;
  if (target.closest("select, textarea, input:not([type=radio], [type=checkbox])")) return false;
  return !(event.key === " " && target.closest("button, input[type=checkbox]"));
}

// Several sounds of one file, of which one is heard; switching keeps the place.
class Player {
  // sounds: {token, seconds, level}; onChange is called when time, sound or state change.
  constructor(sounds, onChange) {
    this.sounds = sounds;
    this.onChange = onChange;
    this.seconds = Math.max(...sounds.map((sound) => sound.seconds));
    this.current = 0;
    this.isPlaying = false;
    this.isLevelled = false;
    this.elements = sounds.map((sound, number) => {
      const audio = el("audio", { preload: "auto", src: `sounds/${sound.token}.flac` });
      audio.addEventListener("ended", () => number === this.current && this.pause());
      audio.addEventListener("error", () =>
        tell("A sound cannot be played: copy the whole folder of the report."),
      );
      return audio;
    });
  }

  get element() {
    return this.elements[this.current];
  }

  get time() {
    return this.element.currentTime;
  }

  seek(time) {
    this.element.currentTime = Math.min(Math.max(0, time), this.sounds[this.current].seconds);
    this.onChange();
  }

  choose(number) {
    if (number < 0 || number >= this.sounds.length) return;
    const time = this.time;
    this.element.pause();
    this.current = number;
    this.seek(time);
    if (this.isPlaying) this.play();
  }

  play() {
    if (this.element.ended || this.time >= this.sounds[this.current].seconds - 0.01) this.seek(0);
    this.isPlaying = true;
    // A sound that is paused at once rejects; that is no error.
    this.element.play().catch(() => {});
    const follow = () => {
      if (!this.isPlaying) return;
      this.onChange();
      requestAnimationFrame(follow);
    };
    follow();
  }

  pause() {
    this.isPlaying = false;
    this.element.pause();
    this.onChange();
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  // Make all as loud as the quietest, or leave them as they are. Levels are of the whole sound.
  level(wanted) {
    this.isLevelled = wanted;
    const heard = this.sounds.map((sound) => sound.level).filter((level) => level > 1e-5);
    this.elements.forEach((audio, number) => {
      const { level } = this.sounds[number];
      audio.volume = wanted && level > 1e-5 ? Math.min(...heard) / level : 1;
    });
    this.onChange();
  }

  // End all playing and let go of the files.
  close() {
    this.isPlaying = false;
    for (const audio of this.elements) {
      audio.pause();
      audio.removeAttribute("src");
    }
  }
}

const clock = (seconds) =>
  `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;

// Return the bar with play, place and loudness of a player, and a function that brings it up to date.
function transport(player) {
  const play = el("button", { type: "button", class: "play", onclick: () => player.toggle() });
  const place = el("input", {
    type: "range", min: 0, max: player.seconds, step: 0.01, value: 0, "aria-label": "Time",
    oninput: () => player.seek(Number(place.value)),
  });
  const time = el("span", { class: "time" });
  const update = () => {
    play.textContent = player.isPlaying ? "Pause" : "Play";
    place.value = player.time;
    place.setAttribute("aria-valuetext", `${player.time.toFixed(1)} seconds`);
    time.textContent = `${clock(player.time)} / ${clock(player.seconds)}`;
  };
  return [el("div", { class: "transport" }, play, place, time), update];
}
