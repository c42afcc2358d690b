// Building blocks of the page. What comes from data becomes text and attributes, never HTML.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const NONE = "–";

// An element. Attributes that are null, undefined or false are left out; functions become listeners.
function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...shownOnly(children.flat()));
  return element;
}

function shownOnly(children) {
  return children.filter((child) => child !== null && child !== undefined && child !== false);
}

function styled(element, properties) {
  for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, String(value));
  return element;
}

function percent(share) {
  return share === null || share === undefined ? NONE : (100 * share).toFixed(2);
}

function points(share) {
  if (share === null || share === undefined) return NONE;
  const text = Math.abs(100 * share).toFixed(2);
  return `${share < 0 ? "−" : "+"}${text}`;
}

function intervalText(interval) {
  return interval ? `[${percent(interval[0])}, ${percent(interval[1])}]` : "";
}

function rawText(value) {
  return value === null || value === undefined ? NONE : value.toFixed(4);
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

// A choice with its label; `options` are [value, text].
function choice(label, options, value, onChange, attributes = {}) {
  const select = h("select", { change: () => onChange(select.value), ...attributes },
    options.map(([given, text]) => h("option", { value: given }, text)));
  select.value = value;
  return h("label", {}, label, " ", select);
}

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
