/** Idempotency keys. A request without an answer may have arrived; sent again with its key, it makes no second job. */

/** Keys for requests that are sent one after the other. */
export class Once {
  #asked = null;
  #file = null;
  #key = null;

  /** The key for a request: a new one, unless the same request was sent before and nobody answered. */
  key(kind, parameters, file) {
    const asked = JSON.stringify([kind, parameters]);
    if (this.#key === null || asked !== this.#asked || file !== this.#file) this.#key = made();
    this.#asked = asked;
    this.#file = file;
    return this.#key;
  }

  /** The request was answered: the next one is another, even if it asks for the same. */
  answered() {
    this.#key = null;
  }
}

/** 128 random bits; randomUUID is there on secure pages only, and a page on a private network need not be one. */
function made() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((each) => each.toString(16).padStart(2, "0")).join("");
}
