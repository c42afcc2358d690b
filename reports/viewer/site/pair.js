// Two methods: what the samples say of each difference, and the samples that decide the gap, video over video.
"use strict";

function drawPair(state, place) {
  const { track, a, b } = state;
  const labels = track.methods.map((method) => [method.label, method.label]);
  if (track.methods.length < 2) {
    place.append(h("h1", {}, "Two methods"), h("p", {}, "The records are of one method only."));
    return {};
  }
  const [labelA, labelB] = [track.methods[a].label, track.methods[b].label];
  place.append(
    h("h1", {}, `${labelA} and ${labelB}`),
    h("div", { class: "tools" }, choice("A", labels, labelA, (value) => go({ a: value })), choice("B", labels, labelB, (value) => go({ b: value })),
      h("button", { type: "button", click: () => go({ a: labelB, b: labelA }) }, "Swap")));
  const pair = comparedPair(track, a, b);
  if (!pair || pair.why) {
    place.append(h("p", { class: "warning" }, a === b ? "Choose two methods." : `Not compared: ${pair?.why ?? "there is nothing to compare"}`));
    return {};
  }
  const decisive = decisiveSamples(state);
  const sample = state.sample ?? decisive[0]?.sample ?? 0;
  const player = makePlayer(track.methods[a].fps ?? track.methods[b].fps);
  const index = decisive.findIndex((one) => one.sample === sample);
  const move = (by) => {
    const next = decisive[index + by];
    if (next !== undefined) go({ sample: track.samples.ids[next.sample] });
  };
  place.append(differenceTable(track, pair, state),
    h("section", {}, h("h2", {}, `${track.samples.ids[sample]} side by side`),
      promptAndReferences(track, sample),
      h("div", { class: "tools" }, choice("Layout", [["beside", "side by side"], ["slider", "one over the other, with a slider"]], state.layout, (value) => go({ layout: value })),
        track.seeds.length > 1 ? choice("Seed", [["", "first"], ...track.seeds.map((one) => [one, one])], state.seed ?? "", (value) => go({ seed: value })) : "",
        h("a", { href: address({ view: "sample", sample: track.samples.ids[sample] }) }, "all methods")),
      player.controls, twoVideos(state, sample, player)),
    decisiveSection(state, decisive, sample));
  return {
    key(event) {
      if (event.key === "j") move(1);
      else if (event.key === "k") move(-1);
      else return playerKey(player, event);
      return true;
    },
    end: player.end,
  };
}

function differenceTable(track, pair, state) {
  const columns = track.columns.filter((column) => column.weight !== null);
  const rows = [["total", "Total", pair.total], ...columns.map((column) => [column.name, column.label, pair.components[column.name]])].filter(([, , one]) => one);
  const largest = Math.max(...rows.flatMap(([, , one]) => one.slice(2, 5).map((value) => Math.abs(value ?? 0))), 1e-9);
  return h("section", {}, h("h2", {}, "Differences"),
    h("p", { class: "quiet" }, `A minus B in points over ${count(pair.samples, "sample")} that both have; lines are 95 % intervals of the paired bootstrap, not corrected. `
      + `Of the totals, corrected for all pairs: ${pair.told_apart ? "the samples tell them apart" : "the samples cannot tell them apart"}${pair.adjusted === null ? "" : ` (p = ${pair.adjusted.toPrecision(2)})`}.`),
    scrolled(h("table", { class: "differences" },
      h("thead", {}, h("tr", {}, ["", "A", "B", "A − B", "", "95 % interval", "smallest gap that would show"].map((text, place) => h("th", { scope: "col", class: place && place !== 4 ? "number" : null }, text)))),
      h("tbody", {}, rows.map(([name, label, [valueA, valueB, gap, low, high, detectable]]) => {
        const apart = low !== null && (low > 0 || high < 0);
        return h("tr", { class: state.by === name ? "chosen" : null },
          h("th", { scope: "row" }, h("a", { href: address({ by: name === "total" ? null : name }) }, label)),
          h("td", { class: "number" }, percent(valueA)), h("td", { class: "number" }, percent(valueB)),
          h("td", { class: `number${apart ? (gap > 0 ? " better" : " worse") : ""}` }, points(gap)),
          h("td", {}, gapLine(gap, low, high, largest)),
          h("td", { class: "number quiet" }, low === null ? NONE : `[${points(low)}, ${points(high)}]`),
          h("td", { class: "number quiet" }, percent(detectable)));
      }))), "Differences"),
    h("ul", { class: "notes" }, pair.notes.map((text) => h("li", {}, text))));
}

