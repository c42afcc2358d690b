// The ranking with intervals and rank groups, the gaps that mean something, categories, coverage and cards.
"use strict";

function drawOverview(state, place) {
  const { track } = state;
  const unofficial = track.methods.some((method) => method.total === null && method.unofficial_total !== null);
  place.append(...shownOnly([
    h("h1", {}, `Ranking on ${track.name}`),
    h("p", { class: "quiet" }, `Protocol ${track.protocol}, percent, ${count(track.samples.ids.length, "sample")}. `
      + "Brackets and lines are 95 % bootstrap intervals over samples."),
    unofficial ? h("p", { class: "quiet" }, "Totals in italics are no TotalScores; below each method stands why.") : null,
    publishedChoice(state), rankingTable(state),
    ...methodNotes(track), radarSection(track), gapSection(track), categorySection(track), coverageSection(track), scoringSection(track), cardSection(track)]));
  return {};
}

function publishedChoice({ track, published }) {
  if (!track.published.length) return "";
  return h("p", {}, h("label", {},
    h("input", { type: "checkbox", checked: published, change: (event) => go({ published: event.target.checked ? null : "no" }) }),
    ` published rows beside the measured ones (${track.published.length})`));
}

function totalOf(method) {
  return method.total ?? method.unofficial_total;
}

function scrolled(table, label) {
  // A wide table moves within its own frame, which the keyboard must reach.
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, table);
}

function rankingTable({ track, published }) {
  const columns = track.columns.filter((column) => column.weight !== null);
  const measured = track.methods.map((method, rank) => ({ method, rank, total: totalOf(method) }));
  const others = published ? track.published.map((row) => ({ row, total: row.total })) : [];
  const order = [...measured, ...others].sort((one, other) => (other.total ?? -9) - (one.total ?? -9));
  const spans = order.flatMap(({ method, total }) => [total, ...(method?.interval ?? [])]).filter((one) => one !== null);
  const [low, high] = [Math.min(...spans, 1), Math.max(...spans, 0)];
  const best = columns.map((column) => {
    const values = track.methods.map((method) => method.components[column.name]?.value ?? null).filter((value) => value !== null);
    // Where all are equal none is best.
    return Math.max(...values) > Math.min(...values) ? Math.max(...values) : null;
  });
  return scrolled(h("table", { class: "ranking" },
    h("caption", { class: "spoken" }, `Methods on ${track.name}, the highest total first`),
    h("thead", {}, h("tr", {},
      h("th", { scope: "col", title: "The ranks that the samples leave open, corrected for many comparisons" }, "Rank"),
      h("th", { scope: "col" }, "Method"), h("th", { scope: "col", class: "number" }, "Total"),
      h("th", { scope: "col", colspan: 2 }, "95 % interval"), h("th", { scope: "col", class: "number" }, "Strict"),
      columns.map((column) => h("th", { scope: "col", class: "number", title: `${column.label}: ${column.meaning}; weight ${column.weight}` }, column.short)))),
    h("tbody", {}, order.map((entry) => (entry.method
      ? measuredRow(track, columns, entry, low, high, best)
      : publishedRow(columns, entry.row, low, high))))), "Ranking");
}

function measuredRow(track, columns, { method, rank, total }, low, high, best) {
  const [first, last] = method.group;
  const name = h("a", { href: address({ view: "samples", method: method.label }) }, method.label);
  return h("tr", {},
    h("td", { class: "rank" }, total === null ? "" : first === last ? `${first}` : `${first}–${last}`),
    h("th", { scope: "row" }, name),
    h("td", { class: `number total${method.total === null ? " unofficial" : ""}` }, percent(total)),
    h("td", {}, line(method.interval, total, low, high)), h("td", { class: "quiet number" }, intervalText(method.interval)),
    h("td", { class: "number" }, percent(method.strict)),
    columns.map((column, place) => {
      const component = method.components[column.name];
      const partial = component && component.counted < component.expected;
      return h("td", { class: `number${best[place] !== null && component?.value === best[place] ? " best" : ""}`,
        title: component ? `${component.counted} of ${component.expected} counted` : null },
        percent(component?.value), partial ? h("sup", {}, "*") : null);
    }));
}

function publishedRow(columns, row, low, high) {
  return h("tr", { class: "published" },
    h("td", { class: "rank" }), h("th", { scope: "row" }, row.method, " ",
      row.url ? h("a", { class: "tag", href: row.url, rel: "noreferrer", title: row.sources }, "published")
        : h("span", { class: "tag", title: row.sources }, "published")),
    h("td", { class: "number total" }, percent(row.total)), h("td", {}, line(null, row.total, low, high)), h("td"), h("td"),
    columns.map((column) => h("td", { class: "number" }, percent(row.components[column.name]))));
}

// A point with its interval on the scale of all methods.
function line(interval, total, low, high) {
  if (total === null) return "";
  const x = (value) => (4 + 112 * (high > low ? (value - low) / (high - low) : 0.5)).toFixed(1);
  return svg("svg", { class: "line", viewBox: "0 0 120 16", width: 120, height: 16, "aria-hidden": "true" },
    interval ? svg("line", { x1: x(interval[0]), x2: x(interval[1]), y1: 8, y2: 8 }) : null,
    svg("circle", { cx: x(total), cy: 8, r: 2.5 }));
}

