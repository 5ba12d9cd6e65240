// The page: files and what is recorded go to the service, one after the other; classes are searched, thresholds moved.

import {Recording, element} from "./recording.js";

const FOUND = 40; // classes that a search lists
const TRIES = 5; // of a service that says it is full
const by = id => document.getElementById(id);
const recordings = new Set();
const state = {
  classes: new Map(), // by id
  chosen: new Set(), // ids, in the order in which they were chosen
  threshold: 0.5,
  thresholds: new Map(), // of classes that have their own
  name: id => state.classes.get(id)?.name ?? id,
  setThreshold(id, value) {
    state.thresholds.set(id, value);
    refresh();
  },
};
let token = "", limits = {most_bytes: Infinity, most_seconds: Infinity}, asked = false;

const say = words => { by("said").textContent = words; };

let planned = false;
function refresh() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    for (const each of recordings) each.update();
  });
}

// ---- the service

async function ask(address, options = {}) {
  const headers = token ? {authorization: `Bearer ${token}`} : {};
  for (let left = TRIES; ; left--) {
    const answer = await fetch(address, {...options, headers});
    const again = [429, 503].includes(answer.status) && left > 1;
    if (again) {
      await new Promise(done => setTimeout(done, 1000 * Number(answer.headers.get("retry-after") ?? 1)));
      continue;
    }
    const told = await answer.json();
    if (answer.status === 401) by("token").hidden = false;
    if (!answer.ok) throw new Error(told.error ?? `the service answered ${answer.status}`);
    return told;
  }
}

async function meet() {
  if (asked) return;
  try {
    const [model] = (await ask("v1/models")).models;
    asked = true;
    limits = model;
    for (const each of model.classes) {
      state.classes.set(each.id, each);
      if (each.threshold !== null) state.thresholds.set(each.id, each.threshold);
    }
    by("model").textContent = `${model.name}: ${model.classes.length} classes, ${model.sample_rate} Hz`;
    by("licence").textContent = model.licence ? `Licence of the model: ${model.licence}` : "";
    by("token").hidden = true;
    search();
  } catch (error) {
    by("model").textContent = `No answer: ${error.message}`;
  }
}

by("token").addEventListener("submit", event => {
  event.preventDefault();
  token = by("token-text").value;
  meet();
});

// ---- recordings

let last = Promise.resolve();
function take(blob, name) {
  const line = element("p", {textContent: `${name}: is being listened to …`});
  by("recordings").prepend(line);
  last = last.then(async () => {
    try {
      await meet();
      if (blob.size > limits.most_bytes)
        throw new Error(`${(blob.size / 2 ** 20).toFixed(1)} MiB are more than the ${(limits.most_bytes / 2 ** 20).toFixed(0)} that this service takes`);
      const query = new URLSearchParams({name: [...name].slice(0, 300).join(""), top: 20, frames: "base64", picture: true});
      const row = await ask(`v1/tag?${query}`, {method: "POST", body: new Blob([blob], {type: "application/octet-stream"})});
      if (row.flags.includes("unfamiliar"))
        row.classes = []; // like none of them: no name is shown, as psla tag does
      const made = new Recording(row, await playable(blob), state, each => recordings.delete(each));
      recordings.add(made);
      line.replaceWith(made.node);
      const best = row.classes[0];
      say(`${name}: ${made.listed.textContent}${best ? `; most probable ${best.name}, ${best.probability.toFixed(2)}` : ""}`);
    } catch (error) {
      line.className = "trouble";
      line.textContent = `${name}: ${error.message}`;
      say(line.textContent);
    }
  });
  return last;
}

by("files").addEventListener("change", event => {
  for (const file of event.target.files) take(file, file.name);
  event.target.value = "";
});
const drop = by("drop");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, event => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", event => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", event => {
  event.preventDefault();
  drop.classList.remove("over");
  for (const file of event.dataTransfer.files) take(file, file.name);
});

// ---- recording

let recorder = null;
const button = by("record");

function note(words) {
  by("record-note").hidden = !words;
  by("record-note").textContent = words;
}

