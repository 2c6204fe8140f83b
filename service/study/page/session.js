/** Requests of one rater. The page's own address names the token; paths are relative to it, also behind a proxy. */

const TOKEN = location.pathname.split("/").pop();
const PAUSES = [500, 1500, 4000]; // milliseconds before the attempts after the first

/** The service refused the request, or did not answer (`status` 0). */
export class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The clips in order, each with `id`, `url` and `vote` (null before the first); `submitted`. */
export function load() {
  return send("session");
}

/** Keep the answers to a clip. Safe to repeat: the service keeps one vote for each clip. @returns the kept vote */
export async function keep(clip, answers) {
  let revision = (clip.vote?.revision ?? 0) + 1;
  for (;;) {
    const kept = await send(`votes/${clip.id}`, { ...answers, revision });
    if (Object.keys(answers).every((name) => kept[name] === answers[name])) return kept;
    revision = kept.revision + 1; // another tab was faster; the latest answers count
  }
}

/** Make the votes final. Safe to repeat. */
export function submit() {
  return send("submit", {});
}

/** The address of a clip's file. */
export function source(clip) {
  return `${TOKEN}/clips/${clip.id}.mp4`;
}

async function send(path, body) {
  for (const pause of [...PAUSES, null]) {
    try {
      return await once(path, body);
    } catch (error) {
      const passing = error instanceof Refusal && (error.status === 0 || error.status === 429 || error.status >= 500);
      if (!passing || pause === null) throw error;
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

async function once(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    keepalive: true, // also sent if the page is left at this moment
  };
  let answer;
  try {
    answer = await fetch(`${TOKEN}/${path}`, options);
  } catch {
    throw new Refusal(0, "The service does not answer. Check your connection.");
  }
  const text = await answer.text();
  if (answer.ok) return JSON.parse(text);
  throw new Refusal(answer.status, detail(text));
}

function detail(text) {
  try {
    return JSON.parse(text).detail ?? "The service refused the request.";
  } catch {
    return "The service cannot be reached at the moment."; // a proxy's page
  }
}
