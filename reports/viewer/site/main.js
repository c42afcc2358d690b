// Which view stands on the page, and the keys that all views share.
"use strict";

const DRAW = { overview: drawOverview, samples: drawSamples, sample: drawSample, pair: drawPair };
// What the current view brings: `update(state)` takes a new state or returns false, `key(event)`, `end()`.
let current = null;
let currentView = "";
let drawn = null;

function render() {
  if (drawn === location.hash) return;
  drawn = location.hash;
  const state = readState();
  if (current !== null && currentView === state.view && current.update?.(state)) {
    drawFrame(state);
    return;
  }
  current?.end?.();
  const changed = currentView !== state.view;
  currentView = state.view;
  const place = document.getElementById("view");
  place.replaceChildren();
  current = DRAW[state.view](state, place);
  drawFrame(state);
  if (changed) scrollTo(0, 0);
}

function drawFrame(state) {
  document.title = `${VIEWS[state.view]} · ${state.track.name} · refbench viewer`;
  const links = Object.entries(VIEWS).map(([view, name]) => h("li", {},
    h("a", { href: address({ view: view === "overview" ? null : view }), "aria-current": view === state.view ? "page" : null }, name)));
  document.getElementById("views").replaceChildren(...links);
  document.getElementById("track").value = String(state.track.number);
}

function drawPage() {
  const track = document.getElementById("track");
  track.append(...site.tracks.map((one, place) => h("option", { value: place }, one.name)));
  // Samples, methods and columns are of one track.
  track.addEventListener("change", () => {
    const view = readState().view;
    location.hash = `#${new URLSearchParams({ view: view === "sample" ? "samples" : view, track: site.tracks[Number(track.value)].name })}`;
    render();
  });
  document.getElementById("footer").append(
    ...site.left_out.map((text) => h("p", { class: "warning" }, `Left out: ${text}`)),
    ...site.licence_notes.map((text) => h("p", { class: "quiet" }, `${text}.`)),
    h("p", { class: "quiet" }, `Made by refbench ${site.version}${site.anonymous ? "; methods have letters in place of names" : ""}. Nothing on this page is loaded from elsewhere.`));
  const help = document.getElementById("help");
  document.getElementById("help-button").addEventListener("click", () => help.showModal());
  document.querySelector(".skip").addEventListener("click", (event) => {
    // The address is the view's state: the browser must not change it.
    event.preventDefault();
    document.getElementById("view").focus();
  });
  addEventListener("hashchange", render);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const typing = event.target.matches?.("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (typing && event.key !== "Escape") return;
    if (event.key === "?") help.showModal();
    else if (current?.key?.(event)) event.preventDefault();
  });
  render();
  performance.mark("drawn");
}

if (site !== null) drawPage();
else document.getElementById("view").append(h("p", {}, "data.js is missing beside this page: write the site again."));
