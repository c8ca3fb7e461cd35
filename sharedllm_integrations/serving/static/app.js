// The page: what is loaded first, what keys and buttons do.

import { get, key, onUnauthorized, routes } from "./api.js";
import * as conversation from "./conversation.js";
import * as documents from "./documents.js";
import { byId, counted, el, fill, toast } from "./dom.js";
import * as history from "./history.js";
import * as reader from "./reader.js";
import { read, state } from "./state.js";

const question = byId("question");

async function boot() {
  try {
    const models = await get(routes.models);
    state.model = models.data[0].id;
    await documents.load();
  } catch (error) {
    if (error.status !== 401) broken(error);
    return;
  }
  byId("leave").hidden = !key.get();
  document.body.classList.add("ready");
  showHistory();
  await fromAddress();
  conversation.show();
  if (matchMedia("(hover: hover)").matches) question.focus();
}

function broken(error) {
  document.body.classList.add("ready", "empty", "broken");
  fill(
    byId("turns"),
    el("div", { class: "blank", role: "alert" }, el("h2", {}, "The server does not answer"), el("p", { class: "quiet" }, error.message), el("button", { onclick: () => location.reload() }, "Try again")),
  );
}

// -- the key --------------------------------------------------------------------------------------

onUnauthorized(() => {
  const dialog = byId("key-dialog");
  if (dialog.open) return;
  byId("key-problem").textContent = key.get() ? "The server does not know this key." : "";
  byId("key").value = "";
  key.forget();
  dialog.showModal();
});

byId("key-dialog").addEventListener("close", () => {
  const given = byId("key").value.trim();
  byId("key").value = "";
  if (given) key.set(given);
  boot();
});
byId("key-dialog").addEventListener("cancel", (event) => event.preventDefault()); // nothing works without

byId("leave").onclick = () => {
  sessionStorage.clear();
  location.replace("/");
};

// -- the question ---------------------------------------------------------------------------------

byId("ask").onsubmit = (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || !conversation.ask(text)) return;
  question.value = "";
  grow();
  location.hash = conversation.id();
};
byId("stop").onclick = () => conversation.stop();
byId("new").onclick = begin;

function grow() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight, innerHeight / 3)}px`;
}
question.oninput = grow;
question.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
};

function begin() {
  conversation.begin();
  history_(null);
  showHistory();
  side(false);
  question.focus();
}

// -- history --------------------------------------------------------------------------------------

const history_ = (id) => globalThis.history.replaceState(null, "", id ? `#${id}` : location.pathname);

function showHistory() {
  const found = history.all();
  byId("history").hidden = !found.length;
  fill(
    byId("history-list"),
    found.map((one) =>
      el(
        "li",
        { class: one.id === conversation.id() ? "row current" : "row" },
        el("button", { class: "plain name", title: new Date(one.at).toLocaleString(), onclick: () => resume(one.id) }, one.turns[0].question),
        el("button", { class: "plain icon remove", "aria-label": `Forget: ${one.turns[0].question}`, onclick: () => forget(one.id) }, "×"),
      ),
    ),
  );
}

async function resume(id) {
  const store = conversation.storeOf(id);
  if (store && store !== state.store) {
    if (!state.stores.some((one) => one.id === store)) return toast("The collection of this conversation is not there any more.");
    await documents.choose(store);
  }
  if (!conversation.resume(id)) return toast("This conversation is not kept any more.");
  history_(id);
  showHistory();
  return side(false);
}

function forget(id) {
  history.forget(id);
  if (id === conversation.id()) begin();
  showHistory();
}

byId("history-clear").onclick = () => {
  if (!confirm("Forget all conversations that this browser keeps?")) return;
  history.clear();
  begin();
};

async function fromAddress() {
  const id = location.hash.slice(1);
  if (id && id !== conversation.id() && history.find(id)) await resume(id);
}
addEventListener("hashchange", fromAddress);

// -- the side, which is a drawer where there is little room -----------------------------------------

function side(open) {
  document.body.classList.toggle("side-open", open);
  byId("menu").setAttribute("aria-expanded", String(open));
}
byId("menu").onclick = () => side(!document.body.classList.contains("side-open"));
byId("main").addEventListener("click", () => side(false));
byId("keys").onclick = () => byId("keys-dialog").showModal();

function changed() {
  const held = read().length;
  fill(byId("where"), held ? `${state.stores.find((one) => one.id === state.store)?.name ?? ""} · ${counted(held, "document")}` : "");
  conversation.show();
}

// -- the keyboard ---------------------------------------------------------------------------------

const KEYS = {
  "/": () => question.focus(),
  "?": () => byId("keys-dialog").showModal(),
  j: () => conversation.step(1),
  k: () => conversation.step(-1),
  c: () => conversation.copy(),
  t: () => conversation.trees(),
  n: begin,
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (document.body.classList.contains("side-open")) side(false);
    else if (!conversation.stop()) reader.close();
    return;
  }
  if (event.target.closest("input, textarea, select")) return;
  const call = KEYS[event.key] ?? (/^[1-9]$/.test(event.key) ? () => conversation.openRank(Number(event.key)) : null);
  if (!call) return;
  event.preventDefault();
  call();
});

documents.start(changed, (one) => {
  conversation.openDocument(one);
  side(false);
}, begin);
conversation.start(showHistory);
boot();
