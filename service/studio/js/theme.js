/** Dark or light before the first paint: a classic script, so that nothing flashes. theme-switch.js changes it. */

try {
  const chosen = localStorage.getItem("duet.theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is unavailable: use the system's setting.
}
