// Metadata filters in the form: the chips of those in use, and the fields for one more.

import { $, h, icon } from "./dom.js";
import { readings, shownFilters, withFilter, withoutFilter } from "./state.js";

/** The filters of `current()`; `change(filters)` is called with what they become. */
export class Filters {
  constructor({ current, change }) {
    this.actions = { current, change };
    $("add-filter").addEventListener("click", () => this.#showForm($("filter-form").hidden));
    $("filter-save").addEventListener("click", () => this.save());
    $("filter-form").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.#showForm(false);
    });
  }

  /** Whether the keyboard is in the fields for one more. */
  get isEdited() {
    return Boolean(document.activeElement?.closest("#filter-form"));
  }

  /** Show the filters in use, each with a button that removes it. */
  show(filters) {
    const chips = shownFilters(filters).map(([field, text]) =>
      h(
        "li",
        { class: "chip" },
        `${field} = ${text}`,
        h(
          "button",
          {
            type: "button",
            class: "icon",
            "aria-label": `Remove the filter ${field} = ${text}`,
            on: { click: () => this.actions.change(withoutFilter(this.actions.current(), field, text)) },
          },
          icon("close"),
        ),
      ),
    );
    $("filter-list").replaceChildren(...chips);
  }

  /** Take what was typed as a filter; the focus goes to what is missing. */
  save() {
    const [field, value] = [$("filter-key").value.trim(), $("filter-value").value.trim()];
    if (!field || !value) {
      (field ? $("filter-value") : $("filter-key")).focus();
      return;
    }
    $("filter-key").value = $("filter-value").value = "";
    this.#showForm(false);
    this.actions.change(withFilter(this.actions.current(), field, readings(value)));
  }

  #showForm(shown) {
    $("filter-form").hidden = !shown;
    $("add-filter").setAttribute("aria-expanded", String(shown));
    (shown ? $("filter-key") : $("add-filter")).focus();
  }
}
