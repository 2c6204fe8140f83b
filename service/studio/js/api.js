/** Requests to the service. Whatever goes wrong is thrown as a Problem. */

import { authorization } from "./key.js";

/** An answer that is an error, or no answer at all (`status` 0). `errors`: `{field, got, allowed}` each. */
export class Problem extends Error {
  constructor(status, body = {}, retryAfter = null) {
    super(body.detail ?? `The service answered with status ${status} and no explanation.`);
    this.status = status;
    this.code = body.code ?? "unknown";
    this.errors = body.errors ?? [];
    this.requestId = body.request_id ?? null;
    /** Seconds, or null. */
    this.retryAfter = retryAfter;
  }
}

/** Nobody answered. */
export function noAnswer() {
  return new Problem(0, { code: "no_answer", detail: "The service does not answer." });
}

let refused = () => {};

/** Call `listener` whenever a request is refused for want of a key that is known. */
export function onUnauthorized(listener) {
  refused = listener;
}

/** The absolute address of a path: relative ones stand beside this page, wherever a proxy has put it. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/**
 * A request with the key. `json` becomes the body.
 * @returns {Promise<Response>} an answer that is no error. Throws Problem, and AbortError by `signal`.
 */
export async function request(path, { method = "GET", json, headers = {}, signal } = {}) {
  const sent = { ...authorization(), ...headers };
  if (json !== undefined) sent["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(address(path), { method, headers: sent, body: json && JSON.stringify(json), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw noAnswer();
  }
  if (answer.ok || answer.status === 304) return answer;
  throw problemOf(answer.status, await answer.text(), answer.headers.get("Retry-After"));
}

/** The JSON that `path` answers with. */
export async function get(path, options) {
  return (await request(path, options)).json();
}

function once(key) {
  return key ? { "Idempotency-Key": key } : {};
}

/** The parts of the API that are more than one GET. */
export const api = {
  models: async () => (await get("models")).data,
  description: () => get("openapi.json"),
  jobs: (limit, { after, kind } = {}) =>
    get(`jobs?${new URLSearchParams({ limit, ...(after && { after }), ...(kind && { kind }) })}`),
  job: (id, options) => get(`jobs/${encodeURIComponent(id)}`, options),
  generate: async (parameters, key) =>
    (await request("generate", { method: "POST", json: parameters, headers: once(key) })).json(),
  cancel: async (job) => (await request(job.urls.cancel, { method: "POST" })).json(),
  retry: async (job) => (await request(job.urls.retry, { method: "POST" })).json(),
  erase: (job) => request(job.urls.self, { method: "DELETE" }),
};

/**
 * Send `file` with `parameters` to /v2a or /a2v. `onProgress(sent, total)` in bytes; total 0 where it is not known.
 * Requests with the same `key` make one job.
 * @returns {Promise<object>} the job. Throws Problem, and AbortError by `signal`.
 */
export function upload(kind, file, parameters, onProgress, signal, key) {
  const form = new FormData();
  // The parameters come before the file: the service can refuse them without having read it.
  form.append("params", JSON.stringify(parameters));
  form.append("file", file, file.name);
  return new Promise((resolve, reject) => {
    const sender = new XMLHttpRequest(); // fetch does not tell how much is sent
    sender.open("POST", address(kind));
    const headers = { ...authorization(), ...once(key) };
    for (const [name, value] of Object.entries(headers)) sender.setRequestHeader(name, value);
    sender.upload.onprogress = (event) => onProgress(event.loaded, event.lengthComputable ? event.total : 0);
    sender.onerror = () => reject(noAnswer());
    sender.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    sender.onload = () => {
      if (sender.status < 300) resolve(JSON.parse(sender.responseText));
      else reject(problemOf(sender.status, sender.responseText, sender.getResponseHeader("Retry-After")));
    };
    signal.addEventListener("abort", () => sender.abort(), { once: true });
    sender.send(form);
  });
}

/** The problem that an answer is; whoever waits for a missing key is told. */
export function problemOf(status, text, retryAfter) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // Not ours: a proxy's page. The status has to do.
  }
  const problem = new Problem(status, body, retryAfter === null ? null : Number(retryAfter) || null);
  if (status === 401) refused(problem);
  return problem;
}
