"use strict";
// Decisions on clips (psla fit): what was chosen is offered as the CSV that `psla fit --review` reads.
document.querySelectorAll("form.decisions").forEach(form => {
  const inputs = () => Array.from(document.querySelectorAll("input.decision"));
  const said = form.querySelector("output");
  const quoted = text => /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  const chosen = () => {
    const found = new Map();  // a clip may stand on the page more than once: the last decision counts
    inputs().forEach(each => { if (each.value.trim()) found.set(each.dataset.clip, each.value.trim()); });
    return found;
  };
  const tell = () => { said.textContent = `${chosen().size} decisions`; };
  document.addEventListener("input", tell);
  form.addEventListener("submit", event => {
    event.preventDefault();
    const lines = Array.from(chosen(), pair => pair.map(quoted).join(","));
    const link = document.createElement("a");
    link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(["clip_id,decision", ...lines, ""].join("\n"));
    link.download = form.dataset.name;
    document.body.append(link);
    link.click();
    link.remove();
  });
  tell();
});
