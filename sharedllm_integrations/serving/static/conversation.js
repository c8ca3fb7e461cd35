// Questions and answers: asking, the stream, the passages that light up, what went wrong.

import { events, post, routes } from "./api.js";
import { everything, sending } from "./documents.js";
import { byId, calm, counted, el, fill, number, say, seconds, toast, wait } from "./dom.js";
import * as history from "./history.js";
import { passageList, ranked, summary, treeList } from "./passages.js";
import * as reader from "./reader.js";
import { documentOf, filters, inScope, read, state, waiting } from "./state.js";
import { cutBy, markdown, oneLine, wordsOf } from "./text.js";

const SLOW = 12; // seconds after which the page says why it may take longer
const STEP = 140; // milliseconds between passages that light up
const WIDE = "(min-width: 1180px)"; // the document stands beside the answer
const MOST_TRIES = 6;
const MOST_TURNS = 16; // that a question brings along
const LONG = 160; // characters of an answer that is set smaller
const MORE = 4; // times as many tokens, when an answer was cut

let conversation = fresh();
let running = null; // { turn, controller }
let current = null; // { view, rank }
const views = []; // of the turns, in order
let kept = () => {};

function fresh() {
  return { id: crypto.randomUUID?.() ?? String(Date.now()) + Math.random(), at: Date.now(), store: state.store, turns: [] };
}

export function start(onKept) {
  kept = onKept;
  reader.start(
    () => current?.view.root.querySelector(`li[data-rank="${current.rank}"]`)?.focus({ preventScroll: true }),
    scopeTo,
    (rank) => current && openPassage(current.view, rank),
  );
}

// -- conversations --------------------------------------------------------------------------------

export const id = () => conversation.id;

export function begin() {
  stop();
  reader.close();
  conversation = fresh();
  views.length = 0;
  current = null;
  byId("turns").replaceChildren();
  show();
}

export function resume(id_) {
  const found = history.find(id_);
  if (!found || found.id === conversation.id) return Boolean(found);
  begin();
  conversation = found;
  for (const turn of found.turns) finish(addView(turn), false);
  show();
  views.at(-1)?.root.scrollIntoView({ block: "start" });
  return true;
}

export const storeOf = (id_) => history.find(id_)?.store;

// -- what stands there before a question ----------------------------------------------------------

/** The empty states and the choice above the question. */
export function show() {
  const turns = byId("turns");
  turns.querySelector(".blank")?.remove();
  if (!conversation.turns.length) turns.append(blank());
  document.title = [oneLine(conversation.turns[0]?.question ?? ""), "SharedLLM"].filter(Boolean).join(" · ");
  document.body.classList.toggle("empty", !conversation.turns.length);
  document.body.classList.toggle("bare", !state.documents.length && !sending() && !conversation.turns.length);
  showScope();
}

function blank() {
  const held = read();
  const open = waiting().length + sending();
  if (!state.documents.length && !open)
    return el(
      "div",
      { class: "blank" },
      el("button", { class: "dropzone", onclick: () => byId("files").click() }, el("strong", {}, "Drop documents here"), el("span", {}, "or choose files")),
      el("p", { class: "quiet" }, "PDF, Word, PowerPoint, EPUB, HTML, Markdown, text, e-mail, tables and more. Each is read once; then every question gets the passages that matter."),
    );
  if (!held.length)
    return el(
      "div",
      { class: "blank" },
      open ? el("h2", {}, `${counted(open, "document")} being read`) : el("h2", {}, "No document could be read"),
      el("p", { class: "quiet" }, open ? "You can ask as soon as the first one is done." : "The list of documents says why."),
    );
  const tokens = held.reduce((sum, one) => sum + one.tokens, 0);
  return el(
    "div",
    { class: "blank" },
    el("h2", {}, held.length === 1 ? held[0].name : counted(held.length, "document")),
    el("p", { class: "quiet" }, `${number(tokens)} tokens are read. Ask something: the answer comes with the passages it was given, each in its place.`),
    el("p", { class: "quiet wide-only" }, "Drop more files anywhere. ", el("kbd", {}, "?"), " lists the keys."),
  );
}

