// Several videos in step: one clock, which is the longest video's own; the others follow it.
"use strict";

// A video that is further from the clock is moved; a nearer one runs a little faster or slower, since moving
// costs a decoder more time than it wins.
const LARGEST_DRIFT_S = 0.3;
const LARGEST_NUDGE = 0.1;
const SPEEDS = [0.1, 0.25, 0.5, 1, 2];

// `fps` is the rate by which frames are counted. `controls` is the element to show; `end()` must be called.
function makePlayer(fps) {
  const videos = [];
  const watchers = [];
  const rate = fps || 24;
  let playing = false;
  let ended = false;
  let wanted = 0;
  let ticking = 0;

  const play = h("button", { type: "button", class: "primary", click: () => toggle() });
  const seek = h("input", { type: "range", min: 0, max: 0, step: "any", value: 0, "aria-label": "Position",
    input: () => { pause(); moveTo(Number(seek.value)); } });
  const frame = h("output", { class: "frame" });
  const loop = h("input", { type: "checkbox", checked: true });
  const speed = h("select", { change: () => videos.forEach((video) => { video.playbackRate = Number(speed.value); }) },
    SPEEDS.map((one) => h("option", { value: one, selected: one === 1 }, `${one}×`)));
  const controls = h("div", { class: "player", role: "group", "aria-label": "Playback" },
    play,
    h("button", { type: "button", "aria-label": "One frame back", title: "One frame back (,)", click: () => step(-1) }, "◂"),
    h("button", { type: "button", "aria-label": "One frame forward", title: "One frame forward (.)", click: () => step(1) }, "▸"),
    seek, frame,
    h("label", {}, "Speed ", speed),
    h("label", {}, loop, " Loop"));

  function ready() {
    return videos.filter((video) => Number.isFinite(video.duration) && video.duration > 0);
  }

  function leader() {
    return ready().reduce((best, video) => (best === null || video.duration > best.duration ? video : best), null);
  }

  function place(video, time) {
    // Past the last frame a video shows nothing more: it stays on its last one.
    video.currentTime = Math.max(0, Math.min(time, video.duration - 0.5 / rate));
  }

  function moveTo(time) {
    const first = leader();
    wanted = Math.max(0, Math.min(time, first === null ? time : first.duration - 0.5 / rate));
    for (const video of ready()) place(video, wanted);
    show();
  }

  function step(frames) {
    pause();
    // The middle of a frame, so that rounding never shows its neighbour.
    moveTo((Math.max(0, Math.floor(wanted * rate + 1e-6) + frames) + 0.5) / rate);
  }

  function start() {
    const first = leader();
    if (first === null || ended) return;
    if (wanted >= first.duration - 1 / rate) wanted = 0;
    playing = true;
    for (const video of ready()) {
      video.playbackRate = Number(speed.value);
      place(video, wanted);
      video.play().catch(() => {});
    }
    cancelAnimationFrame(ticking);
    ticking = requestAnimationFrame(tick);
    show();
  }

  function pause() {
    playing = false;
    cancelAnimationFrame(ticking);
    for (const video of videos) video.pause();
    show();
  }

  function toggle() {
    if (playing) {
      pause();
      // All stand on the same moment, not where each happened to be.
      moveTo(wanted);
    } else {
      start();
    }
  }

  function tick() {
    const first = leader();
    if (!playing || first === null) return;
    wanted = first.currentTime;
    if (first.ended) {
      if (!loop.checked) {
        pause();
        return;
      }
      wanted = 0;
      for (const video of ready()) {
        place(video, 0);
        video.play().catch(() => {});
      }
    } else {
      for (const video of ready()) {
        if (video === first || video.seeking || wanted >= video.duration - 1 / rate) continue;
        const drift = video.currentTime - wanted;
        if (Math.abs(drift) > LARGEST_DRIFT_S) place(video, wanted);
        video.playbackRate = Number(speed.value) * (1 - Math.max(-LARGEST_NUDGE, Math.min(LARGEST_NUDGE, drift)));
        if (video.paused) video.play().catch(() => {});
      }
    }
    show();
    ticking = requestAnimationFrame(tick);
  }

  function show() {
    const first = leader();
    play.textContent = playing ? "Pause" : "Play";
    controls.classList.toggle("empty", first === null);
    if (first === null) return;
    seek.max = first.duration;
    seek.value = wanted;
    const frames = Math.max(1, Math.round(first.duration * rate));
    frame.value = `frame ${Math.min(frames, Math.floor(wanted * rate + 1e-6) + 1)} of ${frames}`;
    for (const watcher of watchers) watcher();
  }

  // A video element under this clock, or a paragraph that says why there is none.
  function add(track, row, label) {
    const { rows } = track;
    if (rows.video[row] === "") return h("p", { class: "missing" }, `No video: ${textOf(rows.missing[row])}`);
    const video = h("video", { muted: true, playsinline: true, preload: "auto", src: rows.video[row], "aria-label": label,
      poster: rows.poster[row] || null,
      loadedmetadata: () => {
        video.width = video.videoWidth;
        video.height = video.videoHeight;
        place(video, wanted);
        show();
      },
      error: () => video.replaceWith(h("p", { class: "missing" }, "This browser cannot play the file.")) });
    // As an attribute it is only what a new page begins with.
    video.muted = true;
    videos.push(video);
    return video;
  }

  // Called whenever another moment is shown.
  function watch(watcher) {
    watchers.push(watcher);
  }

  function end() {
    ended = true;
    pause();
    // Browsers hold a limited number of open videos.
    for (const video of videos) {
      video.removeAttribute("src");
      video.load();
    }
  }

  show();
  return { controls, add, watch, toggle, step, end, videos };
}
