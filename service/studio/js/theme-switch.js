/** The button that changes between dark and light; what was chosen is kept in this browser. */

const NAME = "duet.theme";

/**
 * Make `button` switch. The system's choice holds until somebody presses it. The document gets an event `theme` at each
 * change: what is drawn by hand has to be drawn anew.
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
