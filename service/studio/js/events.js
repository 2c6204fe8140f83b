/** Follows one job by its event stream, or by polling where the stream is unavailable. */

import { address, api, Problem, problemOf } from "./api.js";
import { authorization } from "./key.js";
import { EventParser } from "./sse.js";

const POLL = 1000;
const STREAM_AGAIN = 10_000;
const SILENCE = 40_000; // the server sends something at least every 15 s
const DEFAULT_RETRY = 2000;
const ENDED = ["completed", "failed", "canceled"];

/** Whether the job has ended. */
export function ended(job) {
  return ENDED.includes(job.status);
}

/**
 * Follow `job` until it has ended or is gone, or `signal` aborts.
 *
 * `on.job(job)` with the whole job, `on.progress(progress)`, `on.preview(preview)`, `on.gone()`, and
 * `on.connection(problem)` with a Problem when the service is unreachable, with null when it responds again.
 */
export async function follow(job, on, signal) {
  const stream = new Stream(job, on, signal);
  try {
    while (!signal.aborted) {
      const { over, wait } = await stream.run();
      if (over) return;
      if (await poll(job, on, signal, performance.now() + wait)) return;
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

/** Poll the job until `deadline`, at least once. @returns {Promise<boolean>} whether nothing more will come */
async function poll(job, on, signal, deadline) {
  do {
    let pause = POLL;
    try {
      const now = await api.job(job.id, { signal });
      on.connection(null);
      on.job(now);
      if (ended(now)) return true;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401) return true;
      if (isGone(error)) {
        on.gone();
        return true;
      }
      on.connection(error);
      pause = 1000 * (error.retryAfter ?? 2);
    }
    await sleep(Math.min(pause, Math.max(0, deadline - performance.now())), signal);
  } while (performance.now() < deadline);
  return false;
}

function isGone(problem) {
  return problem.code === "unknown_job" || problem.status === 410;
}

/** The event stream of a job, with reconnection. */
class Stream {
  #parser = new EventParser();

  constructor(job, on, signal) {
    this.job = job;
    this.on = on;
    this.signal = signal;
  }

  /** One connection. @returns {Promise<{over: boolean, wait: number}>} `wait`: milliseconds until the next one */
  async run() {
    const quiet = new AbortController();
    const stop = () => quiet.abort();
    this.signal.addEventListener("abort", stop, { once: true });
    let watchdog = setTimeout(stop, SILENCE);
    try {
      const answer = await this.#connect(quiet.signal);
      this.on.connection(null);
      const decoder = new TextDecoder();
      const reader = answer.body.getReader();
      for (;;) {
        const { value, done } = await reader.read();
        clearTimeout(watchdog);
        if (done) return { over: false, wait: this.#parser.retry ?? DEFAULT_RETRY };
        watchdog = setTimeout(stop, SILENCE);
        for (const message of this.#parser.push(decoder.decode(value, { stream: true }))) {
          if (this.#tell(message)) return { over: true, wait: 0 };
        }
      }
    } catch (error) {
      if (this.signal.aborted) throw error;
      if (error instanceof Problem && error.status === 401) return { over: true, wait: 0 };
      if (error instanceof Problem && isGone(error)) {
        this.on.gone();
        return { over: true, wait: 0 };
      }
      // A partial message is sent again: the next connection resumes after the last complete one.
      this.#parser = Object.assign(new EventParser(), { lastId: this.#parser.lastId, retry: this.#parser.retry });
      return { over: false, wait: STREAM_AGAIN };
    } finally {
      clearTimeout(watchdog);
      this.signal.removeEventListener("abort", stop);
      stop(); // closes the connection if the stream has not ended
    }
  }

  async #connect(signal) {
    const headers = { Accept: "text/event-stream", ...authorization() };
    if (this.#parser.lastId) headers["Last-Event-ID"] = this.#parser.lastId;
    const path = this.job.urls.events ?? `${this.job.urls.self}/events`;
    const answer = await fetch(address(path), { headers, signal, cache: "no-store" });
    if (!answer.ok) throw problemOf(answer.status, await answer.text(), answer.headers.get("Retry-After"));
    if (!answer.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      throw new Problem(answer.status, { detail: "The server sent no event stream." });
    }
    return answer;
  }

  /** Pass a message on. @returns {boolean} whether it was the last one */
  #tell({ event, data }) {
    if (event === "gone") {
      this.on.gone();
      return true;
    }
    const content = JSON.parse(data);
    if (event === "progress") this.on.progress(content);
    else if (event === "preview") this.on.preview(content);
    else if (event === "status" || ENDED.includes(event)) {
      this.on.job(content);
      return ended(content);
    }
    return false;
  }
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stopped = () => {
      clearTimeout(timer);
      reject(new DOMException("The job is no longer followed.", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stopped);
      resolve();
    }, milliseconds);
    if (signal.aborted) stopped();
    else signal.addEventListener("abort", stopped, { once: true });
  });
}
