// The document view: the text with its passages lit, loaded where one reads.

import { get, routes } from "./api.js";
import { isPdf, openPdf } from "./documents.js";
import { byId, calm, el, fill, number, tint, toast } from "./dom.js";
import { state } from "./state.js";
import { marked, nameOf, oneLine, flowing, sectionOf, Text } from "./text.js";

const PART = 12000; // characters that are loaded at a time
const BEFORE = 3000; // of these, in front of where one goes

let now = null; // what is shown
let closed = () => {};
let scoped = () => {};
let moved = () => {};
let watcher;

export const shown = () => now?.document.id ?? "";

export function start(onClose, onScope, onMove) {
  [closed, scoped, moved] = [onClose, onScope, onMove];
}

export function close() {
  if (!now) return;
  now = null;
  watcher?.disconnect();
  byId("reader").hidden = true;
  document.body.classList.remove("reads");
  closed();
}

/** Show a document; `citations` are those of an answer that lie in it, each with its rank.
 *  `at` is a rank, or { start, end } of any other place. */
export async function open(document_, { citations = [], words = new Set(), at = null, store = state.store } = {}) {
  const same = now?.document.id === document_.id && now.citations === citations && now.store === store;
  if (!same) {
    now = { document: document_, store, citations, words, pages: [], sections: [], characters: document_.characters, low: 0, high: 0, at: null };
    frame();
  }
  const spot = typeof at === "number" ? citations.find((one) => one.rank === at) : at;
  now.at = typeof at === "number" ? at : null;
  const opened = now;
  try {
    await go(spot ? (spot.match_start ?? spot.char_start ?? spot.start) : same ? now.low : 0, spot);
  } catch (error) {
    if (opened === now) fill(part("text"), el("p", { class: "problem", role: "alert" }, error.message));
  }
}

/** Make room beside an answer that is to come, so that it does not move when the document opens. */
export function expect() {
  if (now) return;
  const reader = byId("reader");
  fill(reader, el("p", { class: "expected quiet" }, "The best passage opens here."));
  reader.hidden = false;
  document.body.classList.add("reads");
}

export function expectNothing() {
  if (now) return;
  byId("reader").hidden = true;
  document.body.classList.remove("reads");
}

const part = (name) => byId("reader").querySelector(`.${name}`);

function frame() {
  const reader = byId("reader");
  reader.hidden = false;
  document.body.classList.add("reads");
  const { document: one } = now;
  fill(
    reader,
    el(
      "header",
      {},
      el("div", { class: "row between" }, el("h2", { title: one.source || one.name }, one.name), el("button", { class: "plain icon", "aria-label": "Close the document", title: "Close (Esc)", onclick: close }, "×")),
      el("div", { class: "row tools" }, el("select", { class: "contents", "aria-label": "Contents", hidden: true, onchange: (event) => toSection(event.target.value) }), el("button", { class: "plain small within", hidden: true, onclick: () => within() }, "Ask this section"), isPdf(one.id) ? el("button", { class: "plain small", onclick: () => openPdf(one.id, pageAt(topCharacter())) }, "Open PDF") : null),
      el("div", { class: "map" }),
    ),
    el("div", { class: "scroller", tabindex: "0", "aria-label": "Text" }, el("div", { class: "end before" }), el("div", { class: "text", dir: "auto" }, el("p", { class: "quiet" }, "Opening…")), el("div", { class: "end after" })),
  );
  showMap();
  const scroller = part("scroller");
  watcher?.disconnect();
  watcher = new IntersectionObserver((seen) => seen.forEach((one) => one.isIntersecting && extend(one.target.classList.contains("before"))), { root: scroller, rootMargin: "800px 0px" });
  let waits = false;
  scroller.onscroll = () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => ((waits = false), showPlace()));
  };
}

/** Go to a character: scroll there, or load the text around it. */
async function go(character, spot) {
  const opened = now;
  if (!(now.high && now.low <= character && character < now.high)) {
    const first = Math.max(0, character - BEFORE);
    const found = await fetchText(first, first + PART);
    if (opened !== now) return;
    watcher.disconnect();
    fill(part("text"), pieces(found));
    [now.low, now.high] = [found.start, found.end];
    part("scroller").scrollTop = 0;
    place(character, spot, false);
    showEnds();
    for (const end of [part("before"), part("after")]) watcher.observe(end);
  } else place(character, spot, true);
  light();
  showPlace();
}

function place(character, spot, smooth) {
  const scroller = part("scroller");
  const target =
    (now.at && part("text").querySelector(`mark[data-rank="${now.at}"] .match`)) ||
    (now.at && part("text").querySelector(`mark[data-rank="${now.at}"]`)) ||
    (spot && pieceAt(character));
  if (spot && !now.at) flash(target, character, spot.end ?? character);
  if (!target) return;
  const box = rectOf(target, character);
  const top = scroller.scrollTop + box.top - scroller.getBoundingClientRect().top - scroller.clientHeight * 0.3;
  scroller.scrollTo({ top, behavior: smooth && !calm() ? "smooth" : "instant" });
}

