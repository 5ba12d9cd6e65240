// Events, found in the page so that a threshold can be moved without tagging again: the rule of psla.tagging.events.
// tests/test_serve_page.py holds the two to the same answers.

const TINY = 1e-9; // seconds
const UNITS = 2 ** 40; // of a probability: whole ones, so that their sum is exact

export const RULE = {release: 0.8, maxGap: null, minLength: 0};

/** Steps from a to b (not b itself) without a hole between them: where steps were dropped no event goes on. */
function unbroken(times) {
  const parts = [];
  let first = 0;
  for (let i = 1; i <= times.length; i++) {
    if (i < times.length && times[i][0] <= times[i - 1][1] + TINY) continue;
    parts.push([first, i]);
    first = i;
  }
  return parts;
}

/** [onset, offset, highest and mean probability] of each event of one class; `at(step)` is its probability, a float32. */
export function findEvents(times, at, threshold, rule = RULE) {
  const found = [];
  // As numpy compares float32 with a number: rounded to float32.
  const reach = Math.fround(threshold), hold = Math.fround(threshold * rule.release);
  for (const [a, b] of times.length ? unbroken(times) : []) {
    let gap = rule.maxGap;
    if (gap === null) {
      gap = 0;
      for (let i = a; i < b; i++) gap = Math.max(gap, times[i][1] - times[i][0]);
    }
    const joined = [];
    for (let i = a; i < b; i++) {
      if (!(at(i) >= hold)) continue;
      const first = i;
      let highest = at(i);
      while (i + 1 < b && at(i + 1) >= hold) highest = Math.max(highest, at(++i));
      if (!(highest >= reach)) continue;
      const last = joined.at(-1);
      if (last && times[first][0] - times[last[1]][1] <= gap + TINY) last[1] = i;
      else joined.push([first, i]);
    }
    for (const [first, last] of joined) {
      if (times[last][1] - times[first][0] < rule.minLength - TINY) continue;
      let highest = 0, sum = 0;
      for (let i = first; i <= last; i++) {
        highest = Math.max(highest, at(i));
        sum += Math.round(at(i) * UNITS);
      }
      found.push([times[first][0], times[last][1], highest, sum / UNITS / (last - first + 1)]);
    }
  }
  return found;
}

/** float32 in base64, little-endian. */
export function floats(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer), values = new Float32Array(bytes.length / 4);
  for (let i = 0; i < values.length; i++) values[i] = view.getFloat32(4 * i, true);
  return values;
}

const quoted = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;

/** As `psla tag --events --csv`. */
export function toCsv(row, events) {
  const head = "path,status,flags,onset_s,offset_s,class_id,name,probability,error";
  const common = [row.path, row.status, row.flags.join(" ")];
  const lines = (events.length ? events : [{onset_s: "", offset_s: "", id: "", name: "", probability: ""}]).map(e =>
    [...common, e.onset_s, e.offset_s, e.id, e.name, e.probability, ""].map(each => quoted(String(each))).join(","));
  return [head, ...lines, ""].join("\n");
}

/** As `psla tag --audacity`: a label is a line, so what would end it becomes a space. */
export function toAudacity(events) {
  const plain = text => text.replace(/[\p{Cc}\u2028\u2029]+/gu, " ");
  return events.map(e =>
    `${e.onset_s.toFixed(6)}\t${e.offset_s.toFixed(6)}\t${plain(e.name)} ${e.probability.toFixed(2)}\n`).join("");
}
