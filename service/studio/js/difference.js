/** How far a clip of few steps is from that of the same seed in many, in words. The figures are those of /models. */

import { guidedByWords } from "./cost.js";

const METHODS = ["clean", "pigdm", "replacement"];

/** Distance up to which it is nearly the same clip. */
const NEAR = 0.5;

/** Words for the form's `values`, or null where nothing was measured. */
export function differenceWords(kind, values, model) {
  const other = guidedByWords(values, model) || values.order !== undefined || values.eta !== undefined || values.spacing !== "log_snr";
  if (kind === "edit" || other) return null;
  const guidance = values.guidance ?? METHODS.find((name) => kind !== "generate" && model.guidance[kind]?.includes(name));
  const job = guidance ? `${kind} ${guidance}` : kind;
  const quality = values.quality ?? (values.sampler === "tuned" ? "fast" : "best");
  const steps = values.steps ?? model.qualities[quality].steps;
  const tuned = quality !== "best" && model.tuned[job]?.includes(steps);
  const sampler = values.sampler ?? (tuned ? "tuned" : "dpmpp_2m");
  const found = model.distances?.[job]?.[`${sampler} ${steps}`];
  if (!found) return null;
  const parts = { picture: found.video, sound: found.audio };
  const known = Object.entries(parts).filter(([, value]) => value !== undefined);
  if (known.length === 0) return null;
  const near = known.every(([, value]) => value <= NEAR);
  const differs = known.map(([name, value]) => `${name} differs by ${value.toFixed(2)}`).join(", ");
  return `${near ? "Nearly the same clip as" : "A different clip from that"} with many steps: ${differs}`;
}
