/** Idempotency keys. A request without a response may have arrived; repeated with its key it creates no second job. */

/** Keys for consecutive requests. */
export class Once {
  #asked = null;
  #files = [];
  #key = null;

  /** The key for a request with `files`: a new one, unless the same request was sent before without a response. */
  key(kind, parameters, ...files) {
    const asked = JSON.stringify([kind, parameters]);
    const same = asked === this.#asked && files.every((file, index) => file === this.#files[index]);
    if (this.#key === null || !same) this.#key = made();
    this.#asked = asked;
    this.#files = files;
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
