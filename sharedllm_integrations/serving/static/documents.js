// The side: collections, documents with how far they are read, filters.

import { bytes, get, post, remove, routes, upload } from "./api.js";
import { byId, counted, el, fill, number, say, toast } from "./dom.js";
import { documentOf, kept, read, state, tidy, waiting } from "./state.js";

const SHOWN = 200; // documents in the list; what is beyond is found by its name
const [SOON, LATER] = [250, 1500]; // milliseconds between looks at what is being read
const FOLLOWED = 4; // files whose progress is asked for at a time
const MAIN = "vs_main";

let changed = () => {};
let opened = () => {};
let switched = () => {};
const uploads = []; // { name, share, error, stop }
const progress = new Map(); // id -> { tokens_read, tokens }
let polling = 0;
let pause = SOON;
let uploading = false;

export function start(onChange, onOpen, onSwitch) {
  [changed, opened, switched] = [onChange, onOpen, onSwitch];
  byId("add").onclick = () => byId("files").click();
  byId("files").onchange = (event) => {
    add([...event.target.files]);
    event.target.value = "";
  };
  byId("find").oninput = show;
  byId("store").onchange = (event) => attempt(() => choose(event.target.value)).then(switched);
  byId("store-new").onclick = makeStore;
  byId("store-remove").onclick = removeStore;
  byId("name-cancel").onclick = () => byId("name-dialog").close();
  startDrop();
}

// -- collections ----------------------------------------------------------------------------------

export async function load() {
  const found = await get(`${routes.stores}?limit=100&order=asc`);
  state.stores = found.data;
  const last = kept().getItem("sharedllm-store");
  const known = state.stores.map((one) => one.id);
  await choose(known.includes(last) ? last : known[0]);
}

export async function choose(id) {
  state.store = id;
  state.chosen.clear();
  state.attributes.clear();
  state.section = null;
  kept().setItem("sharedllm-store", id);
  fill(
    byId("store"),
    state.stores.map((one) => el("option", { value: one.id, selected: one.id === id }, one.name || one.id)),
  );
  byId("store-remove").hidden = id === MAIN;
  await refresh();
}

function makeStore() {
  const dialog = byId("name-dialog");
  byId("name").value = "";
  dialog.returnValue = "";
  dialog.onclose = async () => {
    const name = byId("name").value.trim();
    if (dialog.returnValue !== "make" || !name) return;
    await attempt(async () => {
      const made = await post(routes.stores, { name });
      state.stores.push(made);
      await choose(made.id);
      switched();
    });
  };
  dialog.showModal();
}

async function removeStore() {
  const store = state.stores.find((one) => one.id === state.store);
  const held = counted(state.documents.length, "document");
  if (!confirm(`Delete the collection “${store.name}” with ${held}?`)) return;
  await attempt(async () => {
    await remove(routes.store(store.id));
    state.stores = state.stores.filter((one) => one !== store);
    await choose(state.stores[0].id);
    switched();
  });
}

async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    toast(error.message);
    return undefined;
  }
}

// -- documents ------------------------------------------------------------------------------------

export async function refresh() {
  const store = state.store;
  const found = await get(routes.documents(store));
  if (store !== state.store) return; // another was chosen meanwhile
  const before = new Map(state.documents.map((one) => [one.id, one.status]));
  state.documents = found.data;
  for (const one of state.documents)
    if (before.get(one.id) === "in_progress" && one.status !== "in_progress") told(one);
  tidy();
  show();
  changed();
  if (!waiting().length) pause = SOON;
  else if (!polling) polling = setTimeout(poll, pause);
}

function told(one) {
  progress.delete(one.id);
  say(one.status === "completed" ? `${one.name} is read` : `${one.name} could not be read`);
}

async function poll() {
  polling = 0;
  pause = Math.min(LATER, 1.5 * pause);
  const store = state.store;
  try {
    await Promise.all(
      waiting().slice(0, FOLLOWED).map(async (one) => {
        const member = await get(routes.member(store, one.id));
        if (member.sharedllm) progress.set(one.id, member.sharedllm);
      }),
    );
    await refresh();
  } catch (error) {
    if (error.status === 401) return;
    polling = setTimeout(poll, 2 * LATER); // the server is away; what it has taken is not lost
  }
}

const rows = new Map();

