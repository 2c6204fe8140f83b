/** The button that switches between dark and light; the browser keeps the choice. */

const NAME = "duet.theme";

/**
 * Set up `button`. The system's setting applies until it is pressed. Each change dispatches the event `theme` on the
 * document, because canvases must be redrawn.
 */
export function themeSwitch(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.setAttribute("aria-pressed", String(dark()));
    document.dispatchEvent(new Event("theme"));
  };
  button.addEventListener("click", () => {
    const chosen = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    localStorage.setItem(NAME, chosen);
    show();
  });
  system.addEventListener("change", show);
  show();
}