async function begin() {
  const plain = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
  const stream = await navigator.mediaDevices.getUserMedia({audio: plain});
  const parts = [], began = Date.now();
  recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", event => parts.push(event.data));
  const ticking = setInterval(() => {
    const seconds = (Date.now() - began) / 1000;
    note(`Recording: ${seconds.toFixed(0)} s`);
    if (seconds >= limits.most_seconds - 2) recorder.stop();
  }, 500);
  recorder.addEventListener("stop", () => {
    clearInterval(ticking);
    for (const track of stream.getTracks()) track.stop();
    const type = recorder.mimeType, suffix = /mp4|aac/.test(type) ? "m4a" : /ogg/.test(type) ? "ogg" : "webm";
    recorder = null;
    pressed(false);
    note("");
    const when = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
    take(new Blob(parts, {type}), `recording ${when}.${suffix}`);
  });
  recorder.start();
  pressed(true);
  note("Recording: 0 s");
  say("Recording");
}

function pressed(on) {
  button.setAttribute("aria-pressed", String(on));
  button.textContent = on ? "Stop" : "Record";
}

button.addEventListener("click", async () => {
  if (recorder) {
    recorder.stop();
    return;
  }
  button.disabled = true;
  try {
    await begin();
  } catch (error) {
    note(`The microphone cannot be heard: ${error.message}`);
  }
  button.disabled = false;
});
if (!navigator.mediaDevices || !window.MediaRecorder) {
  button.disabled = true;
  note("Recording needs this page at an address of https, or at localhost.");
}

/** What a browser recorded does not say how long it is, and cannot be sought in: such a sound is made a WAV of. */
async function playable(blob) {
  if (!/webm|ogg/.test(blob.type) || blob.size > 32 * 2 ** 20) return blob;
  const context = new AudioContext();
  try {
    return wav(await context.decodeAudioData(await blob.arrayBuffer()));
  } catch {
    return blob; // not decoded here: the player says what it makes of it
  } finally {
    await context.close();
  }
}

function wav(sound) {
  const channels = sound.numberOfChannels, bytes = 2 * channels * sound.length;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const text = (at, words) => [...words].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels, true);
  view.setUint32(24, sound.sampleRate, true);
  view.setUint32(28, 2 * channels * sound.sampleRate, true);
  view.setUint16(32, 2 * channels, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, bytes, true);
  for (let channel = 0; channel < channels; channel++) {
    const samples = sound.getChannelData(channel);
    for (let i = 0; i < samples.length; i++)
      view.setInt16(44 + 2 * (i * channels + channel), Math.round(32767 * Math.max(-1, Math.min(1, samples[i]))), true);
  }
  return new Blob([view], {type: "audio/wav"});
}

// ---- classes and thresholds

by("threshold").addEventListener("input", event => {
  state.threshold = Number(event.target.value);
  by("threshold-value").textContent = state.threshold.toFixed(2);
  refresh();
});

function search() {
  const typed = by("search").value.trim().toLocaleLowerCase();
  const has = text => text.toLocaleLowerCase().includes(typed);
  const named = [], within = [];
  for (const each of typed ? state.classes.values() : []) {
    if (has(each.name) || each.id.toLocaleLowerCase() === typed) named.push(each);
    else if (each.within.some(has)) within.push(each);
  }
  const all = [...named, ...within], chosen = [...state.chosen].map(id => state.classes.get(id));
  const listed = [...chosen, ...all.filter(each => !state.chosen.has(each.id)).slice(0, FOUND)];
  by("found-count").textContent = !typed ? "" : all.length > FOUND
    ? `${all.length} classes; the first ${FOUND} are listed` : `${all.length || "no"} class${all.length === 1 ? "" : "es"}`;
  by("found").replaceChildren(...listed.map(each => {
    const above = each.within.length ? element("small", {textContent: ` in ${each.within.join(", ")}`}) : "";
    const chip = element("button", {type: "button"}, each.name, above);
    chip.setAttribute("aria-pressed", String(state.chosen.has(each.id)));
    chip.addEventListener("click", () => {
      if (!state.chosen.delete(each.id)) state.chosen.add(each.id);
      search();
      [...by("found").querySelectorAll("button")].find(made => made.dataset.id === each.id)?.focus();
      refresh();
    });
    chip.dataset.id = each.id;
    return element("li", {}, chip);
  }));
}
by("search").addEventListener("input", search);

meet();
