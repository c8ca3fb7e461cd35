// Elements without markup: whatever a document, a question or an answer brings becomes text nodes.

const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;

/** Text without control characters and without marks that turn the direction of what follows. */
export const printable = (text) => String(text).replace(CONTROL, "");

/** Make an element: `el("p", { class: "quiet", onclick }, "text", other)`. */
export function el(name, given = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "place") for (const [side, size] of Object.entries(value)) made.style.setProperty(side, size);
    else made.setAttribute(key, value === true ? "" : printable(value));
  }
  append(made, inside);
  return made;
}

export function append(target, inside) {
  for (const one of inside.flat(Infinity)) {
    if (one === null || one === undefined || one === false) continue;
    target.append(one instanceof Node ? one : printable(one));
  }
  return target;
}

export const fill = (target, ...inside) => append((target.replaceChildren(), target), inside);

export const byId = (id) => document.getElementById(id);

export const number = (value) => Number(value).toLocaleString("en-US");

export const counted = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;

export function seconds(value) {
  if (value < 10) return `${value.toFixed(1)} s`;
  return value < 120 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;
}

/** The class of a tree level, which has a colour of its own. */
export const tint = (level) => `l${Math.min(level, 5)}`;

let hiding;
export function toast(text) {
  const shown = byId("toast");
  fill(shown, text);
  shown.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => shown.classList.remove("shown"), 3500);
}

/** Tell those who listen to the page rather than look at it. */
export const say = (text) => fill(byId("spoken"), text);

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
