"use strict";
for (const player of document.querySelectorAll(".player")) {
  const duration = Number(player.dataset.duration), heard = Number(player.dataset.heard);
  const audio = player.querySelector("audio"), time = player.querySelector(".time");
  const rail = player.querySelector(".rail"), now = player.querySelector(".now");
  let at = 0;
  const clock = seconds => {
    const tenths = Math.round(seconds * 10), minutes = Math.floor(tenths / 600);
    const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
    return minutes < 60 ? `${minutes}:${rest}`
      : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
  };
  const show = seconds => {
    at = Math.min(duration, Math.max(0, seconds));
    rail.style.setProperty("--at", String(at / duration));
    time.setAttribute("aria-valuenow", at.toFixed(2));
    time.setAttribute("aria-valuetext", clock(at));
    now.textContent = clock(at);
  };
  const seek = seconds => {
    show(seconds);
    if (!audio) return;
    if (at > heard) audio.pause();
    else audio.currentTime = at;
  };
  const follow = () => {
    if (audio.paused) return;
    show(audio.currentTime);
    requestAnimationFrame(follow);
  };
  if (audio) {
    audio.addEventListener("play", () => {
      for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
      follow();
    });
    audio.addEventListener("seeked", () => { if (at <= heard) show(audio.currentTime); });
    audio.addEventListener("ended", () => show(audio.currentTime));
  }
  const point = event => {
    const box = rail.getBoundingClientRect();
    seek((event.clientX - box.left) / box.width * duration);
  };
  time.addEventListener("pointerdown", event => {
    if (event.button) return;
    try { time.setPointerCapture(event.pointerId); } catch (error) { if (error.name !== "NotFoundError") throw error; }
    point(event);
  });
  time.addEventListener("pointermove", event => { if (event.buttons & 1) point(event); });
  time.addEventListener("keydown", event => {
    const step = event.shiftKey ? 10 : 1, moves = {ArrowRight: step, ArrowUp: step, ArrowLeft: -step, ArrowDown: -step};
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in moves) seek(at + moves[event.key] * Math.min(1, duration / 20));
    else if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(duration);
    else if (event.key === " " && audio) { if (audio.paused) audio.play(); else audio.pause(); }
    else return;
    event.preventDefault();
  });
  player.addEventListener("click", event => {
    const button = event.target.closest("button[data-at]");
    if (button) seek(Number(button.dataset.at));
  });
}
