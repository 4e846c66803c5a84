// Query pictures: chosen, dropped or pasted. A picture has no place in an address: those of this
// visit are kept by number.

import { $ } from "./dom.js";

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

/** `chosen(number)` is told of a new picture, null when it is removed; `refused(name)` of others. */
export class Pictures {
  constructor({ chosen, refused, isOff }) {
    this.kept = new Map();
    this.current = null; // { number, file, address } of what is asked now
    this.actions = { chosen, refused, isOff };
    $("pick").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", () => {
      this.#choose($("file").files[0]);
      $("file").value = "";
    });
    $("unpick").addEventListener("click", () => {
      chosen(null);
      $("q").focus();
    });
    document.addEventListener("paste", (event) => this.#paste(event));
    document.addEventListener("dragover", (event) => {
      if (!carriesFiles(event) || isOff()) return;
      event.preventDefault();
      $("drop").hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) $("drop").hidden = true;
    });
    document.addEventListener("drop", (event) => {
      $("drop").hidden = true;
      if (!carriesFiles(event) || isOff()) return;
      event.preventDefault();
      this.#choose(event.dataTransfer.files[0]);
    });
  }

  /** The number of what is asked now, null for none. */
  get number() {
    return this.current?.number ?? null;
  }

  /** Make a picture of this visit the one that is asked with; null for none. */
  take(number) {
    this.current = this.kept.get(number) ?? null;
    $("picked").hidden = this.current === null;
    if (this.current) $("picked-image").src = this.current.address;
    else $("picked-image").removeAttribute("src");
    $("q").placeholder = this.current ? "What to change in it, or nothing" : "A dog catching a frisbee";
  }

  #choose(file) {
    if (!file) return;
    if (!file.type.startsWith("image/")) {
      this.actions.refused(file.name || "That");
      return;
    }
    const number = Date.now() + Math.random();
    this.kept.set(number, { number, file, address: URL.createObjectURL(file) });
    this.actions.chosen(number);
  }

  #paste(event) {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (!file || this.actions.isOff()) return;
    event.preventDefault();
    this.#choose(file);
  }
}