/** The place of a character within a piece of text, which may be long. */
function rectOf(target, character) {
  const text = target.firstChild;
  const from = Number(target.dataset.start);
  if (Number.isNaN(from) || text?.nodeType !== Node.TEXT_NODE) return target.getBoundingClientRect();
  const range = document.createRange();
  range.setStart(text, Math.min(Math.max(0, character - from), text.length));
  return range.getBoundingClientRect().height ? range.getBoundingClientRect() : target.getBoundingClientRect();
}

function pieceAt(character) {
  return [...part("text").querySelectorAll("[data-start]")].findLast((one) => Number(one.dataset.start) <= character);
}

/** Underlay a place that is no passage for a moment: a node of a tree that was clicked. */
function flash(target, start, end) {
  if (!target || !globalThis.CSS?.highlights) return;
  const range = new Range();
  const until = pieceAt(end);
  const put = (node, at, which) => {
    const text = node.firstChild;
    if (text?.nodeType !== Node.TEXT_NODE) return range[which === "setStart" ? "setStartBefore" : "setEndAfter"](node);
    return range[which](text, Math.min(Math.max(0, at - Number(node.dataset.start)), text.length));
  };
  put(target, start, "setStart");
  put(until ?? target, end, "setEnd");
  CSS.highlights.set("node", new Highlight(range));
  setTimeout(() => CSS.highlights.delete("node"), 4000);
}

async function fetchText(start, end) {
  const found = await get(routes.text(now.store, now.document.id, start, end));
  now.pages = found.pages;
  now.characters = found.characters;
  if (!now.sections.length && found.sections.length) {
    now.sections = found.sections;
    showContents();
  }
  return new Text(flowing(found.text), found.start);
}

let loading = false;
async function extend(before) {
  if (!now || loading || (before ? now.low <= 0 : now.high >= now.characters)) return;
  loading = true;
  const opened = now;
  const scroller = part("scroller");
  try {
    const [from, to] = before ? [Math.max(0, now.low - PART), now.low] : [now.high, now.high + PART];
    const found = await fetchText(from, to);
    if (opened !== now) return;
    const [height, top] = [scroller.scrollHeight, scroller.scrollTop];
    if (before) {
      scroller.style.overflowAnchor = "none";
      part("text").prepend(...pieces(found));
      now.low = found.start;
      scroller.scrollTop = top + scroller.scrollHeight - height;
      scroller.style.overflowAnchor = "";
    } else {
      part("text").append(...pieces(found));
      now.high = found.end;
    }
    light();
    showEnds();
  } catch (error) {
    toast(error.message);
  } finally {
    loading = false;
    if (opened === now) {
      const end = part(before ? "before" : "after"); // seen again if it is still in sight
      watcher.unobserve(end);
      watcher.observe(end);
    }
  }
}

// -- the text -------------------------------------------------------------------------------------

/** The elements of a part of the text: passages as marks, the matching sentence and words bold. */
function pieces(text) {
  const out = [];
  let at = text.start;
  const own = now.citations.filter((one) => one.char_end > text.start && one.char_start < text.end);
  for (const one of own.sort((a, b) => a.char_start - b.char_start)) {
    const [from, to] = [Math.max(at, one.char_start), Math.min(text.end, one.char_end)];
    if (to <= from) continue;
    out.push(...plain(text, at, from), passage(text, one, from, to));
    at = to;
  }
  out.push(...plain(text, at, text.end));
  return out;
}

function passage(text, one, from, to) {
  const [first, last] = [one.match_start ?? to, one.match_end ?? to].map((at) => Math.min(Math.max(at, from), to));
  const whole = one.match_start === null ? plain(text, from, to, now.words) : null;
  return el(
    "mark",
    { class: `passage ${tint(one.level)}`, "data-rank": one.rank, title: `Passage ${one.rank}, score ${one.score.toFixed(2)}`, onclick: () => moved(one.rank) },
    from === one.char_start ? el("span", { class: "rank" }, String(one.rank)) : null,
    whole ?? [plain(text, from, first, now.words), el("span", { class: "match" }, plain(text, first, last, now.words)), plain(text, last, to, now.words)],
  );
}

/** Plain pieces of the characters [from, to), with a line where a page begins. */
function plain(text, from, to, words = null) {
  const out = [];
  let at = from;
  while (at < to) {
    const next = now.pages.find((page) => page > at && page <= to);
    const stop = next ?? to;
    const shown = text.cut(at, stop).replace("\f", "");
    if (words) out.push(...marked(shown, words).map(([part_, is]) => (is ? el("b", {}, part_) : part_)));
    else if (shown) out.push(el("span", { "data-start": at }, shown));
    if (next !== undefined) out.push(pageLine(now.pages.indexOf(next) + 1));
    at = stop;
  }
  return out;
}

