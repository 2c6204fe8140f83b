/** A rectangle on a picture, in shares of it: drawn, moved and sized by the pointer, or by the arrow keys. */

import { h } from "./dom.js";
import { drag, isDragged } from "./timeline.js";

const STEP = 0.01;
const LEAST = 0.02;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Lies over `media`, a video whose picture may be smaller than its element. `onChange(box)` by the user. */
export class Rectangle {
  #observer = new ResizeObserver(() => this.#fit());

  constructor(media, onChange) {
    this.media = media;
    this.onChange = onChange;
    this.box = null;
    this.corner = h("span", { class: "corner", "aria-hidden": "true" });
    this.frame = h(
      "div",
      {
        class: "rectangle",
        role: "group",
        tabindex: "0",
        "aria-label": "Rectangle: the arrow keys move it, with Shift they change its size",
      },
      this.corner,
    );
    this.element = h("div", { class: "picture-area" }, this.frame);
    this.element.addEventListener("pointerdown", (event) => this.#draw(event));
    this.frame.addEventListener("pointerdown", (event) => this.#move(event));
    this.corner.addEventListener("pointerdown", (event) => this.#resize(event));
    this.frame.addEventListener("keydown", (event) => this.#key(event));
    this.#observer.observe(media);
  }

  /** Show `{x, y, width, height}`, shares of the picture. */
  show(box) {
    this.box = box;
    const percent = (share) => `${100 * share}%`;
    Object.assign(this.frame.style, {
      left: percent(box.x),
      top: percent(box.y),
      width: percent(box.width),
      height: percent(box.height),
    });
  }

  close() {
    this.#observer.disconnect();
    this.element.remove();
  }

  /** Cover the picture, not the bars beside it. */
  #fit() {
    const { clientWidth, clientHeight, videoWidth, videoHeight, offsetLeft, offsetTop } = this.media;
    const scale = Math.min(clientWidth / videoWidth, clientHeight / videoHeight);
    const [width, height] = [videoWidth * scale, videoHeight * scale];
    Object.assign(this.element.style, {
      left: `${offsetLeft + (clientWidth - width) / 2}px`,
      top: `${offsetTop + (clientHeight - height) / 2}px`,
      width: `${width}px`,
      height: `${height}px`,
    });
  }

  #at(clientX, clientY) {
    const { left, top, width, height } = this.element.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height].map((share) => Math.min(1, Math.max(0, share)));
  }

  #draw(event) {
    if (event.button !== 0) return;
    const [fromX, fromY] = this.#at(event.clientX, event.clientY);
    let drawing = false;
    drag(event, (clientX, clientY) => {
      drawing ||= isDragged(event.clientX, clientX) || isDragged(event.clientY, clientY);
      const [x, y] = this.#at(clientX, clientY);
      if (drawing)
        this.#change(Math.min(x, fromX), Math.min(y, fromY), Math.abs(x - fromX), Math.abs(y - fromY));
    });
  }

  #move(event) {
    if (event.button !== 0) return;
    event.stopPropagation();
    this.frame.focus();
    const { x, y, width, height } = this.box;
    const [fromX, fromY] = this.#at(event.clientX, event.clientY);
    drag(event, (clientX, clientY) => {
      const [toX, toY] = this.#at(clientX, clientY);
      this.#change(x + toX - fromX, y + toY - fromY, width, height);
    });
  }

  #resize(event) {
    if (event.button !== 0) return;
    event.stopPropagation();
    const { x, y } = this.box;
    drag(event, (clientX, clientY) => {
      const [toX, toY] = this.#at(clientX, clientY);
      this.#change(x, y, toX - x, toY - y);
    });
  }

  #key(event) {
    const [byX, byY] = ARROWS[event.key] ?? [0, 0];
    if (!byX && !byY) return;
    event.preventDefault();
    const { x, y, width, height } = this.box;
    if (event.shiftKey) this.#change(x, y, width + byX * STEP, height + byY * STEP);
    else this.#change(x + byX * STEP, y + byY * STEP, width, height);
  }

  /** Inside the picture, and not too small to be seen. */
  #change(x, y, width, height) {
    const w = Math.min(1, Math.max(LEAST, width));
    const ht = Math.min(1, Math.max(LEAST, height));
    const within = (value, size) => hundredths(Math.min(1 - size, Math.max(0, value)));
    const [left, top] = [within(x, w), within(y, ht)];
    this.onChange({
      x: left,
      y: top,
      width: hundredths(Math.min(w, 1 - left)),
      height: hundredths(Math.min(ht, 1 - top)),
    });
  }
}

function hundredths(share) {
  return Math.round(share * 100) / 100;
}
