/** A job as the command that reproduces it. */

import { address } from "./api.js";
import { key } from "./key.js";

/** The command line. It contains a shell variable instead of the key. */
export function curl(job) {
  const lines = [`curl -s ${address(job.kind)}`];
  if (key()) lines.push('-H "Authorization: Bearer $DUET_KEY"');
  const parameters = JSON.stringify({ model: job.model, ...job.params });
  if (job.kind === "generate") {
    lines.push("-H 'Content-Type: application/json'", `-d ${quoted(parameters)}`);
  } else {
    if (job.urls.mask) lines.push("-F mask=@mask.png");
    lines.push(
      `-F params=${quoted(parameters)}`,
      `-F ${quoted(`file=@"${job.input.filename.replace(/["\\]/g, "\\$&")}"`)}`,
    );
  }
  return lines.join(" \\\n  ");
}

/** Quoted for a POSIX shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