function methodNotes(track) {
  const said = track.methods.map((method) => [method.label, [
    ...(method.why_no_total ? [`no TotalScore, ${method.why_no_total}`] : []), ...method.notes, ...method.remarks]]);
  const kept = said.filter(([, texts]) => texts.length);
  const partial = track.methods.some((method) => Object.values(method.components).some((one) => one.counted < one.expected));
  return [
    partial ? h("p", { class: "quiet" }, "* rests on fewer videos than expected; see coverage.") : null,
    kept.length ? h("details", { open: kept.length <= 3 }, h("summary", {}, `What must be said of ${count(kept.length, "method")}`),
      h("ul", { class: "notes" }, kept.map(([label, texts]) => h("li", {}, h("strong", {}, label), `: ${texts.join("; ")}`)))) : null,
    track.why_unknown ? h("p", { class: "quiet" }, `Prompts and references are not shown: ${track.why_unknown}`) : null,
  ];
}

function gapSection(track) {
  if (track.methods.length < 2) return "";
  if (track.pairs.every((pair) => pair.why || pair.total[2] === null)) {
    return h("section", {}, h("h2", {}, "Which gaps mean something"), h("p", { class: "quiet" }, "No two methods have a total to compare."));
  }
  const methods = track.methods;
  return h("section", {}, h("h2", {}, "Which gaps mean something"),
    h("p", { class: "quiet" }, "Row minus column in points of TotalScore over the samples that both have (paired bootstrap). "
      + "Marked: the samples tell the two apart, corrected for all pairs (Holm, 5 %). A rank such as 2–4 in the table above is what these leave open. Open a gap for its samples."),
    scrolled(h("table", { class: "gaps" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Method"),
        methods.map((method, b) => h("th", { scope: "col", class: "number", title: method.label, "aria-label": method.label }, letterless(b))))),
      h("tbody", {}, methods.map((method, a) => h("tr", {},
        h("th", { scope: "row" }, `${a + 1} ${method.label}`),
        methods.map((other, b) => gapCell(track, a, b)))))), "Gaps"));
}

function letterless(place) {
  return String(place + 1);
}

function gapCell(track, a, b) {
  if (a === b) return h("td", { class: "self" });
  const pair = comparedPair(track, a, b);
  if (!pair || pair.why) return h("td", { class: "number quiet", title: pair?.why }, NONE);
  const [, , gap, low, high] = pair.total;
  const apart = pair.told_apart;
  const title = `${track.methods[a].label} minus ${track.methods[b].label}: ${points(gap)} points, `
    + `${low === null ? "no interval" : `[${points(low)}, ${points(high)}]`}, ${apart ? "told apart" : "not told apart"}`;
  return h("td", { class: `number${apart ? (gap > 0 ? " better" : " worse") : ""}` },
    h("a", { href: address({ view: "pair", a: track.methods[a].label, b: track.methods[b].label }), title, "aria-label": title }, points(gap)));
}

function categorySection(track) {
  const columns = track.columns.filter((column) => column.weight !== null);
  const frame = h("div");
  const show = (name) => {
    const column = columns.find((one) => one.name === name);
    frame.replaceChildren(scrolled(h("table", { class: "heat" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Method"), track.categories.map((category) => h("th", { scope: "col", class: "number" }, category)))),
      h("tbody", {}, track.methods.map((method) => h("tr", {}, h("th", { scope: "row" }, method.label),
        track.categories.map((category) => {
          const value = method.categories[category]?.[name] ?? null;
          const cell = h("td", { class: "number" }, percent(value));
          return value === null ? cell : styled(cell, { "--share": Math.min(1, Math.max(0, value)) });
        }))))), `${column.label} by category`));
  };
  show(columns[0].name);
  return h("section", {}, h("h2", {}, "Categories"),
    choice("Component", columns.map((column) => [column.name, column.label]), columns[0].name, show), frame);
}

function coverageSection(track) {
  const columns = track.columns.filter((column) => column.weight !== null);
  return h("section", {}, h("h2", {}, "Coverage"),
    h("p", { class: "quiet" }, "Videos that entered each mean, of those expected. The strict total counts all others as the worst of the range."),
    scrolled(h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Method"), columns.map((column) => h("th", { scope: "col", class: "number" }, column.short)), h("th", { scope: "col" }, "Why not all"))),
      h("tbody", {}, track.methods.map((method) => h("tr", {}, h("th", { scope: "row" }, method.label),
        columns.map((column) => {
          const one = method.components[column.name];
          return h("td", { class: `number${one && one.counted < one.expected ? " warning" : ""}` }, one ? `${one.counted}/${one.expected}` : NONE);
        }),
        h("td", { class: "quiet" }, whyNotAll(columns, method)))))), "Coverage"));
}

function whyNotAll(columns, method) {
  return columns.map((column) => [column.short, Object.entries(method.components[column.name]?.reasons ?? {})])
    .filter(([, reasons]) => reasons.length)
    .map(([short, reasons]) => `${short}: ${reasons.map(([reason, number]) => `${number} ${reason}`).join(", ")}`)
    .join("; ");
}

// How each metric was computed: what must be equal for scores to compare.
function scoringSection(track) {
  const { headings, rows, notes } = track.scoring;
  return h("section", {}, h("h2", {}, "How it was scored"),
    scrolled(h("table", { class: "scoring" },
      h("thead", {}, h("tr", {}, headings.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map(([metric, ...cells]) => h("tr", {}, h("th", { scope: "row" }, metric), cells.map((text) => h("td", {}, text)))))), "How it was scored"),
    notes.map((text) => h("p", { class: "warning" }, text)));
}

function cardSection(track) {
  const cards = track.methods.filter((method) => Object.keys(method.card).length);
  if (!cards.length) return "";
  return h("section", {}, h("h2", {}, "Method cards"), cards.map((method) => h("details", {},
    h("summary", {}, method.label),
    h("dl", { class: "facts" }, Object.entries(method.card).map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)))))));
}