function showScope() {
  const chips = [];
  const chip = (words, gone) => el("span", { class: "chip" }, el("bdi", {}, words), el("button", { class: "plain icon", "aria-label": `Remove: ${words}`, onclick: gone }, "×"));
  const every = () => (everything(), show());
  const section = state.section;
  if (section) chips.push(chip(`${section.name}: ${section.title}`, every));
  else if (state.chosen.size) {
    const names = [...state.chosen].map((id_) => documentOf(id_)?.name ?? id_);
    chips.push(chip(names.length > 2 ? counted(names.length, "document") : names.join(", "), every));
  }
  for (const [name, value] of state.attributes)
    chips.push(chip(`${name}: ${value}`, () => (state.attributes.delete(name), everything(), show())));
  const none = read().length && !inScope().length;
  fill(byId("scope"), chips.length ? [el("span", { class: "quiet" }, "Asking only"), chips] : null, none ? el("span", { class: "problem" }, "No document is left by these filters.") : null);
}

function scopeTo(section) {
  state.chosen.clear();
  state.chosen.add(section.document);
  state.section = section;
  show();
  byId("question").focus();
  toast(`The next questions read “${section.title}” only.`);
}

// -- asking ---------------------------------------------------------------------------------------

export function ask(question, { most, place = conversation.turns.length } = {}) {
  if (running) return false;
  if (!read().length) {
    toast(waiting().length || sending() ? "The first document is still being read." : "Add a document first.");
    return false;
  }
  if (!inScope().length) {
    toast("No document is left by these filters.");
    return false;
  }
  while (views.length > place) views.pop().root.remove();
  conversation.turns.length = place;
  const turn = { question, answer: "", citations: [], unsupported: [], state: "running", filters: filters(), section: state.section?.path, most };
  conversation.store = state.store;
  conversation.turns.push(turn);
  show();
  const view = addView(turn);
  if (matchMedia(WIDE).matches) reader.expect();
  view.root.scrollIntoView({ block: "start", behavior: calm() ? "instant" : "smooth" });
  running = { turn, controller: new AbortController() };
  busy(true);
  stream(view, running.controller.signal).finally(() => {
    running = null;
    reader.expectNothing();
    busy(false);
    save();
  });
  return true;
}

export function stop() {
  running?.controller.abort();
  return Boolean(running);
}

function busy(on) {
  byId("send").hidden = on;
  byId("stop").hidden = !on;
  document.body.classList.toggle("busy", on);
}

function save() {
  if (!conversation.turns.length) return;
  conversation.at = Date.now();
  history.save(conversation);
  kept();
}

/** The turns that a question brings along, and what it reads. */
function bodyFor(turn) {
  const before = conversation.turns.slice(0, conversation.turns.indexOf(turn)).filter((one) => one.state === "done");
  turn.along ??= MOST_TURNS;
  turn.left = Math.max(0, before.length - turn.along); // said below the answer
  const messages = before.slice(turn.left).flatMap((one) => [
    { role: "user", content: one.question },
    { role: "assistant", content: one.answer },
  ]);
  messages.push({ role: "user", content: turn.question });
  return { messages, filters: turn.filters, section: turn.section };
}

async function stream(view, signal) {
  const { turn } = view;
  const begun = performance.now();
  const since = () => (performance.now() - begun) / 1000;
  const clock = setInterval(() => showWaiting(view, since()), 250);
  const { filters: where, section } = turn;
  const body = {
    model: state.model,
    stream: true,
    stream_options: { include_usage: true },
    tools: [{ type: "file_search", vector_store_ids: [state.store], ...(where ? { filters: where } : {}) }],
    ...(section ? { section } : {}),
    ...(turn.most ? { max_tokens: turn.most } : {}),
  };
  try {
    showWaiting(view, 0);
    await withPatience(view, signal, async () => {
      const { messages } = bodyFor(turn);
      for await (const event of events(routes.chat, { ...body, messages }, signal)) take(view, event);
    });
    turn.state = "done";
    say(`Answer: ${turn.answer}. ${counted(turn.citations.length, "passage")}.`);
  } catch (error) {
    turn.state = error.name === "AbortError" ? "stopped" : "failed";
    turn.error = turn.state === "failed" ? error.message : "";
    if (turn.error) say(turn.error);
  } finally {
    clearInterval(clock);
    turn.seconds = since();
  }
  await finish(view, true);
}

