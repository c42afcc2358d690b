// All videos in a grid: filtered, sorted, and of any number, since only those near the screen are drawn.
"use strict";

const CARD_PX = { narrow: 150, wide: 215 };
const GAP_PX = 10;
// Rows of cards that are drawn above and below the screen.
const AHEAD = 1;

const ONLY = [["", "all"], ["scored", "everything scored"], ["failed", "something failed or missing"],
  ["no-video", "without a video"], ["changed", "changed since scored"]];

// The rows of a state in its order.
function chosenRows(state) {
  const { track } = state;
  const { rows, samples } = track;
  const words = state.text.toLowerCase().split(/\s+/).filter((word) => word);
  const difference = state.sort === "difference";
  const methods = new Set(difference ? [state.a, state.b] : state.methods);
  const bySample = samples.ids.map((_, sample) => (
    (state.category === "" || samples.categories[sample] === state.category)
    && words.every((word) => track.words[sample].includes(word))));
  const found = [];
  for (let row = 0; row < rows.sample.length; row += 1) {
    if (!bySample[rows.sample[row]]) continue;
    if (methods.size && !methods.has(rows.method[row])) continue;
    if (state.seed !== null && rows.seed[row] !== state.seed) continue;
    if (!isOnly(track, row, state.only)) continue;
    const value = rows.values[row][state.column];
    if ((state.low !== null && !(value !== null && value >= state.low))
      || (state.high !== null && !(value !== null && value <= state.high))) continue;
    found.push(row);
  }
  return sorted(found, state);
}

function isOnly(track, row, only) {
  const { rows } = track;
  if (only === "no-video") return rows.video[row] === "";
  if (only === "changed") return rows.changed[row] === 1;
  if (only !== "scored" && only !== "failed") return true;
  const whole = rows.reasons[row].every((reason, column) => (
    reason < 0 || track.columns[column].weight === null || textOf(reason).startsWith("not_applicable")));
  return whole === (only === "scored");
}

function sorted(found, state) {
  const { track } = state;
  const { rows } = track;
  if (state.sort === "sample") return found;
  let key;
  if (state.sort === "difference") {
    const gaps = track.samples.ids.map((_, sample) => sampleGap(state, sample));
    key = (row) => gaps[rows.sample[row]];
  } else {
    const sign = state.sort === "best" ? -1 : 1;
    key = (row) => {
      const value = rows.values[row][state.column];
      return value === null ? null : sign * counted(track.columns[state.column], value);
    };
  }
  // What has no value stands last; equals stay in the order of samples.
  const keys = new Map(found.map((row) => [row, key(row)]));
  return [...found].sort((one, other) => {
    const [a, b] = [keys.get(one), keys.get(other)];
    if (a === null || b === null) return (a === null) - (b === null) || one - other;
    return a - b || one - other;
  });
}

// A minus B of the chosen component, over seeds; null where one of the two has no value.
function sampleGap({ track, a, b, column }, sample) {
  const [one, other] = [a, b].map((method) => sampleValue(track, sample, method, column));
  return one === null || other === null ? null : one - other;
}

function gapOf(state, row) {
  return state.sort === "difference" ? sampleGap(state, state.track.rows.sample[row]) : null;
}

