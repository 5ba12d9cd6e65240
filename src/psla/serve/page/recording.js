// One recording on the page: player, waveform, log-mel, curves, events. All text goes in as text, never as HTML.

import {findEvents, floats, toAudacity, toCsv} from "./events.js";

const SHOWN = 6; // classes of the clip whose curves are drawn
const LISTED = 500; // events

export function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function drawn(width, height, tag, attributes) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg"), made = document.createElementNS(space, tag);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  svg.append(made);
  return svg;
}

export function clock(seconds, digits = 1) {
  const unit = 10 ** digits, whole = Math.round(seconds * unit), minutes = Math.floor(whole / (60 * unit));
  const rest = ((whole % (60 * unit)) / unit).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return minutes < 60 ? `${minutes}:${rest}`
    : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

const FLAGS = {
  "silent": "silent: nothing louder than -60 dBFS",
  "cancelled": "cancelled: the channels cancel each other, the model hears next to nothing of them",
  "band-limited": "band-limited: lacks high frequencies that the model listens to",
  "short": "short: less than what the model hears at least",
  "unfinished": "unfinished: the file may have been cut, its last page is missing",
  "unfamiliar": "unfamiliar: like none of the model's classes",
};

/** A recording that was tagged. `state` is what all share: classes, chosen ids, thresholds; `remove` takes it away. */
export class Recording {
  constructor(row, sound, state, remove) {
    this.row = row;
    this.state = state;
    this.duration = row.duration_s;
    this.at = 0;
    this.ids = row.frames.ids;
    this.column = new Map(this.ids.map((id, i) => [id, i]));
    this.times = row.frames.times;
    this.values = floats(row.frames.probabilities.float32);
    this.url = URL.createObjectURL(sound);
    this.node = element("article", {className: "recording"});
    this.build(remove);
    this.update();
  }

  build(remove) {
    const {row} = this, title = element("h2", {textContent: row.path || "recording"});
    const gone = element("button", {type: "button", textContent: "Remove"});
    gone.setAttribute("aria-label", `Remove ${row.path || "recording"}`);
    gone.addEventListener("click", () => {
      URL.revokeObjectURL(this.url);
      this.node.remove();
      remove(this);
    });
    const facts = [`${row.duration_s.toFixed(2)} s`, ...row.flags.map(flag => FLAGS[flag] ?? flag)];
    this.audio = element("audio", {controls: true, src: this.url, preload: "auto"});
    this.audio.setAttribute("aria-label", `Player of ${row.path || "the recording"}`);
    this.mute = element("p", {className: "soft", hidden: true,
      textContent: "This browser cannot play this format. What the model heard is shown all the same."});
    this.audio.addEventListener("error", () => { this.mute.hidden = false; });
    this.now = element("span", {className: "now", textContent: clock(0)});
    this.time = this.timeline();
    this.listed = element("h3", {textContent: "Events"});
    this.events = element("ol", {className: "events"});
    this.events.addEventListener("click", event => {
      const button = event.target.closest("button[data-at]");
      if (button) this.seek(Number(button.dataset.at));
    });
    const saves = element("div", {className: "save"}, "Download ");
    for (const [words, make] of [["CSV", () => this.save("csv", "text/csv", toCsv(row, this.found))],
      ["JSON", () => this.save("json", "application/json", this.json())],
      ["Audacity labels", () => this.save("txt", "text/plain", toAudacity(this.found))]]) {
      const button = element("button", {type: "button", textContent: words});
      button.addEventListener("click", make);
      saves.append(button);
    }
    this.node.append(element("div", {className: "head"}, title, gone),
      element("p", {className: "soft", textContent: facts.join(" · ")}), this.audio, this.mute, this.time,
      this.listed, this.events, saves);
    this.follow();
  }

  /** Log-mel, waveform and curves, with a cursor that goes with the sound, and moves by click, touch and keys. */
  timeline() {
    const {picture} = this.row, box = element("div", {className: "time"});
    const mel = element("div", {className: "plot"}, element("img", {alt: "Log-mel of the recording, as the model hears it",
      src: `data:image/png;base64,${picture.log_mel}`, draggable: false}));
    for (const [share, words] of picture.hz) {
      const mark = element("span", {className: "mark", textContent: words});
      mark.style.bottom = `${100 * share}%`;
      mel.append(mark);
    }
    const {low, high} = picture.waveform, last = high.length;
    const most = 127 / Math.max(1, ...high, ...low.map(value => -value)); // as loud as it is, so that quiet ones are seen
    const up = high.map((value, i) => `L${i} ${127 - most * value}L${i + 1} ${127 - most * value}`).join("");
    const down = low.map((value, i) => `L${i + 1} ${128 - most * value}L${i} ${128 - most * value}`).reverse().join("");
    const wave = element("div", {className: "plot"}, drawn(last, 255, "path", {d: `M0 127${up}${down}Z`}));
    this.curves = element("div");
    const axis = element("div", {className: "plot"});
    for (const at of ticks(this.duration, matchMedia("(max-width: 44rem)").matches ? 4 : 8)) {
      const tick = element("span", {textContent: this.duration < 120 ? `${+at.toFixed(4)} s` : clock(at, 0)});
      tick.style.left = `${100 * at / this.duration}%`;
      tick.classList.toggle("end", at > 0.96 * this.duration);
      axis.append(tick);
    }
    const rail = this.rail = element("div", {className: "rail", tabIndex: 0}, element("div", {className: "cursor"}));
    for (const [name, value] of [["role", "slider"], ["aria-label", "Position in the recording"], ["aria-valuemin", 0],
      ["aria-valuemax", this.duration]]) rail.setAttribute(name, value);
    const line = element("div", {className: "line"}, element("span", {textContent: "Position"}), this.now);
    box.append(lane("wave", ["Waveform"], wave), lane("mel", ["Log-mel"], mel), this.curves,
      lane("axis", [line], axis), rail);
    this.steer(box);
    return box;
  }

  steer(box) {
    const point = event => {
      const rail = this.rail.getBoundingClientRect();
      this.seek((event.clientX - rail.left) / rail.width * this.duration);
    };
    const own = event => event.target.closest("input") !== null; // a slider of a class's threshold
    box.addEventListener("pointerdown", event => {
      if (event.button || own(event) || event.target.closest(".name")) return;
      box.setPointerCapture?.(event.pointerId);
      this.rail.focus({preventScroll: true});
      event.preventDefault();
      point(event);
    });
    box.addEventListener("pointermove", event => {
      if (event.buttons & 1 && box.hasPointerCapture?.(event.pointerId)) point(event);
    });
    this.rail.addEventListener("keydown", event => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const step = (event.shiftKey ? 10 : 1) * Math.min(1, this.duration / 20);
      const moves = {ArrowRight: step, ArrowUp: step, ArrowLeft: -step, ArrowDown: -step};
      if (event.key in moves) this.seek(this.at + moves[event.key]);
      else if (event.key === "Home") this.seek(0);
      else if (event.key === "End") this.seek(this.duration);
      else if (event.key === " ") { if (this.audio.paused) this.audio.play(); else this.audio.pause(); }
      else return;
      event.preventDefault();
    });
  }

  follow() {
    const {audio} = this;
    const step = () => {
      if (audio.paused) return;
      this.show(audio.currentTime);
      requestAnimationFrame(step);
    };
    audio.addEventListener("play", () => {
      for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
      step();
    });
    audio.addEventListener("seeked", () => this.show(audio.currentTime));
    audio.addEventListener("ended", () => this.show(audio.currentTime));
  }

  seek(seconds) {
    this.show(seconds);
    if (this.audio.readyState) this.audio.currentTime = this.at;
  }

  show(seconds) {
    this.at = Math.min(this.duration, Math.max(0, seconds));
    this.rail.style.setProperty("--at", String(this.at / this.duration));
    this.rail.setAttribute("aria-valuenow", this.at.toFixed(2));
    this.rail.setAttribute("aria-valuetext", clock(this.at));
    this.now.textContent = clock(this.at);
    for (const button of this.events.querySelectorAll("button"))
      button.classList.toggle("playing", Number(button.dataset.at) <= this.at && this.at < Number(button.dataset.end));
  }

  threshold(id) {
    return this.state.thresholds.get(id) ?? this.state.threshold;
  }

  eventsOf(id) {
    const column = this.column.get(id), width = this.ids.length;
    return findEvents(this.times, step => this.values[step * width + column], this.threshold(id));
  }

  /** Everything that the thresholds and the chosen classes change. */
  update() {
    const found = [];
    this.ids.forEach((id, index) => {
      for (const [onset, offset, probability, mean] of this.eventsOf(id))
        found.push({onset_s: onset, offset_s: offset, id, name: this.state.name(id), probability,
          mean_probability: mean, index});
    });
    found.sort((a, b) => a.onset_s - b.onset_s || a.index - b.index);
    this.found = found.map(({index, ...event}) => event);
    this.drawCurves();
    this.listed.textContent = found.length === 1 ? "1 event" : `${found.length || "No"} events`;
    this.events.replaceChildren(...this.found.slice(0, LISTED).map(event => {
      const button = element("button", {type: "button"},
        element("span", {className: "number", textContent: `${clock(event.onset_s, 2)} – ${clock(event.offset_s, 2)}`}),
        element("span", {className: "class", textContent: event.name}),
        element("span", {className: "number", textContent: event.probability.toFixed(2)}));
      button.dataset.at = event.onset_s;
      button.dataset.end = event.offset_s;
      return element("li", {}, button);
    }));
    if (found.length > LISTED)
      this.listed.textContent += `, the first ${LISTED} of which are listed; downloads have all`;
    this.show(this.at);
  }

  drawCurves() {
    const ids = [...new Set([...this.state.chosen, ...this.row.classes.slice(0, SHOWN).map(each => each.id)])];
    const kept = new Map([...this.curves.children].map(each => [each.dataset.id, each]));
    const lanes = ids.filter(id => this.column.has(id)).map(id => {
      const made = kept.get(id) ?? this.curve(id);
      this.drawThreshold(made, id);
      return made;
    });
    if (lanes.length !== kept.size || lanes.some((each, i) => this.curves.children[i] !== each))
      this.curves.replaceChildren(...lanes);
  }

  curve(id) {
    const column = this.column.get(id), width = this.ids.length, scale = 1000 / this.duration;
    const values = this.times.map((_, step) => this.values[step * width + column]);
    const path = this.times.map(([a, b], i) =>
      `M${(a * scale).toFixed(2)} 1V${(1 - values[i]).toFixed(4)}H${(b * scale).toFixed(2)}V1`).join("");
    const plot = element("div", {className: "plot"}, drawn(1000, 1, "path", {d: path}));
    plot.firstChild.append(drawn(1, 1, "line", {x1: 0, x2: 1000, y1: 0, y2: 0}).firstChild);
    const name = this.state.name(id), highest = values.reduce((a, b) => Math.max(a, b), 0);
    const slider = element("input", {type: "range", min: 0.01, max: 1, step: 0.01});
    slider.setAttribute("aria-label", `Threshold of ${name}`);
    slider.addEventListener("input", () => this.state.setThreshold(id, Number(slider.value)));
    const text = element("div", {className: "line"}, element("span", {textContent: name, title: name}),
      element("span", {className: "number", textContent: highest.toFixed(2), title: "highest probability of a step"}));
    const made = lane("curve", [text, element("div", {className: "slide"}, slider, element("output"))], plot);
    made.dataset.id = id;
    return made;
  }

  drawThreshold(made, id) {
    const threshold = this.threshold(id), plot = made.querySelector(".plot"), mark = made.querySelector("line");
    made.querySelector("input").value = threshold;
    made.querySelector("output").textContent = threshold.toFixed(2);
    for (const end of ["y1", "y2"]) mark.setAttribute(end, 1 - threshold);
    for (const bar of plot.querySelectorAll("i")) bar.remove();
    for (const [onset, offset] of this.eventsOf(id)) {
      const bar = element("i");
      bar.style.left = `${100 * onset / this.duration}%`;
      bar.style.width = `${100 * (offset - onset) / this.duration}%`;
      plot.append(bar);
    }
  }

  json() {
    const {frames, picture, events, ...row} = this.row;
    return `${JSON.stringify([{...row, events: this.found}], null, 1)}\n`;
  }

  save(suffix, media, text) {
    const stem = (this.row.path || "recording").replace(/[^\p{L}\p{N}._ -]+/gu, "_").slice(0, 100);
    const url = URL.createObjectURL(new Blob([text], {type: media}));
    element("a", {href: url, download: `${stem}.${suffix}`}).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}

function lane(kind, name, plot) {
  return element("div", {className: `lane ${kind}`}, element("div", {className: "name"}, ...name), plot);
}

function ticks(duration, most) {
  const steps = [...[-3, -2, -1, 0].flatMap(e => [1, 2, 5].map(m => m * 10 ** e)), 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
  const step = steps.find(each => duration / each <= most) ?? duration;
  return Array.from({length: Math.floor(duration / step + 1e-9) + 1}, (_, i) => i * step);
}
