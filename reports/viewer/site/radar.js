// The radar: an outline of the component means for each of the first methods, open where one is missing.
"use strict";

// More outlines than these hide each other.
const RADAR_METHODS = 6;
const RADAR_PX = 118;

function radarSection(track) {
  const columns = track.columns.filter((column) => column.weight !== null);
  if (columns.length < 3) return "";
  const methods = track.methods.slice(0, RADAR_METHODS);
  const shown = new Set(methods.keys());
  const frame = h("div");
  const draw = () => frame.replaceChildren(radar(track, columns, methods, shown));
  const legend = h("ul", { class: "radar-legend" }, methods.map((method, place) => h("li", {}, h("label", {},
    h("input", { type: "checkbox", checked: true, change: (event) => {
      if (event.target.checked) shown.add(place);
      else shown.delete(place);
      draw();
    } }), svg("svg", { viewBox: "0 0 26 8", width: 26, height: 8, "aria-hidden": "true" }, svg("line", { class: `outline outline-${place}`, x1: 0, x2: 26, y1: 4, y2: 4 })), " ", method.label))));
  draw();
  return h("section", {}, h("h2", {}, "Components"),
    h("p", { class: "quiet" }, `Means in percent of each range, 0 in the middle and 100 at the rim${track.methods.length > RADAR_METHODS ? `; the first ${RADAR_METHODS} of the ranking` : ""}. An open outline lacks a component.`),
    h("div", { class: "radar" }, frame, legend));
}

function radar(track, columns, methods, shown) {
  const angle = (place) => 2 * Math.PI * place / columns.length - Math.PI / 2;
  const point = (place, value) => {
    const radius = RADAR_PX * Math.min(1, Math.max(0, value));
    return [radius * Math.cos(angle(place)), radius * Math.sin(angle(place))].map((one) => one.toFixed(1)).join(",");
  };
  const ring = (value) => columns.map((_, place) => point(place, value)).join(" ");
  return svg("svg", { viewBox: "-190 -150 380 300", role: "img", "aria-label": `Component means of ${count(shown.size, "method")}; the table above holds the numbers` },
    [0.25, 0.5, 0.75, 1].map((value) => svg("polygon", { class: "ring", points: ring(value) })),
    columns.flatMap((column, place) => {
      const [x, y] = [1.12 * RADAR_PX * Math.cos(angle(place)), 1.12 * RADAR_PX * Math.sin(angle(place))];
      const side = Math.abs(x) < 20 ? "middle" : x > 0 ? "start" : "end";
      return [svg("line", { class: "ring", x1: 0, y1: 0, x2: x / 1.12, y2: y / 1.12 }), svg("text", { x, y: y + 4, "text-anchor": side }, column.short)];
    }),
    methods.flatMap((method, number) => (shown.has(number) ? outline(columns.map((column) => method.components[column.name]?.value ?? null), number, point, method.label) : [])));
}

// The runs of known values as lines, and each known value as a point.
function outline(values, number, point, label) {
  const around = values.length;
  const lines = values.map((value, place) => [place, (place + 1) % around]).filter(([from, to]) => values[from] !== null && values[to] !== null);
  const whole = lines.length === around;
  const drawn = whole
    ? [svg("polygon", { class: `outline outline-${number}`, points: values.map((value, place) => point(place, value)).join(" ") })]
    : lines.map(([from, to]) => svg("polyline", { class: `outline outline-${number}`, points: `${point(from, values[from])} ${point(to, values[to])}` }));
  const dots = values.flatMap((value, place) => {
    if (value === null) return [];
    const [x, y] = point(place, value).split(",");
    return [svg("circle", { class: `dot dot-${number}`, cx: x, cy: y, r: 2.6 }, svg("title", {}, `${label}: ${percent(value)}`))];
  });
  return [...drawn, ...dots];
}
