// The server: requests with the key, errors as people can act on them, streams, uploads.

const KEY = "sharedllm-key";

export class ServerError extends Error {
  constructor(status, message, after = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.after = after; // seconds after which to try again
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

let unauthorized = () => {};
export const onUnauthorized = (call) => (unauthorized = call);

const headers = (more = {}) => (key.get() ? { ...more, Authorization: `Bearer ${key.get()}` } : more);

async function request(path, { method = "GET", body, signal } = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      signal,
      headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server cannot be reached. Is it running, and are you online?");
  }
  if (!answer.ok) throw await failed(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer;
}

async function failed(status, body, after) {
  let message = `The server answered ${status}.`;
  let code = null;
  try {
    const told = JSON.parse(body).error;
    [message, code] = [told.message || message, told.code];
  } catch {
    // not the server's own answer, but that of a proxy before it: the status says it all
  }
  if (status === 401) unauthorized();
  return new ServerError(status, message, Number(after) || 0, code);
}

export const get = async (path) => (await request(path)).json();
export const post = async (path, body, signal) => (await request(path, { method: "POST", body, signal })).json();
export const remove = async (path) => (await request(path, { method: "DELETE" })).json();
export const bytes = async (path) => (await request(path)).blob();

/** The objects of a stream of events. */
export async function* events(path, body, signal) {
  const answer = await request(path, { method: "POST", body, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(0, "The connection broke off before the answer was complete.");
    }
    if (part.done) break;
    held += part.value;
    const ends = held.split(/\r?\n\r?\n/);
    held = ends.pop();
    for (const event of ends) {
      const data = event.match(/^data: ?.*$/gm)?.map((line) => line.replace(/^data: ?/, "")).join("\n");
      if (data === undefined) continue; // a comment, which keeps the connection open
      if (data === "[DONE]") return;
      const value = JSON.parse(data);
      if (value.error) throw new ServerError(500, value.error.message, 0, value.error.code);
      yield value;
    }
  }
  throw new ServerError(0, "The connection broke off before the answer was complete.");
}

/** Upload a file; `progress` hears the share that is sent. */
export function upload(file, progress, signal) {
  return new Promise((done, refused) => {
    const sending = new XMLHttpRequest(); // fetch does not tell how much is sent
    const form = new FormData();
    form.append("purpose", "assistants");
    form.append("file", file, file.name);
    sending.open("POST", "/v1/files");
    for (const [name, value] of Object.entries(headers())) sending.setRequestHeader(name, value);
    sending.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    sending.onerror = () => refused(new ServerError(0, "The upload broke off. Is the server running?"));
    sending.onabort = () => refused(new DOMException("stopped", "AbortError"));
    sending.onload = async () => {
      if (sending.status < 300) done(JSON.parse(sending.responseText));
      else refused(await failed(sending.status, sending.responseText, sending.getResponseHeader("Retry-After")));
    };
    signal?.addEventListener("abort", () => sending.abort());
    sending.send(form);
  });
}

const part = encodeURIComponent;

export const routes = {
  models: "/v1/models",
  stores: "/v1/vector_stores",
  store: (id) => `/v1/vector_stores/${part(id)}`,
  members: (store) => `/v1/vector_stores/${part(store)}/files`,
  member: (store, id) => `/v1/vector_stores/${part(store)}/files/${part(id)}`,
  file: (id) => `/v1/files/${part(id)}`,
  content: (id) => `/v1/files/${part(id)}/content`,
  chat: "/v1/chat/completions",
  documents: (store) => `/page/stores/${part(store)}/documents`,
  text: (store, id, start, end) => `/page/stores/${part(store)}/text?document=${part(id)}&start=${start}&end=${end}`,
  trees: (store) => `/page/stores/${part(store)}/trees`,
};