function show() {
  const wanted = byId("find").value.trim().toLowerCase();
  const found = state.documents.filter((one) => !wanted || one.name.toLowerCase().includes(wanted));
  byId("find").hidden = state.documents.length < 9 && !wanted;
  const order = { in_progress: 0, failed: 2, cancelled: 2, completed: 3 }; // uploads come second
  found.sort((a, b) => order[a.status] - order[b.status]);
  const shown = found.slice(0, SHOWN);
  const open = shown.filter((one) => one.status === "in_progress").length;
  const ids = new Set(shown.map((one) => one.id));
  for (const id of [...rows.keys()]) if (!ids.has(id)) rows.delete(id);
  const several = read().length > 1;
  const list = shown.map((one) => {
    const first = one === waiting()[0];
    const sign = JSON.stringify([one, several, state.chosen.has(one.id), progress.get(one.id), first]);
    const old = rows.get(one.id);
    if (old?.sign === sign) return old.row;
    const row = documentRow(one, several, old?.row);
    rows.set(one.id, { row, sign });
    return row;
  });
  fill(byId("documents"), list.slice(0, open), uploads.map((one) => one.row), list.slice(open));
  const more = found.length - shown.length;
  const tokens = read().reduce((sum, one) => sum + one.tokens, 0);
  const hint = state.chosen.size ? "Only what is ticked is asked." : "All are asked; tick some to ask only those.";
  const sum = several ? `${counted(read().length, "document")}, ${number(tokens)} tokens. ${hint}` : "";
  fill(byId("documents-note"), more > 0 ? `${number(more)} more: find them by name` : sum);
  showFilters();
}

function documentRow(one, several, old) {
  if (one.status === "in_progress" && old?.classList.contains("reading")) {
    showProgress(old, one); // the same elements, so that the bar moves rather than jumps
    return old;
  }
  const ready = one.characters > 0;
  const row = el("li", { class: `document ${one.status === "in_progress" ? "reading" : one.status}` });
  const size = ready ? `${number(one.tokens)} tokens` : "";
  const box =
    several && ready
      ? el("input", {
          type: "checkbox",
          "aria-label": `Ask ${one.name} only`,
          title: "Ask only what is ticked",
          onchange: (event) => tick(one.id, event.target.checked),
        })
      : null;
  if (box) box.checked = state.chosen.has(one.id);
  row.append(
    el(
      "div",
      { class: "row" },
      box,
      ready
        ? el("button", { class: "name plain", title: one.source || one.name, onclick: () => opened(one) }, one.name)
        : el("span", { class: "name" }, one.name),
      one.uploaded || !ready
        ? el("button", { class: "plain icon remove", "aria-label": `Remove ${one.name}`, title: "Remove", onclick: () => ask(row, one) }, "×")
        : null,
    ),
    el("div", { class: "state quiet" }, size),
  );
  if (one.status === "in_progress") {
    row.append(el("progress", { "aria-label": `Reading ${one.name}` }));
    showProgress(row, one);
  }
  if (one.status === "failed" || one.status === "cancelled") {
    const why = one.status === "failed" ? (one.error ?? "It could not be read.") : "It was not read.";
    row.append(
      el("p", { class: "problem" }, why),
      el("button", { class: "plain small", onclick: () => again(one) }, "Try again"),
    );
  }
  return row;
}

function showProgress(row, one) {
  const bar = row.querySelector("progress");
  const at = progress.get(one.id);
  const line = row.querySelector(".state");
  const first = waiting()[0]?.id === one.id;
  bar.hidden = !at?.tokens_read && !first; // a bar that moves says that work is done
  if (at?.tokens) {
    bar.max = at.tokens;
    bar.value = at.tokens_read;
    fill(line, `reading: ${number(at.tokens_read)} of ${number(at.tokens)} tokens`);
  } else {
    bar.removeAttribute("value");
    fill(line, at?.tokens_read ? `reading: ${number(at.tokens_read)} tokens` : first ? "reading" : "waits to be read");
  }
}

function tick(id, on) {
  if (on) state.chosen.add(id);
  else state.chosen.delete(id);
  state.section = null;
  show();
  changed();
}

/** Ask once before a document is removed, in its own place. */
function ask(row, one) {
  const back = () => {
    rows.delete(one.id);
    show();
  };
  const yes = el("button", { class: "danger small", onclick: () => attempt(() => drop(one)).then(back) }, "Remove");
  fill(
    row,
    el("p", {}, `Remove “${one.name}”?`),
    el("div", { class: "row" }, yes, el("button", { class: "plain small", onclick: back }, "Keep it")),
  );
  yes.focus();
}

async function drop(one) {
  const store = state.store;
  await remove(routes.member(store, one.id));
  if (one.uploaded && one.stores === 1) await remove(routes.file(one.id)); // nobody else holds it
  await refresh();
}

async function again(one) {
  await attempt(async () => {
    await post(routes.members(state.store), { file_id: one.id, attributes: one.attributes });
    await refresh();
  });
}

// -- adding ---------------------------------------------------------------------------------------