function drawSamples(state, place) {
  let shown = [];
  let now = state;
  const tools = h("div", { class: "tools", role: "group", "aria-label": "Filter and sort" });
  const found = h("p", { class: "quiet", role: "status" });
  const grid = h("ul", { class: "grid" });
  place.append(h("h1", {}, "Samples"), tools, found, grid);
  const cards = new Map();
  let layout = null;
  let focused = 0;
  let drawnSort = "";

  function measure() {
    const width = grid.clientWidth;
    const smallest = width < 480 ? CARD_PX.narrow : CARD_PX.wide;
    const columns = Math.max(1, Math.floor((width + GAP_PX) / (smallest + GAP_PX)));
    const cell = (width - GAP_PX * (columns - 1)) / columns;
    const text = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
    const lines = Math.ceil(now.track.columns.length / 2);
    const height = Math.round(cell * 0.62 + text * (5.9 + 1.32 * lines));
    layout = { columns, cell, height };
    grid.style.setProperty("height", `${Math.ceil(shown.length / columns) * (height + GAP_PX)}px`);
  }

  // Draw the cards near the screen, and remove the others.
  function draw() {
    if (layout === null) return;
    const top = -grid.getBoundingClientRect().top;
    const step = layout.height + GAP_PX;
    const first = Math.max(0, Math.floor(top / step) - AHEAD) * layout.columns;
    const last = Math.min(shown.length, (Math.ceil((top + innerHeight) / step) + AHEAD) * layout.columns);
    const keep = new Set(shown.slice(first, last));
    for (const [row, card] of cards) {
      if (!keep.has(row)) {
        drop(card);
        cards.delete(row);
      }
    }
    for (let index = first; index < last; index += 1) {
      const row = shown[index];
      if (!cards.has(row)) {
        cards.set(row, card(now.track, row, gapOf(now, row)));
        grid.append(cards.get(row));
      }
      const one = cards.get(row);
      styled(one, { left: `${(index % layout.columns) * (layout.cell + GAP_PX)}px`, top: `${Math.floor(index / layout.columns) * step}px`,
        width: `${layout.cell}px`, height: `${layout.height}px`, "--thumb": `${Math.round(layout.cell * 0.62)}px` });
      one.setAttribute("aria-posinset", index + 1);
      one.setAttribute("aria-setsize", shown.length);
      const link = one.querySelector("a");
      link.tabIndex = index === focused ? 0 : -1;
      link.dataset.index = index;
      link.href = address({ view: "sample", sample: now.track.samples.ids[now.track.rows.sample[row]] });
    }
  }

  function apply(next) {
    performance.mark("choose");
    const sameTrack = now.track === next.track;
    now = next;
    shown = chosenRows(now);
    const sort = now.sort === "difference" ? `${now.a} ${now.b} ${now.column}` : "";
    // What stands on a card depends on both.
    if (!sameTrack || sort !== drawnSort) clear();
    drawnSort = sort;
    focused = Math.min(focused, Math.max(0, shown.length - 1));
    found.textContent = `${shown.length} of ${count(now.track.rows.sample.length, "video")}`
      + (now.track.hasVideos ? "" : "; no video can be shown");
    measure();
    draw();
    performance.measure("filter and sort", "choose");
  }

  function clear() {
    for (const one of cards.values()) drop(one);
    cards.clear();
  }

  let asked = 0;
  const later = () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(draw);
  };
  const resized = new ResizeObserver(() => {
    measure();
    later();
  });
  addEventListener("scroll", later, { passive: true });
  resized.observe(grid);
  sampleTools(tools, () => now);
  apply(state);

  function focusOn(index) {
    focused = Math.max(0, Math.min(index, shown.length - 1));
    const step = layout.height + GAP_PX;
    const top = grid.getBoundingClientRect().top + Math.floor(focused / layout.columns) * step;
    if (top < 0) scrollBy(0, top - GAP_PX);
    else if (top + layout.height > innerHeight) scrollBy(0, top + layout.height - innerHeight + GAP_PX);
    draw();
    grid.querySelector(`a[data-index="${focused}"]`)?.focus({ preventScroll: true });
  }

  return {
    update(next) {
      if (next.track !== now.track) return false;
      apply(next);
      sampleTools(tools, () => now);
      return true;
    },
    key(event) {
      if (event.key === "/") {
        tools.querySelector("[type=search]").focus();
        return true;
      }
      const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -layout.columns, ArrowDown: layout.columns };
      const inGrid = grid.contains(document.activeElement);
      // Outside of the grid the arrows scroll the page as everywhere.
      if (!(event.key in moves) || !inGrid) return false;
      focusOn(focused + moves[event.key]);
      return true;
    },
    end() {
      removeEventListener("scroll", later);
      resized.disconnect();
      cancelAnimationFrame(asked);
      clear();
    },
  };
}

function drop(card) {
  for (const video of card.querySelectorAll("video")) {
    video.removeAttribute("src");
    video.load();
  }
  card.remove();
}

function card(track, row, gap) {
  const { rows, samples } = track;
  const [sample, method, seed] = [rows.sample[row], rows.method[row], rows.seed[row]];
  const label = track.methods[method].label;
  const name = `${samples.ids[sample]} by ${label}, seed ${seed}`;
  const picture = thumb(track, row);
  return h("li", { class: "card" }, h("a", { "aria-label": name, focus: picture.play, blur: picture.pause },
    picture.element,
    h("span", { class: "who" }, h("strong", {}, samples.ids[sample]), track.seeds.length > 1 ? h("span", { class: "quiet" }, ` seed ${seed}`) : null,
      gap === null ? null : h("span", { class: "gap", title: "A − B" }, `${gap < 0 ? "−" : "+"}${Math.abs(gap).toFixed(4)}`)),
    h("span", { class: "method" }, label, rows.changed[row] ? h("span", { class: "warning", title: "The file is not the one that was scored." }, " changed") : null),
    h("span", { class: "prompt quiet" }, samples.prompts[sample] || samples.categories[sample]),
    h("span", { class: "scores" }, track.columns.map((column, place) => score(track, row, column, place)))));
}

