/** The API key, kept in this tab only (sessionStorage). */

const NAME = "duet.key";

/** The key, or null. */
export function key() {
  return sessionStorage.getItem(NAME);
}

/** Keep `value` as the key. */
export function keepKey(value) {
  sessionStorage.setItem(NAME, value);
}

/** Forget the key. */
export function forgetKey() {
  sessionStorage.removeItem(NAME);
}

/** The header that carries the key. */
export function authorization() {
  const value = key();
  return value ? { Authorization: `Bearer ${value}` } : {};
}
