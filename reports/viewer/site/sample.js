// One sample: prompt, references, the chosen methods' videos in step, every score with its rank, raw details.
"use strict";

const FIRST_METHODS = 6;

// The samples in the order of the samples view, so that "next" goes where the grid went.
function sampleOrder(state) {
  const order = [...new Set(chosenRows(state).map((row) => state.track.rows.sample[row]))];
  return state.sample !== null && !order.includes(state.sample) ? state.track.samples.ids.map((_, sample) => sample) : order;
}

function drawSample(state, place) {
  const { track } = state;
  const order = sampleOrder(state);
  const sample = state.sample ?? order[0] ?? 0;
  const index = order.indexOf(sample);
  const { samples } = track;
  const move = (by) => {
    const next = order[index + by];
    if (next !== undefined) go({ sample: samples.ids[next] });
  };
  const beside = new URLSearchParams(location.hash.slice(1)).getAll("beside").map((label) => track.methodOf.get(label)).filter((one) => one !== undefined);
  const chosen = beside.length ? beside : defaultMethods(track, sample);
  const player = makePlayer(track.methods[chosen[0]]?.fps);
  const found = makeFound(state, sample, player);
  place.append(
    h("div", { class: "heading" },
      h("h1", {}, samples.ids[sample], " ", h("span", { class: "quiet" }, samples.categories[sample])),
      h("div", { class: "steps" },
        h("button", { type: "button", disabled: index <= 0, click: () => move(-1) }, "Previous"),
        h("span", { class: "quiet" }, `${index + 1} of ${order.length}`),
        h("button", { type: "button", disabled: index >= order.length - 1, click: () => move(1) }, "Next"),
        h("a", { href: address({ view: "samples", sample: null, beside: null }) }, "All samples"))),
    promptAndReferences(track, sample),
    methodChoice(track, chosen),
    player.controls,
    found.controls ?? "",
    videoTable(track, sample, chosen, player, found),
    scoreTable(track, sample, chosen),
    detailSection(track, sample, chosen));
  return {
    key(event) {
      if (event.key === "j") move(1);
      else if (event.key === "k") move(-1);
      else if (event.key === "Escape") go({ view: "samples", sample: null, beside: null });
      else return playerKey(player, event);
      return true;
    },
    end: player.end,
  };
}

// Keys of every view with a player. A button under the focus keeps its own meaning of Space.
function playerKey(player, event) {
  if (event.key === " " && !event.target.matches?.("button, a, summary, input")) player.toggle();
  else if (event.key === ".") player.step(1);
  else if (event.key === ",") player.step(-1);
  else return false;
  return true;
}

// The first methods of the ranking that have something of the sample.
function defaultMethods(track, sample) {
  const there = [...new Set(track.rowsOfSample[sample].map((row) => track.rows.method[row]))];
  const withVideo = there.filter((method) => track.rowsOfSample[sample].some((row) => track.rows.method[row] === method && track.rows.video[row] !== ""));
  return (withVideo.length ? withVideo : there).sort((a, b) => a - b).slice(0, FIRST_METHODS);
}

function promptAndReferences(track, sample) {
  const { prompts, references } = track.samples;
  return h("div", { class: "given" },
    prompts[sample] ? h("p", { class: "prompt-text" }, prompts[sample]) : null,
    references[sample].length ? h("ul", { class: "references", "aria-label": "References" }, references[sample].map(({ label, link }) => h("li", {},
      link ? h("a", { href: link }, h("img", { src: link, alt: `Reference: ${label}`, loading: "lazy" })) : h("span", { class: "warning" }, "missing picture"),
      h("span", {}, label)))) : null);
}

function methodChoice(track, chosen) {
  const boxes = track.methods.map((method, place) => h("label", { class: "box" },
    h("input", { type: "checkbox", value: place, checked: chosen.includes(place), change: () => {
      const now = boxes.map((box) => box.querySelector("input")).filter((box) => box.checked).map((box) => track.methods[Number(box.value)].label);
      go({ beside: now });
    } }), ` ${method.label}`));
  return h("details", { class: "methods", open: track.methods.length <= 8 },
    h("summary", {}, `${count(chosen.length, "method")} of ${track.methods.length}`), h("div", { class: "boxes" }, boxes));
}

function rowsOf(track, sample, method) {
  return track.rowsOfSample[sample].filter((row) => track.rows.method[row] === method);
}

// A figure for each method; the seeds of a method stand beside each other within it.
function videoTable(track, sample, chosen, player, found) {
  return h("div", { class: "videos" }, chosen.map((method) => {
    const { label } = track.methods[method];
    const rows = rowsOf(track, sample, method);
    return styled(h("figure", {},
      h("figcaption", {}, h("strong", {}, label)),
      h("div", { class: "seeds" }, rows.map((row) => h("div", { class: "seed" },
        found.over(player.add(track, row, `${track.samples.ids[sample]} by ${label}, seed ${track.rows.seed[row]}`), row),
        h("p", { class: "quiet" },
          rows.length > 1 || track.seeds.length > 1 ? `seed ${track.rows.seed[row]} ` : "",
          track.rows.video[row] ? h("a", { href: track.rows.video[row], "aria-label": `File of ${label}, seed ${track.rows.seed[row]}` }, "file") : null,
          track.rows.changed[row] ? h("span", { class: "warning" }, " not the file that was scored") : null)))),
      rows.length ? null : h("p", { class: "missing" }, "This method has no record of the sample.")), { "--seeds": Math.max(1, rows.length) });
  }));
}

