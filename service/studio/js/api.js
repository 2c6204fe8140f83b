/** Requests to the service. Every error is thrown as a Problem. */

import { authorization } from "./key.js";

/** An error response, or no response (`status` 0). `errors`: `{field, got, allowed}` each. */
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

/** The service did not answer. */
export function noAnswer() {
  return new Problem(0, { code: "no_answer", detail: "The service does not answer." });
}

let refused = () => {};

/** Call `listener` when a request is refused because its key is missing or unknown. */
export function onUnauthorized(listener) {
  refused = listener;
}

/** The absolute address of a path: relative paths resolve against this page, also behind a proxy prefix. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/**
 * A request with the key. `json` or `form` becomes the body.
 * @returns {Promise<Response>} a successful response. Throws Problem, and AbortError by `signal`.
 */
export async function request(path, { method = "GET", json, form, headers = {}, signal } = {}) {
  const sent = { ...authorization(), ...headers };
  if (json !== undefined) sent["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(address(path), { method, headers: sent, body: form ?? (json && JSON.stringify(json)), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw noAnswer();
  }
  if (answer.ok || answer.status === 304) return answer;
  throw problemOf(answer.status, await answer.text(), answer.headers.get("Retry-After"));
}

/** GET `path` as JSON. */
export async function get(path, options) {
  return (await request(path, options)).json();
}

function once(key) {
  return key ? { "Idempotency-Key": key } : {};
}

/** API calls that are more than a single GET. */
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
  verify: async (file, signal) => {
    const form = new FormData();
    form.append("file", file, file.name);
    return (await request("verify", { method: "POST", form, signal })).json();
  },
};

/** An upload or a result of a job as a file. Throws as `request`. */
export async function fetchFile(url, name, signal) {
  const answer = await request(url, { signal });
  return new File([await answer.blob()], name, { type: answer.headers.get("Content-Type") });
}

/**
 * Send `file` with `parameters` to /v2a, /a2v or /edit, and `mask` (a picture) if it is not null. `onProgress(sent, total)` in bytes; total 0 where it is not known.
 * Requests with the same `key` make one job.
 * @returns {Promise<object>} the job. Throws Problem, and AbortError by `signal`.
 */
export function upload(kind, { file, mask = null }, parameters, onProgress, signal, key) {
  const form = new FormData();
  // The parameters come before the file: the service can refuse them without having read it.
  form.append("params", JSON.stringify(parameters));
  if (mask) form.append("mask", mask, mask.name);
  form.append("file", file, file.name);
  return new Promise((resolve, reject) => {
    const sender = new XMLHttpRequest(); // fetch reports no upload progress
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

/** The Problem in an error response; a 401 calls the listener for missing keys. */
export function problemOf(status, text, retryAfter) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // An error page of a proxy: only the status is known.
  }
  const problem = new Problem(status, body, retryAfter === null ? null : Number(retryAfter) || null);
  if (status === 401) refused(problem);
  return problem;
}
