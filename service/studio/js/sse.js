/** Incremental parser of server-sent events (HTML standard, section 9.2), without any network code. */

/** Feed it with `push`; each call returns the messages that are complete by now. */
export class EventParser {
  #rest = "";
  #event = "";
  #data = [];
  #carriageReturn = false;
  /** The id of the last message that had one: what `Last-Event-ID` wants. */
  lastId = null;
  /** Milliseconds to wait before connecting again, as the server asked; null if it did not. */
  retry = null;

  /** @returns {{event: string, data: string}[]} */
  push(text) {
    // A line ends with \n, \r or \r\n; the latter may come in two pieces.
    if (this.#carriageReturn && text.startsWith("\n")) text = text.slice(1);
    if (text) this.#carriageReturn = text.endsWith("\r");
    const lines = (this.#rest + text).split(/\r\n|\n|\r/);
    this.#rest = lines.pop();
    return lines.map((line) => this.#line(line)).filter(Boolean);
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.lastId = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
    return null;
  }

  #dispatch() {
    const message = this.#data.length ? { event: this.#event || "message", data: this.#data.join("\n") } : null;
    this.#event = "";
    this.#data = [];
    return message;
  }
}
