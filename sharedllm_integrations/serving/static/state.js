// What is chosen now: the collection, its documents, and which of them a question reads.

import { key } from "./api.js";

export const state = {
  model: "",
  stores: [],
  store: "",
  documents: [], // as the server lists them
  chosen: new Set(), // ids; empty reads all
  attributes: new Map(), // name -> value
  section: null, // { document, path, title }
};

/** Where this browser keeps what it keeps: with a key only as long as the tab is open. */
export const kept = () => (key.get() ? sessionStorage : localStorage);

export const read = () => state.documents.filter((one) => one.characters > 0);

export const waiting = () => state.documents.filter((one) => one.status === "in_progress");

export const documentOf = (id) => state.documents.find((one) => one.id === id);

/** The documents that a question reads, as far as the choice tells. */
export function inScope() {
  return read().filter(
    (one) =>
      (!state.chosen.size || state.chosen.has(one.id)) &&
      [...state.attributes].every(([name, value]) => one.attributes?.[name] === value),
  );
}

/** The choice as a filter of OpenAI's API. */
export function filters() {
  const all = [...state.attributes].map(([name, value]) => ({ type: "eq", key: name, value }));
  if (state.chosen.size) all.unshift({ type: "in", key: "id", value: [...state.chosen] });
  if (!all.length) return undefined;
  return all.length === 1 ? all[0] : { type: "and", filters: all };
}

/** Forget a choice that names what is not there any more. */
export function tidy() {
  const there = new Set(read().map((one) => one.id));
  for (const id of state.chosen) if (!there.has(id)) state.chosen.delete(id);
  for (const [name, value] of state.attributes)
    if (!read().some((one) => one.attributes?.[name] === value)) state.attributes.delete(name);
  if (state.section && !there.has(state.section.document)) state.section = null;
}