function pageLine(page) {
  const words = `page ${number(page)}`;
  if (!isPdf(now.document.id)) return el("span", { class: "page" }, words);
  return el("span", { class: "page" }, el("button", { class: "plain small", title: "Open the PDF at this page", onclick: () => openPdf(now.document.id, page) }, words));
}

function light() {
  for (const mark of part("text").querySelectorAll("mark")) mark.classList.toggle("current", Number(mark.dataset.rank) === now.at);
  for (const one of part("map").querySelectorAll("button")) one.classList.toggle("current", Number(one.dataset.rank) === now.at);
}

function showEnds() {
  fill(part("before"), now.low > 0 ? "…" : "");
  fill(part("after"), now.high < now.characters ? "…" : "end of the document");
}

// -- where one is ---------------------------------------------------------------------------------

function showMap() {
  const length = Math.max(1, now.characters || 1);
  const share = (at) => `${((100 * at) / length).toFixed(3)}%`;
  fill(
    part("map"),
    el(
      "div",
      { class: "bar", onclick: (event) => jump(event), title: "Go to this place" },
      el("span", { class: "window" }),
      now.citations.map((one) =>
        el("button", {
          class: `spot ${tint(one.level)}`,
          "data-rank": one.rank,
          "aria-label": `Passage ${one.rank}`,
          title: `Passage ${one.rank}`,
          place: { left: `min(${share(one.char_start)}, 100% - 8px)`, width: share(one.char_end - one.char_start) },
          onclick: (event) => {
            event.stopPropagation();
            moved(one.rank);
          },
        }),
      ),
    ),
    el("div", { class: "row between quiet axis" }, el("span", { class: "here" }), el("span", {}, `${number(now.characters)} characters`)),
  );
}

function jump(event) {
  const bar = event.currentTarget.getBoundingClientRect();
  const at = Math.floor((now.characters * (event.clientX - bar.left)) / bar.width);
  now.at = null;
  go(Math.min(at, now.characters - 1), { start: at, end: at }).catch((error) => toast(error.message));
}

const topCharacter = () => characterAt(4);

/** The character that is seen so many pixels below the top of the text's frame. */
function characterAt(below) {
  const top = part("scroller").getBoundingClientRect().top + below;
  const spans = [...part("text").querySelectorAll("span[data-start]")];
  const first = spans.find((one) => one.getBoundingClientRect().bottom > top);
  if (!first) return spans.length && below > 4 ? now.high : now.low;
  const box = first.getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (top - box.top) / Math.max(1, box.height)));
  return Number(first.dataset.start) + Math.floor(share * first.textContent.length);
}

const pageAt = (character) => now.pages.filter((start) => start <= character).length;

function showPlace() {
  if (!now) return;
  const at = topCharacter();
  const length = Math.max(1, now.characters);
  const seen = part("scroller").clientHeight / Math.max(1, part("scroller").scrollHeight);
  const mark = part("window");
  mark.style.left = `${(100 * at) / length}%`;
  mark.style.width = `${Math.max(0.4, (100 * seen * (now.high - now.low)) / length)}%`;
  const section = sectionSeen(at);
  const words = [now.pages.length ? `page ${number(pageAt(at))} of ${number(now.pages.length)}` : `character ${number(at)}`];
  fill(part("here"), words);
  const menu = part("contents");
  if (section >= 0 && document.activeElement !== menu) menu.value = String(section);
  part("within").hidden = section < 0;
}

/** The section at the top of what is seen; the one that was picked, as long as its beginning is seen. */
function sectionSeen(top) {
  const picked = now.sections[now.picked];
  if (picked && top <= picked.start && picked.start <= characterAt(part("scroller").clientHeight - 4)) return now.picked;
  now.picked = null;
  return now.sections.findLastIndex((one) => one.start <= top);
}

function showContents() {
  const menu = part("contents");
  menu.hidden = false;
  fill(
    menu,
    now.sections.map((one, index) => el("option", { value: index }, `${"\u2003".repeat(Math.min(one.level, 4))}${sectionOf(one.title) || "…"}`)),
  );
}

function toSection(index) {
  const one = now.sections[Number(index)];
  now.at = null;
  now.picked = Number(index);
  go(one.start, { start: one.start, end: one.start }).catch((error) => toast(error.message));
}

/** Let questions read only the section that is in sight. */
function within() {
  const index = sectionSeen(topCharacter());
  if (index < 0) return;
  const path = [];
  let level = Infinity;
  for (let at = index; at >= 0; at -= 1)
    if (now.sections[at].level < level) {
      path.unshift(now.sections[at].title);
      level = now.sections[at].level;
    }
  const one = now.sections[index];
  scoped({ document: now.document.id, path: path.join(" > "), title: oneLine(sectionOf(one.title)), name: nameOf(now.document) });
}
