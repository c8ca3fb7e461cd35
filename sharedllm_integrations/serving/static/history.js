// Conversations that this browser keeps.

import { kept } from "./state.js";

const NAME = "sharedllm-history";
const MOST = 50;

export function all() {
  try {
    return JSON.parse(kept().getItem(NAME) ?? "[]");
  } catch {
    return []; // another program wrote there
  }
}

export const find = (id) => all().find((one) => one.id === id);

export function save(conversation) {
  const others = all().filter((one) => one.id !== conversation.id);
  write([conversation, ...others].slice(0, MOST));
}

export const forget = (id) => write(all().filter((one) => one.id !== id));

export const clear = () => kept().removeItem(NAME);

function write(conversations) {
  for (let count = conversations.length; count > 0; count = Math.floor(count / 2)) {
    try {
      kept().setItem(NAME, JSON.stringify(conversations.slice(0, count)));
      return;
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error; // else keep fewer
    }
  }
  clear();
}