// A difference with its interval on both sides of zero.
function gapLine(gap, low, high, largest) {
  if (gap === null) return "";
  const x = (value) => (60 + 56 * value / largest).toFixed(1);
  return svg("svg", { class: "line", viewBox: "0 0 120 16", width: 120, height: 16, "aria-hidden": "true" },
    svg("line", { class: "zero", x1: 60, x2: 60, y1: 0, y2: 16 }),
    low === null ? null : svg("line", { x1: x(low), x2: x(high), y1: 8, y2: 8 }),
    svg("circle", { cx: x(gap), cy: 8, r: 3.5 }));
}

// Each sample's part of the gap, the largest first: its difference, weighed as in the means that both have.
function decisiveSamples({ track, a, b, by }) {
  const columns = track.columns.map((column, place) => [column, place]).filter(([column]) => column.weight !== null && (by === "total" || column.name === by));
  const counted = columns.map(([, column]) => track.samples.ids.filter((_, sample) => share(track, a, column, sample) !== null && share(track, b, column, sample) !== null).length);
  return track.samples.ids.map((_, sample) => {
    let gap = null;
    columns.forEach(([column, place], number) => {
      const [one, other] = [share(track, a, place, sample), share(track, b, place, sample)];
      if (one === null || other === null) return;
      gap = (gap ?? 0) + (by === "total" ? column.weight : 1) * (one - other) / counted[number];
    });
    return { sample, gap };
  }).filter((one) => one.gap !== null).sort((one, other) => Math.abs(other.gap) - Math.abs(one.gap) || one.sample - other.sample);
}

function decisiveSection(state, decisive, sample) {
  const { track, by } = state;
  const largest = Math.max(...decisive.map((one) => Math.abs(one.gap)), 1e-9);
  const label = by === "total" ? "TotalScore" : track.columns[track.columnOf.get(by)]?.label ?? by;
  const list = h("ol", { class: "decisive" });
  const show = (most) => list.replaceChildren(...decisive.slice(0, most).map(({ sample: one, gap }) => h("li", {},
    h("a", { href: address({ sample: track.samples.ids[one] }), "aria-current": one === sample ? "true" : null }, track.samples.ids[one]),
    styled(h("span", { class: gap < 0 ? "bar down" : "bar" }), { "--share": Math.abs(gap) / largest }),
    h("span", { class: "number" }, points(gap)))));
  const more = h("button", { type: "button", click: () => { show(decisive.length); more.remove(); } }, `All ${decisive.length} samples`);
  show(12);
  return h("section", {}, h("h2", {}, "Samples that decide the gap"),
    h("p", { class: "quiet" }, `Points that each sample adds to A − B in ${label}, the largest first; samples without a value in one of the two add nothing here. Choose a component in the table above.`),
    list, decisive.length > 12 ? more : null);
}

function twoVideos(state, sample, player) {
  const { track, a, b, layout } = state;
  const pick = (method) => {
    const rows = rowsOf(track, sample, method);
    return rows.find((row) => track.rows.seed[row] === state.seed) ?? rows.find((row) => track.rows.video[row] !== "") ?? rows[0];
  };
  const [rowA, rowB] = [pick(a), pick(b)];
  const one = (row, method, side) => (row === undefined ? h("p", { class: "missing" }, "This method has no record of the sample.")
    : player.add(track, row, `${side}: ${track.samples.ids[sample]} by ${track.methods[method].label}`));
  const [videoA, videoB] = [one(rowA, a, "A"), one(rowB, b, "B")];
  const scores = (row) => (row === undefined ? "" : h("div", { class: "scores" }, track.columns.map((column, place) => score(track, row, column, place))));
  const caption = (side, method, row) => h("figcaption", {}, h("strong", {}, `${side} `), track.methods[method].label, track.seeds.length > 1 && row !== undefined ? `, seed ${track.rows.seed[row]}` : "", scores(row));
  if (layout !== "slider" || videoA.tagName !== "VIDEO" || videoB.tagName !== "VIDEO") {
    return h("div", { class: "two" }, h("figure", {}, videoA, caption("A", a, rowA)), h("figure", {}, videoB, caption("B", b, rowB)));
  }
  const stage = styled(h("div", { class: "stage" }, videoB, videoA), { "--cut": "50%" });
  const slider = h("input", { type: "range", min: 0, max: 100, value: 50, step: 1, class: "cut", "aria-label": "A to the left, B to the right",
    input: () => styled(stage, { "--cut": `${slider.value}%` }) });
  stage.append(h("span", { class: "side" }, "A"), h("span", { class: "side right" }, "B"));
  return h("div", { class: "over" }, stage, slider,
    h("div", { class: "two" }, h("figure", {}, caption("A", a, rowA)), h("figure", {}, caption("B", b, rowB))));
}