function score(track, row, column, place) {
  const value = track.rows.values[row][place];
  const reason = textOf(track.rows.reasons[row][place]);
  const known = barShare(column, value);
  const failed = value === null && !reason.startsWith("not_applicable");
  const one = h("span", { class: `score${failed ? " warning" : ""}`, title: `${column.label}${reason ? `: ${reason}` : ""}` },
    h("span", { class: "quiet" }, column.short), h("span", {}, failed ? "no value" : rawText(value)));
  return known === null ? one : styled(one, { "--share": known });
}

// The first frame, or the poster; it plays under the pointer and with the focus.
function thumb(track, row) {
  const { rows } = track;
  if (rows.video[row] === "") {
    return { element: h("span", { class: "thumb none" }, textOf(rows.missing[row])), play: null, pause: null };
  }
  const video = h("video", { class: "thumb", muted: true, loop: true, playsinline: true, preload: rows.poster[row] ? "none" : "metadata",
    src: rows.video[row], poster: rows.poster[row] || null, tabindex: -1, "aria-hidden": "true",
    error: () => video.replaceWith(h("span", { class: "thumb none" }, "This browser cannot play the file.")) });
  video.muted = true;
  const play = () => { if (!reducedMotion.matches) video.play().catch(() => {}); };
  const pause = () => video.pause();
  return { element: h("span", { class: "thumb-frame", pointerenter: play, pointerleave: pause }, video), play, pause };
}

// The row of choices; drawn again with the state, but a field that is being typed in stays.
function sampleTools(tools, state) {
  const { track, text, category, methods, seed, only, column, low, high, sort, a, b } = state();
  const labels = track.methods.map((method) => [method.label, method.label]);
  const name = (place) => track.methods[place]?.label ?? "";
  const search = tools.querySelector("[type=search]");
  const typed = document.activeElement;
  if (tools.contains(typed) && typed.matches("input")) {
    // Rebuilding would take the field from under the fingers.
    search.value = typed === search ? search.value : text;
    return;
  }
  const labelled = tools.contains(typed) ? typed.closest("label")?.firstChild.textContent : null;
  const number = (label, key, value) => h("label", {}, label, " ",
    h("input", { type: "number", step: "any", value: value ?? "", input: (event) => go({ [key]: event.target.value }, { replace: true }) }));
  tools.replaceChildren(
    h("label", { class: "search" }, "Prompt ", h("input", { type: "search", value: text, placeholder: "words in prompt or id",
      input: (event) => go({ text: event.target.value }, { replace: true }) })),
    choice("Category", [["", "all"], ...track.categories.map((one) => [one, one])], category, (value) => go({ category: value })),
    sort === "difference" ? "" : choice("Method", [["", "all"], ...labels], methods.length === 1 ? name(methods[0]) : "", (value) => go({ method: value })),
    track.seeds.length > 1 ? choice("Seed", [["", "all"], ...track.seeds.map((one) => [one, one])], seed ?? "", (value) => go({ seed: value })) : "",
    choice("Show", ONLY, only, (value) => go({ only: value })),
    choice("Order", [["sample", "by sample"], ["worst", "worst first"], ["best", "best first"], ...(labels.length > 1 ? [["difference", "by difference A − B, lowest first"]] : [])],
      sort, (value) => go({ sort: value === "sample" ? null : value })),
    choice("Component", track.columns.map((one) => [one.name, one.label]), track.columns[column].name, (value) => go({ column: value })),
    ...(sort === "difference" ? [choice("A", labels, name(a), (value) => go({ a: value })), choice("B", labels, name(b), (value) => go({ b: value }))] : []),
    number("from", "low", low), number("to", "high", high),
    h("button", { type: "button", click: () => {
      location.hash = `#${new URLSearchParams({ view: "samples", track: track.name })}`;
      render();
    } }, "Clear"));
  // The keyboard stays where it was.
  const same = [...tools.querySelectorAll("label")].find((one) => one.firstChild.textContent === labelled);
  same?.querySelector("select, input").focus();
}