/** Try again when the server is busy and says when; with less of a conversation that is too long. */
async function withPatience(view, signal, work) {
  for (let attempt = 1; ; ) {
    try {
      return await work();
    } catch (error) {
      if (error.code === "context_length_exceeded" && view.turn.along && conversation.turns.length > 1) {
        view.turn.along = Math.floor(view.turn.along / 2);
        continue;
      }
      if (!error.after || attempt === MOST_TRIES) throw error;
      view.patience = performance.now() + 1000 * error.after;
      attempt += 1;
      await Promise.race([wait(1000 * error.after), new Promise((done) => signal.addEventListener("abort", done))]);
      if (signal.aborted) throw new DOMException("stopped", "AbortError");
      view.patience = 0;
    }
  }
}

function take(view, event) {
  const { turn } = view;
  const choice = event.choices?.[0];
  const text = choice?.delta?.content;
  if (text) {
    turn.answer += text;
    fill(view.answer, turn.answer);
    fit(view);
  }
  const told = event.sharedllm;
  if (told?.citations) turn.citations = told.citations;
  if (told?.unsupported) turn.unsupported = told.unsupported;
  if (told?.looks) turn.looks = told.looks;
  if (told?.abstains) turn.abstains = true;
  if (told?.partial) turn.partial = true;
  if (choice?.delta?.role && !told?.citations) view.whole = true; // the server says so before it reads all
  if (choice?.finish_reason) turn.finish = choice.finish_reason;
  if (event.usage) [turn.tokens, turn.written] = [event.usage.prompt_tokens, event.usage.completion_tokens];
  if (told?.citations?.length && !choice?.finish_reason) showPassages(view, true);
}

// -- how a turn looks -----------------------------------------------------------------------------

function addView(turn) {
  const view = { turn, patience: 0 };
  view.status = el("p", { class: "status quiet" });
  view.answer = el("div", { class: "answer", dir: "auto" });
  view.more = el("button", { class: "plain small more", "aria-expanded": "false", hidden: true, onclick: () => unfold(view) }, "Show all of the answer");
  view.notes = el("div", { class: "notes" });
  view.passages = el("div", { class: "evidence" });
  view.actions = el("div", { class: "row actions" });
  view.trees = el("div", { class: "treebox", hidden: true });
  view.root = el("article", { class: "turn", tabindex: "-1" }, el("h2", { class: "asked", dir: "auto" }, turn.question), view.answer, view.more, view.status, view.notes, view.passages, view.actions, view.trees);
  new ResizeObserver(() => fit(view)).observe(view.answer); // how many lines fit depends on its width
  byId("turns").append(view.root);
  views.push(view);
  return view;
}

/** A long answer is set smaller, and shows its first lines, so that the passages stay in sight. */
function fit(view) {
  const { answer, more } = view;
  answer.classList.toggle("long", view.turn.answer.length > LONG);
  more.hidden = !answer.classList.contains("open") && answer.scrollHeight <= answer.clientHeight + 2;
}

function unfold(view) {
  const open = view.answer.classList.toggle("open");
  fill(view.more, open ? "Show less of the answer" : "Show all of the answer");
  view.more.setAttribute("aria-expanded", String(open));
}

