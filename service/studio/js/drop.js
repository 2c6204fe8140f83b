/** Files dropped on the page, and the kind of job that suits a file. */

const VIDEO = /\.(mp4|m4v|mov|mkv|webm|avi|ts|m2ts|mts|3gp|ogv|gif)$/i;
const SOUND = /\.(mp3|wav|flac|ogg|oga|opus|m4a|mka|aac|aiff?)$/i;

/** "v2a" for a video, "a2v" for a sound, null if neither the type nor the name tells. */
export function kindOf(file) {
  if (file.type.startsWith("video/") || file.type === "image/gif") return "v2a";
  if (file.type.startsWith("audio/")) return "a2v";
  if (VIDEO.test(file.name)) return "v2a";
  return SOUND.test(file.name) ? "a2v" : null;
}

/** Call `onFile(file)` with a file dropped on the page; while one is dragged over it, the body has the class `dropping`. */
export function acceptDrops(onFile) {
  const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragover", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    mark(true);
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) mark(false);
  });
  addEventListener("drop", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    mark(false);
    const [file] = event.dataTransfer.files;
    if (file) onFile(file);
  });
}