export function add(files) {
  for (const file of files) {
    const one = { file, store: state.store, controller: new AbortController() };
    one.row = uploadRow(one);
    uploads.push(one);
  }
  show();
  changed();
  send();
}

function uploadRow(one) {
  const gone = () => {
    one.controller.abort();
    if (uploads.includes(one)) uploads.splice(uploads.indexOf(one), 1);
    show();
    changed();
  };
  return el(
    "li",
    { class: "document reading" },
    el(
      "div",
      { class: "row" },
      el("span", { class: "name" }, one.file.name),
      el("button", { class: "plain icon remove", "aria-label": `Do not add ${one.file.name}`, onclick: gone }, "×"),
    ),
    el("div", { class: "state quiet" }, "waits to be sent"),
    el("progress", { max: 1, value: 0, "aria-label": `Sending ${one.file.name}` }),
  );
}

/** Send one file after the other: the server reads them in that order. */
async function send() {
  if (uploading) return;
  uploading = true;
  for (let one; (one = uploads.find((next) => !next.failed)); ) {
    const line = one.row.querySelector(".state");
    const bar = one.row.querySelector("progress");
    try {
      const sent = await upload(
        one.file,
        (share) => {
          bar.value = share;
          fill(line, share < 1 ? `sending: ${Math.round(100 * share)} %` : "arriving");
        },
        one.controller.signal,
      );
      await post(routes.members(one.store), { file_id: sent.id });
      uploads.splice(uploads.indexOf(one), 1);
      await refresh();
    } catch (error) {
      if (error.name === "AbortError") continue;
      one.failed = true;
      bar.remove();
      one.row.className = "document failed";
      line.replaceWith(el("p", { class: "problem" }, error.message));
      changed();
    }
  }
  uploading = false;
}

export const sending = () => uploads.filter((one) => !one.failed).length;

function startDrop() {
  const drop = byId("drop");
  let depth = 0;
  const holds = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    depth += 1;
    drop.hidden = false;
  });
  addEventListener("dragover", (event) => holds(event) && event.preventDefault());
  addEventListener("dragleave", (event) => {
    if (holds(event) && (depth -= 1) <= 0) [depth, drop.hidden] = [0, true];
  });
  addEventListener("drop", (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    [depth, drop.hidden] = [0, true];
    const items = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.());
    const folders = items.filter((entry) => entry?.isDirectory).length;
    const files = [...event.dataTransfer.files].filter((_, n) => !items[n]?.isDirectory);
    if (folders) toast("Folders are not opened here: drop the files in them.");
    if (files.length) add(files);
  });
}

// -- filters --------------------------------------------------------------------------------------

function showFilters() {
  const values = new Map();
  for (const one of read())
    for (const [name, value] of Object.entries(one.attributes ?? {}))
      if (["string", "number", "boolean"].includes(typeof value)) {
        if (!values.has(name)) values.set(name, new Set());
        values.get(name).add(value);
      }
  byId("filters").hidden = !values.size || read().length < 2;
  const sign = JSON.stringify([[...values].map(([name, held]) => [name, [...held]]), [...state.attributes]]);
  const list = byId("filters-list");
  if (list.dataset.sign === sign) return;
  list.dataset.sign = sign;
  fill(
    list,
    [...values].map(([name, held]) => {
      const sorted = [...held].sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));
      const menu = el(
        "select",
        { "aria-label": name, onchange: () => pick(name, sorted[menu.selectedIndex - 1]) },
        el("option", {}, "any"),
        sorted.map((value) => el("option", { selected: state.attributes.get(name) === value }, String(value))),
      );
      return el("label", { class: "row between" }, el("span", {}, name), menu);
    }),
  );
}

function pick(name, value) {
  if (value === undefined) state.attributes.delete(name);
  else state.attributes.set(name, value);
  show();
  changed();
}

export function everything() {
  state.chosen.clear();
  state.attributes.clear();
  state.section = null;
  show();
  changed();
}

// -- PDF ------------------------------------------------------------------------------------------

let held = { id: "", url: "" };

/** Open an uploaded PDF at a page, in the browser's own viewer. */
export async function openPdf(id, page) {
  const tab = open("", "_blank"); // at once: after the download a browser would take it for a pop-up
  if (!tab) {
    toast("The browser kept the tab shut: allow pop-ups for this page.");
    return;
  }
  try {
    if (held.id !== id) {
      const data = await bytes(routes.content(id));
      if (held.url) URL.revokeObjectURL(held.url);
      held = { id, url: URL.createObjectURL(new Blob([data], { type: "application/pdf" })) };
    }
    tab.location.replace(page ? `${held.url}#page=${page}` : held.url);
  } catch (error) {
    tab.close();
    toast(error.message);
  }
}

export const isPdf = (id) => Boolean(documentOf(id)?.pdf);