function showWaiting(view, passed) {
  if (view.turn.state !== "running") return;
  const { turn } = view;
  view.root.setAttribute("aria-busy", "true");
  view.answer.classList.toggle("waits", !turn.answer);
  if (view.patience) {
    const left = Math.max(0, Math.ceil((view.patience - performance.now()) / 1000));
    fill(view.status, `Others are being answered; asking again in ${left} s.`);
    return;
  }
  const doing = turn.answer ? "Writing" : view.whole ? "Reading all of it, part by part" : `Searching ${counted(inScope().length, "document")}`;
  const took = passed >= 2 ? ` · ${seconds(passed)}` : "";
  const slow = passed > SLOW && !turn.answer ? el("span", { class: "slow" }, view.whole ? "That may take minutes, and is quick the next time. You can stop it." : "Others may be asking, too. You can stop it.") : "";
  fill(view.status, el("span", { class: "pulse" }), `${doing}${took}`, slow);
}

/** The end of a turn: its answer with what no passage holds, its passages, its actions. */
async function finish(view, live) {
  const { turn } = view;
  if (turn.state === "running") turn.state = "stopped"; // the tab was closed while it ran
  view.root.removeAttribute("aria-busy");
  view.answer.classList.remove("waits");
  view.root.classList.toggle("abstains", Boolean(turn.abstains));
  fill(view.status, turn.state === "done" ? [...summary(turn), turn.seconds ? seconds(turn.seconds) : ""].filter(Boolean).join(" · ") : "");
  fill(
    view.answer,
    cutBy(turn.answer, turn.unsupported).map(([part, alone]) => (alone ? el("span", { class: "alone", title: "in none of the passages" }, part) : part)),
  );
  fit(view);
  fill(view.notes, notes(view));
  fill(view.actions, turn.state === "done" ? actions(view) : null);
  await showPassages(view, live);
}

function notes(view) {
  const { turn } = view;
  const again = (words, given = {}) => el("button", { class: "small", onclick: () => retry(view, given) }, words);
  if (turn.state === "failed") return el("div", { class: "failed", role: "alert" }, el("p", {}, turn.error), again("Ask again"));
  if (turn.state === "stopped") return el("p", { class: "quiet" }, turn.answer ? "Stopped here. " : "Stopped before an answer. ", again("Ask again"));
  const out = [];
  if (turn.unsupported.length) out.push(el("p", { class: "warning", role: "note" }, `In none of the passages: ${[...new Set(turn.unsupported)].join(", ")}`));
  if (turn.finish === "length") out.push(el("p", { class: "warning" }, "The answer was cut at its longest length. ", again("Let it write more", { most: MORE * (turn.most ?? turn.written ?? 256) })));
  if (turn.partial) out.push(el("p", { class: "warning" }, "The time was over before all of it was read."));
  if (!turn.answer.trim()) out.push(el("p", { class: "warning" }, "The model wrote nothing. ", again("Ask again")));
  if (turn.left) out.push(el("p", { class: "quiet" }, turn.along ? `Asked with the last ${counted(turn.along, "turn")} of this conversation only.` : "Asked without the conversation before it, which is too long for the model."));
  if (!turn.citations.length) out.push(el("p", { class: "quiet" }, "No passage was given to the model."));
  return out;
}

function retry(view, given) {
  ask(view.turn.question, { ...given, place: views.indexOf(view) });
}

function actions(view) {
  return [
    el("button", { class: "plain small", title: "c", onclick: () => copy(view) }, "Copy as Markdown"),
    view.turn.citations.length ? el("button", { class: "plain small", title: "t", "aria-expanded": "false", onclick: () => toggleTrees(view) }, "Tree and scores") : null,
  ];
}

async function showPassages(view, live) {
  const { turn } = view;
  const sign = JSON.stringify(turn.citations.map((one) => [one.document, one.char_start, one.char_end]));
  const words = wordsOf(turn.answer);
  const known = view.sign === sign; // they came before the answer: only its words are new
  view.sign = sign;
  view.words = words;
  view.ranked = ranked(turn);
  if (!turn.citations.length) return;
  const list = passageList(turn, words, (rank) => openPassage(view, rank));
  fill(view.passages, list);
  const lit = [...list.children];
  if (!live || known || calm()) lit.forEach((one) => one.classList.add("lit"));
  const last = views.at(-1) === view;
  if (live && last && (matchMedia(WIDE).matches || !byId("reader").hidden)) openPassage(view, current?.view === view ? current.rank : 1, false);
  if (live && !known && !calm())
    for (const one of lit) {
      one.classList.add("lit", "new");
      await wait(STEP);
    }
  mark(view);
}