function scoreTable(track, sample, chosen) {
  const rows = chosen.flatMap((method) => rowsOf(track, sample, method));
  if (!rows.length) return "";
  const orders = track.columns.map((_, column) => ranks(track, sample, column));
  const methods = track.methods.length;
  const several = track.seeds.length > 1;
  // Reason in a component → the methods that have it.
  const said = new Map();
  const cell = (row, column) => {
    const value = track.rows.values[row][column];
    const method = track.rows.method[row];
    const rank = orders[column][method];
    if (value !== null) {
      const one = h("td", { class: "number heat-cell" }, rawText(value),
        rank === null ? null : h("span", { class: rank === 1 ? "place first" : "place", title: `rank ${rank} among ${methods} methods, over seeds` }, `#${rank}`));
      const known = barShare(track.columns[column], value);
      return known === null ? one : styled(one, { "--share": known });
    }
    const reason = textOf(track.rows.reasons[row][column]);
    if (!reason.startsWith("not_applicable")) {
      const key = `${track.columns[column].label}: ${reason}`;
      said.set(key, [...said.get(key) ?? [], `${track.methods[method].label}${several ? ` seed ${track.rows.seed[row]}` : ""}`]);
    }
    return h("td", { class: "number quiet", title: reason }, reason.startsWith("not_applicable") ? "n/a" : h("span", { class: "warning" }, reason.split(":")[0]));
  };
  const table = h("table", { class: "scores-table" },
    h("caption", { class: "spoken" }, "Raw scores with the rank among methods"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Method"), several ? h("th", { scope: "col" }, "Seed") : null,
      track.columns.map((column) => h("th", { scope: "col", class: "number", title: `${column.label}: ${column.meaning}` }, column.short)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, track.methods[track.rows.method[row]].label),
      several ? h("td", { class: "number" }, track.rows.seed[row]) : null,
      track.columns.map((_, column) => cell(row, column))))));
  const inapplicable = track.columns.map((column, place) => [column.label, textOf(track.rows.reasons[rows[0]][place])]).filter(([, reason]) => reason.startsWith("not_applicable"));
  return h("section", {}, h("h2", {}, "Scores"),
    h("p", { class: "quiet" }, "Raw, each on its metric's own scale; # is the rank among all methods of the track by what enters the mean, over seeds."),
    scrolled(table, "Scores"),
    h("ul", { class: "notes" }, inapplicable.map(([label, reason]) => h("li", {}, `${label}: ${reason}`)), [...said].map(([text, who]) => h("li", { class: "warning" }, `${text} (${who.join(", ")})`))));
}

function detailSection(track, sample, chosen) {
  const body = h("div", {}, h("p", { class: "quiet" }, "Loading …"));
  const section = h("details", { class: "raw" }, h("summary", {}, "Raw details of the metrics"), body);
  section.addEventListener("toggle", async () => {
    if (!section.open) return;
    const found = await loadDetails(track.number, sample);
    if (found === null) {
      body.replaceChildren(h("p", { class: "warning" }, "The file with the details is missing beside this page."));
      return;
    }
    const own = found.filter((one) => chosen.includes(one.method));
    body.replaceChildren(...(own.length ? track.columns.map((column, place) => detailsOf(track, column, own.filter((one) => one.column === place))) : [h("p", { class: "quiet" }, "The metrics left none.")]));
  });
  return section;
}

function detailsOf(track, column, found) {
  if (!found.length) return "";
  return h("section", {}, h("h3", {}, column.label), h("div", { class: "detail-cards" }, found.map(({ method, seed, details: said }) => h("div", { class: "detail-card" },
    h("strong", {}, track.methods[method].label, track.seeds.length > 1 ? `, seed ${seed}` : ""), readable(said)))));
}

// Details in words, lists and curves; their shape is the metric's own.
function readable(value) {
  if (Array.isArray(value)) {
    if (value.length >= 3 && value.every((one) => typeof one === "number")) return curve(value);
    if (value.every((one) => one === null || typeof one !== "object")) return h("span", {}, value.length ? value.map(plain).join(", ") : "none");
    return h("ol", {}, value.map((one) => h("li", {}, readable(one))));
  }
  if (value !== null && typeof value === "object") {
    return h("dl", { class: "facts" }, Object.entries(value).map(([name, inner]) => h("div", {}, h("dt", {}, name.replaceAll("_", " ")),
      h("dd", {}, name.endsWith("_boxes") && Array.isArray(inner) ? h("span", {}, `${inner.length}, to be drawn over the video`) : readable(inner)))));
  }
  return h("span", { class: "said" }, plain(value));
}

function plain(value) {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));
  if (typeof value === "boolean") return value ? "yes" : "no";
  return value === null ? NONE : value;
}

// Numbers over frames or windows as a line, with the numbers themselves below.
function curve(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (place) => (2 + 196 * place / (values.length - 1)).toFixed(1);
  const y = (value) => (high === low ? 22 : 42 - 40 * (value - low) / (high - low)).toFixed(1);
  return h("div", { class: "curve" },
    svg("svg", { viewBox: "0 0 200 44", role: "img", "aria-label": `${values.length} values from ${plain(low)} to ${plain(high)}` },
      svg("polyline", { points: values.map((value, place) => `${x(place)},${y(value)}`).join(" ") })),
    h("p", { class: "quiet" }, `${values.length} values, ${plain(low)} to ${plain(high)}, mean ${plain(mean(values))}`),
    h("details", {}, h("summary", {}, "numbers"), h("p", { class: "said" }, values.map(plain).join(", "))));
}
