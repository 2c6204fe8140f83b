/** Idempotency keys. A request without a response may have arrived; repeated with its key it creates no second job. */

/** Keys for consecutive requests. */
export class Once {
  #asked = null;
  #file = null;
  #key = null;

  /** The key for a request: a new one, unless the same request was sent before without a response. */
  key(kind, parameters, file) {
    const asked = JSON.stringify([kind, parameters]);
    if (this.#key === null || asked !== this.#asked || file !== this.#file) this.#key = made();
    this.#asked = asked;
    this.#file = file;
    return this.#key;
  }

  /** The request was answered: the next one gets a new key, even if it is equal. */
  answered() {
    this.#key = null;
  }
}

/** 128 random bits. randomUUID exists on secure pages only, which a page in a private network may not be. */
function made() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((each) => each.toString(16).padStart(2, "0")).join("");
}