function mark(view) {
  for (const one of document.querySelectorAll("li.passage.current")) one.classList.remove("current");
  if (current?.view === view) view.passages.querySelector(`li[data-rank="${current.rank}"]`)?.classList.add("current");
}

// -- passages, trees, copies ----------------------------------------------------------------------

export function openPassage(view, rank, go = true) {
  const one = view.ranked?.find((other) => other.rank === rank);
  if (!one) return;
  current = { view, rank };
  mark(view);
  const item = view.passages.querySelector(`li[data-rank="${rank}"]`);
  if (go) {
    item.focus({ preventScroll: true });
    if (matchMedia("(min-width: 700px)").matches) item.scrollIntoView({ block: "nearest", behavior: calm() ? "instant" : "smooth" });
  }
  const found = documentOf(one.document);
  if (!found) {
    if (go) toast("This document is not in the collection any more.");
    return;
  }
  view.own ??= new Map(); // the same list each time, so that an open document stays as it is
  const key = `${view.sign}:${view.words.size}:${one.document}`;
  if (!view.own.has(key)) view.own.set(key, view.ranked.filter((other) => other.document === one.document));
  reader.open(found, { citations: view.own.get(key), words: view.words, at: rank, store: conversation.store });
}

export function step(by) {
  const view = current && views.includes(current.view) ? current.view : views.findLast((one) => one.turn.citations.length);
  if (!view?.turn.citations.length) return;
  const rank = current?.view === view ? current.rank + by : by > 0 ? 1 : view.turn.citations.length;
  openPassage(view, Math.min(Math.max(1, rank), view.turn.citations.length));
}

const lastDone = () => (current && views.includes(current.view) ? current.view : views.findLast((one) => one.turn.state === "done"));

export function openRank(rank) {
  const view = lastDone();
  if (view) openPassage(view, rank);
}

export const trees = () => lastDone() && toggleTrees(lastDone());

async function toggleTrees(view) {
  const box = view.trees;
  const button = view.actions.querySelector("[aria-expanded]");
  if (!button) return;
  box.hidden = !box.hidden;
  button.setAttribute("aria-expanded", String(!box.hidden));
  if (box.hidden || box.dataset.loaded) return;
  fill(box, el("p", { class: "quiet" }, el("span", { class: "pulse" }), "Scoring the trees"));
  try {
    const { messages, filters: where, section } = bodyFor(view.turn);
    const looks = Math.min(2, view.turn.looks ?? 1);
    const found = await post(routes.trees(conversation.store), { messages, looks, ...(where ? { filters: where } : {}), ...(section ? { section } : {}) });
    fill(box, treeList(found.data, view.turn, (document_, node) => {
      const one = documentOf(document_);
      if (one) reader.open(one, { citations: view.ranked.filter((other) => other.document === document_), words: view.words, at: { start: node.start, end: node.end }, store: conversation.store });
    }));
    box.dataset.loaded = "1";
  } catch (error) {
    fill(box, el("p", { class: "problem", role: "alert" }, error.message));
  }
  box.scrollIntoView({ block: "nearest", behavior: calm() ? "instant" : "smooth" });
}

export async function copy(view = lastDone()) {
  if (!view) return;
  const text = markdown(view.turn);
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // without https a browser has no clipboard for pages, but the old command
    const area = el("textarea", { class: "spoken" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) return toast("The browser does not let this page copy.");
  }
  return toast("Copied as Markdown");
}

/** A document that is opened without a question. */
export function openDocument(one) {
  const view = current?.view ?? views.findLast((other) => other.turn.citations.length);
  const own = view?.ranked?.filter((other) => other.document === one.id) ?? [];
  reader.open(one, { citations: own, words: view?.words });
}

