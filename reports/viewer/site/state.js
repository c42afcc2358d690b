// The site's data, and the view that the address names: whoever opens the same address sees the same.
"use strict";

let site = null;
const details = new Map();
const waiting = new Map();

// Called by data.js with the JSON text of everything but raw details.
function refbenchData(text) {
  site = JSON.parse(text);
  for (const track of site.tracks) prepare(track);
}

// Called by the files in details/, which hold one sample each.
function refbenchDetails(key, rows) {
  details.set(JSON.parse(key), JSON.parse(rows));
}

// The raw details of a sample, loaded when they are first asked for; a page from disk may load only scripts.
function loadDetails(trackNumber, sample) {
  const key = `${trackNumber}-${sample}`;
  if (!waiting.has(key)) {
    waiting.set(key, new Promise((resolve) => {
      const script = h("script", { src: `details/${key}.js` });
      script.addEventListener("load", () => resolve(details.get(key) ?? []));
      script.addEventListener("error", () => resolve(null));
      document.head.append(script);
    }));
  }
  return waiting.get(key);
}

// What is looked up often.
function prepare(track) {
  const { rows, samples } = track;
  track.number = site.tracks.indexOf(track);
  track.sampleOf = new Map(samples.ids.map((id, place) => [id, place]));
  track.methodOf = new Map(track.methods.map((method, place) => [method.label, place]));
  track.columnOf = new Map(track.columns.map((column, place) => [column.name, place]));
  track.words = samples.ids.map((id, place) => `${id} ${samples.prompts[place]}`.toLowerCase());
  track.categories = [...new Set(samples.categories)];
  track.seeds = [...new Set(rows.seed)].sort((a, b) => a - b);
  track.rowsOfSample = samples.ids.map(() => []);
  rows.sample.forEach((sample, row) => track.rowsOfSample[sample].push(row));
  track.hasVideos = rows.video.some((link) => link !== "");
  track.pairOf = new Map(track.pairs.map((pair) => [`${pair.a} ${pair.b}`, pair]));
}

function textOf(place) {
  return place < 0 ? "" : site.texts[place];
}

// A raw value as it counts: of the motion components only the size does.
function counted(column, value) {
  return column.absolute ? Math.abs(value) : value;
}

// The mean over seeds of a method's values in a column for a sample; null where it has none.
function sampleValue(track, sample, method, column) {
  const { rows } = track;
  return mean(track.rowsOfSample[sample]
    .filter((row) => rows.method[row] === method && rows.values[row][column] !== null)
    .map((row) => counted(track.columns[column], rows.values[row][column])));
}

// The score (0 to 1) with which a sample enters a column's mean; null for metrics beside TotalScore.
function share(track, method, column, sample) {
  return track.shares[method][column]?.[sample] ?? null;
}

// Where a raw value lies between the worst and the best of its column, within 0 to 1, for bars.
function barShare(column, value) {
  if (value === null || column.worst === null) return null;
  return Math.min(1, Math.max(0, (counted(column, value) - column.worst) / (column.best - column.worst)));
}

// Methods' places in the order of their values in a column for a sample, best first: place → rank from 1.
function ranks(track, sample, column) {
  const values = track.methods.map((_, method) => (
    track.columns[column].weight === null
      ? sampleValue(track, sample, method, column)
      : share(track, method, column, sample)));
  const known = values.filter((value) => value !== null).sort((a, b) => b - a);
  return values.map((value) => (value === null ? null : known.indexOf(value) + 1));
}

// A difference of two methods, the first minus the second, whichever way it was compared.
function comparedPair(track, a, b) {
  const straight = track.pairOf.get(`${a} ${b}`);
  if (straight) return straight;
  const other = track.pairOf.get(`${b} ${a}`);
  if (!other || other.why) return other;
  const turned = ([valueA, valueB, gap, low, high, detectable, samples]) => [
    valueB, valueA, negative(gap), negative(high), negative(low), detectable, samples];
  return {
    ...other, a, b, total: turned(other.total),
    components: Object.fromEntries(Object.entries(other.components).map(([name, one]) => [name, turned(one)])),
  };
}

function negative(value) {
  return value === null ? null : -value;
}

// The address: `#view=sample&track=…`. Methods, samples and columns are named, so that links outlive a rebuild.
const VIEWS = { overview: "Overview", samples: "Samples", sample: "One sample", pair: "Two methods" };

function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  const track = site.tracks.find((one) => one.name === given.get("track")) ?? site.tracks[0];
  const get = (name, fallback = "") => given.get(name) ?? fallback;
  const number = (name) => (get(name) === "" || Number.isNaN(Number(get(name))) ? null : Number(get(name)));
  return {
    view: Object.hasOwn(VIEWS, get("view")) ? get("view") : "overview",
    track,
    text: get("text"),
    category: get("category"),
    methods: given.getAll("method").map((label) => track.methodOf.get(label)).filter((one) => one !== undefined),
    seed: number("seed"),
    only: get("only"),
    column: track.columnOf.get(get("column")) ?? 0,
    low: number("low"),
    high: number("high"),
    sort: get("sort", "sample"),
    a: track.methodOf.get(get("a")) ?? 0,
    b: track.methodOf.get(get("b")) ?? Math.min(1, track.methods.length - 1),
    by: get("by", "total"),
    sample: track.sampleOf.get(get("sample")) ?? null,
    layout: get("layout", "beside"),
    published: get("published") !== "no",
    found: get("found") === "yes",
  };
}

// The address of this view with changes; null and "" leave a key out.
function address(changes) {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(changes)) {
    given.delete(name);
    const values = Array.isArray(value) ? value : [value];
    for (const one of values) if (one !== null && one !== undefined && one !== "") given.append(name, one);
  }
  return `#${given}`;
}

// Go to a view. `replace` leaves no step in the history (typing, dragging).
function go(changes, { replace = false } = {}) {
  const target = address(changes);
  if (target === location.hash) return;
  if (replace) location.replace(target);
  else location.hash = target;
  // The event comes later; the page must not wait for it.
  render();
}
